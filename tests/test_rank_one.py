"""Layers of M members are the paper's formula, example by example."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sbtutor import rank_one
from sbtutor.rank_one import BatchLayer, Given, HyperDropout, HyperLayer

M, B, H = 3, 4, 2
# A layer and the shape of one of its inputs; 12 tokens are as many as M * B examples.
LAYERS = {
    "linear": (nn.Linear(5, 3), (5,)),
    "linear without bias": (nn.Linear(3, 4, bias=False), (3,)),
    "linear on tokens": (nn.Linear(5, 12), (12, 5)),
    "conv": (nn.Conv2d(3, 4, 3, padding=1), (3, 5, 6)),
    "conv with stride": (nn.Conv2d(2, 3, 3, stride=2, bias=False), (2, 7, 7)),
    "conv 1x1": (nn.Conv2d(4, 2, 1, stride=2, bias=False), (4, 4, 4)),
    "conv of odd shape": (nn.Conv2d(2, 3, (3, 2), (1, 2), (2, 0), 2), (2, 6, 5)),
    "conv same": (nn.Conv2d(2, 3, 3, padding="same"), (2, 4, 4)),
}
KINDS = ["batch", "hyper", "tied"]
every_layer = pytest.mark.parametrize("name", LAYERS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def converted(layer, kind, members=M, hypers=H, std=0.5):
    """As `convert` makes it, in double."""
    layer, generator = layer.double(), seeded()
    if kind == "batch":
        return BatchLayer(layer, members, std, generator)
    tied = kind == "tied"
    return HyperLayer(layer, members, std, generator, Given(), hypers, tied)


def scattered(name, kind):
    """A layer whose parameters are all of the order of 1, examples and their lambda."""
    layer, shape = LAYERS[name]
    layer = converted(layer, kind)
    with torch.no_grad():
        for seed, param in enumerate(layer.parameters()):
            param.copy_(normal(*param.shape, seed=10 + seed))
    x = normal(M * B, *shape).requires_grad_()
    unit = torch.rand(M * B, H, generator=seeded(2), dtype=x.dtype).requires_grad_()
    if kind != "batch":
        layer.given.unit = unit
    return layer, x, unit


def weights(layer, k, unit):
    """W_k(lambda) as (d_in, d_out, ...) and b_k(lambda), as the paper writes them."""

    def one(part):
        w = part.weight.transpose(0, 1)
        outer = torch.outer(part.r[k], part.s[k])
        return w * outer.reshape(*outer.shape, *[1] * (w.dim() - 2))

    w, b = one(layer.own), None if layer.bias is None else layer.bias[k]
    if isinstance(layer, HyperLayer):
        e = layer.embed @ unit
        outputs = w.shape[1]
        delta = one(layer.response)
        w = w + delta * e[:outputs].reshape(1, -1, *[1] * (w.dim() - 2))
        b = None if b is None else b + layer.bias_delta[k] * e[outputs:]
    return w, b


def output(name, x, w, b):
    """Of one example."""
    layer, _ = LAYERS[name]
    if isinstance(layer, nn.Linear):
        return x @ w + (0 if b is None else b)
    how = (layer.stride, layer.padding, layer.dilation)
    return F.conv2d(x[None], w.transpose(0, 1), b, *how)[0]


def members_and_examples():
    """(k, its i-th example's place in the batch): the members one after the other."""
    return [(k, k * B + i) for k, i in itertools.product(range(M), range(B))]


def assert_same_slopes(found, expected, wrt):
    pairs = zip(torch.autograd.grad(found, wrt), torch.autograd.grad(expected, wrt))
    for ours, theirs in pairs:
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs)


@every_kind
@every_layer
def test_outputs_and_slopes_are_those_of_each_examples_own_weights(name, kind):
    """X W_k(lambda) + b_k(lambda), with W_k(lambda) made for each example."""
    layer, x, unit = scattered(name, kind)
    found = layer(x)
    expected = torch.stack(
        [
            output(name, x[n], *weights(layer, k, unit[n]))
            for k, n in members_and_examples()
        ]
    )
    torch.testing.assert_close(found, expected)
    direction = normal(*found.shape, seed=3)
    wrt = [*layer.parameters(), x, *([] if kind == "batch" else [unit])]
    assert_same_slopes((found * direction).sum(), (expected * direction).sum(), wrt)


@every_kind
@every_layer
def test_the_penalty_is_the_mean_of_each_examples_own(name, kind):
    """1/(M B) sum_ki nu_ki (||W_k(lambda_ki)||_F^2 + ||b_k(lambda_ki)||^2)."""
    layer, _, unit = scattered(name, kind)
    nu = torch.rand(M, B, generator=seeded(4), dtype=torch.float64).requires_grad_()
    found = layer.penalty(nu)
    expected = 0
    for k, n in members_and_examples():
        w, b = weights(layer, k, unit[n])
        squares = w.square().sum() + (0 if b is None else b.square().sum())
        expected = expected + nu.flatten()[n] * squares / (M * B)
    torch.testing.assert_close(found, expected)
    wrt = [*layer.parameters(), nu, *([] if kind == "batch" else [unit])]
    assert_same_slopes(found, expected, wrt)


@every_kind
@every_layer
def test_a_member_as_an_ordinary_layer_has_its_weights(name, kind):
    layer, x, unit = scattered(name, kind)
    for k, n in members_and_examples():
        if kind != "batch":
            layer.given.unit = unit[n : n + 1]
        plain = layer.plain(k)
        w, b = weights(layer, k, unit[n])
        assert type(plain) is type(LAYERS[name][0])
        torch.testing.assert_close(plain.weight, w.transpose(0, 1))
        assert (plain.bias is None) == (b is None)
        torch.testing.assert_close(plain(x[n : n + 1])[0], output(name, x[n], w, b))
        assert all(
            param.is_leaf and param.requires_grad for param in plain.parameters()
        )


@pytest.mark.parametrize("silent", ["own.r", "response.weight", "embed"])
@every_layer
def test_with_unit_factors_and_no_response_every_member_is_the_layer(name, silent):
    """r = s = 1, and D = 0 or e = 0 (of a batch layer there is only r = s = 1)."""
    original, shape = LAYERS[name]
    layer = converted(original, "batch" if silent == "own.r" else "hyper")
    with torch.no_grad():
        layer.own.r.fill_(1)
        layer.own.s.fill_(1)
        if silent != "own.r":
            layer.get_parameter(silent).zero_()
            layer.given.unit = normal(M * B, H)
            if layer.bias is not None:  # d is silenced by e = 0 only
                layer.bias_delta.mul_(silent == "embed")
    x = normal(M * B, *shape)
    torch.testing.assert_close(layer(x), original(x))


def test_a_linear_layers_parameters_are_counted_as_in_the_paper():
    """d_in d_out + K (d_in + d_out), twice that if hyper, and K d_out of each bias."""
    d_in, d_out = 7, 5
    batch = d_in * d_out + M * (d_in + d_out)
    embedding = d_out * H  # for each of e and e'
    expected = {
        ("batch", False): batch,
        ("batch", True): batch + M * d_out,
        ("hyper", False): 2 * batch + embedding,
        ("hyper", True): 2 * batch + 2 * M * d_out + 2 * embedding,
        ("tied", False): batch + d_in * d_out + embedding,
    }
    for (kind, bias), count in expected.items():
        layer = converted(nn.Linear(d_in, d_out, bias=bias), kind)
        assert sum(param.numel() for param in layer.parameters()) == count


def test_tied_factors_are_the_same_parameters():
    tied, free = (converted(nn.Linear(5, 3), kind) for kind in ("tied", "hyper"))
    assert tied.response.r is tied.own.r
    assert tied.response.s is tied.own.s
    assert not torch.equal(free.response.r, free.own.r)
    assert not torch.equal(free.response.s, free.own.s)


def assert_normal(values, mean, std):
    """Mean and deviation of a normal sample are within 4 standard errors."""
    count = values.numel()
    assert abs(values.mean() - mean) < 4 * std / math.sqrt(count)
    assert abs(values.std() - std) < 4 * std / math.sqrt(2 * count)


def test_layers_start_from_the_weights_and_factors_around_one():
    original = nn.Conv2d(40, 60, 3)
    layer = converted(original, "hyper", members=20, std=0.75)
    assert torch.equal(layer.own.weight, original.weight)
    assert torch.equal(layer.bias, original.bias.expand(20, -1))
    for part in (layer.own, layer.response):
        assert_normal(part.r, 1, 0.75)
        assert_normal(part.s, 1, 0.75)
    assert_normal(layer.response.weight, 0, float(original.weight.detach().std()))
    assert_normal(layer.embed, 0, 1e-4)
    assert torch.equal(layer.bias_delta, torch.ones_like(layer.bias))


def test_the_draws_need_and_move_no_generator_but_the_given_one():
    made = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            made.append(converted(LAYERS["conv"][0], "hyper"))
            assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(*(layer.parameters() for layer in made)):
        assert torch.equal(a, b)


def test_a_layer_of_one_weight_can_be_hyper():
    """The deviation of one number is no number; its size is."""
    layer = converted(nn.Linear(1, 1), "hyper")
    assert all(param.isfinite().all() for param in layer.parameters())
    assert layer.response.weight.abs() > 0


def test_each_repeats_a_members_row_for_its_examples():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = rank_one.each(rows, torch.zeros(6, 5))
    assert found[:, 0].tolist() == [1, 1, 1, 3, 3, 3]
    assert found.shape == (6, 2)


def dropped(rates, shape, seed=0):
    dropout = HyperDropout(Given())
    dropout.given.rate = torch.tensor(rates, dtype=torch.float64)
    x = 1 + torch.rand(len(rates), *shape, generator=seeded(9), dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return x, dropout(x), dropout


@pytest.mark.parametrize("shape", [(20_000,), (8, 50, 50)])
def test_dropout_has_a_rate_for_each_example_and_keeps_the_mean(shape):
    rates = [0.001, 0.1, 0.5, 0.9]
    x, y, _ = dropped(rates, shape)
    for before, after, rate in zip(x, y, rates):
        kept = after != 0
        torch.testing.assert_close(after[kept], before[kept] / (1 - rate))
        error = math.sqrt(rate * (1 - rate) / kept.numel())
        assert abs((~kept).double().mean() - rate) < 4 * error


def test_dropout_masks_are_independent_of_each_other():
    """Neighbours and examples are dropped together as often as by chance."""
    _, y, _ = dropped([0.4, 0.4], (40_000,))
    gone = (y == 0).double() - 0.4
    error = 0.4 * 0.6 / math.sqrt(40_000)
    assert abs((gone[0] * gone[1]).mean()) < 4 * error
    assert abs((gone[0, 1:] * gone[0, :-1]).mean()) < 4 * error


def test_dropout_follows_the_seed_and_rests_in_eval_mode():
    (x, a, dropout), (_, b, _), (_, c, _) = (
        dropped([0.5, 0.2], (50,), seed) for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert dropout.eval()(x) is x
