"""One network's training: its loss, its penalty, its seeds."""

import dataclasses

import numpy as np
import pytest
import torch

from sbtutor import data, models, space, trial
from sbtutor.batches import Batches
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig
from sbtutor.trial import Trial

TOY = Experiment(
    data=DataConfig(name="digits", limit=60),
    model=ModelConfig(name="mlp", width=5, dropout=0.5),
    train=TrainConfig(
        members=1, epochs=3, batch_size=20, milestones=(2,), device="cpu"
    ),
)
PLAIN = dataclasses.replace(TOY, model=ModelConfig(name="mlp", width=5))
L2 = {"l2_hidden1": 0.3, "l2_hidden2": 2.0, "l2_head": 0.7}
FIRST = Trial(settings=L2 | {"dropout": 0.3, "label_smoothing": 0.1}, init=3, order=8)
NO_DROPOUT = dataclasses.replace(FIRST, settings=L2 | {"label_smoothing": 0.1})


@pytest.fixture(scope="module")
def split():
    return data.load(TOY.data).train


def vary(experiment=TOY, **settings):
    train = dataclasses.replace(experiment.train, **settings)
    return dataclasses.replace(experiment, train=train)


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def smoothed(logits, labels, s):
    """-1/B sum_n sum_c q log p with q = 1 - s + s / C for the label, s / C else."""
    classes = logits.shape[1]
    q = torch.full_like(logits, s / classes)
    q[torch.arange(len(labels)), labels] += 1 - s
    return -(q * logits.log_softmax(1)).sum(1).mean()


def penalty(model, settings, samples):
    """sum_g lambda_g / N ||w_g||^2."""
    return sum(
        settings[f"l2_{group}"] / samples * model.get_parameter(name).square().sum()
        for group, names in space.groups(model).items()
        for name in names
    )


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet8"])
def test_a_step_is_that_of_the_loss_with_an_explicit_penalty(name):
    """Five steps with momentum, by autograd of the whole loss, in float64.

    Group norm's weights have no penalty.
    """
    network = ModelConfig(name=name, width=4, norm="group")
    ours, theirs = (models.build(network, (1, 8, 8), 10, 0).double() for _ in range(2))
    config, samples = TrainConfig(lr=0.05, momentum=0.8, weight_decay=77.0), 50
    settings = {n: 0.5 + i for i, n in enumerate(space.names(ours)) if n[:2] == "l2"}
    step = trial.optimizer(config, ours, settings, samples)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (20,), generator=generator)
    speed = {key: torch.zeros_like(p) for key, p in theirs.named_parameters()}
    for _ in range(5):
        step.zero_grad()
        smoothed(ours(images), labels, 0.1).backward()
        step.step()
        loss = smoothed(theirs(images), labels, 0.1)
        loss = loss + penalty(theirs, settings, samples)
        slopes = torch.autograd.grad(loss, list(theirs.parameters()))
        with torch.no_grad():
            for (key, p), slope in zip(theirs.named_parameters(), slopes, strict=True):
                speed[key] = 0.8 * speed[key] + slope
                p -= 0.05 * speed[key]
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_adam_gets_the_penalty_in_its_gradient():
    """Its first step is lr g / (|g| + eps), and g = 2 lambda / N w without a loss."""
    model = models.build(PLAIN.model, (1, 8, 8), 10, 0).double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = TrainConfig(optimizer="adam", lr=0.01)
    step = trial.optimizer(config, model, L2, 10)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    step.step()
    for name, p in model.named_parameters():
        slope = 2 * L2[f"l2_{name.split('.')[0]}"] / 10 * before[name]
        expected = 0.01 * slope / (slope.abs() + 1e-8)
        torch.testing.assert_close(before[name] - p, expected)


def test_training_is_the_plain_loop_over_the_loss(split):
    """Smoothing, penalty, learning rates and batches together, written out."""
    model = trial.first_weights(PLAIN, split, NO_DROPOUT)
    config = dataclasses.replace(PLAIN.train, seed=NO_DROPOUT.order)
    batches = Batches(split, config, torch.device("cpu"))
    params = list(model.parameters())
    speed = [torch.zeros_like(p) for p in params]
    for epoch, lr in enumerate([0.1, 0.1, 0.01]):
        for batch in batches.epoch(epoch):
            loss = smoothed(model(batch.images[0]), batch.labels[0], 0.1)
            loss = loss + penalty(model, L2, samples=60)
            slopes = torch.autograd.grad(loss, params)
            with torch.no_grad():
                for i, p in enumerate(params):
                    speed[i] = 0.9 * speed[i] + slopes[i]
                    p -= lr * speed[i]
    found = trial.train_one(PLAIN, split, NO_DROPOUT)
    for a, b in zip(found.parameters(), params, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not found.training


def test_images_are_scaled_by_the_training_sets_statistics(split):
    mean, std = data.channel_statistics(split.images)
    found = trial.train_one(TOY, split, FIRST).normalize
    assert torch.equal(found.mean.flatten(), mean)
    assert torch.equal(found.std.flatten(), std)


def test_a_trial_decides_the_result_and_global_randomness_is_left_alone(split):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = trial.train_one(TOY, split, FIRST)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(first, trial.train_one(TOY, split, FIRST))


@pytest.mark.parametrize("name", [*FIRST.settings, "init", "order"])
def test_all_of_a_trial_counts(split, name):
    if name in FIRST.settings:
        change = {"settings": FIRST.settings | {name: 0.45}}
    else:
        change = {name: 11}
    other = dataclasses.replace(FIRST, **change)
    found = [trial.train_one(TOY, split, t) for t in (FIRST, other)]
    assert not same(*found)


def test_init_decides_the_first_weights_and_nothing_else_does(split):
    first = trial.first_weights(TOY, split, FIRST)
    others = dict.fromkeys(FIRST.settings, 0.01)
    alike = [
        dataclasses.replace(FIRST, order=99),
        dataclasses.replace(FIRST, settings=others),
    ]
    assert all(same(first, trial.first_weights(TOY, split, t)) for t in alike)
    assert same(first, trial.first_weights(PLAIN, split, NO_DROPOUT))
    other = trial.first_weights(TOY, split, dataclasses.replace(FIRST, init=4))
    assert not torch.equal(first.head.weight, other.head.weight)


def test_order_decides_the_data_and_nothing_else_does(split, monkeypatch):
    """The samples of every batch, and how each is moved."""
    seen, real = [], Batches.epoch

    def recorded(self, epoch):
        for batch in real(self, epoch):
            seen.extend((batch.index.float(), batch.images))
            yield batch

    def seen_by(t):
        seen.clear()
        trial.train_one(vary(crop=1, flip=True), split, t)
        return torch.cat([part.flatten() for part in seen])

    monkeypatch.setattr(Batches, "epoch", lambda *call: recorded(*call))
    first = seen_by(FIRST)
    others = dict.fromkeys(FIRST.settings, 0.01)
    assert torch.equal(first, seen_by(dataclasses.replace(FIRST, init=4)))
    assert torch.equal(first, seen_by(dataclasses.replace(FIRST, settings=others)))
    assert not torch.equal(first, seen_by(dataclasses.replace(FIRST, order=9)))


def test_order_decides_dropout(split, monkeypatch):
    """With the data in one order for all, it still counts, but only with dropout."""
    real = Batches.__init__

    def in_one_order(self, split, config, device):
        real(self, split, dataclasses.replace(config, seed=0), device)

    monkeypatch.setattr(Batches, "__init__", in_one_order)
    for experiment, first, alike in ((TOY, FIRST, False), (PLAIN, NO_DROPOUT, True)):
        other = dataclasses.replace(first, order=9)
        found = [trial.train_one(experiment, split, t) for t in (first, other)]
        assert same(*found) == alike


IGNORED = {
    "method": "sgd",
    "members": 4,
    "weight_decay": 0.1,
    "rho": 3.0,
    "sam_fraction": 0.2,
    "warmup_epochs": 1,
    "split": "random",
    "snapshots": True,
    "seed": 7,
    "device": "auto",
    "compile": True,
}


def test_each_setting_of_training_is_obeyed_or_ignored_on_purpose():
    """A new one must be put into `trial.OBEYED`, or here."""
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert fields == {*trial.OBEYED, *IGNORED}
    assert not {*trial.OBEYED} & {*IGNORED}


@pytest.mark.skipif(torch.cuda.is_available(), reason="device='auto' is another device")
def test_what_is_ignored_changes_nothing(split):
    found = [trial.train_one(e, split, FIRST) for e in (TOY, vary(**IGNORED))]
    assert same(*found)


@pytest.mark.parametrize(
    "change",
    [
        *({"epochs": 4}, {"batch_size": 30}, {"optimizer": "adam"}, {"lr": 0.2}),
        *({"momentum": 0.5}, {"schedule": "cosine"}, {"milestones": (1,)}),
        *({"lr_decay": 0.5}, {"crop": 1}, {"flip": True}, {"bf16": True}),
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_obeyed_changes_the_result(split, change):
    assert set(change) <= set(trial.OBEYED)
    found = [trial.train_one(e, split, FIRST) for e in (TOY, vary(**change))]
    assert not same(*found)


def test_a_training_that_diverges_ends_early_and_is_no_error(split, monkeypatch):
    epochs, real = [], Batches.epoch
    monkeypatch.setattr(
        Batches, "epoch", lambda self, e: (epochs.append(e), real(self, e))[1]
    )
    settings = FIRST.settings | {"l2_head": 1e30}
    model = trial.train_one(
        vary(epochs=9), split, dataclasses.replace(FIRST, settings=settings)
    )
    assert not model.head.weight.isfinite().all()
    assert len(epochs) < 9


@pytest.mark.parametrize(
    ("name", "dropout", "norm", "expected"),
    [
        ("mlp", 0.0, "batch", ["hidden1", "hidden2", "head"]),
        ("mlp", 0.5, "batch", ["hidden1", "hidden2", "head"]),
        ("small_cnn", 0.0, "none", ["conv1", "conv2", "conv3", "head"]),
        ("resnet8", 0.5, "batch", ["conv", "stage1", "stage2", "stage3", "head"]),
    ],
)
def test_dropout_is_searched_if_the_experiment_has_it(
    split, name, dropout, norm, expected
):
    """SmallCNN's own dropout layers keep their rate."""
    network = ModelConfig(name=name, width=4, norm=norm, dropout=dropout)
    found = trial.names(dataclasses.replace(TOY, model=network), split)
    rest = ["dropout"] * (dropout > 0) + ["label_smoothing"]
    assert list(found) == [f"l2_{group}" for group in expected] + rest


def test_numbers_become_pythons_own(unchecked):
    """So that NumPy's can be written as JSON and give the same streams."""
    settings = {"l2_head": np.float32(0.5), "label_smoothing": 0}
    found = Trial(settings=settings, init=np.int64(3), order=np.int32(4))
    assert found == Trial(settings=dict(found.settings), init=3, order=4)
    values = (*found.settings.values(), found.init, found.order)
    assert [type(value) for value in values] == [float, float, int, int]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l2_head": -1.0}, r"l2_head must be in \[0, inf\), got -1"),
        ({"l2_head": float("inf")}, r"l2_head must be in \[0, inf\), got inf"),
        ({"l2_head": float("nan")}, r"l2_head must be in \[0, inf\), got nan"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be in \[0, 1\), got 1.5"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Trial(settings=settings, init=0, order=0)


@pytest.mark.parametrize(
    ("experiment", "given", "message"),
    [
        (vary(method="sam"), FIRST, "method='sgd', got 'sam'; write TrainConfig"),
        (
            vary(optimizer="adamw"),
            FIRST,
            "AdamW's weight decay is no L2 penalty.*; write optimizer='adam' or 'sgd'",
        ),
        (TOY, NO_DROPOUT, r"sets l2_hidden1, .*dropout, label_.*; got l2_hidden1"),
        (PLAIN, FIRST, r"got .*dropout, .* if ModelConfig\(dropout=...\) is not 0"),
        (PLAIN, dataclasses.replace(FIRST, settings={}), "got nothing"),
    ],
)
def test_what_cannot_be_trained_is_refused(split, experiment, given, message):
    with pytest.raises(ValueError, match=message):
        trial.train_one(experiment, split, given)
