"""Each exercise: the stub fails, the solution passes, each mistake gets its message."""

import pytest
import torch

from sbtutor import check, sharpbalance


def top(scores, k):
    count = int(k * scores.shape[1])
    return scores >= scores.topk(count, dim=1).values[:, -1:]


def joined_by_and(scores, k):
    marks = top(scores, k)
    return torch.stack(
        [torch.cat([marks[:i], marks[i + 1 :]]).all(0) for i in range(len(marks))]
    )


def slope(w, a, y):
    return a.T @ (a @ w - y)


def linear_step(w, a, y, eta, rho):
    return w - eta * slope(w + rho * slope(w, a, y), a, y)


def uphill(w, a, y, rho):
    return w + rho * slope(w, a, y)


def normalised(w, a, y, eta, rho):
    g = slope(w, a, y)
    return w - eta * slope(w + rho * g / g.norm(), a, y)


def edge(ratio):
    return (ratio**0.5 + 1) ** 2


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


SOLUTIONS = {
    check.sam_step: lambda w, g, rho: w + rho * g / g.norm(),
    check.sam_masks: sharpbalance.sam_masks,
    check.linear_sam_step: linear_step,
    check.overshoot_rho: lambda r, eta: (2 / eta - edge(r)) / edge(r) ** 2,
    check.top_eigenvalue: power,
}


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda f: f.__name__)
def test_solution_passes(exercise, capsys):
    assert exercise(SOLUTIONS[exercise])
    assert capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("nothing", [None, ...])
def test_stub_fails(exercise, nothing, capsys):
    assert not exercise(lambda *_: nothing)
    assert "returns nothing so far" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("exercise", "mistake", "message"),
    [
        (check.sam_step, lambda w, g, rho: w + 0.1 * g / g.norm(), "for any rho"),
        (check.sam_step, lambda w, g, rho: w + rho * g / g.abs().sum(), "absolute"),
        (check.sam_step, lambda w, g, rho: w - rho * g / g.norm(), "downhill"),
        (check.sam_step, lambda w, g, rho: w + rho * g, "not normalised"),
        (check.sam_step, lambda w, g, rho: rho * g / g.norm(), "the step alone"),
        (check.sam_step, lambda w, g, rho: w + rho * g / g.norm() ** 2, "square"),
        (check.sam_step, lambda w, g, rho: w + rho * g.sign(), "the sign of each"),
        (check.sam_step, lambda w, g, rho: w, "should be w + rho"),
        (check.sam_step, lambda w, g, rho: w.add_(rho * g / g.norm()), "in place"),
        (check.sam_masks, top, "the \\*other\\* members"),
        (check.sam_masks, lambda s, k: top(s, k).any(0).expand(s.shape), "its own"),
        (check.sam_masks, lambda s, k: sharpbalance.sam_masks(-s, k), "flattest"),
        (check.sam_masks, lambda s, k: ~sharpbalance.sam_masks(s, k), "swapped"),
        (check.sam_masks, lambda s, k: s > 2, "among its k N sharpest"),
        (check.sam_masks, joined_by_and, "one nomination is enough"),
        (check.sam_masks, lambda s, k: sharpbalance.sam_masks(s, 0.25), "any k"),
        (
            check.linear_sam_step,
            lambda w, a, y, eta, rho: w - eta * slope(w, a, y),
            "plain gradient descent",
        ),
        (
            check.linear_sam_step,
            lambda w, a, y, eta, rho: (
                linear_step(w, a, y, eta, rho) + rho * slope(w, a, y)
            ),
            "starts at the perturbed",
        ),
        (
            check.linear_sam_step,
            lambda w, a, y, eta, rho: uphill(w, a, y, rho),
            "these are the perturbed weights",
        ),
        (
            check.linear_sam_step,
            lambda w, a, y, eta, rho: linear_step(w, a, y, eta, -rho),
            "perturbed downhill",
        ),
        (
            check.linear_sam_step,
            lambda w, a, y, eta, rho: linear_step(w, a, y, -eta, rho),
            "steps uphill",
        ),
        (
            check.linear_sam_step,
            lambda w, a, y, eta, rho: slope(uphill(w, a, y, rho), a, y),
            "the gradient alone",
        ),
        (
            check.linear_sam_step,
            lambda w, a, y, eta, rho: linear_step(w, a, y, 2 * eta, 2 * rho),
            "factor 2 too many",
        ),
        (
            check.linear_sam_step,
            lambda w, a, y, eta, rho: linear_step(w, a, y, eta / 4, rho / 4),
            "divided by the number",
        ),
        (
            check.linear_sam_step,
            lambda w, a, y, eta, rho: linear_step(w, a, y, eta, 0.3),
            "for any A and y",
        ),
        (check.linear_sam_step, lambda w, a, y, eta, rho: w[:2], "the shape should be"),
        (
            check.linear_sam_step,
            lambda w, a, y, eta, rho: w.sub_(eta * slope(uphill(w, a, y, rho), a, y)),
            "in place",
        ),
        (check.linear_sam_step, normalised, "not normalised"),
        (
            check.overshoot_rho,
            lambda r, eta: (1 / eta - edge(r)) / edge(r) ** 2,
            "becomes 0",
        ),
        (
            check.overshoot_rho,
            lambda r, eta: (2 / eta - r) / r**2,
            "the mean eigenvalue",
        ),
        (
            check.overshoot_rho,
            lambda r, eta: (2 / eta - (r**0.5 - 1) ** 2) / (r**0.5 - 1) ** 4,
            "the smallest eigenvalue",
        ),
        (
            check.overshoot_rho,
            lambda r, eta: (2 / eta - r**0.5 - 1) / (r**0.5 + 1) ** 2,
            "forgot the square",
        ),
        (
            check.overshoot_rho,
            lambda r, eta: (2 / eta - (r + 1) ** 2) / (r + 1) ** 4,
            "forgot the root",
        ),
        (check.overshoot_rho, lambda r, eta: 2 / eta / edge(r) ** 2, "left out eta l"),
        (check.overshoot_rho, lambda r, eta: 2 / eta / edge(r) - 1, "l^2, not l"),
        (
            check.overshoot_rho,
            lambda r, eta: (2 - eta * edge(r)) / edge(r) ** 2,
            "left out eta in front",
        ),
        (check.overshoot_rho, lambda r, eta: 0.1896775, "for any n / d and eta"),
        (check.overshoot_rho, lambda r, eta: "big", "return one number"),
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
            "the shape of this is \\(2,\\)",
        ),
    ],
)
def test_mistake_gets_its_message(exercise, mistake, message, capsys):
    assert not exercise(mistake)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ")
    assert message.replace("\\", "") in said
