"""Check of lesson 05's exercise on soups."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sbtutor import basin, data, stack
from sbtutor.feedback import NOTHING, exercise


@exercise("05")
def soup(answer: Callable[[list[nn.Module], data.Split], nn.Module]) -> str | None:
    """(members, split) to their soup, its BatchNorm re-estimated there."""
    for count in (2, 3):
        members, split = _cooked(count)
        states = [copy.deepcopy(member.state_dict()) for member in members]
        try:
            mine = answer(members, split)
        except RuntimeError as error:
            if "Long" not in str(error):
                raise
            return (
                "num_batches_tracked is a whole number, and torch takes no mean of "
                "these; leave tensors alone that are not .is_floating_point()."
            )
        problem = _soup_problem(mine, members, states, split)
        if problem is not None:
            return problem
    return None


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


def _in_turn(all_: Tensor) -> Tensor:
    """((a + b) / 2 + c) / 2."""
    total = all_[0]
    for each in all_[1:]:
        total = (total + each) / 2
    return total


_NOT_MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "this is the sum of the weights; divide by the number of members.": (
        lambda all_: all_.sum(0)
    ),
    "these are the first member's weights; take the mean of all.": (
        lambda all_: all_[0]
    ),
    "these are the last member's weights; take the mean of all.": (
        lambda all_: all_[-1]
    ),
    "later members weigh more: ((a + b) / 2 + c) / 2 is not (a + b + c) / 3.": _in_turn,
    "you divided by 2; divide by the number of members.": lambda all_: all_.sum(0) / 2,
    "this is the median; take the mean.": lambda all_: all_.median(0).values,
}


def _weights_problem(
    made: dict[str, Tensor], states: list[dict[str, Tensor]]
) -> str | None:
    """Whether the weights are the members' mean; buffers are looked at elsewhere."""
    names = [k for k in made if "running" not in k and "tracked" not in k]

    def differs(rule: Callable[[Tensor], Tensor]) -> str | None:
        """The first tensor that the rule does not give."""
        stacks = ((k, torch.stack([s[k] for s in states])) for k in names)
        return next(
            (k for k, t in stacks if not torch.allclose(made[k], rule(t))), None
        )

    name = differs(lambda all_: all_.mean(0))
    if name is None:
        return None
    for text, rule in _NOT_MEANS.items():
        if differs(rule) is None:
            return text
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
