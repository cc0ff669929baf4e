"""Check of lesson 05's exercise on StarSSE."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbtutor import stack
from sbtutor.feedback import NOTHING, exercise

Batch = tuple[Tensor, Tensor]  # images and labels
Star = Callable[[nn.Module, list[list[Batch]], float], list[nn.Module]]
MOMENTUM = 0.9


@exercise("05")
def star_cycle(answer: Star) -> str | None:
    """(model 1, batches, lr) to all members of a StarSSE.

    batches[m][e] is what epoch e of cycle m sees, one step an epoch; momentum 0.9.
    """
    # What is wrong already in a single cycle is told first.
    for cycles, epochs in ((1, 5), (3, 4)):
        first, batches = _toy(cycles, epochs)
        before = copy.deepcopy(first)
        mine = answer(first, copy.deepcopy(batches), 0.3)
        problem = _list_problem(mine, first, cycles) or _star_problem(
            mine, first, before, batches
        )
        if problem is not None:
            return problem
    return None


class _Way(NamedTuple):
    """One way to go through cycles; the defaults are the right one."""

    rate: Callable[[int, int], float] = lambda e, length: (
        (1 + math.cos(math.pi * e / length)) / 2
    )  # share of lr at epoch e
    start: str = "first"  # or "last": where the member before ended
    keeps: bool = False  # the optimizer and its memory
    momentum: float = MOMENTUM
    clears: bool = True  # gradients, before each step
    uphill: bool = False
    goes_on: bool = False  # epochs are counted on from cycle to cycle


def _cycles(
    first: nn.Module, batches: Sequence[Sequence[Batch]], lr: float, way: _Way
) -> list[nn.Module]:
    """All members, the first one too, in this way."""
    members, net = [first], copy.deepcopy(first)
    optimizer = None
    for m, cycle in enumerate(batches):
        if way.start == "first":
            net.load_state_dict(first.state_dict())
        if optimizer is None or not way.keeps:
            optimizer = torch.optim.SGD(net.parameters(), lr, way.momentum)
            optimizer.zero_grad()
        length = len(cycle) * (len(batches) if way.goes_on else 1)
        for e, (images, labels) in enumerate(cycle):
            epoch = e + m * len(cycle) * way.goes_on
            optimizer.param_groups[0]["lr"] = lr * way.rate(epoch, length)
            if way.clears:
                optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            (-loss if way.uphill else loss).backward()
            optimizer.step()
        members.append(copy.deepcopy(net))
    return members


def _cosine(shift: int, less: int, e: int, length: int) -> float:
    """The share of lr with another angle, pi (e + shift) / (length - less)."""
    return (1 + math.cos(math.pi * (e + shift) / max(1, length - less))) / 2


_WRONG_WAYS = {
    "this is SSE: you start where the last member ended; start from model 1.": _Way(
        start="last"
    ),
    "the optimizer keeps its memory from cycle to cycle; make a new one for each.": (
        _Way(keeps=True)
    ),
    "this is SSE, and the optimizer keeps its memory: start from model 1, with a new "
    "optimizer.": _Way(start="last", keeps=True),
    "the learning rate does not fall; in epoch e it is lr (1 + cos(pi e / E)) / 2.": (
        _Way(rate=lambda e, length: 1.0)
    ),
    "the learning rate is one epoch ahead: epochs count from 0, so that the first one "
    "has lr itself.": _Way(rate=partial(_cosine, 1, 0)),
    "the learning rate ends at 0; divide by E, not by E - 1.": _Way(
        rate=partial(_cosine, 0, 1)
    ),
    "the learning rate starts at 2 lr; divide by 2.": _Way(
        rate=lambda e, length: 2 * _cosine(0, 0, e, length)
    ),
    "the learning rate falls in a straight line; it should be a cosine.": _Way(
        rate=lambda e, length: 1 - e / length
    ),
    "the learning rate rises; it should be lr (1 + cos(pi e / E)) / 2.": _Way(
        rate=lambda e, length: 1 - _cosine(0, 0, e, length)
    ),
    "the learning rate does not start anew in each cycle; count epochs from 0 again.": (
        _Way(goes_on=True)
    ),
    "there is no momentum; write torch.optim.SGD(net.parameters(), lr, momentum=0.9)."
    "": _Way(momentum=0.0),
    "gradients add up; call optimizer.zero_grad() before backward().": _Way(
        clears=False
    ),
    "this steps uphill; call backward() on the loss itself.": _Way(uphill=True),
}


def _toy(cycles: int, epochs: int) -> tuple[nn.Module, list[list[Batch]]]:
    """A small network of float64, and images and labels for each step."""
    draw = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    for p in net.parameters():
        p.data.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64))
    images = torch.randn(cycles, epochs, 8, 3, generator=draw, dtype=torch.float64)
    labels = torch.randint(2, (cycles, epochs, 8), generator=draw)
    return net, [list(zip(*pair)) for pair in zip(images, labels)]


def _list_problem(mine: object, first: nn.Module, cycles: int) -> str | None:
    """Whether it is a list of M different networks that starts with model 1."""
    if mine is None or mine is Ellipsis:
        return NOTHING
    if not isinstance(mine, list | tuple):
        return f"return a list of networks; this is a {type(mine).__name__}."
    for net in mine:
        if not isinstance(net, nn.Module):
            return f"each member should be a network; one is a {type(net).__name__}."
        if list(net.state_dict()) != list(first.state_dict()):
            return "each member should be a copy of model 1, with other weights."
    if len(mine) != cycles + 1:
        return (
            f"there should be {cycles + 1} members, model 1 among them; this list has "
            f"{len(mine)}."
        )
    if len({id(net) for net in mine}) < len(mine):
        return "some members are one and the same object; copy.deepcopy model 1 anew."
    return None


def _star_problem(
    mine: Sequence[nn.Module],
    first: nn.Module,
    before: nn.Module,
    batches: list[list[Batch]],
) -> str | None:
    """Which way the weights have gone."""
    start = stack.points_of([before])
    if not torch.equal(stack.points_of([first]), start):
        return "you changed model 1 in place; train a copy.deepcopy of it."
    found = stack.points_of(list(mine))
    if not torch.equal(found[:1], start):
        return "model 1 comes first in the list, as it is."

    def same(way: _Way) -> bool:
        return torch.allclose(
            found, stack.points_of(_cycles(before, batches, 0.3, way)), atol=1e-8
        )

    right = _Way()
    if same(right):
        return None
    for text, way in _WRONG_WAYS.items():
        if same(way):
            return text
    if torch.equal(found[1:], start.expand_as(found[1:])):
        return "the members have model 1's weights still; take a step in each epoch."
    if len(batches) > 1 and torch.allclose(found[1], found[-1]):
        return "all members are alike; cycle m takes its own batches[m]."
    return (
        f"after a cycle of {len(batches[0])} epochs the weights differ: one step an "
        "epoch, momentum 0.9, learning rate lr (1 + cos(pi e / E)) / 2."
    )
