"""The study of hyperparameter ensembles: its row, its settings, kills."""

import dataclasses
import math
import signal

import pytest
import torch

from sbtutor import (
    batch_training,
    cost,
    data,
    diversity,
    files,
    hyper,
    metrics,
    needs,
    study_hyper,
)
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig
from sbtutor.predict import predict
from sbtutor.space import Space
from sbtutor.study_hyper import Options
from sbtutor.tuning import Tuning

pytestmark = pytest.mark.usefixtures("quiet")

TOY = Experiment(
    data=DataConfig(name="digits", limit=150),
    model=ModelConfig(name="mlp", width=8, dropout=0.5),
    train=TrainConfig(
        members=2, epochs=4, batch_size=10, milestones=(2,), device="cpu", seed=30
    ),
)
FEW = dict(kappa=4, l2_high=1.0)
ALL = Options(
    **FEW, batch=True, batch_epochs=2, start=0.5, tau=0.0, tuning_lr=0.01, tied=True
)
SPACE = Space(l2=(1e-3, 1.0))


def vary(part, **settings):
    changed = dataclasses.replace(getattr(TOY, part), **settings)
    return dataclasses.replace(TOY, **{part: changed})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run: its row and its folder of what is shared."""
    folder = tmp_path_factory.mktemp("hyper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBTUTOR_PROGRESS", "off")
        row = study_hyper.run(TOY, ALL, folder / "run", folder / "shared")
    return row, folder / "shared"


def test_the_row_tells_what_the_library_finds(done, tmp_path):
    row, _ = done
    pool = hyper.search(TOY, 4, tmp_path, SPACE, seed=30, jobs=1)
    expected = {
        "single": hyper.deep_ensemble(TOY, pool, 1, jobs=1),
        "deep": hyper.deep_ensemble(TOY, pool, 2, jobs=1),
        "hyper": hyper.hyper_ensemble(pool, 2),
        "hyper_deep": hyper.hyper_deep_ensemble(TOY, pool, 2, jobs=1),
    }
    for name, ensemble in expected.items():
        probs, labels = ensemble.probs("test"), ensemble.pool.test.labels
        for key in ("accuracy", "nll", "brier", "ece"):
            value = float(getattr(metrics, key)(probs, labels))
            assert row[f"{name}_{key}"] == value, (name, key)
        val = ensemble.pool.val
        assert row[f"{name}_val_nll"] == metrics.nll(ensemble.probs("val"), val.labels)
        assert row[f"{name}_members"] == len(ensemble.unique)
        assert row[f"{name}_trainings"] == ensemble.trainings
        assert row[f"{name}_largest_share"] == float(ensemble.weights.max())
        own = ensemble.pool.test.logits[ensemble.unique]
        each = [float(metrics.nll(p, labels)) for p in own.softmax(-1)]
        assert row[f"{name}_member_nll"] == pytest.approx(sum(each) / len(each))
    deep = expected["deep"].pool.test.logits
    assert row["deep_disagreement"] == float(diversity.disagreement(deep))
    assert math.isnan(row["single_disagreement"])
    assert row["diverged"] == 0
    all_kinds = ("single", "deep", "hyper", "hyper_deep")
    assert len({row[f"{name}_nll"] for name in all_kinds}) > 2


def test_batch_ensembles_are_trained_for_their_own_epochs(done, tmp_path):
    row, shared = done
    pool = hyper.search(TOY, 4, shared / "networks", SPACE, seed=30, jobs=1)
    short = vary("train", epochs=2, milestones=(1,))
    splits = data.load(TOY.data)
    found = []
    for i in study_hyper.pool_order(pool)[:3]:
        fitted = batch_training.fit(short, pool.trials[i].settings, tmp_path)
        val, test = (predict(fitted.members, s) for s in (splits.val, splits.test))
        probs = metrics.ensemble_probs(val.logits)
        found.append((float(metrics.nll(probs, val.labels)), test))
    val_nll, test = min(found, key=lambda pair: pair[0])
    probs = metrics.ensemble_probs(test.logits)
    assert row["batch_val_nll"] == val_nll
    assert row["batch_accuracy"] == float(metrics.accuracy(probs, test.labels))
    assert row["batch_disagreement"] == float(diversity.disagreement(test.logits))
    how = Tuning(space=SPACE, start=0.5, tau=0.0, lr=0.01, tied=True)
    tuned = batch_training.fit(short, how, tmp_path)
    test = predict(tuned.members, splits.test)
    probs = metrics.ensemble_probs(test.logits)
    assert row["hyper_batch_nll"] == float(metrics.nll(probs, test.labels))


def test_seconds_are_those_of_all_networks_once(done):
    row, shared = done
    kept = [files.load_tensors(p, "") for p in (shared / "networks").glob("*.pt")]
    assert row["seconds"] == pytest.approx(sum(each["seconds"] for each in kept))
    assert row["seconds"] > 0


@pytest.mark.parametrize("moment", [2, 5, 8])
def test_a_killed_run_ends_with_the_same_row(done, dying, tmp_path, moment):
    """In the search, in the stratification, and among batch ensembles."""
    code = (
        "import torch\nfrom sbtutor import study_hyper\n"
        "study_hyper.run(experiment, options, out / 'run', out / 'shared')"
    )
    process = dying(code, moment, experiment=TOY, options=ALL, out=tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = len(list((tmp_path / "shared" / "networks").glob("*.pt")))
    assert 0 < left <= moment - 1
    row = study_hyper.run(TOY, ALL, tmp_path / "run", tmp_path / "shared")
    expected = dict(done[0])
    for each in (row, expected):
        del each["seconds"]
    torch.testing.assert_close(row, expected, rtol=0, atol=0, equal_nan=True)


def test_another_run_takes_the_networks_that_are_there(done, monkeypatch, tmp_path):
    monkeypatch.setattr("sbtutor.pool.train_one", lambda *_: 1 / 0)
    options, shared = Options(**FEW), done[1]
    row = study_hyper.run(TOY, options, tmp_path, shared)
    assert row["deep_nll"] == done[0]["deep_nll"]
    assert "batch_nll" not in row
    with pytest.raises(ZeroDivisionError):  # a third first weights is not there
        study_hyper.run(vary("train", members=3), options, tmp_path, shared)


def test_a_batch_ensemble_that_diverged_is_nan(monkeypatch, done, tmp_path):
    def diverges(*_):
        raise FloatingPointError

    monkeypatch.setattr(batch_training, "fit", diverges)
    row = study_hyper.run(TOY, ALL, tmp_path, done[1])
    assert math.isnan(row["batch_nll"])
    assert math.isnan(row["hyper_batch_accuracy"])
    assert row["deep_nll"] == done[0]["deep_nll"]


def test_settings_without_effect_are_forgotten():
    idle = dict(batch_epochs=7, start=0.5, tau=1.0, tuning_lr=1.0, tied=True)
    assert Options(**idle) == Options()
    assert Options(**idle, batch=True).batch_epochs == 7


def test_milestones_move_with_the_epochs():
    train = study_hyper.longer(vary("train", epochs=200, milestones=(100, 150)), 250)
    assert (train.train.epochs, train.train.milestones) == (250, (125, 187))
    one = study_hyper.longer(vary("train", epochs=4, milestones=(2, 3)), 1)
    assert one.train.milestones == (1,)


def test_flops_are_those_of_all_networks():
    """kappa + K (K - 1) trainings of one network, and their predictions."""
    sizes = cost.Sizes(100, 10, 20, (1, 8, 8), 10)
    forward = 2 * (64 * 8 + 8 * 8 + 8 * 10)
    network = 3 * 100 * 4 + 30
    found = study_hyper.flops(TOY, Options(kappa=4), sizes)
    assert found == forward * (4 + 2 * 1) * network
    more = study_hyper.flops(TOY, Options(kappa=4, batch=True, batch_epochs=8), sizes)
    steps = 2 * 8 * 3 * 100  # of a batch ensemble of two
    extra = 3 * steps + 2 * (4 / 3) * steps + 5 * 2 * 30
    assert more - found == pytest.approx(forward * extra)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(kappa=0), "kappa, the networks of the search, must be at least 1, got 0"),
        (dict(kappa=2.5), "kappa must be a whole number"),
        (dict(batch_epochs=0, batch=True), "batch_epochs must be at least 1, or None"),
        (dict(l2_low=2.0, l2_high=1.0), "the range of l2 must be"),
        (dict(smoothing_high=1.5), "label_smoothing is a share"),
        (dict(start=0.0, batch=True), "start is the share"),
    ],
)
def test_impossible_options_are_refused(unchecked, options, match):
    with pytest.raises(ValueError, match=match):
        Options(**options)


@pytest.mark.parametrize(
    ("settings", "options", "match"),
    [
        (dict(members=1), {}, "so members must be from 2 to 50, got 1"),
        (dict(members=5), dict(kappa=4), "kappa=4 networks .* from 2 to 4, got 5"),
        (dict(method="sam"), {}, "method='sgd', got 'sam'"),
        (dict(optimizer="adamw"), {}, "AdamW's weight decay is no L2 penalty"),
        (dict(optimizer="adam"), dict(batch=True), "trained by SGD, got .*'adam'"),
    ],
)
def test_what_does_not_fit_is_refused(settings, options, match):
    with pytest.raises(ValueError, match=match):
        study_hyper.check(vary("train", **settings), Options(**options))
    study_hyper.check(TOY, Options())


def test_missing_images_are_told_before_anything_starts(tmp_path):
    study_hyper.ready(TOY, Options())
    nowhere = vary("data", name="tiny-imagenet", root=tmp_path, limit=None)
    with pytest.raises(ValueError, match="tiny-imagenet is not in"):
        study_hyper.ready(nowhere, Options())
    assert needs.images(TOY.data).in_shape == (1, 8, 8)
