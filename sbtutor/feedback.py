"""What all checks of exercises share: one line to the learner, and a look at kinds."""

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import get_origin

import numpy as np
import torch
from torch import Tensor

from sbtutor import journal

NOTHING = "the function returns nothing so far; replace the dots."
DOTS = "replace the dots by your answer."

LESSONS: dict[str, str] = {}  # the lesson of each exercise, by the name of its check


def exercise(lesson: str) -> Callable[[Callable[..., str | None]], Callable[..., bool]]:
    """Make a check of a function that says what is wrong, or None.

    The check prints one line, keeps the try in the learner's journal, and returns
    whether the answer was right. What the learner's code raises goes on upwards.
    """

    def decorate(diagnose: Callable[..., str | None]) -> Callable[..., bool]:
        LESSONS[diagnose.__name__] = lesson

        @functools.wraps(diagnose)
        def check(*answer: object) -> bool:
            try:
                problem = _no_function(diagnose, answer) or diagnose(*answer)
            except Exception as error:
                said = f"it raises {type(error).__name__}"
                journal.tried(lesson, diagnose.__name__, said)
                raise
            print("Right." if problem is None else f"Not yet: {problem}")
            journal.tried(lesson, diagnose.__name__, problem)
            return problem is None

        check.__annotations__ = {**diagnose.__annotations__, "return": bool}
        return check

    return decorate


def _no_function(diagnose: Callable, answer: Sequence[object]) -> str | None:
    """What to say where a function is asked for and its value is given."""
    for asked, given in zip(inspect.signature(diagnose).parameters.values(), answer):
        if get_origin(asked.annotation) is Callable and not callable(given):
            return (
                "hand over the function itself, its name without brackets; this is a "
                f"{type(given).__name__}."
            )
    return None


def as_tensor(value: object, like: Tensor, what: str) -> str | None:
    """Why a value cannot be the answer at all; None if its kind and shape are right.

    Args:
        value: what the learner's function returned.
        like: a tensor of the right shape.
        what: what a right answer holds, such as "one class per sample".
    """
    if value is None or value is Ellipsis:
        return NOTHING
    if not isinstance(value, Tensor):
        return f"return a tensor, {what}; this is a {type(value).__name__}."
    if value.shape != like.shape:
        return (
            f"the shape should be {tuple(like.shape)}, {what}; "
            f"this is {tuple(value.shape)}."
        )
    return None


def of_generator(draw: Callable[[torch.Generator], Tensor], what: str) -> str | None:
    """Why the generator does not decide the draws, or not it alone; None if it does.

    Args:
        draw: what the learner's function returns for a generator.
        what: the name of what is drawn, such as "weights".
    """
    one, same = (torch.Generator().manual_seed(1) for _ in range(2))
    first, equal, second = (draw(generator) for generator in (one, same, one))
    if not torch.equal(first, equal):
        return (
            f"equal generators should give equal {what}; hand generator to the "
            "function that draws."
        )
    if torch.equal(first, second):
        return f"each call gives the same {what}; draw from generator, unseeded."
    return None


def as_number(value: object, what: str, empty: str = NOTHING) -> float | str:
    """The value as a float; as text, why it is none.

    Args:
        value: what the learner gave, or what the learner's function returned.
        what: what the number is, such as "the barrier".
        empty: what to say where there are still dots.
    """
    if value is None or value is Ellipsis:
        return empty
    if isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return f"one number is asked for, {what}; this is a {type(value).__name__}."
    return float(value)


def as_choice(value: object, told: dict[str, str | None]) -> str | None:
    """What is wrong with a choice; None if it is the right one.

    Args:
        value: a letter.
        told: for each letter why it is wrong, None for the right one.
    """
    if value is None or value is Ellipsis:
        return DOTS
    letter = value.strip().lower() if isinstance(value, str) else value
    if letter not in list(told):
        return f'choose one of {", ".join(told)}, as in "a"; this is {value!r}.'
    return told[letter]


def of_numbers(
    answer: Callable[..., object],
    cases: Sequence[tuple],
    what: str,
    right: Callable[..., float | Tensor],
    wrong: dict[str, Callable[..., float | Tensor]],
    rel: float = 1e-4,
) -> str | None:
    """What is wrong with a function that returns a number; None if it is right.

    Args:
        answer: the learner's function.
        cases: its arguments, several times, so that each of them is really used.
        what: what the number is, such as "the barrier".
        right: what the function should be.
        wrong: for what is to be said, the function that it is said of.
        rel: how far a right number may be off, for its size.
    """
    mine = [as_number(answer(*_copies(case)), what) for case in cases]
    for found in mine:
        if isinstance(found, str):
            return found

    def differs(rule: Callable[..., float | Tensor]) -> int | None:
        """The first case in which the rule says something else."""
        for i, (found, case) in enumerate(zip(mine, cases)):
            if not math.isclose(found, float(rule(*case)), rel_tol=rel, abs_tol=1e-6):
                return i
        return None

    i = differs(right)
    if i is None:
        return None
    for text, rule in wrong.items():
        if differs(rule) is None:
            return text
    names = inspect.signature(right).parameters
    given = ", ".join(f"{k} = {_shown(v)}" for k, v in zip(names, cases[i]))
    value = float(right(*cases[i]))
    return f"for {given} it should be {value:.4g}; this is {mine[i]:.4g}."


def _copies(case: tuple) -> list:
    return [value.clone() if isinstance(value, Tensor) else value for value in case]


def _shown(value: object) -> object:
    return value.tolist() if isinstance(value, Tensor) else value
