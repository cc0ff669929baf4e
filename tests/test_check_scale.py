"""Lesson 10's exercises: each mistake gets its message."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sbtutor import check, check_runs, check_scale, cost, results
from sbtutor.config import TrainConfig


def distinct(rhos, shares, seeds):
    return seeds * (1 + rhos * (1 + shares))


def apart(ensembles, members):
    return [members * r for r in range(ensembles)]


def left(runs):
    return [name for name, files in runs.items() if "row.json" not in files]


def flops(f, n, m, e, t, k, split=1.0, gradient=3, others=1):
    share = 1 - (1 - k) ** (m - others)
    return gradient * f * n * m * (2 * t + split + (e - t) * (1 + share))


def amdahl(one, two, workers):
    serial = (2 * two - one) / one
    return one * (serial + (1 - serial) / workers)


def half(values, q=0.975, n=None):
    n = n or len(values)
    return stats.t.ppf(q, n - 1) * values.std() / n**0.5


def by_table(values, t):
    return t[len(values)] * values.std() / len(values) ** 0.5


def gain(e, m):
    return e - m.mean(1)


SOLUTIONS = [
    (check.distinct_runs, distinct),
    (check.fresh_seeds, apart),
    (check.fresh_seeds, lambda r, m: range(5, 5 + r * m, m)),
    (check.fresh_seeds, lambda r, m: torch.arange(r) * m),
    (check.fresh_seeds, lambda r, m: np.arange(r) * m),
    (check.fresh_seeds, lambda r, m: list(np.arange(r) * m)),
    (check.fresh_seeds, lambda r, m: list(torch.arange(r) * m)),
    (check.fresh_seeds, lambda r, m: [i * i * m for i in range(r)]),
    (check.still_to_run, left),
    (check.still_to_run, lambda runs: set(left(runs))),
    (check.sharpbalance_flops, flops),
    (check.time_with_workers, amdahl),
    (check.gain_half_width, lambda e, m: half(gain(e, m))),
    (check.gain_half_width, lambda e, m: float(half(gain(e, m)))),
    (check.gain_half_width, lambda e, m: np.array(float(half(gain(e, m))))),
    (check.gain_half_width, lambda e, m: by_table(gain(e, m), {3: 4.3, 5: 2.78})),
    (check.gain_half_width, lambda e, m: by_table(gain(e, m), {3: 4.303, 5: 2.776})),
]
EXERCISES = [
    check.distinct_runs,
    check.fresh_seeds,
    check.still_to_run,
    check.sharpbalance_flops,
    check.time_with_workers,
    check.gain_half_width,
]
MISTAKES = [
    (check.distinct_runs, lambda r, k, s: 3 * r * k * s, "the combinations"),
    (check.distinct_runs, lambda r, k, s: s * (1 + 2 * r * k), "not look at k; count"),
    (check.distinct_runs, lambda r, k, s: s * (2 * r + r * k), "not look at rho"),
    (check.distinct_runs, lambda r, k, s: s * (1 + r + k), "each pair of them"),
    (check.distinct_runs, lambda r, k, s: 1 + r + r * k, "with each seed"),
    (check.distinct_runs, lambda r, k, s: s * (r + r * k), "SGD is missing"),
    (check.distinct_runs, lambda r, k, s: s * (1 + r * k), "SAM is missing"),
    (check.distinct_runs, lambda r, k, s: s * r * k, "SharpBalance alone"),
    (check.distinct_runs, lambda r, k, s: 48, "for rhos = 3"),
    (check.fresh_seeds, lambda r, m: list(range(r)), "both have the network with seed"),
    (check.fresh_seeds, lambda r, m: [0] * r, "ensembles 0 and 1 both"),
    (check.fresh_seeds, lambda r, m: [(m - 1) * i for i in range(r)], "seed 2"),
    (check.fresh_seeds, lambda r, m: [5 * i for i in range(r)], "seed 5"),
    (check.fresh_seeds, lambda r, m: torch.arange(r) * 100, "of 150 members you"),
    (check.fresh_seeds, lambda r, m: [np.float64(m * i) for i in range(r)], "whole n"),
    (check.fresh_seeds, lambda r, m: [i == 1 for i in range(r)], "whole numbers"),
    (check.fresh_seeds, lambda r, m: list(range(r * m)), "one an ensemble"),
    (check.fresh_seeds, lambda r, m: [0.0, 3.0, 6.0][:r], "whole numbers"),
    (check.fresh_seeds, lambda r, m: m, "this is a int"),
    (check.fresh_seeds, lambda r, m: None, "replace the dots"),
    (check.still_to_run, lambda runs: list(runs), "sgd-seed0 has its row.json"),
    (check.still_to_run, lambda runs: set(runs) - set(left(runs)), "the others"),
    (
        check.still_to_run,
        lambda runs: [n for n, f in runs.items() if "notebook.ipynb" not in f],
        "for a kernel that died, too",
    ),
    (
        check.still_to_run,
        lambda runs: [n for n, f in runs.items() if "row.json" not in f and f],
        "has not begun",
    ),
    (
        check.still_to_run,
        lambda runs: [n for n, f in runs.items() if "metrics.json" not in f],
        "has its row.json",
    ),
    (
        check.still_to_run,
        lambda runs: [n for n in left(runs) if "metrics.json" not in runs[n]],
        "before its row was written",
    ),
    (
        check.still_to_run,
        lambda runs: [n for n in left(runs) if "row.json" not in "".join(runs[n])],
        "half-written",
    ),
    (
        check.still_to_run,
        lambda runs: [n for n, f in runs.items() if f[-1:] != ["row.json"]],
        "sgd-seed0 has its row.json",
    ),
    (
        check.still_to_run,
        lambda runs: [n for n, f in runs.items() if sorted(f)[-1:] != ["row.json"]],
        "sgd-seed0 has its row.json",
    ),
    (
        check.still_to_run,
        lambda runs: [
            n for n, f in runs.items() if not any(x.endswith("row.json") for x in f)
        ],
        "only ends like",
    ),
    (
        check.still_to_run,
        lambda runs: [
            n for n, f in runs.items() if not any(x.startswith("row") for x in f)
        ],
        "only begins like",
    ),
    (check.still_to_run, lambda runs: left(runs) * 2, "twice"),
    (check.still_to_run, lambda runs: [*left(runs), "x"], "there is no run 'x'"),
    (check.still_to_run, lambda runs: len(left(runs)), "this is a int"),
    (check.still_to_run, lambda runs: ..., "replace the dots"),
    (check.sharpbalance_flops, lambda *a: flops(*a, gradient=1), "three passes"),
    (check.sharpbalance_flops, lambda *a: flops(*a, others=0), "M - 1 of them"),
    (check.sharpbalance_flops, lambda *a: flops(*a, split=0), "split's own gradients"),
    (
        check.sharpbalance_flops,
        lambda f, n, m, e, t, k: 3 * f * n * m * (2 * t + 1 + (e - t) * (1 + k)),
        "one member nominates",
    ),
    (
        check.sharpbalance_flops,
        lambda f, n, m, e, t, k: (
            3 * f * n * m * (2 * t + 1 + (e - t) * (1 + (m - 1) * k))
        ),
        "too much",
    ),
    (
        check.sharpbalance_flops,
        lambda f, n, m, e, t, k: flops(f, n, m, e, t, k, split=1 - t),
        "plain SAM",
    ),
    (check.sharpbalance_flops, lambda f, n, m, e, t, k: 6 * f * n * m * e, "all epoch"),
    (
        check.sharpbalance_flops,
        lambda f, n, m, e, t, k: flops(f, n, m, e, t, k, split=1 - (e - t)),
        "cost a gradient, too",
    ),
    (
        check.sharpbalance_flops,
        lambda f, n, m, e, t, k: (
            3 * f * n * m * (2 * t + 1 + (e - t) * 2 * (1 - (1 - k) ** (m - 1)))
        ),
        "not 2 sigma",
    ),
    (check.sharpbalance_flops, lambda *a: flops(*a) / a[2], "this is one member"),
    (check.sharpbalance_flops, lambda *a: 1.0, "for forward = 7"),
    (check.time_with_workers, lambda a, b, n: a / n, "that cannot stays"),
    (check.time_with_workers, lambda a, b, n: 2 * b / n, "goes on from two"),
    (check.time_with_workers, lambda a, b, n: 2 * (a - b) / n, "shared part alone"),
    (check.time_with_workers, lambda a, b, n: a / amdahl(a, b, n), "the speedup"),
    (check.time_with_workers, lambda a, b, n: b + (a - b) / n, "twice the difference"),
    (check.time_with_workers, lambda a, b, n: a - (n - 1) * (a - b), "as much as the"),
    (check.time_with_workers, lambda a, b, n: 2 * b - a, "cannot be shared; add"),
    (check.time_with_workers, lambda a, b, n: b, "the time of two"),
    (check.time_with_workers, lambda a, b, n: a + b, "it should be 4; this is 16"),
    (check.gain_half_width, lambda e, m: half((e[:, None] - m).ravel()), "not R M"),
    (
        check.gain_half_width,
        lambda e, m: half(gain(e, m).repeat_interleave(m.shape[1])),
        "no new evidence",
    ),
    (check.gain_half_width, lambda e, m: half(e), "over their own members"),
    (
        check.gain_half_width,
        lambda e, m: (half(e) ** 2 + half(m.mean(1)) ** 2) ** 0.5,
        "before the spread",
    ),
    (check.gain_half_width, lambda e, m: half(m.mean(1)), "the gain is asked for"),
    (
        check.gain_half_width,
        lambda e, m: 1.96 * gain(e, m).std() / len(e) ** 0.5,
        "not 1.96",
    ),
    (
        check.gain_half_width,
        lambda e, m: stats.t.ppf(0.975, len(e)) * gain(e, m).std() / len(e) ** 0.5,
        "n - 1 degrees",
    ),
    (check.gain_half_width, lambda e, m: half(gain(e, m), q=0.95), "5 % above"),
    (
        check.gain_half_width,
        lambda e, m: half(gain(e, m)) * (1 - 1 / len(e)) ** 0.5,
        "divides by n - 1",
    ),
    (
        check.gain_half_width,
        lambda e, m: half(gain(e, m)) * len(e) ** 0.5,
        "divide by the root of n.",
    ),
    (
        check.gain_half_width,
        lambda e, m: half(gain(e, m)) / len(e) ** 0.5,
        "not by n.",
    ),
    (check.gain_half_width, lambda e, m: 2 * half(gain(e, m)), "whole width"),
    (check.gain_half_width, lambda e, m: gain(e, m).mean(), "the mean gain;"),
    (check.gain_half_width, lambda e, m: half(e - m.amax(1)), "the best one"),
    (check.gain_half_width, lambda e, m: gain(e, m), "this is a Tensor"),
]


@pytest.mark.parametrize("k", [0.2, 0.5])
@pytest.mark.parametrize("members", [2, 5])
def test_the_flop_are_those_of_the_package(members, k):
    config = TrainConfig(
        method="sharpbalance", members=members, sam_fraction=k, warmup_epochs=7
    )
    mine = flops(1.0, 90, members, config.epochs, 7, k)
    assert cost.gradient_passes(config, samples=90) == pytest.approx(mine)
    theirs = check_scale._gradients(members, config.epochs, 7, k)
    assert 3 * 90 * members * theirs == pytest.approx(mine)


def test_the_half_width_is_the_packages():
    values = torch.tensor([1.0, 2.5, 1.5])
    found = results.interval(values.numpy())
    assert found.high - found.mean == pytest.approx(float(half(values)))


def test_what_cannot_be_shared_stays_with_any_number_of_workers():
    assert amdahl(10.0, 6.0, 10**9) == pytest.approx(2.0)
    assert math.isclose(amdahl(10.0, 6.0, 2), 6.0)


def test_the_exercises_runs_show_each_way_to_be_unfinished():
    unfinished = left(check_runs.CASES)
    assert sorted(check_runs.WHY) == sorted(unfinished)
