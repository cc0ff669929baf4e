"""Checks of lesson 06's exercises on rewriting, and on radii."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sbtutor.feedback import NOTHING, as_choice, exercise, of_numbers

# By what the first layer's weight and bias and the second one's were multiplied.
_FACTORS: dict[str, Callable[[float], tuple]] = {
    "the first layer's bias has to be multiplied, too, or else relu(alpha x) does not "
    "come out of it.": lambda a: (a, 1, 1 / a, 1),
    "leave the second layer's bias alone: only what alpha x is multiplied with has to "
    "undo alpha.": lambda a: (a, a, 1 / a, 1 / a),
    "both layers were multiplied; divide the second one by alpha.": (
        lambda a: (a, a, a, 1)
    ),
    "the first layer is multiplied, but nothing undoes it; divide the second one.": (
        lambda a: (a, a, 1, 1)
    ),
    "the second layer is divided, but the first one is as it was; multiply it.": (
        lambda a: (1, 1, 1 / a, 1)
    ),
    "the function is the same, but alpha goes the other way: multiply the first layer, "
    "divide the second.": lambda a: (1 / a, 1 / a, a, 1),
    "the weights are the old ones; multiply the first layer by alpha.": (
        lambda a: (1, 1, 1, 1)
    ),
}


@exercise("06")
def rescaled(answer: Callable[[nn.Module, float], object]) -> str | None:
    """(linear, ReLU, linear; alpha) to the same function with other weights."""
    for alpha in (10.0, 0.5):
        net = _relu_network()
        before = [p.clone() for p in net.parameters()]
        mine = answer(net, alpha)
        if mine is None or mine is Ellipsis:
            return NOTHING
        if any(not torch.equal(p, old) for p, old in zip(net.parameters(), before)):
            return "you changed the network in place; change a copy.deepcopy of it."
        if not isinstance(mine, nn.Module):
            return f"return a network; this is a {type(mine).__name__}."
        problem = _factors_problem([*mine.parameters()], before, alpha)
        if problem is not None:
            return problem
    return None


def _relu_network() -> nn.Sequential:
    draw = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    for p in net.parameters():
        p.data.copy_(torch.randn(p.shape, generator=draw))
    return net


def _factors_problem(
    mine: list[Tensor], before: list[Tensor], alpha: float
) -> str | None:
    if [p.shape for p in mine] != [p.shape for p in before]:
        return "return a network of the same layers."

    def same(factors: tuple) -> bool:
        return all(
            torch.allclose(p, old * factor, rtol=1e-4)
            for p, old, factor in zip(mine, before, factors)
        )

    if same((alpha, alpha, 1 / alpha, 1)):
        return None
    for text, factors in _FACTORS.items():
        if same(factors(alpha)):
            return text
    return (
        f"for alpha {alpha:g} the first layer's weight and bias should be {alpha:g} "
        f"times, the second one's weight {1 / alpha:g} times what they were."
    )


@exercise("06")
def longest_step(answer: Callable[[float, int], object]) -> str | None:
    """(radius of a box, entries of u) to the length of the longest u in it."""
    return of_numbers(
        answer,
        [(0.01, 6274), (0.3, 16)],
        "the length",
        lambda rho, size: rho * math.sqrt(size),
        {
            "this is how far a single entry may go; all of them may, at once.": (
                lambda rho, size: rho
            ),
            "this is the sum of the entries; the length is the root of the sum of "
            "squares.": lambda rho, size: rho * size,
            "this is the length squared; you forgot the root.": (
                lambda rho, size: rho**2 * size
            ),
            "each entry is rho, so its square is rho^2: the root leaves rho outside.": (
                lambda rho, size: math.sqrt(rho * size)
            ),
            "this is the length for entries of 1; multiply by rho.": (
                lambda rho, size: math.sqrt(size)
            ),
            "the box goes as far in both directions, but u points in one of them; do "
            "not double.": lambda rho, size: 2 * rho * math.sqrt(size),
        },
    )


@exercise("06")
def unmoved_weights(answer: object) -> str | None:
    """Which weights the adaptive worst case can never move."""
    return as_choice(
        answer,
        {
            "a": "a large weight may go further than a small one: weight i moves by "
            "|w_i| u_i.",
            "b": None,
            "c": "where the gradient is 0 now it need not be after the first step of "
            "the search; look at |w_i| u_i.",
            "d": "the radius says how far u goes, for every weight; look at |w_i| u_i.",
        },
    )
