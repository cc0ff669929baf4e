"""Both objectives against slow references, and the ranges' slopes."""

import math

import jaxtyping
import pytest
import torch
from torch.nn import functional as F

from sbtutor import models
from sbtutor.batch_ensemble import convert, members_of
from sbtutor.config import ModelConfig
from sbtutor.space import Space
from sbtutor.tuning import Tuning, training_loss, tuning_loss

M, B, CLASSES, SAMPLES = 3, 4, 5, 50
IMAGE = (2, 8, 8)
LABELS = torch.tensor([0, 3, 1, 3])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(*shape, seed=1):
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


@torch.no_grad()
def ensemble_of(name="mlp", hyper=True, **config):
    """In eval mode; its weights answer to lambda, its ranges differ and are wide."""
    model = models.build(ModelConfig(name=name, **config), IMAGE, CLASSES, 0).double()
    space = Space(l2=(0.05, 50.0), label_smoothing=(1e-5, 0.95)) if hyper else None
    ensemble = convert(model, M, hyper, space=space).eval()
    for key, param in ensemble.named_parameters():
        if key.endswith("embed"):
            noise = torch.randn(param.shape, generator=seeded(), dtype=param.dtype)
            param.copy_(0.3 * noise)
    if hyper:
        width = (ensemble.most - ensemble.least) / 3
        ensemble.low.add_(uniform(M, len(ensemble.names), seed=5) * width)
        ensemble.high.sub_(uniform(M, len(ensemble.names), seed=6) * width)
    return ensemble


def rows_of(ensemble):
    """log lambda of every example; label smoothing between 0.1 and 0.9 there."""
    rows = uniform(M * B, len(ensemble.names), seed=3) * 4 - 2
    rows[:, -1] = uniform(M * B, seed=4).mul(0.8).add(0.1).log()
    return rows


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet8"])
@pytest.mark.parametrize("hyper", [False, True])
def test_training_loss_is_the_mean_of_all_members_smoothed_losses(name, hyper):
    """F.cross_entropy with each example's own smoothing, plus the penalty over N."""
    ensemble, images = ensemble_of(name, hyper, width=4), uniform(B, *IMAGE)
    rows = rows_of(ensemble)
    logits = ensemble(ensemble.tile(images), rows if hyper else None)
    expected = ensemble.penalty(rows) / SAMPLES
    for n in range(M * B):
        label, smoothing = LABELS[n % B : n % B + 1], float(rows[n, -1].exp())
        own = F.cross_entropy(logits[n : n + 1], label, label_smoothing=smoothing)
        expected = expected + own / (M * B)
    found = training_loss(ensemble, images, LABELS, rows, SAMPLES)
    torch.testing.assert_close(found, expected)


def test_the_penalty_is_divided_by_the_number_of_training_images():
    ensemble, images = ensemble_of(), uniform(B, *IMAGE)
    rows = rows_of(ensemble)
    few, many = (training_loss(ensemble, images, LABELS, rows, n) for n in (10, 1000))
    difference = ensemble.penalty(rows) * (1 / 10 - 1 / 1000)
    torch.testing.assert_close(few - many, difference)


def test_members_are_trained_each_for_itself():
    """A batch ensemble's loss is the mean of its members' as ordinary networks."""
    ensemble, images = ensemble_of("lenet", hyper=False), uniform(B, *IMAGE)
    rows = rows_of(ensemble)
    rows[:] = rows[0]
    smoothing, decay = float(rows[0, -1].exp()), dict(zip(ensemble.names, rows[0]))
    losses = []
    for member in members_of(ensemble):
        logits = member(images)
        loss = F.cross_entropy(logits, LABELS, label_smoothing=smoothing)
        for key, param in member.named_parameters():
            strength = decay[f"l2_{key.partition('.')[0]}"].exp()
            loss = loss + strength / SAMPLES * param.square().sum()
        losses.append(loss)
    found = training_loss(ensemble, images, LABELS, rows, SAMPLES)
    torch.testing.assert_close(found, torch.stack(losses).mean())


def entropy_by_quadrature(low, high):
    """- E log density of a log-uniform lambda, by the midpoint rule."""
    share = (torch.arange(1000, dtype=low.dtype) + 0.5) / 1000
    log_lambda = low + share[:, None, None] * (high - low)
    log_density = -log_lambda - (high - low).log()
    return -log_density.mean(0).sum()


@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_tuning_loss_is_that_of_the_mean_of_all_members_probabilities(tau):
    """-log of the mean probability of each true class, less tau H of all ranges."""
    ensemble, images = ensemble_of("lenet", dropout=0.2), uniform(B, *IMAGE)
    u = uniform(M, B, len(ensemble.names))
    rows = torch.stack(
        [
            ensemble.low[k] + u[k, i] * (ensemble.high[k] - ensemble.low[k])
            for k in range(M)
            for i in range(B)
        ]
    )
    probs = ensemble(torch.cat([images] * M), rows).softmax(1)
    expected = 0
    for i, label in enumerate(LABELS):
        expected = expected - probs[i::B, label].mean().log() / B
    expected = expected - tau * entropy_by_quadrature(ensemble.low, ensemble.high)
    found = tuning_loss(ensemble, images, LABELS, u, tau)
    torch.testing.assert_close(found, expected)


def test_the_ensembles_loss_is_at_most_the_mean_of_its_members():
    """Jensen: -log of a mean is at most the mean of -log; equal if members agree."""
    images = uniform(B, *IMAGE)
    for members_agree in (False, True):
        ensemble = ensemble_of()
        u = uniform(M, B, len(ensemble.names))
        if members_agree:
            u[:] = u[:1]
            with torch.no_grad():
                for param in ensemble.parameters():
                    if len(param) == M and param.dim() == 2:
                        param.copy_(param[:1].expand_as(param))
        rows = ensemble.sample(u).detach()
        logits = ensemble(ensemble.tile(images), rows)
        gibbs = F.cross_entropy(logits, ensemble.tile(LABELS))
        together = tuning_loss(ensemble, images, LABELS, u, 0.0)
        if members_agree:
            torch.testing.assert_close(together, gibbs)
        else:
            assert together < gibbs - 1e-3


@pytest.mark.parametrize("tau", [0.0, 0.3])
@pytest.mark.parametrize(
    ("name", "config"),
    [("mlp", {"width": 6, "dropout": 0.2}), ("small_cnn", {"width": 4})],
)
def test_slopes_reach_the_bounds(name, config, tau):
    """Of both bounds of each range, by central differences of step 1e-5."""
    ensemble, images = ensemble_of(name, **config), uniform(B, *IMAGE)
    u = uniform(M, B, len(ensemble.names))
    bounds = (ensemble.low, ensemble.high)

    def loss():
        return tuning_loss(ensemble, images, LABELS, u, tau)

    for bound, slope in zip(bounds, torch.autograd.grad(loss(), bounds)):
        for place in range(bound.numel()):
            with torch.no_grad():
                entry = bound.view(-1)[place : place + 1]
                values = []
                for step in (1e-5, -2e-5):
                    entry.add_(step)
                    values.append(loss())
                entry.add_(1e-5)
            difference = (values[0] - values[1]) / 2e-5
            torch.testing.assert_close(
                slope.view(-1)[place], difference, rtol=1e-5, atol=1e-8
            )
        assert slope.abs().min() > 1e-7


def test_the_entropy_widens_the_ranges():
    """d(-tau H) / d log b = -tau (1/2 + 1 / width), d / d log a = -tau (1/2 - 1/w)."""
    ensemble, images, tau = ensemble_of(), uniform(B, *IMAGE), 0.3
    u = uniform(M, B, len(ensemble.names))
    bounds = (ensemble.low, ensemble.high)
    without, with_tau = (
        torch.autograd.grad(tuning_loss(ensemble, images, LABELS, u, t), bounds)
        for t in (0.0, tau)
    )
    width = ensemble.high - ensemble.low
    for sign, a, b in zip((-1, 1), without, with_tau):
        torch.testing.assert_close(b - a, -tau * (0.5 + sign / width))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": -0.1}, "tau must be at least 0 and finite, got -0.1"),
        ({"tau": math.nan}, "tau must be at least 0 and finite, got nan"),
        ({"tau": math.inf}, "tau must be at least 0 and finite, got inf"),
        ({"every": 0}, "every must be a whole number.*at least 1, got 0"),
        ({"every": 2.5}, "every must be a whole number.*got 2.5"),
        ({"every": math.inf}, "every must be a whole number.*got inf"),
        ({"lr": 0.0}, "lr of the tuning steps must be positive and finite, got 0.0"),
        (
            {"lr": math.nan},
            "lr of the tuning steps must be positive and finite, got nan",
        ),
        (
            {"lr": math.inf},
            "lr of the tuning steps must be positive and finite, got inf",
        ),
        ({"start": 0.0}, r"start is the share .*in \(0, 1\].*got 0.0"),
        ({"start": 1.5}, r"start is the share .*in \(0, 1\].*got 1.5"),
        ({"start": math.nan}, r"start is the share .*in \(0, 1\].*got nan"),
    ],
)
def test_settings_of_the_tuning_that_cannot_be_are_refused(
    change, message, monkeypatch
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        Tuning(**change)


def test_a_tuning_keeps_its_own_space():
    narrow = Tuning(space=Space(l2=(0.1, 10.0)), tau=0.0, every=1, start=0.5, lr=0.1)
    assert narrow.space.l2 == (0.1, 10.0)
    assert Tuning().space == Space()
    assert Tuning() == Tuning()
