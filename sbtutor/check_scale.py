"""Checks of lesson 10's exercises on numbers: of runs, FLOP, seconds, intervals."""

import itertools
import math
from collections.abc import Callable

import torch
from scipy import stats
from torch import Tensor

from sbtutor.feedback import exercise, of_numbers


@exercise("10")
def distinct_runs(answer: Callable[[int, int, int], object]) -> str | None:
    """Numbers of rhos, of shares k and of seeds to the runs of three methods."""

    def right(rhos: int, shares: int, seeds: int) -> int:
        return seeds * (1 + rhos + rhos * shares)

    wrong = {
        "these are the combinations; SGD looks neither at rho nor at k, and SAM not at "
        "k.": lambda r, k, s: 3 * r * k * s,
        "SAM does not look at k; count it once for each rho and seed.": (
            lambda r, k, s: s * (1 + 2 * r * k)
        ),
        "SGD does not look at rho; count it once for each seed.": (
            lambda r, k, s: s * (2 * r + r * k)
        ),
        "SharpBalance looks at rho and at k: each pair of them is a run.": (
            lambda r, k, s: s * (1 + r + k)
        ),
        "each of them is run with each seed.": lambda r, k, s: 1 + r + r * k,
        "SGD is missing: one run for each seed.": lambda r, k, s: s * (r + r * k),
        "SAM is missing: one run for each rho and seed.": (
            lambda r, k, s: s * (1 + r * k)
        ),
        "this is SharpBalance alone; SGD and SAM are runs, too.": (
            lambda r, k, s: s * r * k
        ),
    }
    cases = list(itertools.product((3, 5), (4, 2), (3, 7)))
    return of_numbers(answer, cases, "the number of runs", right, wrong)


def _gradients(members: int, epochs: int, warmup: int, k: float) -> float:
    """Gradients a sample and member of SharpBalance, that of the split included."""
    share = 1 - (1 - k) ** (members - 1)
    return 2 * warmup + 1 + (epochs - warmup) * (1 + share)


_NOT_FLOPS: dict[str, Callable[[float, int, int, int, int, float], float]] = {
    "this is the number of gradients times one pass; a gradient is three passes "
    "forward.": lambda f, n, m, e, t, k: f * n * m * _gradients(m, e, t, k),
    "a member's set is what the *others* nominate: M - 1 of them.": (
        lambda f, n, m, e, t, k: (
            3 * f * n * m * (2 * t + 1 + (e - t) * (2 - (1 - k) ** m))
        )
    ),
    "k is what one member nominates; a member gets what any of the M - 1 others "
    "nominates.": lambda f, n, m, e, t, k: (
        3 * f * n * m * (2 * t + 1 + (e - t) * (1 + k))
    ),
    "the others' nominations overlap, so (M - 1) k is too much.": (
        lambda f, n, m, e, t, k: (
            3 * f * n * m * (2 * t + 1 + (e - t) * (1 + (m - 1) * k))
        )
    ),
    "the split's own gradients are missing: one for each sample and member.": (
        lambda f, n, m, e, t, k: 3 * f * n * m * (_gradients(m, e, t, k) - 1)
    ),
    "the first T epochs are plain SAM: two gradients a sample.": (
        lambda f, n, m, e, t, k: 3 * f * n * m * (_gradients(m, e, t, k) - t)
    ),
    "this is SAM in all epochs.": lambda f, n, m, e, t, k: 3 * f * n * m * 2 * e,
    "after the split samples without SAM cost a gradient, too.": (
        lambda f, n, m, e, t, k: 3 * f * n * m * (_gradients(m, e, t, k) - (e - t))
    ),
    "after the split a share sigma of the samples takes two gradients, the rest one: "
    "that is 1 + sigma, not 2 sigma.": lambda f, n, m, e, t, k: (
        3 * f * n * m * (2 * t + 1 + (e - t) * 2 * (1 - (1 - k) ** (m - 1)))
    ),
    "this is one member; M are trained.": (
        lambda f, n, m, e, t, k: 3 * f * n * _gradients(m, e, t, k)
    ),
}


@exercise("10")
def sharpbalance_flops(
    answer: Callable[[float, int, int, int, int, float], object],
) -> str | None:
    """(forward, samples, members, epochs, warmup, k) to a run's FLOP of training."""

    def right(
        forward: float, samples: int, members: int, epochs: int, warmup: int, k: float
    ) -> float:
        return 3 * forward * samples * members * _gradients(members, epochs, warmup, k)

    cases = [(7.0, 10, 3, 20, 8, 0.25), (2.0, 30, 5, 12, 4, 0.4)]
    return of_numbers(answer, cases, "the FLOP", right, _NOT_FLOPS)


@exercise("10")
def time_with_workers(answer: Callable[[float, float, int], object]) -> str | None:
    """Seconds with one and with two workers to those with any number, by Amdahl."""

    def right(one: float, two: float, workers: int) -> float:
        return 2 * two - one + 2 * (one - two) / workers

    wrong = {
        "this is the time if everything could be shared; the part that cannot stays.": (
            lambda a, b, n: a / n
        ),
        "this goes on from two workers as if everything could be shared.": (
            lambda a, b, n: 2 * b / n
        ),
        "this is the shared part alone; add the part that stays.": (
            lambda a, b, n: 2 * (a - b) / n
        ),
        "this is the speedup; the seconds are asked for.": (
            lambda a, b, n: a / right(a, b, n)
        ),
        "the second worker takes away *half* of what can be shared, so that is twice "
        "the difference.": lambda a, b, n: b + (a - b) / n,
        "no worker after the second takes away as much as the second did.": (
            lambda a, b, n: a - (n - 1) * (a - b)
        ),
        "this is what cannot be shared; add the shared part, divided by the workers.": (
            lambda a, b, n: 2 * b - a
        ),
        "this is the time of two workers.": lambda a, b, n: b,
    }
    cases = [(10.0, 6.0, 4), (90.0, 60.0, 6), (8.0, 7.0, 3), (10.0, 6.0, 1)]
    return of_numbers(answer, cases, "the seconds", right, wrong)


def _half(values: Tensor, n: int = 0, ddof: int = 1) -> float:
    """Half a 95 % t-interval, as if there were n values."""
    n = n or len(values)
    spread = float(values.std(correction=ddof))
    return float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)


def _gain(ensembles: Tensor, members: Tensor) -> Tensor:
    return ensembles - members.mean(1)


def _unpaired(ensembles: Tensor, members: Tensor) -> float:
    """Half the interval of the difference, as if both sides were independent."""
    return math.hypot(_half(ensembles), _half(members.mean(1)))


_NOT_HALF: dict[str, Callable[[Tensor, Tensor], float]] = {
    "you took each member as a repeat. The members of one ensemble share its accuracy, "
    "so there is one gain an ensemble: n is R, not R M.": (
        lambda e, m: _half((e[:, None] - m).ravel())
    ),
    "each gain is there M times; copies are no new evidence.": (
        lambda e, m: _half(_gain(e, m).repeat_interleave(m.shape[1]))
    ),
    "this is the interval of the ensembles' accuracy; take the gain over their own "
    "members.": lambda e, m: _half(e),
    "this is the interval of the members' mean accuracy; the gain is asked for.": (
        lambda e, m: _half(m.mean(1))
    ),
    "the gain is a difference in each ensemble; take it before the spread.": _unpaired,
    "with so few values the factor is Student's t, not 1.96.": (
        lambda e, m: 1.96 * _half(_gain(e, m)) / stats.t.ppf(0.975, len(e) - 1)
    ),
    "t has n - 1 degrees of freedom.": (
        lambda e, m: (
            _half(_gain(e, m))
            * float(stats.t.ppf(0.975, len(e)) / stats.t.ppf(0.975, len(e) - 1))
        )
    ),
    "t.ppf(0.95, n - 1) has 5 % above it; 95 % lie between -t and t for "
    "t.ppf(0.975, n - 1).": (
        lambda e, m: (
            _half(_gain(e, m))
            * float(stats.t.ppf(0.95, len(e) - 1) / stats.t.ppf(0.975, len(e) - 1))
        )
    ),
    "the standard deviation of a sample divides by n - 1: that is `.std()`.": (
        lambda e, m: _half(_gain(e, m), ddof=0)
    ),
    "the mean of n values varies less than one of them: divide by the root of n.": (
        lambda e, m: _half(_gain(e, m)) * math.sqrt(len(e))
    ),
    "divide by the root of n, not by n.": (
        lambda e, m: _half(_gain(e, m)) / math.sqrt(len(e))
    ),
    "this is the whole width; half of it is asked for.": (
        lambda e, m: 2 * _half(_gain(e, m))
    ),
    "this is the mean gain; the half width of its interval is asked for.": (
        lambda e, m: float(_gain(e, m).mean())
    ),
    "the gain is over the mean member; you took the best one.": (
        lambda e, m: _half(e - m.amax(1))
    ),
}


@exercise("10")
def gain_half_width(answer: Callable[[Tensor, Tensor], object]) -> str | None:
    """Accuracies of R ensembles (R,) and members (R, M) to half an interval."""
    draw = torch.Generator().manual_seed(0)
    cases = []
    for ensembles, members in ((3, 4), (5, 3)):
        level = 80 + 1.5 * torch.randn(ensembles, 1, generator=draw).double()
        own = level + torch.randn(ensembles, members, generator=draw).double()
        luck = torch.randn(ensembles, generator=draw).double() / 3
        whole = own.mean(1) + 2 + luck
        cases.append((whole.round(decimals=1), own.round(decimals=1)))

    def right(ensembles: Tensor, members: Tensor) -> float:
        return _half(_gain(ensembles, members))

    rounded = 3e-3  # the lesson's table has t as 4.30
    return of_numbers(answer, cases, "half the interval", right, _NOT_HALF, rounded)
