"""Close-ups of runs: what each member says about the same images, and how sharp it is.

A committed table holds one row a run; the file beside it holds, for each of these runs,
probabilities and Fisher traces of some test images, so that an explorer can show a
run's members without training or loading any network.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from sbtutor import diversity, files, metrics

TENTHS = 10  # groups of equally sharp images
NAMES = {"probs", "log10_fisher", "labels", "places"}
AGAIN = "run `python notebooks/results/recompute.py explorer`, or fetch it again"


class CloseUps(NamedTuple):
    """The close-ups of all runs of a table."""

    probs: UInt8[np.ndarray, "R M N C"]
    """Class probabilities in steps of 1/255."""
    log10_fisher: Float[np.ndarray, "R M N"]
    """Decimal logarithm of each image's `sharpness.fisher_trace`."""
    labels: Int[Tensor, " N"]
    """Class index of each image."""
    places: Int[Tensor, " N"]
    """Where each image stands in the test split."""


class CloseUp(NamedTuple):
    """One run's members on N images."""

    probs: Float[Tensor, "M N C"]
    """Class probabilities; each row sums to 1."""
    log10_fisher: Float[Tensor, "M N"]
    labels: Int[Tensor, " N"]
    places: Int[Tensor, " N"]


def load(path: Path | str) -> CloseUps:
    """The close-ups that `recompute.py explorer` wrote.

    Raises:
        ValueError: no such file, one that is cut short, or one with other arrays.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"no close-ups at {path}; start from the folder notebooks/, or {AGAIN}"
        )
    arrays = files.load_arrays(path)
    if set(arrays) != NAMES:
        raise ValueError(
            f"{path} holds {sorted(arrays)}, close-ups are {sorted(NAMES)}; {AGAIN}"
        )
    probs, fisher = arrays["probs"], arrays["log10_fisher"]
    images = {probs.shape[2:3], *(arrays[n].shape for n in ("labels", "places"))}
    if probs.ndim != 4 or fisher.shape != probs.shape[:3] or len(images) > 1:
        shapes = {name: array.shape for name, array in sorted(arrays.items())}
        raise ValueError(f"the arrays of {path} do not fit together: {shapes}; {AGAIN}")
    labels, places = (torch.from_numpy(arrays[n]).long() for n in ("labels", "places"))
    return CloseUps(probs, fisher, labels, places)


def of_run(runs: CloseUps, number: int, members: int | None = None) -> CloseUp:
    """One run's first members (all, if `members` is None).

    Raises:
        ValueError: there is no run of that number, or not as many members.
    """
    count, most = runs.probs.shape[:2]
    if not 0 <= number < count:
        raise ValueError(
            f"there are close-ups of runs 0 to {count - 1}, got number {number}; take "
            "it from the column `number` of the table beside them"
        )
    members = most if members is None else members
    if not 1 <= members <= most:
        raise ValueError(
            f"members must be 1 to {most}, as many as were kept, got {members}"
        )
    probs = torch.from_numpy(runs.probs[number, :members]).float()
    fisher = torch.from_numpy(runs.log10_fisher[number, :members]).float()
    probs = probs / probs.sum(-1, keepdim=True)  # rounding leaves sums near 255
    return CloseUp(probs, fisher, runs.labels, runs.places)


def logits(close_up: CloseUp) -> Float[Tensor, "M N C"]:
    """Logarithms of the probabilities, for the functions of `diversity`.

    A probability below 1/510 was rounded to 0; it counts as 1e-30 here. So votes,
    disagreement, variance of probabilities and JS are those of the rounded
    probabilities, where 0 log 0 = 0. KL, variance of logits and NLL would be made of
    this 1e-30: take them from the table, which was computed from unrounded logits.
    Of two classes that were rounded to the same step, the first gets the vote.
    """
    return close_up.probs.clamp_min(1e-30).log()


def votes(close_up: CloseUp) -> Int[Tensor, "M N"]:
    """Each member's most probable class."""
    return close_up.probs.argmax(-1)


def disagreement_matrix(close_up: CloseUp) -> Float[Tensor, "M M"]:
    """Share of images on which two members vote differently."""
    return diversity.pairwise_disagreement(logits(close_up))


def vote_disagreement(close_up: CloseUp) -> Float[Tensor, " N"]:
    """Share of the pairs of members that vote differently, image by image.

    Its mean over the images is `diversity.disagreement`. NaN with one member.
    """
    given = votes(close_up)
    members = len(given)
    differ = (given[:, None] != given).sum((0, 1))
    return differ / (members * (members - 1))


def js_divergence(close_up: CloseUp) -> Float[Tensor, " N"]:
    """Jensen-Shannon divergence of the members, in nats, image by image."""
    return diversity.js_by_sample(logits(close_up))


def log_sharpness(close_up: CloseUp) -> Float[Tensor, " N"]:
    """Mean over the members of log10 of each image's Fisher trace."""
    return close_up.log10_fisher.mean(0)


def beyond_equally_sharp(
    sharp: Float[Tensor, " N"], disputed: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Disagreement on each image, less the mean of the tenth of images as sharp.

    Args:
        sharp: a measure of sharpness, one number an image.
        disputed: a measure of disagreement.
    """
    beyond = disputed.clone()
    for tenth in sharp.argsort(stable=True).tensor_split(TENTHS):
        beyond[tenth] -= disputed[tenth].mean()
    return beyond


def most_disputed(close_up: CloseUp, count: int) -> Int[Tensor, " count"]:
    """The images on which most pairs of members differ; of equals, those of higher JS.

    Fewer than `count` if the members agree on the others.
    """
    differ, js = vote_disagreement(close_up), js_divergence(close_up)
    order = js.argsort(descending=True, stable=True)
    order = order[differ[order].argsort(descending=True, stable=True)]
    return order[differ[order] > 0][:count]


def each(close_up: CloseUp) -> dict[str, Float[Tensor, "N C"]]:
    """Probabilities by name: `member 0`, `member 1`, ..., and `ensemble`."""
    members = {f"member {m}": probs for m, probs in enumerate(close_up.probs)}
    return members | {"ensemble": close_up.probs.mean(0)}


def calibration(close_up: CloseUp, bins: int = 10) -> dict[str, metrics.Reliability]:
    """`metrics.reliability` of each member and of the ensemble."""
    return {
        name: metrics.reliability(probs, close_up.labels, bins)
        for name, probs in each(close_up).items()
    }


def table(close_up: CloseUp) -> pd.DataFrame:
    """One row a member, then the ensemble, on the images of the close-up.

    Columns: `accuracy`, `brier`, `ece` (15 bins), and `log10_fisher_trace`, the mean
    over the images (NaN for the ensemble). NLL is missing on purpose: see `logits`.
    """
    measures = ("accuracy", "brier", "ece")
    rows = {
        name: {m: float(getattr(metrics, m)(probs, close_up.labels)) for m in measures}
        for name, probs in each(close_up).items()
    }
    frame = pd.DataFrame(rows).T
    sharp = close_up.log10_fisher.mean(1).tolist()
    frame["log10_fisher_trace"] = [*sharp, np.nan]
    return frame
