"""All parameters as one vector: loss, gradient and curvature products along it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Params = dict[str, Tensor]
LossFn = Callable[[Params], Tensor]
Vector = Float[Tensor, " P"]


def flatten(params: Params) -> Vector:
    """All P numbers in one vector, in the order of the dict."""
    return torch.cat([p.detach().reshape(-1) for p in params.values()])


def unflatten(vector: Vector, like: Params) -> Params:
    """The vector's parts under the names and in the shapes of `like`; no copies."""
    parts = vector.split([p.numel() for p in like.values()])
    return {
        name: part.view(p.shape)
        for (name, p), part in zip(like.items(), parts, strict=True)
    }


def check(params: Params) -> None:
    """Refuse what has no gradient.

    Raises:
        ValueError: no parameters, or one that does not hold real numbers of 32 or 64
            bits.
    """
    if not isinstance(params, dict) or not any(p.numel() for p in params.values()):
        raise ValueError(
            "params must be a dict of tensors with at least one number, so that there "
            f"is a weight space to look at, got {type(params).__name__} without any; "
            "pass sharpness.parameters_of(model)"
        )
    for name, p in params.items():
        if p.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"parameter {name!r} holds {p.dtype}: a step of a small radius would "
                "drown in rounding; measure with .float() weights"
            )
        if not p.is_floating_point():
            raise ValueError(
                f"parameter {name!r} holds {p.dtype}, which has no gradient; "
                "leave it out of params, or convert it with .float()"
            )


def check_finite(*values: Tensor) -> None:
    """Refuse NaN and infinity, which no comparison would notice.

    Raises:
        ValueError: a value is not finite.
    """
    if not all(value.isfinite().all() for value in values):
        raise ValueError(
            "the loss or its gradient is not finite within the radius (NaN or "
            "infinity): look less far (a smaller rho), or check that training has not "
            "diverged"
        )


def scalar(loss: Tensor) -> Float[Tensor, ""]:
    """The loss itself, refused unless it is a single number in a tensor."""
    if not isinstance(loss, Tensor):
        raise ValueError(
            f"loss_fn must return a tensor, got {type(loss).__name__}; return the loss "
            "itself, without .item()"
        )
    if loss.dim() != 0:
        raise ValueError(
            f"loss_fn must return a scalar, got shape {tuple(loss.shape)}; "
            "take the mean over the samples"
        )
    return loss


def loss_with_graph(
    loss_fn: LossFn, point: Vector, like: Params
) -> tuple[Float[Tensor, ""], tuple[Tensor, ...]]:
    """The loss at a point and the leaves of its graph, which share its memory.

    Raises:
        ValueError: a loss that is not a scalar, or depends on no parameter.
    """
    leaves = {
        name: part.detach().requires_grad_()
        for name, part in unflatten(point, like).items()
    }
    loss = scalar(loss_fn(leaves))
    if not loss.requires_grad:
        raise ValueError(
            "the loss does not depend on params, so it has no gradient; loss_fn must "
            "compute with the tensors it is given, outside torch.no_grad()"
        )
    return loss, tuple(leaves.values())


def loss_and_gradient(
    loss_fn: LossFn, point: Vector, like: Params
) -> tuple[Float[Tensor, ""], Vector]:
    """Loss and gradient at a point.

    Raises:
        ValueError: as `loss_with_graph`; a parameter on which the loss does not depend.
    """
    loss, leaves = loss_with_graph(loss_fn, point, like)
    slopes = torch.autograd.grad(loss, leaves, allow_unused=True)
    return loss.detach(), torch.cat([s.reshape(-1) for s in _all(slopes, like)])


def _all(slopes: tuple[Tensor | None, ...], like: Params) -> tuple[Tensor, ...]:
    unused = [n for n, slope in zip(like, slopes, strict=True) if slope is None]
    if unused:
        raise ValueError(
            f"the loss does not depend on {', '.join(map(repr, unused))}, which "
            "therefore has no gradient; leave it out of params"
        )
    return slopes


def hessian_product(loss_fn: LossFn, params: Params) -> Callable[[Vector], Vector]:
    """From v to H v, H the loss's matrix of second derivatives at `params`.

    By double backward: H v is the gradient of <gradient, v>. The graph of the
    gradient is made once and kept for all products.

    Raises:
        ValueError: as `loss_and_gradient`.
    """
    check(params)
    loss, leaves = loss_with_graph(loss_fn, flatten(params), params)
    slopes = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    slopes = _all(slopes, params)
    curved = [i for i, s in enumerate(slopes) if s.requires_grad]

    def product(v: Vector) -> Vector:
        if not curved:  # a linear loss
            return torch.zeros_like(v)
        parts = tuple(unflatten(v, params).values())
        bent = torch.autograd.grad(
            [slopes[i] for i in curved],
            leaves,
            [parts[i] for i in curved],
            retain_graph=True,
            materialize_grads=True,
        )
        return torch.cat([b.reshape(-1) for b in bent])

    return product
