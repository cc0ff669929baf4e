"""How sharp a minimum is: loss rise, curvature, per-sample gradient norms."""

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from sbtutor import models, perturb

Params = dict[str, Tensor]
LossFn = Callable[[Params], Tensor]


def loss_of(
    model: nn.Module, images: Float[Tensor, "N C H W"], labels: Int[Tensor, " N"]
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


def _scalar_loss(loss_fn: LossFn, params: Params) -> tuple[Tensor, Params]:
    """The loss with its graph, and the leaves of that graph."""
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    loss = loss_fn(leaves)
    if loss.dim() != 0:
        raise ValueError(
            f"loss_fn must return a scalar, got shape {tuple(loss.shape)}; "
            "take the mean over the samples"
        )
    return loss, leaves


def _gradient(loss_fn: LossFn, params: Params) -> tuple[Tensor, Params]:
    loss, leaves = _scalar_loss(loss_fn, params)
    slopes = torch.autograd.grad(loss, tuple(leaves.values()))
    return loss.detach(), dict(zip(leaves, slopes, strict=True))


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
        ValueError: rho <= 0, or a loss that is not a scalar.
    """
    if not rho > 0:
        raise ValueError(f"sharpness looks a distance rho > 0 away, got rho={rho}")
    loss, slope = _gradient(loss_fn, params)
    with torch.no_grad():
        return loss_fn(perturb.along_gradient(params, slope, rho)) - loss


def hessian_trace(
    loss_fn: LossFn, params: Params, probes: int, generator: torch.Generator
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Hutchinson's estimate of tr(H), the sum of the loss's curvatures.

        tr(H) = E[v' H v],   v with independent entries +1 or -1

    H v is the gradient of <gradient, v>. Unbiased: E[v v'] = I.

    Args:
        loss_fn: from parameters to a scalar loss.
        params: the weights at which to look.
        probes: number of draws of v, at least 2.
        generator: draws v (CPU).

    Returns:
        The mean over the probes and its standard error.

    Raises:
        ValueError: fewer than two probes, which have no standard error; a loss that
            is not a scalar.
    """
    if probes < 2:
        raise ValueError(
            f"a standard error needs at least 2 probes, got probes={probes}"
        )
    loss, leaves = _scalar_loss(loss_fn, params)
    weights = tuple(leaves.values())
    slopes = torch.autograd.grad(loss, weights, create_graph=True)
    draws = []
    for _ in range(probes):
        v = [_signs(w, generator) for w in weights]
        products = torch.autograd.grad(slopes, weights, v, retain_graph=True)
        draws.append(sum((a * b).sum() for a, b in zip(v, products, strict=True)))
    values = torch.stack(draws)
    return values.mean(), values.std() / probes**0.5


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(0, 2, like.shape, generator=generator)
    return (2 * bits - 1).to(like)


def fisher_trace(
    model: nn.Module,
    images: Float[Tensor, "N C H W"],
    labels: Int[Tensor, " N"],
    batch_size: int = 64,
) -> Float[Tensor, " N"]:
    """Each sample's trace of the empirical Fisher matrix.

        s_n = || gradient of cross-entropy(f_w(x_n), y_n) ||_2^2

    over all parameters, at the true label, in eval mode. SharpBalance's per-sample
    sharpness (Lu et al. 2024); per-sample gradients by `torch.func`.

    Args:
        model: a network; its train/eval mode is restored afterwards.
        images: float images as the model takes them, not augmented.
        labels: their classes.
        batch_size: samples at once; changes memory and speed only.

    Returns:
        One number >= 0 a sample, in the unit of loss^2 / weight^2.
    """
    params = parameters_of(model)

    def sample_loss(params: Params, image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, params, (image[None],))
        return F.cross_entropy(logits, label[None])

    per_sample = vmap(grad(sample_loss), in_dims=(None, 0, 0))
    with models.evaluating(model), warnings.catch_warnings():
        # A lone sample makes vmap loop over one layer: slower, and no news to the user.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return torch.cat(
            [
                perturb.norm(per_sample(params, x, y), lead=1).square()
                for x, y in zip(
                    images.split(batch_size), labels.split(batch_size), strict=True
                )
            ]
        )
