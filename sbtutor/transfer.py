"""Pre-train, fine-tune, and stay in the pre-train basin or leave it.

Sadrtdinov, Pozdeev, Vetrov, Lobacheva 2023: "To stay or not to stay in the pre-train
basin: insights on ensembling in transfer learning".
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sbtutor import data, models
from sbtutor.basin import barrier, greedy_soup, soup, soups, straight_line
from sbtutor.batches import stream
from sbtutor.config import ModelConfig, TrainConfig
from sbtutor.cycles import Task, train
from sbtutor.recipe import Recipe
from sbtutor.snapshot_ensembles import (
    EPOCH_FACTORS,
    LR_FACTORS,
    budget,
    grid,
    learning_rates,
    scaled,
    sse,
    star_sse,
    swag_ensemble,
    trajectory,
)

__all__ = [
    "EPOCH_FACTORS",
    "LR_FACTORS",
    "Recipe",
    "barrier",
    "budget",
    "fine_tune",
    "greedy_soup",
    "grid",
    "learning_rates",
    "pretrain",
    "scaled",
    "soup",
    "soups",
    "sse",
    "star_sse",
    "straight_line",
    "swag_ensemble",
    "trajectory",
    "with_head",
]

Members = list[nn.Module]


def pretrain(
    model: ModelConfig,
    split: data.Split,
    config: TrainConfig,
    seeds: Sequence[int],
    out: Path | str | None = None,
    jobs: int | None = None,
) -> Members:
    """One checkpoint a seed: a network of its own first weights, trained on the source.

    Args:
        model: the architecture.
        split: the source task's training images.
        config: one training; each seed replaces `config.seed`.
        seeds: of first weights and data order, one a checkpoint.
        out: where the checkpoints are kept, as in `cycles.train`.
        jobs: processes at once.

    Raises:
        ValueError, FloatingPointError, RuntimeError, OSError: as `cycles.train`.
    """
    tasks = []
    for seed in seeds:
        network = models.build(model, split.images.shape[1:], len(split.classes), seed)
        network.normalize.set(*data.channel_statistics(split.images))
        tasks.append(Task(network, replace(config, seed=seed)))
    found = train(tasks, split, out, jobs, "pre-training")
    return [each.networks[-1] for each in found]


def with_head(model: nn.Module, classes: int, seed: int) -> nn.Module:
    """A copy whose last linear layer is a new one, for another number of classes.

    The new weights are PyTorch's default for linear layers; the rest of the network,
    BatchNorm's running statistics too, stays as it is.

    Args:
        model: a classifier; its last `nn.Linear` is its head.
        classes: of the target task, 2 or more.
        seed: decides the new weights.

    Raises:
        ValueError: a model without a linear layer; fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    made = copy.deepcopy(model)
    linear = [k for k, layer in made.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError(
            f"a {type(model).__name__} without a linear layer has no head to replace"
        )
    path, _, leaf = linear[-1].rpartition(".")
    old = made.get_submodule(linear[-1])
    with torch.random.fork_rng(devices=[]):
        seed = stream(int(seed), "head").initial_seed()
        torch.random.default_generator.manual_seed(seed)
        head = nn.Linear(old.in_features, classes, old.bias is not None)
    head = head.to(old.weight).train(old.training)
    setattr(made.get_submodule(path), leaf, head)
    return made


def fine_tune(
    checkpoints: Members,
    split: data.Split,
    config: TrainConfig,
    out: Path | str | None = None,
    jobs: int | None = None,
    recipe: Recipe | None = None,
) -> Members:
    """One member a checkpoint: a new head, then all weights trained on the target.

    The same checkpoint M times is a Local DE, M checkpoints are a Global DE. Member m
    draws its head and its data order from `config.seed` + m.

    Args:
        checkpoints: M pre-trained networks; left as they are.
        split: the target task's training images.
        config: one fine-tuning.
        out: where members are kept, as in `cycles.train`.
        jobs: processes at once.
        recipe: warm-up, smoothing and clipping, for large networks.

    Raises:
        ValueError, FloatingPointError, RuntimeError, OSError: as `cycles.train`.
    """
    tasks = []
    for m, checkpoint in enumerate(checkpoints):
        seed = config.seed + m
        start = with_head(checkpoint, len(split.classes), seed)
        tasks.append(Task(start, replace(config, seed=seed), 1, recipe or Recipe()))
    found = train(tasks, split, out, jobs, "fine-tuning")
    return [each.networks[-1] for each in found]
