"""Curvature of the loss: the Hessian's trace and its top eigenvalue."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.sparse import linalg
from torch import Tensor

from sbtutor import vector
from sbtutor.vector import LossFn, Params

LEAST_PROBES = 8  # before a standard error may end the draws


def hessian_trace(
    loss_fn: LossFn,
    params: Params,
    probes: int,
    generator: torch.Generator,
    relative_error: float | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Hutchinson's estimate of tr(H), the sum of the loss's curvatures.

        tr(H) = E[v' H v],   v with independent entries +1 or -1

    Unbiased, since E[v v'] = I (Hutchinson 1990). Each probe costs one product H v.

    Args:
        loss_fn: from parameters to a scalar loss.
        params: the weights at which to look.
        probes: number of draws of v, at least 2; the most, if relative_error is given.
        generator: draws v (CPU).
        relative_error: stop as soon as the standard error is at most this share of the
            estimate, from the eighth probe on. To stop when the numbers look good
            makes the standard error a little too small.

    Returns:
        The mean over the probes and its standard error, in loss / weight^2.

    Raises:
        ValueError: fewer than two probes, which have no standard error;
            relative_error <= 0; a loss that is not a scalar; parameters without
            gradient.
    """
    if probes < 2:
        raise ValueError(
            f"a standard error needs at least 2 probes, got probes={probes}"
        )
    if relative_error is not None and not relative_error > 0:
        raise ValueError(
            f"relative_error must be > 0, got {relative_error}: no finite number of "
            "probes reaches it; leave it out to draw all probes"
        )
    product = vector.hessian_product(loss_fn, params)
    draws = []
    for _ in range(probes):
        v = torch.cat([_signs(p, generator).reshape(-1) for p in params.values()])
        draws.append(v @ product(v))
        if relative_error is not None and len(draws) >= LEAST_PROBES:
            mean, error = _mean_and_error(draws)
            if error <= relative_error * mean.abs():
                break
    return _mean_and_error(draws)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(0, 2, like.shape, generator=generator)
    return (2 * bits - 1).to(like)


def _mean_and_error(draws: list[Tensor]) -> tuple[Tensor, Tensor]:
    values = torch.stack(draws)
    return values.mean(), values.std() / len(draws) ** 0.5


class Eigenpair(NamedTuple):
    """The largest eigenvalue of H, a unit eigenvector, and how exact they are."""

    value: Float[Tensor, ""]
    vector: Params
    residual: Float[Tensor, ""]  # ||H v - value v||; some eigenvalue is no farther off


def hessian_top_eigenpair(
    loss_fn: LossFn, params: Params, tolerance: float | None = None
) -> Eigenpair:
    """The sharpest direction: max of v' H v over unit vectors v, and its v.

    Lanczos' method (ARPACK's, through SciPy) on products H v. The eigenvalue is the
    largest one, not the one of largest modulus; its error is at most the residual,
    and of the order residual^2 / (gap to the next eigenvalue).

    Args:
        loss_fn: from parameters to a scalar loss.
        params: the weights at which to look.
        tolerance: of the residual, relative to the eigenvalue; the square root of the
            floating-point precision if None.

    Raises:
        ValueError: a loss that is not a scalar; parameters without gradient; a
            curvature that is not finite.
        ArithmeticError: no convergence.
    """
    product = vector.hessian_product(loss_fn, params)
    like = vector.flatten(params)
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(len(like), generator=draw, dtype=torch.float64).to(like)
    first = product(start)
    if not first.isfinite().all():
        raise ValueError(
            "the curvature is not finite at these params (NaN or infinity); has the "
            "training diverged?"
        )
    if tolerance is None:
        tolerance = torch.finfo(like.dtype).eps ** 0.5
    size = len(like)
    if not first.any():  # H = 0, where ARPACK has nothing to start from
        value, v = start.new_zeros(()), start / start.norm()
    elif size <= 20:  # ARPACK would need more products than the matrix has columns
        identity = torch.eye(size, dtype=like.dtype, device=like.device)
        dense = torch.stack([product(row) for row in identity])
        values, vectors = torch.linalg.eigh((dense + dense.T) / 2)
        value, v = values[-1], vectors[:, -1]
    else:
        value, v = _lanczos(product, start, tolerance)
    residual = (product(v) - value * v).norm()
    return Eigenpair(value, vector.unflatten(v, params), residual)


def _lanczos(product, start: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    def on_arrays(v):
        return product(torch.as_tensor(v).to(start).reshape(-1)).cpu().numpy()

    first = start.cpu().numpy()
    operator = linalg.LinearOperator(
        (len(start), len(start)), matvec=on_arrays, dtype=first.dtype
    )
    try:
        values, vectors = linalg.eigsh(
            operator, k=1, which="LA", v0=first, tol=tolerance
        )
    except linalg.ArpackNoConvergence as error:
        raise ArithmeticError(
            f"the top eigenvalue did not converge to tolerance={tolerance:.1g} "
            f"({error}); pass a larger tolerance"
        ) from None
    return tuple(
        torch.as_tensor(found).to(start) for found in (values[0], vectors[:, 0])
    )


def hessian_top_eigenvalue(
    loss_fn: LossFn, params: Params, tolerance: float | None = None
) -> Float[Tensor, ""]:
    """The loss's largest curvature, max of v' H v over unit vectors v.

    See `hessian_top_eigenpair`, which also gives v and the residual.
    """
    return hessian_top_eigenpair(loss_fn, params, tolerance).value
