"""What is measured for Sadrtdinov et al.'s claims, where the answers are known."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sbtutor import config, diversity, files, metrics, models, predict, stack, transfer
from sbtutor.config import DataConfig, ModelConfig

sys.path.append(str(Path(__file__).parents[1] / "notebooks" / "results"))

import claims_sadrtdinov as claims
import sadrtdinov as study

SETTING = study.SETTINGS["fashion-mini"]
SMALL = replace(
    SETTING,
    data=DataConfig(name="digits"),
    target=tuple("56789"),
    target_images=60,
    source_images=100,
    **{
        name: replace(getattr(SETTING, name), epochs=1, crop=0, flip=False)
        for name in ("pretraining", "fine", "scratch")
    },
)


@pytest.fixture(scope="module")
def target():
    return study.images(SMALL, seed=3)[1]


@pytest.fixture(scope="module")
def members(target):
    """Three networks of the target, untrained."""
    shape = tuple(target.train.images.shape[1:])
    model = ModelConfig(name="resnet8", width=2)
    return [models.build(model, shape, 5, seed).eval() for seed in range(3)]


def test_source_and_target_share_no_class_and_parts_no_image(target):
    source, _ = study.images(SMALL, seed=3)
    assert set(source.classes) == set("01234")
    assert len(source.labels) == 100
    assert len(target.train.labels) == 60
    other = study.images(SMALL, seed=4)[1]
    assert not torch.equal(target.train.images, other.train.images)
    for part in ("val", "test"):
        same, there = getattr(target, part), getattr(other, part)
        assert torch.equal(same.images, there.images)
    seen = {image.numpy().tobytes() for image in target.train.images}
    assert not seen & {image.numpy().tobytes() for image in target.val.images}


def test_rows_of_an_ensemble_are_those_of_its_first_members(target, members):
    measured = study.Measured(members, target)
    study_size, study.SIZE = study.SIZE, 3
    try:
        rows = study.ensemble_rows("some", measured)
    finally:
        study.SIZE = study_size
    seen = predict.predict(members, target.test)
    for size, row in enumerate(rows, start=1):
        probs = seen.logits[:size].softmax(-1)
        mean = float(metrics.nll(probs.mean(0), seen.labels))
        assert row["test_nll"] == pytest.approx(mean, abs=1e-6)
        own = [float(metrics.accuracy(p, seen.labels)) for p in probs]
        assert row["member_accuracy"] == pytest.approx(np.mean(own), abs=1e-6)
    two = float(diversity.disagreement(seen.logits[:2]))
    assert rows[1]["disagreement"] == pytest.approx(two)
    soup = transfer.soup(members, target.refresh)
    found = predict.predict([soup], target.val)
    accuracy = float(metrics.accuracy(found.logits[0].softmax(-1), found.labels))
    assert rows[2]["soup_val_accuracy"] == pytest.approx(accuracy)


def test_barriers_are_of_plain_images_with_statistics_of_augmented_ones(
    target, members
):
    (row,) = study.barriers([tuple(members[:2])], target, "val")
    line = transfer.straight_line(*members[:2], target.val, refresh=target.refresh)
    chord = np.linspace(float(line.loss[0]), float(line.loss[-1]), 11)
    assert row["barrier"] == pytest.approx((line.loss.numpy() - chord).max(), abs=1e-5)
    chord = np.linspace(float(line.accuracy[0]), float(line.accuracy[-1]), 11)
    highest = (chord - line.accuracy.numpy()).max()
    assert row["accuracy_barrier"] == pytest.approx(highest, abs=1e-6)


def test_a_cells_rows_count_members_from_the_first_one(target, members):
    five = [*members, members[1], members[0]]
    row, rows = study.cell_rows("star", (2, 0.5), study.Measured(five, target))
    assert [each["member"] for each in rows] == [1, 2, 3, 4]
    points = stack.points_of(five)
    far = float((points[2] - points[0]).norm())
    assert rows[1]["distance"] == pytest.approx(far, rel=1e-5)
    assert rows[3]["distance"] == rows[3]["barrier"] == 0  # a copy of model 1
    assert rows[0]["barrier"] == rows[2]["barrier"]
    mean = np.mean([each["barrier"] for each in rows])
    assert row["barrier"] == pytest.approx(mean)
    between = transfer.barrier(five[1], five[4], target.train, refresh=target.refresh)
    assert row["barrier_between"] == pytest.approx(float(between), abs=1e-6)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The whole study of one seed, in small."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(study.SETTINGS, "small", SMALL)
        patch.setattr(study, "MODEL", ModelConfig(name="resnet8", width=2))
        patch.setattr(study, "LR_FACTORS", (0.25, 8.0))
        patch.setattr(study, "EPOCH_FACTORS", (1.0,))
        patch.setattr(study, "SWA_LR_FACTORS", (0.1, 1.0))
        patch.setattr(study, "SWA_EPOCHS", 2)
        return study.measure(study.Todo("small", 7, folder)), folder


def test_the_study_has_a_row_for_each_method_cell_and_member(measured):
    found, folder = measured
    rows, grid, each = (pd.DataFrame(found[part]) for part in ("", "_grid", "_members"))
    dues = {f"{who}{how}" for who in ("local", "global") for how in study_kinds()}
    stars = {f"{who}{how}" for who in ("sse", "star") for how in ("", ", for soups")}
    assert set(rows["method"]) == {"scratch", "swa", "swag"} | dues | stars
    assert (rows.groupby("method").size().drop("swa") == 5).all()
    assert len(grid) == 2 * 2
    assert len(each) == 2 * 2 * 4
    assert files.read_json(folder / "7.json") == found


def study_kinds():
    return ("", ", twice as long", ", tuned")


def test_what_is_tuned_has_the_lowest_validation_nll(measured):
    rows, grid = (pd.DataFrame(measured[0][part]) for part in ("", "_grid"))
    last = rows[rows["size"] == 5].set_index("method")
    for method in study.METHODS:
        own = grid[grid["method"] == method]
        assert last["val_nll"][method] == pytest.approx(own["val_nll"].min())
        best = own["soup_val_accuracy"].max()
        soup = last["soup_val_accuracy"][f"{method}, for soups"]
        assert soup == pytest.approx(best)
    for who in ("local", "global"):
        tuned = last["val_nll"][f"{who}, tuned"]
        assert tuned <= last["val_nll"][who]
        assert tuned <= last["val_nll"][f"{who}, twice as long"]


def test_model_1_is_the_first_member_of_both_and_of_the_local_ensemble(measured):
    rows = pd.DataFrame(measured[0][""])
    one = rows[rows["size"] == 1].set_index("method")["test_nll"]
    assert one["sse"] == one["star"] == one["local"] == one["global"]


def tables(measured):
    """Three seeds that differ a little."""
    made = []
    noise = np.random.default_rng(0)
    kept = ("seed", "size", "member", "lr", "epochs")
    for part in ("", "_grid", "_members"):
        frames = []
        for seed in (1, 2, 3):
            frame = pd.DataFrame(measured[0][part]).assign(seed=seed)
            for column in frame.select_dtypes("number").columns.difference(kept):
                frame[column] *= 1 + 0.01 * noise.standard_normal(len(frame))
            frames.append(frame)
        made.append(pd.concat(frames))
    return made


def test_each_claim_is_asked_with_all_seeds(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HERE", tmp_path)
    names = ("transfer", "transfer_grid", "transfer_members")
    for name, frame in zip(names, tables(measured)):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    found = claims.answers()
    assert set(found["claim"]) == set(range(1, 10))
    assert found["quantity"].is_unique
    asked = found[found["claim"].isin([1, 2, 3, 5, 6, 7, 9])]
    assert (asked["n"] == 3).all()


def test_differences_have_the_sign_that_their_words_say(measured):
    """Global DE made better and StarSSE's members worse, by known amounts."""
    rows, grid, _ = tables(measured)
    rows["test_accuracy"], rows["member_accuracy"] = 0.5, 0.5
    rows.loc[rows["method"] == "global", "test_accuracy"] = 0.53
    five = (rows["method"] == "star") & (rows["size"] == 5)
    rows.loc[five, "member_accuracy"] = 0.46  # (0.5 + 4 * 0.45) / 5
    by = rows.set_index(["method", "size", "seed"]).sort_index()
    asked = {row.quantity: row.values for row in claims.of_sizes("d", by)}
    gain = asked["accuracy, points: 5 members, Global DE - Local DE"]
    assert gain.to_numpy() == pytest.approx(3)
    asked = {row.quantity: row.values for row in claims.of_later("d", by)}
    what = "accuracy, points: StarSSE, tuned cycles: members 2 to 5 - model 1"
    assert asked[what].to_numpy() == pytest.approx(-5)
    grid["refreshed_member_accuracy"], grid["soup_test_accuracy"] = 0.5, 0.52
    grid["barrier"], grid["barrier_between"] = 0.0, 0.3
    grid["data"] = "d"
    gains = {row.quantity: row.values for row in claims.of_soups("d", by, grid)}
    what = "soup less mean member, both refreshed, points: SSE, barrier "
    assert gains[f"{what}to model 1 < 0.01 nats"].to_numpy() == pytest.approx(2)
    assert len(gains[f"{what}to model 1 > 0.1 nats"]) == 0
    assert len(gains[f"{what}of members 2 and 5 > 0.1 nats"]) == 3


def test_the_settings_are_those_of_the_class_preset():
    """Lesson 05 says so: the same images, of the same size."""
    assert study.SETTINGS["fashion-mini"].data == config.preset("class").data
