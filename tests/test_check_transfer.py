"""Lesson 05's exercises: stubs fail, solutions pass, each mistake gets its message."""

import copy
import math

import pytest
import torch
from answers import said_to
from torch import nn
from torch.nn import functional as F

from sbtutor import basin, check, check_star, check_transfer, paths, stack, transfer
from sbtutor.config import TrainConfig


def chord(losses):
    t = torch.linspace(0, 1, len(losses), dtype=losses.dtype)
    return (1 - t) * losses[0] + t * losses[-1]


def by_formula(losses):
    return (losses - chord(losses)).max()


def by_loop(losses):
    values = losses.tolist()
    steps = len(values) - 1
    line = [values[0] + (values[-1] - values[0]) * i / steps for i in range(steps + 1)]
    return max(a - b for a, b in zip(values, line))


def cosine(lr, e, length):
    return lr * (1 + math.cos(math.pi * e / length)) / 2


def one_cycle(start, cycle, lr):
    net = copy.deepcopy(start)
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
    for e, (images, labels) in enumerate(cycle):
        for group in optimizer.param_groups:
            group["lr"] = cosine(lr, e, len(cycle))
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net


def star(first, batches, lr):
    return [first, *(one_cycle(first, cycle, lr) for cycle in batches)]


def star_by_hand(first, batches, lr):
    """Without an optimizer: v = 0.9 v + gradient, w = w - lr v."""
    members = [copy.deepcopy(first)]
    for cycle in batches:
        net = copy.deepcopy(first)
        speed = [torch.zeros_like(p) for p in net.parameters()]
        for e, (images, labels) in enumerate(cycle):
            loss = F.cross_entropy(net(images), labels)
            slopes = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for p, v, g in zip(net.parameters(), speed, slopes):
                    v.mul_(0.9).add_(g)
                    p -= cosine(lr, e, len(cycle)) * v
        members.append(net)
    return members


def sse(first, batches, lr):
    members = [first]
    for cycle in batches:
        members.append(one_cycle(members[-1], cycle, lr))
    return members


def in_place(first, batches, lr):
    members = [first]
    for cycle in batches:
        first.load_state_dict(one_cycle(first, cycle, lr).state_dict())
        members.append(copy.deepcopy(first))
    return members


def one_object(first, batches, lr):
    net = copy.deepcopy(first)
    for cycle in batches:
        net.load_state_dict(one_cycle(first, cycle, lr).state_dict())
    return [first, *[net] * len(batches)]


def same_batches(first, batches, lr):
    return star(first, [batches[0]] * len(batches), lr)


def optimizer_kept(first, batches, lr):
    net, members = copy.deepcopy(first), [first]
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
    for cycle in batches:
        net.load_state_dict(first.state_dict())
        for e, (images, labels) in enumerate(cycle):
            optimizer.param_groups[0]["lr"] = cosine(lr, e, len(cycle))
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
        members.append(copy.deepcopy(net))
    return members


def with_rate(rate):
    """StarSSE with another learning rate in epoch e of E."""

    def answer(first, batches, lr):
        members = [first]
        for cycle in batches:
            net = copy.deepcopy(first)
            optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
            for e, (images, labels) in enumerate(cycle):
                optimizer.param_groups[0]["lr"] = rate(lr, e, len(cycle))
                optimizer.zero_grad()
                F.cross_entropy(net(images), labels).backward()
                optimizer.step()
            members.append(net)
        return members

    return answer


def without_momentum(first, batches, lr):
    members = [first]
    for cycle in batches:
        net = copy.deepcopy(first)
        for e, (images, labels) in enumerate(cycle):
            loss = F.cross_entropy(net(images), labels)
            slopes = torch.autograd.grad(loss, list(net.parameters()))
            for p, g in zip(net.parameters(), slopes):
                p.data -= cosine(lr, e, len(cycle)) * g
        members.append(net)
    return members


def averaged(members):
    made = copy.deepcopy(members[0])
    states = [member.state_dict() for member in members]
    mean = {
        k: torch.stack([s[k] for s in states]).mean(0) if t.is_floating_point() else t
        for k, t in states[0].items()
    }
    made.load_state_dict(mean)
    return made


def soup(members, split):
    return stack.refreshed(averaged(members), split)


def soup_of_parameters(members, split):
    made = copy.deepcopy(members[0])
    parameters = zip(made.parameters(), *(m.parameters() for m in members))
    with torch.no_grad():
        for own, *theirs in parameters:
            own.copy_(sum(theirs) / len(theirs))
    return stack.refreshed(made, split)


def only_parameters(members, split):
    made = copy.deepcopy(members[0])
    point = stack.points_of(members).mean(0)
    return stack.model_at(made, point)


def into_the_first(members, split):
    for name, own in members[0].state_dict().items():
        if own.is_floating_point():
            own.copy_(torch.stack([m.state_dict()[name] for m in members]).mean(0))
    return stack.refreshed(members[0], split)


def all_tensors(members, split):
    states = [member.state_dict() for member in members]
    made = copy.deepcopy(members[0])
    mean = {k: torch.stack([s[k] for s in states]).mean(0) for k in states[0]}
    made.load_state_dict(mean)
    return made


def scaled_by(factor):
    def answer(members, split):
        made = copy.deepcopy(members[0])
        point = stack.points_of(members).sum(0) * factor
        return stack.refreshed(stack.model_at(made, point), split)

    return answer


def median(members, split):
    point = stack.points_of(members).median(0).values
    return stack.refreshed(stack.model_at(copy.deepcopy(members[0]), point), split)


def in_turn(members, split):
    total = members[0]
    for member in members[1:]:
        total = averaged([total, member])
    return stack.refreshed(total, split)


def said_by(members, split):
    return torch.stack([m(split.images / 255) for m in members])


def end(factors, barriers, limit):
    found = None
    for factor, height in zip(factors[::-1], barriers[::-1]):
        if height < limit:
            break
        found = factor
    return found


def first_outside(factors, barriers, limit):
    return next((f for f, b in zip(factors, barriers) if b >= limit), None)


def last_inside(factors, barriers, limit):
    inside = [f for f, b in zip(factors, barriers) if b < limit]
    return inside[-1] if inside else None


def barrier_there(factors, barriers, limit):
    return dict(zip(factors, barriers)).get(end(factors, barriers, limit))


SOLUTIONS = [
    (check.barrier, by_formula),
    (check.barrier, by_loop),
    (check.barrier, paths.barrier),
    (check.star_cycle, star),
    (check.star_cycle, star_by_hand),
    (check.soup, soup),
    (check.soup, soup_of_parameters),
    (check.soup, basin.soup),
    (check.basin_end, end),
    (check.cycle_costs, ((200, 120, 120), (40, 120, 60))),
]
EXERCISES = [
    check.barrier,
    check.basin_end,
    check.cycle_costs,
    check.soup,
    check.star_cycle,
]
FUNCTIONS = [one for one in EXERCISES if one is not check.cycle_costs]
MISTAKES = [
    (check.basin_end, first_outside, "falls below the limit again"),
    (check.basin_end, last_inside, "the last factor inside"),
    (check.basin_end, barrier_there, "this is the barrier"),
    (
        check.basin_end,
        lambda f, b, x: f.index(end(f, b, x)) if end(f, b, x) else None,
        "where the factor stands",
    ),
    (check.basin_end, lambda f, b, x: end(f, b, x + 1e-9), "use >= and <"),
    (check.basin_end, lambda f, b, x: end(f, b, x) or f[-1], "return None"),
    (
        check.basin_end,
        lambda f, b, x: end(f, b, 0.05),
        "and limit 0.1 it should be 2; this is 1",
    ),
    (
        check.basin_end,
        lambda f, b, x: 2 * (end(f, b, x) or 0),
        "it should be 2; this is 4",
    ),
    (check.cycle_costs, ((200, 140, 140), (40, 120, 60)), "four cycles, not five"),
    (check.cycle_costs, ((200, 200, 200), (40, 120, 60)), "in cycles of 20"),
    (check.cycle_costs, ((200, 120, 60), (40, 120, 60)), "as many epochs as a chain"),
    (check.cycle_costs, ((40, 120, 120), (40, 120, 60)), "is fine-tuned for 40"),
    (
        check.cycle_costs,
        ((201, 120, 120), (40, 120, 60)),
        "epochs: look at the Local DE",
    ),
    (check.cycle_costs, ((200, 120, 120), (200, 120, 120)), "on one machine"),
    (check.cycle_costs, ((200, 120, 120), (40, 24, 24)), "dividing by five"),
    (check.cycle_costs, ((200, 120, 120), (40, 60, 60)), "SSE is a chain"),
    (check.cycle_costs, ((200, 120, 120), (40, 120, 120)), "need not wait for each"),
    (check.cycle_costs, ((200, 120, 120), (40, 120, 20)), "wait for model 1"),
    (check.cycle_costs, ((200, 120, 120), (40, 120, 80)), "time: look at StarSSE"),
    (check.cycle_costs, ((200, 120), (40, 120, 80)), "write three numbers"),
    (check.cycle_costs, ((200, "x", 120), (40, 120, 80)), "this is a str"),
    (check.cycle_costs, ((200, ..., 120), (40, 120, 80)), "replace the dots"),
    (check.barrier, lambda x: (x - chord(x)).argmax(), "max, not argmax"),
    (check.barrier, lambda x: x.max(), "this is the highest loss"),
    (check.barrier, lambda x: (x - x[0]).max(), "the first end's loss only"),
    (check.barrier, lambda x: (x - x[-1]).max(), "the last end's loss only"),
    (
        check.barrier,
        lambda x: x.max() - (x[0] + x[-1]) / 2,
        "the mean of the ends' losses",
    ),
    (check.barrier, lambda x: x.max() - max(x[0], x[-1]), "the higher end's loss"),
    (check.barrier, lambda x: (x - chord(x.flip(0))).max(), "the wrong way"),
    (check.barrier, lambda x: (x - chord(x)).mean(), "this is the mean over t"),
    (check.barrier, lambda x: (x - chord(x))[len(x) // 2], "half-way only"),
    (check.barrier, lambda x: (chord(x) - x).max(), "subtract the line from the loss"),
    (check.barrier, lambda x: -by_formula(x), "never negative"),
    (check.barrier, lambda x: (x - chord(x)).abs().max(), "absolute values"),
    (check.barrier, lambda x: (x - chord(x)).min(), "the deepest dip"),
    (check.barrier, lambda x: 2 * by_formula(x), "it should be 0.6; this is 1.2"),
    (check.barrier, lambda x: by_formula(x) if len(x) != 7 else 7, "this is 7."),
    (check.barrier, lambda x: x - chord(x), "this is a Tensor"),
    (check.barrier, lambda x: True, "this is a bool"),
    (check.star_cycle, sse, "this is SSE"),
    (check.star_cycle, in_place, "model 1 in place"),
    (check.star_cycle, one_object, "one and the same object"),
    (check.star_cycle, optimizer_kept, "keeps its memory from cycle to cycle"),
    (check.star_cycle, with_rate(lambda lr, e, length: lr), "does not fall"),
    (
        check.star_cycle,
        with_rate(lambda lr, e, n: cosine(lr, e + 1, n)),
        "one epoch ahead",
    ),
    (
        check.star_cycle,
        with_rate(lambda lr, e, n: cosine(lr, e, max(1, n - 1))),
        "not by E - 1",
    ),
    (
        check.star_cycle,
        with_rate(lambda lr, e, n: 2 * cosine(lr, e, n)),
        "starts at 2 lr",
    ),
    (
        check.star_cycle,
        with_rate(lambda lr, e, n: lr * (1 - e / n)),
        "in a straight line",
    ),
    (check.star_cycle, with_rate(lambda lr, e, n: lr / 3), "after a cycle of 5 epochs"),
    (
        check.star_cycle,
        with_rate(lambda lr, e, n: lr / (1 + e)),
        "after a cycle of 5 epochs",
    ),
    (check.star_cycle, without_momentum, "there is no momentum"),
    (check.star_cycle, same_batches, "all members are alike"),
    (check.star_cycle, lambda *a: star(*a)[1:], "model 1 among them; this list has 1."),
    (check.star_cycle, lambda *a: star(*a) * 2, "this list has 4."),
    (check.star_cycle, lambda *a: star(*a)[::-1], "model 1 comes first"),
    (check.star_cycle, lambda *a: star(*a)[-1], "this is a Sequential"),
    (
        check.star_cycle,
        lambda *a: [net.state_dict() for net in star(*a)],
        "one is a OrderedDict",
    ),
    (
        check.star_cycle,
        lambda first, b, lr: [first, nn.Linear(3, 2)],
        "a copy of model 1",
    ),
    (
        check.star_cycle,
        lambda first, b, lr: [copy.deepcopy(first) for _ in range(len(b) + 1)],
        "model 1's weights still",
    ),
    (check.soup, into_the_first, "a member in place"),
    (check.soup, all_tensors, "num_batches_tracked is a whole number"),
    (check.soup, lambda members, split: averaged(members), "the members' mean, which"),
    (check.soup, only_parameters, "are the first member's; re-estimate"),
    (
        check.soup,
        lambda members, split: averaged([stack.refreshed(m, split) for m in members]),
        "before averaging",
    ),
    (check.soup, lambda members, split: soup(members, split).train(), "eval mode"),
    (check.soup, scaled_by(1.0), "the sum of the weights"),
    (check.soup, scaled_by(0.5), "you divided by 2"),
    (check.soup, median, "this is the median"),
    (check.soup, in_turn, "later members weigh more"),
    (check.soup, lambda members, split: members[0], "one of the members itself"),
    (
        check.soup,
        lambda members, split: soup(members[:1], split),
        "the first member's weights",
    ),
    (
        check.soup,
        lambda members, split: soup(members[-1:], split),
        "the last member's weights",
    ),
    (
        check.soup,
        lambda members, split: soup(members[:2], split),
        "1.weight should be the mean",
    ),
    (check.soup, lambda *a: said_by(*a).mean(0), "the mean of the logits"),
    (
        check.soup,
        lambda *a: said_by(*a).softmax(-1).mean(0),
        "the mean of the probabilities",
    ),
    (
        check.soup,
        lambda members, split: averaged(members).state_dict(),
        "load_state_dict",
    ),
    (
        check.soup,
        lambda members, split: stack.points_of(members).mean(0),
        "this is a Tensor",
    ),
    (
        check.soup,
        lambda members, split: nn.ModuleList(members),
        "one network of the members'",
    ),
    (check.soup, lambda members, split: 0.5, "this is a float"),
]


def test_barriers_lines_tell_its_mistakes_apart():
    """Each mistake errs on some line, and none is another one's on all lines."""
    lines = [torch.tensor(line) for line in check_transfer._LINES]
    rules = [paths.barrier, *check_transfer._NOT_BARRIERS.values()]
    found = {tuple(round(float(rule(x)), 4) + 0.0 for x in lines) for rule in rules}
    assert len(found) == len(rules)


def _way(way):
    """As an answer: a StarSSE made in one of the check's wrong ways."""
    return lambda first, batches, lr: check_star._cycles(first, batches, lr, way)


@pytest.mark.parametrize(("message", "way"), check_star._WRONG_WAYS.items())
def test_each_wrong_way_through_the_cycles_gets_its_own_message(message, way, capsys):
    assert message in said_to(check.star_cycle, _way(way), capsys)


def test_the_checks_learning_rates_are_the_packages():
    fine = TrainConfig(epochs=4, lr=0.3, schedule="cosine")
    right = check_star._Way()
    rates = [0.3 * right.rate(e, 4) for e in range(4)]
    assert rates == pytest.approx(transfer.learning_rates(fine, fine, 1))
    assert right.momentum == fine.momentum


def test_another_error_of_the_learners_code_is_not_swallowed():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        check.soup(lambda members, split: members[0](torch.zeros(2, 5)))


@pytest.mark.parametrize("exercise", FUNCTIONS)
@pytest.mark.parametrize("nothing", [None, ...])
def test_a_function_that_returns_nothing_is_told_so(exercise, nothing, capsys):
    assert "returns nothing so far" in said_to(exercise, lambda *_: nothing, capsys)
