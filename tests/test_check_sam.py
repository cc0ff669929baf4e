"""Lesson 07's exercises: solutions pass, each mistake gets its message."""

import copy

import pytest
import torch
from answers import said_to
from torch import nn
from torch.nn import functional as F

from sbtutor import check, diversity


def sam_update(net, images, labels, rho, lr):
    """One step, with an optimizer for the last part, as people write it."""
    optimizer = torch.optim.SGD(net.parameters(), lr)
    optimizer.zero_grad()
    F.cross_entropy(net(images), labels).backward()
    kept = [b.clone() for b in net.buffers()]
    length = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
    step = [rho * p.grad / length for p in net.parameters()]
    with torch.no_grad():
        for p, e in zip(net.parameters(), step):
            p += e
    optimizer.zero_grad()
    F.cross_entropy(net(images), labels).backward()
    with torch.no_grad():
        for p, e in zip(net.parameters(), step):
            p -= e
    optimizer.step()
    for b, old in zip(net.buffers(), kept):
        b.copy_(old)
    return net


def sam_update_by_hand(
    net,
    images,
    labels,
    rho,
    lr,
    *,
    length=lambda slopes: torch.cat([g.flatten() for g in slopes]).norm(),
    undone=True,
    modes=(True, True),
    restored=(False, True),
    added=False,
):
    """One step, without an optimizer."""

    def slopes(which):
        before = [b.clone() for b in net.buffers()]
        net.train(modes[which])
        loss = F.cross_entropy(net(images), labels)
        found = torch.autograd.grad(loss, list(net.parameters()))
        if restored[which]:
            for b, old in zip(net.buffers(), before):
                b.copy_(old)
        return found

    old = [p.detach().clone() for p in net.parameters()]
    first = slopes(0)
    for p, g in zip(net.parameters(), first):
        p.data += rho * g / length(first)
    last = slopes(1)
    for p, w, f, g in zip(net.parameters(), old, first, last):
        p.data = (w if undone else p.data) - lr * (g + f if added else g)
    return net.train()


def other(**settings):
    return lambda *given: sam_update_by_hand(*given, **settings)


def pushed(net, images, labels, rho):
    """Perturbs the network; its weights, and what they were."""
    weights = list(net.parameters())
    old = [w.detach().clone() for w in weights]
    slopes = torch.autograd.grad(F.cross_entropy(net(images), labels), weights)
    length = torch.cat([g.flatten() for g in slopes]).norm()
    for w, g in zip(weights, slopes):
        w.data += rho * g / length
    return weights, old


def momentum_off(net, images, labels, rho, lr):
    """As many codes do it: BatchNorm's momentum is 0 in the second pass."""
    weights, old = pushed(net, images, labels, rho)
    usual, net[1].momentum = net[1].momentum, 0.0
    slopes = torch.autograd.grad(F.cross_entropy(net(images), labels), weights)
    net[1].momentum = usual
    for w, was, g in zip(weights, old, slopes):
        w.data = was - lr * g
    return net


def restored_too_early(net, images, labels, rho, lr):
    weights, _ = pushed(net, images, labels, rho)
    kept = [b.clone() for b in net.buffers()]
    loss = F.cross_entropy(net(images), labels)
    for b, was in zip(net.buffers(), kept):
        b.copy_(was)
    torch.autograd.grad(loss, weights)


def without_no_grad(net, images, labels, rho, lr):
    for w in net.parameters():
        w += rho


def each_normalised(net, images, labels, rho, lr):
    def each(net):
        return torch.autograd.grad(
            F.cross_entropy(net(images), labels), list(net.parameters())
        )

    old = copy.deepcopy(net.state_dict())
    for p, g in zip(net.parameters(), each(net)):
        p.data += rho * g / g.norm()
    kept = [b.clone() for b in net.buffers()]
    last = each(net)
    for (name, p), g in zip(net.named_parameters(), last):
        p.data = old[name] - lr * g
    for b, was in zip(net.buffers(), kept):
        b.copy_(was)
    return net


def perturbed(net, images, labels, rho, lr):
    return sam_update(net, images, labels, rho, 0.0)


def only_ahead(net, images, labels, rho, lr):
    slopes = torch.autograd.grad(
        F.cross_entropy(net(images), labels), list(net.parameters())
    )
    length = torch.cat([g.flatten() for g in slopes]).norm()
    for p, g in zip(net.parameters(), slopes):
        p.data += rho * g / length
    return net


def plain(net, images, labels, rho, lr):
    slopes = torch.autograd.grad(
        F.cross_entropy(net(images), labels), list(net.parameters())
    )
    for p, g in zip(net.parameters(), slopes):
        p.data -= lr * g
    return net


def flipped(net, images, labels, rho, lr):
    return sam_update(net, images, labels, -rho, lr)


def uphill(net, images, labels, rho, lr):
    return sam_update_by_hand(net, images, labels, rho, -lr)


def left_in_eval(*given):
    return sam_update(*given).eval()


def pairs(votes, same=lambda i, j: i == j):
    """Disagreement of the pairs of members that are not left out."""
    members = range(len(votes))
    kept = [(i, j) for i in members for j in members if not same(i, j)]
    return torch.stack([(votes[i] != votes[j]).float().mean() for i, j in kept])


def error(votes, labels):
    return (votes != labels).float().mean()


def der(votes, labels):
    return pairs(votes).mean() / error(votes, labels)


def as_the_package(votes, labels):
    return diversity.disagreement_error_ratio(F.one_hot(votes).float(), labels)


def valley(alpha):
    def loss(w):
        return (w[0] * w[1] - 1) ** 2 / 2

    return torch.autograd.functional.hessian(loss, torch.tensor([alpha, 1 / alpha]))


def correlation(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.norm() * y.norm())


def within(x, y):
    return sum(correlation(a, b) for a, b in zip(x, y)) / len(x)


def covariance(x, y):
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return ((x * y).sum(1) / (x.shape[1] - 1)).mean()


SOLUTIONS = [
    (check.sam_step, lambda w, g, rho: w + rho * g / g.norm()),
    (check.sam_update, sam_update),
    (check.sam_update, sam_update_by_hand),
    (check.sam_update, lambda net, *given: sam_update(copy.deepcopy(net), *given)),
    (check.sam_update, momentum_off),
    (check.der, der),
    (check.der, as_the_package),
    (check.valley_trace, lambda alpha: valley(alpha).trace()),
    (check.valley_trace, lambda alpha: alpha**2 + 1 / alpha**2),
    (check.correlation_within, within),
]
EXERCISES = [
    check.correlation_within,
    check.der,
    check.sam_step,
    check.sam_update,
    check.valley_trace,
]
MISTAKES = [
    (check.sam_step, lambda w, g, rho: w + 0.1 * g / g.norm(), "for any rho"),
    (check.sam_step, lambda w, g, rho: w + rho * g / g.abs().sum(), "absolute"),
    (check.sam_step, lambda w, g, rho: w - rho * g / g.norm(), "downhill"),
    (check.sam_step, lambda w, g, rho: w + rho * g, "not normalised"),
    (check.sam_step, lambda w, g, rho: rho * g / g.norm(), "the step alone"),
    (check.sam_step, lambda w, g, rho: w + rho * g / g.norm() ** 2, "square"),
    (check.sam_step, lambda w, g, rho: w + rho * g.sign(), "the sign of each"),
    (check.sam_step, lambda w, g, rho: w, "should be w + rho"),
    (check.sam_step, lambda w, g, rho: w.add_(rho * g / g.norm()), "in place"),
    (check.sam_update, other(undone=False), "the perturbation is not undone"),
    (check.sam_update, other(restored=(False, False)), "they moved twice"),
    (check.sam_update, other(restored=(True, True)), "did not move at all"),
    (check.sam_update, other(restored=(True, False)), "those of the perturbed weights"),
    (check.sam_update, other(modes=(True, False)), "in eval mode BatchNorm uses"),
    (check.sam_update, other(modes=(False, False)), "the network was in eval mode; t"),
    (check.sam_update, other(modes=(False, True)), "in eval mode in the first pass"),
    (check.sam_update, other(length=lambda g: 1.0), "the perturbation is not normal"),
    (check.sam_update, each_normalised, "each tensor was normalised on its own"),
    (check.sam_update, other(added=True), "the gradients of both passes add up"),
    (check.sam_update, flipped, "the sign is wrong: SAM perturbs uphill"),
    (check.sam_update, uphill, "this steps uphill"),
    (check.sam_update, plain, "this is plain gradient descent"),
    (check.sam_update, only_ahead, "these are the perturbed weights"),
    (check.sam_update, perturbed, "the network has its old weights"),
    (check.sam_update, lambda net, *given: net, "the network has its old weights"),
    (
        check.sam_update,
        lambda *a: sam_update(*a[:4], 2 * a[4]),
        "should be w - lr * g'",
    ),
    (check.sam_update, restored_too_early, "take the gradient first"),
    (check.sam_update, without_no_grad, "under torch.no_grad()"),
    (check.sam_update, left_in_eval, "leave the network in train mode"),
    (check.sam_update, lambda net, *given: nn.Linear(4, 2), "the network itself"),
    (check.sam_update, lambda net, *given: 0.5, "this is a float"),
    (check.der, lambda v, y: pairs(v).mean(), "this is the disagreement"),
    (
        check.der,
        lambda v, y: pairs(v, lambda i, j: False).mean() / error(v, y),
        "a member with itself",
    ),
    (check.der, lambda v, y: der(v, y) / 2, "each pair counts once"),
    (check.der, lambda v, y: pairs(v).sum() / error(v, y), "each taken twice"),
    (
        check.der,
        lambda v, y: pairs(v, lambda i, j: i >= j).sum() / error(v, y),
        "a sum over the pairs; take",
    ),
    (
        check.der,
        lambda v, y: pairs(v).mean() / error(v.mode(dim=0).values, y),
        "the error of the majority",
    ),
    (check.der, lambda v, y: der(v, y) / len(v), "the sum of the members' errors"),
    (check.der, lambda v, y: pairs(v).mean() / (1 - error(v, y)), "by the accuracy"),
    (check.der, lambda v, y: (1 - pairs(v).mean()) / error(v, y), "that agree"),
    (check.der, lambda v, y: 1 / der(v, y), "upside down"),
    (check.der, lambda v, y: pairs(v)[0] / error(v, y), "the first pair only"),
    (check.der, lambda v, y: der(v, y) + 1, "it should be"),
    (check.valley_trace, lambda a: 2 * valley(a).trace(), "a factor 2 too many"),
    (check.valley_trace, lambda a: valley(a).sum(), "the sum of all entries"),
    (check.valley_trace, lambda a: valley(a).det(), "the determinant"),
    (check.valley_trace, lambda a: a**2, "in b only"),
    (check.valley_trace, lambda a: a**-2, "in a only"),
    (check.valley_trace, lambda a: a + 1 / a, "have squares"),
    (check.valley_trace, lambda a: valley(a).diag().mean(), "the mean of the diagonal"),
    (check.valley_trace, lambda a: 2.0, "at (1, 1) only"),
    (check.valley_trace, lambda a: 2 * a**2, "at (alpha, alpha)"),
    (check.valley_trace, lambda a: a, "for alpha = 3.0 it should be 9.111; this is 3"),
    (check.valley_trace, lambda a: valley(a), "one number is asked for"),
    (
        check.correlation_within,
        lambda x, y: correlation(x.ravel(), y.ravel()),
        "all numbers at once",
    ),
    (check.correlation_within, lambda x, y: within(x.T, y.T), "the axis is wrong"),
    (
        check.correlation_within,
        lambda x, y: correlation(x.mean(1), y.mean(1)),
        "the means of the rows",
    ),
    (check.correlation_within, covariance, "not normalised"),
    (check.correlation_within, lambda x, y: len(x) * within(x, y), "take the mean."),
    (check.correlation_within, lambda x, y: correlation(x[0], y[0]), "first radius"),
    (
        check.correlation_within,
        lambda x, y: sum(correlation(*rows).abs() for rows in zip(x, y)) / len(x),
        "absolute values",
    ),
    (check.correlation_within, lambda x, y: -within(x, y), "the sign is wrong"),
    (
        check.correlation_within,
        lambda x, y: sum(correlation(*rows) ** 2 for rows in zip(x, y)) / len(x),
        "the mean of the squares",
    ),
    (check.correlation_within, lambda x, y: 1.0, "this is 1."),
]


@pytest.mark.parametrize("exercise", EXERCISES)
@pytest.mark.parametrize("nothing", [None, ...])
def test_a_function_that_returns_nothing_is_told_so(exercise, nothing, capsys):
    assert "returns nothing so far" in said_to(exercise, lambda *_: nothing, capsys)


def test_another_error_of_the_learners_code_is_not_swallowed():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        check.sam_update(lambda net, *given: net(torch.zeros(2, 5).double()))
