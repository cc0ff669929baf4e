"""The study "landscape": one row a run; resuming; what it refuses."""

import math
from dataclasses import replace

import pytest

from sbtutor import config, cost, data, evaluate, files, optima, study_landscape
from sbtutor.config import DataConfig, ModelConfig
from sbtutor.study_landscape import Options

pytestmark = pytest.mark.usefixtures("quiet")

SMOKE = config.preset("smoke")
EXPERIMENT = replace(
    SMOKE,
    data=DataConfig(name="digits", limit=150),
    model=ModelConfig(name="small_cnn", norm="none", width=4),
    train=replace(
        SMOKE.train,
        optimizer="adam",
        lr=5e-3,
        epochs=6,
        batch_size=30,
        snapshots=True,
        seed=7,
    ),
)
FEW = Options(images=40, validation=40, late=6, samples=2, bend_epochs=1)


def varied(part, **settings):
    return replace(EXPERIMENT, **{part: replace(getattr(EXPERIMENT, part), **settings)})


def plain(row):
    """Without what differs from run to run."""
    return {key: value for key, value in row.items() if key != "seconds"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run: its folder and its row."""
    folder = tmp_path_factory.mktemp("landscape")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBTUTOR_PROGRESS", "off")
        patch.setattr(evaluate, "SHIFT_IMAGES", 20)
        patch.setattr(evaluate, "SHARPNESS_IMAGES", 20)
        return folder, study_landscape.run(EXPERIMENT, FEW, folder, folder / "shared")


def test_the_row_is_flat_and_holds_the_tables_means(done):
    folder, row = done
    found = files.read_json(folder / "run" / "landscape.json")
    shift = found["_shift"]
    own = found[""][0]
    assert row["cosine_between"] == own["cosine_between"]
    assert row["gap_low_rank"] == own["gap_low rank"]
    assert {"test_accuracy", "shift_accuracy", "sam_rise"} <= set(row)

    def mean(method, count, name, places):
        values = [
            r[name]
            for r in shift
            if (r["method"], r["optima"]) == (method, count) and r["place"] in places
        ]
        assert len(values) == len(places)
        return pytest.approx(sum(values) / len(values))

    for method, count in (("optima", 1), ("optima", 3), ("low rank", 1), ("swag", 3)):
        name = f"{method.replace(' ', '_')}_{count}"
        assert row[f"accuracy_{name}"] == mean(method, count, "accuracy", "0")
        assert row[f"shift_brier_{name}"] == mean(method, count, "brier", "12345")
    assert row["digits_js_optima_3"] == mean("optima", 3, "js", ["digits"])
    assert "accuracy_optima_2" not in row
    assert "digits_accuracy_optima_3" not in row
    assert all(isinstance(value, int | float | str) for value in row.values())
    assert not any(" " in name for name in row)
    assert row["device"] == "cpu"
    assert row["seconds"] >= own["measured_seconds"]


def test_a_finished_run_is_loaded(done, monkeypatch):
    folder, row = done
    monkeypatch.delattr(study_landscape, "Optima")
    again = study_landscape.run(EXPERIMENT, FEW, folder, folder / "shared")
    assert again == row


def test_a_run_killed_in_training_or_measuring_ends_with_the_same_row(
    done, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluate, "SHIFT_IMAGES", 20)
    monkeypatch.setattr(evaluate, "SHARPNESS_IMAGES", 20)
    write, seen = files.write_bytes, []

    def dying(path, content):
        """Before the second epoch's checkpoint, and before the measures are kept."""
        seen.append(path.name)
        moments = ("checkpoint.pt", 2), ("landscape.json", 1)
        if (path.name, seen.count(path.name)) in moments:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(files, "write_bytes", dying)
    for moment in ("checkpoint.pt", "landscape.json"):
        with pytest.raises(KeyboardInterrupt):
            study_landscape.run(EXPERIMENT, FEW, tmp_path, tmp_path / "shared")
        assert seen[-1] == moment
    row = study_landscape.run(EXPERIMENT, FEW, tmp_path, tmp_path / "shared")
    assert plain(row) == plain(done[1])


def test_what_is_undefined_is_nan():
    """JSON gives None for it."""
    rows = [
        dict(place="0", method="optima", optima=1, js=0.0, accuracy=0.5),
        dict(place="0", method="swag", optima=3, js=None, accuracy=0.5),
        dict(place="1", method="swag", optima=3, js=None, accuracy=0.25),
        dict(place="5", method="swag", optima=3, js=None, accuracy=0.75),
    ]
    found = study_landscape.headline(rows, 3)
    assert found == {
        "js_optima_1": 0.0,
        "accuracy_optima_1": 0.5,
        "accuracy_swag_3": 0.5,
        "shift_accuracy_swag_3": 0.5,
    }


def test_an_undefined_measure_is_nan_in_the_row(done):
    folder, _ = done
    kept = folder / "run" / "landscape.json"
    found = files.read_json(kept)
    changed = found | {"": [found[""][0] | {"der": None}]}
    files.write_json(kept, changed)
    try:
        row = study_landscape.run(EXPERIMENT, FEW, folder, folder / "shared")
        assert math.isnan(row["der"])
    finally:
        files.write_json(kept, found)


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (varied("train", snapshots=False), "it needs snapshots; write snapshots: true"),
        (varied("train", members=2), "three optima or more, got members=2; write mem"),
        (varied("train", epochs=5, milestones=()), "late=6 checkpoints .* epochs=5"),
        (
            varied("model", norm="batch"),
            "small_cnn has BatchNorm, .* write norm: gro",
        ),
    ],
)
def test_runs_without_what_is_compared_are_refused(experiment, message):
    study_landscape.check(EXPERIMENT, replace(FEW, late=6))
    with pytest.raises(ValueError, match=message):
        study_landscape.check(experiment, replace(FEW, late=6))


@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(name="medium_cnn"),
        ModelConfig(name="mlp"),
        ModelConfig(name="lenet"),
        ModelConfig(name="resnet8", norm="group"),
    ],
)
def test_networks_without_batch_norm_are_welcome(model):
    study_landscape.check(replace(EXPERIMENT, model=model), FEW)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 19}, "images must be at least 20, got 19"),
        ({"validation": 0}, "validation must be at least 20, got 0"),
        ({"late": 5}, "late must be at least 6, got 5"),
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"bend_epochs": 0}, "bend_epochs must be at least 1, got 0"),
        ({"late": 2.5}, r"late must be a whole number, got 2.5 \(float\)"),
    ],
)
def test_a_wrong_option_is_named(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_missing_data_are_named_before_the_run(tmp_path):
    study_landscape.ready(EXPERIMENT, FEW)
    away = replace(EXPERIMENT, data=DataConfig(name="digit", root=tmp_path))
    with pytest.raises(ValueError, match="unknown data set 'digit': did you mean 'dig"):
        study_landscape.ready(away, FEW)


def test_flops_count_training_and_all_networks_asked(monkeypatch):
    """In passes forward, counted where they are made."""
    sizes = cost.Sizes(150, 200, 500, (1, 8, 8), 10)
    one = cost.model_flops(EXPERIMENT.model, sizes.in_shape, sizes.classes)

    def passes(options=FEW, **settings):
        experiment = varied("train", **settings)
        return study_landscape.flops(experiment, options, sizes) / one

    members = EXPERIMENT.train.members
    per_epoch = members * (3 * 150 + 40)  # training, and the trajectory's predictions
    assert passes(epochs=7) - passes(epochs=6) == per_epoch
    assert passes(replace(FEW, bend_epochs=2)) - passes() == 3 * 150
    assert passes(replace(FEW, validation=41)) - passes() == members * 5 * 8 * 2


def test_the_images_asked_about_are_the_flops(done, monkeypatch):
    """Predictions by `stack.logits_at`, beside the estimate without training."""
    folder, _ = done
    asked, real = [], optima.stack.logits_at

    def counted(model, points, split):
        asked.append(len(points) * len(split.labels))
        return real(model, points, split)

    monkeypatch.setattr(optima.stack, "logits_at", counted)
    kept = folder / "run" / "landscape.json"
    content = kept.read_bytes()
    kept.unlink()
    try:
        study_landscape.measure(folder / "run", FEW)
    finally:
        kept.write_bytes(content)
    sizes = cost.sizes_of(EXPERIMENT.data)
    digits = len(data.load(EXPERIMENT.data).test.labels)
    near = 1 + 1 + 6 + 5 * (2 + 4)  # the optimum, average, trajectory, samples
    asked = sum(asked) - 3 * near * (digits - 40)  # digits: all of them, not 40
    one = cost.model_flops(EXPERIMENT.model, sizes.in_shape, sizes.classes)
    passes = study_landscape.flops(EXPERIMENT, FEW, sizes) / one
    passes -= 3 * 6 * 3 * 150 + 3 * 150  # training, and the curve
    assert asked == pytest.approx(passes, rel=0.05)
