"""The study "ensemble": its row, the published corrupted sets, resuming, errors."""

import itertools
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sbtutor import (
    config,
    cost,
    data,
    evaluate,
    files,
    needs,
    published,
    study_ensemble,
    train,
)
from sbtutor.config import DataConfig, ModelConfig
from sbtutor.corruptions import KINDS
from sbtutor.predict import predict
from sbtutor.study_ensemble import Options

pytestmark = pytest.mark.usefixtures("quiet")

SMOKE = config.preset("smoke")
SMOKE = replace(
    SMOKE,
    data=replace(SMOKE.data, limit=60),
    model=ModelConfig(name="small_cnn", width=2),
)
CLASSES = published.CIFAR10_CLASSES[:3]
N = 4  # corrupted images a severity


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Measure on few images."""
    monkeypatch.setattr(evaluate, "SHIFT_IMAGES", 20)
    monkeypatch.setattr(evaluate, "SHARPNESS_IMAGES", 30)
    monkeypatch.setattr(evaluate, "REACH_IMAGES", 20)


def tensor_set(root, name="photos", classes=CLASSES, side=8):
    """An imported set of random colour images."""
    draw = torch.Generator().manual_seed(1)

    def part(count):
        images = torch.randint(
            256, (count, 3, side, side), generator=draw, dtype=torch.uint8
        )
        return images, torch.arange(count) % len(classes)

    for split, count in (("train", 60), ("val", 30), ("test", 30)):
        for i, (image, label) in enumerate(zip(*part(count))):
            folder = root / "source" / name / split / classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    data.import_images(root / "source" / name, name, root)


def cifar_c(folder, side=8):
    """A small CIFAR-10-C of three classes, random images."""
    folder.mkdir()
    for kind in KINDS:
        rng = np.random.default_rng([*kind.encode()])
        images = rng.integers(0, 256, (5 * N, side, side, 3), dtype=np.uint8)
        np.save(folder / f"{kind}.npy", images)
    np.save(folder / "labels.npy", np.tile(np.uint8([2, 0, 1, 1]), 5))


@pytest.fixture
def root(tmp_path):
    """A data folder with a set of images and its corrupted twin."""
    tensor_set(tmp_path)
    cifar_c(tmp_path / "photos-C")
    return tmp_path


def photos(root, **settings):
    """A tiny experiment on it."""
    images = DataConfig(name="photos", root=root)
    how = dict(members=2, epochs=1, milestones=(), warmup_epochs=0, batch_size=20)
    return replace(SMOKE, data=images, train=replace(SMOKE.train, **how | settings))


def plain(row):
    """Without what differs from run to run."""
    return {key: value for key, value in row.items() if key != "seconds"}


def test_the_row_has_the_runs_metrics_and_its_device(tmp_path):
    experiment = replace(SMOKE, train=replace(SMOKE.train, epochs=1, members=2))
    row = study_ensemble.run(experiment, Options(), tmp_path / "a", tmp_path / "b")
    own = train.load_run(tmp_path / "a" / "run").metrics
    assert own.items() <= row.items()
    assert {"test_accuracy", "val_eir", "shift_logit_variance", "sam_rise"} <= set(row)
    assert row["device"] == "cpu"
    assert row["seconds"] > 0
    assert row["sam_share"] == 0
    assert set(row) == {*own, "sam_share", "seconds", "device"}


def test_sharpbalance_and_sam_share_their_first_epochs(tmp_path):
    how = dict(epochs=2, warmup_epochs=1, milestones=())
    rows = []
    for method in ("sam", "sharpbalance"):
        experiment = replace(SMOKE, train=replace(SMOKE.train, method=method, **how))
        rows.append(
            study_ensemble.run(
                experiment, Options(), tmp_path / method, tmp_path / "shared"
            )
        )
    assert len(list((tmp_path / "shared" / "trunks").iterdir())) == 1
    assert rows[0]["sam_share"] == 1
    masks = train.load_run(tmp_path / "sharpbalance" / "run").sam_masks
    assert rows[1]["sam_share"] == pytest.approx(float(masks.double().mean()))
    assert 0.5 <= rows[1]["sam_share"] < 1


def test_corrupted_numbers_are_the_mean_of_75_predictions(root):
    experiment, options = photos(root), Options(corrupted="photos-C")
    study_ensemble.ready(experiment, options)
    row = study_ensemble.run(experiment, options, root / "a", root / "shared")
    members = train.load_run(root / "a" / "run").members
    found = []
    for kind, severity in itertools.product(KINDS, range(1, 6)):
        split = published.load_cifar_c(root / "photos-C", kind, severity, CLASSES)
        found.append(evaluate.predictions_row(predict(members, split)))
    assert len(found) == 75
    for name in found[0]:
        mean = np.mean([r[name] for r in found])
        assert row[f"corrupted_{name}"] == pytest.approx(mean, nan_ok=True), name
    assert len({r["nll"] for r in found}) == 75


def test_corrupted_images_are_resized_as_the_clean_ones(root):
    experiment = photos(root)
    experiment = replace(experiment, data=replace(experiment.data, size=6))
    options = Options(corrupted="photos-C")
    study_ensemble.ready(experiment, options)
    row = study_ensemble.run(experiment, options, root / "a", root / "shared")
    assert 0 <= row["corrupted_accuracy"] <= 1


def test_an_absolute_path_does_as_well(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "C"
    shutil.move(root / "photos-C", elsewhere)
    study_ensemble.ready(photos(root), Options(corrupted=str(elsewhere)))


def test_tiny_imagenet_c_is_known_by_its_layout(root):
    for (k, kind), level in itertools.product(enumerate(KINDS), range(1, 6)):
        for c, name in enumerate(CLASSES):
            path = root / "tiny-C" / kind / str(level) / name / "val_1.JPEG"
            path.parent.mkdir(parents=True)
            grey = 10 * k + level + 30 * c
            Image.new("RGB", (8, 8), (grey,) * 3).save(path)
    experiment, options = photos(root), Options(corrupted="tiny-C")
    study_ensemble.ready(experiment, options)
    row = study_ensemble.run(experiment, options, root / "a", root / "shared")
    assert 0 <= row["corrupted_member_accuracy"] <= 1


def test_a_run_killed_amid_the_corruptions_goes_on_at_the_next_kind(root, monkeypatch):
    experiment = photos(root, method="sharpbalance")
    options = Options(corrupted="photos-C")
    whole = study_ensemble.run(experiment, options, root / "a", root / "shared")
    asked, load = [], published.load_cifar_c

    def dying(folder, kind, *rest):
        asked.append(kind)
        if kind == KINDS[3]:
            raise KeyboardInterrupt
        return load(folder, kind, *rest)

    monkeypatch.setattr(published, "load_cifar_c", dying)
    with pytest.raises(KeyboardInterrupt):
        study_ensemble.run(experiment, options, root / "b", root / "shared")
    assert len(files.read_json(root / "b" / "run" / "corrupted.json")) == 3
    asked.clear()
    monkeypatch.setattr(
        published, "load_cifar_c", lambda *a: asked.append(a[1]) or load(*a)
    )
    row = study_ensemble.run(experiment, options, root / "b", root / "shared")
    assert asked == [kind for kind in KINDS[3:] for _ in range(5)]
    assert plain(row) == plain(whole)


def test_what_is_undefined_is_nan_after_resuming_too(root, monkeypatch):
    """One member has no pairs, so its disagreement is undefined."""
    experiment = photos(root, members=1)
    options = Options(corrupted="photos-C")
    rows = [
        study_ensemble.run(experiment, options, root / "a", root / "shared")
        for _ in range(2)
    ]
    assert all(math.isnan(row["corrupted_disagreement"]) for row in rows)
    assert rows[0]["corrupted_nll"] == rows[1]["corrupted_nll"]


def test_reach_is_measured_once_and_kept(tmp_path, monkeypatch):
    experiment = replace(SMOKE, train=replace(SMOKE.train, epochs=1, members=2))
    options, places = Options(reach=True), (tmp_path / "a", tmp_path / "b")
    row = study_ensemble.run(experiment, options, *places)
    run = train.load_run(tmp_path / "a" / "run")
    images = data.load(experiment.data).train
    expected = evaluate.reach_row(run.members, images)
    assert {name: row[name] for name in expected} == expected
    monkeypatch.delattr(evaluate, "reach_row")
    assert study_ensemble.run(experiment, options, *places) == row


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corrupted": 5}, r"corrupted must be a text, got 5 \(int\)"),
        ({"corrupted": ""}, "corrupted is the folder of a published .*, got ''"),
        ({"reach": 1}, r"reach must be True or False, got 1 \(int\)"),
    ],
)
def test_a_wrong_option_is_named(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


@pytest.mark.parametrize("name", ["digits", "fashion-mini", "fashion-mnist"])
def test_no_corrupted_version_of_digits_and_clothes(name):
    experiment = replace(SMOKE, data=DataConfig(name=name))
    study_ensemble.check(experiment, Options())
    with pytest.raises(ValueError, match=f"no corrupted version of {name} is publis"):
        study_ensemble.check(experiment, Options(corrupted="C"))


def test_a_missing_folder_is_named_before_the_run(root):
    with pytest.raises(ValueError, match=r"away is no folder; fetch the published"):
        study_ensemble.ready(photos(root), Options(corrupted="away"))


def test_a_missing_kind_is_named_before_the_run(root):
    (root / "photos-C" / "snow.npy").unlink()
    with pytest.raises(ValueError, match=r"lacks snow.npy; fetch the published set"):
        study_ensemble.ready(photos(root), Options(corrupted="photos-C"))


def test_images_of_another_shape_are_named_before_the_run(root):
    cifar_c(root / "large-C", side=10)
    with pytest.raises(
        ValueError, match=r"large-C has images of shape \(3, 10, 10\), photos of \(3, 8"
    ):
        study_ensemble.ready(photos(root), Options(corrupted="large-C"))


def test_classes_in_another_order_are_named_before_the_run(root):
    """As text 10 comes before 2; the published labels are numbers."""
    tensor_set(root, "numbered", classes=("10", "2", "9"))
    experiment = photos(root)
    experiment = replace(experiment, data=DataConfig(name="numbered", root=root))
    with pytest.raises(
        ValueError, match=r"photos-C numbers classes in alphabetical order.*\(10, 2, 9"
    ):
        study_ensemble.ready(experiment, Options(corrupted="photos-C"))
    tensor_set(root, "ordered", classes=("0", "1", "2"))
    experiment = replace(experiment, data=DataConfig(name="ordered", root=root))
    study_ensemble.ready(experiment, Options(corrupted="photos-C"))


def test_missing_data_device_and_too_small_images_are_named_before_the_run(root):
    experiment = photos(root)
    away = replace(experiment, data=DataConfig(name="photo", root=root))
    with pytest.raises(ValueError, match="unknown data set 'photo': did you mean 'ph"):
        study_ensemble.ready(away, Options())
    gone = replace(experiment, train=replace(experiment.train, device="cuda:99"))
    with pytest.raises(ValueError, match="device 'cuda:99' cannot be used"):
        study_ensemble.ready(gone, Options())
    small = replace(experiment, model=ModelConfig(name="lenet"))
    small = replace(small, data=replace(small.data, size=2))
    with pytest.raises(ValueError, match="pools images down and needs at least"):
        study_ensemble.ready(small, Options())


def test_images_are_looked_at_once(root, monkeypatch):
    needs._images.cache_clear()
    calls, load = [], data.load
    monkeypatch.setattr(data, "load", lambda c: calls.append(c) or load(c))
    for seed in range(3):
        found = needs.check(photos(root, seed=seed))
        assert found == ((3, 8, 8), CLASSES)
    assert len(calls) == 1


def test_flops_count_training_predictions_and_measures():
    """In passes forward; a gradient is three, SAM needs two."""
    sizes = cost.Sizes(1000, 100, 200, (1, 8, 8), 10)
    one = cost.model_flops(SMOKE.model, sizes.in_shape, sizes.classes)

    def passes(options=None, **settings):
        experiment = replace(SMOKE, train=replace(SMOKE.train, **settings))
        options = options or Options()
        return study_ensemble.flops(experiment, options, sizes) / one

    per_epoch = passes(epochs=5) - passes(epochs=4)
    assert per_epoch == 3 * 3 * 1000
    assert passes(epochs=5, method="sam") - passes(epochs=4, method="sam") == (
        2 * per_epoch
    )
    measured = passes(epochs=5) - 5 * per_epoch
    assert measured == 3 * (100 + 200 + 15 * 20 + 98 * 30)
    assert passes(Options(corrupted="C")) - passes() == 3 * 75 * 200
    assert passes(Options(reach=True)) - passes() == 3 * 20 * (120 + 20 + 270)
