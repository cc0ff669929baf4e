"""The papers' numbers that need no training: parameters, and the theory's formulas."""

from collections.abc import Callable

import torch

from sbtutor import batch_ensemble, models, theory
from sbtutor.config import ModelConfig

# The linear model of the authors' notebook (Lu et al. 2024); its teacher is drawn at
# random, ours has the root mean square of such a teacher's length.
RATIO, D, BLOCKS, ETA, SIGMA2, RHO0 = 3000 / 150, 150, 10, 0.01, 0.1, 0.01
W_NORM = (SIGMA2 * D) ** 0.5


def medium_cnn() -> float:
    """Parameters of Fort et al.'s MediumCNN."""
    with torch.device("meta"):
        return _size(models.build(ModelConfig(name="medium_cnn"), (3, 32, 32), 10, 0))


def batch(hyper: bool = False) -> float:
    """Parameters of a batch ensemble of four WRN-28-10 for CIFAR-100."""
    with torch.device("meta"):
        one = models.build(ModelConfig(name="wrn28_10"), (3, 32, 32), 100, 0)
        return _size(batch_ensemble.convert(one, 4, hyper=hyper, tied=hyper))


def hyper_batch() -> float:
    """The same of a hyper-batch ensemble, with u = r and v = s."""
    return batch(hyper=True)


def _size(model: torch.nn.Module) -> float:
    return float(sum(weight.numel() for weight in model.parameters()))


def sam_variance(rho: float, k: int) -> float:
    """Theorem 1's variance after k steps."""
    return theory.sam_variance(k, RATIO, ETA, rho, SIGMA2)


def sam_bound(rho: float, k: int) -> float:
    """Theorem 1's upper bound of the sharpness."""
    return theory.sam_sharpness_bounds(k, RATIO, ETA, rho, RHO0, W_NORM)[1]


def sharpbalance_variance(rho: float, k: int) -> float:
    """Theorem 2's variance after k steps."""
    return theory.sharpbalance_variance(k, RATIO, ETA, rho, SIGMA2, BLOCKS, D, W_NORM)


def sharpbalance_bound(rho: float, k: int) -> float:
    """Theorem 2's upper bound of the sharpness, with the published sum Q."""
    return theory.sharpbalance_sharpness_bound(
        k, RATIO, ETA, rho, RHO0, W_NORM, BLOCKS, "code"
    )


COUNTED: dict[str, Callable[..., float]] = {
    "medium_cnn": medium_cnn,
    "batch": batch,
    "hyper_batch": hyper_batch,
    "sam_variance": sam_variance,
    "sam_bound": sam_bound,
    "sharpbalance_variance": sharpbalance_variance,
    "sharpbalance_bound": sharpbalance_bound,
}
