"""Lesson 03's exercises: stubs fail, solutions pass, each mistake gets its message."""

import math

import numpy as np
import torch

from sbtutor import check, check_hyper, hyper, loguniform


def draw(low, high, count, generator):
    u = torch.rand(count, generator=generator)
    return (math.log(low) + u * math.log(high / low)).exp()


def by_powers_of_ten(low, high, count, generator):
    u = torch.rand(count, generator=generator, dtype=torch.float64)
    return 10 ** (math.log10(low) + u * (math.log10(high) - math.log10(low)))


def by_package(low, high, count, generator):
    low, high = torch.tensor([low, high]).log()
    return loguniform.sample(low, high, torch.rand(count, generator=generator)).exp()


def uniform(low, high, count, generator):
    return low + (high - low) * torch.rand(count, generator=generator)


def exp_of_base_ten(low, high, count, generator):
    return by_powers_of_ten(low, high, count, generator).log10().exp()


def one_for_all(low, high, count, generator):
    return draw(low, high, 1, generator).expand(count)


def unused_generator(low, high, count, generator):
    return draw(low, high, count, torch.default_generator)


def seeded_inside(low, high, count, generator):
    return draw(low, high, count, torch.Generator().manual_seed(0))


def true_probs(probs, labels):
    return probs[:, torch.arange(len(labels)), labels]


def nll_of(probs, labels):
    return -true_probs(probs, labels).log().mean(1)


def with_each(probs, chosen):
    before = probs[chosen].sum(0) if chosen else torch.zeros_like(probs[0])
    return (before + probs) / (len(chosen) + 1)


def next_member(probs, labels, chosen):
    means = with_each(probs, chosen)
    return int(nll_of(means, labels).argmin())


def next_as_tensor(probs, labels, chosen):
    return nll_of(with_each(probs, chosen), labels).argmin()


def next_by_loop(probs, labels, chosen):
    values = []
    for j in range(len(probs)):
        mean = probs[[*chosen, j]].mean(0)
        picked = [mean[n, y].log() for n, y in enumerate(labels.tolist())]
        values.append(-sum(picked) / len(picked))
    return values.index(min(values))


def most_nll(probs, labels, chosen):
    return int(nll_of(with_each(probs, chosen), labels).argmax())


def without_replacement(probs, labels, chosen):
    nll = nll_of(with_each(probs, chosen), labels)
    nll[chosen] = math.inf
    return int(nll.argmin())


def mean_of_nlls(probs, labels, chosen):
    return next_member(probs, labels, [])


def half_each(probs, labels, chosen):
    if not chosen:
        return next_member(probs, labels, [])
    means = (probs[chosen].mean(0) + probs) / 2
    return int(nll_of(means, labels).argmin())


SOLUTIONS = [
    (check.log_uniform, draw),
    (check.log_uniform, by_powers_of_ten),
    (check.log_uniform, by_package),
    (check.next_member, next_member),
    (check.next_member, next_as_tensor),
    (check.next_member, next_by_loop),
    (check.next_member, lambda *given: np.int64(next_member(*given))),
]
EXERCISES = [check.log_uniform, check.next_member]
MISTAKES = [
    (check.log_uniform, uniform, "these are uniform"),
    (
        check.log_uniform,
        lambda *a: draw(*a).log(),
        "these are the logarithms; the last step is exp",
    ),
    (check.log_uniform, lambda *a: draw(*a).log10(), "these are logarithms to base 10"),
    (check.log_uniform, exp_of_base_ten, "10 ** it, not exp"),
    (check.log_uniform, one_for_all, "many draws are equal"),
    (check.log_uniform, lambda *a: 2 * draw(*a), "your draws go from"),
    (
        check.log_uniform,
        lambda low, high, n, g: draw(low, high / 2, n, g),
        "should be uniform",
    ),
    (check.log_uniform, lambda *a: -draw(*a), "your draws go from"),
    (check.log_uniform, unused_generator, "hand generator"),
    (check.log_uniform, seeded_inside, "the same draws"),
    (check.log_uniform, lambda *a: draw(*a)[:10], "the shape should be (4000,)"),
    (check.log_uniform, lambda *a: draw(*a).tolist(), "this is a list"),
    (
        check.log_uniform,
        lambda low, high, n, g: draw(1e-3, 1e2, n, g),
        "for low = 0.5 and high = 8",
    ),
    (check.next_member, most_nll, "the largest NLL"),
    (check.next_member, without_replacement, "may be chosen again"),
    (check.next_member, mean_of_nlls, "best by itself"),
    (check.next_member, half_each, "half of all weight"),
    (check.next_member, lambda *_: 7, "you chose 7"),
    (check.next_member, lambda *_: 0, "with nothing chosen so far, member"),
    (check.next_member, lambda probs, *_: probs.mean((1, 2)), "this is a Tensor"),
    (check.next_member, lambda *_: [1], "this is a list"),
    (check.next_member, lambda *_: 1.0, "this is a float"),
]


def test_next_members_cases_tell_its_mistakes_apart():
    """Each mistake errs somewhere, and none is another one's on all cases."""
    cases = check_hyper._cases()
    right = [case.right for case in cases]
    found = [[int(f(c)) for c in cases] for f in check_hyper._MISTAKES.values()]
    assert len({tuple(row) for row in [right, *found]}) == len(found) + 1
    for case in cases:
        chosen = hyper.greedy_ensemble(case.probs, case.labels, size=6)
        assert chosen[len(case.chosen)] == next_by_loop(*case[:3])
