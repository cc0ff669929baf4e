"""Checks of lesson 03's exercises on draws and choices; costs have their own file."""

import math
import numbers
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sbtutor import hyper
from sbtutor.feedback import NOTHING, as_tensor, exercise, of_generator

Draw = Callable[[float, float, int, torch.Generator], object]


@exercise("03")
def log_uniform(answer: Draw) -> str | None:
    """Lesson 03: (low, high, count, generator) to log-uniform draws from [low, high].

    Any way to draw them is right. So no certain numbers are asked for, but where they
    lie, on which scale they are uniform, and whether the generator decides.
    """
    for low, high in ((1e-3, 1e2), (0.5, 8.0)):
        mine = answer(low, high, 4000, torch.Generator().manual_seed(0))
        problem = (
            as_tensor(mine, torch.empty(4000), "one number a draw")
            or _draws_problem(mine.double(), low, high)
            or of_generator(partial(answer, 0.1, 10.0, 50), "draws")
        )
        if problem is not None:
            return problem
    return None


def _draws_problem(mine: Tensor, low: float, high: float) -> str | None:
    """Whether draws lie in the range, and are uniform in their logarithms."""
    if _uniform(mine.clamp(min=1e-300).log(), math.log(low), math.log(high)):
        return None
    wrong = {
        "these are the logarithms; the last step is exp.": (math.log, mine),
        "these are logarithms to base 10; the last step is 10 ** it.": (
            math.log10,
            mine,
        ),
        "you drew logarithms to base 10; the last step is 10 ** it, not exp.": (
            math.log10,
            mine.clamp(min=1e-300).log(),
        ),
        "these are uniform, so that nearly all have the size of high; draw the "
        "logarithm uniformly.": (float, mine),
    }
    for text, (scale, values) in wrong.items():
        if _uniform(values, scale(low), scale(high)):
            return text
    if len(mine.unique()) < len(mine) / 2:
        return "many draws are equal; draw a number for each."
    if mine.min() < low * (1 - 1e-6) or mine.max() > high * (1 + 1e-6):
        return (
            f"for low = {low:g} and high = {high:g} your draws go from "
            f"{mine.min():.3g} to {mine.max():.3g}."
        )
    return "the logarithms should be uniform between log(low) and log(high)."


def _uniform(values: Tensor, low: float, high: float) -> bool:
    """Whether n values look uniform on [low, high]: Kolmogorov and Smirnov's test.

    Uniform ones are more than 2 / sqrt(n) away once in 1,500 times.
    """
    place = (values.sort().values - low) / (high - low)
    level = (torch.arange(len(place)) + 0.5) / len(place)
    return bool((place - level).abs().max() < 2 / math.sqrt(len(place)))


class _Case(NamedTuple):
    probs: Tensor  # (P, N, C)
    labels: Tensor
    chosen: list[int]  # so far
    right: int

    def nll(self, weight: float) -> Tensor:
        """NLL (P,) of the mean with each member, if the member has this weight."""
        true = self.probs[:, torch.arange(len(self.labels)), self.labels]
        before = true[self.chosen].mean(0) if self.chosen else torch.zeros(())
        return -((1 - weight) * before + weight * true).log().mean(1)

    @property
    def share(self) -> float:
        return 1 / (len(self.chosen) + 1)

    def others(self) -> Tensor:
        """As `nll`, without those chosen before."""
        nll = self.nll(self.share)
        nll[self.chosen] = math.inf
        return nll


_MISTAKES: dict[str, Callable[[_Case], Tensor]] = {
    "this one gives the largest NLL; take the least.": lambda c: c.nll(
        c.share
    ).argmax(),
    "you leave out those chosen before; one may be chosen again.": lambda c: (
        c.others().argmin()
    ),
    "this is the network that is best by itself; average its probabilities with those "
    "chosen before, then take the logarithm.": lambda c: c.nll(1.0).argmin(),
    "you give the candidate half of all weight; of t + 1 networks each has 1 / (t + 1)."
    "": lambda c: c.nll(0.5 if c.chosen else 1.0).argmin(),
}


def _cases() -> list[_Case]:
    """Steps of some greedy selections, without those that rounding could decide."""
    generator, cases = torch.Generator().manual_seed(0), []
    for _ in range(20):
        probs = torch.randn(6, 12, 3, generator=generator).mul(2).softmax(-1)
        labels = torch.randint(3, (12,), generator=generator)
        path = hyper.greedy_path(probs, labels, size=6)
        for t, right in enumerate(path.chosen):
            best, second = path.candidates[t].sort().values[:2]
            if second - best > 1e-4:
                cases.append(_Case(probs, labels, path.chosen[:t], right))
    return cases


@exercise("03")
def next_member(
    answer: Callable[[Tensor, Tensor, list[int]], object],
) -> str | None:
    """Lesson 03: (probs (P, N, C), labels, chosen so far) to the member to add."""
    cases, mine = _cases(), []
    for case in cases:
        found = answer(case.probs.clone(), case.labels.clone(), list(case.chosen))
        if found is None or found is Ellipsis:
            return NOTHING
        if isinstance(found, Tensor) and found.dim() == 0:
            found = found.item()
        if not isinstance(found, numbers.Integral):
            return (
                f"return one index, an int; this is a {type(found).__name__} "
                f"({str(found)[:40]})."
            )
        mine.append(int(found))
    return _next_problem(cases, mine)


def _next_problem(cases: list[_Case], mine: list[int]) -> str | None:
    wrong = [(m, case) for m, case in zip(mine, cases) if m != case.right]
    if not wrong:
        return None
    for text, rule in _MISTAKES.items():
        if all(m == int(rule(case)) for m, case in zip(mine, cases)):
            return text
    m, case = wrong[0]
    return (
        f"with {case.chosen or 'nothing'} chosen so far, member {case.right} gives the "
        f"least NLL of the mean; you chose {m}."
    )
