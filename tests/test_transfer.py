"""Checkpoints, new heads and fine-tuned members are what plain calls make of them."""

import copy
import dataclasses
import errno
import math
import os

import numpy as np
import pytest
import torch
from torch import nn

from sbtutor import cycles, data, models, transfer
from sbtutor.config import DataConfig, ModelConfig, TrainConfig
from sbtutor.cycles import train_cycle
from sbtutor.recipe import Recipe

CONFIG = TrainConfig(
    epochs=2, batch_size=20, lr=0.05, schedule="cosine", seed=7, device="cpu"
)
SMALL = ModelConfig(name="small_cnn", width=3)


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def digits():
    return data.load(DataConfig(name="digits", limit=100)).train


@pytest.fixture(scope="module")
def source(digits):
    """Six classes to pre-train on."""
    return data.only(digits, list("012345"))


@pytest.fixture(scope="module")
def target(digits):
    """Four others to fine-tune on."""
    return data.only(digits, list("6789"))


@pytest.fixture(scope="module")
def checkpoints(source):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBTUTOR_PROGRESS", "off")
        return transfer.pretrain(SMALL, source, CONFIG, [3, 4], jobs=1)


@pytest.fixture
def trained(monkeypatch):
    """The configs of the cycles that are really trained."""
    seen, real = [], cycles.train_cycle

    def counted(start, split, config, how=None):
        seen.append(config)
        return real(start, split, config, how)

    monkeypatch.setattr(cycles, "train_cycle", counted)
    return seen


def network(name="small_cnn", **settings):
    return models.build(ModelConfig(name=name, width=4, **settings), (1, 8, 8), 10, 0)


def state(model):
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def alike(a, b):
    """Bit for bit."""
    a, b = (x if isinstance(x, dict) else x.state_dict() for x in (a, b))
    return a.keys() == b.keys() and all(torch.equal(t, b[k]) for k, t in a.items())


def test_a_checkpoint_is_a_fresh_network_trained_for_one_cycle(checkpoints, source):
    """Weights, data order and dropout by its seed; images scaled by the source's."""
    for seed, found in zip([3, 4], checkpoints, strict=True):
        start = models.build(SMALL, (1, 8, 8), 6, seed)
        start.normalize.set(*data.channel_statistics(source.images))
        alone, _ = train_cycle(start, source, dataclasses.replace(CONFIG, seed=seed))
        assert alike(found, alone)
        assert not any(m.training for m in found.modules())


def test_checkpoints_are_kept(checkpoints, source, tmp_path, trained):
    for _ in range(2):
        found = transfer.pretrain(SMALL, source, CONFIG, (3, 4), tmp_path, jobs=1)
        assert alike(found[0], checkpoints[0])
        assert alike(found[1], checkpoints[1])
    assert len(trained) == len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize(
    "model",
    [
        network("mlp"),
        network("lenet", dropout=0.3),
        network(),
        network("resnet8", norm="group"),
        nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 5), nn.Linear(5, 10))),
    ],
    ids=["mlp", "lenet", "small_cnn", "resnet8", "nested"],
)
def test_a_new_head_leaves_all_else_as_it_is(model):
    """Bit for bit; of several linear layers the last is the head."""
    before = state(model)
    made = transfer.with_head(model, 3, seed=5)
    assert alike(model, before)
    after = made.state_dict()
    assert list(after) == list(before)
    head = [name.rpartition(".")[0] for name in before][-1]
    for name, tensor in after.items():
        if name.startswith(head):
            assert len(tensor) == 3
            assert tensor.shape[1:] == before[name].shape[1:]
        else:
            assert torch.equal(tensor, before[name])
    assert made(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    for tensor in after.values():
        tensor.zero_()
    assert alike(model, before)


def test_the_seed_alone_decides_a_new_heads_weights():
    torch.manual_seed(5)
    random = torch.random.get_rng_state()
    first = transfer.with_head(network(), 3, 1).head
    assert torch.equal(torch.random.get_rng_state(), random)
    torch.manual_seed(6)
    other = network()
    nn.init.constant_(other.head.weight, 7)
    again = transfer.with_head(other, 3, 1).head
    assert alike(first, again)
    differing = transfer.with_head(network(), 3, 2).head
    assert not torch.equal(first.weight, differing.weight)
    assert not torch.equal(first.bias, differing.bias)


@pytest.mark.usefixtures("unchecked")
def test_numpys_seeds_are_pythons():
    made = [transfer.with_head(network(), 3, seed) for seed in (4, np.int64(4))]
    assert alike(*made)


def test_a_new_heads_weights_are_uniform_as_pytorchs():
    """U(-1/sqrt(in), 1/sqrt(in)): its variance is a third of the bound's square."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    head = transfer.with_head(net, 500, 0)[1]
    bound = 1 / math.sqrt(64)
    for tensor in (head.weight, head.bias):
        assert tensor.abs().max() <= bound
    x = head.weight.flatten() / bound
    for moment, mean, variance in ((x, 0, 1 / 3), (x**2, 1 / 3, 4 / 45)):
        assert abs(moment.mean() - mean) < 4 * math.sqrt(variance / len(x))


def test_a_new_head_has_the_old_ones_precision_mode_and_lack_of_bias():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)).double().eval()
    head = transfer.with_head(net, 3, 0)[1]
    assert head.weight.dtype == torch.float64
    assert head.bias is None
    assert not head.training
    assert transfer.with_head(net.train(), 3, 0)[1].training
    assert head.weight.requires_grad


@pytest.mark.parametrize("classes", [1, 0, -2])
def test_a_head_for_fewer_than_two_classes_is_refused(classes):
    message = f"a classifier needs at least 2 classes, got {classes}"
    with pytest.raises(ValueError, match=message):
        transfer.with_head(network(), classes, 0)


def test_a_model_without_a_linear_layer_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(ValueError, match="Sequential without a linear layer has no he"):
        transfer.with_head(net, 3, 0)


def test_member_m_has_a_head_and_a_cycle_of_seed_plus_m(checkpoints, target):
    """A Global DE: bit for bit by hand. With a Local DE it shares member 0."""
    before = [state(c) for c in checkpoints]
    modes = [[m.training for m in c.modules()] for c in checkpoints]
    members = transfer.fine_tune(checkpoints, target, CONFIG, jobs=1)
    for m, (found, checkpoint) in enumerate(zip(members, checkpoints, strict=True)):
        start = transfer.with_head(checkpoint, 4, 7 + m)
        config = dataclasses.replace(CONFIG, seed=7 + m)
        alone, _ = train_cycle(start, target, config)
        assert alike(found, alone)
        assert not any(layer.training for layer in found.modules())
    local = transfer.fine_tune(checkpoints[:1] * 2, target, CONFIG, jobs=1)
    assert alike(local[0], members[0])
    assert not alike(local[0], local[1])
    assert all(alike(c, kept) for c, kept in zip(checkpoints, before, strict=True))
    assert modes == [[m.training for m in c.modules()] for c in checkpoints]


def test_all_weights_are_fine_tuned(checkpoints, target):
    (found,) = transfer.fine_tune(checkpoints[:1], target, CONFIG)
    old = dict(checkpoints[0].named_parameters())
    for name, p in found.named_parameters():
        if not name.startswith("head"):
            assert not torch.equal(p, old[name])


def test_a_recipe_reaches_each_member(checkpoints, target):
    how = Recipe(warmup_epochs=1, label_smoothing=0.2)
    found = transfer.fine_tune(checkpoints, target, CONFIG, jobs=1, recipe=how)
    start = transfer.with_head(checkpoints[1], 4, 8)
    config = dataclasses.replace(CONFIG, seed=8)
    assert alike(found[1], train_cycle(start, target, config, how)[0])


def test_members_are_kept_and_a_larger_ensemble_begins_with_the_smaller(
    checkpoints, target, tmp_path, trained
):
    small = transfer.fine_tune(checkpoints[:1] * 2, target, CONFIG, tmp_path, jobs=1)
    large = transfer.fine_tune(checkpoints[:1] * 3, target, CONFIG, tmp_path, jobs=1)
    assert [config.seed for config in trained] == [7, 8, 9]
    assert alike(small[1], large[1])
    transfer.fine_tune(checkpoints[:1] * 3, target, CONFIG, tmp_path, jobs=1)
    assert len(trained) == 3


def test_a_full_disk_leaves_the_members_before(
    checkpoints, target, tmp_path, trained, monkeypatch
):
    real = os.fsync

    def full(file):
        if [*tmp_path.glob("*.pt")]:
            raise OSError(errno.ENOSPC, "no space left")
        real(file)

    ends = checkpoints[:1] * 3
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="disk full"):
            transfer.fine_tune(ends, target, CONFIG, tmp_path, jobs=1)
    transfer.fine_tune(ends, target, CONFIG, tmp_path, jobs=1)
    assert [config.seed for config in trained] == [7, 8, 8, 9]


def in_colour(split):
    return dataclasses.replace(split, images=split.images.expand(-1, 3, -1, -1))


def enlarged(split):
    images = split.images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return dataclasses.replace(split, images=images)


@pytest.mark.parametrize(
    ("start", "change", "settings", "message"),
    [
        (
            network(),
            in_colour,
            {},
            "normalize.mean scales images of 1 channels, got im",
        ),
        (network("mlp"), enlarged, {}, r"hidden1 cannot read images of shape \(1, 16,"),
        (network(), lambda s: s, {"method": "sam"}, "method='sgd', got 'sam'"),
        (nn.Flatten(), lambda s: s, {}, "a Flatten without a linear layer has no head"),
        (
            network(),
            lambda s: data.Split(s.images[:0], s.labels[:0], s.classes),
            {},
            "there are no images to train on",
        ),
        (
            network(),
            lambda s: data.Split(s.images, torch.zeros(len(s.labels)).long(), ("a",)),
            {},
            "at least 2 classes, got 1",
        ),
    ],
    ids=["channels", "size", "method", "no head", "no images", "one class"],
)
def test_fine_tuning_that_cannot_be_is_refused_at_once(
    target, trained, tmp_path, start, change, settings, message
):
    config = dataclasses.replace(CONFIG, **settings)
    with pytest.raises(ValueError, match=message):
        transfer.fine_tune([start], change(target), config, tmp_path / "out")
    assert not trained
    assert not (tmp_path / "out").exists()


def test_nothing_to_train_and_a_file_as_folder_are_refused(source, target, tmp_path):
    with pytest.raises(ValueError, match="nothing to train: give at least one network"):
        transfer.fine_tune([], target, CONFIG)
    with pytest.raises(ValueError, match="nothing to train: give at least one network"):
        transfer.pretrain(SMALL, source, CONFIG, [])
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="out is a file; cycles are kept in a folder"):
        transfer.pretrain(SMALL, source, CONFIG, [0], tmp_path / "out")


def test_a_fine_tuning_that_diverges_names_its_learning_rate(target):
    wild = dataclasses.replace(CONFIG, lr=1e30)
    with pytest.raises(FloatingPointError, match=r"learning rate 1e\+30, loss"):
        transfer.fine_tune([network("mlp")], target, wild)


def test_an_ensemble_goes_from_checkpoint_to_soup(checkpoints, target):
    """All parts together: a star around a fine-tuned model, and its soup."""
    (first,) = transfer.fine_tune(checkpoints[:1], target, CONFIG)
    cycle = transfer.scaled(CONFIG, lr=2.0, epochs=0.5)
    members = transfer.star_sse(first, target, cycle, 3, jobs=1)
    made = transfer.soup(members, target)
    mean = sum(m.head.weight for m in members) / 3
    torch.testing.assert_close(made.head.weight, mean)
    assert made(torch.rand(2, 1, 8, 8)).shape == (2, 4)
    assert transfer.barrier(first, copy.deepcopy(first), target) == 0
    assert transfer.barrier(first, members[1], target, 5) >= 0


def test_the_module_offers_all_that_it_names():
    assert all(hasattr(transfer, name) for name in transfer.__all__)
    assert sorted(transfer.__all__) == transfer.__all__
