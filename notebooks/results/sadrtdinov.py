"""What `recompute.py transfer` measures: Sadrtdinov et al. 2023 in small.

For each source and target, and each seed: five checkpoints of the source task; five
networks from scratch, a Local DE and a Global DE of five on the target; SSE and StarSSE
of five for each cell of a grid of cycles; what SWA and SWAG make of a trajectory. Cells
are chosen on validation images.

Members after the first of SSE and StarSSE have been trained for longer than those of a
DE, with cycles that were tuned, which alone may make them better. So both kinds of DE
are also trained twice as long, and with twice the learning rate, and the best of the
three by validation NLL is "tuned".

Epochs and learning rate of fine-tuning were chosen with seed 900 among 20, 40 and 80
epochs and .02, .05, .1 and .2; those of training from scratch among as many and twice
as many epochs and .05, .1, .2 and .4. Validation accuracy was best with 80 epochs in
each case (CIFAR-10: 40 were taken, to save time), so fine-tuning has not converged. The
classes of fashion-mini and the network were chosen by hand among four and three, with
the same seed, so that pre-training is of use and networks lie in several basins.

Each seed draws target images of its own from the same few thousand; source, validation
and test images are the same for all. Member m of Local and Global DE, and cycle m, see
their images in the same order, and Local and Global DE have their first member in
common. BatchNorm's statistics are re-estimated on augmented training images, as
training sees them; losses on the line between networks are those of plain ones.
"""

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sbtutor import data, diversity, files, metrics, stack, transfer
from sbtutor.batches import augmented
from sbtutor.config import DataConfig, ModelConfig, TrainConfig
from sbtutor.predict import predict
from sbtutor.target import Target, barriers, split_classes

SIZE = 5  # members, as in the paper
LR_FACTORS = (0.25, 1.0, 2.0, 4.0, 8.0)  # the paper's but 0.5, and 8
EPOCH_FACTORS = (0.25, 0.5, 1.0)
DE_FACTORS = ((1.0, 1.0), (2.0, 1.0), (1.0, 2.0))  # of lr and epochs
SWA_LR_FACTORS = (0.1, 0.25, 0.5, 1.0)
SWA_EPOCHS = 20
SCALE = 1.0  # of SWAG's samples
MODEL = ModelConfig(name="resnet8", width=8)
METHODS = ("sse", "star")
PARTS = ("val", "test")
MOST_VAL, MOST_TEST = 1000, 2000  # images
COPIES = 2  # of each training image, for BatchNorm's statistics


@dataclass(frozen=True)
class Setting:
    """A source and a target task on one set of images."""

    data: DataConfig
    target: tuple[str, ...]  # classes; the others are the source
    source_images: int | None
    target_images: int
    pretraining: TrainConfig
    fine: TrainConfig
    scratch: TrainConfig


def cosine(**settings: Any) -> TrainConfig:
    """Plain steps of one network with a cosine schedule."""
    return TrainConfig(
        method="sgd", members=1, schedule="cosine", flip=True, **settings
    )


SETTINGS = {
    "fashion-mini": Setting(
        data=DataConfig(name="fashion-mini", size=14),
        target=("Pullover", "Shirt", "Dress", "Sandal", "Sneaker"),
        source_images=None,
        target_images=500,
        pretraining=cosine(epochs=20, lr=0.1, batch_size=50, crop=1),
        fine=cosine(epochs=80, lr=0.1, batch_size=50, crop=1),
        scratch=cosine(epochs=80, lr=0.2, batch_size=50, crop=1),
    ),
    "cifar10": Setting(
        data=DataConfig(name="cifar10", size=16),
        target=("airplane", "automobile", "ship", "truck"),
        source_images=15_000,
        target_images=1000,
        pretraining=cosine(epochs=20, lr=0.1, batch_size=50, crop=2),
        fine=cosine(epochs=40, lr=0.1, batch_size=50, crop=2),
        scratch=cosine(epochs=80, lr=0.2, batch_size=50, crop=2),
    ),
}
# Five and four were planned; the last of each were cut for time, before any was seen.
SEEDS = {"fashion-mini": range(5000, 5040, 10), "cifar10": range(5100, 5130, 10)}


@dataclass(frozen=True)
class Todo:
    """One setting and seed, and where its networks are kept."""

    name: str
    seed: int
    folder: Path


def todos(runs: Path) -> list[Todo]:
    """All, those of one setting after each other."""
    return [Todo(name, seed, runs / name) for name in SEEDS for seed in SEEDS[name]]


def images(setting: Setting, seed: int) -> tuple[data.Split, Target]:
    """The source's training images; all of the target."""
    whole = data.load(setting.data)
    source, (train, val, test) = split_classes(
        whole, setting.target, setting.target_images, seed
    )
    if setting.source_images:
        source = data.subset(source, setting.source_images, 0)
    val, test = (
        data.subset(split, min(most, len(split.labels)), 0)
        for split, most in ((val, MOST_VAL), (test, MOST_TEST))
    )
    return source, Target(train, val, test, augmented(train, setting.fine, COPIES))


def quality(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy and NLL."""
    return {
        name: float(getattr(metrics, name)(probs, labels))
        for name in ("accuracy", "nll")
    }


class Measured:
    """What members say about validation and test images, and how different they are."""

    def __init__(self, members: list[nn.Module], target: Target) -> None:
        self.members, self.target = members, target
        self.seen = {part: predict(members, getattr(target, part)) for part in PARTS}

    def ensemble(self, part: str, size: int = SIZE) -> dict[str, float]:
        """Quality of the first members' mean probabilities."""
        seen = self.seen[part]
        return quality(seen.logits[:size].softmax(-1).mean(0), seen.labels)

    def member(self, part: str, m: int) -> dict[str, float]:
        """Quality of one member."""
        seen = self.seen[part]
        return quality(seen.logits[m].softmax(-1), seen.labels)

    def soup(self, chosen: Iterable[int]) -> dict[str, float]:
        """Quality of the soup of some members, on both parts."""
        members = [self.members[m] for m in chosen]
        made, row = transfer.soup(members, self.target.refresh), {}
        for part in PARTS:
            seen = predict([made], getattr(self.target, part))
            found = quality(seen.logits[0].softmax(-1), seen.labels)
            row |= {f"{part}_{k}": v for k, v in found.items()}
        return row


def ensemble_rows(method: str, measured: Measured) -> list[dict[str, Any]]:
    """A row a size: the ensemble, the mean member and the soup."""
    rows = []
    for size in range(1, SIZE + 1):
        row: dict[str, Any] = {"method": method, "size": size}
        for part in PARTS:
            found = measured.ensemble(part, size)
            row |= {f"{part}_{k}": v for k, v in found.items()}
        seen = measured.seen["test"]
        own = [measured.member("test", m) for m in range(size)]
        row |= {f"member_{k}": sum(o[k] for o in own) / size for k in own[0]}
        if size > 1:
            logits = seen.logits[:size]
            row["disagreement"] = float(diversity.disagreement(logits))
            row["normalized_disagreement"] = float(
                diversity.normalized_disagreement(logits, seen.labels)
            )
        row |= {f"soup_{k}": v for k, v in measured.soup(range(size)).items()}
        rows.append(row)
    _, chosen = transfer.greedy_soup(
        measured.members, measured.target.val, measured.target.refresh
    )
    rows[-1] |= {f"greedy_{k}": v for k, v in measured.soup(chosen).items()}
    rows[-1]["greedy_members"] = len(chosen)
    return rows


def all_pairs(members: list[nn.Module]) -> list[tuple[nn.Module, nn.Module]]:
    """Each two of the first three."""
    return list(itertools.combinations(members[:3], 2))


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of each column."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def cell_rows(
    method: str, cell: tuple[float, float], measured: Measured
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One cell of the grid: the ensemble, and a row a member after the first."""
    about = {"method": method, "lr": cell[0], "epochs": cell[1]}
    members, target = measured.members, measured.target
    first, last = members[0], members[-1]
    to_first = barriers([(first, other) for other in members[1:]], target)
    between = barriers([(members[1], last)], target)[0]
    start, *points = stack.points_of(members)
    rows = [
        about
        | {"member": m, "distance": float((points[m - 1] - start).norm())}
        | {f"test_{k}": v for k, v in measured.member("test", m).items()}
        | to_first[m - 1]
        for m in range(1, SIZE)
    ]
    row = about | mean(to_first)
    row["barrier_between"] = between["barrier"]
    for part in PARTS:
        row |= {f"{part}_{k}": v for k, v in measured.ensemble(part).items()}
    own = [measured.member("test", m) for m in range(SIZE)]
    row |= {f"member_{k}": v for k, v in mean(own).items()}
    seen = measured.seen["test"]
    row["disagreement"] = float(diversity.disagreement(seen.logits))
    row["normalized_disagreement"] = float(
        diversity.normalized_disagreement(seen.logits, seen.labels)
    )
    row |= {f"soup_{k}": v for k, v in measured.soup(range(SIZE)).items()}
    refreshed = mean([measured.soup([m]) for m in range(SIZE)])
    row["refreshed_member_accuracy"] = refreshed["test_accuracy"]
    return row, rows


def swag(
    first: nn.Module, target: Target, fine: TrainConfig, out: Path, seed: int
) -> tuple[Measured, Measured]:
    """SWA's network and SWAG's ensemble; each with the learning rate best for it."""
    found = []
    for factor in SWA_LR_FACTORS:
        config = replace(fine, lr=fine.lr * factor, epochs=SWA_EPOCHS, seed=seed + 1)
        networks = transfer.trajectory(first, target.train, config, out)
        draw = torch.Generator().manual_seed(seed)
        drawn = transfer.swag_ensemble(networks, target.refresh, SIZE, SCALE, draw)
        swa = Measured([transfer.soup(networks, target.refresh)], target)
        found.append((swa, Measured(drawn, target)))
    return tuple(min(each, key=val_nll) for each in zip(*found))


def val_nll(measured: Measured) -> float:
    """What settings are chosen by."""
    return measured.ensemble("val")["nll"]


def measure(todo: Todo) -> dict[str, list[dict]]:
    """Rows for transfer.csv, transfer_grid.csv and transfer_members.csv."""
    kept = todo.folder / f"{todo.seed}.json"
    if not kept.exists():
        start = time.monotonic()
        rows = trained(todo)
        rows[""][0]["seconds"] = time.monotonic() - start  # a resumed one's last part
        about = {"data": todo.name, "seed": todo.seed}
        rows = {k: [about | row for row in part] for k, part in rows.items()}
        files.write_json(kept, rows)
        print(f"{todo.name}, seed {todo.seed}: measured", flush=True)
    return files.read_json(kept)


def trained(todo: Todo) -> dict[str, list[dict]]:
    """Everything of one setting and seed."""
    setting, seed, out = SETTINGS[todo.name], todo.seed, todo.folder / "networks"
    source, target = images(setting, seed)
    fine = replace(setting.fine, seed=seed)
    seeds = range(seed, seed + SIZE)
    checkpoints = transfer.pretrain(
        MODEL, source, setting.pretraining, seeds, out, jobs=1
    )
    scratch = transfer.pretrain(
        MODEL, target.train, setting.scratch, seeds, out, jobs=1
    )
    made = {"scratch": Measured(scratch, target)}
    for name, starts in (("local", checkpoints[:1] * SIZE), ("global", checkpoints)):
        tried = {}
        for lr, epochs in DE_FACTORS:
            config = transfer.scaled(fine, lr, epochs)
            members = transfer.fine_tune(starts, target.train, config, out, 1)
            tried[lr, epochs] = Measured(members, target)
        made[name] = tried[1, 1]
        made[f"{name}, twice as long"] = tried[1, 2]
        made[f"{name}, tuned"] = min(tried.values(), key=val_nll)
    found: dict[str, list[dict]] = {"": [], "_grid": [], "_members": []}
    for name, measured in made.items():
        rows = ensemble_rows(name, measured)
        pairs = all_pairs(measured.members)
        rows[-1] |= mean(barriers(pairs, target))
        unseen = mean(barriers(pairs, target, "val"))
        rows[-1] |= {f"val_{k}": v for k, v in unseen.items()}
        found[""] += rows
    first = made["local"].members[0]
    for method in METHODS:
        rows = grid_rows(method, first, target, fine, out, found)
        found[""] += rows
    swa, drawn = swag(first, target, fine, out, seed)
    row = {"method": "swa", "size": 1}
    row |= {f"{p}_{k}": v for p in PARTS for k, v in swa.member(p, 0).items()}
    found[""] += [row, *ensemble_rows("swag", drawn)]
    return found


def grid_rows(
    method: str,
    first: nn.Module,
    target: Target,
    fine: TrainConfig,
    out: Path,
    found: dict[str, list[dict]],
) -> list[dict[str, Any]]:
    """All cells into `found`; rows of the cells that are best on validation images.

    Two are chosen, for the NLL of the ensemble and for the accuracy of the soup.
    """
    grid = transfer.grid(
        method, first, target.train, fine, SIZE, LR_FACTORS, EPOCH_FACTORS, out, 1
    )
    cells = []
    for cell, members in grid.items():
        measured = Measured(members, target)
        row, each = cell_rows(method, cell, measured)
        found["_grid"].append(row)
        found["_members"] += each
        cells.append((row, measured))
    best = min(cells, key=lambda pair: pair[0]["val_nll"])
    souped = max(cells, key=lambda pair: pair[0]["soup_val_accuracy"])
    rows = []
    for name, (row, measured) in ((method, best), (f"{method}, for soups", souped)):
        chosen = {key: row[key] for key in ("lr", "epochs", "barrier")}
        rows += [r | chosen for r in ensemble_rows(name, measured)]
    return rows
