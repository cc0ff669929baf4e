"""FLOPs against products worked out by hand, passes against counted gradients."""

import dataclasses
import operator
import re
from typing import get_args

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sbtutor import cost, data, gradient, models, sharpbalance
from sbtutor.batches import Batches
from sbtutor.config import (
    DataConfig,
    Experiment,
    ModelConfig,
    ModelName,
    TrainConfig,
    preset,
)
from sbtutor.epochs import train_epoch
from sbtutor.state import fresh


def test_a_linear_layer_is_two_flop_a_weight():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 7))
    assert cost.forward_flops(model, (3, 4, 5)) == 2 * 60 * 7


def test_a_convolution_is_two_flop_a_weight_and_output_pixel():
    model = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
    assert cost.forward_flops(model, (3, 32, 32)) == 2 * (3 * 8 * 9) * 16 * 16


def test_resnet18_is_its_published_number_of_multiply_adds():
    """0.56 G for the CIFAR variant: 0.5559, of which the head has 5120."""
    flops = cost.model_flops(ModelConfig(name="resnet18"), (3, 32, 32), 10)
    assert flops / 2 == pytest.approx(0.5559e9, rel=1e-3)


@pytest.mark.parametrize("name", [*get_args(ModelName), "resnet50", "swin_t"])
def test_the_count_is_that_of_pytorchs_slower_counter(name):
    """Swin's attention, too, with its products of activations."""
    if name in get_args(ModelName):
        model = models.build(ModelConfig(name=name, width=4), (3, 16, 16), 10, 0)
    else:
        model = torchvision.models.get_model(name)
    side = 16 if name in get_args(ModelName) else 64
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        model.eval()(torch.zeros(1, 3, side, side))
    assert cost.forward_flops(model, (3, side, side)) == theirs.get_total_flops() > 0


def test_a_product_of_matrices_is_two_flop_an_entry_and_row():
    class Product(nn.Module):
        def __init__(self, product):
            super().__init__()
            self.weight, self.product = nn.Parameter(torch.zeros(5, 7)), product

        def forward(self, images):
            return self.product(images, self.weight)

    for product in (torch.matmul, torch.Tensor.matmul, operator.matmul):
        assert cost.forward_flops(Product(product), (3, 4, 5)) == 2 * (3 * 4 * 5) * 7


def test_a_built_network_and_one_without_memory_count_the_same():
    config = ModelConfig(name="resnet8", width=4)
    model = models.build(config, (3, 8, 8), 5, seed=1)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert cost.forward_flops(model, (3, 8, 8)) == cost.model_flops(
        config, (3, 8, 8), 5
    )
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("name", ["digits", "fashion-mini"])
@pytest.mark.parametrize("change", [{}, {"limit": 40}, {"size": 7}, {"seed": 3}])
def test_known_sizes_are_those_of_the_loaded_set(name, change):
    config = DataConfig(name=name, **change)
    splits = data.load(config)
    assert cost.sizes_of(config) == (
        *(len(split.labels) for split in splits),
        tuple(splits.train.images.shape[1:]),
        len(splits.train.classes),
    )


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_known_sizes_of_public_sets_share_their_images_out(name):
    """60,000 and 50,000 training images, of which a tenth validates."""
    sizes = cost.sizes_of(DataConfig(name=name))
    assert sizes.train + sizes.val == (60_000 if "mnist" in name else 50_000)
    assert sizes.val == round(data.VALIDATION * (sizes.train + sizes.val))
    assert sizes.test == 10_000


def test_a_set_of_ones_own_is_loaded_once(monkeypatch):
    digits, seen = data.load(DataConfig(name="digits")), []

    def load(config):
        seen.append(config)
        return digits

    monkeypatch.setattr(data, "load", load)
    cost._loaded.cache_clear()
    own = [DataConfig(name="own", limit=n, seed=n) for n in (10, 20)]
    assert [cost.sizes_of(config).train for config in own] == [10, 20]
    assert cost.sizes_of(DataConfig(name="own", size=4)).in_shape == (1, 4, 4)
    assert seen == [DataConfig(name="own")]
    cost._loaded.cache_clear()


def test_a_limit_beyond_the_set_is_refused():
    message = "cannot take 1098 of digits's 1097 training images; write a limit from 1"
    with pytest.raises(ValueError, match=message):
        cost.sizes_of(DataConfig(name="digits", limit=1098))


def settings(method="sharpbalance", **change):
    return TrainConfig(
        **{"method": method, "epochs": 10, "warmup_epochs": 4, "members": 3} | change
    )


@pytest.mark.parametrize("split", ["paper", "flattest", "random", "shared"])
@pytest.mark.parametrize("members", [2, 3, 5])
def test_share_of_sam_samples_is_that_of_independent_rankings(split, members):
    """N = 100,000: the share's deviation is below 1 / (2 sqrt N) = 0.0016."""
    check_share(split, members)


@pytest.mark.parametrize("split", ["code", "code_boost"])
def test_share_of_the_official_codes_splits(split):
    check_share(split, members=3)


def check_share(split, members):
    samples = 100_000
    generator = torch.Generator().manual_seed(members)
    scores = torch.rand(members, samples, generator=generator)
    masks = sharpbalance.sam_masks(scores, 0.3, split, generator)
    config = settings(split=split, members=members, sam_fraction=0.3)
    deviation = 0.5 / samples**0.5
    share = masks.double().mean(1)
    assert (share - cost.sam_share(config)).abs().max() < 4 * deviation


def test_members_that_all_rank_alike_give_sam_the_least_share():
    """Then the union of the others is any one's nomination, k."""
    scores = torch.arange(100.0).expand(4, -1)
    masks = sharpbalance.sam_masks(scores, 0.3, "paper")
    assert masks.double().mean() == pytest.approx(0.3)
    assert cost.sam_share(settings(members=4, sam_fraction=0.3)) > 0.3


def test_sgd_is_three_passes_a_sample_and_sam_twice_that():
    sgd = cost.gradient_passes(settings("sgd"), 1000)
    assert sgd == 3 * 10 * 3 * 1000
    assert cost.gradient_passes(settings("sam"), 1000) == 2 * sgd


def test_sharpbalance_lies_between_sgd_and_sam():
    """k = 1/2, M = 3: s = 3/4; per member 4 epochs of 2, a split of 1, 6 of 1.75."""
    passes = cost.gradient_passes(settings(sam_fraction=0.5), 1000)
    assert passes == 3 * (4 * 2 + 1 + 6 * 1.75) * 3 * 1000


@pytest.mark.parametrize("method", ["sgd", "sam"])
def test_passes_are_those_that_training_does(method, monkeypatch):
    """Counted at the one place where gradients are taken."""
    images, real = [], gradient._gradient

    def counted(member, params, x, labels):
        images.append(len(x))
        return real(member, params, x, labels)

    monkeypatch.setattr(gradient, "_gradient", counted)
    config = settings(method, members=2, device="cpu", batch_size=10)
    split = data.Split(
        torch.zeros(35, 1, 8, 8, dtype=torch.uint8), torch.arange(35) % 2, ("a", "b")
    )
    model = ModelConfig(name="mlp", width=2)
    state = fresh(
        Experiment(model=model, train=config), {"in_shape": [1, 8, 8], "classes": 2}
    )
    train_epoch(state, Batches(split, config, torch.device("cpu")), config)
    one = dataclasses.replace(config, epochs=1)
    assert cost.GRADIENT * sum(images) == cost.gradient_passes(one, 35)


def test_an_hour_is_3600_seconds_of_the_rate():
    assert cost.hours(7.2e16, tflops=20) == pytest.approx(1)


@pytest.mark.parametrize("tflops", [0, -1.0, float("nan")])
def test_a_rate_that_never_ends_is_refused(tflops):
    message = f"a rate of {tflops} TFLOP/s never ends; write a positive number"
    with pytest.raises(ValueError, match=re.escape(message)):
        cost.hours(1.0, tflops)


@pytest.mark.parametrize("there", [False, True])
def test_which_rate_is_assumed(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    gpu, core = (cost.GPU_TFLOPS, "GPU"), (cost.CPU_TFLOPS, "CPU core")
    paper = preset("paper").train
    assert cost.assumed_rate(paper, "paper") == gpu
    assert cost.assumed_rate(dataclasses.replace(paper, device="cpu"), "paper") == core
    assert cost.assumed_rate(TrainConfig(device="cuda:1")) == gpu
    assert cost.assumed_rate(TrainConfig()) == (gpu if there else core)


def test_a_large_grid_builds_each_network_once(monkeypatch):
    built, real = [], models.build

    def build(*given, **named):
        built.append(given)
        return real(*given, **named)

    monkeypatch.setattr(models, "build", build)
    cost.model_flops.cache_clear()
    for _ in range(100):
        for name in ("mlp", "lenet"):
            sizes = cost.sizes_of(DataConfig(name="cifar10", limit=1000))
            cost.model_flops(ModelConfig(name=name), sizes.in_shape, sizes.classes)
    assert len(built) == 2
