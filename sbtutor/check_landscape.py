"""Checks of lesson 02's exercises on votes and samples; curves have their own file."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sbtutor import diversity
from sbtutor.feedback import as_tensor, exercise, of_generator


@exercise("02")
def disagreement_matrix(answer: Callable[[Tensor], object]) -> str | None:
    """Lesson 02: logits (M, N, C) to the shares of differing votes (M, M)."""
    for members, samples, classes in ((4, 50, 3), (3, 20, 6)):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(members, samples, classes, generator=generator)
        logits[1, ::3] = logits[0, ::3]  # so that pairs are not all alike
        right = diversity.pairwise_disagreement(logits)
        mine = answer(logits.clone())
        problem = as_tensor(mine, right, "one row and one column per member")
        if problem is None and not torch.allclose(mine.to(right), right, atol=1e-5):
            problem = _matrix_problem(mine.to(right), right, logits)
        if problem is not None:
            return problem
    return None


def _matrix_problem(mine: Tensor, right: Tensor, logits: Tensor) -> str:
    members, samples, _ = logits.shape

    def apart(values: Tensor) -> Tensor:
        """Share of the last axis on which rows differ, for each two rows."""
        return (values[:, None] != values).float().mean(-1)

    wrong = {
        "these are numbers of samples; divide by N to get shares.": right * samples,
        "this is the agreement; subtract it from 1.": 1 - right,
        "only one triangle is filled; d[i, j] and d[j, i] are the same.": right.triu(),
        "only one triangle is filled; d[j, i] and d[i, j] are the same.": right.tril(),
        "you compared logits or probabilities; compare votes, the class of each "
        "largest logit.": apart(logits.flatten(1)),
        "argmax runs over the samples; classes are the last axis.": apart(
            logits.argmax(1)
        ),
    }
    for text, value in wrong.items():
        if torch.allclose(mine, value, atol=1e-5):
            return text
    pairs = ~torch.eye(members, dtype=torch.bool)
    if torch.allclose(mine[pairs], right[pairs], atol=1e-5):
        return "the diagonal should be 0: a member never disagrees with itself."
    return (
        "entry (i, j) should be the share of samples on which members i and j vote for "
        "different classes, for any number of members and samples."
    )


@exercise("02")
def weight_dropout(
    answer: Callable[[Tensor, float, torch.Generator], object],
) -> str | None:
    """Lesson 02: (center, rate p, generator) to center * b / (1 - p), b drawn anew.

    Any way to draw the mask b is right. So no certain mask is asked for; it matters
    which values there are, how many are 0, and whether the generator decides.
    """
    source = torch.Generator().manual_seed(0)
    center = torch.rand(5000, generator=source) + 0.5  # nothing is 0 by itself
    for rate in (0.2, 0.6):  # a second rate, so that it is really used
        before = center.clone()
        mine = answer(center, rate, torch.Generator().manual_seed(1))
        problem = as_tensor(mine, before, "one weight for each of the center's")
        if problem is None and not torch.equal(center, before):
            problem = "you changed center in place; return a new tensor."
        problem = (
            problem
            or _mask_problem(mine.to(center), center, rate)
            or _scale_problem(float((mine / center).amax()), rate)
            or of_generator(partial(answer, center, rate), "weights")
        )
        if problem is not None:
            return problem
    return None


def _mask_problem(mine: Tensor, center: Tensor, rate: float) -> str | None:
    """Whether each weight is kept or not, and how many are."""
    kept = mine != 0
    share, ratios = 1 - float(kept.float().mean()), (mine / center)[kept]
    if share == 1 or (
        share == 0 and torch.allclose(ratios, torch.full_like(ratios, 1 / (1 - rate)))
    ):
        return "all weights share one fate; draw a number for each weight."
    if torch.allclose(mine[kept], mine[kept].mean(), atol=1e-4):
        return "this is the mask; multiply the center by it."
    if not torch.allclose(ratios, ratios.mean(), atol=1e-4):
        return "a weight is either 0 or center / (1 - p); these have other values."
    if share == 0:
        return "no weight is 0; set each one to 0 with probability p."
    error = 5 * math.sqrt(rate * (1 - rate) / len(center))  # of a right share
    if abs(share - (1 - rate)) < error:
        return (
            f"with p = {rate}, a share of {share:.2f} was dropped; p is the "
            "probability to drop a weight, not to keep it."
        )
    if abs(share - rate) > error:
        return f"with p = {rate}, a share of {share:.2f} was dropped; it should be p."
    return None


def _scale_problem(ratio: float, rate: float) -> str | None:
    """What the kept weights were multiplied by."""
    if math.isclose(ratio, 1 / (1 - rate), rel_tol=1e-3):
        return None
    wrong = {
        "divide the kept weights by 1 - p, so that the mean stays.": 1,
        "you multiplied the kept weights by 1 - p; divide them by it.": 1 - rate,
        "you divided by p; divide by 1 - p, the probability to keep a weight.": 1
        / rate,
    }
    for text, value in wrong.items():
        if math.isclose(ratio, value, rel_tol=1e-3):
            return text
    return "the kept weights should be center / (1 - p)."
