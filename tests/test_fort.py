"""What is measured for Fort et al.'s claims, on networks whose answers are known."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sbtutor import corruptions, data, diversity, landscape, subspace
from sbtutor.config import DataConfig

sys.path.append(str(Path(__file__).parents[1] / "notebooks" / "results"))

import fort

N, C = 2000, 10
LABELS = torch.arange(N) % C


def answers(votes):
    """Logits of networks that vote so, and are rather sure."""
    return 4.0 * torch.nn.functional.one_hot(votes, C).float()


def votes(accuracy, seed, of=LABELS):
    """Votes that agree with `of` at that rate, else any other class."""
    generator = torch.Generator().manual_seed(seed)
    other = (of + torch.randint(1, C, of.shape, generator=generator)) % C
    right = torch.rand(of.shape, generator=generator) < accuracy
    return torch.where(right, of, other)


def row(method, accuracy, height):
    return dict(method=method, accuracy=accuracy, normalized_disagreement=height)


def plane_of(method, logits, reference):
    heights = landscape.normalized_disagreement(reference, logits, LABELS)
    right = (logits.argmax(-1) == LABELS).double().mean(-1)
    return [row(method, float(a), float(d)) for a, d in zip(right, heights)]


def test_independent_optima_lie_at_1_and_flipped_samples_at_0():
    """Networks with independent errors, and samplers that only flip votes."""
    ends = answers(torch.stack([votes(0.8, seed) for seed in range(4)]))
    keep = torch.linspace(1, 0.2, 40)
    own = ends[0].argmax(-1)
    flipped = torch.stack([votes(k, 9, of=own) for k in keep])
    rows = plane_of("optima", ends[1:], ends[0])
    for method in subspace.SAMPLERS:
        rows += plane_of(method, answers(flipped), ends[0])
    best = float((own == LABELS).double().mean())
    found = fort.plane_row(rows, best, C)
    assert found["place_optima"] == pytest.approx(1, abs=0.1)
    for method in subspace.SAMPLERS:
        assert found[f"place_{method}"] == pytest.approx(0, abs=0.05)
        assert found[f"gap_{method}"] > 1
        assert found[f"price_{method}"] > 0.5  # they never get so high


def test_gap_and_price_are_read_off_between_the_samples():
    """Accuracy .80 at the optimum; a sampler of height 10 per lost accuracy."""
    rows = [row("optima", 0.78, 0.5), row("optima", 0.82, 0.7)]
    for method in subspace.SAMPLERS:
        rows += [row(method, 0.80 - cost, 10 * cost) for cost in (0.004, 0.03, 0.2)]
    found = fort.plane_row(rows, 0.8, C)
    for method in subspace.SAMPLERS:
        assert found[f"gap_{method}"] == pytest.approx(0.6 - 0.1, abs=1e-6)
        assert found[f"price_{method}"] == pytest.approx(0.06, abs=1e-6)


def test_a_sampler_that_is_as_high_at_no_cost_has_no_gap_and_no_price():
    rows = [row("optima", 0.8, 0.5)]
    for method in subspace.SAMPLERS:
        rows += [row(method, 0.8, 0.5), row(method, 0.8, 0.9)]
    found = fort.plane_row(rows, 0.8, C)
    for method in subspace.SAMPLERS:
        assert found[f"gap_{method}"] < 0
        assert found[f"price_{method}"] == pytest.approx(0, abs=1e-6)


def test_one_lucky_sample_does_not_decide():
    """Isotonic: the mean of neighbours that stand in the wrong order."""
    smooth = fort.smooth(np.array([0.8, 0.7, 0.9, 0.5]), rises=False)
    np.testing.assert_allclose(smooth, [0.8, 0.8, 0.8, 0.5])


@pytest.mark.parametrize(
    ("floor", "wild"), [(0.89, 0.25), (0.79, 4.0), (0.99, 16.0 / 2**7)]
)
def test_strengths_are_chosen_on_validation_images(monkeypatch, floor, wild):
    """The best ensemble is that of strength 2; accuracy falls from .25 and 4 on."""
    monkeypatch.setitem(subspace.REACH, "dropout", 16.0)
    monkeypatch.setattr(fort, "LOSS", 0.9 - floor)
    labels, asked = torch.zeros(20, dtype=torch.long), []

    def logits(points, split):
        """Each point is a strength; the probability of the truth is largest at 2."""
        assert split.labels is labels
        asked.append(points[:, 0])
        sure = 3 - (points[:, 0].clamp(min=1e-9).log2() - 1).abs()
        return torch.stack([sure, sure * 0], -1)[:, None].expand(-1, 20, -1)

    def accuracy(found, given):
        assert given is labels
        strength = asked[-1].view(found.shape[:-2])
        found = 0.7 + 0.1 * (strength <= 4) + 0.1 * (strength <= 0.25)
        return torch.where(strength == 0, 0.9, found)

    study = SimpleNamespace(
        optima=torch.zeros(1, 1),
        val=SimpleNamespace(labels=labels),
        draw=lambda method, m, strengths, why: strengths[:, None],
        logits=logits,
        accuracy=accuracy,
    )
    good, found = fort.Study.strengths(study, "dropout", 0)
    assert good == 2.0
    assert found == wild


def test_ensembles_of_optima_and_around_them():
    """One network an optimum; then two alike around each: nothing but JS changes."""
    alone = [answers(votes(0.8, seed))[None] for seed in range(3)]
    split = SimpleNamespace(labels=LABELS)
    rows = fort.ensemble_rows(alone, split, "0")
    assert [row["optima"] for row in rows] == [1, 2, 3]
    single = torch.stack([(p[0].argmax(-1) == LABELS).double().mean() for p in alone])
    assert rows[0]["accuracy"] == pytest.approx(float(single.mean()))
    assert rows[0]["js"] == pytest.approx(0, abs=1e-6)
    everyone = diversity.js_divergence(torch.cat(alone))
    assert rows[2]["js"] == pytest.approx(float(everyone))
    assert rows[0]["brier"] > rows[1]["brier"] > rows[2]["brier"]

    doubled = [part.repeat(2, 1, 1) for part in alone]
    near = fort.ensemble_rows(doubled, split, "0")
    for one, other in zip(rows, near, strict=True):
        assert one["accuracy"] == pytest.approx(other["accuracy"])
        assert one["brier"] == pytest.approx(other["brier"])
    assert near[0]["js"] == pytest.approx(0, abs=1e-6)


def test_digits_have_no_accuracy_as_their_labels_mean_other_things():
    rows = fort.ensemble_rows(
        [answers(votes(0.5, 0))[None]], SimpleNamespace(labels=LABELS), "digits"
    )
    assert set(rows[0]) == {"place", "optima", "js"}


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_meets_one_kind_in_turn(channels):
    few = data.subset(data.load(DataConfig(size=14)).test, 40, seed=0)
    images = few.images.expand(-1, channels, -1, -1).contiguous()
    few = data.Split(images, few.labels, few.classes)
    made = fort.places(SimpleNamespace(few=few))
    assert list(made) == ["0", "1", "2", "3", "4", "5", "digits"]
    assert torch.equal(made["0"].images, images)
    for i, kind in enumerate(corruptions.KINDS):
        part = images[i :: len(corruptions.KINDS)]
        expected = corruptions.corrupt(part, kind, 4)
        assert torch.equal(made["4"].images[i :: len(corruptions.KINDS)], expected)
    assert made["digits"].images.shape[1:] == images.shape[1:]


def test_settings_are_fort_et_als():
    train = fort.TRAIN
    assert (train.optimizer, train.lr, train.lr_decay) == ("adam", 1.6e-3, 0.5)
    assert (train.epochs, train.milestones) == (40, (10, 20, 30))
    assert train.weight_decay == train.crop == 0
    assert not train.flip
