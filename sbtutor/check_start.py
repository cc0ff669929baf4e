"""Checks of lesson 00's exercises."""

import math
from collections.abc import Callable
from statistics import fmean

from sbtutor.feedback import DOTS, as_choice, exercise, of_numbers

# What three members say about one image: coat, shirt, dress.
MEMBERS = ((0.50, 0.45, 0.05), (0.55, 0.40, 0.05), (0.09, 0.65, 0.26))
CLASSES = ("coat", "shirt", "dress")
_COLUMNS = list(zip(*MEMBERS))


@exercise("00")
def one_image(probs: object, answer: object) -> str | None:
    """Lesson 00: the ensemble's three probabilities for one image, and its answer."""
    if probs is None or probs is ... or answer is None or answer is ...:
        return DOTS
    try:
        mine = [float(p) for p in probs]
    except (TypeError, ValueError):
        return "write the probabilities as three numbers in brackets, [0.1, 0.2, 0.7]."
    right = [fmean(column) for column in _COLUMNS]
    wrong = {
        "these are sums over the members; divide by M = 3.": map(sum, _COLUMNS),
        "these are shares of votes; average the probabilities.": [2 / 3, 1 / 3, 0.0],
        "this is the average over classes; average over members, class by class.": map(
            fmean, MEMBERS
        ),
    }
    if not _alike(mine, right):
        known = (text for text, value in wrong.items() if _alike(mine, [*value]))
        return next(known, "each should be the mean of three numbers in one column.")
    if isinstance(answer, str):
        answer = answer.strip().lower()
    told = "the ensemble answers the class with the largest mean probability"
    if answer == "coat":
        return f"two members say coat; but {told}."
    return None if answer == "shirt" else f'{told}, "coat", "shirt" or "dress".'


def _alike(mine: list[float], right: list[float]) -> bool:
    """Equal up to rounding to two digits."""
    return len(mine) == len(right) and all(
        math.isclose(a, b, abs_tol=0.006) for a, b in zip(mine, right)
    )


@exercise("00")
def share_differing(answer: Callable[[list[int], list[int]], object]) -> str | None:
    """Lesson 00: two members' answers, lists of N classes, to the share that differ."""

    def right(a: list[int], b: list[int]) -> float:
        return fmean(x != y for x, y in zip(a, b))

    wrong = {
        "this is the number of images; divide by how many there are.": lambda a, b: (
            len(a) * right(a, b)
        ),
        "this is the share on which they agree; count the others.": lambda a, b: (
            1 - right(a, b)
        ),
        "this is in percent; a share lies between 0 and 1.": lambda a, b: (
            100 * right(a, b)
        ),
        "classes are names; count images, not how far apart they are.": lambda a, b: (
            fmean(abs(x - y) for x, y in zip(a, b))
        ),
    }
    cases = ([0, 1, 2, 3, 4], [0, 3, 2, 1, 9]), ([7, 7, 1, 2], [7, 7, 1, 5])
    return of_numbers(answer, cases, "the share of images", right, wrong)


@exercise("00")
def points_gained(answer: Callable[[list[float], float], object]) -> str | None:
    """Lesson 00: members' accuracies, ensemble's accuracy to the gain in points."""

    def right(members: list[float], ensemble: float) -> float:
        return 100 * (ensemble - fmean(members))

    wrong = {
        "this is a share; times 100 it is in points.": lambda m, e: right(m, e) / 100,
        "the sign is wrong: subtract the members from the ensemble.": lambda m, e: (
            -right(m, e)
        ),
        "this is the gain over the best member; compare with the mean member.": (
            lambda m, e: 100 * (e - max(m))
        ),
        "you divided by the members' accuracy; a gain in points is a plain "
        "difference.": lambda m, e: right(m, e) / fmean(m),
        "you subtract the members' sum; take their mean.": lambda m, e: (
            100 * (e - sum(m))
        ),
    }
    cases = ([0.80, 0.84, 0.85], 0.88), ([0.7, 0.5], 0.55)
    return of_numbers(answer, cases, "the gain in points", right, wrong)


@exercise("00")
def one_more_run(answer: object) -> str | None:
    """Lesson 00: what one run against six of eight says: a, b, c or d."""
    told = {
        "a": "two of the eight did so before; one more proves no mistake.",
        "b": "one run is weak evidence; six of nine still point the other way.",
        "c": None,
        "d": "choosing runs by their result would make any method win.",
    }
    return as_choice(answer, told)
