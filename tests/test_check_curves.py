"""Lesson 02's exercises on curves and channels: each mistake gets its message."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from sbtutor import check, landscape


def bounds(a, b):
    return abs(a - b), min(1, 2 - a - b)


def height(a, best, both_wrong):
    return best + a * (1 - best) / (1 - a) + (1 - best) * both_wrong


def upper(a, best, classes):
    return height(a, best, (classes - 2) / (classes - 1))


def upper_of_package(a, best, classes):
    return landscape.limit_curves(best, classes, [a])[0]


def reordered(w, b, v, order):
    return w[order], b[order], v[:, order]


def reordered_by_index(w, b, v, order):
    return [
        w.index_select(0, order),
        b.index_select(0, order),
        v.index_select(1, order),
    ]


def in_place(w, b, v, order):
    w[:] = w[order]
    return w, b[order], v[:, order]


SOLUTIONS = [
    (check.disagreement_bounds, bounds),
    (check.disagreement_bounds, lambda a, b: torch.tensor(bounds(a, b)).double()),
    (check.upper_height, upper),
    (check.upper_height, upper_of_package),
    (check.reordered, reordered),
    (check.reordered, reordered_by_index),
]
EXERCISES = [check.disagreement_bounds, check.upper_height, check.reordered]
MISTAKES = [
    (check.disagreement_bounds, lambda a, b: bounds(a, b)[::-1], "first number should"),
    (check.disagreement_bounds, lambda a, b: (a - b, bounds(a, b)[1]), "negative"),
    (check.disagreement_bounds, lambda a, b: (0, bounds(a, b)[1]), "equal accuracies"),
    (check.disagreement_bounds, lambda a, b: (abs(a - b), 2 - a - b), "never above 1"),
    (
        check.disagreement_bounds,
        lambda a, b: (abs(a - b), a + b - 2 * a * b),
        "independent",
    ),
    (
        check.disagreement_bounds,
        lambda a, b: (abs(a - b), max(1 - a, 1 - b)),
        "one error alone",
    ),
    (check.disagreement_bounds, lambda a, b: (abs(a - b), 1), "both right agree"),
    (
        check.disagreement_bounds,
        lambda a, b: (0.05, 1),
        "for 0.8 and 0.7 the least is 0.1, not 0.05",
    ),
    (check.disagreement_bounds, lambda a, b: bounds(a, b)[1], "return two numbers"),
    (check.disagreement_bounds, lambda a, b: (0, 1, 2), "return two numbers"),
    (check.upper_height, lambda a, s, c: upper(a, s, c) * (1 - a), "is the disagr"),
    (
        check.upper_height,
        lambda a, s, c: upper(a, s, c) * (1 - a) / (1 - s),
        "not by the reference's",
    ),
    (check.upper_height, lambda a, s, c: height(a, s, 0), "the third term is missing"),
    (check.upper_height, lambda a, s, c: height(a, s, 1), "sometimes agree"),
    (check.upper_height, lambda a, s, c: height(a, s, 1 / (c - 1)), "answers agree"),
    (check.upper_height, lambda a, s, c: height(a, s, (c - 1) / c), "one more"),
    (check.upper_height, lambda a, s, c: upper(s, a, c), "not by the reference's"),
    (check.upper_height, lambda a, s, c: 2.0, "it should be 1.403; this is 2"),
    (check.upper_height, lambda a, s, c: "high", "this is a str"),
    (check.reordered, lambda w, b, v, o: (w, b, v), "nothing has moved"),
    (check.reordered, in_place, "in place"),
    (check.reordered, lambda *a: reordered(*a)[0], "return three tensors"),
    (check.reordered, lambda *a: reordered(*a)[:2], "return three tensors"),
    (
        check.reordered,
        lambda w, b, v, o: reordered(w, b, v, o.argsort()),
        "the old order[k]",
    ),
    (check.reordered, lambda w, b, v, o: (w[:, o], b[o], v[:, o]), "inputs of weight"),
    (
        check.reordered,
        lambda w, b, v, o: (w, b[o], v[:, o]),
        "weight is not in the given",
    ),
    (check.reordered, lambda w, b, v, o: (w[o], b, v[:, o]), "takes its bias along"),
    (check.reordered, lambda w, b, v, o: (w[o], b.flip(0), v), "bias is not in"),
    (check.reordered, lambda w, b, v, o: (w[o], b[o], v), "expects the old order"),
    (check.reordered, lambda w, b, v, o: (w[o], b[o], v[o]), "the second axis"),
    (
        check.reordered,
        lambda w, b, v, o: (w[o], b[o], v[:, o.argsort()]),
        "not its inverse",
    ),
    (
        check.reordered,
        lambda w, b, v, o: (w[o], b[o], v.flip(1)),
        "next layer's weight is not",
    ),
]


@pytest.mark.parametrize("right", [(1, 2), (4, 3), (0, 1)])
def test_no_two_networks_differ_by_more_or_less_than_the_bounds(right):
    """All pairs of answers to four images, of three classes, class 0 is the truth."""
    answers = list(itertools.product(range(3), repeat=4))
    of = [[votes for votes in answers if votes.count(0) == n] for n in right]
    differ = [sum(x != y for x, y in zip(a, b)) / 4 for a in of[0] for b in of[1]]
    assert (min(differ), max(differ)) == bounds(right[0] / 4, right[1] / 4)


def test_reordered_channels_are_the_same_function():
    """What exercise 5 claims."""
    generator = torch.Generator().manual_seed(0)
    shapes = (5, 3, 3, 3), (5,), (2, 5, 3, 3)
    w, b, v = (torch.randn(s, generator=generator).double() for s in shapes)
    images = torch.randn(4, 3, 9, 9, generator=generator).double()
    other = reordered(w, b, v, torch.tensor([3, 0, 4, 1, 2]))

    def run(w, b, v):
        return F.conv2d(F.conv2d(images, w, b).relu(), v)

    assert torch.allclose(run(w, b, v), run(*other))
