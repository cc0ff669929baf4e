"""Checks of lesson 08's exercises."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor.feedback import as_choice, as_tensor, exercise, of_numbers


@exercise("08")
def linear_sam_step(
    answer: Callable[[Tensor, Tensor, Tensor, float, float], Tensor],
) -> str | None:
    """(w, A, y, eta, rho) to w - eta grad f(w + rho grad f(w))."""
    generator = torch.Generator().manual_seed(0)
    a, w = torch.randn(4, 3, generator=generator), torch.tensor([1.0, -2.0, 0.5])
    y = torch.randn(4, generator=generator)
    for eta, rho in ((0.1, 0.3), (0.2, 0.05)):  # a second pair, so that both are used
        before = w.clone()
        mine = answer(w, a.clone(), y.clone(), eta, rho)
        problem = as_tensor(mine, before, "the new weights")
        if problem is None and not torch.equal(w, before):
            problem = "you changed w in place; return a new tensor."
        problem = problem or _linear_sam_step_problem(mine, w, a, y, eta, rho)
        if problem is not None:
            return problem
    return None


def _linear_sam_step_problem(
    mine: Tensor, w: Tensor, a: Tensor, y: Tensor, eta: float, rho: float
) -> str | None:
    def slope(at: Tensor) -> Tensor:
        return a.T @ (a @ at - y)

    g = slope(w)
    ahead = w + rho * g
    if torch.allclose(mine.to(w), w - eta * slope(ahead), atol=1e-5):
        return None
    wrong = {
        "this is plain gradient descent; take the gradient at w + rho grad f(w).": w
        - eta * g,
        "the step starts at the perturbed weights; go back and start it at w.": ahead
        - eta * slope(ahead),
        "these are the perturbed weights; take the gradient there, and step with it "
        "from w.": ahead,
        "you perturbed downhill; SAM looks uphill, at w + rho grad f(w).": w
        - eta * slope(w - rho * g),
        "you normalised the perturbation; in this lesson SAM is not normalised.": w
        - eta * slope(w + rho * g / g.norm()),
        "this steps uphill; subtract the gradient.": w + eta * slope(ahead),
        "this is the gradient alone; the new weights are w - eta times it.": slope(
            ahead
        ),
        "there is a factor 2 too many; f has 1/2 in front, so its gradient is "
        "A'(A w - y).": w - eta * 2 * slope(w + rho * 2 * g),
        "you divided by the number of samples; f is a sum, not a mean.": w
        - eta * slope(w + rho * g / len(a)) / len(a),
    }
    for text, value in wrong.items():
        if torch.allclose(mine.to(value), value, atol=1e-5):
            return text
    return (
        "the result should be w - eta * grad f(w + rho * grad f(w)), for any A and y."
    )


def _edges(ratio: float) -> tuple[float, float]:
    """The smallest and the largest eigenvalue, by n / d."""
    root = math.sqrt(ratio)
    return (root - 1) ** 2, (root + 1) ** 2


def _solved(top: float, eta: float, total: float = 2.0) -> float:
    """The rho at which eta l + eta rho l^2 is `total`."""
    return (total - eta * top) / (eta * top**2)


def _overshoot(ratio: float, eta: float) -> float:
    return _solved(_edges(ratio)[1], eta)


_NOT_OVERSHOOTS: dict[str, Callable[[float, float], float]] = {
    "this is where the factor becomes 0; the error grows once it is below -1, so "
    "set eta l + eta rho l^2 to 2.": lambda r, eta: _solved(_edges(r)[1], eta, 1.0),
    "you took the mean eigenvalue n / d; the largest overshoots first.": _solved,
    "you took the smallest eigenvalue; the largest overshoots first.": (
        lambda r, eta: _solved(_edges(r)[0], eta)
    ),
    "the largest eigenvalue is (sqrt(n / d) + 1)^2; you forgot the square.": (
        lambda r, eta: _solved(math.sqrt(r) + 1, eta)
    ),
    "the largest eigenvalue is (sqrt(n / d) + 1)^2; you forgot the root.": (
        lambda r, eta: _solved((r + 1) ** 2, eta)
    ),
    "you left out eta l; both terms shrink the error.": (
        lambda r, eta: 2 / (eta * _edges(r)[1] ** 2)
    ),
    "the perturbation's term has l^2, not l.": (
        lambda r, eta: 2 / (eta * _edges(r)[1]) - 1
    ),
    "you left out eta in front of rho l^2.": (
        lambda r, eta: (2 - eta * _edges(r)[1]) / _edges(r)[1] ** 2
    ),
}


@exercise("08")
def overshoot_rho(answer: Callable[[float, float], object]) -> str | None:
    """(n / d, eta) to the rho from which on the error at the top eigenvalue grows."""

    def right(ratio: float, eta: float) -> float:
        return _overshoot(ratio, eta)

    cases = [(20.0, 0.01), (4.0, 0.1)]
    return of_numbers(answer, cases, "rho", right, _NOT_OVERSHOOTS)


def _balanced(ratio: float, eta: float) -> float:
    """Where b(smallest) = -b(largest)."""
    low, high = _edges(ratio)
    return (2 - eta * (low + high)) / (eta * (low**2 + high**2))


_NOT_BALANCED: dict[str, Callable[[float, float], float]] = {
    "this is where b at the largest eigenvalue is 0; the smallest one's is still far "
    "from 0 there. Set b(low) = -b(high).": (
        lambda r, eta: _solved(_edges(r)[1], eta, 1.0)
    ),
    "this is where b at the smallest eigenvalue is 0; there the largest one diverges. "
    "Set b(low) = -b(high).": lambda r, eta: _solved(_edges(r)[0], eta, 1.0),
    "this is where b at the mean eigenvalue is 0, but the largest factors are at the "
    "ends. Set b(low) = -b(high).": lambda r, eta: _solved(r, eta, 1.0),
    "this is where the error starts to grow, as in the exercise before; here both ends "
    "should be equally far from 0.": _overshoot,
    "you set b(low) = b(high); as low < high, b falls, so one of them has to be "
    "negative: b(low) = -b(high).": lambda r, eta: -1 / sum(_edges(r)),
    "there is a 2 on one side, from the 1 in b(low) and the 1 in b(high).": (
        lambda r, eta: _balanced(r, eta) - 1 / (eta * sum(x**2 for x in _edges(r)))
    ),
    "the perturbation's term has l^2: low^2 + high^2 is not (low + high)^2.": (
        lambda r, eta: (2 - eta * sum(_edges(r))) / (eta * sum(_edges(r)) ** 2)
    ),
    "you left out eta in front of rho (low^2 + high^2).": (
        lambda r, eta: eta * _balanced(r, eta)
    ),
    "you left out eta (low + high); both terms shrink the error.": (
        lambda r, eta: 2 / (eta * sum(x**2 for x in _edges(r)))
    ),
}


@exercise("08")
def balanced_rho(answer: Callable[[float, float], object]) -> str | None:
    """(n / d, eta) to the rho at which the factors' ends are equally far from 0."""

    def right(ratio: float, eta: float) -> float:
        return _balanced(ratio, eta)

    cases = [(20.0, 0.01), (4.0, 0.1)]
    return of_numbers(answer, cases, "rho", right, _NOT_BALANCED)


def _variance(values: Tensor, k: int, eta: float, rho: float, sigma2: float) -> Tensor:
    """sigma^2 times the mean of b^(2 k)."""
    return sigma2 * _factors(values, eta, rho).pow(2 * k).mean()


def _factors(values: Tensor, eta: float, rho: float) -> Tensor:
    return 1 - eta * values - eta * rho * values**2


_NOT_VARIANCES: dict[str, Callable[..., Tensor]] = {
    "the power is 2 k, as the variance is a mean of squares.": (
        lambda v, k, eta, rho, s: s * _factors(v, eta, rho).pow(k).mean()
    ),
    "this is the sum over the eigenvalues; divide by d, their number.": (
        lambda v, k, eta, rho, s: len(v) * _variance(v, k, eta, rho, s)
    ),
    "multiply by sigma^2, the variance of a first weight.": (
        lambda v, k, eta, rho, s: _variance(v, k, eta, rho, 1.0)
    ),
    "sigma^2 is what is given; do not square it again.": (
        lambda v, k, eta, rho, s: _variance(v, k, eta, rho, s**2)
    ),
    "sigma^2 is what is given; take no root of it.": (
        lambda v, k, eta, rho, s: _variance(v, k, eta, rho, s**0.5)
    ),
    "the power comes first, then the mean: this is the power of the mean.": (
        lambda v, k, eta, rho, s: s * _factors(v, eta, rho).mean().pow(2 * k)
    ),
    "this is the factor of the mean eigenvalue; take each one's factor.": (
        lambda v, k, eta, rho, s: s * _factors(v.mean(), eta, rho).pow(2 * k)
    ),
    "the sign is wrong: b = 1 - eta l - eta rho l^2.": (
        lambda v, k, eta, rho, s: _variance(v, k, -eta, rho, s)
    ),
    "SAM looks uphill: its term has a minus, as eta l has.": (
        lambda v, k, eta, rho, s: _variance(v, k, eta, -rho, s)
    ),
    "this is plain gradient descent; SAM's term eta rho l^2 is missing.": (
        lambda v, k, eta, rho, s: _variance(v, k, eta, 0.0, s)
    ),
}


@exercise("08")
def learner_variance(
    answer: Callable[[Tensor, int, float, float, float], object],
) -> str | None:
    """(eigenvalues (d,), k, eta, rho, sigma^2) to the variance of the answers."""
    cases = [([12.0, 18.0, 25.0, 30.0], 3, 0.01, 0.05), ([0.5, 2.0, 4.0], 2, 0.1, 0.3)]
    given = [
        (torch.tensor(values, dtype=torch.float64), k, eta, rho, 0.3)
        for values, k, eta, rho in cases
    ]

    def right(values: Tensor, k: int, eta: float, rho: float, sigma2: float) -> Tensor:
        return _variance(values, k, eta, rho, sigma2)

    return of_numbers(answer, given, "the variance", right, _NOT_VARIANCES)


@exercise("08")
def variance_rise(answer: object) -> str | None:
    """Why the variance rises before any error grows."""
    return as_choice(
        answer,
        {
            "a": "it is a formula for the limit, and simulations show the same rise; "
            "look at the factors of single directions.",
            "b": "no error grows before 0.19; look at the factors in the first figure.",
            "c": None,
            "d": "rho0 is where sharpness is measured; the variance does not know it.",
        },
    )
