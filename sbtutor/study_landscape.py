"""The study "landscape": independent optima and what lies near (Fort et al. 2019).

One run is an ensemble of the same networks with snapshots after each epoch: how alike
weights and answers are along a trajectory and between runs, four ways to draw weights
near one optimum (one of them in two forms), a curve between two optima, and ensembles
of all these on shifted images.
"""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from sbtutor import config, cost, files, needs, subspace, train
from sbtutor.config import Experiment
from sbtutor.optima import (
    CURVE_STEPS,
    STRENGTHS,
    WILD,
    Optima,
    Options,
    cluster_row,
    path_row,
    similarity_row,
)
from sbtutor.optima_plane import WALK, plane_row, plane_rows
from sbtutor.optima_shift import shift_rows

__all__ = ["WHAT", "Options", "check", "flops", "measure", "ready", "run"]

WHAT = "optima of several runs against networks drawn around one of them"
Row = dict[str, float | int | str]
Rows = list[dict[str, Any]]
SINGLE = ("mlp", "lenet", "medium_cnn")  # networks without norm layers


def check(experiment: Experiment, options: Options) -> None:
    """Refuse runs without the trajectories and networks that are compared.

    Raises:
        ValueError: no snapshots; fewer than three members; fewer epochs than `late`;
            BatchNorm.
    """
    model, wanted = experiment.model, experiment.train
    config.check(
        wanted.snapshots,
        "study landscape follows the weights from epoch to epoch, so it needs "
        "snapshots; write snapshots: true",
    )
    config.check(
        wanted.members >= 3,
        "study landscape compares three optima or more, got "
        f"members={wanted.members}; write members: 4",
    )
    config.check(
        wanted.epochs >= options.late,
        f"late={options.late} checkpoints are looked at, but training has only "
        f"epochs={wanted.epochs}; write fewer, or more epochs",
    )
    config.check(
        model.name in SINGLE or model.norm != "batch",
        f"{model.name} has BatchNorm, whose statistics fit no network between or "
        "around optima; write norm: group, or, for small_cnn, norm: none",
    )


def ready(experiment: Experiment, options: Options) -> None:
    """See that the images and the device are there; raises as `needs.check`."""
    needs.check(experiment)


def run(experiment: Experiment, options: Options, folder: Path, shared: Path) -> Row:
    """Train or resume in `folder`/run, measure, and give one row.

    All that was measured lies in `folder`/run/landscape.json.

    Returns:
        Metrics of `train.fit`, and of `measure` the first table and `headline`;
        seconds and device.
    """
    trained = train.fit(experiment, folder / "run")
    found = measure(trained.out, options)
    row = {k: v for k, v in found[""][0].items() if k not in ("data", "seed")}
    made = files.read_json(trained.out / "provenance.json")
    seconds = made["seconds"] + row.pop("measured_seconds")
    row = trained.metrics | row | headline(found["_shift"], experiment.train.members)
    row = {k.replace(" ", "_"): math.nan if v is None else v for k, v in row.items()}
    return row | {"seconds": seconds, "device": made["device"]}


def measure(folder: Path, options: Options | None = None) -> dict[str, Rows]:
    """All tables of one finished run, kept in its folder, as this takes a while.

    Returns:
        "": one row of likeness, clusters, paths, and the mean over optima of
        `optima_plane.plane_row`; "_plane": the diversity-accuracy plane, one row a
        network; "_shift": one row a method, place and number of optima.
    """
    kept = folder / "landscape.json"
    if kept.exists():
        return files.read_json(kept)
    start, optima = time.monotonic(), Optima(folder, options or Options())
    members = range(len(optima.points))
    samples = [optima.samples(m) for m in members]
    planes = [plane_rows(optima, m) for m in members]
    best = optima.accuracy(optima.ends).tolist()
    classes = optima.ends.shape[-1]
    around = [plane_row(rows, a, classes) for rows, a in zip(planes, best)]
    row = similarity_row(optima) | cluster_row(optima, samples) | path_row(optima)
    row |= {name: float(np.mean([a[name] for a in around])) for name in around[0]}
    shift = shift_rows(optima, samples)
    about = {"data": optima.run.experiment.data.name, "seed": optima.seed}
    row["measured_seconds"] = time.monotonic() - start
    plane = [row for rows in planes for row in rows]
    found = {"": [row], "_plane": plane, "_shift": shift}
    found = {k: [about | r for r in rows] for k, rows in found.items()}
    files.write_json(kept, found)
    return files.read_json(kept)


def headline(rows: Rows, most: int) -> dict[str, float]:
    """Ensembles around one optimum and around all of them, `most`, in one row.

    Returns:
        `accuracy_optima_4`: of four optima, on clean images; `shift_accuracy_swag_1`:
        of an ensemble near one, mean over severities 1 to 5; so `brier` and `js`;
        `digits_js_...` on digits. What was not measured is left out.
    """
    places = {"0": "", "digits": "digits_"}
    seen: dict[str, list[float]] = {}
    for row in rows:
        if row["optima"] not in (1, most):
            continue
        prefix = places.get(row["place"], "shift_")
        for name in ("accuracy", "brier", "js"):
            if row.get(name) is not None:
                column = f"{prefix}{name}_{row['method']}_{row['optima']}"
                seen.setdefault(column, []).append(row[name])
    return {column: float(np.mean(values)) for column, values in seen.items()}


def flops(experiment: Experiment, options: Options, sizes: cost.Sizes) -> float:
    """Of training, the curve's fit, and all networks' predictions; an estimate."""
    images, samplers = min(options.images, sizes.test), len(subspace.SAMPLERS)
    near = 2 + options.late + samplers * (options.samples + WILD)
    asked = experiment.train.epochs + 7 * near + samplers * (len(WALK) + 2)
    passes = asked * experiment.train.members * images + 2 * CURVE_STEPS * images
    chosen = samplers * len(STRENGTHS) * options.samples
    passes += chosen * experiment.train.members * min(options.validation, sizes.val)
    passes += options.bend_epochs * sizes.train * cost.GRADIENT
    passes += cost.gradient_passes(experiment.train, sizes.train)
    return passes * cost.model_flops(experiment.model, sizes.in_shape, sizes.classes)
