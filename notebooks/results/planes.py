"""What `recompute.py planes` measures: slices of the loss landscape, for its explorer.

Fort et al.'s SmallCNN on fashion-mini at 14x14, three kinds of three networks: a
deep ensemble; the same trained with SAM; and one checkpoint of five classes, fine-tuned
three times on the other five (a Local DE, lesson 05). One seed each, used for nothing
before.

Of each kind two planes: through the three networks; and through the first two and the
bend of the curve that was fitted between them, so that the whole curve lies in it.
On a grid of each plane, and along the straight line and the curve: loss, accuracy and
disagreement with the ends, on test images.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import fort
import numpy as np
import sadrtdinov
import torch
from torch import Tensor, nn

from sbtutor import data, landscape, paths, planes, results, stack, train, transfer
from sbtutor.predict import predict

SEED = 3300
RHO = 0.1  # the class preset's
GRID, STEPS, IMAGES = 21, 21, 1000
MARGIN = 0.3  # around the points, as a share of the longer side
PATHS = ("straight line", "curve")
TRAIN = replace(fort.TRAIN, members=3, epochs=20, milestones=(5, 10, 15), seed=SEED)
TRAIN = replace(TRAIN, snapshots=False)
FINE = replace(TRAIN, members=1, epochs=40, milestones=(10, 20, 30), lr=4e-4)


class Kind(NamedTuple):
    """Three networks, what they were trained on and what they are asked about."""

    members: list[nn.Module]
    train: data.Split
    test: data.Split


def ensemble(runs: Path, **settings: Any) -> Kind:
    """Three networks from weights of their own."""
    experiment = replace(fort.SMALL, train=replace(TRAIN, **settings))
    run = train.fit(experiment, results.run_folder(runs, experiment))
    splits = data.load(experiment.data)
    return Kind(run.members, splits.train, splits.test)


def local(runs: Path) -> Kind:
    """Three networks from one checkpoint."""
    splits = data.load(fort.SMALL.data)
    target = sadrtdinov.SETTINGS["fashion-mini"].target
    source = [name for name in splits.train.classes if name not in target]
    before = data.only(splits.train, source)
    pretraining = replace(TRAIN, members=1)
    (start,) = transfer.pretrain(
        fort.SMALL.model, before, pretraining, [SEED], runs / "source", jobs=1
    )
    few = data.subset(data.only(splits.train, target), 500, seed=SEED)
    members = transfer.fine_tune([start] * 3, few, FINE, runs / "target", jobs=1)
    return Kind(members, few, data.only(splits.test, target))


def ticks(points: Tensor) -> Tensor:
    """(2, GRID) places across and up that hold all points (n, 2) and a margin."""
    low, high = points.amin(0), points.amax(0)
    margin = MARGIN * (high - low).max()
    share = torch.linspace(0, 1, GRID).to(points)
    return torch.lerp((low - margin)[:, None], (high + margin)[:, None], share)


def seen(kind: Kind, few: data.Split, points: Tensor) -> dict[str, np.ndarray]:
    """Loss, accuracy and disagreement with the first two networks, of S networks."""
    ends = predict(kind.members[:2], few).logits
    found = landscape.survey(kind.members[0], points, few, references=ends)
    return {
        "loss": found.loss.numpy(),
        "accuracy": found.accuracy.numpy(),
        "disagreement": 1 - found.similarity.numpy(),
    }


def measure(name: str, kind: Kind) -> tuple[dict[str, np.ndarray], list[dict]]:
    """The slices of one kind, as arrays whose first axis is the path; and its rows."""
    few = data.subset(kind.test, IMAGES, seed=0)
    model, optima = kind.members[0], stack.points_of(kind.members)
    a, b, c = optima
    bend = paths.fit_bend(model, a, b, kind.train, epochs=15, seed=SEED)
    both = paths.line(a, b, STEPS), paths.bezier(a, bend, b, STEPS)
    parts, rows = [], []
    for path, points, third in zip(PATHS, both, (c, bend), strict=True):
        plane = planes.plane_through(a, b, third)
        marks, way = (
            plane.coordinates(p) for p in (torch.stack([a, b, third]), points)
        )
        x, y = ticks(torch.cat([marks[:2] if path == "curve" else marks, way]))
        on_plane = seen(kind, few, plane.points(x, y))
        on_path = seen(kind, few, points)
        on_plane["disagreement"] = on_plane["disagreement"][:, 0]
        parts.append(
            {n: v.reshape(GRID, GRID) for n, v in on_plane.items()}
            | {f"path_{n}": v for n, v in on_path.items()}
            | {"x": x, "y": y, "marks": marks, "way": way}
        )
        rows.append(row(name, path, on_path, way))
    return {n: np.stack([np.asarray(p[n]) for p in parts]) for n in parts[0]}, rows


def row(name: str, path: str, on_path: dict, way: Tensor) -> dict[str, Any]:
    """What the path says in numbers; its length is in the unit of the weights."""
    middle = STEPS // 2
    barrier = paths.barrier(torch.from_numpy(on_path["loss"]))
    return {
        "networks": name,
        "path": path,
        "seed": SEED,
        "length": float((way[1:] - way[:-1]).norm(dim=1).sum()),
        "barrier": float(barrier),
        "least_accuracy": float(on_path["accuracy"].min()),
        "middle_accuracy": float(on_path["accuracy"][middle]),
        "middle_disagreement": float(on_path["disagreement"][middle].mean()),
        "ends_disagreement": float(on_path["disagreement"][-1, 0]),
    }


def slices(runs: Path) -> tuple[dict[str, np.ndarray], list[dict]]:
    """All kinds: arrays (kind, path, ...), and a row a kind and path."""
    kinds = {
        "deep ensemble": ensemble(runs),
        f"SAM {RHO:g}": ensemble(runs, method="sam", rho=RHO),
    }
    began = time.perf_counter()  # a run keeps its own seconds
    kinds["fine-tuned from one checkpoint"] = local(runs)
    arrays, rows = [], []
    for name, kind in kinds.items():
        found, of_kind = measure(name, kind)
        rows += [r | {"classes": len(kind.test.classes)} for r in of_kind]
        arrays.append(found)
        print(f"{name}: measured", flush=True)
    rows[0]["measured_seconds"] = time.perf_counter() - began
    stacked = {n: np.stack([a[n] for a in arrays]) for n in arrays[0]}
    return {n: v.astype(np.float32).round(4) for n, v in stacked.items()}, rows
