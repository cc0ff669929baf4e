"""What is measured for Fort et al.'s claims, on networks whose answers are known."""

import sys
from pathlib import Path
from types import SimpleNamespace

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


def study_of(ends, **more):
    """As much of a `fort.Study` as a function under test looks at."""
    few = SimpleNamespace(labels=LABELS)
    study = SimpleNamespace(ends=ends, few=few, **more)
    study.accuracy = lambda logits, labels=LABELS: fort.Study.accuracy(
        study, logits, labels
    )
    return study


def plane_of(method, logits, reference):
    return [
        {"method": method, "accuracy": float(a), "normalized_disagreement": float(d)}
        for a, d in zip(
            (logits.argmax(-1) == LABELS).double().mean(-1),
            landscape.normalized_disagreement(reference, logits, LABELS),
        )
    ]


def test_independent_optima_lie_at_1_and_flipped_samples_at_0():
    """Networks with independent errors, and samplers that only flip votes."""
    ends = answers(torch.stack([votes(0.8, seed) for seed in range(4)]))
    flipped = torch.stack(
        [votes(keep, 9, of=ends[0].argmax(-1)) for keep in torch.linspace(0.6, 1, 24)]
    )
    rows = plane_of("optima", ends[1:], ends[0])
    for method in subspace.SAMPLERS:
        rows += plane_of(method, answers(flipped), ends[0])
    found = fort.plane_row(study_of(ends), rows, 0)
    assert found["place_optima"] == pytest.approx(1, abs=0.1)
    for method in subspace.SAMPLERS:
        assert found[f"place_{method}"] == pytest.approx(0, abs=0.05)
        assert found[f"trend_{method}"] < -0.9
        assert found[f"gap_{method}"] > 1


def test_the_gap_is_to_the_best_sample_that_is_accurate_enough():
    ends = answers(torch.stack([votes(0.8, seed) for seed in range(3)]))
    rows = [
        {"method": "optima", "accuracy": 0.80, "normalized_disagreement": 1.0},
        {"method": "optima", "accuracy": 0.70, "normalized_disagreement": 1.2},
    ]
    for method in subspace.SAMPLERS:
        rows += [
            {"method": method, "accuracy": a, "normalized_disagreement": d}
            for a, d in ((0.79, 0.1), (0.70, 0.3), (0.69, 9.0), (0.5, 9.5))
        ]
    found = fort.plane_row(study_of(ends), rows, 0)
    assert found["gap_dropout"] == pytest.approx(1.1 - 0.3)


@pytest.mark.parametrize(("floor", "chosen"), [(0.79, 2.0), (0.81, 0.5), (0.99, None)])
def test_a_strength_is_the_largest_that_keeps_validation_accuracy(
    monkeypatch, floor, chosen
):
    """Accuracy .90 at the optimum, .80 up to 1/16 of the reach, .70 beyond."""
    reach = 16.0
    monkeypatch.setitem(subspace.REACH, "dropout", reach)
    monkeypatch.setattr(fort, "TOLERANCE", 0.9 - floor)
    seen = []

    def accuracy(points, labels):
        seen.append(labels)
        strength = points[:, 0]
        return torch.where(strength == 0, 0.9, 0.7 + 0.1 * (strength <= 2)) + 0.1 * (
            strength == 0.5
        )

    study = SimpleNamespace(
        optima=torch.zeros(1, 1),
        val=SimpleNamespace(labels="validation"),
        draw=lambda method, m, strengths, why: strengths[:, None],
        logits=lambda points, split: points,
        accuracy=accuracy,
    )
    assert fort.Study.strength(study, "dropout", 0) == (chosen or reach / 2**7)
    assert seen == ["validation"]


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
