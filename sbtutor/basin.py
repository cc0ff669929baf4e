"""One basin: barriers on the line between networks, and soups of their weights."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sbtutor import data, landscape, metrics, paths, stack
from sbtutor.predict import predict

BATCH_NORM = nn.modules.batchnorm._BatchNorm


def straight_line(
    a: nn.Module,
    b: nn.Module,
    split: data.Split,
    points: int = 11,
    refresh: data.Split | None = None,
) -> landscape.Survey:
    """Loss and accuracy at equal steps on the straight line between two networks.

        theta(t) = (1 - t) theta_a + t theta_b

    BatchNorm's statistics are re-estimated at every point, the ends too: on `refresh`
    (training images), or on the split itself if there is none.

    Raises:
        ValueError: networks of different architectures, or with different buffers, as
            in `soup`; fewer than 2 points; as `stack.points_of` and `stack.logits_at`.
    """
    if points < 2:
        raise ValueError(f"a line has two ends, so points must be >= 2, got {points}")
    _check_alike([a, b])
    ends = stack.points_of([a, b])
    line = paths.line(*ends, points)
    return landscape.survey(a, line, split, refresh=refresh or split)


def barrier(
    a: nn.Module,
    b: nn.Module,
    split: data.Split,
    points: int = 11,
    refresh: data.Split | None = None,
) -> Float[Tensor, ""]:
    """How far the loss rises on the straight line between two networks.

        max_t L(theta(t)) - [(1 - t) L(theta_a) + t L(theta_b)]

    No barrier says that both lie in one basin. Sadrtdinov et al. 2023; see
    `paths.barrier`.

    Args:
        a: one network.
        b: another one of its architecture.
        split: the images of the loss; training images if the basin is meant.
        points: on the line, ends included, 3 or more.
        refresh: training images for BatchNorm's statistics; None takes the split.

    Returns:
        A scalar >= 0, in nats; 0 for two copies.

    Raises:
        ValueError: fewer than 3 points; a network on the line without a finite loss; as
            `straight_line`.
    """
    if points < 3:
        raise ValueError(
            "a barrier stands between the ends, so points must be >= 3, got "
            f"{points}; 11 are usual"
        )
    return paths.barrier(straight_line(a, b, split, points, refresh).loss)


def soup(members: list[nn.Module], split: data.Split | None = None) -> nn.Module:
    """The network at the mean of the members' weights.

        theta = 1/M sum_m theta_m

    Wortsman et al. 2022 (uniform soup). It costs what one network costs. Good networks
    make a good soup only if they lie in one basin.

    BatchNorm's running statistics of the mean weights are not the mean of the members'
    statistics. Given a split, they are re-estimated there: its images pass once, as
    one batch (Izmailov et al. 2018). Without it they are the members' mean.

    Args:
        members: M >= 1 networks of one architecture; left as they are.
        split: training images, 1,000 or so; no effect without BatchNorm.

    Returns:
        A new network in eval mode.

    Raises:
        ValueError: no members; architectures, or buffers other than BatchNorm's, that
            differ (names the tensor); a split without images.
    """
    _check_alike(members)
    states = [member.state_dict() for member in members]
    made = copy.deepcopy(members[0]).eval()
    averaged = _averaged(made)
    with torch.no_grad():
        for name, own in made.state_dict().items():
            if name in averaged:
                values = [state[name].to(own.device) for state in states]
                own.copy_(torch.stack(values).mean(0))
    return made if split is None else stack.refreshed(made, split)


def _averaged(model: nn.Module) -> set[str]:
    """The names of all tensors that have a mean: weights, and BatchNorm's statistics.

    A shared layer counts under each of its names, as in the state dict.
    """
    found = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, BATCH_NORM):
            found |= {f"{name}.running_mean", f"{name}.running_var"}
    return found


def _check_alike(members: list[nn.Module]) -> None:
    """Refuse shapes that differ, and buffers without a mean that differ."""
    if not members:
        raise ValueError("a soup needs at least one member, got an empty list")
    states = [member.state_dict() for member in members]
    _check_shapes(states)
    averaged = _averaged(members[0])
    for name, own in states[0].items():
        if name not in averaged and not name.endswith(".num_batches_tracked"):
            _check_equal(name, [state[name].to(own.device) for state in states])


def _check_shapes(states: list[dict[str, Tensor]]) -> None:
    shapes = [{k: tuple(t.shape) for k, t in state.items()} for state in states]
    for m, other in enumerate(shapes[1:], start=1):
        differing = sorted(dict(shapes[0].items() ^ other.items()))
        if differing:
            name = differing[0]
            raise ValueError(
                f"members must be of one architecture: {name} is "
                f"{shapes[0].get(name, 'missing')} in member 0, "
                f"{other.get(name, 'missing')} in member {m}"
            )


def _check_equal(name: str, values: list[Tensor]) -> None:
    for m, value in enumerate(values[1:], start=1):
        if not torch.equal(values[0], value):
            raise ValueError(
                f"{name} differs between members 0 and {m}, and its mean would have "
                "no meaning; take members that were fine-tuned from one checkpoint, or "
                "from checkpoints of one source"
            )


def soups(members: list[nn.Module], split: data.Split | None = None) -> list[nn.Module]:
    """The soups of the first member, the first two, ..., of all M."""
    return [soup(members[: size + 1], split) for size in range(len(members))]


def greedy_soup(
    members: list[nn.Module], val: data.Split, split: data.Split | None = None
) -> tuple[nn.Module, list[int]]:
    """The soup of those members that each do not lower its validation accuracy.

    Wortsman et al. 2022: members are tried once each, the most accurate first; one
    stays in if the soup with it is at least as accurate as before.

    Args:
        members: M >= 1 networks of one architecture.
        val: images to choose with, which no member was trained on.
        split: as in `soup`.

    Returns:
        The soup, and the positions of its members in the order of their choice.

    Raises:
        ValueError: as `soup`; no validation images; a member that has diverged.
    """
    _check_alike(members)
    order = _accuracies(members, val).argsort(descending=True, stable=True).tolist()
    chosen: list[int] = []
    best, highest = None, -1.0
    for m in order:
        tried = soup([members[i] for i in (*chosen, m)], split)
        accuracy = float(_accuracies([tried], val))
        if accuracy >= highest:
            chosen, best, highest = [*chosen, m], tried, accuracy
    return best, chosen


def _accuracies(members: Sequence[nn.Module], split: data.Split) -> Tensor:
    found = predict(list(members), split)
    finite = found.logits.isfinite().flatten(1).all(1)
    if not finite.all():
        raise ValueError(
            f"member {int((~finite).nonzero()[0])} gives NaN or infinity: it has "
            "diverged; leave it out"
        )
    each = [
        metrics.accuracy(logits.softmax(-1), found.labels) for logits in found.logits
    ]
    return torch.stack(each)
