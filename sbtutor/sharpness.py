"""How sharp a minimum is: loss rise, curvature, per-sample gradient norms."""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sbtutor import ascent, models, perturb, vector
from sbtutor.curvature import (
    Eigenpair,
    hessian_top_eigenpair,
    hessian_top_eigenvalue,
    hessian_trace,
)
from sbtutor.fisher import fisher_trace
from sbtutor.vector import LossFn, Params, Vector

__all__ = [
    "Eigenpair",
    "average_sharpness",
    "fisher_trace",
    "hessian_top_eigenpair",
    "hessian_top_eigenvalue",
    "hessian_trace",
    "loss_of",
    "of_members",
    "parameters_of",
    "sam_sharpness",
    "worst_case_sharpness",
]


def loss_of(
    model: nn.Module, images: Float[Tensor, "N ..."], labels: Int[Tensor, " N"]
) -> LossFn:
    """The mean cross-entropy of `model` as a function of its parameters.

    The model is called in the mode it is in; put it in eval mode first, so that
    BatchNorm uses its running statistics and stays as it is.
    """
    return lambda params: F.cross_entropy(
        functional_call(model, params, (images,)), labels
    )


def parameters_of(model: nn.Module) -> Params:
    """The model's parameters by name, cut off from any graph."""
    return {name: p.detach() for name, p in model.named_parameters()}


def of_members(
    measure: Callable[[LossFn, Params], Tensor],
    members: Sequence[nn.Module],
    images: Float[Tensor, "N ..."],
    labels: Int[Tensor, " N"],
) -> Float[Tensor, " M"]:
    """One measure for all members, each in eval mode, on the same images.

        of_members(lambda loss, w: sam_sharpness(loss, w, 0.1), members, x, y)

    Args:
        measure: from a loss function and parameters to a scalar.
        members: the networks; their modes are restored afterwards.
        images: float images as the models take them; moved to each member's device.
        labels: their classes.

    Raises:
        ValueError: no members.
    """
    if not members:
        raise ValueError("an ensemble needs at least one member, got none")
    values = []
    for member in members:
        device = next(member.parameters()).device
        with models.evaluating(member):
            loss_fn = loss_of(member, images.to(device), labels.to(device))
            values.append(measure(loss_fn, parameters_of(member)))
    return torch.stack(values)


def _check_radius(rho: float) -> None:
    if not (isinstance(rho, Real) and 0 < rho < math.inf):
        raise ValueError(f"sharpness looks a distance rho > 0 away, got rho={rho}")


def sam_sharpness(loss_fn: LossFn, params: Params, rho: float) -> Float[Tensor, ""]:
    """The loss rise of SAM's own step, L(w + rho g / ||g||) - L(w).

    A first-order answer to max_{||e|| <= rho} L(w + e) - L(w); Foret et al. 2021.

    Args:
        loss_fn: from parameters to a scalar loss.
        params: the weights w.
        rho: radius > 0, in the unit of the weights.

    Returns:
        A scalar in the unit of the loss.

    Raises:
        ValueError: rho <= 0; a loss that is not a scalar; parameters without gradient.
    """
    _check_radius(rho)
    vector.check(params)
    loss, slope = vector.loss_and_gradient(loss_fn, vector.flatten(params), params)
    with torch.no_grad():
        step = vector.unflatten(slope, params)
        return loss_fn(perturb.along_gradient(params, step, rho)) - loss


def worst_case_sharpness(
    loss_fn: LossFn,
    params: Params,
    rho: float,
    norm: ascent.Norm = "l2",
    adaptive: bool = True,
    steps: int = 20,
    rule: ascent.Rule = "textbook",
) -> Float[Tensor, ""]:
    """The highest loss rise that projected ascent finds within reach of w.

        max L(w + e) - L(w)   over   || e / T ||_p <= rho

    with T = |w| entry by entry (adaptive: each weight may move in proportion to its
    size, and a weight that is 0 stays) or T = 1. The paper's figures plot the adaptive
    one, averaged over batches. Found by Auto-PGD (Croce and Hein 2020) from e = 0: 20
    steps, the first 2 rho long, the highest loss on the way is kept. So the value is a
    lower bound of the maximum.

    Args:
        loss_fn: from parameters to a scalar loss.
        params: the weights w.
        rho: radius > 0; without unit if adaptive, else in the unit of the weights.
        norm: "l2" or "linf", which p.
        adaptive: whether T = |w|.
        steps: gradient steps.
        rule: "textbook" steps and projects in e / T, as Auto-PGD does. "code" does as
            the published code of Lu et al. 2024: it multiplies the l2 step once by |w|,
            projects in e, averages the new place with the last but one (the first time
            too), counts new records, not rises, and keeps its offset when it puts the
            weights back to the best place. It need not come near the maximum.

    Returns:
        A scalar >= 0 in the unit of the loss.

    Raises:
        ValueError: rho <= 0, steps < 1, an unknown norm or rule; a loss that is not a
            scalar; parameters without gradient.
    """
    _check_radius(rho)
    _check_choice("norm", norm, get_args(ascent.Norm))
    _check_choice("rule", rule, get_args(ascent.Rule))
    if steps < 1:
        raise ValueError(f"the ascent needs at least 1 step, got steps={steps}")
    vector.check(params)
    ball = ascent.Ball(_scale(params, adaptive), rho, norm, rule)
    return ascent.rise(loss_fn, params, ball, steps)


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        known = " or ".join(map(repr, choices))
        raise ValueError(f"unknown {what} {value!r}: write {known}")


def _scale(params: Params, adaptive: bool) -> Vector:
    w = vector.flatten(params)
    return w.abs() if adaptive else torch.ones_like(w)


def average_sharpness(
    loss_fn: LossFn,
    params: Params,
    rho: float,
    draws: int,
    generator: torch.Generator,
    adaptive: bool = True,
) -> Float[Tensor, ""]:
    """The mean loss rise at random places around w.

        E L(w + rho T z) - L(w),   z ~ N(0, I)

    with T = |w| (adaptive) or T = 1; Lu et al. 2024 take 100 draws. For small rho it is
    rho^2 / 2 times the trace of T H T.

    Args:
        loss_fn: from parameters to a scalar loss.
        params: the weights w.
        rho: standard deviation > 0 of a weight's step, relative to the weight if
            adaptive.
        draws: number of random places, at least 1.
        generator: draws z (CPU).
        adaptive: whether T = |w|.

    Returns:
        A scalar in the unit of the loss; it can be negative.

    Raises:
        ValueError: rho <= 0, draws < 1, a loss that is not a scalar, no parameters.
    """
    _check_radius(rho)
    if draws < 1:
        raise ValueError(f"a mean needs at least 1 draw, got draws={draws}")
    vector.check(params)
    w, scale = vector.flatten(params), _scale(params, adaptive)
    with torch.no_grad():
        start = vector.scalar(loss_fn(params))
        total = torch.zeros_like(start)
        for _ in range(draws):
            z = torch.randn(len(w), generator=generator, dtype=w.dtype).to(w.device)
            place = vector.unflatten(w + rho * scale * z, params)
            total += vector.scalar(loss_fn(place)) - start
    return total / draws
