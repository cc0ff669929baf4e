"""Paths between two optima: straight and bent (Garipov et al. 2018; Draxler 2018)."""

import math
from numbers import Integral, Real

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sbtutor import data, models, sharpness, vector
from sbtutor.predict import as_input
from sbtutor.vector import Vector

Path = Float[Tensor, "steps P"]


def line(a: Vector, b: Vector, steps: int) -> Path:
    """Points at equal distances on the straight line, both ends included.

        w(t) = (1 - t) a + t b,   t = 0, 1 / (steps - 1), ..., 1

    Raises:
        ValueError: fewer than 2 steps; a and b not vectors of one length.
    """
    _check_same(a, b=b)
    return torch.lerp(a, b, _times(steps, a)[:, None])  # exact where a = b


def bezier(a: Vector, bend: Vector, b: Vector, steps: int) -> Path:
    """Points on the quadratic Bezier curve, at equal steps of t, both ends included.

        w(t) = (1 - t)^2 a + 2 t (1 - t) bend + t^2 b

    It leaves a towards the bend and comes to b from there; the bend itself it meets
    only half-way: w(1/2) = (a + b) / 4 + bend / 2. With the bend in the middle of a
    and b it is the straight line.

    Raises:
        ValueError: fewer than 2 steps; a, bend and b not vectors of one length.
    """
    _check_same(a, bend=bend, b=b)
    return _curve(a, bend, b, _times(steps, a)[:, None])


def barrier(losses: Float[Tensor, " steps"]) -> Float[Tensor, ""]:
    """How far the loss rises on a path above the straight line between its ends'.

        max_t L(t) - [(1 - t) L(0) + t L(1)]

    No barrier between two networks on the straight line says that they lie in one
    basin (Frankle et al. 2020, who take the mean of the ends' losses instead).

    Args:
        losses: at equal steps of t from one end to the other, 3 or more.

    Returns:
        A scalar >= 0, in the unit of the loss.

    Raises:
        ValueError: not a vector, fewer than 3 losses, or not finite.
    """
    if losses.dim() != 1 or len(losses) < 3:
        raise ValueError(
            "a barrier needs the losses of 3 or more points of one path, as a vector, "
            f"got shape {tuple(losses.shape)}; take more steps"
        )
    if not losses.isfinite().all():
        raise ValueError(
            "losses must be finite, got NaN or infinity: a network on the path has "
            "diverged; look at the path's points"
        )
    t = _times(len(losses), losses)
    return (losses - torch.lerp(losses[0], losses[-1], t)).max()


def fit_bend(
    model: nn.Module,
    a: Vector,
    b: Vector,
    train: data.Split,
    *,
    epochs: int = 20,
    batch_size: int = 100,
    lr: float = 0.01,
    seed: int = 0,
) -> Vector:
    """The bend with which the curve from a to b has the lowest mean training loss.

        min over bend of E L(w(t)),   t ~ U(0, 1),   w the curve of `bezier`

    Garipov et al. 2018. Each mini-batch draws its own t, and a step of Adam moves the
    bend, from the middle of a and b, with a learning rate that falls to 0 as a cosine.
    The ends stay. Dropout is off, so that L is a function of the weights. The fit is
    training too: between ends that were trained for a short time, the curve's middle
    may become better than both.

    Args:
        model: a network of the ends' architecture, for its shapes and its device; its
            weights are neither used nor changed.
        a: all parameters of one optimum, in the order of `model.parameters()`.
        b: those of the other.
        train: the images that the curve's loss is measured on.
        epochs: passes over them.
        batch_size: images per step, at most.
        lr: the first learning rate, in (0, 1]: about how far a step moves each weight.
        seed: decides the order of the images and each t.

    Returns:
        The bend, on the model's device.

    Raises:
        ValueError: a model with BatchNorm; a or b not of its size; no images; epochs
            or batch_size no whole number from 1 on; lr out of its range; a fit that
            diverges.
    """
    _check_fit(model, train, epochs, batch_size, lr)
    like = sharpness.parameters_of(model)
    first = next(iter(like.values()))
    a, b = a.to(first), b.to(first)
    _check_same(vector.flatten(like), a=a, b=b)
    images, labels = as_input(train.images, a), train.labels.to(a.device)
    generator = torch.Generator().manual_seed(seed)
    bend = ((a + b) / 2).requires_grad_()
    optimizer = torch.optim.Adam([bend], lr)
    batches = math.ceil(len(labels) / batch_size)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    with models.evaluating(model):
        for _ in range(epochs):
            order = torch.randperm(len(labels), generator=generator).to(a.device)
            for index in order.tensor_split(batches):
                t = torch.rand((), generator=generator, dtype=a.dtype).to(a.device)
                loss = sharpness.loss_of(model, images[index], labels[index])
                point = vector.unflatten(_curve(a, bend, b, t), like)
                (bend.grad,) = torch.autograd.grad(loss(point), bend)
                optimizer.step()
                cosine.step()
    if not bend.isfinite().all():
        raise ValueError(
            f"the fit has diverged to NaN or infinity with lr={lr}; write a smaller "
            "lr, and check that both ends are finite"
        )
    return bend.detach()


def _times(steps: int, like: Tensor) -> Float[Tensor, " steps"]:
    if steps < 2:
        raise ValueError(f"a path has two ends, so steps must be >= 2, got {steps}")
    return torch.linspace(0, 1, steps, dtype=like.dtype, device=like.device)


def _curve(a: Tensor, bend: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * bend + t**2 * b


def _check_same(like: Tensor, **points: Tensor) -> None:
    for name, point in {"the first point": like, **points}.items():
        if point.dim() != 1 or point.shape != like.shape:
            raise ValueError(
                f"a point is all P parameters as one vector: {name} is "
                f"{tuple(point.shape)}, expected ({like.numel()},); write "
                "stack.points_of(members), for networks of one architecture"
            )


def _check_fit(
    model: nn.Module, train: data.Split, epochs: int, batch_size: int, lr: float
) -> None:
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        raise ValueError(
            "the model has BatchNorm, whose statistics would have to be re-estimated "
            "at each point of the curve; use a network without norm layers, or one "
            "with norm='group'"
        )
    if len(train.labels) == 0:
        raise ValueError("train has no images; give at least one")
    for name, number in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(number, Integral) or number < 1:
            raise ValueError(
                f"{name} must be a whole number from 1 on, got {number!r}; write "
                f"{name}=20, say"
            )
    if not isinstance(lr, Real) or not 0 < lr <= 1:
        raise ValueError(
            f"lr must be in (0, 1], got {lr!r}: a step of Adam moves each weight by "
            "about lr; 0.01 is usual"
        )
