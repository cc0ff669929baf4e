"""Checks of lesson 05's exercises on barriers and soups; `check_star` has a third."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sbtutor import basin, data, paths, stack
from sbtutor.feedback import NOTHING, say


def barrier(answer: Callable[[Tensor], float]) -> bool:
    """Lesson 05: losses (steps,) along a line to the barrier between its ends."""
    lines = [torch.tensor(line, dtype=torch.float64) for line in _LINES]
    mine = [_number(answer(line.clone())) for line in lines]
    for found in mine:
        if isinstance(found, str):
            return say(found)
    return say(_barrier_problem(mine, lines))


# A peak early on, between ends of unlike height; a dip deeper than the peak is high; a
# line that sags only; a peak half-way.
_LINES = (
    [0.2, 0.9, 0.65, 0.4, 0.6],
    [0.8, 0.9, 0.3, 0.2, 0.1, 0.1, 0.2],
    [0.5, 0.3, 0.2, 0.2],
    [0.25, 0.5, 1.5, 0.5, 0.25],
)


def _number(value: object) -> float | str:
    """A number, or why it is none."""
    if value is None or value is Ellipsis:
        return NOTHING
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"return one number, the barrier; this is a {type(value).__name__}."
    return float(value)


def _above(line: Tensor, wrong_way: bool = False) -> Tensor:
    """The loss less the straight line between the ends' losses."""
    ends = line.flip(0) if wrong_way else line
    t = torch.linspace(0, 1, len(line), dtype=line.dtype)
    return line - torch.lerp(ends[0], ends[-1], t)


_BOTH_ENDS = "subtract the line between both ends', (1 - t) L(0) + t L(1)."
_NOT_BARRIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "this is where the barrier stands, not how high it is; take max, not argmax.": (
        lambda line: _above(line).argmax()
    ),
    f"this is the highest loss; {_BOTH_ENDS}": lambda line: line.max(),
    f"you subtract the first end's loss only; {_BOTH_ENDS}": (
        lambda line: (line - line[0]).max()
    ),
    f"you subtract the last end's loss only; {_BOTH_ENDS}": (
        lambda line: (line - line[-1]).max()
    ),
    f"you subtract the mean of the ends' losses, as Frankle et al. do; {_BOTH_ENDS}": (
        lambda line: (line - (line[0] + line[-1]) / 2).max()
    ),
    f"you subtract the higher end's loss; {_BOTH_ENDS}": (
        lambda line: (line - torch.maximum(line[0], line[-1])).max()
    ),
    "the line runs the wrong way: it has weight 1 - t for the first end, t for the "
    "last.": lambda line: _above(line, wrong_way=True).max(),
    "this is the mean over t; take the largest.": lambda line: _above(line).mean(),
    "this is half-way only; the peak may stand elsewhere.": (
        lambda line: _above(line)[len(line) // 2]
    ),
    "the sign is wrong: subtract the line from the loss.": (
        lambda line: (-_above(line)).max()
    ),
    "the sign is wrong: a barrier is never negative.": lambda line: -_above(line).max(),
    "you took absolute values; a dip is no barrier.": (
        lambda line: _above(line).abs().max()
    ),
    "this is the deepest dip; take the largest value.": lambda line: _above(line).min(),
}


def _barrier_problem(mine: list[float], lines: list[Tensor]) -> str | None:
    def first_other(rule: Callable[[Tensor], Tensor]) -> int | None:
        """The first line where the rule says something else."""
        for i, (found, line) in enumerate(zip(mine, lines)):
            if not math.isclose(found, float(rule(line)), abs_tol=1e-6):
                return i
        return None

    i = first_other(paths.barrier)
    if i is None:
        return None
    for text, rule in _NOT_BARRIERS.items():
        if first_other(rule) is None:
            return text
    right = float(paths.barrier(lines[i]))
    return f"for losses {_LINES[i]} it should be {right:.3f}; this is {mine[i]:.3f}."


def soup(answer: Callable[[list[nn.Module], data.Split], nn.Module]) -> bool:
    """Lesson 05: (members, split) to their soup, its BatchNorm re-estimated there."""
    problem = None
    for count in (2, 3):
        members, split = _cooked(count)
        states = [copy.deepcopy(member.state_dict()) for member in members]
        try:
            mine = answer(members, split)
        except RuntimeError as error:
            if "Long" not in str(error):
                raise
            problem = (
                "num_batches_tracked is a whole number, and torch takes no mean of "
                "these; leave tensors alone that are not .is_floating_point()."
            )
            break
        problem = _soup_problem(mine, members, states, split)
        if problem is not None:
            break
    return say(problem)


def _cooked(count: int) -> tuple[list[nn.Module], data.Split]:
    """Small networks with BatchNorm, as if trained, and images."""
    draw = torch.Generator().manual_seed(0)
    members = []
    for m in range(count):
        layers = nn.Flatten(), nn.Linear(9, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)
        net = nn.Sequential(*layers)
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.1)
            else:
                tensor.fill_(10 + 3 * m)
        members.append(net.eval())
    images = torch.randint(256, (20, 1, 3, 3), generator=draw).to(torch.uint8)
    labels = torch.randint(2, (20,), generator=draw)
    return members, data.Split(images, labels, ("a", "b"))


def _soup_problem(
    mine: object,
    members: list[nn.Module],
    states: list[dict[str, Tensor]],
    split: data.Split,
) -> str | None:
    if mine is None or mine is Ellipsis:
        return NOTHING
    for member, state in zip(members, states):
        if any(not torch.equal(t, state[k]) for k, t in member.state_dict().items()):
            return (
                "you changed a member in place; state_dict() shares memory with its "
                "network, so fill a copy.deepcopy."
            )
    if not isinstance(mine, nn.Module):
        return _no_network(mine, members, split)
    if any(mine is member for member in members):
        return "this is one of the members itself; return a new network."
    made = mine.state_dict()
    if list(made) != list(states[0]):
        return "return one network of the members' layers, with the mean weights."
    return _weights_problem(made, states) or _norm_problem(mine, members, split)


def _no_network(mine: object, members: list[nn.Module], split: data.Split) -> str:
    if isinstance(mine, dict):
        return "these are weights; load them into a copy of a member (load_state_dict)."
    kind = type(mine).__name__
    if isinstance(mine, Tensor):
        with torch.no_grad():
            logits = [m(data.to_float(split.images)) for m in members]
        for name, values in (
            ("logits", logits),
            ("probabilities", [z.softmax(-1) for z in logits]),
        ):
            mean = torch.stack(values).mean(0)
            if mine.shape == mean.shape and torch.allclose(mine, mean, atol=1e-5):
                return (
                    f"this is the mean of the {name}, an ensemble; a soup is one "
                    "network: average weights."
                )
    return f"return a network; this is a {kind}."


def _weights_problem(
    made: dict[str, Tensor], states: list[dict[str, Tensor]]
) -> str | None:
    """Whether the weights are the members' mean; buffers are looked at elsewhere."""
    names = [k for k in made if "running" not in k and "tracked" not in k]

    def same(rule: Callable[[Tensor], Tensor]) -> bool:
        return all(
            torch.allclose(made[k], rule(torch.stack([s[k] for s in states])))
            for k in names
        )

    if same(lambda all_: all_.mean(0)):
        return None

    def in_turn(all_: Tensor) -> Tensor:
        """((a + b) / 2 + c) / 2."""
        total = all_[0]
        for each in all_[1:]:
            total = (total + each) / 2
        return total

    wrong = {
        "this is the sum of the weights; divide by the number of members.": (
            lambda all_: all_.sum(0)
        ),
        "these are the first member's weights; take the mean of all.": (
            lambda all_: all_[0]
        ),
        "these are the last member's weights; take the mean of all.": (
            lambda all_: all_[-1]
        ),
        "later members weigh more: ((a + b) / 2 + c) / 2 is not (a + b + c) / 3.": (
            in_turn
        ),
        "you divided by 2; divide by the number of members.": (
            lambda all_: all_.sum(0) / 2
        ),
        "this is the median; take the mean.": lambda all_: all_.median(0).values,
    }
    for text, rule in wrong.items():
        if same(rule):
            return text
    name = next(
        k
        for k in names
        if not torch.allclose(made[k], torch.stack([s[k] for s in states]).mean(0))
    )
    return f"{name} should be the mean of the members' {name}."


def _norm_problem(
    mine: nn.Module, members: list[nn.Module], split: data.Split
) -> str | None:
    """Whether BatchNorm's statistics are those of the images, for the mean weights."""
    found = mine.state_dict()

    def same(other: nn.Module) -> bool:
        own = other.state_dict()
        return all(
            torch.allclose(found[k], own[k], rtol=1e-3, atol=1e-5)
            for k in own
            if "running" in k
        )

    if same(basin.soup(members, split)):
        return "switch it to eval mode, .eval()." if mine.training else None
    wrong = {
        "BatchNorm's statistics are the members' mean, which does not fit the mean "
        "weights; re-estimate them: stack.refreshed(net, split).": basin.soup(members),
        "BatchNorm's statistics are the first member's; re-estimate them: "
        "stack.refreshed(net, split).": members[0],
        "BatchNorm's statistics are the last member's; re-estimate them: "
        "stack.refreshed(net, split).": members[-1],
        "the statistics were re-estimated before averaging; do it for the mean weights."
        "": basin.soup([stack.refreshed(m, split) for m in members]),
    }
    for text, other in wrong.items():
        if same(other):
            return text
    return (
        "BatchNorm's statistics should be those of the split's images under the mean "
        "weights: stack.refreshed(net, split), as the last step."
    )
