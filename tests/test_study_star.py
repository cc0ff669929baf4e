"""The study of the pre-train basin: its rows, its settings, its checkpoints, kills."""

import dataclasses
import functools
import itertools
import signal
import socket
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sbtutor import (
    cost,
    cycles,
    data,
    evaluate,
    files,
    pretrained,
    starts,
    study_star,
    sweep,
    target,
    transfer,
)
from sbtutor.batches import augmented
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig
from sbtutor.predict import predict
from sbtutor.recipe import Recipe
from sbtutor.study_star import Options

pytestmark = pytest.mark.usefixtures("quiet")

TOY = Experiment(
    data=DataConfig(name="digits"),
    model=ModelConfig(name="resnet8", width=2),
    train=TrainConfig(
        members=3,
        epochs=2,
        batch_size=20,
        schedule="cosine",
        milestones=(),
        crop=1,
        device="cpu",
        seed=70,
    ),
)
NAMES = ("8", "3", "5", "9")
SOME = dict(target="8, 3,5,9", target_images=60, pretrain_epochs=1)
CYCLES = dict(lr_factor=2.0, epoch_factor=0.5)
SWEEPS = Path(__file__).parents[1] / "notebooks" / "sweeps"
DOWNLOAD = "torchvision.models._api.load_state_dict_from_url"


def vary(part, **settings):
    changed = dataclasses.replace(getattr(TOY, part), **settings)
    return dataclasses.replace(TOY, **{part: changed})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All four kinds with one shared folder: rows, and the folder."""
    folder = tmp_path_factory.mktemp("star")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBTUTOR_PROGRESS", "off")
        rows = {
            kind: study_star.run(
                TOY, Options(kind=kind, **SOME, **CYCLES), folder / kind, folder / "all"
            )
            for kind in ("star", "sse", "global", "local")
        }
    return rows, folder


@pytest.fixture(scope="module")
def expected():
    """The same ensembles by direct calls, and what they are measured on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBTUTOR_PROGRESS", "off")
        whole = data.load(TOY.data)
        source = data.only(whole.train, [str(n) for n in (0, 1, 2, 4, 6, 7)])
        train, val, test = (data.only(split, NAMES) for split in whole)
        train = data.subset(train, 60, 70)
        one = dataclasses.replace(TOY.train, epochs=1)
        checkpoints = transfer.pretrain(TOY.model, source, one, (70, 71, 72), jobs=1)
        same = checkpoints[:1] * 3
        made = {
            "local": transfer.fine_tune(same, train, TOY.train, jobs=1),
            "global": transfer.fine_tune(checkpoints, train, TOY.train, jobs=1),
        }
        first = made["local"][0]
        cycle = dataclasses.replace(TOY.train, lr=0.2, epochs=1)
        made["sse"] = transfer.sse(first, train, cycle, 3)
        made["star"] = transfer.star_sse(first, train, cycle, 3, jobs=1)
    few = data.subset(train, 60, 0)
    refresh = augmented(few, TOY.train, 2)
    return made, target.Target(few, val, test, refresh)


@pytest.mark.parametrize("kind", ["local", "global", "sse", "star"])
def test_the_row_tells_what_the_library_finds(done, expected, kind):
    row, (made, images) = done[0][kind], expected
    members = made[kind]
    for part in ("val", "test"):
        seen = predict(members, getattr(images, part))
        for name, value in evaluate.predictions_row(seen).items():
            assert row[f"{part}_{name}"] == value, name
    assert row["test_normalized_disagreement"] == row["test_der"]
    one = evaluate.predictions_row(predict(members[:1], images.test))
    assert row["first_accuracy"] == one["accuracy"]
    soup = predict([transfer.soup(members, images.refresh)], images.test)
    assert row["soup_accuracy"] == evaluate.predictions_row(soup)["accuracy"]
    lines = [
        transfer.barrier(members[0], other, images.train, refresh=images.refresh)
        for other in members[1:]
    ]
    assert row["barrier"] == pytest.approx(float(sum(lines)) / 2)
    fresh = [transfer.soup([member], images.refresh) for member in members]
    own = evaluate.predictions_row(predict(fresh, images.test))
    assert row["refreshed_member_accuracy"] == pytest.approx(own["member_accuracy"])
    assert row["network"] == "resnet8"
    assert row["cycle_epochs"] == (1 if kind in ("sse", "star") else 2)


def test_kinds_share_checkpoints_and_the_first_member_only(done):
    rows, folder = done
    assert len({row["first_nll"] for row in rows.values()}) == 1
    assert len({row["test_nll"] for row in rows.values()}) == 4
    (start,) = (folder / "all").glob("start-*")
    counts = {path.name: len([*path.glob("*.pt")]) for path in start.glob("*[!k]")}
    assert counts == {"first": 1} | {f"checkpoint{m}": 1 for m in range(3)}
    for kind in rows:
        assert len([*(folder / kind / "networks").glob("*.pt")]) == 2


def test_seconds_are_those_of_each_cycle_and_of_measuring(done):
    rows, folder = done
    (start,) = (folder / "all").glob("start-*")
    own = folder / "star" / "networks"
    trained = [start / "checkpoint0", start / "first", own]
    kept = [files.load_tensors(p, "") for place in trained for p in place.glob("*")]
    assert len(kept) == 4
    assert rows["star"]["seconds"] > sum(each["seconds"] for each in kept) > 0
    assert cycles.seconds(own) < sum(each["seconds"] for each in kept)


@pytest.mark.parametrize("moment", [1, 2, 4])
def test_a_killed_run_ends_with_the_same_row(done, dying, tmp_path, moment):
    """In pre-training, in fine-tuning, and in the second cycle."""
    options = Options(kind="star", **SOME, **CYCLES)
    code = (
        "from sbtutor import study_star\n"
        "study_star.run(experiment, options, out / 'run', out / 'shared')"
    )
    process = dying(code, moment, experiment=TOY, options=options, out=tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len([*tmp_path.rglob("*.pt")]) == moment - 1
    row = study_star.run(TOY, options, tmp_path / "run", tmp_path / "shared")
    expected = dict(done[0]["star"])
    for each in (row, expected):
        del each["seconds"]
    assert row == expected


def test_a_finished_run_trains_nothing(done, trained):
    rows, folder = done
    options = Options(kind="global", **SOME)
    row = study_star.run(TOY, options, folder / "global", folder / "all")
    assert not trained
    assert row["test_nll"] == rows["global"]["test_nll"]


def test_settings_without_effect_are_forgotten():
    assert Options(kind="local", **CYCLES) == Options(kind="local")
    assert Options(**CYCLES) != Options()
    assert Options(checkpoint="resnet50", **SOME) == Options(checkpoint="resnet50")
    assert Options().classes(("a", "b", "c", "d", "e")) == ("c", "d", "e")


# Networks of ImageNet.


def body(seed):
    """A network with three channels in place of a ResNet-50."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7)]
        return nn.Sequential(*layers)


# At 16 x 16 pixels in place of 224 x 224.
for_images = functools.partial(pretrained.for_images, size=16)


@pytest.fixture
def colours(tmp_path, monkeypatch):
    """A data set with three channels, and two checkpoints beside it."""
    random = np.random.default_rng(0)
    for part, name, i in itertools.product(("train", "test"), "ab", range(12)):
        place = tmp_path / "pictures" / part / name
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")
    data.import_images(tmp_path / "pictures", "colours", tmp_path)
    (tmp_path / "byol").mkdir()
    for seed in (1, 2):
        torch.save(body(seed).state_dict(), tmp_path / "byol" / f"{seed}.pth")
    config, recipe = pretrained.PAPER["supervised_resnet50"]
    small = (config, dataclasses.replace(recipe, size=16))
    monkeypatch.setitem(pretrained.PAPER, "supervised_resnet50", small)
    monkeypatch.setattr(pretrained, "_body", lambda _: body(0))
    monkeypatch.setattr(pretrained, "for_images", for_images)
    starts._network.cache_clear()
    yield vary("data", name="colours", root=tmp_path)
    starts._network.cache_clear()


def test_files_are_fine_tuned_by_the_papers_recipe(colours, tmp_path):
    colours = dataclasses.replace(
        colours, train=dataclasses.replace(colours.train, members=2)
    )
    options = Options(kind="global", checkpoint="byol/*.pth")
    study_star.ready(colours, options)
    row = study_star.run(colours, options, tmp_path / "run", tmp_path / "shared")
    splits, recipe = data.load(colours.data), options.recipe
    assert recipe == Recipe(augment="resized_crop", size=16)
    networks = [for_images(body(1)), for_images(body(2))]
    members = transfer.fine_tune(
        networks, splits.train, colours.train, jobs=1, recipe=recipe
    )
    seen = evaluate.predictions_row(predict(members, splits.test))
    assert row["test_nll"] == seen["nll"]
    assert row["network"] == "resnet50"
    one = Options(kind="star", checkpoint=str(tmp_path / "byol" / "2.pth"))
    row = study_star.run(colours, one, tmp_path / "one", tmp_path / "shared")
    start = transfer.fine_tune(
        networks[1:], splits.train, colours.train, jobs=1, recipe=recipe
    )
    seen = evaluate.predictions_row(predict(start, splits.test))
    assert row["first_nll"] == seen["nll"]


def test_too_few_files_are_told_before_anything_starts(colours):
    options = Options(kind="global", checkpoint="byol/*.pth")
    with pytest.raises(ValueError, match=r"'byol/\*.pth' names 2 files .* 3 needed"):
        study_star.ready(colours, options)
    with pytest.raises(ValueError, match=r"'nowhere.pth' names 0 files .* 1 needed"):
        study_star.ready(colours, Options(checkpoint="nowhere.pth"))


def test_a_missing_download_is_told_at_once(colours, monkeypatch):
    waited = []

    def offline(*_, **__):
        waited.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(DOWNLOAD, offline)
    message = "'resnet50': the IMAGENET1K_V1 weights .* could not .* in a sweep"
    with pytest.raises(ValueError, match=message):
        study_star.ready(colours, Options(checkpoint="resnet50"))
    assert waited == [pretrained.PATIENCE]
    assert socket.getdefaulttimeout() is None


def test_grey_images_are_refused_for_networks_of_imagenet():
    with pytest.raises(ValueError, match="sees 3 channels, digits has 1"):
        study_star.ready(TOY, Options(checkpoint="resnet50"))


def test_the_sweep_fine_tunes_as_the_paper_does():
    """But for bfloat16, and ensembles of two where there are two checkpoints."""
    found = sweep.read(SWEEPS / "star-cifar100.yaml").jobs
    paper, _ = pretrained.PAPER["supervised_resnet50"]
    obeyed = [name for name in cycles.OBEYED if name not in ("seed", "bf16")]
    for job in found:
        for name in set(obeyed) - {"milestones"}:  # a cosine has none
            assert getattr(job.experiment.train, name) == getattr(paper, name), name
    cells = {
        (job.options.kind, job.options.lr_factor, job.options.epoch_factor)
        for job in found
    }
    grid = itertools.product(transfer.LR_FACTORS, transfer.EPOCH_FACTORS)
    dues = {("local", 1.0, 1.0), ("global", 1.0, 1.0)}
    assert cells == dues | {(k, *cell) for cell in grid for k in ("sse", "star")}


# What is refused.


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(kind="stra"), "unknown kind 'stra': did you mean 'star'"),
        (dict(lr_factor=0.0), "factors must be positive and finite, got lr=0"),
        (dict(target_images=0), "target_images must be at least 1, got 0"),
        (dict(pretrain_epochs=0), "pretrain_epochs must be at least 1, got 0"),
        (dict(checkpoint=""), "checkpoint is ''; write 'classes'"),
    ],
)
def test_impossible_options_are_refused(unchecked, options, match):
    with pytest.raises(ValueError, match=match):
        Options(**options)


@pytest.mark.parametrize(
    ("settings", "options", "match"),
    [
        (dict(method="sam"), {}, "method='sgd', schedule='cosine', got method='sam'"),
        (dict(schedule="multistep"), {}, "got method='sgd', schedule='multistep'"),
        (dict(members=1), {}, "an ensemble needs members >= 2, got 1"),
        (
            {},
            dict(kind="global", checkpoint="resnet50"),
            "Global DE of 3 takes as many checkpoints, torchvision has 2 as 'resnet50'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(settings, options, match):
    with pytest.raises(ValueError, match=match):
        study_star.check(vary("train", **settings), Options(**options))
    study_star.check(TOY, Options())
    two = vary("train", members=2)
    study_star.check(two, Options(kind="global", checkpoint="resnet50"))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(target="8, 33"), "unknown class '33': did you mean '3'"),
        (dict(target="8"), "name two classes or more"),
        (dict(target="1,2,3,4,5,6,7,8,9"), "name two classes or more"),
        (dict(target="8,3", target_images=5000), "cannot take 5000 of"),
    ],
)
def test_classes_are_looked_at_before_anything_starts(options, match):
    with pytest.raises(ValueError, match=match):
        study_star.ready(TOY, Options(**options))
    study_star.ready(TOY, Options())


def test_missing_images_are_told_before_anything_starts(tmp_path):
    nowhere = vary("data", name="tiny-imagenet", root=tmp_path)
    with pytest.raises(ValueError, match="tiny-imagenet is not in"):
        study_star.ready(nowhere, Options())


def test_flops_are_those_of_training_and_measuring():
    """Ten classes of which four are the target; three members."""
    sizes = cost.Sizes(1000, 100, 200, (1, 8, 8), 10)
    forward = cost.model_flops(TOY.model, (1, 8, 8), 4)
    options = Options(kind="star", **SOME, **CYCLES)
    training = 3 * (600 + 2 * 60 + 2 * 60)  # 1 epoch, 2 epochs, 2 cycles of 1 epoch
    lines, soups = 2 * 11 * (60 + 120), 4 * 120
    predictions = 2 * 4 * (40 + 80)
    found = study_star.flops(TOY, options, sizes)
    assert found == forward * (training + lines + soups + predictions)
    more = study_star.flops(TOY, Options(kind="global", **SOME), sizes)
    assert more - found == forward * 3 * (2 * 600 + 2 * 60)


def test_a_resnet_50_costs_what_it_does_at_224_pixels():
    """4.09 G multiply-adds (torchvision's number), whatever the size of the images."""
    sizes = cost.Sizes(45_000, 5_000, 10_000, (3, 32, 32), 1000)
    assert starts.flops((3, 32, 32), 1000) == pytest.approx(2 * 4.09e9, rel=1e-2)
    paper = vary("train", members=5, epochs=25, crop=0)
    options = Options(checkpoint="resnet50")
    found = study_star.flops(paper, options, sizes) / starts.flops((3, 32, 32), 1000)
    training = 3 * 5 * 25 * 45_000
    assert training < found < 1.05 * training
