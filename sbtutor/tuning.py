"""The two objectives of batch and hyper-batch ensembles (Wenzel et al. 2020).

A training step moves the weights, on training images, at hyperparameters drawn from
each member's ranges. A tuning step moves the ranges, on validation images, with the
weights at rest.
"""

import dataclasses
import math
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sbtutor import loguniform
from sbtutor.batch_ensemble import BatchEnsemble
from sbtutor.space import Space


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the ranges of a hyper-batch ensemble are tuned."""

    space: Space = dataclasses.field(default_factory=Space)  # permitted ranges
    start: float = 1.0  # share of them, on a log scale, that is covered at first
    tau: float = 1e-4  # weight of the ranges' entropy, summed over all of them
    every: int = 3  # one tuning step after so many training steps
    lr: float = 0.003  # of Adam, which takes the tuning steps
    tied: bool = False  # u = r, v = s

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not 0 < self.start <= 1:
            raise ValueError(
                "start is the share of the permitted ranges, in (0, 1], that is "
                f"covered at first; got {self.start}"
            )
        if not 0 <= self.tau < math.inf:
            raise ValueError(f"tau must be at least 0 and finite, got {self.tau}")
        if not (self.every >= 1 and self.every % 1 == 0):
            raise ValueError(
                "every must be a whole number of training steps, at least 1, got "
                f"{self.every}"
            )
        if not 0 < self.lr < math.inf:
            raise ValueError(
                f"lr of the tuning steps must be positive and finite, got {self.lr}"
            )


def training_loss(
    ensemble: BatchEnsemble,
    images: Float[Tensor, "B C H W"],
    labels: Int[Tensor, " B"],
    log_lambda: Float[Tensor, "n P"],
    samples: int,
) -> Float[Tensor, ""]:
    """Mean over members and images of cross-entropy with label smoothing, plus L2.

        1/M sum_k mean_i [(1 - eps) (-log p_k(y)) + eps mean_c (-log p_k(c))]
            + 1/N sum_layers mean lambda ||W_k(lambda)||^2

    Each member is trained for itself: this is a mean of members' losses (the Gibbs
    loss), not the loss of their mean.

    Args:
        ensemble: M members, in train mode.
        images: seen by all members.
        labels: their classes.
        log_lambda: n = M * B rows, member-major: each example's hyperparameters.
        samples: N, the number of training images.
    """
    seen = ensemble.tile(images)
    logits = ensemble(seen, log_lambda if ensemble.hyper else None)
    log_probs = logits.log_softmax(-1)
    truth = -log_probs.gather(1, ensemble.tile(labels)[:, None]).squeeze(1)
    smoothing = log_lambda[:, ensemble.names.index("label_smoothing")].exp()
    loss = (1 - smoothing) * truth - smoothing * log_probs.mean(-1)
    return loss.mean() + ensemble.penalty(log_lambda) / samples


def tuning_loss(
    ensemble: BatchEnsemble,
    images: Float[Tensor, "B C H W"],
    labels: Int[Tensor, " B"],
    u: Float[Tensor, "M B P"],
    tau: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of the ensemble, less tau times the entropy of all ranges.

        mean_i -log 1/M sum_k p_k(y_i | x_i, lambda_ki) - tau sum_kh H[lambda_kh]

    The entropy is that of lambda, not of its logarithm. So it does not only grow with a
    range's width: it pulls both ends up, each with slope 1/2 on the log scale.

    The published code takes the mean entropy of the M * P ranges, not the sum, so its
    tau is M * P times ours.

    Args:
        ensemble: a hyper-batch ensemble, in eval mode.
        images: validation images, seen by all members.
        labels: their classes.
        u: uniform numbers, from which each example's hyperparameters are drawn.
        tau: weight of the entropy, in 1.
    """
    logits = ensemble(ensemble.tile(images), ensemble.sample(u))
    members = logits.unflatten(0, (ensemble.members, -1)).log_softmax(-1)
    log_probs = members.logsumexp(0) - math.log(ensemble.members)
    entropy = loguniform.entropy(ensemble.low, ensemble.high).sum()
    return F.nll_loss(log_probs, labels) - tau * entropy
