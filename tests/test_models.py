"""The networks are the papers': parameter counts, references, seeds."""

import dataclasses
import itertools
import math
from typing import get_args

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from sbtutor import config, models
from sbtutor.config import ModelConfig

SIZES = {"medium_cnn": 16}
FORT = [
    ("small_cnn", (16, 32, 32)),
    ("medium_cnn", (64, 128, 256, 256)),
]  # Fort et al.


def built(name, norm="batch", width=None, side=None, classes=10, seed=0):
    side = side or SIZES.get(name, 8)
    model = ModelConfig(name=name, width=width, norm=norm)
    return models.build(model, (3, side, side), classes, seed)


def dropping(name, rate, norm="batch"):
    model = ModelConfig(name=name, width=None if name == "mlp" else 4, norm=norm)
    model = dataclasses.replace(model, dropout=rate)
    return models.build(model, (3, 16, 16), 10, 0)


def images(count=4, side=8, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=generator, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "in_shape", "count"),
    [
        ("resnet20", (3, 32, 32), 272_474),  # He et al.'s 0.27 M, 1x1 shortcuts
        ("resnet18", (3, 32, 32), 11_173_962),  # CIFAR stem
        ("wrn28_10", (3, 32, 32), 36_479_194),  # the 36.5 M of the paper
        ("medium_cnn", (3, 32, 32), 971_146),  # counted in the authors' notebook
    ],
)
def test_parameter_counts_are_the_published_ones(name, in_shape, count):
    with torch.device("meta"):
        model = models.build(ModelConfig(name=name), in_shape, 10, 0)
    assert sum(p.numel() for p in model.parameters()) == count


def test_mlp_has_the_parameters_of_its_three_matrices():
    model = built("mlp", width=7)
    count = sum(p.numel() for p in model.parameters())
    assert count == (3 * 8 * 8 + 1) * 7 + (7 + 1) * 7 + (7 + 1) * 10


@pytest.mark.parametrize("training", [False, True])
def test_resnet18_equals_torchvisions_with_the_cifar_stem(training):
    ours = built("resnet18", width=64, side=16).double()
    theirs = torchvision.models.resnet18(num_classes=10).double()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    theirs = theirs.double()
    own = [v for k, v in ours.state_dict().items() if not k.startswith("normalize")]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), own, strict=True)))
    x = images(3, 16, dtype=torch.float64)
    ours.train(training), theirs.train(training)
    torch.testing.assert_close(
        ours(x), theirs((x - 0.5) / 0.25), rtol=1e-10, atol=1e-10
    )


def test_small_cnn_may_pool_before_relu_because_maximum_and_relu_commute():
    model = built("small_cnn", width=4).double().eval()
    x = images(dtype=torch.float64)
    h = (x - 0.5) / 0.25
    for stage in (1, 2, 3):
        h = F.relu(
            model.get_submodule(f"norm{stage}")(model.get_submodule(f"conv{stage}")(h))
        )
        h = F.max_pool2d(h, 2) if stage < 3 else h.mean((2, 3))
    torch.testing.assert_close(model(x), model.head(h))


@pytest.mark.parametrize(("name", "channels"), FORT)
def test_fort_et_als_networks_are_convolution_pool_relu_but_no_last_relu(
    name, channels
):
    model = built(name, "none", side=16).double().eval()
    assert not any(isinstance(m, nn.BatchNorm2d | nn.GroupNorm) for m in model)
    x = images(2, 16, dtype=torch.float64)
    h = (x - 0.5) / 0.25
    for stage, outputs in enumerate(channels, start=1):
        h = F.max_pool2d(model.get_submodule(f"conv{stage}")(h), 2)
        assert h.shape[1] == outputs
        h = F.relu(h) if stage < len(channels) else h
    torch.testing.assert_close(model(x), model.head(h.flatten(1)))


@pytest.mark.parametrize(("name", "channels"), FORT)
def test_fort_et_als_networks_start_from_glorots_uniform_biases_too(name, channels):
    """Bound sqrt(6 / (fan_in + fan_out)), of n biases sqrt(6 / 2n)."""
    for layer in built(name, "none", side=16):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            taps = layer.weight[0, 0].numel() if layer.weight.dim() == 4 else 1
            fans = taps * sum(layer.weight.shape[:2])
            for values, total in (
                (layer.weight, fans),
                (layer.bias, 2 * len(layer.bias)),
            ):
                ratio = values.detach() / math.sqrt(6 / total)
                assert ratio.abs().max() <= 1 + 1e-6
                error = math.sqrt(4 / 45 / values.numel())  # of the mean of u^2
                assert abs(ratio.square().mean() - 1 / 3) < 4 * error


def test_the_norms_name_makes_no_difference_to_medium_cnn():
    """medium_cnn has no norm layers, so all three names mean the same network."""
    nets = [built("medium_cnn", norm, width=4) for norm in ("batch", "group", "none")]
    weights = [nn.utils.parameters_to_vector(net.parameters()) for net in nets]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_basic_block_with_nothing_in_it_is_relu(norm):
    """relu(x + norm(...)) with the last norm's weight at zero."""
    block = models.BasicBlock(8, 8, 1, norm)
    nn.init.zeros_(block.norm2.weight)
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), F.relu(x))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_preactivation_block_with_nothing_in_it_is_the_identity(norm):
    block = models.PreActBlock(8, 8, 1, norm)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", get_args(config.ModelName))
def test_every_parameter_takes_part(name, norm):
    """No layer is built and then forgotten."""
    model = built(name, norm, width=4, side=16)
    F.cross_entropy(model(images(8, 16)), torch.arange(8)).backward()
    idle = [k for k, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    assert not idle


@pytest.mark.parametrize(("norm", "alone"), [("group", True), ("batch", False)])
@pytest.mark.parametrize("name", ["small_cnn", "resnet8", "wrn28_10"])
def test_only_batch_norm_lets_samples_see_each_other(name, norm, alone):
    model = built(name, norm, width=8).double().train()
    x = images(6, dtype=torch.float64)
    assert torch.allclose(model(x)[:3], model(x[:3]), atol=1e-9) == alone


@pytest.mark.parametrize("name", ["lenet", "small_cnn", "resnet8"])
def test_a_seed_decides_the_weights_and_leaves_global_randomness_alone(name):
    before = torch.random.get_rng_state()
    first, again, other = (built(name, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_convolutions_start_with_he_et_als_variance():
    """Var w = 2 / fan_in; the estimate from n weights has error 2/fan_in sqrt(2/n)."""
    for conv in built("resnet20").modules():
        if isinstance(conv, nn.Conv2d):
            fan_in = conv.weight[0].numel()
            error = math.sqrt(2 / conv.weight.numel())
            assert abs(conv.weight.square().mean() * fan_in / 2 - 1) < 4.5 * error


def test_images_are_normalised_before_anything_else():
    """Scaling images and normalize.mean/std alike leaves the logits as they are."""
    model = built("small_cnn").double().eval()
    x = images(dtype=torch.float64)
    before = model(x)
    model.normalize.mean.mul_(3).add_(1), model.normalize.std.mul_(3)
    torch.testing.assert_close(model(3 * x + 1), before)


@pytest.mark.parametrize(
    ("name", "norm", "side"),
    [
        ("lenet", "batch", 4),
        ("small_cnn", "batch", 4),
        ("small_cnn", "none", 8),
        ("medium_cnn", "batch", 16),
    ],
)
def test_images_too_small_for_the_pooling_are_refused(name, norm, side):
    assert built(name, norm, side=side)(images(2, side)).isfinite().all()
    message = f"{name} pools .* at least {side}x{side} pixels, got {side - 1}x{side}"
    with pytest.raises(ValueError, match=message):
        models.build(ModelConfig(name=name, norm=norm), (3, side - 1, side), 10, 0)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        built("mlp", classes=1)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("width", [1, 2, 6, 10, 16])
def test_any_width_has_a_norm(width, norm):
    """The number of groups divides the channels, whatever they are."""
    assert built("small_cnn", norm, width=width)(images()).isfinite().all()


@pytest.mark.parametrize(
    ("name", "norm", "linear", "fixed"),
    [
        ("mlp", "batch", ["hidden2", "head"], 0),
        ("lenet", "batch", ["hidden1", "hidden2", "head"], 0),
        ("small_cnn", "batch", ["head"], 0),
        ("small_cnn", "none", ["head"], 3),
        ("medium_cnn", "batch", ["head"], 4),
        ("resnet8", "group", ["head"], 0),
        ("wrn28_10", "batch", ["head"], 0),
    ],
)
def test_dropout_comes_before_linear_layers_but_not_before_the_first_weights(
    name, norm, linear, fixed
):
    """Fort et al.'s networks keep the dropout layers of their own, at 0.1."""
    plain, ours = (dropping(name, rate, norm) for rate in (0.0, 0.4))
    rates = [layer.p for layer in plain.modules() if isinstance(layer, nn.Dropout)]
    assert rates == [0.1] * fixed
    layers = list(ours.named_children())
    before = [
        following
        for (_, layer), (following, _) in itertools.pairwise(layers)
        if isinstance(layer, nn.Dropout) and layer.p == 0.4
    ]
    assert before == linear
    assert len(ours) == len(plain) + len(linear)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", get_args(config.ModelName))
def test_dropout_changes_neither_names_nor_first_weights(name, norm):
    """So that a rate can be searched from one initialisation."""
    plain, ours = (dropping(name, rate, norm).eval() for rate in (0.0, 0.4))
    assert list(plain.state_dict()) == list(ours.state_dict())
    pairs = zip(plain.state_dict().values(), ours.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)
    x = images(2, 16)
    assert torch.equal(plain(x), ours(x))


def test_dropout_drops_at_its_rate_what_the_linear_layer_sees():
    """Of 128 * 400 units that are not 0, a share of 0.4, to 4 standard errors."""
    model = dropping("mlp", 0.4).train()
    seen = {}
    model.relu2.register_forward_hook(lambda *call: seen.update(units=call[-1]))
    model.head.register_forward_pre_hook(lambda _, given: seen.update(left=given[0]))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model(images(400, 16))
    alive = seen["units"] > 0
    kept = seen["left"][alive] > 0
    torch.testing.assert_close(
        seen["left"][alive][kept], seen["units"][alive][kept] / 0.6
    )
    error = math.sqrt(0.4 * 0.6 / len(kept))
    assert abs((~kept).double().mean() - 0.4) < 4 * error


def modes(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_evaluating_is_eval_mode_for_a_while(training, mixed):
    """Each layer's own mode comes back; nested, and after an error, too."""
    model = built("small_cnn", width=4).train(training)
    if mixed:
        model.norm1.train(not training)
    before = modes(model)
    assert any(before) == (training or mixed)
    with models.evaluating(model):
        assert not any(modes(model))
        with models.evaluating(model.norm1):
            model.norm2.train()
        assert [model.norm1.training, model.norm2.training] == [False, True]
    assert modes(model) == before
    with pytest.raises(ZeroDivisionError), models.evaluating(model):
        1 / 0  # noqa: B018
    assert modes(model) == before


def test_while_evaluating_the_running_statistics_stand_still():
    model = built("small_cnn", width=4)
    before = {name: b.clone() for name, b in model.named_buffers()}
    with models.evaluating(model):
        model(images())
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    model(images())
    assert not torch.equal(model.norm1.running_mean, before["norm1.running_mean"])


def test_evaluating_knows_layers_that_a_model_uses_twice():
    layer = nn.Dropout()
    model = nn.Sequential(layer, nn.Sequential(layer, nn.BatchNorm2d(3).eval()))
    with models.evaluating(model):
        assert not any(modes(model))
    assert modes(model) == [True, True, True, False]
