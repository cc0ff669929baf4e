"""The study "hyper": ensembles over settings, over first weights, and over both.

Wenzel et al. 2020. All is chosen on validation images and measured on test images.
"""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sbtutor import batch_training, config, cost, data, diversity, hyper, metrics, needs
from sbtutor.batch_training import Fitted
from sbtutor.config import Experiment
from sbtutor.hyper import Ensemble, Pool
from sbtutor.predict import predict
from sbtutor.space import Space
from sbtutor.trial import check_train
from sbtutor.tuning import Tuning

WHAT = "deep, fixed-init hyper and hyper-deep ensembles from one random search"
Row = dict[str, float | int | str]
BEST = 3  # settings of the search that are tried for the batch ensemble
# Of what `ensemble_row` tells.
COLUMNS = (
    *("accuracy", "nll", "brier", "ece", "val_nll"),
    *("members", "trainings", "largest_share"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is searched, and how batch ensembles are trained."""

    kappa: int = 50  # networks of the random search
    l2_low: float = 1e-3  # least and ...
    l2_high: float = 1e3  # ... largest L2 strength; the penalty is l2 / N ||w||^2
    smoothing_high: float = 0.2  # largest label smoothing of the search
    batch: bool = False  # a batch and a hyper-batch ensemble, too. For these only:
    batch_epochs: int | None = None  # None: as many as a network takes
    start: float = 1.0  # share of the ranges, on a log scale, that is covered at first
    tau: float = 1e-4  # weight of the ranges' entropy
    tuning_lr: float = 0.003  # of the steps that move the ranges
    tied: bool = False  # u = r and v = s, as in the paper's residual networks

    def __post_init__(self) -> None:
        """Refuse what cannot be; forget what has no effect."""
        config.make_plain(self)
        config.check(
            self.kappa >= 1,
            f"kappa, the networks of the search, must be at least 1, got {self.kappa}",
        )
        config.check(
            self.batch_epochs is None or self.batch_epochs >= 1,
            "batch_epochs must be at least 1, or None for those of a network, got "
            f"{self.batch_epochs}",
        )
        _ = self.tuning  # refuses impossible ranges, too
        if not self.batch:
            for name in ("batch_epochs", "start", "tau", "tuning_lr", "tied"):
                object.__setattr__(self, name, getattr(type(self), name))

    @property
    def space(self) -> Space:
        """The ranges of the search."""
        smoothing = (Space().label_smoothing[0], self.smoothing_high)
        return Space(l2=(self.l2_low, self.l2_high), label_smoothing=smoothing)

    @property
    def tuning(self) -> Tuning:
        """How a hyper-batch ensemble's ranges are tuned."""
        how = dict(start=self.start, tau=self.tau, lr=self.tuning_lr, tied=self.tied)
        return Tuning(space=self.space, **how)


def check(experiment: Experiment, options: Options) -> None:
    """Refuse training by other methods, and ensembles that cannot be chosen.

    Raises:
        ValueError: fewer than two members, or more than the search has networks; as
            `trial.check_train`; batch ensembles by another optimizer than SGD.
    """
    train = experiment.train
    check_train(train)
    config.check(
        2 <= train.members <= options.kappa,
        f"ensembles are chosen from the kappa={options.kappa} networks of the search, "
        f"so members must be from 2 to {options.kappa}, got {train.members}",
    )
    config.check(
        not options.batch or train.optimizer == "sgd",
        f"batch ensembles are trained by SGD, got optimizer={train.optimizer!r}; "
        "write optimizer='sgd', or batch=False",
    )


def ready(experiment: Experiment, options: Options) -> None:
    """See that images and device are there; errors as in `needs.check`."""
    needs.check(experiment)


def run(experiment: Experiment, options: Options, folder: Path, shared: Path) -> Row:
    """Search, choose, train what is missing; one row.

    All networks are files in `shared`, named by what they depend on. A killed run goes
    on after the last one; runs of other sizes have their searches in common.

    Returns:
        `single_*`, the best of the search; `deep_*`, `hyper_*` (with one first
        weights), `hyper_deep_*` and, if asked for, `batch_*` and `hyper_batch_*`:
        accuracy, nll, brier and ece on test images, val_nll, members (different ones),
        trainings, largest_share of a member, member_accuracy, member_nll and
        disagreement. A batch ensemble that diverged is NaN. `diverged` networks of the
        search; seconds, of all that was trained.
    """
    train, out = experiment.train, shared / "networks"
    pool = hyper.search(
        experiment, options.kappa, out, options.space, train.seed, jobs=1
    )
    made = {
        "single": hyper.deep_ensemble(experiment, pool, 1, jobs=1),
        "deep": hyper.deep_ensemble(experiment, pool, train.members, jobs=1),
        "hyper": hyper.hyper_ensemble(pool, train.members),
        "hyper_deep": hyper.hyper_deep_ensemble(experiment, pool, train.members, 1),
    }
    row: Row = {"diverged": len(pool.diverged)}
    for name, ensemble in made.items():
        found = _kind_row(ensemble, train.members)
        row |= {f"{name}_{key}": value for key, value in found.items()}
    took = {}
    for each in (pool, *(ensemble.pool for ensemble in made.values())):
        took |= dict(zip(each.paths, each.seconds))
    seconds = sum(took.values())
    if options.batch:
        found = _batch_rows(experiment, options, pool, out)
        seconds += found.pop("seconds")
        row |= found
    return row | {"seconds": seconds}


def quality(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Four numbers of one ensemble."""
    names = ("accuracy", "nll", "brier", "ece")
    return {name: float(getattr(metrics, name)(probs, labels)) for name in names}


def pool_order(pool: Pool) -> list[int]:
    """The networks by validation NLL, the best first; without those that diverged."""
    usable = set(range(len(pool))) - set(pool.diverged)
    probs, labels = pool.val.logits.softmax(-1), pool.val.labels
    return sorted(usable, key=lambda i: float(metrics.nll(probs[i], labels)))


def ensemble_row(ensemble: Ensemble, size: int) -> dict[str, Any]:
    """Its quality, its cost, and how unequal its members' shares are."""
    pool = ensemble.pool
    best = pool_order(pool)[: len(ensemble.unique)]
    path = hyper.greedy_path(pool.val.logits.softmax(-1), pool.val.labels, size).nll
    return {
        "trainings": ensemble.trainings,
        "members": len(ensemble.unique),
        "largest_share": float(ensemble.weights.max()),
        "is_top": float(set(ensemble.unique) == set(best)),
        "largest_rise": float(path.diff().max()) if len(path) > 1 else float("nan"),
        "val_nll": float(metrics.nll(ensemble.probs("val"), pool.val.labels)),
    } | quality(ensemble.probs("test"), pool.test.labels)


def _member_row(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The mean member, and how often two of them vote differently."""
    own = [quality(each, labels) for each in logits.softmax(-1)]
    names = ("accuracy", "nll")
    row = {f"member_{k}": sum(each[k] for each in own) / len(own) for k in names}
    return row | {"disagreement": float(diversity.disagreement(logits))}


def _kind_row(ensemble: Ensemble, size: int) -> dict[str, float]:
    found, test = ensemble_row(ensemble, size), ensemble.pool.test
    members = _member_row(test.logits[ensemble.unique], test.labels)
    return {name: found[name] for name in COLUMNS} | members


def longer(experiment: Experiment, epochs: int) -> Experiment:
    """The experiment with other epochs, and its milestones moved in proportion."""
    train = experiment.train
    marks = sorted({max(1, m * epochs // train.epochs) for m in train.milestones})
    return replace(experiment, train=replace(train, epochs=epochs, milestones=marks))


def batch_ensembles(
    experiments: Sequence[Experiment], pool: Pool, out: Path
) -> list[tuple[float, Fitted]]:
    """Batch ensembles with the best settings of a pool, the best first.

    Each of `BEST` settings is tried with each experiment; what diverges is left out.

    Returns:
        Each ensemble with its validation NLL.
    """
    found = []
    for experiment, i in itertools.product(experiments, pool_order(pool)[:BEST]):
        with contextlib.suppress(FloatingPointError):
            fitted = batch_training.fit(experiment, pool.trials[i].settings, out)
            found.append((_val_nll(fitted, data.load(experiment.data).val), fitted))
    return sorted(found, key=lambda pair: pair[0])


def _val_nll(fitted: Fitted, val: data.Split) -> float:
    seen = predict(fitted.members, val)
    return float(metrics.nll(metrics.ensemble_probs(seen.logits), seen.labels))


def _batch_rows(experiment: Experiment, options: Options, pool: Pool, out: Path) -> Row:
    one = longer(experiment, options.batch_epochs or experiment.train.epochs)
    splits = data.load(one.data)
    tried = batch_ensembles([one], pool, out)
    made = {"batch": tried[0] if tried else None, "hyper_batch": None}
    with contextlib.suppress(FloatingPointError):
        tuned = batch_training.fit(one, options.tuning, out)
        made["hyper_batch"] = (_val_nll(tuned, splits.val), tuned)
        tried = [*tried, made["hyper_batch"]]
    row: Row = {"seconds": sum(fitted.seconds for _, fitted in tried)}
    for name, found in made.items():
        if found is None:
            columns = ("accuracy", "nll", "val_nll")
            row |= {f"{name}_{key}": float("nan") for key in columns}
            continue
        seen = predict(found[1].members, splits.test)
        about = quality(metrics.ensemble_probs(seen.logits), seen.labels)
        about |= {"val_nll": found[0]} | _member_row(seen.logits, seen.labels)
        row |= {f"{name}_{key}": value for key, value in about.items()}
    return row


def flops(experiment: Experiment, options: Options, sizes: cost.Sizes) -> float:
    """Of all training and prediction, at most.

    kappa + K (K - 1) networks: greedy choice may take fewer than K settings, and the
    deep ensemble's networks are among those of the hyper-deep one. A batch ensemble of
    K costs what K networks do, three are trained; a hyper-batch ensemble has two
    kernels a layer, and a gradient more for every third step.
    """
    size, train = experiment.train.members, replace(experiment.train, members=1)
    seen = sizes.val + sizes.test
    network = cost.gradient_passes(train, sizes.train) + seen
    passes = (options.kappa + size * (size - 1)) * network
    if options.batch:
        long = longer(experiment, options.batch_epochs or train.epochs).train
        tuning = 1 + 1 / options.tuning.every
        steps = cost.gradient_passes(long, sizes.train)
        passes += steps * (BEST + 2 * tuning) + (BEST + 2) * size * seen
    return passes * cost.model_flops(experiment.model, sizes.in_shape, sizes.classes)
