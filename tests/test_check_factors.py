"""Lesson 04's exercises on factors: each mistake gets its message."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sbtutor import batch_ensemble, check


def outputs(x, weight, r, s):
    """(M, B, O)."""
    return (x * r[:, None]) @ weight.T * s[:, None]


def gradient(x, labels, weight, r, s, by=F.cross_entropy, expand=torch.Tensor.repeat):
    r.requires_grad_()
    logits = outputs(x, weight, r, s).flatten(0, 1)
    by(logits, expand(labels, len(r))).backward()
    return r.grad


def by_hand(x, labels, weight, r, s):
    probs = outputs(x, weight, r, s).softmax(-1)
    wrong = probs - F.one_hot(labels, len(weight))  # of the logits
    return torch.einsum("mbo,mo,oi,bi->mi", wrong, s, weight, x) / len(r) / len(x)


def by_layer(x, labels, weight, r, s):
    layer = nn.Linear(*weight.T.shape, bias=False).to(weight)
    whole = batch_ensemble.convert(layer, len(r))
    own = whole.network[0].own
    own.weight.data, own.r.data, own.s.data = weight, r, s
    F.cross_entropy(whole(whole.tile(x)), whole.tile(labels)).backward()
    return own.r.grad


def of_mean(x, labels, weight, r, s):
    r.requires_grad_()
    probs = outputs(x, weight, r, s).softmax(-1).mean(0)
    return torch.autograd.grad(F.nll_loss(probs.log(), labels), r)[0]


def without_s(x, labels, weight, r, s):
    return gradient(x, labels, weight, r, torch.ones_like(s))


def by_image(*given):
    return gradient(*given, expand=torch.Tensor.repeat_interleave)


def of_s(x, labels, weight, r, s):
    s.requires_grad_()
    gradient(x, labels, weight, r, s)
    return s.grad


SOLUTIONS = [
    (check.factor_gradient, gradient),
    (check.factor_gradient, by_hand),
    (check.factor_gradient, by_layer),
    (check.twins, 1),
]
EXERCISES = [check.factor_gradient, check.twins]
MISTAKES = [
    (check.factor_gradient, lambda *given: -gradient(*given), "downhill"),
    (check.factor_gradient, lambda *given: 3 * gradient(*given), "added over members;"),
    (check.factor_gradient, lambda *given: 6 * gradient(*given), "added over images"),
    (
        check.factor_gradient,
        lambda *given: 18 * gradient(*given),
        "over members and images",
    ),
    (check.factor_gradient, of_mean, "the loss of the mean"),
    (check.factor_gradient, by_image, "labels.repeat(M)"),
    (check.factor_gradient, without_s, "s is missing"),
    (check.factor_gradient, of_s, "the shape should be (3, 5)"),
    (check.factor_gradient, lambda *given: 2 * gradient(*given), "make the outputs"),
    (check.factor_gradient, lambda *given: gradient(*given).tolist(), "a list"),
    (check.twins, 3, "what could ever tell"),
    (check.twins, 2, "no two of the three differ"),
    (check.twins, 0, "if only one"),
    (check.twins, 7, "three networks at most"),
    (check.twins, "one", "this is a str"),
]


@pytest.mark.parametrize("find", [gradient, of_s])
def test_members_with_equal_factors_have_equal_gradients(find):
    """What exercise 6 claims."""
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(8, 5, generator=draw), torch.randn(4, 5, generator=draw)
    found = find(x, torch.arange(8) % 4, weight, torch.ones(3, 5), torch.ones(3, 4))
    assert torch.allclose(found, found[:1].expand_as(found), atol=1e-6)
    assert found.abs().min() > 1e-3
