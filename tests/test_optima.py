"""Optima and what lies near them, on networks whose answers are known."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sbtutor import (
    config,
    corruptions,
    data,
    diversity,
    landscape,
    optima,
    optima_plane,
    optima_shift,
    snapshots,
    stack,
    study_landscape,
    subspace,
    train,
)
from sbtutor.config import DataConfig, ModelConfig
from sbtutor.predict import predict

N, C = 2000, 10
LABELS = torch.arange(N) % C
ASKED = data.Split(
    torch.zeros(N, 1, 1, 1, dtype=torch.uint8), LABELS, tuple(map(str, range(C)))
)
FEW = optima.Options(images=60, validation=40, late=7, bend_epochs=1)
BASE = config.preset("smoke")
EXPERIMENT = replace(
    BASE,
    data=DataConfig(name="digits", limit=200),
    model=ModelConfig(name="small_cnn", norm="none", width=4),
    train=replace(
        BASE.train,
        members=4,
        epochs=8,
        optimizer="adam",
        lr=1.6e-3,
        weight_decay=0.0,
        milestones=(4,),
        batch_size=50,
        snapshots=True,
        seed=5,
    ),
)


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
    found = optima_plane.plane_row(rows, best, C)
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
    found = optima_plane.plane_row(rows, 0.8, C)
    for method in subspace.SAMPLERS:
        reached = 10 * (optima.LOSS + optima_plane.EDGE)
        assert found[f"gap_{method}"] == pytest.approx(0.6 - reached, abs=1e-6)
        assert found[f"price_{method}"] == pytest.approx(0.06, abs=1e-6)


def test_a_sampler_that_is_as_high_at_no_cost_has_no_gap_and_no_price():
    rows = [row("optima", 0.8, 0.5)]
    for method in subspace.SAMPLERS:
        rows += [row(method, 0.8, 0.5), row(method, 0.8, 0.9)]
    found = optima_plane.plane_row(rows, 0.8, C)
    for method in subspace.SAMPLERS:
        assert found[f"gap_{method}"] < 0
        assert found[f"price_{method}"] == pytest.approx(0, abs=1e-6)


def test_measures_do_not_favour_the_optima_over_a_sampler_as_good_as_new_starts():
    """Its samples are independent networks of the optima's own accuracy.

    The gap is below 0 on average, since the sampler may lose a point.
    """
    found = []
    for seed in range(40):
        ends = answers(torch.stack([votes(0.8, 100 * seed + m) for m in range(4)]))
        fresh = torch.stack([votes(0.8, 100 * seed + 4 + i) for i in range(24)])
        rows = plane_of("optima", ends[1:], ends[0])
        for method in subspace.SAMPLERS:
            rows += plane_of(method, answers(fresh), ends[0])
        best = float((ends[0].argmax(-1) == LABELS).double().mean())
        row = optima_plane.plane_row(rows, best, C)
        found.append((row["gap_dropout"], row["price_dropout"]))
    gap, price = np.array(found).T
    assert gap.mean() < 4 * gap.std() / len(gap) ** 0.5
    assert abs(price.mean()) < 4 * price.std() / len(price) ** 0.5


def test_one_lucky_sample_does_not_decide():
    """Isotonic: the mean of neighbours that stand in the wrong order."""
    smooth = optima_plane.smooth(np.array([0.8, 0.7, 0.9, 0.5]), rises=False)
    np.testing.assert_allclose(smooth, [0.8, 0.8, 0.8, 0.5])


@pytest.mark.parametrize(
    ("floor", "wild"), [(0.89, 0.25), (0.79, 4.0), (0.99, 16.0 / 2**7)]
)
def test_strengths_are_chosen_on_validation_images(monkeypatch, floor, wild):
    """The best ensemble is that of strength 2; accuracy falls from .25 and 4 on."""
    monkeypatch.setitem(subspace.REACH, "dropout", 16.0)
    monkeypatch.setattr(optima, "LOSS", 0.9 - floor)
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
        options=optima.Options(),
        points=torch.zeros(1, 1),
        val=SimpleNamespace(labels=labels),
        draw=lambda method, m, strengths, why: strengths[:, None],
        logits=logits,
        accuracy=accuracy,
    )
    good, found = optima.Optima.strengths(study, "dropout", 0)
    assert good == 2.0
    assert found == wild


def test_ensembles_of_optima_and_around_them():
    """One network an optimum; then two alike around each: nothing but JS changes."""
    alone = [answers(votes(0.8, seed))[None] for seed in range(3)]
    rows = optima_shift.ensemble_rows(alone, ASKED, "0")
    assert [row["optima"] for row in rows] == [1, 2, 3]
    single = torch.stack([(p[0].argmax(-1) == LABELS).double().mean() for p in alone])
    assert rows[0]["accuracy"] == pytest.approx(float(single.mean()))
    assert rows[0]["js"] == pytest.approx(0, abs=1e-6)
    everyone = diversity.js_divergence(torch.cat(alone))
    assert rows[2]["js"] == pytest.approx(float(everyone))
    assert rows[0]["brier"] > rows[1]["brier"] > rows[2]["brier"]

    doubled = [part.repeat(2, 1, 1) for part in alone]
    near = optima_shift.ensemble_rows(doubled, ASKED, "0")
    for one, other in zip(rows, near, strict=True):
        assert one["accuracy"] == pytest.approx(other["accuracy"])
        assert one["brier"] == pytest.approx(other["brier"])
    assert near[0]["js"] == pytest.approx(0, abs=1e-6)


def test_digits_have_no_accuracy_as_their_labels_mean_other_things():
    rows = optima_shift.ensemble_rows([answers(votes(0.5, 0))[None]], ASKED, "digits")
    assert set(rows[0]) == {"place", "optima", "js"}


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_meets_one_kind_in_turn(channels):
    few = data.subset(data.load(DataConfig(size=14)).test, 40, seed=0)
    images = few.images.expand(-1, channels, -1, -1).contiguous()
    few = data.Split(images, few.labels, few.classes)
    made = optima_shift.places(few)
    assert list(made) == ["0", "1", "2", "3", "4", "5", "digits"]
    assert torch.equal(made["0"].images, images)
    for i, kind in enumerate(corruptions.KINDS):
        part = images[i :: len(corruptions.KINDS)]
        expected = corruptions.corrupt(part, kind, 4)
        assert torch.equal(made["4"].images[i :: len(corruptions.KINDS)], expected)
    assert made["digits"].images.shape[1:] == images.shape[1:]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Four small networks on digits, trained for a moment, and what is measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBTUTOR_PROGRESS", "off")
        run = train.fit(EXPERIMENT, tmp_path_factory.mktemp("tiny") / "run")
        return run, optima.Optima(run.out, FEW), study_landscape.measure(run.out, FEW)


def test_a_run_is_measured_once_and_kept(tiny):
    run, _, found = tiny
    assert study_landscape.measure(run.out, FEW) == found
    methods = ["optima", "average", "trajectory", *subspace.SAMPLERS]
    assert len(found[""]) == 1
    assert all(value == value for value in found[""][0].values())  # no NaN
    assert len(found["_plane"]) == 4 * (3 + 24 * len(subspace.SAMPLERS))
    assert len(found["_shift"]) == 7 * (4 * len(methods) + len(subspace.SAMPLERS))
    assert all(row["seed"] == 5 and row["data"] == "digits" for row in found["_shift"])


def test_likeness_is_of_the_later_half_and_of_the_ends(tiny):
    """Pair by pair, from the members and the snapshots themselves."""
    run, study, found = tiny
    labels = study.few.labels
    paths = snapshots.points(run.out)
    within, apart = [], []
    for m, late in enumerate(paths[:, 4:]):
        for i, j in itertools.combinations(range(4), 2):
            within.append(torch.cosine_similarity(late[i], late[j], dim=0))
            nets = [
                snapshots.members_at(run.out, run.members, 4 + k)[m] for k in (i, j)
            ]
            a, b = predict(nets, study.few).logits.argmax(-1)
            apart.append((a != b).double().mean())
    row = found[""][0]
    assert row["cosine_within"] == pytest.approx(float(torch.stack(within).mean()))
    assert row["disagreement_within"] == pytest.approx(float(torch.stack(apart).mean()))
    votes = predict(run.members, study.few).logits.argmax(-1)
    right = (votes == labels).double().mean(1)
    assert row["accuracy"] == pytest.approx(float(right.mean()))
    assert row["accuracy_range"] == pytest.approx(float(right.max() - right.min()))


def test_ensembles_of_all_optima_are_those_of_the_run(tiny):
    run, study, found = tiny
    clean = predict(run.members, study.few)
    probs = clean.logits.softmax(-1).mean(0)
    row = next(
        row
        for row in found["_shift"]
        if (row["method"], row["place"], row["optima"]) == ("optima", "0", 4)
    )
    assert row["accuracy"] == pytest.approx(
        float((probs.argmax(-1) == clean.labels).double().mean())
    )
    assert row["js"] == pytest.approx(float(diversity.js_divergence(clean.logits)))


def test_the_worst_place_of_a_path_is_inside_and_relative_to_its_ends(tiny):
    """Networks on the straight line, each asked alone."""
    run, study, found = tiny
    a, b = study.points[:2]
    right = []
    for t in torch.linspace(0, 1, optima.CURVE_STEPS):
        net = stack.model_at(run.members[0], (1 - t) * a + t * b)
        votes = predict([net], study.few).logits[0].argmax(-1)
        right.append(float((votes == study.few.labels).double().mean()))
    between = np.linspace(right[0], right[-1], optima.CURVE_STEPS)
    worst = (np.array(right) - between)[1:-1].min()
    assert found[""][0]["line_worst_change"] == pytest.approx(worst, abs=1e-6)
