"""A target task: its images, and what an ensemble that was fine-tuned to it is like."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from sbtutor import basin, data, diversity, evaluate, paths
from sbtutor.predict import Predictions, predict


class Target(NamedTuple):
    """The target's splits, and training images for BatchNorm's statistics."""

    train: data.Split
    val: data.Split
    test: data.Split
    refresh: data.Split


def split_classes(
    whole: data.Splits, names: Sequence[str], count: int | None, seed: int
) -> tuple[data.Split, data.Splits]:
    """The source task's training images, and all images of the target task.

    Args:
        whole: a data set.
        names: the target's classes, two or more; the others are the source.
        count: class-balanced training images of the target; None is all.
        seed: decides which.

    Raises:
        ValueError: fewer than two classes on one side, or unknown ones; more images
            than there are.
    """
    others = [name for name in whole.train.classes if name not in names]
    source = data.only(whole.train, others)
    train, val, test = (data.only(split, names) for split in whole)
    if count is not None:
        train = data.subset(train, count, seed)
    return source, data.Splits(train, val, test)


def barriers(
    pairs: list[tuple[nn.Module, nn.Module]], target: Target, part: str = "train"
) -> list[dict[str, float]]:
    """Of each pair, in nats and in accuracy, on the images of one part."""
    rows = []
    for a, b in pairs:
        where = getattr(target, part)
        line = basin.straight_line(a, b, where, refresh=target.refresh)
        t = torch.linspace(0, 1, len(line.loss))
        chord = torch.lerp(line.accuracy[0], line.accuracy[-1], t)
        barrier = float(paths.barrier(line.loss))
        accuracy = float((chord - line.accuracy).max())
        rows.append({"barrier": barrier, "accuracy_barrier": accuracy})
    return rows


def _single(network: nn.Module, split: data.Split) -> dict[str, float]:
    found = evaluate.predictions_row(predict([network], split))
    return {name: found[name] for name in ("accuracy", "nll")}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def ensemble_row(members: list[nn.Module], target: Target) -> dict[str, float]:
    """How good, how different, and in how many basins M members are.

    Returns:
        `val_*` and `test_*`: `evaluate.predictions_row`, for test images
        `test_normalized_disagreement`, too; `first_*`, accuracy and NLL of the first
        member on test images; `soup_*`, of the uniform soup, and `soup_val_accuracy`;
        `refreshed_member_*`, the mean member with BatchNorm's statistics from the same
        images as the soup's, which is what a soup compares with; `barrier` and
        `accuracy_barrier`, the mean over the lines from the first member to the
        others, on the target's training images.
    """
    row = {}
    for part in ("val", "test"):
        seen = predict(members, getattr(target, part))
        found = evaluate.predictions_row(seen)
        row |= {f"{part}_{name}": value for name, value in found.items()}
    row["test_normalized_disagreement"] = float(
        diversity.normalized_disagreement(seen.logits, seen.labels)
    )
    first = evaluate.predictions_row(Predictions(seen.logits[:1], seen.labels))
    row |= {f"first_{name}": first[name] for name in ("accuracy", "nll")}
    soup = basin.soup(members, target.refresh)
    row |= {f"soup_{name}": v for name, v in _single(soup, target.test).items()}
    row["soup_val_accuracy"] = _single(soup, target.val)["accuracy"]
    refreshed = [basin.soup([member], target.refresh) for member in members]
    own = _mean([_single(network, target.test) for network in refreshed])
    row |= {f"refreshed_member_{name}": value for name, value in own.items()}
    return row | _mean(barriers([(members[0], other) for other in members[1:]], target))
