"""The loss landscape: likeness of weights and of functions, and their limits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sbtutor import data, stack
from sbtutor.stack import Points


@dataclass(frozen=True)
class Survey:
    """What S networks make of one split of images, and of R references' votes."""

    loss: Float[Tensor, " S"]  # mean cross-entropy, in nats
    accuracy: Float[Tensor, " S"]
    similarity: Float[Tensor, "S R"]  # share of images with the reference's vote


def survey(
    model: torch.nn.Module,
    points: Points,
    split: data.Split,
    references: Float[Tensor, "R N C"] | None = None,
    refresh: data.Split | None = None,
) -> Survey:
    """Loss, accuracy and votes of the networks at S points, a few at a time.

    A far point may overflow. An image whose logits give no finite loss has loss inf
    (and so has their mean); logits with NaN are a vote for no class: an error, unlike
    every reference's vote.

    Args:
        model: the architecture; left as it is.
        points: the networks' weights, from `stack.points_of` or `planes.Plane.points`.
        split: N images with labels.
        references: logits of R networks for the same images; None is R = 0.
        refresh: training images for BatchNorm's statistics, see `stack.logits_at`.

    Returns:
        Values on the CPU, in the precision of the points.

    Raises:
        ValueError: references for other images; as `stack.logits_at`.
    """
    samples, labels = len(split.labels), split.labels.cpu()
    if references is None:
        references = torch.empty(0, samples, 1)
    if references.dim() != 3 or references.shape[1] != samples:
        raise ValueError(
            f"references must be (R, {samples}, C), logits for the {samples} images of "
            f"the split, got {tuple(references.shape)}; one reference is logits[None]"
        )
    known = _votes(references.cpu())
    loss, accuracy, similarity = [], [], []
    for part in points.split(16):
        logits = stack.logits_at(model, part, split, refresh)
        votes = _votes(logits)
        target = labels.expand(len(part), -1)
        each = F.cross_entropy(logits.mT, target, reduction="none")
        loss.append(each.nan_to_num(nan=math.inf, posinf=math.inf).mean(1))
        accuracy.append((votes == labels).to(logits.dtype).mean(1))
        same = (votes[:, None] == known) & (known >= 0)
        similarity.append(same.to(logits.dtype).mean(-1))
    return Survey(torch.cat(loss), torch.cat(accuracy), torch.cat(similarity))


def _votes(logits: Tensor) -> Tensor:
    """The class of the largest logit; -1 where one is NaN."""
    return logits.argmax(-1).masked_fill(logits.isnan().any(-1), -1)


def weight_cosine(points: Points) -> Float[Tensor, "S S"]:
    """Cosine of the angle between each two points, seen from 0.

        cos[i, j] = <w_i, w_j> / (|w_i| |w_j|)

    Fort et al. 2019. Of independently trained networks it is near 0.

    Raises:
        ValueError: fewer than two points; a point of length 0, or with NaN or infinity.
    """
    if len(points) < 2:
        raise ValueError(
            f"an angle needs at least two points, got {len(points)}; stack the weights "
            "of several networks with stack.points_of"
        )
    largest = points.abs().amax(1, keepdim=True)  # first: squares over- and underflow
    for bad, what in ((~largest.isfinite(), "not finite"), (largest == 0, "all zeros")):
        if bad.any():
            raise ValueError(
                f"point {int(bad.nonzero()[0, 0])} is {what} and has no direction; "
                "leave it out"
            )
    unit = F.normalize(points / largest, dim=1)
    return (unit @ unit.T).clamp(-1, 1)


def normalized_disagreement(
    reference: Float[Tensor, "N C"],
    logits: Float[Tensor, "S N C"],
    labels: Int[Tensor, " N"],
) -> Float[Tensor, " S"]:
    """Disagreement of each network with one reference, per unit of its own error.

        P(vote_s != vote_reference) / P(vote_s != label)

    The height in Fort et al.'s diversity-accuracy plane, between `limit_curves`. Of
    a whole ensemble see `diversity.normalized_disagreement`.

    Args:
        reference: the reference's logits for N samples.
        logits: those of S networks.
        labels: class index of each sample, in [0, C).

    Returns:
        One number >= 0 a network, no unit; NaN where the network does not err.

    Raises:
        ValueError: shapes that do not fit, no samples, logits that are not finite, a
            label outside [0, C).
    """
    fits = logits.shape[1:] == reference.shape and labels.shape == reference.shape[:1]
    if reference.dim() != 2 or not fits:
        raise ValueError(
            f"a reference (N, C) = {tuple(reference.shape)} needs logits (S, N, C) and "
            f"labels (N,), got {tuple(logits.shape)} and {tuple(labels.shape)}; give "
            "those of the same samples"
        )
    if reference.numel() == 0:
        raise ValueError(f"logits are empty, got shape {tuple(logits.shape)}")
    if not (reference.isfinite().all() and logits.isfinite().all()):
        raise ValueError(
            "logits must be finite, got NaN or infinity: a network has diverged; leave "
            "it out"
        )
    samples, classes = reference.shape
    if not ((labels >= 0) & (labels < classes)).all():
        raise ValueError(
            f"labels must lie in [0, {classes}), the {classes} classes of logits, got "
            f"{int(labels.min())} to {int(labels.max())}; drop other samples"
        )
    votes = logits.argmax(-1)
    exact = torch.promote_types(logits.dtype, torch.float32)
    differ, error = (
        ((votes != other).sum(1).to(exact) / samples).to(logits.dtype)
        for other in (reference.argmax(-1), labels)
    )
    return (differ / error).masked_fill(error == 0, math.nan)


def limit_curves(
    reference_accuracy: float,
    classes: int,
    accuracies: Float[Tensor, " A"] | Sequence[float],
) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
    """Fort et al.'s limits of the diversity-accuracy plane, over the error 1 - a.

        upper  d = a* (1 - a) + a (1 - a*) + (1 - a)(1 - a*) (C - 2) / (C - 1)
        lower  d = (a* - a) / (a* - (1 - a*) / (C - 1))

    Upper: the errors of network and reference are independent, each wrong class as
    likely as the other. Lower: the network is the reference, but with probability d
    each vote goes to one of the other classes at random. As a share, d is kept in
    [0, 1]: a network better than the reference has the lower limit 0. Both are cases
    to compare with, not bounds: a network that spoils right votes only, and keeps the
    wrong ones, differs on d = a* - a of the samples, which is less than the lower.

    Args:
        reference_accuracy: a*, of the reference, above chance.
        classes: C.
        accuracies: a, of the networks; in [0, 1].

    Returns:
        (upper, lower), both d / (1 - a); NaN at a = 1, where there is no error.

    Raises:
        ValueError: fewer than two classes, an accuracy that is NaN or outside [0, 1],
            a reference no better than chance, 1 / C.
    """
    a = torch.as_tensor(accuracies)
    a = a if a.is_floating_point() else a.to(torch.get_default_dtype())
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    if not 1 / classes < reference_accuracy <= 1:
        raise ValueError(
            f"the reference must be better than chance, its accuracy in (1/{classes}, "
            f"1], got {reference_accuracy}; give a trained network's, as a share"
        )
    if a.isnan().any():
        raise ValueError(
            "accuracies must be numbers, got NaN, the share of no samples; leave it out"
        )
    if not ((a >= 0) & (a <= 1)).all():
        raise ValueError(
            f"accuracies must lie in [0, 1], got {a.min():.4g} to {a.max():.4g}; "
            "divide percentages by 100"
        )
    best, rest = reference_accuracy, 1 - reference_accuracy
    alike = (classes - 2) / (classes - 1)  # two wrong votes differ
    upper = best * (1 - a) + a * rest + (1 - a) * rest * alike
    lower = ((best - a) / (best - rest / (classes - 1))).clamp(0, 1)
    error = (1 - a).masked_fill(a == 1, math.nan)
    return upper / error, lower / error


def prediction_map(
    logits: Float[Tensor, "S N C"], seed: int = 0, perplexity: float = 30.0
) -> Float[Tensor, "S 2"]:
    """S networks as points of a plane, near each other where their predictions are.

    scikit-learn's t-SNE (van der Maaten and Hinton 2008) of the class probabilities,
    N * C numbers a network, started from their principal components; Fort et al. 2019.
    Distances between clusters, and the axes, mean nothing.

    Args:
        logits: finite class scores of S networks for N samples.
        seed: the same seed gives the same map.
        perplexity: about how many neighbours a network has; below S.

    Raises:
        ValueError: perplexity not in (0, S); logits not finite, or predictions that
            are all the same.
    """
    from sklearn.manifold import TSNE  # a second to import, and only for this map

    if not 0 < perplexity < len(logits):
        raise ValueError(
            f"perplexity must lie between 0 and the number of networks, "
            f"{len(logits)}, got {perplexity}; it counts neighbours: a third of them "
            "or fewer is usual"
        )
    exact = torch.promote_types(logits.dtype, torch.float32)  # NumPy has no bfloat16
    rows = logits.detach().to(exact).softmax(-1).flatten(1).cpu()
    spread = (rows - rows[0]).abs().max()
    if not spread > 0:  # false for NaN too
        raise ValueError(
            "a map needs finite logits of networks that differ in their predictions, "
            f"got a largest difference of {float(spread)}; leave out diverged networks"
        )
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return torch.from_numpy(tsne.fit_transform(rows.numpy())).to(logits)
