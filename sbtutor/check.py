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
from sbtutor.check_soup import soup
from sbtutor.check_star import star_cycle
from sbtutor.check_start import (
    one_image,
    one_more_run,
    points_gained,
    share_differing,
)
from sbtutor.check_theory import linear_sam_step, overshoot_rho
from sbtutor.check_transfer import barrier, basin_end, cycle_costs
from sbtutor.feedback import LESSONS as LESSONS

__all__ = [
    "barrier",
    "basin_end",
    "batch_linear",
    "batch_parameters",
    "cycle_costs",
    "disagreement_matrix",
    "ensemble_nll",
    "ensemble_probs",
    "linear_sam_step",
    "log_uniform",
    "log_uniform_mean",
    "next_member",
    "one_image",
    "one_more_run",
    "overshoot_rho",
    "points_gained",
    "sam_masks",
    "sam_step",
    "share_differing",
    "soup",
    "star_cycle",
    "top_eigenvalue",
    "trainings",
    "vote",
    "weight_dropout",
]
