"""Learning rates in closed form, an epoch's history, and a loss that blows up."""

import math
import re

import pytest
import torch
from torch.nn import functional as F

from sbtutor import data, state
from sbtutor.batches import Batches
from sbtutor.config import Experiment, ModelConfig, TrainConfig
from sbtutor.epochs import learning_rate, train_epoch

CPU = torch.device("cpu")


def split(samples=40):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, 1, 8, 8), generator=generator)
    labels = torch.randint(3, (samples,), generator=generator)
    return data.Split(images.to(torch.uint8), labels, tuple("abc"))


def start(name="small_cnn", **settings):
    """A fresh state with its batches and config."""
    settings = {"members": 2, "batch_size": 10, "device": "cpu", **settings}
    config = TrainConfig(**settings)
    model = ModelConfig(name=name, width=4)
    fresh = state.fresh(
        Experiment(model=model, train=config), {"in_shape": [1, 8, 8], "classes": 3}
    )
    return fresh, Batches(split(), config, CPU), config


def test_multistep_falls_by_lr_decay_after_each_milestone():
    config = TrainConfig(lr=0.8, lr_decay=0.5, milestones=(2, 5), epochs=7)
    rates = [learning_rate(config, e) for e in range(7)]
    assert rates == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2])


def test_cosine_falls_from_lr_to_nearly_nothing():
    """lr (1 + cos(pi e / E)) / 2: lr at 0, lr / 2 halfway, symmetric about it."""
    config = TrainConfig(lr=0.6, schedule="cosine", epochs=8)
    rates = [learning_rate(config, e) for e in range(8)]
    assert rates[0] == pytest.approx(0.6)
    assert rates[4] == pytest.approx(0.3)
    assert rates[2] == pytest.approx(0.3 * (1 + math.sqrt(0.5)))
    for e in range(1, 8):
        assert rates[e] + rates[8 - e] == pytest.approx(0.6)


@pytest.mark.parametrize("schedule", ["multistep", "cosine"])
def test_each_epoch_trains_with_its_rate_and_writes_it_down(schedule):
    """Plain SGD's step is -lr g: checked on the first step of the second epoch."""
    fresh, batches, config = start(
        *("mlp",),
        **{"schedule": schedule, "epochs": 4, "milestones": (1,), "momentum": 0.0},
        **{"weight_decay": 0.0, "batch_size": 40},
    )
    train_epoch(fresh, batches, config)
    member, x = fresh.members[1], split().images.float() / 255
    loss = F.cross_entropy(member(x), split().labels)
    slope = torch.autograd.grad(loss, member.head.weight)[0]
    before = member.head.weight.detach().clone()
    train_epoch(fresh, batches, config)
    lr = learning_rate(config, 1)
    torch.testing.assert_close(
        member.head.weight.detach(), before - lr * slope, rtol=1e-4, atol=1e-6
    )
    assert [row["lr"] for row in fresh.history] == [config.lr] * 2 + [lr] * 2
    assert [row["epoch"] for row in fresh.history] == [0, 0, 1, 1]
    assert [row["member"] for row in fresh.history] == [0, 1, 0, 1]
    assert fresh.history[3]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert fresh.epoch == 2


@pytest.mark.parametrize("method", ["sgd", "sam"])
def test_the_written_loss_is_that_at_the_weights_before_each_step(method):
    """SAM's loss at w too, not at w + e, so that methods compare. lr -> 0."""
    fresh, batches, config = start("mlp", method=method, lr=1e-12, rho=5.0)
    x, y = split().images.float() / 255, split().labels
    before = [F.cross_entropy(m(x), y).item() for m in fresh.members]
    train_epoch(fresh, batches, config)
    assert [row["loss"] for row in fresh.history] == pytest.approx(before, rel=1e-5)


def test_training_leaves_global_randomness_alone():
    fresh, batches, config = start()
    before = torch.random.get_rng_state()
    train_epoch(fresh, batches, config)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("method", ["sgd", "sam"])
def test_a_loss_that_is_not_finite_stops_at_once(method):
    """The message names member, epoch, step, learning rate and remedy."""
    fresh, batches, config = start("mlp", method=method, batch_size=4)
    train_epoch(fresh, batches, config)
    with torch.no_grad():
        fresh.params["head.bias"][1] = torch.inf
    message = (
        "loss of member 1 is nan at epoch 1, step 0, learning rate 0.1; lower lr or "
        "rho and use a new folder; the checkpoint of the last good epoch is kept"
    )
    with pytest.raises(FloatingPointError, match=re.escape(message)):
        train_epoch(fresh, batches, config)
    assert fresh.epoch == 1
    assert len(fresh.history) == 2


def test_weights_spoilt_by_an_epochs_last_step_are_noticed():
    """One step an epoch: its loss was still finite."""
    fresh, batches, config = start("mlp", lr=1e38, weight_decay=1e4, batch_size=40)
    with pytest.raises(
        FloatingPointError, match=r"after epoch 0, learning rate 1e\+38"
    ):
        train_epoch(fresh, batches, config)
    assert fresh.epoch == 0
