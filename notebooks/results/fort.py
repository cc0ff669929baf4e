"""What `recompute.py landscape` measures of an ensemble with snapshots.

Fort et al. 2019 in small: how alike weights and answers are along a trajectory and
between runs, four ways to draw weights near one optimum (one of them in two forms), a
curve between two optima, and ensembles of all these on shifted images. Images are test
images, the same 1,500 for every run; strengths of samplers are chosen on validation
images.

A first form of these measures was judged too kind to the claims by a reviewer, after
its tables were known: it took the best of few samples, and drew samples too wild to
make good ensembles. This is the second form, on the same runs.
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.isotonic import isotonic_regression
from sklearn.metrics import silhouette_score
from torch import Tensor, nn

from sbtutor import (
    config,
    corruptions,
    data,
    diversity,
    files,
    landscape,
    metrics,
    paths,
    snapshots,
    stack,
    subspace,
    train,
)
from sbtutor.batches import stream
from sbtutor.config import DataConfig, Experiment, ModelConfig

CLASS = config.preset("class")
TRAIN = replace(  # Fort et al.'s: nothing of it was chosen here
    CLASS.train,
    members=4,
    epochs=40,
    optimizer="adam",
    lr=1.6e-3,
    lr_decay=0.5,
    milestones=(10, 20, 30),
    weight_decay=0.0,
    snapshots=True,
)
SMALL = Experiment(
    data=CLASS.data,
    model=ModelConfig(name="small_cnn", norm="none", width=16),
    train=TRAIN,
)
MEDIUM = Experiment(  # of reduced size: a quarter of the width, half of the side
    data=DataConfig(name="cifar10", size=16, limit=10_000),
    model=ModelConfig(name="medium_cnn", width=16),
    train=replace(TRAIN, batch_size=125),
)
SEEDS = {"fashion-mini": range(3000, 3080, 10), "cifar10": range(3100, 3180, 10)}

LATE = 10  # the last checkpoints, to which the Gaussians are fitted
SAMPLES = 8  # drawn near each optimum for the ensembles
WILD = 4  # drawn for their divergence alone
STRENGTHS = 0.5 ** torch.arange(8)  # to choose from, as shares of a sampler's reach
WALK = torch.logspace(-2, 0, 24)  # strengths in the diversity-accuracy plane, alike
IMAGES, VALIDATION = 1500, 1000
LOSS = 0.01  # accuracy that a sampler may lose: one point
# Under one image's worth, over rounding: a loss of just a point counts.
EDGE = 2e-5
CURVE_STEPS = 21


def experiments() -> list[Experiment]:
    """Eight ensembles of four for each data set; their seeds were used nowhere else."""
    return [
        replace(base, train=replace(base.train, seed=seed))
        for base in (SMALL, MEDIUM)
        for seed in SEEDS[base.data.name]
    ]


class Study:
    """One run: its optima, its trajectories, the images it is asked about."""

    def __init__(self, folder: Path) -> None:
        """Load the run and predict along its trajectories."""
        self.run = train.load_run(folder)
        self.seed = self.run.experiment.train.seed
        self.model: nn.Module = self.run.members[0]
        splits = data.load(self.run.experiment.data)
        self.train = splits.train
        self.val, self.few = (
            data.subset(split, min(count, len(split.labels)), seed=0)
            for split, count in ((splits.val, VALIDATION), (splits.test, IMAGES))
        )
        self.optima = stack.points_of(self.run.members)  # (M, P)
        self.trajectories = snapshots.points(folder).to(self.optima)  # (M, T, P)
        self.along = torch.stack([self.logits(t) for t in self.trajectories])
        self.ends = self.logits(self.optima)  # (M, N, C)

    def logits(self, points: Tensor, split: data.Split | None = None) -> Tensor:
        """Of each point, on the test images or others."""
        return stack.logits_at(self.model, points, split or self.few)

    def accuracy(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Share of right answers, (S,)."""
        labels = self.few.labels if labels is None else labels
        return (logits.argmax(-1) == labels).double().mean(-1)

    def draw(self, method: str, m: int, strengths: Tensor, why: str) -> Tensor:
        """Points near the optimum of member m, one for each strength."""
        generator = stream(self.seed, method, m, why)
        late = self.trajectories[m, -LATE:]
        sampler = subspace.SAMPLERS[method]
        return sampler(self.optima[m], late, strengths, generator)

    def strengths(self, method: str, m: int) -> tuple[float, float]:
        """Two of eight strengths, by `SAMPLES` samples each on validation images.

        The one whose ensemble has the lowest Brier score; and the largest at which
        the mean sample has lost at most a point of accuracy (if none: the smallest).
        """
        grid = subspace.REACH[method] * STRENGTHS
        points = self.draw(method, m, grid.repeat_interleave(SAMPLES), "choose")
        optimum = self.accuracy(
            self.logits(self.optima[m : m + 1], self.val), self.val.labels
        )
        logits = self.logits(points, self.val).unflatten(0, (len(grid), SAMPLES))
        kept = self.accuracy(logits, self.val.labels).mean(1) >= optimum - LOSS
        probs = [metrics.ensemble_probs(group) for group in logits]
        scores = torch.stack([metrics.brier(p, self.val.labels) for p in probs])
        wild = grid[kept].max() if kept.any() else grid.min()
        return float(grid[scores.argmin()]), float(wild)

    def samples(self, m: int) -> dict[str, Tensor]:
        """Ensembles near one optimum, (S, P) by method; wild ones for divergence."""
        late = self.trajectories[m, -LATE:]
        made = {"average": subspace.average(late)[None], "trajectory": late}
        for method in subspace.SAMPLERS:
            good, wild = self.strengths(method, m)
            for name, count, value in (
                (method, SAMPLES, good),
                (f"wild {method}", WILD, wild),
            ):
                strengths = torch.full((count,), value)
                made[name] = self.draw(method, m, strengths, name)
        return made


def off_diagonal(matrix: Tensor) -> float:
    """Mean over the pairs of different ones."""
    n = len(matrix)
    return float((matrix.sum() - matrix.trace()) / (n * (n - 1)))


def similarity_row(study: Study) -> dict[str, float]:
    """Claim 1: cosines and disagreements, late in training and between runs."""
    half = study.trajectories.shape[1] // 2
    within = study.trajectories[:, half:]
    cosines = [off_diagonal(landscape.weight_cosine(t)) for t in within]
    differ = [float(diversity.disagreement(a)) for a in study.along[:, half:]]
    accuracies = study.accuracy(study.ends)
    return {
        "accuracy": float(accuracies.mean()),
        "accuracy_range": float(accuracies.max() - accuracies.min()),
        "cosine_within": float(np.mean(cosines)),
        "cosine_between": off_diagonal(landscape.weight_cosine(study.optima).abs()),
        "disagreement_within": float(np.mean(differ)),
        "disagreement_between": float(diversity.disagreement(study.ends)),
        "der": float(diversity.disagreement_error_ratio(study.ends, study.few.labels)),
    }


def cluster_row(study: Study, samples: list[dict[str, Tensor]]) -> dict[str, float]:
    """Claim 2: silhouettes of three runs' late checkpoints and of samples, by run.

    1: each lies far nearer to its own run than to the next; 0: no difference.
    """
    half, methods = study.trajectories.shape[1] // 2, list(subspace.SAMPLERS)
    near = [torch.cat([samples[m][k][:2] for k in methods]) for m in range(3)]
    drawn = torch.stack([study.logits(points) for points in near])  # (3, S, N, C)
    logits = torch.cat([study.along[:3], drawn], dim=1)
    kept = slice(half, None)  # early networks of all runs are alike: ignorant
    runs = np.repeat(np.arange(3), logits[:, kept].shape[1])
    where = landscape.prediction_map(logits.flatten(0, 1), seed=study.seed)
    where = where.view(3, -1, 2)[:, kept].flatten(0, 1)
    probs = logits[:, kept].softmax(-1).flatten(0, 1).flatten(1)
    return {
        "silhouette_map": float(silhouette_score(where.numpy(), runs)),
        "silhouette_probs": float(silhouette_score(probs.numpy(), runs)),
    }


def plane_rows(study: Study, reference: int) -> list[dict[str, float | str]]:
    """The diversity-accuracy plane around one optimum: one row a network."""
    others = [m for m in range(len(study.optima)) if m != reference]
    seen = {"optima": (torch.full((len(others),), torch.nan), study.ends[others])}
    for method in subspace.SAMPLERS:
        strengths = subspace.REACH[method] * WALK
        points = study.draw(method, reference, strengths, "plane")
        seen[method] = (strengths, study.logits(points))
    return [
        {
            "reference": reference,
            "method": method,
            "strength": strength,
            "accuracy": accuracy,
            "normalized_disagreement": height,
        }
        for method, (strengths, logits) in seen.items()
        for strength, accuracy, height in zip(
            strengths.tolist(),
            study.accuracy(logits).tolist(),
            landscape.normalized_disagreement(
                study.ends[reference], logits, study.few.labels
            ).tolist(),
            strict=True,
        )
    ]


def smooth(values: np.ndarray, rises: bool) -> np.ndarray:
    """The nearest values that only rise, or only fall, along the strengths."""
    return isotonic_regression(values, increasing=rises)


def plane_row(rows: list[dict], best: float, classes: int) -> dict[str, float]:
    """Claims 3 and 4, around one optimum of accuracy `best`.

    Height is disagreement per error. Each sampler's accuracy and height are smoothed
    along its strengths, from the optimum itself, (best, 0), on. `gap_*`: mean height of
    the other optima less the sampler's where it has lost a point of accuracy.
    `price_*`: accuracy that it has lost where it is as high as they are (if it never is
    within its reach: what it has lost there, which is too little). Over all references
    the other optima are, on average, as accurate as the reference.
    `place_*`: 0 on the lower limit curve, 1 on the upper; of samplers where they have
    lost a point.
    """
    points = {
        method: np.array(
            [
                (r["accuracy"], r["normalized_disagreement"])
                for r in rows
                if r["method"] == method
            ]
        )
        for method in ("optima", *subspace.SAMPLERS)
    }

    def place(accuracy: np.ndarray, height: np.ndarray) -> float:
        upper, lower = landscape.limit_curves(best, classes, torch.tensor(accuracy))
        return ((height - lower.numpy()) / (upper - lower).numpy()).mean()

    optima = points.pop("optima")
    found, level = {"place_optima": place(*optima.T)}, optima[:, 1].mean()
    for method, values in points.items():
        accuracy = smooth(np.array([best, *values[:, 0]]), rises=False)
        height = smooth(np.array([0, *values[:, 1]]), rises=True)
        # Steps too small to matter, so that equal values have an order.
        steps = 1e-9 * np.arange(len(height))
        cost, height = best - accuracy + steps, height + steps
        reached = np.interp(LOSS + EDGE, cost, height)
        found[f"gap_{method}"] = level - reached
        found[f"price_{method}"] = np.interp(level, height, cost)
        found[f"place_{method}"] = place(np.array([best - LOSS]), np.array([reached]))
    return {name: float(value) for name, value in found.items()}


def path_row(study: Study) -> dict[str, float]:
    """Claim 6: a straight and a fitted curve from the first optimum to the second."""
    a, b = study.optima[:2]
    bend = paths.fit_bend(study.model, a, b, study.train, seed=study.seed)
    first, last = study.accuracy(study.ends[:2])
    straight = torch.linspace(0, 1, CURVE_STEPS) * (last - first) + first
    row = {}
    for name, points in (
        ("line", paths.line(a, b, CURVE_STEPS)),
        ("curve", paths.bezier(a, bend, b, CURVE_STEPS)),
    ):
        logits = study.logits(points)
        change = study.accuracy(logits) - straight  # the ends' own difference is none
        row[f"{name}_worst_change"] = float(change[1:-1].min())
        middle = torch.stack([logits[CURVE_STEPS // 2], *study.ends[:2]])
        apart = diversity.pairwise_disagreement(middle)[0, 1:].mean()
        row[f"{name}_middle_disagreement"] = float(apart)
    return row


def places(study: Study) -> dict[str, data.Split]:
    """Test images at severities 0 to 5, each under one kind in turn; and digits."""
    few = study.few
    made = {"0": few}
    for severity in range(1, 6):
        images = few.images.clone()
        for i, kind in enumerate(corruptions.KINDS):
            part = slice(i, None, len(corruptions.KINDS))
            images[part] = corruptions.corrupt(few.images[part], kind, severity)
        made[str(severity)] = data.Split(images, few.labels, few.classes)
    side = few.images.shape[-1]
    digits = data.load(DataConfig(name="digits", size=side)).test
    images = digits.images.expand(-1, few.images.shape[1], -1, -1).contiguous()
    made["digits"] = data.Split(images, digits.labels, digits.classes)
    return made


def ensemble_rows(logits: list[Tensor], split: data.Split, place: str) -> list[dict]:
    """Accuracy, Brier score and JS by number of optima, mean over all subsets.

    Around an optimum JS is that of four networks (of ten checkpoints every second one),
    in the row of one optimum.

    Args:
        logits: of the networks around each optimum; those of one are averaged first.
        split: what they were asked.
        place: severity, or "digits", whose labels mean nothing here.
    """
    each = torch.stack([metrics.ensemble_probs(part) for part in logits])
    alike = len(logits[0]) == 1  # one network an optimum: an ensemble of optima
    few = [part[:: max(1, len(part) // 4)][:4] for part in logits]
    near = float(torch.stack([diversity.js_divergence(part) for part in few]).mean())
    columns = {"js": torch.full((len(each),), torch.nan)}
    columns["js"][0] = near
    if alike:
        columns["js"] = metrics.by_size(torch.cat(logits), diversity.js_divergence)
    for name in ("accuracy", "brier") if place != "digits" else ():
        measure = partial(getattr(metrics, name), labels=split.labels)
        columns[name] = metrics.by_size(each, lambda p, m=measure: m(p.mean(0)))
    return [
        {"place": place, "optima": i + 1}
        | {name: float(values[i]) for name, values in columns.items()}
        for i in range(len(each))
    ]


def shift_rows(study: Study, samples: list[dict[str, Tensor]]) -> list[dict]:
    """Claims 5, 7 and 8: one row a method, place and number of optima.

    Of wild samples only their divergence at one optimum is kept.
    """
    made = {"optima": [point[None] for point in study.optima]}
    for method in samples[0]:
        made[method] = [near[method] for near in samples]
    rows = []
    for place, split in places(study).items():
        for method, groups in made.items():
            sizes = [len(g) for g in groups]
            logits = study.logits(torch.cat(groups), split).split(sizes)
            found = ensemble_rows(list(logits), split, place)
            if method.startswith("wild"):
                found = [{key: found[0][key] for key in ("place", "optima", "js")}]
            rows += [{"method": method} | row for row in found]
    return rows


def measure(folder: Path) -> dict[str, list[dict]]:
    """Rows for landscape.csv, landscape_plane.csv and landscape_shift.csv.

    They are kept in the run's folder, as this takes a minute or more.
    """
    kept = folder / "landscape.json"
    if kept.exists():
        return files.read_json(kept)
    start, study = time.monotonic(), Study(folder)
    members = range(len(study.optima))
    samples = [study.samples(m) for m in members]
    planes = [plane_rows(study, m) for m in members]
    best = study.accuracy(study.ends).tolist()
    classes = study.ends.shape[-1]
    around = [plane_row(rows, a, classes) for rows, a in zip(planes, best)]
    row = similarity_row(study) | cluster_row(study, samples) | path_row(study)
    row |= {name: float(np.mean([a[name] for a in around])) for name in around[0]}
    shift = shift_rows(study, samples)
    about = {"data": study.run.experiment.data.name, "seed": study.seed}
    row["measured_seconds"] = time.monotonic() - start
    plane = [row for rows in planes for row in rows]
    found = {"": [row], "_plane": plane, "_shift": shift}
    found = {k: [about | r for r in rows] for k, rows in found.items()}
    files.write_json(kept, found)
    print(f"{folder.name}: measured", flush=True)
    return files.read_json(kept)
