"""The weights after each epoch: an ensemble's trajectories, kept cheaply."""

import copy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sbtutor import files

FOLDER = "snapshots"  # inside a run folder, one file an epoch
Tensors = dict[str, Tensor]


def _path(run: Path | str, epoch: int) -> Path:
    return Path(run) / FOLDER / f"{epoch:04d}.pt"


def save(run: Path, epoch: int, params: Tensors, buffers: Tensors) -> None:
    """Keep all members' weights after an epoch, rounded to float16.

    Two bytes a weight and a relative error of at most 2^-11; BatchNorm's statistics,
    few but of any size, keep their type.

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

    Raises:
        ValueError: none, or one of the first is missing.
    """
    found = sorted(int(path.stem) for path in (Path(run) / FOLDER).glob("*.pt"))
    if not found:
        raise ValueError(
            f"{run} holds no snapshots; train with TrainConfig(snapshots=True)"
        )
    missing = sorted(set(range(found[-1] + 1)) - set(found))
    if missing:
        raise ValueError(
            f"{run} has lost the snapshots of epochs {missing}; delete the folder and "
            "train it again"
        )
    return len(found)


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
        ValueError: as `epochs`; an epoch that the run does not have.
    """
    last = epochs(run) - 1
    if not 0 <= epoch <= last:
        raise ValueError(f"epochs run from 0 to {last}, got {epoch}")
    saved = _load(_path(run, epoch))
    made = [copy.deepcopy(member) for member in members]
    with torch.no_grad():
        for m, member in enumerate(made):
            for kind, get in (
                ("params", member.get_parameter),
                ("buffers", member.get_buffer),
            ):
                for name, tensor in saved[kind].items():
                    get(name).copy_(tensor[m])
    return made
