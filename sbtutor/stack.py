"""Many networks of one architecture: a point is all parameters of one as a vector."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sbtutor import data, vector
from sbtutor.predict import as_input

Points = Float[Tensor, "S P"]


def points_of(members: list[nn.Module]) -> Float[Tensor, "M P"]:
    """The members' parameters as rows, in the order of `named_parameters`.

    Buffers are not part of a point: BatchNorm's running statistics belong to it, and
    `logits_at` estimates them where it needs them.

    Args:
        members: M networks of one architecture, on one device and in one precision.

    Raises:
        ValueError: no members, or members without parameters; names, shapes, types or
            devices of parameters differ.
    """
    if not members:
        raise ValueError("points_of needs at least one member, got an empty list")
    first = dict(members[0].named_parameters())
    if not first:
        raise ValueError(
            f"a {type(members[0]).__name__} has no parameters, so there is no weight "
            "space to be a point of; give networks with weights"
        )
    for m, member in enumerate(members[1:], start=1):
        _check_alike(first, dict(member.named_parameters()), m)
    return torch.stack([vector.flatten(dict(m.named_parameters())) for m in members])


def model_at(model: nn.Module, point: Float[Tensor, " P"]) -> nn.Module:
    """A copy of `model`, its mode and buffers too, with the weights of `point`.

    The copy is where the point is, in the point's precision; it shares memory with
    neither. BatchNorm's running statistics are still those of `model`: away from the
    model's own weights re-estimate them, as `logits_at` does.

    Raises:
        ValueError: the point has another number of parameters than the model.
    """
    _check_points(model, point[None])
    moved = copy.deepcopy(model).to(point)
    _place(moved, point)
    return moved


@torch.no_grad()
def logits_at(
    model: nn.Module,
    points: Points,
    split: data.Split,
    refresh: data.Split | None = None,
    batch_size: int = 128,
) -> Float[Tensor, "S N C"]:
    """The logits of S networks, given by their weights, for every image of a split.

    In eval mode, where the points are and in their precision. BatchNorm's running
    statistics fit one point only: between two optima they are wrong, and so would be
    the loss. They are therefore re-estimated at each point (Izmailov et al. 2018): the
    images of `refresh` pass once, as one batch; the running mean and variance become
    that batch's, the variance with PyTorch's N / (N - 1).

    The points take turns. Many at once (`torch.func.vmap`) turn convolutions into
    grouped ones with channels first, which took a CPU 3 to 5 times as long as one
    point with channels last (benchmarks/plane.py).

    Args:
        model: the architecture, from images (B, C, H, W) in [0, 1] to logits (B, C);
            left as it is.
        points: one row of weights per network, as from `points_of`.
        split: N images.
        refresh: images for BatchNorm's statistics, of the training set (1,000 are
            plenty); no effect on a model without BatchNorm.
        batch_size: images that pass through a network at once; changes memory and
            speed only. All images are converted to floats at once, and `refresh`
            passes as one batch.

    Returns:
        Logits on the CPU.

    Raises:
        ValueError: no points, or of another size than the model's; BatchNorm without
            `refresh`, or with track_running_stats=False, as its logits would depend on
            the batch; a split without images; batch_size below 1.
    """
    _check_points(model, points)
    net = copy.deepcopy(model).to(points).eval()
    norms = _norms(net)
    _check_norms(norms)
    _check_splits(split, refresh, bool(norms))
    if batch_size < 1:
        raise ValueError(
            f"batch_size must be at least 1, got {batch_size}; 128 is usual"
        )
    batches = as_input(split.images, points).split(batch_size)
    fresh = as_input(refresh.images, points) if norms else None
    logits = []
    for point in points:
        _place(net, point)
        if norms:
            _refresh(net, norms, fresh)
        logits.append(torch.cat([net(batch).cpu() for batch in batches]))
    return torch.stack(logits)


@torch.no_grad()
def refreshed(model: nn.Module, split: data.Split) -> nn.Module:
    """A copy in eval mode whose BatchNorm statistics are those of the images.

    They pass once, as one batch, as in `logits_at`; a model without BatchNorm is only
    copied.

    Raises:
        ValueError: BatchNorm with track_running_stats=False; no images.
    """
    net = copy.deepcopy(model).eval()
    norms = _norms(net)
    _check_norms(norms)
    _check_splits(split, split, bool(norms))
    if norms:
        _refresh(net, norms, as_input(split.images, next(net.parameters())))
    return net


@torch.no_grad()
def _place(net: nn.Module, point: Tensor) -> None:
    params = dict(net.named_parameters())
    for name, part in vector.unflatten(point, params).items():
        params[name].copy_(part)


def _norms(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _refresh(net: nn.Module, norms: list[nn.Module], images: Tensor) -> None:
    """Batch statistics of these images for all BatchNorms; dropout stays off."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()  # forgets infinities too, which momentum would not
        norm.momentum = None  # the mean over batches so far: of one, that batch
        norm.train()
    net(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()


def _check_alike(
    first: dict[str, Tensor], other: dict[str, Tensor], member: int
) -> None:
    if list(first) != list(other):
        pairs = zip([*first, "nothing"], [*other, "nothing"])
        here, there = next((a, b) for a, b in pairs if a != b)
        raise ValueError(
            f"members 0 and {member} are of different architectures: where one has "
            f"{here}, the other has {there}; points need equal ones"
        )
    for name, p in first.items():
        mine, theirs = (
            (tuple(t.shape), t.dtype, str(t.device)) for t in (p, other[name])
        )
        if mine != theirs:
            raise ValueError(
                f"{name} differs between members 0 and {member}: {mine} against "
                f"{theirs}; points need one architecture, precision and device"
            )


def _check_points(model: nn.Module, points: Tensor) -> None:
    own = sum(p.numel() for p in model.parameters())
    if points.dim() != 2 or len(points) == 0 or points.shape[1] != own:
        raise ValueError(
            f"points must be (S, {own}), S >= 1 rows of as many numbers as the model "
            f"has parameters, got {tuple(points.shape)}; a single one is point[None]"
        )


def _check_norms(norms: list[nn.Module]) -> None:
    if any(norm.running_mean is None for norm in norms):
        raise ValueError(
            "the model has BatchNorm with track_running_stats=False, so that an "
            "image's logits depend on its batch; build it with running statistics"
        )


def _check_splits(
    split: data.Split, refresh: data.Split | None, has_norms: bool
) -> None:
    if has_norms and refresh is None:
        raise ValueError(
            "the model has BatchNorm, whose running statistics fit no point but its "
            "own; pass training images to re-estimate them, such as "
            "refresh=data.subset(splits.train, 1000, seed=0)"
        )
    for name, images in (("split", split), ("refresh", refresh)):
        if images is not None and len(images.labels) == 0:
            raise ValueError(f"{name} has no images; give at least one")
