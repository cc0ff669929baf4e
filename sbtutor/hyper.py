"""Hyperparameter ensembles (Wenzel et al. 2020): fixed-init, deep and hyper-deep."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from sbtutor.config import Experiment
from sbtutor.pool import Pool, locate, search, seed_of, train
from sbtutor.selection import (
    GreedyPath,
    greedy_ensemble,
    greedy_path,
    mixed_probs,
    mixing_weights,
)
from sbtutor.trial import Trial, train_one

__all__ = [
    "Ensemble",
    "GreedyPath",
    "Pool",
    "Trial",
    "deep_ensemble",
    "greedy_ensemble",
    "greedy_path",
    "hyper_deep_ensemble",
    "hyper_ensemble",
    "inits_of",
    "mixed_probs",
    "mixing_weights",
    "search",
    "search_size",
    "stratify",
    "train",
    "train_one",
]


@dataclass(frozen=True)
class Ensemble:
    """What was chosen from which pool, and what it cost."""

    pool: Pool
    chosen: list[int]  # with repeats
    trainings: int  # how many networks were trained for it in all

    @property
    def unique(self) -> list[int]:
        """The different members, in the order in which they were chosen."""
        return list(dict.fromkeys(self.chosen))

    @property
    def weights(self) -> Float[Tensor, " P"]:
        """Each pool member's share; see `mixing_weights`."""
        return mixing_weights(self.chosen, len(self.pool))

    def probs(self, part: Literal["val", "test"] = "test") -> Float[Tensor, "N C"]:
        """The ensemble's class probabilities."""
        return mixed_probs(getattr(self.pool, part).logits, self.chosen)

    def members(self) -> list[nn.Module]:
        """The different members' networks, in the order of `unique`."""
        return [self.pool.model(i) for i in self.unique]


def _greedy(pool: Pool, size: int, trainings: int) -> Ensemble:
    pool = pool.finite()
    chosen = greedy_ensemble(pool.val.logits.softmax(-1), pool.val.labels, size)
    return Ensemble(pool, chosen, trainings)


def hyper_ensemble(pool: Pool, size: int) -> Ensemble:
    """A greedy ensemble from the networks of one random search.

    From a search with one initialisation it is the paper's fixed-init hyper ensemble.
    It takes kappa trainings, those of the pool.
    """
    return _greedy(pool, size, len(pool))


def inits_of(trial: Trial, size: int) -> list[Trial]:
    """The trial and size - 1 others with its settings, from other first weights.

    Each has its own order of the data, too. Trials that share the first weights share
    the others as well, so that a stratified pool crosses settings and initialisations.
    The first K of a larger size are those of size K.
    """
    if size < 1:
        raise ValueError(f"a trial has at least one initialisation, got size={size}")
    others = [
        dataclasses.replace(
            trial,
            init=seed_of(trial.init, "stratify", k),
            order=seed_of(trial.order, "stratify", k),
        )
        for k in range(1, size)
    ]
    return [trial, *others]


def deep_ensemble(
    experiment: Experiment, pool: Pool, size: int, jobs: int | None = None
) -> Ensemble:
    """The best single setting of a pool, by validation NLL, from `size` first weights.

    The first member is the pool's own. It takes kappa + K - 1 trainings in all.

    Args:
        experiment: the one that the pool was searched with.
        pool: from `search`.
        size: K.
        jobs: processes at once.

    Raises:
        ValueError: size < 1; another experiment than the pool's; all networks diverged.
    """
    best = _greedy(pool, 1, 0)
    made = stratify(experiment, best.pool, best.chosen, size, jobs)
    made = made.finite()
    return Ensemble(made, list(range(len(made))), len(pool) + size - 1)


def stratify(
    experiment: Experiment,
    pool: Pool,
    chosen: Sequence[int],
    size: int,
    jobs: int | None = None,
) -> Pool:
    """The U different chosen settings, each from `size` first weights.

    Step 3 of Algorithm 1: U (K - 1) new trainings, as each setting's first network is
    the pool's own.

    Returns:
        U K networks; those of one setting follow each other.

    Raises:
        ValueError: size < 1; another experiment than the pool's.
    """
    unique = list(dict.fromkeys(chosen))
    trials = [t for i in unique for t in inits_of(pool.trials[i], size)]
    searched = [pool.trials[i] for i in unique]
    known = [pool.paths[i] for i in unique]
    if locate(experiment, searched, pool.folder) != known:
        raise ValueError(
            "the pool was searched with another experiment, or on other images; give "
            "the experiment of its search"
        )
    return train(experiment, trials, pool.folder, jobs)


def hyper_deep_ensemble(
    experiment: Experiment, pool: Pool, size: int, jobs: int | None = None
) -> Ensemble:
    """Algorithm 1 of Wenzel et al. 2020, from the end of its random search on.

    Greedy selection of K members; each of their U <= K settings from K first weights;
    greedy selection of K among these U K networks. It takes kappa + U (K - 1)
    trainings: 70 for kappa = 50 and U = K = 5. Arguments and errors as `deep_ensemble`.
    """
    first = hyper_ensemble(pool, size)
    made = stratify(experiment, first.pool, first.chosen, size, jobs)
    return _greedy(made, size, len(pool) + len(first.unique) * (size - 1))


def search_size(budget: int, size: int) -> int:
    """The networks that a search may train, so that all fits into a budget.

        kappa = B - K (K - 1),

    the most that a hyper-deep ensemble of K can take for its stratification.

    Raises:
        ValueError: size < 1; a budget below K^2, which leaves fewer than K to choose
            from.
    """
    if size < 1:
        raise ValueError(f"an ensemble has at least one member, got size={size}")
    if budget < size**2:
        raise ValueError(
            f"a hyper-deep ensemble of {size} takes at least {size**2} trainings "
            f"({size} searched, {size * (size - 1)} for other first weights), got "
            f"budget={budget}"
        )
    return budget - size * (size - 1)
