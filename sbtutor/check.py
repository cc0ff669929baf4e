"""Checks of the exercises: each says what is wrong, not only that it is.

A check takes the learner's function, calls it on small inputs and prints one line. It
returns True only for a right answer, so that a cell can also assert it.
"""

from sbtutor.check_batch import (
    batch_linear,
    batch_parameters,
    ensemble_nll,
    log_uniform_mean,
)
from sbtutor.check_ensembles import ensemble_probs, vote
from sbtutor.check_hyper import log_uniform, next_member, trainings
from sbtutor.check_landscape import disagreement_matrix, weight_dropout
from sbtutor.check_sharpness import sam_masks, sam_step, top_eigenvalue
from sbtutor.check_star import star_cycle
from sbtutor.check_theory import linear_sam_step, overshoot_rho
from sbtutor.check_transfer import barrier, soup
from sbtutor.feedback import LESSONS as LESSONS

__all__ = [
    "barrier",
    "batch_linear",
    "batch_parameters",
    "disagreement_matrix",
    "ensemble_nll",
    "ensemble_probs",
    "linear_sam_step",
    "log_uniform",
    "log_uniform_mean",
    "next_member",
    "overshoot_rho",
    "sam_masks",
    "sam_step",
    "soup",
    "star_cycle",
    "top_eigenvalue",
    "trainings",
    "vote",
    "weight_dropout",
]
