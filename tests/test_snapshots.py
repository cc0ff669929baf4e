"""Snapshots: the weights after each epoch, cheap, whole, and in the right order."""

import copy
import dataclasses
import shutil

import jaxtyping
import pytest
import torch
from torch import nn

from sbtutor import config, data, snapshots, train
from sbtutor.config import DataConfig, Experiment, ModelConfig, TrainConfig
from sbtutor.files import BrokenFileError
from sbtutor.predict import predict

EPOCHS = 3
TOY = Experiment(
    data=DataConfig(name="digits", limit=100),
    model=ModelConfig(name="small_cnn", width=2),
    train=TrainConfig(
        members=2,
        epochs=EPOCHS,
        batch_size=25,
        milestones=(2,),
        device="cpu",
        snapshots=True,
    ),
)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBTUTOR_PROGRESS", "off")
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train.fit(TOY, tmp_path_factory.mktemp("snapshots") / "run")


def varied(**settings):
    return dataclasses.replace(TOY, train=dataclasses.replace(TOY.train, **settings))


def vector(member):
    return torch.cat([p.detach().reshape(-1) for p in member.parameters()])


def test_the_last_snapshot_is_the_trained_member_to_half_a_unit_of_float16(run):
    found = snapshots.points(run.out)
    assert found.dtype == torch.float32
    assert found.shape == (
        2,
        EPOCHS,
        sum(p.numel() for p in run.members[0].parameters()),
    )
    for member, trajectory in zip(run.members, found, strict=True):
        error = (trajectory[-1] - vector(member)).abs()
        assert (error <= vector(member).abs() * 2**-11 + 2**-25).all()


def test_an_early_snapshot_is_what_fewer_epochs_of_training_give(run, tmp_path):
    early = train.fit(varied(epochs=2), tmp_path / "early")
    torch.testing.assert_close(
        snapshots.points(run.out)[:, :2], snapshots.points(early.out)
    )


def test_members_at_an_epoch_have_its_statistics_too(run):
    """BatchNorm's own buffers come back: predictions are the trained members'."""
    before = [vector(member) for member in run.members]
    first, last = (
        snapshots.members_at(run.out, run.members, e) for e in (0, EPOCHS - 1)
    )
    test = data.load(TOY.data).test
    now, back, old = (predict(nets, test).logits for nets in (run.members, last, first))
    torch.testing.assert_close(back, now, rtol=0.01, atol=0.01)
    assert not torch.allclose(old, now, atol=0.1)
    assert last[0].norm1.num_batches_tracked == run.members[0].norm1.num_batches_tracked
    after = [vector(member) for member in run.members]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_forty_epochs_of_the_class_model_fit_in_50_megabytes(tmp_path):
    """One epoch's file of three members, forty times."""
    base = config.preset("class")
    few = dataclasses.replace(base.data, limit=100)
    once = dataclasses.replace(base.train, epochs=1, snapshots=True, device="cpu")
    made = dataclasses.replace(base, data=few, train=once)
    run = train.fit(made, tmp_path / "run")
    written = [path.stat().st_size for path in (run.out / "snapshots").iterdir()]
    assert len(written) == 1
    assert 40 * written[0] < 50e6


def test_a_run_without_snapshots_says_so(tmp_path):
    run = train.fit(varied(snapshots=False, epochs=1), tmp_path / "run")
    assert not (run.out / "snapshots").exists()
    with pytest.raises(ValueError, match=r"no snapshots; train with TrainConfig\(snap"):
        snapshots.points(run.out)


def test_a_resumed_run_has_the_snapshots_of_an_unbroken_one(run, tmp_path, monkeypatch):
    """The run dies after the second epoch's snapshot, before its checkpoint."""
    save = train.State.save

    def dying(state, path):
        if state.epoch == 2:
            raise KeyboardInterrupt
        save(state, path)

    out = tmp_path / "run"
    monkeypatch.setattr(train.State, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        train.fit(TOY, out)
    assert snapshots.epochs(out) == 2
    monkeypatch.setattr(train.State, "save", save)
    train.fit(TOY, out)
    assert torch.equal(snapshots.points(out), snapshots.points(run.out))


def test_training_again_from_the_start_leaves_no_old_snapshots(run, tmp_path):
    out = shutil.copytree(run.out, tmp_path / "run")
    train.fit(varied(epochs=1), out, resume=False)
    assert snapshots.epochs(out) == 1


def test_runs_that_share_a_trunk_have_all_their_snapshots(tmp_path):
    """With snapshots nothing is shared: the trunk would lack the first epochs'."""
    for rho in (0.1, 0.2):
        sam = varied(method="sam", rho=rho, warmup_epochs=1)
        run = train.fit(sam, tmp_path / str(rho), trunks=tmp_path / "trunks")
        assert snapshots.epochs(run.out) == EPOCHS
    assert not (tmp_path / "trunks").exists()


def test_a_missing_and_a_broken_snapshot_are_named(run, tmp_path):
    out = shutil.copytree(run.out, tmp_path / "run")
    path = out / "snapshots" / "0001.pt"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BrokenFileError, match=r"0001\.pt was cut .*train it again"):
        snapshots.points(out)
    path.unlink()
    with pytest.raises(ValueError, match=r"lost the snapshots of epochs \[1\]"):
        snapshots.points(out)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (
            [0, 1],
            r"lost the snapshots of epochs \[2\]; delete the folder and train it a",
        ),
        ([], r"lost the snapshots of epochs \[0, 1, 2\]; delete the folder"),
    ],
)
def test_a_finished_run_misses_its_last_snapshots_too(run, tmp_path, kept, message):
    """By its own `config.json`; a run in training has fewer, and may have none yet."""
    out = shutil.copytree(run.out, tmp_path / "run")
    for path in (out / "snapshots").iterdir():
        if int(path.stem) not in kept:
            path.unlink()
    with pytest.raises(ValueError, match=message):
        snapshots.points(out)
    (out / "metrics.json").unlink()
    if kept:
        assert snapshots.epochs(out) == len(kept)
    else:
        with pytest.raises(ValueError, match="still in training and holds no snapsh"):
            snapshots.epochs(out)


@pytest.mark.parametrize("name", ["notes.pt", "1.pt", "0009 (copy).pt", "\u0661.pt"])
def test_other_files_do_not_disturb(run, tmp_path, name):
    out = shutil.copytree(run.out, tmp_path / "run")
    (out / "snapshots" / name).write_bytes(b"")
    assert snapshots.epochs(out) == EPOCHS


def test_snapshots_can_be_read_without_their_run(run, tmp_path):
    shutil.copytree(run.out / "snapshots", tmp_path / "snapshots")
    assert torch.equal(snapshots.points(tmp_path), snapshots.points(run.out))
    (tmp_path / "snapshots" / "0002.pt").unlink()
    assert snapshots.epochs(tmp_path) == 2  # nothing tells that there was a third


def test_the_rounding_of_a_snapshot(tmp_path):
    """Half a unit of float16: 2^-11 of the weight, 2^-25 below 2^-14; both are met."""
    worst = torch.tensor([1 + 2**-11, 2**-24 + 2**-25, 2**-25])
    draw = torch.Generator().manual_seed(0)
    exponents = torch.randint(-40, 15, (10_000,), generator=draw)
    weights = (1 + torch.rand(10_000, generator=draw)) * 2.0**exponents
    weights = torch.cat([worst, weights])[None]
    snapshots.save(tmp_path, 0, {"w": weights}, {})
    error = (snapshots.points(tmp_path)[:, 0] - weights).abs()
    assert (error <= (weights * 2**-11).clamp(min=2**-25)).all()
    assert error[0, :3].tolist() == [2**-11, 2**-25, 2**-25]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_members_is_refused(run, count):
    given = (run.members * 2)[:count]
    with pytest.raises(ValueError, match=f"snapshots of 2 members, got {count}; give"):
        snapshots.members_at(run.out, given, 0)


def replaced(member, name, layer):
    changed = copy.deepcopy(member)
    setattr(changed, name, layer)
    return changed


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("extra", nn.Linear(1, 1), r"extra.bias is \(1,\) here, missing there"),
        ("norm1", nn.Identity(), r"norm1.bias is missing here, \(2,\) there"),
        ("norm1", nn.BatchNorm2d(1), r"norm1.bias is \(1,\) here, \(2,\) there"),
        ("norm1", nn.GroupNorm(1, 2), r"norm1.num_batches_tracked is missing here, \("),
    ],
)
def test_members_of_another_architecture_are_refused(run, name, layer, message):
    """A tensor of size 1 would be broadcast, one that is missing left as it is."""
    others = [run.members[0], replaced(run.members[1], name, layer)]
    with pytest.raises(ValueError, match=f"member 1 is of another.*: {message}.*; giv"):
        snapshots.members_at(run.out, others, 0)


@pytest.mark.parametrize("epoch", [-1, EPOCHS])
def test_an_epoch_that_was_not_trained_is_refused(run, epoch):
    with pytest.raises(ValueError, match=f"from 0 to {EPOCHS - 1}, got {epoch}"):
        snapshots.members_at(run.out, run.members, epoch)


def test_a_weight_too_large_for_float16_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(FloatingPointError, match="after epoch 7 is too large for a sn"):
        snapshots.save(tmp_path, 7, {"w": torch.tensor([1e5])}, {})
    assert not list(tmp_path.iterdir())
