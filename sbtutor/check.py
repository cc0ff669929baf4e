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
from sbtutor.check_budget import largest_search, nll_gain, repeats, trainings
from sbtutor.check_controls import height_above, missing_control, mixed_gradient
from sbtutor.check_curvature import hutchinson, top_eigenvalue
from sbtutor.check_curves import disagreement_bounds, reordered, upper_height
from sbtutor.check_ensembles import ambiguity, brier_by_size, ensemble_probs, vote
from sbtutor.check_factors import factor_gradient, twins
from sbtutor.check_hyper import log_uniform, next_member
from sbtutor.check_landscape import disagreement_matrix, weight_dropout
from sbtutor.check_masks import random_masks, sam_masks, union_share
from sbtutor.check_runs import fresh_seeds, still_to_run
from sbtutor.check_sam import sam_step, sam_update
from sbtutor.check_scale import (
    distinct_runs,
    gain_half_width,
    sharpbalance_flops,
    time_with_workers,
)
from sbtutor.check_sharpness import longest_step, rescaled, unmoved_weights
from sbtutor.check_soup import soup
from sbtutor.check_star import star_cycle
from sbtutor.check_start import (
    one_image,
    one_more_run,
    points_gained,
    share_differing,
)
from sbtutor.check_theory import (
    balanced_rho,
    learner_variance,
    linear_sam_step,
    overshoot_rho,
    variance_rise,
)
from sbtutor.check_tradeoff import correlation_within, der, valley_trace
from sbtutor.check_transfer import barrier, basin_end, cycle_costs
from sbtutor.feedback import LESSONS as LESSONS

__all__ = [
    "ambiguity",
    "balanced_rho",
    "barrier",
    "basin_end",
    "batch_linear",
    "batch_parameters",
    "brier_by_size",
    "correlation_within",
    "cycle_costs",
    "der",
    "disagreement_bounds",
    "disagreement_matrix",
    "distinct_runs",
    "ensemble_nll",
    "ensemble_probs",
    "factor_gradient",
    "fresh_seeds",
    "gain_half_width",
    "height_above",
    "hutchinson",
    "largest_search",
    "learner_variance",
    "linear_sam_step",
    "log_uniform",
    "log_uniform_mean",
    "longest_step",
    "missing_control",
    "mixed_gradient",
    "next_member",
    "nll_gain",
    "one_image",
    "one_more_run",
    "overshoot_rho",
    "points_gained",
    "random_masks",
    "reordered",
    "repeats",
    "rescaled",
    "sam_masks",
    "sam_step",
    "sam_update",
    "share_differing",
    "sharpbalance_flops",
    "soup",
    "star_cycle",
    "still_to_run",
    "time_with_workers",
    "top_eigenvalue",
    "trainings",
    "twins",
    "union_share",
    "unmoved_weights",
    "upper_height",
    "valley_trace",
    "variance_rise",
    "vote",
    "weight_dropout",
]
