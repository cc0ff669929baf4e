"""How good predictions are: accuracy, NLL, Brier, calibration, OOD detection."""

from collections.abc import Callable
from itertools import combinations
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


def ensemble_probs(
    logits: Float[Tensor, "M N C"], average: Literal["probs", "logits"] = "probs"
) -> Float[Tensor, "N C"]:
    """The ensemble's class probabilities.

        probs    1/M sum_m softmax(logits_m)
        logits   softmax(1/M sum_m logits_m)

    All four papers of the course average probabilities. The mean of logits gives the
    members' geometric mean, rescaled to sum to 1: one member can veto a class.

    Args:
        logits: one row of C class scores per member (M) and sample (N).
        average: what is averaged over the members.

    Raises:
        ValueError: logits not (M, N, C), or empty; unknown average.
    """
    if logits.dim() != 3:
        hint = "; for one member write logits[None]" if logits.dim() == 2 else ""
        raise ValueError(f"logits must be (M, N, C), got {tuple(logits.shape)}{hint}")
    if logits.numel() == 0:
        raise ValueError(f"logits are empty, got shape {tuple(logits.shape)}")
    if average == "probs":
        return logits.softmax(-1).mean(0)
    if average == "logits":
        return logits.mean(0).softmax(-1)
    raise ValueError(f"unknown average {average!r}: choose one of probs, logits")


def by_size(
    members: Float[Tensor, "M ..."], measure: Callable[[Tensor], Tensor]
) -> Float[Tensor, " M"]:
    """Mean of a measure over all subsets of 1, of 2, ... and of all M members.

    Args:
        members: logits or probabilities, one row a member.
        measure: from the rows of a subset, (size, ...), to a scalar.
    """
    return torch.stack(
        [
            torch.stack(
                [measure(torch.stack(s)) for s in combinations(members, size)]
            ).mean()
            for size in range(1, len(members) + 1)
        ]
    )


def accuracy(
    probs: Float[Tensor, "N C"], labels: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Share of samples whose most probable class is the true one, in [0, 1].

    Equal probabilities count as the lowest class index.

    Args:
        probs: one row of C class probabilities per sample; each row sums to 1.
        labels: class index of each sample, in [0, C).

    Raises:
        ValueError: wrong shapes, no samples, rows that are no distribution, a label
            outside [0, C). So do `nll`, `brier`, `reliability` and `ece`.
    """
    _check(probs, labels)
    return (probs.argmax(-1) == labels).to(probs.dtype).mean()


def nll(probs: Float[Tensor, "N C"], labels: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """Negative log-likelihood of the true class, mean over samples, in nats.

        NLL = -1/N sum_n log probs[n, labels[n]]

    A probability below the least normal number of its type counts as that number, so
    that one underflow does not make the mean infinite: a sample costs at most 87.3
    nats in float32 and 708.4 in float64. Arguments as in `accuracy`.
    """
    _check(probs, labels)
    true = probs.gather(1, labels.long()[:, None])
    return -true.clamp(min=torch.finfo(probs.dtype).tiny).log().mean()


def brier(probs: Float[Tensor, "N C"], labels: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """Squared distance to the one-hot label, mean over samples, in [0, 2].

        Brier = 1/N sum_n ||probs[n] - onehot(labels[n])||^2

    The sum over classes, as in Fort et al.; some libraries divide it by 2 or by C.
    Arguments as in `accuracy`.
    """
    _check(probs, labels)
    onehot = torch.zeros_like(probs).scatter_(1, labels.long()[:, None], 1)
    return (probs - onehot).square().sum(-1).mean()


class Reliability(NamedTuple):
    """Samples grouped by confidence into bins of equal width; plots draw it."""

    confidence: Float[Tensor, " bins"]
    """Mean largest probability of each bin; NaN where the bin is empty."""
    accuracy: Float[Tensor, " bins"]
    """Share of correct predictions in each bin; NaN where the bin is empty."""
    count: Int[Tensor, " bins"]
    """Number of samples in each bin."""


def reliability(
    probs: Float[Tensor, "N C"], labels: Int[Tensor, " N"], bins: int = 15
) -> Reliability:
    """Accuracy against confidence: on the diagonal, predictions are calibrated.

    Bin b (from 0) holds the samples whose largest probability lies in
    (b / bins, (b + 1) / bins]: bins are closed on the right (Guo et al. 2017).

    Args:
        probs: one row of C class probabilities per sample; each row sums to 1.
        labels: class index of each sample, in [0, C).
        bins: number of bins of equal width on [0, 1].

    Raises:
        ValueError: bins < 1, or what `accuracy` refuses.
    """
    _check(probs, labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}; 15 is usual")
    confidence, votes = probs.max(-1)
    edges = torch.arange(1, bins, device=probs.device, dtype=probs.dtype) / bins
    inside = torch.bucketize(confidence, edges)[:, None] == torch.arange(
        bins, device=probs.device
    )
    count = inside.sum(0)
    correct = (inside & (votes == labels)[:, None]).sum(0)
    total = (inside * confidence[:, None]).sum(0)
    return Reliability(total / count, correct.to(probs.dtype) / count, count)


def ece(
    probs: Float[Tensor, "N C"], labels: Int[Tensor, " N"], bins: int = 15
) -> Float[Tensor, ""]:
    """Expected calibration error of the most probable class, in [0, 1].

        ECE = sum_b |B_b| / N  |accuracy(B_b) - confidence(B_b)|

    over the bins B_b of `reliability`, whose arguments and errors it shares. Few
    samples a bin bias it upwards: compare at equal N only.
    """
    groups = reliability(probs, labels, bins)
    gap = (groups.accuracy - groups.confidence).abs()
    return (gap.nan_to_num(0) * groups.count).sum() / len(labels)  # NaN: empty bin


def auroc(
    in_scores: Float[Tensor, " I"], out_scores: Float[Tensor, " O"]
) -> Float[Tensor, ""]:
    """How well scores tell in-distribution samples from others.

        AUROC = P(in > out) + 1/2 P(in = out)

    over all pairs, exactly, in O(n log n). 0.5 is chance, 1 is perfect.

    Args:
        in_scores: scores of in-distribution samples; *higher* means more
            in-distribution, such as the largest class probability.
        out_scores: scores of out-of-distribution samples, on the same scale.

    Raises:
        ValueError: scores not one-dimensional, none, or NaN.
    """
    _check_scores(in_scores, out_scores)
    ranked = out_scores.sort().values
    below = torch.searchsorted(ranked, in_scores.contiguous())
    not_above = torch.searchsorted(ranked, in_scores.contiguous(), right=True)
    wins = (below + not_above).sum()  # pairs won count 2, ties 1: an exact integer
    wide = torch.promote_types(in_scores.dtype, torch.float32)  # float16 ends at 65504
    rate = wins.to(wide) / (2 * len(in_scores) * len(out_scores))
    return rate.to(in_scores.dtype)


def fpr95(
    in_scores: Float[Tensor, " I"], out_scores: Float[Tensor, " O"]
) -> Float[Tensor, ""]:
    """Share of out-of-distribution samples accepted when 95 % of the others are.

    A sample is accepted when its score is at least the threshold; the threshold is
    the highest that accepts 95 % or more of `in_scores`. 0 is perfect, 0.95 chance.
    Arguments and errors as in `auroc`.
    """
    _check_scores(in_scores, out_scores)
    accepted = -(-95 * len(in_scores) // 100)  # rounded up, in integers: exact
    threshold = in_scores.sort(descending=True).values[accepted - 1]
    return (out_scores >= threshold).to(in_scores.dtype).mean()


def _check(probs: Tensor, labels: Tensor) -> None:
    if probs.dim() != 2:
        hint = "; an ensemble's are ensemble_probs(logits), one member's probs[m]"
        raise ValueError(
            f"probs must be (N, C), got {tuple(probs.shape)}"
            + (hint if probs.dim() == 3 else "")
        )
    if probs.numel() == 0:
        raise ValueError(f"probs are empty, got shape {tuple(probs.shape)}")
    _check_labels(labels, *probs.shape)
    # A row's sum carries the rounding of its type: coarse in bfloat16.
    tolerance = max(1e-3, 4 * torch.finfo(probs.dtype).eps)
    sums, least = probs.sum(-1), probs.min(-1).values
    bad = ~(((sums - 1).abs() <= tolerance) & (least >= 0))  # NaN is bad too
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"row {row} of probs is no distribution: it sums to {sums[row]:.4g} and "
            f"its least entry is {least[row]:.4g}; from logits write logits.softmax(-1)"
        )


def _check_labels(labels: Tensor, samples: int, classes: int) -> None:
    if labels.shape != (samples,):
        raise ValueError(
            f"labels must be ({samples},), one for each row of probs, got "
            f"{tuple(labels.shape)}; from one-hot rows write labels.argmax(-1)"
        )
    if labels.is_floating_point():
        raise ValueError(
            f"labels must be class indices, got {labels.dtype}; write labels.long()"
        )
    bad = labels[(labels < 0) | (labels >= classes)]
    if len(bad):
        raise ValueError(
            f"label {int(bad[0])} is outside [0, {classes}), the {classes} classes of "
            "probs; drop such samples or renumber the classes from 0"
        )


def _check_scores(in_scores: Tensor, out_scores: Tensor) -> None:
    for name, scores in (("in_scores", in_scores), ("out_scores", out_scores)):
        if scores.dim() != 1:
            raise ValueError(
                f"{name} must be one score a sample, (N,), got {tuple(scores.shape)}; "
                "from probs (N, C) write probs.max(-1).values"
            )
        if len(scores) == 0:
            raise ValueError(f"{name} is empty: a rate needs at least one sample")
        if scores.isnan().any():
            raise ValueError(f"{name} holds NaN, which has no rank; drop such samples")
