"""Checks of lesson 07's exercises on SAM: the perturbation, and a whole step."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbtutor.feedback import NOTHING, as_tensor, exercise


@exercise("07")
def sam_step(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str | None:
    """SAM's step, (w, gradient, rho) to w + rho g / ||g||."""
    w, g = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 0.0, -4.0])
    for rho in (0.1, 0.25):  # a second radius, so that rho is really used
        before = w.clone()
        mine = answer(w, g.clone(), rho)
        problem = as_tensor(mine, before, "the perturbed weights")
        if problem is None and not torch.equal(w, before):
            problem = (
                "you changed w in place; SAM still needs the old weights, so return a "
                "new tensor."
            )
        problem = problem or _sam_step_problem(mine, before, g, rho)
        if problem is not None:
            return problem
    return None


def _sam_step_problem(mine: Tensor, w: Tensor, g: Tensor, rho: float) -> str | None:
    if torch.allclose(mine.to(w), w + rho * g / g.norm(), atol=1e-6):
        return None
    wrong = {
        "this goes downhill; SAM looks uphill, so add the step.": w - rho * g / 5,
        "the step is not normalised; divide the gradient by its length, so that the "
        "step is rho long.": w + rho * g,
        "this is the step alone; add it to the weights.": rho * g / 5,
        "divide by the length ||g||, not by its square.": w + rho * g / 25,
        "the length is the root of the sum of squares, not the sum of absolute "
        "values.": w + rho * g / 7,
        "use the length over all entries together, not the sign of each.": w
        + rho * g.sign(),
    }
    for text, value in wrong.items():
        if torch.allclose(mine.to(value), value, atol=1e-6):
            return text
    return "the result should be w + rho * g / ||g||, for any rho."


class _Way(NamedTuple):
    """One way to take a whole step; the defaults are the right one."""

    sign: int = 1
    length: str = "all"  # or "each", of every tensor on its own; or "none"
    undone: bool = True  # the perturbation, before the step
    clears: bool = True  # gradients, between the passes
    ahead: bool = True  # the second gradient counts
    uphill: bool = False
    steps: bool = True
    modes: tuple[bool, bool] = (True, True)  # train mode in each pass
    moves: tuple[bool, bool] = (True, False)  # the running statistics


@exercise("07")
def sam_update(
    answer: Callable[[nn.Module, Tensor, Tensor, float, float], object],
) -> str | None:
    """(network, images, labels, rho, lr) to the network after one step of SAM."""
    for seed, rho, lr in ((0, 0.3, 0.5), (1, 0.1, 0.2)):
        net, images, labels = _norm_network(seed)
        before = copy.deepcopy(net)
        try:
            mine = answer(net, images.clone(), labels.clone(), rho, lr)
        except RuntimeError as error:
            return _in_place_problem(error)
        if mine is None or mine is Ellipsis:
            return NOTHING
        if not isinstance(mine, nn.Module):
            return f"return the network; this is a {type(mine).__name__}."
        if list(mine.state_dict()) != list(before.state_dict()):
            return "return the network itself, with other weights."

        problem = _way_problem(mine, before, (images, labels, rho, lr))
        if problem is not None:
            return problem
    return None


def _in_place_problem(error: RuntimeError) -> str:
    """What torch's messages on changes in place mean here; raises all others."""
    if "a leaf Variable that requires grad" in str(error):
        return "change weights under torch.no_grad()."
    if "modified by an inplace operation" in str(error):
        return (
            "weights or buffers were changed between a pass and its gradient; take the "
            "gradient first."
        )
    raise error


def _norm_network(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A small network with BatchNorm, as if trained a little, and a batch."""
    draw = torch.Generator().manual_seed(seed)
    layers = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)
    net = nn.Sequential(*layers).double()
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.1)
    images = torch.randn(12, 4, generator=draw).double()
    return net.train(), images, torch.randint(2, (12,), generator=draw)


def _step(
    net: nn.Module, images: Tensor, labels: Tensor, rho: float, lr: float, way: _Way
) -> nn.Module:
    """One step in place, in this way."""
    parameters = list(net.parameters())

    def gradient(which: int) -> list[Tensor]:
        kept = [b.clone() for b in net.buffers()]
        net.train(way.modes[which])
        loss = F.cross_entropy(net(images), labels)
        found = list(torch.autograd.grad(loss, parameters))
        if not way.moves[which]:
            for buffer, old in zip(net.buffers(), kept):
                buffer.copy_(old)
        return found

    first = gradient(0)
    own = [g.norm() for g in first]
    whole = torch.stack(own).norm()
    lengths = {"all": [whole] * len(own), "each": own, "none": [1.0] * len(own)}
    up = [way.sign * rho * g / n for g, n in zip(first, lengths[way.length])]
    with torch.no_grad():
        for p, e in zip(parameters, up):
            p += e
    last = gradient(1) if way.ahead else first
    if not way.clears:
        last = [a + b for a, b in zip(first, last)]
    with torch.no_grad():
        for p, e, g in zip(parameters, up, last):
            p -= e * way.undone + way.steps * (-lr if way.uphill else lr) * g
    return net.train()


_WRONG_WAYS = {
    "the network has its old weights; take the step, and return the network.": _Way(
        steps=False
    ),
    "these are the perturbed weights; take the gradient there, and step with it from "
    "the old ones.": _Way(steps=False, undone=False),
    "the perturbation is not undone: the step starts from the perturbed weights. Go "
    "back to the old ones first.": _Way(undone=False),
    "this is plain gradient descent; step with the gradient at the perturbed ones.": (
        _Way(ahead=False)
    ),
    "the sign is wrong: SAM perturbs uphill, along +g.": _Way(sign=-1),
    "this steps uphill; subtract the gradient.": _Way(uphill=True),
    "the perturbation is not normalised; divide g by its length.": _Way(length="none"),
    "each tensor was normalised on its own; the length is that of all gradients "
    "together.": _Way(length="each"),
    "the gradients of both passes add up; clear them (net.zero_grad()) in between.": (
        _Way(clears=False)
    ),
    "in eval mode BatchNorm uses its running statistics, and the loss is another one; "
    "stay in train mode, and put the statistics back after the second pass.": _Way(
        modes=(True, False)
    ),
    "the network was in eval mode; train in train mode.": _Way(modes=(False, False)),
    "the network was in eval mode in the first pass; train in train mode.": _Way(
        modes=(False, True)
    ),
}
_WRONG_STATISTICS = {
    "the pass at the perturbed weights touched BatchNorm's running statistics: they "
    "moved twice. Keep the buffers before that pass, and put them back after it.": (
        _Way(moves=(True, True))
    ),
    "BatchNorm's running statistics did not move at all; keep the buffers after the "
    "first pass, not before it.": _Way(moves=(False, False)),
    "BatchNorm's running statistics are those of the perturbed weights; they should "
    "move in the first pass, not in the second.": _Way(moves=(False, True)),
}


def _way_problem(
    mine: nn.Module, before: nn.Module, given: tuple[Tensor, Tensor, float, float]
) -> str | None:
    def same(way: _Way, names: list[str]) -> bool:
        state = _step(copy.deepcopy(before), *given, way).state_dict()
        found = mine.state_dict()
        return all(torch.allclose(found[k], state[k], atol=1e-9) for k in names)

    weights = [name for name, _ in before.named_parameters()]
    if not same(_Way(), weights):
        for text, way in _WRONG_WAYS.items():
            if same(way, weights):
                return text
        return (
            "the weights should be w - lr * g', with g' the gradient at w + rho g / "
            "||g||, both gradients in train mode."
        )
    # Not the count of batches: with a momentum of 0 it goes on, to no effect.
    running = [name for name in before.state_dict() if "running" in name]
    if not same(_Way(), running):
        for text, way in _WRONG_STATISTICS.items():
            if same(way, running):
                return text
        return "BatchNorm's statistics should be those after the first pass."
    return None if mine.training else "leave the network in train mode."
