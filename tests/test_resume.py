"""Nothing is lost: kills, full disks, broken files, losses that blow up, trunks."""

import dataclasses
import os
import shutil
import signal
import subprocess
import time

import pytest
import torch

from sbtutor import data, files, state, train
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig

TOY = Experiment(
    data=DataConfig(name="digits", limit=100),
    model=ModelConfig(name="small_cnn", width=2),
    train=TrainConfig(
        method="sharpbalance",
        members=2,
        epochs=3,
        batch_size=25,
        milestones=(2,),
        warmup_epochs=1,
        device="cpu",
    ),
)

# Every file that a run moves into place, in order. All that a run leaves behind is on
# disk, so dying before each of these moves is dying at any moment.
MOMENTS = [
    *[("config.json", 1), ("history.csv", 1), ("checkpoint.pt", 1)],
    *[("history.csv", 2), ("checkpoint.pt", 2), ("history.csv", 3)],
    *[("checkpoint.pt", 3), ("val.npz", 1), ("test.npz", 1)],
    *[("provenance.json", 1), ("metrics.json", 1)],
]


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def spawn(dying):
    """Start `fit` in a process of its own."""

    def start(experiment, out, moment=None):
        code = "train.fit(experiment, out)"
        return dying(code, moment, experiment=experiment, out=out)

    return start


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return train.fit(TOY, tmp_path_factory.mktemp("unbroken") / "run").out


@pytest.fixture
def copied(unbroken, tmp_path):
    """A finished run that may be spoilt."""
    return shutil.copytree(unbroken, tmp_path / "run")


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """A trunk that a SharpBalance run has left."""
    folder = tmp_path_factory.mktemp("trunks")
    train.fit(TOY, tmp_path_factory.mktemp("first") / "run", trunks=folder)
    (path,) = folder.iterdir()
    return path


def toy(**settings):
    return dataclasses.replace(TOY, train=dataclasses.replace(TOY.train, **settings))


def metrics(out):
    return (out / "metrics.json").read_bytes()


def counted(monkeypatch):
    """Epochs that are really trained from now on."""
    epochs, real = [], train.train_epoch
    monkeypatch.setattr(
        train, "train_epoch", lambda s, *rest: (epochs.append(s.epoch), real(s, *rest))
    )
    return epochs


def interrupt(*_):
    raise KeyboardInterrupt


def same_runs(a, b):
    """Bit for bit: weights, statistics, history, metrics."""
    states = zip(a.members, b.members, strict=True)
    return (
        metrics(a.out) == metrics(b.out)
        and a.history.equals(b.history)
        and all(
            torch.equal(x, y)
            for p, q in states
            for x, y in zip(p.state_dict().values(), q.state_dict().values())
        )
    )


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_a_run_ends_with_the_unbroken_ones_numbers(
    spawn, unbroken, tmp_path, moment
):
    process = spawn(TOY, tmp_path, moment)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "metrics.json").exists()
    train.fit(TOY, tmp_path)
    assert metrics(tmp_path) == metrics(unbroken)
    for name in ("val.npz", "test.npz", "history.csv"):
        assert (tmp_path / name).read_bytes() == (unbroken / name).read_bytes()


def test_the_moments_are_all_there_are(unbroken, tmp_path, monkeypatch):
    moved, real = [], os.replace

    def watched(source, target):
        moved.append(os.path.basename(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", watched)
    train.fit(TOY, tmp_path)
    assert moved == [name for name, _ in MOMENTS]
    assert metrics(tmp_path) == metrics(unbroken)


def test_killed_from_outside_whenever_it_happens(spawn, tmp_path):
    """SIGKILL soon after the first checkpoint is seen, wherever the run is then."""
    longer = toy(epochs=25)
    whole = train.fit(longer, tmp_path / "whole").out
    out = tmp_path / "killed"
    process = spawn(longer, out)
    deadline = time.monotonic() + 60
    while not (out / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert (out / "checkpoint.pt").exists()
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "metrics.json").exists()
    train.fit(longer, out)
    assert metrics(out) == metrics(whole)


def test_resuming_trains_only_what_is_missing(tmp_path, monkeypatch):
    epochs = counted(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(train, "_finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train.fit(TOY, tmp_path)
    train.fit(TOY, tmp_path)
    assert epochs == [0, 1, 2]


VARIANTS = [
    {"method": "sam"},
    {"method": "sharpbalance", "split": "random", "sam_fraction": 0.3},
]


@pytest.mark.parametrize("first", [0, 1])
def test_runs_with_a_shared_trunk_equal_runs_without(tmp_path, monkeypatch, first):
    """Bit for bit; the second trains only the epochs after T_d = 1."""
    trunks = tmp_path / "trunks"
    for which, trained in ((first, [0, 1, 2]), (1 - first, [1, 2])):
        with monkeypatch.context() as patch:
            epochs = counted(patch)
            experiment = toy(**VARIANTS[which])
            shared = train.fit(experiment, tmp_path / f"s{which}", trunks=trunks)
        assert epochs == trained
        assert same_runs(shared, train.fit(experiment, tmp_path / f"a{which}"))
    assert len(list(trunks.iterdir())) == 1


@pytest.mark.parametrize(
    "settings",
    [{"seed": 1}, {"rho": 0.05}, {"warmup_epochs": 2}, {"lr": 0.05}, {"method": "sgd"}],
)
def test_a_trunk_is_not_used_by_runs_that_differ_before_the_split(
    trunk, tmp_path, monkeypatch, settings
):
    epochs = counted(monkeypatch)
    monkeypatch.setattr(train, "_finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.fit(toy(**settings), tmp_path, trunks=trunk.parent)
    assert epochs == [0, 1, 2]


def broken(path, how):
    content = path.read_bytes()
    altered = bytearray(content)
    altered[len(content) // 3] ^= 4
    path.write_bytes(content[: len(content) // 2] if how == "cut" else bytes(altered))


@pytest.mark.parametrize("how", ["cut", "altered"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_broken_checkpoint_is_named_and_not_overwritten(copied, how, finished):
    if not finished:
        (copied / "metrics.json").unlink()
    broken(copied / "checkpoint.pt", how)
    before = {p: p.read_bytes() for p in copied.iterdir()}
    message = r"checkpoint\.pt was cut short or altered .*; delete .* again"
    with pytest.raises(ValueError, match=message):
        train.fit(TOY, copied)
    assert {p: p.read_bytes() for p in copied.iterdir()} == before


def test_following_the_advice_for_a_broken_checkpoint_works(unbroken, copied):
    (copied / "metrics.json").unlink()
    (copied / "checkpoint.pt").unlink()
    train.fit(TOY, copied)
    assert metrics(copied) == metrics(unbroken)


def test_a_broken_trunk_is_named(trunk, tmp_path):
    copy = shutil.copytree(trunk.parent, tmp_path / "trunks") / trunk.name
    broken(copy, "altered")
    with pytest.raises(ValueError, match=f"{copy.name} was cut short or altered"):
        train.fit(toy(method="sam"), tmp_path / "run", trunks=copy.parent)


def test_a_broken_config_is_named(copied):
    broken(copied / "config.json", "cut")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON.*delete"):
        train.fit(TOY, copied)


def test_a_diverging_run_keeps_its_last_good_checkpoint(tmp_path):
    """A huge learning rate in epoch 2; the checkpoint after epoch 1 still loads."""
    wild = toy(method="sgd", lr=1e-3, lr_decay=1e40, milestones=(2,))
    message = r"epoch 2, (step \d+, )?learning rate 1e\+37; lower lr"
    with pytest.raises(FloatingPointError, match=message):
        train.fit(wild, tmp_path)
    splits = data.load(TOY.data)
    last = state.fresh(wild, train._about(splits.train))
    last.restore(tmp_path / "checkpoint.pt")
    assert last.epoch == 2
    assert all(p.isfinite().all() for p in last.params.values())
    assert not (tmp_path / "metrics.json").exists()
    with pytest.raises(FloatingPointError, match=message):  # and again
        train.fit(wild, tmp_path)


def mounted(folder, size):
    folder.mkdir(exist_ok=True)
    remount = ",remount" if os.path.ismount(folder) else ""
    options = ["-o", f"size={size}{remount}"]
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tiny disk is not permitted here")


def test_a_disk_that_fills_up_keeps_what_was_saved(unbroken, tmp_path):
    """One checkpoint fits, a second one beside it does not. Then there is space."""
    one = (unbroken / "checkpoint.pt").stat().st_size
    out = tmp_path / "disk"
    mounted(out, one + 20_000)
    try:
        with pytest.raises(OSError, match=r"disk full: .* do not fit.*checkpoint\.pt"):
            train.fit(TOY, out)
        kept = files.load_tensors(out / "checkpoint.pt", "")
        assert kept["epoch"] == 1
        mounted(out, 100_000_000)
        train.fit(TOY, out)
        assert metrics(out) == metrics(unbroken)
    finally:
        subprocess.run(["umount", str(out)], check=True)


def test_other_images_under_the_same_name_are_noticed(tmp_path, monkeypatch):
    load = data.load
    interrupted = dataclasses.replace(TOY.train, method="sgd")
    experiment = dataclasses.replace(TOY, train=interrupted)
    train.fit(experiment, tmp_path)
    (tmp_path / "metrics.json").unlink()

    def changed(config):
        splits = load(config)
        part = splits.train
        other = data.Split(255 - part.images, part.labels, part.classes)
        return splits._replace(train=other)

    monkeypatch.setattr(data, "load", changed)
    with pytest.raises(ValueError, match=r"checkpoint\.pt was trained on other images"):
        train.fit(experiment, tmp_path)


def test_a_lost_checkpoint_is_said(tmp_path):
    train.fit(TOY, tmp_path)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match=r"has lost its checkpoint\.pt"):
        train.load_run(tmp_path)


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="is a file; a run needs a folder"):
        train.fit(TOY, tmp_path / "run")


def test_starting_again_removes_nothing_before_the_data_are_there(tmp_path):
    train.fit(TOY, tmp_path)
    before = (tmp_path / "metrics.json").read_bytes()
    lost = dataclasses.replace(TOY, data=DataConfig(name="no-such-data"))
    with pytest.raises(ValueError, match="unknown data set 'no-such-data'"):
        train.fit(lost, tmp_path, resume=False)
    assert (tmp_path / "metrics.json").read_bytes() == before


def test_leftovers_of_a_kill_are_removed(tmp_path):
    (tmp_path / ".checkpoint.pt.abc").write_text("half")
    train.fit(TOY, tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_run_is_named_in_the_table(tmp_path):
    from sbtutor import results

    train.fit(TOY, tmp_path / "run")
    (tmp_path / "run" / "provenance.json").unlink()
    with pytest.raises(ValueError, match="run is no run that this version can read"):
        results.table(tmp_path)
