"""Checks of lesson 08's exercises."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sbtutor.feedback import NOTHING, as_tensor, say


def linear_sam_step(
    answer: Callable[[Tensor, Tensor, Tensor, float, float], Tensor],
) -> bool:
    """Lesson 08: (w, A, y, eta, rho) to w - eta grad f(w + rho grad f(w))."""
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
            break
    return say(problem)


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


def overshoot_rho(answer: Callable[[float, float], float]) -> bool:
    """Lesson 08: (n / d, eta) to the rho from which the top eigenvalue overshoots."""
    for ratio, eta in ((20.0, 0.01), (4.0, 0.1)):
        mine = answer(ratio, eta)
        if mine is None or mine is Ellipsis:
            return say(NOTHING)
        try:
            mine = float(mine)
        except (TypeError, ValueError):
            return say(f"return one number; this is a {type(mine).__name__}.")
        problem = _overshoot_problem(mine, ratio, eta)
        if problem is not None:
            return say(problem)
    return say(None)


def _overshoot_problem(mine: float, ratio: float, eta: float) -> str | None:
    def solved(top: float, total: float = 2.0) -> float:
        return (total - eta * top) / (eta * top**2)

    root = math.sqrt(ratio)
    top = (root + 1) ** 2
    if math.isclose(mine, solved(top), rel_tol=1e-3):
        return None
    wrong = {
        "this is where the factor becomes 0; the error grows once it is below -1, so "
        "set eta l + eta rho l^2 to 2.": solved(top, 1.0),
        "you took the mean eigenvalue n / d; the largest overshoots first.": solved(
            ratio
        ),
        "you took the smallest eigenvalue; the largest overshoots first.": solved(
            (root - 1) ** 2
        ),
        "the largest eigenvalue is (sqrt(n / d) + 1)^2; you forgot the square.": solved(
            root + 1
        ),
        "the largest eigenvalue is (sqrt(n / d) + 1)^2; you forgot the root.": solved(
            (ratio + 1) ** 2
        ),
        "you left out eta l; both terms shrink the error.": 2 / (eta * top**2),
        "the perturbation's term has l^2, not l.": (2 - eta * top) / (eta * top),
        "you left out eta in front of rho l^2.": (2 - eta * top) / top**2,
    }
    for text, value in wrong.items():
        if math.isclose(mine, value, rel_tol=1e-3):
            return text
    return (
        "solve eta l + eta rho l^2 = 2 for rho, with l the largest eigenvalue, for any "
        "n / d and eta."
    )
