"""Checks of lesson 05's exercises on barriers and costs; soups have their own file."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sbtutor import paths
from sbtutor.feedback import DOTS, NOTHING, as_number, exercise, of_numbers

# A peak early on, between ends of unlike height; a dip deeper than the peak is high; a
# line that sags only; a peak half-way.
_LINES = (
    [0.2, 0.9, 0.65, 0.4, 0.6],
    [0.8, 0.9, 0.3, 0.2, 0.1, 0.1, 0.2],
    [0.5, 0.3, 0.2, 0.2],
    [0.25, 0.5, 1.5, 0.5, 0.25],
)


@exercise("05")
def barrier(answer: Callable[[Tensor], object]) -> str | None:
    """Losses (steps,) along a line to the barrier between its ends."""
    lines = [(torch.tensor(line, dtype=torch.float64),) for line in _LINES]

    def right(losses: Tensor) -> Tensor:
        return paths.barrier(losses)

    return of_numbers(answer, lines, "the barrier", right, _NOT_BARRIERS)


def _above(line: Tensor, wrong_way: bool = False) -> Tensor:
    """The loss less the straight line between the ends' losses."""
    ends = line.flip(0) if wrong_way else line
    t = torch.linspace(0, 1, len(line), dtype=line.dtype)
    return line - torch.lerp(ends[0], ends[-1], t)


_BOTH_ENDS = "subtract the line between both ends', (1 - t) L(0) + t L(1)."
_NOT_BARRIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "this is where the barrier stands, not how high it is; take max, not argmax.": (
        lambda line: _above(line).argmax()
    ),
    f"this is the highest loss; {_BOTH_ENDS}": lambda line: line.max(),
    f"you subtract the first end's loss only; {_BOTH_ENDS}": (
        lambda line: (line - line[0]).max()
    ),
    f"you subtract the last end's loss only; {_BOTH_ENDS}": (
        lambda line: (line - line[-1]).max()
    ),
    f"you subtract the mean of the ends' losses, as Frankle et al. do; {_BOTH_ENDS}": (
        lambda line: (line - (line[0] + line[-1]) / 2).max()
    ),
    f"you subtract the higher end's loss; {_BOTH_ENDS}": (
        lambda line: (line - torch.maximum(line[0], line[-1])).max()
    ),
    "the line runs the wrong way: it has weight 1 - t for the first end, t for the "
    "last.": lambda line: _above(line, wrong_way=True).max(),
    "this is the mean over t; take the largest.": lambda line: _above(line).mean(),
    "this is half-way only; the peak may stand elsewhere.": (
        lambda line: _above(line)[len(line) // 2]
    ),
    "the sign is wrong: subtract the line from the loss.": (
        lambda line: (-_above(line)).max()
    ),
    "the sign is wrong: a barrier is never negative.": lambda line: -_above(line).max(),
    "you took absolute values; a dip is no barrier.": (
        lambda line: _above(line).abs().max()
    ),
    "this is the deepest dip; take the largest value.": lambda line: _above(line).min(),
}


# Barriers that rise; that fall below the limit again; that never reach it; that are the
# limit exactly.
_TABLES = (
    ((0.25, 0.5, 1, 2, 4), (0.001, 0.004, 0.02, 0.06, 0.3), 0.05),
    ((0.5, 1, 2, 4, 8), (0.01, 0.07, 0.03, 0.2, 0.6), 0.05),
    ((0.25, 0.5, 1), (0.001, 0.002, 0.004), 0.05),
    ((0.5, 1, 2, 4), (0.001, 0.06, 0.1, 0.4), 0.1),
)


def _basin_end(
    factors: Sequence, barriers: Sequence, limit: float
) -> float | int | None:
    """The first factor from which on no barrier is below the limit."""
    inside = [i for i, height in enumerate(barriers) if height < limit]
    beyond = factors[max(inside, default=-1) + 1 :]
    return beyond[0] if beyond else None


_NOT_ENDS: dict[str, Callable[[Sequence, Sequence, float], object]] = {
    "in one of our tables the barrier falls below the limit again; from a factor on "
    "means that all larger factors lie outside, too.": (
        lambda f, b, limit: next((x for x, y in zip(f, b) if y >= limit), None)
    ),
    "this is the last factor inside the basin; return the next one.": (
        lambda f, b, limit: next(
            (x for x, y in list(zip(f, b))[::-1] if y < limit), None
        )
    ),
    "this is where the factor stands in the list; return the factor itself.": (
        lambda f, b, limit: (
            None
            if _basin_end(f, b, limit) is None
            else f.index(_basin_end(f, b, limit))
        )
    ),
    "this is the barrier; return its factor.": lambda f, b, limit: dict(zip(f, b)).get(
        _basin_end(f, b, limit)
    ),
    "a barrier of exactly the limit counts as outside; use >= and <, not > and <=.": (
        lambda f, b, limit: _basin_end(f, b, limit + 1e-9)
    ),
    "where no factor leads outside, return None, not the last factor.": (
        lambda f, b, limit: _basin_end(f, b, limit) or f[-1]
    ),
}


@exercise("05")
def basin_end(
    answer: Callable[[list[float], list[float], float], object],
) -> str | None:
    """(factors, barriers, limit) to the factor at which the basin ends, or None."""
    mine = [answer(list(f), list(b), limit) for f, b, limit in _TABLES]
    if all(found is None or found is Ellipsis for found in mine):
        return NOTHING

    def differs(rule: Callable[..., object]) -> int | None:
        """The first table in which the rule says something else."""
        pairs = enumerate(zip(mine, _TABLES))
        return next((i for i, (x, table) in pairs if x != rule(*table)), None)

    i = differs(_basin_end)
    if i is None:
        return None
    for text, rule in _NOT_ENDS.items():
        if differs(rule) is None:
            return text
    f, b, limit = _TABLES[i]
    return (
        f"for factors {list(f)}, barriers {list(b)} and limit {limit} it should be "
        f"{_basin_end(f, b, limit)}; this is {mine[i]}."
    )


@exercise("05")
def cycle_costs(epochs: object, time: object) -> str | None:
    """Both for (Local DE, SSE, StarSSE), with five members, on five machines."""
    found = [_triple(epochs, "epochs"), _triple(time, "time")]
    for each in found:
        if isinstance(each, str):
            return each
    return _epochs_problem(found[0]) or _time_problem(found[1])


def _triple(value: object, what: str) -> list[float] | str:
    """Three numbers; as text, why they are none."""
    if value is None or value is Ellipsis:
        return DOTS
    if not isinstance(value, list | tuple) or len(value) != 3:
        return f"{what}: write three numbers, as in (1, 2, 3); this is {value!r}."
    numbers = [as_number(each, f"of {what}", DOTS) for each in value]
    return next((each for each in numbers if isinstance(each, str)), numbers)


def _epochs_problem(mine: list[float]) -> str | None:
    right = [5 * 40, 40 + 4 * 20, 40 + 4 * 20]
    wrong = {
        "model 1 is a member: for five members there are four cycles, not five.": [
            200,
            *[140] * 2,
        ],
        "SSE and StarSSE train once for 40 epochs, and then in cycles of 20.": [200]
        * 3,
        "a star trains as many epochs as a chain; it only need not wait.": [
            200,
            120,
            60,
        ],
        "each member of a Local DE is fine-tuned for 40 epochs.": [40, 120, 120],
    }
    return _named("epochs", mine, right, wrong)


def _time_problem(mine: list[float]) -> str | None:
    right = [40, 40 + 4 * 20, 40 + 20]
    wrong = {
        "this is the time on one machine; what need not wait runs at once on five.": [
            200,
            *[120] * 2,
        ],
        "dividing by five is too simple: what has to wait for what?": [40, 24, 24],
        "SSE is a chain: each cycle has to wait for the one before.": [40, 60, 60],
        "the cycles of a star need not wait for each other.": [40, 120, 120],
        "the star has to wait for model 1, which takes 40 epochs.": [40, 120, 20],
    }
    return _named("time", mine, right, wrong)


def _named(
    what: str,
    mine: list[float],
    right: list[int],
    wrong: dict[str, list[int]],
) -> str | None:
    """What is wrong with a triple, as a whole or with one of its numbers."""
    if mine == right:
        return None
    for text, values in wrong.items():
        if mine == values:
            return f"{what}: {text}"
    names = zip(("the Local DE", "SSE", "StarSSE"), mine, right)
    which = next(name for name, found, value in names if found != value)
    return f"{what}: look at {which} again; what is trained, and what has to wait?"
