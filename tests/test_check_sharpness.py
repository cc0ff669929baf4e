"""Lesson 06's exercises: solutions pass, each mistake gets its message."""

import copy

import pytest
import torch
from answers import said_to
from torch import nn

from sbtutor import check


def power(product, size, steps, length=torch.norm, last=lambda v, u: v @ u):
    """The steps of power iteration; `last` makes the answer of v and H v."""
    v = torch.randn(size, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        v = product(v)
        v = v / length(v)
    return last(v, product(v))


def total(product, size, steps):
    """The trace, column by column, in as many products as were asked for."""
    columns = torch.stack([product(row) for row in torch.eye(size)])
    for _ in range(steps - size):
        product(columns[0])
    return columns.trace()


def rewritten(*factors):
    """The first weight and bias and the second ones, multiplied by f(alpha) each."""

    def answer(net, alpha):
        made = copy.deepcopy(net)
        with torch.no_grad():
            for p, factor in zip(made.parameters(), factors):
                p *= alpha**factor
        return made

    return answer


def in_place(net, alpha):
    with torch.no_grad():
        net[0].weight *= alpha
        net[0].bias *= alpha
        net[2].weight /= alpha
    return net


def signs(size):
    return 2.0 * torch.randint(0, 2, (size,)) - 1


def hutchinson(product, size, probes, draw=signs, last=lambda v, u: v @ u):
    """The mean over probes; `last` makes the number of v and H v."""
    found = 0.0
    for _ in range(probes):
        v = draw(size)
        found += last(v, product(v)) / probes
    return found


def drawn(draw):
    return lambda *given: hutchinson(*given, draw=draw)


def taken(last):
    return lambda *given: hutchinson(*given, last=last)


def one_probe(product, size, probes):
    v = signs(size)
    return sum(v @ product(v) for _ in range(probes)) / probes


def unit_vectors(product, size, probes):
    return sum(v @ product(v) for v in torch.eye(size))


def all_at_once(product, size, probes):
    v = signs(size * probes).reshape(size, probes)
    return (v.double() * product(v)).sum(0).mean()


def each_probe(product, size, probes):
    found = []
    for _ in range(probes):
        v = signs(size)
        found.append(v @ product(v))
    return torch.stack(found)


SOLUTIONS = [
    (check.top_eigenvalue, power),
    (check.rescaled, rewritten(1, 1, -1, 0)),
    (check.hutchinson, hutchinson),
    (check.hutchinson, drawn(lambda n: torch.randn(n).double().sign())),
    (check.longest_step, lambda rho, size: rho * size**0.5),
    (check.longest_step, lambda rho, size: torch.full((size,), rho).norm()),
    (check.unmoved_weights, "b"),
]
EXERCISES = [
    check.hutchinson,
    check.longest_step,
    check.rescaled,
    check.top_eigenvalue,
    check.unmoved_weights,
]
FUNCTIONS = [one for one in EXERCISES if one is not check.unmoved_weights]
MISTAKES = [
    (
        check.top_eigenvalue,
        lambda p, n, k: power(p, n, k, length=lambda v: 1),
        "the numbers explode",
    ),
    (
        check.top_eigenvalue,
        lambda p, n, k: power(p, n, k, last=lambda v, u: v),
        "this is a vector",
    ),
    (
        check.top_eigenvalue,
        lambda p, n, k: power(p, n, k, last=lambda v, u: u.norm()),
        "the sign is lost",
    ),
    (
        check.top_eigenvalue,
        lambda p, n, k: power(p, n, k, last=lambda v, u: v.norm()),
        "the length of v",
    ),
    (
        check.top_eigenvalue,
        lambda p, n, k: power(p, n, k, length=lambda v: v.abs().sum()),
        "sum of absolute values",
    ),
    (
        check.top_eigenvalue,
        lambda p, n, k: power(p, n, k, length=lambda v: v.abs().max()),
        "largest entry",
    ),
    (
        check.top_eigenvalue,
        lambda p, n, k: power(p, n, k, last=lambda v, u: u @ u),
        "eigenvalue squared",
    ),
    (check.top_eigenvalue, lambda p, n, k: power(p, n, 1), "was taken 2 times"),
    (
        check.top_eigenvalue,
        lambda p, n, k: sum(p(torch.zeros(n)).sum() for _ in range(k)),
        "start from a random v",
    ),
    (check.top_eigenvalue, total, "the trace"),
    (
        check.top_eigenvalue,
        lambda p, n, k: power(p, n, k) if n == 5 else 0 * power(p, n, k) + 3.0,
        "the largest eigenvalue by sign",
    ),
    (
        check.top_eigenvalue,
        lambda p, n, k: power(p, n, k) + 0.5,
        "farthest from 0, any H",
    ),
    (check.top_eigenvalue, lambda p, n, k: "big", "return one number; this is"),
    (
        check.top_eigenvalue,
        lambda p, n, k: torch.ones(2),
        "the shape of this is (2,)",
    ),
    (check.rescaled, rewritten(1, 0, -1, 0), "the first layer's bias has to be"),
    (check.rescaled, rewritten(1, 1, -1, -1), "leave the second layer's bias alone"),
    (check.rescaled, rewritten(1, 1, 1, 0), "both layers were multiplied"),
    (check.rescaled, rewritten(1, 1, 0, 0), "nothing undoes it"),
    (check.rescaled, rewritten(0, 0, -1, 0), "the first one is as it was"),
    (check.rescaled, rewritten(-1, -1, 1, 0), "alpha goes the other way"),
    (check.rescaled, rewritten(0, 0, 0, 0), "the weights are the old ones"),
    (check.rescaled, rewritten(2, 2, -2, 0), "for alpha 10 the first layer's"),
    (check.rescaled, in_place, "in place"),
    (check.rescaled, lambda net, alpha: net.state_dict(), "this is a OrderedDict"),
    (check.rescaled, lambda net, alpha: nn.Linear(3, 2), "of the same layers"),
    (
        check.hutchinson,
        drawn(lambda n: 2 * torch.randint(0, 2, (n,)) - 1),
        "make them floats",
    ),
    (check.hutchinson, one_probe, "the same probe is used again"),
    (check.hutchinson, unit_vectors, "these are unit vectors"),
    (check.hutchinson, drawn(lambda n: signs(n).relu()), "the entries are 0 or 1"),
    (check.hutchinson, drawn(torch.randn), "normal numbers are right on average"),
    (check.hutchinson, drawn(lambda n: signs(n) / n**0.5), "divided by its length"),
    (check.hutchinson, drawn(lambda n: signs(1).expand(n)), "are alike; draw a sign"),
    (check.hutchinson, all_at_once, "one v at a time"),
    (check.hutchinson, lambda p, n, k: hutchinson(p, n, 30), "40 probes were asked"),
    (check.hutchinson, lambda p, n, k: each_probe(p, n, k).sum(), "divide by their"),
    (check.hutchinson, lambda p, n, k: each_probe(p, n, k)[-1], "the last probe's"),
    (check.hutchinson, lambda p, n, k: each_probe(p, n, k)[0], "the first probe's"),
    (check.hutchinson, lambda p, n, k: each_probe(p, n, k), "one number is asked for"),
    (check.hutchinson, lambda p, n, k: hutchinson(p, n, k) / n, "the mean eigenvalue"),
    (check.hutchinson, taken(lambda v, u: v @ v), "this is v' v"),
    (check.hutchinson, taken(lambda v, u: u.norm()), "the mean length of H v"),
    (check.hutchinson, taken(lambda v, u: u.sum()), "this adds up H v"),
    (
        check.hutchinson,
        lambda p, n, k: each_probe(p, n, k).std(),
        "this is the scatter",
    ),
    (
        check.hutchinson,
        lambda p, n, k: each_probe(p, n, k).std() / k**0.5,
        "this is the standard error",
    ),
    (check.hutchinson, lambda p, n, k: 1 + hutchinson(p, n, k), "for your probes"),
    (check.hutchinson, lambda p, n, k: 3.0, "never taken"),
    (check.longest_step, lambda rho, size: rho, "a single entry"),
    (check.longest_step, lambda rho, size: rho * size, "the sum of the entries"),
    (check.longest_step, lambda rho, size: rho**2 * size, "forgot the root"),
    (check.longest_step, lambda rho, size: (rho * size) ** 0.5, "leaves rho outside"),
    (check.longest_step, lambda rho, size: size**0.5, "multiply by rho"),
    (check.longest_step, lambda rho, size: 2 * rho * size**0.5, "do not double"),
    (check.longest_step, lambda rho, size: 1.0, "size = 6274 it should be 0.7921"),
    (check.unmoved_weights, "a", "a large weight may go further"),
    (check.unmoved_weights, "c", "after the first step"),
    (check.unmoved_weights, "d", "for every weight"),
    (check.unmoved_weights, "e", "choose one of a, b, c, d"),
]


@pytest.mark.parametrize("exercise", FUNCTIONS)
@pytest.mark.parametrize("nothing", [None, ...])
def test_a_function_that_returns_nothing_is_told_so(exercise, nothing, capsys):
    assert "returns nothing so far" in said_to(exercise, lambda *_: nothing, capsys)


@pytest.mark.parametrize("nothing", [None, ...])
def test_a_choice_that_is_not_made_is_told_so(nothing, capsys):
    assert "replace the dots by" in said_to(check.unmoved_weights, nothing, capsys)
