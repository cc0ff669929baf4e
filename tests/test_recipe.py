"""A recipe's learning rate by hand; nonsense is refused where it is written."""

import math

import pytest

from sbtutor import epochs
from sbtutor.config import TrainConfig
from sbtutor.recipe import Recipe, learning_rate


def rates(config: TrainConfig, how: Recipe) -> list[float]:
    return [learning_rate(config, how, epoch) for epoch in range(config.epochs)]


def test_a_line_leads_up_to_the_cosine():
    """Two epochs from 0.2 to 1, then four of a cosine from 1, whose 0 is epoch 6."""
    config = TrainConfig(epochs=6, lr=1.0, schedule="cosine")
    root = math.sqrt(0.5)
    expected = [0.2, 0.6, 1.0, (1 + root) / 2, 0.5, (1 - root) / 2]
    how = Recipe(warmup_epochs=2, warmup_lr=0.2)
    assert rates(config, how) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "multistep"])
def test_without_a_warm_up_the_rates_are_those_of_all_methods(schedule):
    config = TrainConfig(epochs=5, lr=0.3, schedule=schedule, milestones=(2, 4))
    expected = [epochs.learning_rate(config, epoch) for epoch in range(5)]
    assert rates(config, Recipe()) == expected


def test_milestones_are_counted_from_the_start():
    config = TrainConfig(epochs=5, lr=1.0, milestones=(3,), lr_decay=0.1)
    found = rates(config, Recipe(warmup_epochs=2))
    assert found == pytest.approx([0.0, 0.5, 1.0, 0.1, 0.1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"warmup_epochs": -1}, "0 epochs or more.*got warmup_epochs=-1"),
        ({"warmup_lr": -0.1}, "a learning rate >= 0.*warmup_lr=-0.1"),
        ({"warmup_lr": math.inf}, "a learning rate >= 0.*warmup_lr=inf"),
        ({"label_smoothing": 1.0}, r"must be in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, r"must be in \[0, 1\), got -0.1"),
        ({"clip_norm": 0.0}, "must be positive, got 0.0; None is no clipping"),
        ({"clip_norm": math.nan}, "must be positive, got nan"),
        ({"augment": "mixup"}, "'mixup': choose one of resized_crop, swin, or None"),
        ({"size": 0}, "a size of 1 pixel or more, got 0"),
    ],
)
def test_nonsense_is_refused(given, message, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        Recipe(**given)
