"""How different an ensemble's members are: in votes, in logits, in probabilities."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor


def pairwise_disagreement(logits: Float[Tensor, "M N C"]) -> Float[Tensor, "M M"]:
    """Share of samples on which members i and j vote for different classes.

        d[i, j] = 1/N sum_n [vote_i(n) != vote_j(n)],   vote_m(n) = argmax_c logits

    Args:
        logits: one row of C class scores per member (M) and sample (N); equal scores
            count as the lowest class index.

    Returns:
        A symmetric matrix in [0, 1] with zero diagonal.

    Raises:
        ValueError: logits not (M, N, C), empty, or not finite. So do all functions
            of this module.
    """
    _check(logits)
    votes = logits.argmax(-1, keepdim=True)
    # One-hot votes: their product counts agreements, exactly in float32 to N = 2^24.
    exact = torch.promote_types(logits.dtype, torch.float32)
    onehot = torch.zeros_like(logits, dtype=exact).scatter_(-1, votes, 1).flatten(1)
    samples = logits.shape[1]
    return ((samples - onehot @ onehot.T) / samples).to(logits.dtype)


def disagreement(logits: Float[Tensor, "M N C"]) -> Float[Tensor, ""]:
    """Mean of `pairwise_disagreement` over the distinct pairs i < j, in [0, 1].

    Returns:
        A scalar; NaN when M = 1, which has no pair.
    """
    pairs = pairwise_disagreement(logits)
    members = len(pairs)
    return pairs.sum() / (members * (members - 1))  # the zero diagonal adds nothing


def disagreement_error_ratio(
    logits: Float[Tensor, "M N C"], labels: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Disagreement between members per unit of member error (DER).

        DER = E_{i != j} P(vote_i != vote_j) / E_i P(vote_i != label)

    Theisen et al. 2023. We average over distinct pairs, so DER does not shrink with M.
    Their bounds on EIR draw i and j independently, i = j included: they are about
    (M - 1) / M times our DER.

    Args:
        logits: one row of C class scores per member (M) and sample (N).
        labels: class index of each sample, in [0, C).

    Returns:
        A scalar >= 0, no unit; NaN when no member errs (0 / 0) or M = 1.

    Raises:
        ValueError: as `pairwise_disagreement`; labels not (N,) or outside [0, C).
    """
    pairs = disagreement(logits)
    _check_labels(labels, *logits.shape[1:])
    return pairs / _error(logits.argmax(-1), labels, logits.dtype)


def normalized_disagreement(
    logits: Float[Tensor, "M N C"], labels: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Disagreement over error, Fort et al. 2019: for an ensemble, the same as DER.

    Fort et al. compare *one* model j with a reference i, and divide by j's own error:
    `pairwise_disagreement(logits)[i, j] / error_j`. For a whole ensemble we divide
    the mean over pairs by the mean error, not each pair by its own, so that one very
    accurate member does not blow up the mean; this is `disagreement_error_ratio`,
    under the name that the papers on loss landscapes use. Others divide by the
    *ensemble's* error, usually smaller, which gives larger numbers.

    Arguments, NaN and errors as in `disagreement_error_ratio`.
    """
    return disagreement_error_ratio(logits, labels)


def ensemble_improvement_rate(
    logits: Float[Tensor, "M N C"],
    labels: Int[Tensor, " N"],
    by: Literal["probs", "vote"] = "probs",
) -> Float[Tensor, ""]:
    """Share of the members' mean error that the ensemble removes (EIR).

        EIR = (E_i error_i - error_ensemble) / E_i error_i

    Theisen et al. 2023, whose ensemble is a majority vote. By vote, EIR <= DER for
    *any* members: where a share q of them votes as the ensemble does, at most 1 - q
    of the error can be removed, and at least 1 - q of the pairs disagree. By mean
    probabilities a confident minority may win, and EIR may exceed DER.

    Args:
        logits: one row of C class scores per member (M) and sample (N).
        labels: class index of each sample, in [0, C).
        by: "probs" predicts the class of largest mean probability; "vote" the class
            with most votes, and of equally many that of larger mean probability.

    Returns:
        A scalar <= 1, no unit; negative where the ensemble is worse than its mean
        member; 0 when M = 1; NaN when no member errs (0 / 0).

    Raises:
        ValueError: as `disagreement_error_ratio`; unknown `by`.
    """
    _check(logits)
    _check_labels(labels, *logits.shape[1:])
    if by not in ("probs", "vote"):
        raise ValueError(f"unknown by {by!r}: choose one of probs, vote")
    votes = logits.argmax(-1)
    probs = logits.softmax(-1).mean(0)
    if by == "vote":
        counts = torch.zeros_like(logits).scatter_(-1, votes[..., None], 1).sum(0)
        most = counts.max(-1, keepdim=True).values
        probs = probs.masked_fill(counts < most, -1)
    error = _error(votes, labels, logits.dtype)
    return (error - _error(probs.argmax(-1), labels, logits.dtype)) / error


def logit_variance(logits: Float[Tensor, "M N C"]) -> Float[Tensor, ""]:
    """Variance of the raw logits over members, unbiased.

        Var = M / (M - 1)  1/N sum_n (1/M sum_m ||f_m||^2 - ||1/M sum_m f_m||^2)

    with f_m the C logits of member m for sample n: a sum over classes, a mean over
    samples. Lu et al. 2024, by their official code. It grows with the square of the
    logits' scale, so it compares models of like confidence only.

    Returns:
        A scalar >= 0, in logits squared; NaN when M = 1.
    """
    _check(logits)
    return _covariance(logits, logits)


def prob_variance(logits: Float[Tensor, "M N C"]) -> Float[Tensor, ""]:
    """Variance of the softmax probabilities over members, unbiased.

    The formula of `logit_variance` with f_m = softmax(logits_m). Without the factor
    M / (M - 1) it is the ambiguity of the Brier score: the mean Brier score of the
    members less that of their mean probabilities.

    Returns:
        A scalar in [0, 1], no unit; NaN when M = 1.
    """
    _check(logits)
    probs = logits.softmax(-1)
    return _covariance(probs, probs)


def kl_divergence(logits: Float[Tensor, "M N C"]) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence between members, in nats.

        KL = 1 / (M (M - 1)) sum_{i != j} 1/N sum_n KL(p_i || p_j)

    over ordered pairs, so both directions count (Lu et al. 2024 name the measure;
    their code leaves it undefined). The logarithms' normalisers cancel in the sum,
    and what is left is the covariance over members of probabilities and logits: no
    loop over pairs, no logarithm of an underflowed probability.

    Returns:
        A scalar >= 0, unbounded; NaN when M = 1.
    """
    _check(logits)
    return _covariance(logits.softmax(-1), logits)


def js_divergence(logits: Float[Tensor, "M N C"]) -> Float[Tensor, ""]:
    """Jensen-Shannon divergence of all members, in nats, mean over samples.

        JS = H(1/M sum_m p_m) - 1/M sum_m H(p_m) = 1/M sum_m KL(p_m || mean p)

    Fort et al. 2019, who add 1e-5 inside each logarithm against log 0; we need no
    such constant, as logarithms are taken before probabilities underflow. For a
    Bayesian it is the mutual information of member and class.

    Returns:
        A scalar in [0, log M], up to rounding; 0 when M = 1.
    """
    return js_by_sample(logits).mean()


def js_by_sample(logits: Float[Tensor, "M N C"]) -> Float[Tensor, " N"]:
    """`js_divergence` of each sample, whose mean it is."""
    _check(logits)
    log_probs = logits.log_softmax(-1)
    mixture = log_probs.logsumexp(0) - math.log(len(logits))
    return (log_probs.exp() * (log_probs - mixture)).sum((0, 2)) / len(logits)


def _covariance(a: Tensor, b: Tensor) -> Tensor:
    """Unbiased over members, mean over samples, summed over classes; 0 / 0 if M = 1."""
    products = (a - a.mean(0)) * (b - b.mean(0))
    return products.sum((0, 2)).mean() / (len(a) - 1)


def _error(votes: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean 0-1 loss of votes (N,), or of all members' votes (M, N)."""
    return (votes != labels).to(dtype).mean()


def _check(logits: Tensor) -> None:
    if logits.dim() != 3:
        hint = "; one member's are logits[None]" if logits.dim() == 2 else ""
        raise ValueError(f"logits must be (M, N, C), got {tuple(logits.shape)}{hint}")
    if logits.numel() == 0:
        raise ValueError(f"logits are empty, got shape {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError(
            "logits must be finite, got NaN or infinity: a member has diverged; "
            "lower lr or rho, or leave the member out"
        )


def _check_labels(labels: Tensor, samples: int, classes: int) -> None:
    if labels.shape != (samples,):
        raise ValueError(
            f"labels must be ({samples},), one for each sample of logits, got "
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
            "logits; drop such samples or renumber the classes from 0"
        )
