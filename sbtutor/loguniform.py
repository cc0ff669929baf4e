"""The log-uniform distribution on [a, b], given by the logarithms of its bounds."""

import torch
from jaxtyping import Float
from torch import Tensor

GAP = 1e-6  # least width, as a share of half the permitted one


def sample(
    low: Float[Tensor, "*shape"],
    high: Float[Tensor, "*shape"],
    u: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    """The logarithm of a draw: log lambda = log a + u (log b - log a).

    For u uniform on [0, 1), lambda is log-uniform on [a, b). Gradients reach the
    bounds: d lambda / d log a = (1 - u) lambda, d lambda / d log b = u lambda.

    Args:
        low: log a.
        high: log b.
        u: uniform numbers; leading axes beyond those of the bounds are draws.
    """
    return low + u * (high - low)


def entropy(
    low: Float[Tensor, "*shape"], high: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Differential entropy of lambda in nats: (log a + log b) / 2 + log log(b / a).

    Minus infinity for a range of width 0. Arguments as in `sample`.
    """
    return (low + high) / 2 + (high - low).log()


def mean(
    low: Float[Tensor, "*shape"], high: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """E lambda = (b - a) / (log b - log a); a itself where the width is 0.

    The median, sqrt(a b), lies below it. Arguments as in `sample`.
    """
    width = high - low
    thin = width.abs() < 1e-4  # there the series of (e^x - 1) / x is exact to rounding
    series = 1 + width / 2 * (1 + width / 3 * (1 + width / 4))
    safe = torch.where(thin, 1.0, width)
    return low.exp() * torch.where(thin, series, safe.expm1() / safe)


def project(
    low: Float[Tensor, "*shape"],
    high: Float[Tensor, "*shape"],
    least: Float[Tensor, "..."],
    most: Float[Tensor, "..."],
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """The bounds, moved back into the permitted range and into order.

        log a in [least, most - 2 eps],   log b in [log a + eps, most],
        eps = 1e-6 (most - least) / 2

    as in the published code of Wenzel et al. 2020.

    Args:
        low: log a after a step.
        high: log b after a step.
        least: logarithm of the least permitted value, broadcast to the bounds.
        most: of the largest one.
    """
    eps = GAP * (most - least) / 2
    low = torch.minimum(torch.maximum(low, least), most - 2 * eps)
    return low, torch.minimum(torch.maximum(high, low + eps), most)
