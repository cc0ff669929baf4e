"""Several optima, their trajectories, and networks drawn near them (Fort et al. 2019).

How alike weights and answers are along a trajectory and between runs, and a curve
between two optima. Images are test images, the same for every run; strengths of
samplers are chosen on validation images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sbtutor import (
    config,
    data,
    diversity,
    landscape,
    metrics,
    paths,
    snapshots,
    stack,
    subspace,
    train,
)
from sbtutor.batches import stream

WILD = 4  # drawn for their divergence alone
STRENGTHS = 0.5 ** torch.arange(8)  # to choose from, as shares of a sampler's reach
LOSS = 0.01  # accuracy that a sampler may lose: one point
CURVE_STEPS = 21


@dataclass(frozen=True, kw_only=True)
class Options:
    """How closely one looks."""

    images: int = 1500  # test images that all networks are asked about, at most
    validation: int = 1000  # images on which samplers' strengths are chosen, at most
    late: int = 10  # the last checkpoints, to which the Gaussians are fitted
    samples: int = 8  # drawn near each optimum for the ensembles
    bend_epochs: int = 20  # of the fit of a curve between two optima

    def __post_init__(self) -> None:
        """Refuse values of a wrong type or out of range."""
        config.make_plain(self)
        # Six checkpoints: the low-rank Gaussians have five directions.
        least = dict(images=20, validation=20, late=6, samples=2, bend_epochs=1)
        for name, lowest in least.items():
            value = getattr(self, name)
            config.check(
                value >= lowest, f"{name} must be at least {lowest}, got {value}"
            )


class Optima:
    """One run: its optima, its trajectories, the images it is asked about."""

    def __init__(self, folder: Path, options: Options) -> None:
        """Load the run and predict along its trajectories."""
        self.run, self.options = train.load_run(folder), options
        self.seed = self.run.experiment.train.seed
        self.model: nn.Module = self.run.members[0]
        splits = data.load(self.run.experiment.data)
        self.train = splits.train
        self.val, self.few = (
            data.subset(split, min(count, len(split.labels)), seed=0)
            for split, count in (
                (splits.val, options.validation),
                (splits.test, options.images),
            )
        )
        self.points = stack.points_of(self.run.members)  # (M, P)
        self.trajectories = snapshots.points(folder).to(self.points)  # (M, T, P)
        self.along = torch.stack([self.logits(t) for t in self.trajectories])
        self.ends = self.logits(self.points)  # (M, N, C)

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
        late = self.trajectories[m, -self.options.late :]
        sampler = subspace.SAMPLERS[method]
        return sampler(self.points[m], late, strengths, generator)

    def strengths(self, method: str, m: int) -> tuple[float, float]:
        """Two of eight strengths, by a few samples each on validation images.

        The one whose ensemble has the lowest Brier score; and the largest at which
        the mean sample has lost at most a point of accuracy (if none: the smallest).
        """
        grid, count = subspace.REACH[method] * STRENGTHS, self.options.samples
        points = self.draw(method, m, grid.repeat_interleave(count), "choose")
        optimum = self.accuracy(
            self.logits(self.points[m : m + 1], self.val), self.val.labels
        )
        logits = self.logits(points, self.val).unflatten(0, (len(grid), count))
        kept = self.accuracy(logits, self.val.labels).mean(1) >= optimum - LOSS
        probs = [metrics.ensemble_probs(group) for group in logits]
        scores = torch.stack([metrics.brier(p, self.val.labels) for p in probs])
        wild = grid[kept].max() if kept.any() else grid.min()
        return float(grid[scores.argmin()]), float(wild)

    def samples(self, m: int) -> dict[str, Tensor]:
        """Ensembles near one optimum, (S, P) by method; wild ones for divergence."""
        late = self.trajectories[m, -self.options.late :]
        made = {"average": subspace.average(late)[None], "trajectory": late}
        for method in subspace.SAMPLERS:
            good, wild = self.strengths(method, m)
            for name, count, value in (
                (method, self.options.samples, good),
                (f"wild {method}", WILD, wild),
            ):
                strengths = torch.full((count,), value)
                made[name] = self.draw(method, m, strengths, name)
        return made


def off_diagonal(matrix: Tensor) -> float:
    """Mean over the pairs of different ones."""
    n = len(matrix)
    return float((matrix.sum() - matrix.trace()) / (n * (n - 1)))


def similarity_row(optima: Optima) -> dict[str, float]:
    """Cosines and disagreements, late in training and between runs."""
    half = optima.trajectories.shape[1] // 2
    within = optima.trajectories[:, half:]
    cosines = [off_diagonal(landscape.weight_cosine(t)) for t in within]
    differ = [float(diversity.disagreement(a)) for a in optima.along[:, half:]]
    accuracies = optima.accuracy(optima.ends)
    der = diversity.disagreement_error_ratio(optima.ends, optima.few.labels)
    return {
        "accuracy": float(accuracies.mean()),
        "accuracy_range": float(accuracies.max() - accuracies.min()),
        "cosine_within": float(np.mean(cosines)),
        "cosine_between": off_diagonal(landscape.weight_cosine(optima.points).abs()),
        "disagreement_within": float(np.mean(differ)),
        "disagreement_between": float(diversity.disagreement(optima.ends)),
        "der": float(der),
    }


def cluster_row(optima: Optima, samples: list[dict[str, Tensor]]) -> dict[str, float]:
    """Silhouettes of three runs' late checkpoints and of samples, by run.

    1: each lies far nearer to its own run than to the next; 0: no difference.
    """
    from sklearn.metrics import silhouette_score  # a second to import, and only here

    half, methods = optima.trajectories.shape[1] // 2, list(subspace.SAMPLERS)
    near = [torch.cat([samples[m][k][:2] for k in methods]) for m in range(3)]
    drawn = torch.stack([optima.logits(points) for points in near])  # (3, S, N, C)
    logits = torch.cat([optima.along[:3], drawn], dim=1)
    kept = slice(half, None)  # early networks of all runs are alike: ignorant
    runs = np.repeat(np.arange(3), logits[:, kept].shape[1])
    where = landscape.prediction_map(logits.flatten(0, 1), seed=optima.seed)
    where = where.view(3, -1, 2)[:, kept].flatten(0, 1)
    probs = logits[:, kept].softmax(-1).flatten(0, 1).flatten(1)
    return {
        "silhouette_map": float(silhouette_score(where.numpy(), runs)),
        "silhouette_probs": float(silhouette_score(probs.numpy(), runs)),
    }


def path_row(optima: Optima) -> dict[str, float]:
    """A straight and a fitted curve from the first optimum to the second."""
    a, b = optima.points[:2]
    how = dict(epochs=optima.options.bend_epochs, seed=optima.seed)
    bend = paths.fit_bend(optima.model, a, b, optima.train, **how)
    first, last = optima.accuracy(optima.ends[:2])
    straight = torch.linspace(0, 1, CURVE_STEPS) * (last - first) + first
    row = {}
    for name, points in (
        ("line", paths.line(a, b, CURVE_STEPS)),
        ("curve", paths.bezier(a, bend, b, CURVE_STEPS)),
    ):
        logits = optima.logits(points)
        change = optima.accuracy(logits) - straight  # the ends' own difference is none
        row[f"{name}_worst_change"] = float(change[1:-1].min())
        middle = torch.stack([logits[CURVE_STEPS // 2], *optima.ends[:2]])
        apart = diversity.pairwise_disagreement(middle)[0, 1:].mean()
        row[f"{name}_middle_disagreement"] = float(apart)
    return row
