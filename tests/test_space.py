"""Which hyperparameters a network has, and draws from their ranges."""

import math

import pytest
import torch
from torch import nn

from sbtutor import models, space
from sbtutor.config import ModelConfig
from sbtutor.space import Space

MLP = ("l2_hidden1", "l2_hidden2", "l2_head", "label_smoothing")


def built(name, **config):
    return models.build(ModelConfig(name=name, **config), (3, 16, 16), 10, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", ["hidden1", "hidden2", "head"]),
        ("lenet", ["conv1", "conv2", "hidden1", "hidden2", "head"]),
        ("small_cnn", ["conv1", "conv2", "conv3", "head"]),
        ("resnet8", ["conv", "stage1", "stage2", "stage3", "head"]),
        ("wrn28_10", ["conv", "stage1", "stage2", "stage3", "head"]),
    ],
)
def test_groups_are_layers_or_stages(name, expected):
    """Input convolution, three stages and the dense layer, as in the paper's table."""
    assert list(space.groups(built(name, width=4))) == expected


@pytest.mark.parametrize("name", ["lenet", "small_cnn", "resnet20", "wrn28_10"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_weight_has_one_group_but_those_of_norm_layers(name, norm):
    model = built(name, norm=norm, width=4)
    grouped = [n for names in space.groups(model).values() for n in names]
    norms = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)
        for name, _ in module.named_parameters()
    }
    assert len(grouped) == len(set(grouped))
    assert set(grouped) | norms == {n for n, _ in model.named_parameters()}
    assert not set(grouped) & norms


def test_a_single_layer_is_a_model_too():
    layer = nn.Linear(2, 3)
    (names,) = space.groups(layer).values()
    assert [layer.get_parameter(name) for name in names] == [layer.weight, layer.bias]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Embedding(2, 3)),
            "layer 0 is a Embedding: only Linear, Conv2d",
        ),
        (nn.PReLU(), "layer the model is a PReLU"),
    ],
)
def test_other_layers_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        space.groups(model)


def test_dropout_is_a_hyperparameter_of_models_that_have_it():
    assert space.names(built("mlp")) == MLP
    with_rate = space.names(built("mlp", dropout=0.1))
    assert with_rate == (*MLP[:3], "dropout", "label_smoothing")


def test_the_default_ranges_are_the_papers():
    """Wenzel et al., appendix C.1: MLP and LeNet."""
    ranges = [Space().range_of(n) for n in ("l2_head", "dropout", "label_smoothing")]
    assert ranges == [(1e-3, 1e3), (1e-3, 0.9), (1e-5, 0.2)]


def test_limits_are_the_logarithms_of_the_ranges():
    found = Space(l2=(0.1, 100.0)).limits(("l2_conv1", "label_smoothing"))
    expected = [[math.log(0.1), math.log(1e-5)], [math.log(100), math.log(0.2)]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_draw_is_decided_by_its_generator_and_names_every_hyperparameter():
    a, b, c = (Space().draw(MLP, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert a == b != c
    assert tuple(a) == MLP
    assert all(type(value) is float for value in a.values())


def test_draws_are_log_uniform_and_independent():
    """u = log(x / a) / log(b / a) has mean 1/2, variance 1/12, no correlation."""
    generator, n = torch.Generator().manual_seed(0), 4000
    ranges = [Space().range_of(name) for name in MLP]
    draws = [list(Space().draw(MLP, generator).values()) for _ in range(n)]
    a, b = torch.tensor(ranges, dtype=torch.float64).T
    u = (torch.tensor(draws).double() / a).log() / (b / a).log()
    # float32 holds the draws above; their logarithms lose no more than 1e-6
    assert u.min() > -1e-6
    assert u.max() < 1 + 1e-6
    assert ((u.mean(0) - 1 / 2).abs() < 4 * math.sqrt(1 / 12 / n)).all()
    products = ((u - 1 / 2)[:, :, None] * (u - 1 / 2)[:, None, :]).mean(0)
    error = math.sqrt(1 / 80 / n)  # E (u - 1/2)^4 = 1/80 bounds each variance
    assert ((products - torch.eye(4) / 12).abs() < 4 * error).all()


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"l2": (1.0, 0.1)}, r"range of l2 must be \(low, high\).*got \(1, 0.1\)"),
        ({"l2": (0.0, 1.0)}, r"log scale; got \(0, 1\)"),
        ({"l2": (1.0, math.inf)}, r"got \(1, inf\)"),
        ({"dropout": (0.1, 0.1)}, r"range of dropout .*got \(0.1, 0.1\)"),
        ({"dropout": (0.1, 1.0)}, r"dropout is a share .* below 1.*\(0.1, 1\)"),
        ({"label_smoothing": (0.1, 2.0)}, "label_smoothing is a share"),
    ],
)
def test_impossible_ranges_are_refused(ranges, message):
    with pytest.raises(ValueError, match=message):
        Space(**ranges)
