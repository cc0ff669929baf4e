"""Snapshot ensembles in transfer learning: SSE, StarSSE, and what SWA averages."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sbtutor import data, stack, subspace
from sbtutor.config import TrainConfig
from sbtutor.cycles import Task, Trained, train
from sbtutor.recipe import Recipe, learning_rate

# Of the fine-tuning's learning rate and epochs, as in the published scripts.
LR_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
EPOCH_FACTORS = (0.5, 1.0, 2.0, 4.0)
Members = list[nn.Module]


def learning_rates(
    fine: TrainConfig, cycle: TrainConfig, members: int, recipe: Recipe | None = None
) -> list[float]:
    """The learning rate of every epoch of fine-tuning and members - 1 cycles.

        e < E:  lr (1 + cos(pi e / E)) / 2
        else:   lr_c (1 + cos(pi c / E_c)) / 2,   c = (e - E) mod E_c

    for epochs counted from 0, with E and lr of `fine`, E_c and lr_c of `cycle`, both
    with schedule "cosine". A warm-up comes at the start of each.
    """
    parts = [fine, *[cycle] * (members - 1)]
    how = recipe or Recipe()
    return [learning_rate(part, how, e) for part in parts for e in range(part.epochs)]


def budget(fine: TrainConfig, cycle: TrainConfig, members: int) -> int:
    """Epochs that M members take: E + (M - 1) E_c. (A Local DE takes M E.)"""
    return fine.epochs + (members - 1) * cycle.epochs


def scaled(config: TrainConfig, lr: float = 1.0, epochs: float = 1.0) -> TrainConfig:
    """The config of a cycle with other learning rate and length, as factors.

    Lengths are rounded down, as in the published scripts, but to 1 at least.

    Raises:
        ValueError: a factor that is not positive, or infinite.
    """
    if not (0 < lr < math.inf and 0 < epochs < math.inf):
        raise ValueError(
            f"factors must be positive and finite, got lr={lr}, epochs={epochs}; 1 "
            "changes nothing"
        )
    length = max(1, int(config.epochs * epochs))
    return replace(config, lr=config.lr * lr, epochs=length)


def _tasks(
    method: str,
    first: nn.Module,
    cycle: TrainConfig,
    members: int,
    limit: int | None,
    recipe: Recipe | None,
) -> list[Task]:
    """The cycles after the first model: one chain, or one cycle each."""
    if members < 2:
        raise ValueError(
            f"cycles add members to a first one, so members must be >= 2, got {members}"
        )
    if cycle.schedule != "cosine":
        raise ValueError(
            f"a cycle's learning rate falls as a cosine, got {cycle.schedule!r}; "
            "write TrainConfig(schedule='cosine', ...)"
        )
    if limit is not None and (members - 1) * cycle.epochs > limit:
        length = limit // (members - 1)
        shorter = f"cycles of {length} epochs or fewer, or " if length > 0 else ""
        raise ValueError(
            f"{members - 1} cycles of {cycle.epochs} epochs take "
            f"{(members - 1) * cycle.epochs}, more than the budget of {limit}; write "
            f"{shorter}fewer members"
        )
    how, after = recipe or Recipe(), replace(cycle, seed=cycle.seed + 1)
    if method == "sse":
        return [Task(first, after, members - 1, how)]
    seeds = range(after.seed, after.seed + members - 1)
    return [Task(first, replace(after, seed=seed), 1, how) for seed in seeds]


def _members(first: nn.Module, found: Sequence[Trained]) -> Members:
    return [first, *(network for each in found for network in each.networks)]


def sse(
    first: nn.Module,
    split: data.Split,
    cycle: TrainConfig,
    members: int = 5,
    out: Path | str | None = None,
    limit: int | None = None,
    recipe: Recipe | None = None,
) -> Members:
    """A snapshot ensemble: each member starts a cycle where the one before ended.

    Huang et al. 2017, as Sadrtdinov et al. 2023 use it: the learning rate jumps to
    `cycle.lr` and falls as a cosine, with a new optimizer for each cycle.

    Args:
        first: the fine-tuned model 1, a member itself.
        split: the target task's training images.
        cycle: one cycle, schedule "cosine"; member m (from 0) uses seed + m.
        members: M >= 2.
        out: where the ends of cycles are kept, as in `cycles.train`.
        limit: the budget, in epochs of all cycles together; None is none.
        recipe: warm-up, smoothing and clipping, for large networks.

    Returns:
        M members; the first is `first` itself.

    Raises:
        ValueError: cycles longer than the budget; fewer than 2 members; another
            schedule; as `cycles.train`.
        FloatingPointError, RuntimeError, OSError: as `cycles.train`.
    """
    tasks = _tasks("sse", first, cycle, members, limit, recipe)
    return _members(first, train(tasks, split, out, 1, "SSE"))


def star_sse(
    first: nn.Module,
    split: data.Split,
    cycle: TrainConfig,
    members: int = 5,
    out: Path | str | None = None,
    limit: int | None = None,
    recipe: Recipe | None = None,
    jobs: int | None = None,
) -> Members:
    """A star: each member after the first starts its cycle from the first model.

    Sadrtdinov et al. 2023. Arguments, results and errors are those of `sse`; its
    second member and ours are the same. The cycles do not depend on each other and run
    side by side, `jobs` at once (None takes all cores).
    """
    tasks = _tasks("star", first, cycle, members, limit, recipe)
    return _members(first, train(tasks, split, out, jobs, "StarSSE"))


def grid(
    method: str,
    first: nn.Module,
    split: data.Split,
    fine: TrainConfig,
    members: int = 5,
    lr_factors: Sequence[float] = LR_FACTORS,
    epoch_factors: Sequence[float] = EPOCH_FACTORS,
    out: Path | str | None = None,
    jobs: int | None = None,
    recipe: Recipe | None = None,
) -> Mapping[tuple[float, float], Members]:
    """Ensembles of all cycles of a grid, by (factor of lr, factor of epochs).

    Args:
        method: "sse" or "star".
        first: model 1.
        split: the target task's training images.
        fine: the fine-tuning, whose learning rate and epochs the factors multiply.
        members: M >= 2.
        lr_factors: of the cycles' learning rate.
        epoch_factors: of their length.
        out: where the ends of cycles are kept, as in `cycles.train`.
        jobs: processes at once.
        recipe: warm-up, smoothing and clipping, for large networks.

    Raises:
        ValueError: another method; a factor that is not positive; as `sse`.
        FloatingPointError, RuntimeError, OSError: as `cycles.train`.
    """
    if method not in ("sse", "star"):
        raise ValueError(f"unknown method {method!r}: write 'sse' or 'star'")
    cells = [(lr, epochs) for lr in lr_factors for epochs in epoch_factors]
    each = [
        _tasks(method, first, scaled(fine, *cell), members, None, recipe)
        for cell in cells
    ]
    flat = [task for tasks in each for task in tasks]
    found = iter(train(flat, split, out, jobs, f"{method}, {len(cells)} cycles"))
    return {
        cell: _members(first, [next(found) for _ in tasks])
        for cell, tasks in zip(cells, each)
    }


def trajectory(
    first: nn.Module,
    split: data.Split,
    config: TrainConfig,
    out: Path | str | None = None,
) -> Members:
    """The networks after each of `config.epochs` epochs at the same learning rate.

    What SWA averages (their `soup`) and SWAG spreads samples over: Izmailov et al.
    2018, Maddox et al. 2019. Each epoch starts with a new optimizer, as a cycle does.

    Args:
        first: where training goes on from; not among the networks.
        split: the target task's training images.
        config: its `lr` stays as it is, whatever the schedule; epoch e uses seed + e.
        out: where the networks are kept, as in `cycles.train`.

    Raises:
        ValueError, FloatingPointError, OSError: as `cycles.train`.
    """
    one = replace(config, epochs=1, schedule="multistep", milestones=())
    (found,) = train([Task(first, one, config.epochs)], split, out, 1, "trajectory")
    return found.networks


def swag_ensemble(
    networks: Members,
    split: data.Split,
    members: int,
    scale: float,
    generator: torch.Generator,
) -> Members:
    """Members drawn around the mean of a trajectory (`subspace.swag`).

    BatchNorm's statistics are re-estimated for each, on the images of the split.

    Args:
        networks: T >= 2, from `trajectory`.
        split: training images.
        members: how many to draw, 1 or more.
        scale: s >= 0, the spread; 1 is Maddox et al.'s posterior.
        generator: draws the noise (CPU).

    Raises:
        ValueError: no members; as `subspace.swag`, `stack.points_of` and
            `stack.refreshed`.
    """
    if members < 1:
        raise ValueError(f"draw at least 1 member, got members={members}")
    spread = torch.full((members,), float(scale))
    drawn = subspace.swag(stack.points_of(networks), spread, generator)
    return [stack.refreshed(stack.model_at(networks[0], w), split) for w in drawn]
