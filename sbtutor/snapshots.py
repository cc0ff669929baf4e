"""The weights after each epoch: an ensemble's trajectories, kept cheaply."""

import copy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sbtutor import files, results

FOLDER = "snapshots"  # inside a run folder, one file an epoch
Tensors = dict[str, Tensor]


def _path(run: Path | str, epoch: int) -> Path:
    return Path(run) / FOLDER / f"{epoch:04d}.pt"


def save(run: Path, epoch: int, params: Tensors, buffers: Tensors) -> None:
    """Keep all members' weights after an epoch, rounded to float16.

    Two bytes a weight, off by half a unit of float16: at most 2^-11 of the weight, or
    2^-25 for a tiny one (below 2^-14). BatchNorm's statistics, few but of any size,
    keep their type.

    Raises:
        FloatingPointError: a weight beyond float16's 65,504.
    """
    half = {name: p.detach().to(torch.float16) for name, p in params.items()}
    if not all(p.isfinite().all() for p in half.values()):
        raise FloatingPointError(
            f"a weight after epoch {epoch} is too large for a snapshot (float16 ends "
            "at 65,504): lower lr, or train with snapshots=False"
        )
    files.save_tensors(_path(run, epoch), {"params": half, "buffers": buffers})


def _load(path: Path) -> dict[str, Tensors]:
    return files.load_tensors(path, "delete the run's folder and train it again")


def epochs(run: Path | str) -> int:
    """How many epochs' snapshots a run folder holds.

    All of its `config.json` for a finished run, those so far for one in training.

    Raises:
        ValueError: none, or one is missing.
    """
    found = {
        int(path.stem)
        for path in (Path(run) / FOLDER).glob("*.pt")
        if path.stem.isdecimal() and path == _path(run, int(path.stem))
    }
    wanted = max(found, default=-1) + 1
    if (Path(run) / "config.json").exists():
        config = results.load_experiment(run).train
        if config.snapshots and results.is_complete(run):
            wanted = config.epochs
        elif config.snapshots and not found:
            raise ValueError(
                f"{run} is still in training and holds no snapshots yet; go on with "
                "train.fit(experiment, out)"
            )
    if not wanted:
        raise ValueError(
            f"{run} holds no snapshots; train with TrainConfig(snapshots=True)"
        )
    missing = sorted(set(range(wanted)) - found)
    if missing:
        raise ValueError(
            f"{run} has lost the snapshots of epochs {missing}; delete the folder and "
            "train it again"
        )
    return wanted


def points(run: Path | str) -> Float[Tensor, "M T P"]:
    """Every member's trajectory: all P weights as one vector, after each of T epochs.

    Weights stand in the order of `named_parameters`, as in `stack.points_of`.

    Args:
        run: the folder of a run that was trained with `TrainConfig(snapshots=True)`.

    Returns:
        float32, on the CPU: M members, T epochs.

    Raises:
        ValueError: as `epochs`; a damaged file.
    """
    rows = []
    for epoch in range(epochs(run)):
        params = _load(_path(run, epoch))["params"]
        rows.append(torch.cat([p.flatten(1) for p in params.values()], dim=1))
    return torch.stack(rows, dim=1).float().cpu()


def members_at(
    run: Path | str, members: list[nn.Module], epoch: int
) -> list[nn.Module]:
    """The members as they were after an epoch, counted from 0.

    Args:
        run: as in `points`.
        members: the run's members, which are left as they are.
        epoch: from 0 to the last.

    Raises:
        ValueError: as `epochs`; an epoch that the run does not have; another number of
            members, or of another architecture.
    """
    last = epochs(run) - 1
    if not 0 <= epoch <= last:
        raise ValueError(f"epochs run from 0 to {last}, got {epoch}")
    saved = _load(_path(run, epoch))
    saved = saved["params"] | saved["buffers"]
    made = [copy.deepcopy(member) for member in members]
    _check_members(run, made, saved)
    with torch.no_grad():
        for m, member in enumerate(made):
            for name, own in _tensors(member).items():
                own.copy_(saved[name][m])
    return made


def _tensors(member: nn.Module) -> Tensors:
    return dict(member.named_parameters()) | dict(member.named_buffers())


def _check_members(run: Path | str, members: list[nn.Module], saved: Tensors) -> None:
    count = len(next(iter(saved.values())))
    if len(members) != count:
        raise ValueError(
            f"{run} holds snapshots of {count} members, got {len(members)}; give all "
            "of train.load_run(run).members"
        )
    there = {name: tuple(tensor.shape[1:]) for name, tensor in saved.items()}
    for m, member in enumerate(members):
        here = {name: tuple(own.shape) for name, own in _tensors(member).items()}
        differing = sorted(dict(here.items() ^ there.items()))
        if differing:
            name = differing[0]
            raise ValueError(
                f"member {m} is of another architecture than the snapshots of {run}: "
                f"{name} is {here.get(name, 'missing')} here, "
                f"{there.get(name, 'missing')} there; give train.load_run(run).members"
            )
