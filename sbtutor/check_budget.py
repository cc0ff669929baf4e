"""Checks of lesson 03's exercises on what ensembles cost, and on what they gain."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor import metrics
from sbtutor.feedback import DOTS, as_number, exercise, of_numbers

BUDGET, SIZE = 40, 4  # of exercise 4


@exercise("03")
def trainings(answer: Callable[[int, int, int], object]) -> str | None:
    """Lesson 03: (kappa, K, U) to the trainings of a hyper-deep ensemble."""

    def right(kappa: int, K: int, U: int) -> int:
        return kappa + U * (K - 1)

    all_anew = "the first network of each setting is in the pool already"
    only_chosen = "only the U different settings are trained again, not K"
    wrong = {
        f"{all_anew}.": lambda kappa, K, U: kappa + U * K,
        f"{only_chosen}.": lambda kappa, K, U: kappa + K * (K - 1),
        f"{only_chosen}; and {all_anew}.": lambda kappa, K, U: kappa + K**2,
        "the networks of the search count, too.": lambda kappa, K, U: U * (K - 1),
        "this is the whole search from K first weights; only the U chosen settings are "
        "trained again.": lambda kappa, K, U: kappa * K,
    }
    cases = list(itertools.product((50, 24), (5, 4), (3, 2)))
    return of_numbers(answer, cases, "the trainings", right, wrong)


@exercise("03")
def largest_search(answer: object) -> str | None:
    """Lesson 03: the largest search for 40 trainings, K = 4 and U = K."""
    mine = as_number(answer, "the number of networks in the search", DOTS)
    if isinstance(mine, str):
        return mine
    again, right = SIZE * (SIZE - 1), BUDGET - SIZE * (SIZE - 1)
    wrong = {
        "the first network of each setting is in the search already; you trained it "
        "twice.": BUDGET - SIZE**2,
        "each of the four settings is trained K - 1 = 3 more times; you left room for "
        "one setting.": BUDGET - (SIZE - 1),
        "each of the four settings needs more than one further training.": BUDGET
        - SIZE,
        "only the chosen settings are trained again, not the whole search.": BUDGET
        / SIZE,
        "this is what steps 3 and 4 take; the rest is for the search.": again,
        "then nothing is left for step 3.": BUDGET,
    }
    known = (text for text, value in wrong.items() if mine == value)
    told = f"{mine:g} and {again} more are {mine + again:g} trainings, not {BUDGET}."
    return None if mine == right else next(known, told)


@exercise("03")
def repeats(weights: object, at_once: object) -> str | None:
    """Lesson 03: A's and C's weights once A is added again; can a first choice be?"""
    if any(value is None or value is Ellipsis for value in (weights, at_once)):
        return DOTS
    try:
        a, c = map(float, weights)
    except (TypeError, ValueError):
        return "write two weights in brackets, that of A first, as in (0.9, 0.1)."
    told = {
        "the weights of a mean add up to 1; divide by how many were added.": (2.0, 1.0),
        "these are the weights before; now A is there twice, of three in all.": (
            1 / 2,
            1 / 2,
        ),
        "A was added twice and C once, so the whole is three parts, not four.": (
            3 / 4,
            1 / 4,
        ),
        "A comes first.": (1 / 3, 2 / 3),
    }
    if not _near(a, c, 2 / 3, 1 / 3):
        known = (text for text, pair in told.items() if _near(a, c, *pair))
        return next(known, "the weight is c / t: times added, over all additions.")
    if not isinstance(at_once, bool):
        return "answer the second question by True or False."
    if at_once:
        return "the mean of A and A is A: its NLL is not less, so A is not added."
    return None


def _near(a: float, c: float, first: float, second: float) -> bool:
    """Equal up to rounding to two digits."""
    pairs = ((a, first), (c, second))
    return all(math.isclose(x, y, abs_tol=0.006) for x, y in pairs)


@exercise("03")
def nll_gain(answer: Callable[[Tensor, Tensor], object]) -> str | None:
    """Lesson 03: logits (M, N, C), labels to the NLL that the mean gains."""

    def members(z: Tensor, y: Tensor) -> Tensor:
        return torch.stack([metrics.nll(p, y) for p in z.softmax(-1)])

    def ensemble(z: Tensor, y: Tensor) -> Tensor:
        return metrics.nll(z.softmax(-1).mean(0), y)

    def right(logits: Tensor, labels: Tensor) -> Tensor:
        return members(logits, labels).mean() - ensemble(logits, labels)

    wrong = {
        "the sign is wrong: a gain is the members' NLL less the ensemble's.": (
            lambda z, y: -right(z, y)
        ),
        "this is the members' mean NLL; subtract the ensemble's.": lambda z, y: members(
            z, y
        ).mean(),
        "this is the ensemble's NLL; subtract it from the members' mean NLL.": ensemble,
        "you compare with the best member; take the average one.": lambda z, y: (
            members(z, y).min() - ensemble(z, y)
        ),
        "the ensemble averages probabilities, not logits.": lambda z, y: (
            members(z, y).mean() - metrics.nll(z.mean(0).softmax(-1), y)
        ),
        "you add the members' NLLs; take their mean.": lambda z, y: (
            members(z, y).sum() - ensemble(z, y)
        ),
        "you add over images; take their mean.": lambda z, y: len(y) * right(z, y),
    }
    small = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [3.0, 0.0]]])
    generator = torch.Generator().manual_seed(0)
    more = 2 * torch.randn(3, 20, 4, generator=generator)
    labels = torch.randint(4, (20,), generator=generator)
    cases = (small, torch.tensor([0, 1])), (more, labels)
    return of_numbers(answer, cases, "the gain in nats", right, wrong)
