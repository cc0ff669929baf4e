"""`train.fit`: what lies in a run's folder, and what the methods have in common."""

import dataclasses
import itertools

import pandas as pd
import pytest
import torch
from torch import nn

from sbtutor import data, evaluate, results, sharpbalance, sharpness, train
from sbtutor.batches import stream
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig
from sbtutor.predict import Predictions, predict

TOY = Experiment(
    data=DataConfig(name="digits", limit=100),
    model=ModelConfig(name="small_cnn", width=2),
    train=TrainConfig(
        members=3,
        epochs=3,
        batch_size=25,
        milestones=(2,),
        warmup_epochs=1,
        rho=0.2,
        device="cpu",
    ),
)
SPLITS = ("paper", "code", "code_boost", "flattest", "random", "shared")


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Train a variation of TOY, once."""
    made = {}

    def fit(**settings):
        key = tuple(sorted(settings.items()))
        if key not in made:
            out = tmp_path_factory.mktemp("runs") / "run"
            made[key] = train.fit(toy(**settings), out)
        return made[key]

    return fit


def toy(**settings):
    return dataclasses.replace(TOY, train=dataclasses.replace(TOY.train, **settings))


def weights(member):
    return torch.cat([p.detach().flatten() for p in member.parameters()])


@pytest.mark.parametrize("method", ["sgd", "sam", "sharpbalance"])
def test_a_finished_run_is_loaded_not_trained_again(fitted, monkeypatch, method):
    run = fitted(method=method)
    monkeypatch.setattr(train, "train_epoch", None)
    again = train.fit(toy(method=method), run.out)
    assert again.metrics == pytest.approx(run.metrics, rel=0, abs=0, nan_ok=True)
    assert again.experiment == run.experiment == toy(method=method)
    pd.testing.assert_frame_equal(again.history, run.history)
    for a, b in zip(again.members, run.members, strict=True):
        ours, theirs = a.state_dict(), b.state_dict()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_folder_holds_what_the_docstring_says(fitted):
    names = {path.name for path in fitted(method="sharpbalance").out.iterdir()}
    assert names == {
        *("config.json", "checkpoint.pt", "history.csv", "val.npz", "test.npz"),
        *("provenance.json", "metrics.json"),
    }


def test_saved_predictions_are_the_members(fitted):
    run, splits = fitted(method="sharpbalance"), data.load(TOY.data)
    for name in ("val", "test"):
        saved = Predictions.load(run.out / f"{name}.npz")
        again = predict(run.members, getattr(splits, name))
        torch.testing.assert_close(saved.logits, again.logits, rtol=0, atol=0)
        assert torch.equal(saved.labels, getattr(splits, name).labels)


def test_metrics_are_those_of_the_members_on_each_split(fitted):
    run, splits = fitted(method="sam"), data.load(TOY.data)
    expected = evaluate.sharpness_row(run.members, splits.train)
    for name in ("val", "test"):
        row = evaluate.predictions_row(predict(run.members, getattr(splits, name)))
        expected |= {f"{name}_{key}": value for key, value in row.items()}
    shift = evaluate.shift_row(run.members, splits.test)
    expected |= {f"shift_{key}": value for key, value in shift.items()}
    assert run.metrics == pytest.approx(expected, nan_ok=True)


def test_history_has_a_row_an_epoch_and_member(fitted):
    run = fitted(method="sharpbalance")
    history = pd.read_csv(run.out / "history.csv")
    pd.testing.assert_frame_equal(history, run.history)
    rows = list(zip(history["epoch"], history["member"], strict=True))
    assert rows == list(itertools.product(range(3), range(3)))
    assert history["lr"].tolist() == pytest.approx([0.1] * 6 + [0.01] * 3)
    first, last = (history[history["epoch"] == e]["loss"].mean() for e in (0, 2))
    assert last < first


def test_members_see_images_of_mean_zero_and_deviation_one(fitted):
    images = data.load(TOY.data).train.images.float() / 255
    for member in fitted(method="sgd").members:
        seen = member.normalize(images)
        torch.testing.assert_close(seen.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(seen.std(), torch.tensor(1.0), atol=1e-5, rtol=0)
        assert not member.training


@pytest.mark.parametrize("split", SPLITS)
def test_sharpbalance_uses_the_masks_of_the_members_at_the_split(fitted, split):
    """Scores are the Fisher traces after T_d epochs of SAM; masks follow from them."""
    run = fitted(method="sharpbalance", split=split)
    warm = fitted(method="sam", epochs=1)
    train_split = data.load(TOY.data).train
    images = train_split.images.float() / 255
    scores = torch.stack(
        [sharpness.fisher_trace(m, images, train_split.labels) for m in warm.members]
    )
    torch.testing.assert_close(run.scores, scores, rtol=0, atol=0)
    masks = sharpbalance.sam_masks(scores, 0.5, split, stream(0, "split"))
    assert torch.equal(run.sam_masks, masks)


def test_sharpbalance_is_sam_for_its_first_epochs_and_then_is_not(fitted):
    sam, ours = (fitted(method=m).history["loss"] for m in ("sam", "sharpbalance"))
    assert (sam == ours).tolist() == [True] * 3 + [False] * 6


def test_only_sharpbalance_has_masks(fitted):
    for method in ("sgd", "sam"):
        assert fitted(method=method).sam_masks is None
        assert fitted(method=method).scores is None


def test_sharpbalance_with_masks_all_true_is_sam(fitted, monkeypatch, tmp_path):
    """And with masks all False it is SAM first, SGD then."""
    for value in (True, False):
        monkeypatch.setattr(
            sharpbalance,
            "sam_masks",
            lambda scores, *_, value=value: torch.full(scores.shape, value),
        )
        run = train.fit(toy(method="sharpbalance"), tmp_path / str(value))
        sam = fitted(method="sam")
        for ours, theirs in zip(run.members, sam.members, strict=True):
            assert torch.equal(weights(ours), weights(theirs)) == value


def test_a_split_before_the_first_epoch_scores_untrained_members(fitted):
    run = fitted(method="sharpbalance", warmup_epochs=0)
    assert run.sam_masks.any()
    assert not torch.equal(run.scores, fitted(method="sharpbalance").scores)


def test_sam_tends_to_sgd_as_rho_tends_to_zero(fitted):
    sgd, sam, tiny = (
        weights(fitted(epochs=1, **settings).members[0])
        for settings in (
            {"method": "sgd"},
            {"method": "sam"},
            {"method": "sam", "rho": 1e-7},
        )
    )
    assert (sam - sgd).norm() > 0.01
    assert (tiny - sgd).norm() < 1e-4


@pytest.mark.parametrize("method", ["sgd", "sam"])
def test_member_m_of_seed_s_is_member_0_of_seed_s_plus_m(fitted, method):
    """Up to rounding: the fused optimizer vectorises over all members' weights."""
    settings = {"method": method, "crop": 1, "flip": True}
    many = fitted(seed=3, **settings)
    for m in range(3):
        alone = fitted(seed=3 + m, members=1, **settings)
        torch.testing.assert_close(weights(many.members[m]), weights(alone.members[0]))


def test_member_m_of_seed_s_is_member_0_of_seed_s_plus_m_with_dropout(tmp_path):
    base = Experiment(
        data=DataConfig(name="digits", limit=50, size=16),
        model=ModelConfig(name="medium_cnn", width=2),
        train=dataclasses.replace(TOY.train, epochs=1, seed=3, lr=0.01),
    )
    many = train.fit(base, tmp_path / "many")
    one = dataclasses.replace(base.train, members=1, seed=4)
    alone = train.fit(dataclasses.replace(base, train=one), tmp_path / "one")
    torch.testing.assert_close(weights(many.members[1]), weights(alone.members[0]))


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet8"])
def test_every_kind_of_network_learns_by_sharpbalance(tmp_path, name):
    model = ModelConfig(name=name, width=4, norm="group")
    settings = dataclasses.replace(TOY.train, method="sharpbalance", epochs=4)
    run = train.fit(dataclasses.replace(TOY, model=model, train=settings), tmp_path)
    losses = run.history.groupby("epoch")["loss"].mean()
    assert losses[3] < losses[0]


@pytest.mark.parametrize(
    ("method", "backend"),
    [
        ("sgd", "aot_eager"),
        pytest.param("sharpbalance", "aot_eager", marks=pytest.mark.full),
        pytest.param("sharpbalance", "inductor", marks=pytest.mark.full),
    ],
)
def test_compiled_members_train_as_plain_ones(
    fitted, monkeypatch, tmp_path, method, backend
):
    """Up to rounding; scores and sharpness are measured without compilation."""
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda m: compiled(m, backend=backend))
    torch.compiler.reset()
    plain = fitted(method=method)
    ours = train.fit(toy(method=method, compile=True), tmp_path)
    torch.testing.assert_close(
        torch.tensor(ours.history["loss"]),
        torch.tensor(plain.history["loss"]),
        rtol=1e-3,
        atol=0,
    )
    assert ours.metrics["hessian_trace"] == pytest.approx(
        plain.metrics["hessian_trace"], rel=0.05
    )


def test_bfloat16_autocast_changes_the_loss_by_its_rounding_only(fitted):
    """8 bits of mantissa: a relative error of 1/256 an operation."""
    plain, ours = (
        torch.tensor(fitted(method="sam", epochs=1, bf16=b).history["loss"])
        for b in (False, True)
    )
    assert not torch.equal(plain, ours)
    torch.testing.assert_close(ours, plain, rtol=0.05, atol=0)


def test_resume_false_starts_again(tmp_path):
    first = train.fit(toy(epochs=1), tmp_path / "run")
    other = train.fit(toy(epochs=2), tmp_path / "run", resume=False)
    assert results.load_experiment(tmp_path / "run") == toy(epochs=2)
    assert (len(first.history), len(other.history)) == (3, 6)


def test_training_again_removes_what_was_measured_of_the_old_weights(tmp_path):
    """And nothing else: neither other files nor a folder that never was a run."""
    first = train.fit(toy(epochs=1), tmp_path / "run").out
    for name in ("reach.json", "landscape.json", "notes.txt"):
        (first / name).write_text("{}")
    train.fit(toy(epochs=1, seed=1), first, resume=False)
    names = {path.name for path in first.iterdir()}
    assert "notes.txt" in names
    assert not names & {"reach.json", "landscape.json"}
    other = tmp_path / "other"
    other.mkdir()
    (other / "package.json").write_text("{}")
    train.fit(toy(epochs=1), other, resume=False)
    assert (other / "package.json").exists()


def test_going_on_with_a_run_keeps_what_was_measured(tmp_path):
    out = train.fit(toy(epochs=1), tmp_path).out
    (out / "landscape.json").write_text("{}")
    (out / "metrics.json").unlink()
    train.fit(toy(epochs=1), out)
    assert (out / "landscape.json").exists()


def test_another_experiment_in_the_folder_is_refused(fitted):
    run = fitted(method="sgd")
    before = {p: p.read_bytes() for p in run.out.iterdir()}
    with pytest.raises(
        ValueError, match=r"holds a run with train\.lr=0\.1, .* has 0\.3"
    ):
        train.fit(toy(lr=0.3), run.out)
    assert {p: p.read_bytes() for p in run.out.iterdir()} == before


def test_an_unfinished_run_cannot_be_loaded(tmp_path):
    with pytest.raises(
        ValueError, match=r"no finished run \(no metrics\.json\); train"
    ):
        train.load_run(tmp_path)
