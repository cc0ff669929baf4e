"""What `recompute.py transfer` measures: Sadrtdinov et al. 2023 in small.

For each source and target, and each seed: five checkpoints of the source task; five
networks from scratch, a Local DE and a Global DE of five on the target; SSE and StarSSE
of five for each cell of a grid of cycles; what SWA and SWAG make of a trajectory. Cells
are chosen on validation images. Members after the first of SSE and StarSSE have been
trained for longer than those of a DE, which alone may make them better: so both kinds
of DE are also trained twice as long.

Epochs and learning rate of fine-tuning were chosen by validation accuracy, with seed
900, among 20, 40 and 80 epochs (CIFAR-10: 20 and 40) and .02, .05, .1 and .2; those of
training from scratch among as many and twice as many epochs and .05, .1, .2 and .4. The
classes of fashion-mini and the network were chosen by hand among four and three, with
the same seed, so that pre-training is of use and networks lie in several basins. Each
seed draws target images of its own.
"""

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sbtutor import data, diversity, files, metrics, paths, stack, transfer
from sbtutor.config import DataConfig, ModelConfig, TrainConfig
from sbtutor.data import Splits
from sbtutor.predict import predict

SIZE = 5  # members, as in the paper
LR_FACTORS = (0.25, 0.5, 1, 2, 4, 8)  # the paper's, and 8
EPOCH_FACTORS = (0.25, 0.5, 1)
SWA_LR_FACTORS = (0.1, 0.25, 0.5, 1)
SWA_EPOCHS = 20
SCALE = 1.0  # of SWAG's samples
MODEL = ModelConfig(name="resnet8", width=8)
METHODS = ("sse", "star")
PARTS = ("val", "test")
MOST = (1000, 2000)  # validation and test images


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
SEEDS = {"fashion-mini": range(5000, 5050, 10), "cifar10": range(5100, 5140, 10)}


@dataclass(frozen=True)
class Todo:
    """One setting and seed, and where its networks are kept."""

    name: str
    seed: int
    folder: Path


def todos(runs: Path) -> list[Todo]:
    """All, those of one setting after each other."""
    return [Todo(name, seed, runs / name) for name in SEEDS for seed in SEEDS[name]]


def images(setting: Setting, seed: int) -> tuple[data.Split, Splits]:
    """The source's training images; the target's three splits."""
    whole = data.load(setting.data)
    others = [name for name in whole.train.classes if name not in setting.target]
    source = data.only(whole.train, others)
    if setting.source_images:
        source = data.subset(source, setting.source_images, 0)
    target = Splits(*(data.only(split, setting.target) for split in whole))
    few = (setting.target_images, *MOST)
    return source, Splits(
        *(
            data.subset(split, min(count, len(split.labels)), seed)
            for split, count, seed in zip(target, few, (seed, 0, 0))
        )
    )


def quality(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy and NLL."""
    return {
        name: float(getattr(metrics, name)(probs, labels))
        for name in ("accuracy", "nll")
    }


class Measured:
    """What members say about validation and test images, and how different they are."""

    def __init__(self, members: list[nn.Module], target: Splits) -> None:
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
        made, row = transfer.soup(members, self.target.train), {}
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
        measured.members, measured.target.val, measured.target.train
    )
    rows[-1] |= {f"greedy_{k}": v for k, v in measured.soup(chosen).items()}
    rows[-1]["greedy_members"] = len(chosen)
    return rows


def barriers(
    pairs: list[tuple[nn.Module, nn.Module]],
    train: data.Split,
    where: data.Split | None = None,
) -> list[dict[str, float]]:
    """Of each pair, in nats and in accuracy; on the training images if not told."""
    rows = []
    for a, b in pairs:
        line = transfer.straight_line(a, b, where or train, refresh=train)
        t = torch.linspace(0, 1, len(line.loss))
        chord = torch.lerp(line.accuracy[0], line.accuracy[-1], t)
        barrier = float(paths.barrier(line.loss))
        accuracy = float((chord - line.accuracy).max())
        rows.append({"barrier": barrier, "accuracy_barrier": accuracy})
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
    members, train = measured.members, measured.target.train
    first, last = members[0], members[-1]
    to_first = barriers([(first, other) for other in members[1:]], train)
    between = barriers([(members[1], last)], train)[0]
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
    return row, rows


def swag(
    first: nn.Module, target: Splits, fine: TrainConfig, out: Path, seed: int
) -> tuple[Measured, Measured]:
    """SWA's network and SWAG's ensemble; the learning rate chosen for SWAG's NLL."""
    found = []
    for factor in SWA_LR_FACTORS:
        config = replace(fine, lr=fine.lr * factor, epochs=SWA_EPOCHS, seed=seed + 1)
        networks = transfer.trajectory(first, target.train, config, out)
        draw = torch.Generator().manual_seed(seed)
        drawn = transfer.swag_ensemble(networks, target.train, SIZE, SCALE, draw)
        swa = Measured([transfer.soup(networks, target.train)], target)
        found.append((swa, Measured(drawn, target)))
    return min(found, key=lambda pair: pair[1].ensemble("val")["nll"])


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
    made = {
        "scratch": transfer.pretrain(
            MODEL, target.train, setting.scratch, seeds, out, jobs=1
        ),
        "local": transfer.fine_tune(checkpoints[:1] * SIZE, target.train, fine, out, 1),
        "global": transfer.fine_tune(checkpoints, target.train, fine, out, 1),
    }
    longer = replace(fine, epochs=2 * fine.epochs)
    made |= {
        "local, twice as long": transfer.fine_tune(
            checkpoints[:1] * SIZE, target.train, longer, out, 1
        ),
        "global, twice as long": transfer.fine_tune(
            checkpoints, target.train, longer, out, 1
        ),
    }
    found: dict[str, list[dict]] = {"": [], "_grid": [], "_members": []}
    for name, members in made.items():
        rows = ensemble_rows(name, Measured(members, target))
        pairs = all_pairs(members)
        rows[-1] |= mean(barriers(pairs, target.train))
        unseen = mean(barriers(pairs, target.train, target.val))
        rows[-1] |= {f"val_{k}": v for k, v in unseen.items()}
        found[""] += rows
    for method in METHODS:
        rows = grid_rows(method, made["local"][0], target, fine, out, found)
        found[""] += rows
    swa, drawn = swag(made["local"][0], target, fine, out, seed)
    row = {"method": "swa", "size": 1}
    row |= {f"{p}_{k}": v for p in PARTS for k, v in swa.member(p, 0).items()}
    found[""] += [row, *ensemble_rows("swag", drawn)]
    return found


def grid_rows(
    method: str,
    first: nn.Module,
    target: Splits,
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
