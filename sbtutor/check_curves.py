"""Checks of lesson 02's exercises on heights, limit curves and reordered channels."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor.feedback import NOTHING, exercise, of_numbers


@exercise("02")
def disagreement_bounds(answer: Callable[[float, float], object]) -> str | None:
    """Lesson 02: two accuracies to the least and the most possible disagreement."""
    for a, b in ((0.8, 0.7), (0.6, 0.9), (0.3, 0.5)):
        mine = answer(a, b)
        if mine is None or mine is Ellipsis:
            return NOTHING
        try:
            least, most = map(float, mine)
        except (TypeError, ValueError):
            return "return two numbers, the least and the most: return least, most."
        told = {
            "least": (least, abs(a - b), _least_problem(least, a, b)),
            "most": (most, min(1, 2 - a - b), _most_problem(most, a, b)),
        }
        for name, (found, right, problem) in told.items():
            if not math.isclose(found, right, abs_tol=1e-6):
                other = f"for {a} and {b} the {name} is {right:.3g}, not {found:.3g}."
                return problem or other
    return None


def _least_problem(least: float, a: float, b: float) -> str | None:
    if math.isclose(least, min(1, 2 - a - b)):
        return "the first number should be the least, the second the most."
    if math.isclose(least, a - b):
        return "a share is never negative: the least is the distance |a - b|."
    if least == 0:
        return (
            "the least is 0 for equal accuracies only: else one is right somewhere "
            "where the other is wrong."
        )
    return None


def _most_problem(most: float, a: float, b: float) -> str | None:
    wrong = {
        "a share is never above 1; for poor networks the sum of errors is.": 2 - a - b,
        "this is for independent errors; at most they never err on the same image.": (
            a * (1 - b) + b * (1 - a)
        ),
        "this is one error alone; they may err on different images.": 1 - min(a, b),
        "networks that are both right agree, so it can be 1 only if a + b is below 1."
        "": 1.0,
    }
    return next((t for t, value in wrong.items() if math.isclose(most, value)), None)


@exercise("02")
def upper_height(answer: Callable[[float, float, int], object]) -> str | None:
    """Lesson 02: (a, a*, C) to the height of the upper curve, of independent errors."""

    def height(a: float, best: float, both_wrong: float) -> float:
        apart = best * (1 - a) + a * (1 - best) + (1 - a) * (1 - best) * both_wrong
        return apart / (1 - a)

    def right(accuracy: float, reference: float, classes: int) -> float:
        return height(accuracy, reference, (classes - 2) / (classes - 1))

    wrong = {
        "this is the disagreement; divide it by the network's error, 1 - a.": (
            lambda a, best, c: right(a, best, c) * (1 - a)
        ),
        "divide by the network's own error, 1 - a, not by the reference's.": (
            lambda a, best, c: right(a, best, c) * (1 - a) / (1 - best)
        ),
        "where both err they may also differ; the third term is missing.": (
            lambda a, best, c: height(a, best, 0.0)
        ),
        "where both err they sometimes agree; the third term needs (C - 2) / (C - 1)."
        "": lambda a, best, c: height(a, best, 1.0),
        "that is how often two wrong answers agree; they differ on (C - 2) / (C - 1)."
        "": lambda a, best, c: height(a, best, 1 / (c - 1)),
        "there are C - 1 wrong classes, of which C - 2 differ; you took one more.": (
            lambda a, best, c: height(a, best, (c - 1) / c)
        ),
    }
    cases = ((0.6, 0.71, 10), (0.8, 0.9, 3), (0.5, 0.7, 5))
    return of_numbers(answer, cases, "the height", right, wrong)


Layers = tuple[Tensor, Tensor, Tensor]


@exercise("02")
def reordered(answer: Callable[[Tensor, Tensor, Tensor, Tensor], object]) -> str | None:
    """Lesson 02: (weight, bias, next weight, order) to the three, channels reordered.

    The new channel k is the old channel order[k].
    """
    generator = torch.Generator().manual_seed(0)
    for outputs, inputs, behind in ((4, 4, 4), (5, 3, 2)):  # square: no shape tells
        layers = (
            torch.randn(outputs, inputs, 3, 3, generator=generator),
            torch.randn(outputs, generator=generator),
            torch.randn(behind, outputs, 3, 3, generator=generator),
        )
        order = torch.arange(outputs).roll(1)
        before = [part.clone() for part in layers]
        mine = answer(*layers, order)
        if mine is None or mine is Ellipsis:
            return NOTHING
        if any(not torch.equal(*pair) for pair in zip(before, layers)):
            return "you changed the given tensors in place; return new ones."
        if not isinstance(mine, tuple | list) or not (
            len(mine) == 3 and all(isinstance(part, Tensor) for part in mine)
        ):
            return "return three tensors: weight, bias and the next layer's weight."
        problem = _order_problem(tuple(mine), layers, order)
        if problem is not None:
            return problem
    return None


def _order_problem(mine: Layers, layers: Layers, order: Tensor) -> str | None:
    weight, bias, following = layers
    back = order.argsort()
    moved = (weight[order], bias[order], following[:, order])
    whole = {
        "nothing has moved.": layers,
        "the votes stay, but the new channel k should be the old order[k].": (
            weight[back],
            bias[back],
            following[:, back],
        ),
    }
    for text, parts in whole.items():
        if all(map(torch.equal, mine, parts)):
            return text
    wrong = {
        "you reordered the inputs of weight; its outputs are the first axis.": (
            0,
            weight[:, order % weight.shape[1]],
        ),
        "each channel takes its bias along; reorder bias, too.": (1, bias),
        "the next layer still expects the old order; reorder its inputs.": (
            2,
            following,
        ),
        "you reordered the next layer's outputs; its inputs are the second axis.": (
            2,
            following[order % len(following)],
        ),
        "the next layer's inputs need the same order, not its inverse.": (
            2,
            following[:, back],
        ),
    }
    for i, name in enumerate(("weight", "bias", "the next layer's weight")):
        if not torch.equal(mine[i], moved[i]):
            known = (
                t for t, (j, v) in wrong.items() if i == j and torch.equal(mine[i], v)
            )
            return next(known, f"{name} is not in the given order.")
    return None
