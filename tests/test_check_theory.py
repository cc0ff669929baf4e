"""Lesson 08's exercises: solutions pass, each mistake gets its message."""

import pytest
from answers import said_to

from sbtutor import check


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


def balanced(ratio, eta, ahead=2.0):
    low, high = (ratio**0.5 - 1) ** 2, edge(ratio)
    return (ahead - eta * (low + high)) / (eta * (low**2 + high**2))


def variance(values, k, eta, rho, sigma2):
    return sigma2 * ((1 - eta * values - eta * rho * values**2) ** (2 * k)).mean()


def by_loop(values, k, eta, rho, sigma2):
    factors = [1 - eta * v - eta * rho * v**2 for v in values.tolist()]
    return sigma2 * sum(b ** (2 * k) for b in factors) / len(factors)


def halfway(values, k, eta, rho, sigma2):
    return sigma2 * ((1 - eta * values - eta * rho * values**2) ** k).mean()


def of_mean(values, k, eta, rho, sigma2):
    return sigma2 * (1 - eta * values - eta * rho * values**2).mean() ** (2 * k)


SOLUTIONS = [
    (check.linear_sam_step, linear_step),
    (check.learner_variance, variance),
    (check.learner_variance, by_loop),
    (check.overshoot_rho, lambda r, eta: (2 / eta - edge(r)) / edge(r) ** 2),
    (check.balanced_rho, balanced),
    (check.variance_rise, "c"),
]
EXERCISES = [
    check.balanced_rho,
    check.learner_variance,
    check.linear_sam_step,
    check.overshoot_rho,
    check.variance_rise,
]
FUNCTIONS = [one for one in EXERCISES if one is not check.variance_rise]
MISTAKES = [
    (
        check.linear_sam_step,
        lambda w, a, y, eta, rho: w - eta * slope(w, a, y),
        "plain gradient descent",
    ),
    (
        check.linear_sam_step,
        lambda w, a, y, eta, rho: linear_step(w, a, y, eta, rho) + rho * slope(w, a, y),
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
    (
        check.overshoot_rho,
        lambda r, eta: 0.25,
        "for ratio = 20.0, eta = 0.01 it should",
    ),
    (check.overshoot_rho, lambda r, eta: "big", "one number is asked for"),
    (check.learner_variance, halfway, "the power is 2 k"),
    (check.learner_variance, lambda v, *a: len(v) * variance(v, *a), "divide by d"),
    (check.learner_variance, lambda *a: variance(*a[:4], 1.0), "multiply by sigma^2"),
    (check.learner_variance, lambda *a: variance(*a[:4], a[4] ** 2), "do not square"),
    (check.learner_variance, lambda *a: variance(*a[:4], a[4] ** 0.5), "take no root"),
    (check.learner_variance, of_mean, "the power of the mean"),
    (check.learner_variance, lambda v, *a: variance(v.mean(), *a), "of the mean eigen"),
    (
        check.learner_variance,
        lambda v, k, eta, *a: variance(v, k, -eta, *a),
        "the sign is wrong",
    ),
    (
        check.learner_variance,
        lambda v, k, eta, rho, s: variance(v, k, eta, -rho, s),
        "SAM looks uphill",
    ),
    (
        check.learner_variance,
        lambda v, k, eta, rho, s: variance(v, k, eta, 0, s),
        "plain gradient descent",
    ),
    (check.learner_variance, lambda *a: 1.0, "it should be"),
    (
        check.balanced_rho,
        lambda r, eta: (1 / eta - edge(r)) / edge(r) ** 2,
        "largest eig",
    ),
    (
        check.balanced_rho,
        lambda r, eta: (1 / eta - (r**0.5 - 1) ** 2) / (r**0.5 - 1) ** 4,
        "at the smallest eigenvalue",
    ),
    (check.balanced_rho, lambda r, eta: (1 / eta - r) / r**2, "at the mean eigenvalue"),
    (check.balanced_rho, lambda r, eta: (2 / eta - edge(r)) / edge(r) ** 2, "to grow"),
    (check.balanced_rho, lambda r, eta: -1 / (2 * r + 2), "you set b(low) = b(high)"),
    (check.balanced_rho, lambda r, eta: balanced(r, eta, 1.0), "a 2 on one side"),
    (
        check.balanced_rho,
        lambda r, eta: (2 / eta - 2 * r - 2) / (2 * r + 2) ** 2,
        "is not (low + high)^2",
    ),
    (
        check.balanced_rho,
        lambda r, eta: eta * balanced(r, eta),
        "left out eta in front",
    ),
    (
        check.balanced_rho,
        lambda r, eta: 2 / eta / ((r**0.5 - 1) ** 4 + edge(r) ** 2),
        "both terms shrink",
    ),
    (check.balanced_rho, lambda r, eta: 0.15, "it should be 0.1516; this is 0.15"),
    (check.variance_rise, "a", "a formula for the limit"),
    (check.variance_rise, "b", "no error grows before 0.19"),
    (check.variance_rise, "d", "where sharpness is measured"),
    (check.variance_rise, 2, "choose one of"),
]


@pytest.mark.parametrize("exercise", FUNCTIONS)
@pytest.mark.parametrize("nothing", [None, ...])
def test_a_function_that_returns_nothing_is_told_so(exercise, nothing, capsys):
    assert "returns nothing so far" in said_to(exercise, lambda *_: nothing, capsys)


@pytest.mark.parametrize("nothing", [None, ...])
def test_a_choice_that_is_not_made_is_told_so(nothing, capsys):
    assert "replace the dots by" in said_to(check.variance_rise, nothing, capsys)
