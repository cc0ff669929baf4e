"""What `recompute.py explorer` measures: the runs that the lessons' explorers show.

Fashion-mini at 14x14, the class preset's network, ensembles of four, three seeds that
were used for nothing before. Each run gives three rows: its first two, first three and
all four members. (A SharpBalance member's samples were chosen by all three others, so
its first two are not what two members alone would be.)

Beside the table lies explorer.npz, for the explorers' close-ups of single runs: what
each member says about the same 500 test images, and how sharp it is there.
"""

import itertools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sbtutor import config, data, evaluate, files, models, sharpness, train
from sbtutor.config import Experiment
from sbtutor.predict import Predictions, predict

CLASS = config.preset("class")
SEEDS = range(3200, 3230, 10)
RADII, SHARES, MEMBERS = (0.05, 0.1, 0.2, 0.4), (0.25, 0.5, 0.75), 4
SHARPBALANCE_RADII = (0.1, 0.2, 0.4)
IMAGES = 500  # test images, class-balanced, of the close-ups
STEPS = 255  # probabilities are kept in steps of 1/255
ARRAYS = "close_up.npz"


def experiments() -> list[list[Experiment]]:
    """All runs; those of one list share a trunk, so they are trained in turn."""
    made = []
    for seed in SEEDS:
        deep = replace(CLASS.train, method="sgd", members=MEMBERS, seed=seed)
        made.append([deep])
        for rho in RADII:
            sam = replace(deep, method="sam", rho=rho)
            made.append([sam])
            if rho in SHARPBALANCE_RADII:
                made[-1] += [
                    replace(sam, method="sharpbalance", sam_fraction=k) for k in SHARES
                ]
    return [[replace(CLASS, train=t) for t in group] for group in made]


def label(experiment: Experiment) -> str:
    """As `DE`, `SAM 0.1` or `SharpBalance 0.1, k 0.5`."""
    given = experiment.train
    return {
        "sgd": "DE",
        "sam": f"SAM {given.rho:g}",
        "sharpbalance": f"SharpBalance {given.rho:g}, k {given.sam_fraction:g}",
    }[given.method]


def few(experiment: Experiment) -> tuple[data.Split, torch.Tensor]:
    """The images of the close-ups, and their places among the test images."""
    test = data.load(experiment.data).test
    places = torch.arange(len(test.labels))
    digits = torch.stack([places // 256, places % 256], 1).byte()  # as images, which
    counted = data.Split(digits[:, :, None, None], test.labels, test.classes)
    high, low = data.subset(counted, IMAGES, seed=0).images.long().flatten(1).T
    at = 256 * high + low  # `subset` can shuffle
    return data.Split(test.images[at], test.labels[at], test.classes), at


def measure(folder: Path) -> dict[str, list[dict]]:
    """The rows of one run; its close-up is kept in its folder."""
    began = time.perf_counter()
    run = train.load_run(folder)
    given, splits = run.experiment.train, data.load(run.experiment.data)
    about = {
        "label": label(run.experiment),
        "seed": given.seed,
        "method": given.method,
        "rho": 0.0 if given.method == "sgd" else given.rho,
        "sam_fraction": {"sgd": 0.0, "sam": 1.0}.get(given.method, given.sam_fraction),
    }
    sharp = [
        evaluate.sharpness_row([member], splits.train)
        | evaluate.reach_row([member], splits.train)
        for member in run.members
    ]
    clean = predict(run.members, splits.test)
    shifted = [
        predict(run.members, s) for *_, s in evaluate.shifted_splits(splits.test)
    ]
    rows = []
    for size in range(2, MEMBERS + 1):
        of_size = [row_of(p, size) for p in (clean, *shifted)]
        rows.append(
            about
            | {"members": size}
            | {n: float(np.mean([row[n] for row in sharp[:size]])) for n in sharp[0]}
            | {f"test_{n}": value for n, value in of_size[0].items()}
            | {
                f"shift_{n}": float(np.mean([row[n] for row in of_size[1:]]))
                for n in of_size[0]
            }
        )
    close_up(run.members, run.experiment, folder)
    rows[0]["measured_seconds"] = time.perf_counter() - began
    print(f"{about['label']}, seed {given.seed}: measured", flush=True)
    return {"": rows}


def row_of(predictions: Predictions, size: int) -> dict[str, float]:
    """Quality and diversity of the first `size` members."""
    first = Predictions(predictions.logits[:size], predictions.labels)
    return evaluate.predictions_row(first)


def close_up(members: list, experiment: Experiment, folder: Path) -> None:
    """Keep the members' probabilities and Fisher traces for `few` images."""
    split, _ = few(experiment)
    probs = predict(members, split).logits.softmax(-1)
    images = data.to_float(split.images)
    scores = []
    for member in members:
        with models.evaluating(member):
            scores.append(sharpness.fisher_trace(member, images, split.labels))
    files.save_arrays(
        folder / ARRAYS,
        probs=(probs * STEPS).round().byte().numpy(),
        log10_fisher=torch.stack(scores).clamp_min(1e-30).log10().half().numpy(),
    )


def arrays(folders: list[Path]) -> dict[str, np.ndarray]:
    """The close-ups of all runs, in order: (R, M, N, C) and (R, M, N)."""
    found = [files.load_arrays(folder / ARRAYS) for folder in folders]
    split, at = few(CLASS)
    return {name: np.stack([f[name] for f in found]) for name in found[0]} | {
        "labels": split.labels.numpy().astype(np.uint8),
        "places": at.numpy().astype(np.int16),
    }


def numbered(rows: list[list[dict]]) -> list[dict]:
    """All rows, each with the number of its run, which is its place in the arrays."""
    return list(
        itertools.chain.from_iterable(
            [{"number": at} | row for row in of_run] for at, of_run in enumerate(rows)
        )
    )
