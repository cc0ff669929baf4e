"""Which images are sharp, and on which do members disagree? Pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from sbtutor import close_up
from sbtutor.close_up import CloseUps

SORTS = {
    "sharpness": "per-sample sharpness",
    "disagreement": "disagreement",
    "beyond": "disagreement among equally sharp",
}
WHERE = ("top", "middle", "bottom")
MEASURES = {
    "js": "JS divergence (nats)",
    "votes": "pairs that vote differently (share)",
}
DRAWS = 1000  # of the bootstrap


class Scores(NamedTuple):
    """What the members of one method say of each image, mean over its runs."""

    sharp: np.ndarray
    """Mean over runs and members of log10 Fisher trace, (N,)."""
    js: np.ndarray
    """Jensen-Shannon divergence of a run's members, in nats, (N,)."""
    votes: np.ndarray
    """Share of the pairs of a run's members that vote differently, (N,)."""
    counts: np.ndarray
    """Votes of all members for each class, (N, C)."""


def scores(close_ups: CloseUps, numbers: Sequence[int]) -> Scores:
    """Means over some runs; members of different runs are not compared.

    Raises ValueError for no runs, or numbers without close-ups.
    """
    if len(numbers) == 0:
        raise ValueError(
            "scores are means over runs, and there are none; give numbers from the "
            "table's column `number`"
        )
    runs = [close_up.of_run(close_ups, number) for number in numbers]
    of_each = (close_up.log_sharpness, close_up.js_divergence)
    parts = [
        torch.stack([measure(run) for run in runs]).mean(0).numpy()
        for measure in (*of_each, close_up.vote_disagreement)
    ]
    votes = torch.cat([close_up.votes(run) for run in runs])
    classes = runs[0].probs.shape[-1]
    counts = torch.nn.functional.one_hot(votes, classes).sum(0).numpy()
    return Scores(*parts, counts)


def rank_correlation(
    a: np.ndarray, b: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """Spearman's correlation and its 95 % interval over images drawn with replacement.

    A drawn image keeps the rank that it has among all. NaN where all values of a side
    are the same, or there are fewer than three images.
    """
    if len(a) < 3:
        return (np.nan,) * 3
    drawn = np.random.default_rng(seed).integers(0, len(a), (draws, len(a)))
    index = np.vstack([np.arange(len(a)), drawn])
    x, y = (stats.rankdata(values)[index] for values in (a, b))
    x, y = (ranks - ranks.mean(1, keepdims=True) for ranks in (x, y))
    with np.errstate(invalid="ignore"):
        found = (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
    if np.isnan(found[0]):
        return (np.nan,) * 3
    low, high = np.nanquantile(found[1:], [0.025, 0.975])
    return float(found[0]), float(low), float(high)


def order(given: Scores, by: str, measure: str, kept: np.ndarray) -> np.ndarray:
    """The kept images, from the highest value on; equals stay in their order.

    Args:
        given: scores of all images.
        by: "sharpness", "disagreement", or "beyond": disagreement less the mean of
            the tenth of all images that are as sharp.
        measure: of disagreement, "js" or "votes".
        kept: places of the images that are asked for.

    Raises:
        ValueError: unknown `by` or `measure`.
    """
    if by not in SORTS or measure not in MEASURES:
        raise ValueError(
            f"unknown by {by!r} or measure {measure!r}: by is one of "
            f"{', '.join(SORTS)}, measure one of {', '.join(MEASURES)}"
        )
    disputed = getattr(given, measure)
    if by == "sharpness":
        value = given.sharp
    elif by == "disagreement":
        value = disputed
    else:
        sharp, disputed = torch.from_numpy(given.sharp), torch.from_numpy(disputed)
        value = close_up.beyond_equally_sharp(sharp, disputed).numpy()
    return kept[np.argsort(-value[kept], kind="stable")]


def window(ranked: np.ndarray, where: str, count: int) -> np.ndarray:
    """`count` of the ranked images: the first, the middle or the last ones.

    Raises ValueError for an unknown `where`.
    """
    if where not in WHERE:
        raise ValueError(f"unknown where {where!r}: choose one of {', '.join(WHERE)}")
    if where == "top":
        return ranked[:count]
    if where == "bottom":
        return ranked[::-1][:count][::-1]
    first = max(0, (len(ranked) - count) // 2)
    return ranked[first : first + count]
