"""A step of length rho in weight space, along the gradient or at random."""

import torch
from torch import Tensor

Tensors = dict[str, Tensor]  # one tensor per parameter name


def norm(tensors: Tensors, lead: int = 0) -> Tensor:
    """Euclidean norm of all tensors taken as one vector, ||(t_1, t_2, ...)||_2.

    Args:
        tensors: any shapes; the first `lead` axes are shared by all of them.
        lead: number of leading axes to keep: 0 gives one norm, 1 one per member.

    Returns:
        A tensor of the shape of the `lead` axes.
    """
    squares = []
    for t in tensors.values():
        own = tuple(range(lead, t.dim()))  # no axis at all for a scalar
        squares.append(t.square().sum(own) if own else t.square())
    return torch.stack(squares).sum(0).sqrt()


def scaled_to(tensors: Tensors, rho: float) -> Tensors:
    """The same direction with length rho: rho t / ||t||.

    A zero vector stays zero: 1e-12 is added to the norm, as in Foret et al.'s code.
    """
    scale = rho / (norm(tensors) + 1e-12)
    return {name: t * scale for name, t in tensors.items()}


def along_gradient(params: Tensors, gradient: Tensors, rho: float) -> Tensors:
    """SAM's ascent, w + rho g / ||g||_2 (Foret et al. 2021; normalised).

    Args:
        params: the weights w.
        gradient: the gradient g of the loss at w, same names and shapes.
        rho: length of the step, in the unit of the weights.

    Returns:
        New tensors; `params` is left as it is.
    """
    step = scaled_to(gradient, rho)
    return {name: w + step[name] for name, w in params.items()}


def at_random(params: Tensors, rho: float, generator: torch.Generator) -> Tensors:
    """A step of length rho in a uniformly random direction, w + rho v / ||v||_2.

    Args:
        params: the weights w.
        rho: length of the step.
        generator: source of v ~ N(0, I); on the CPU, so that devices agree.
    """
    noise = {
        name: torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w.device)
        for name, w in params.items()
    }
    return along_gradient(params, noise, rho)
