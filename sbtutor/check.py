"""Checks of the exercises: each says what is wrong, not only that it is.

A check takes the learner's function, calls it on small inputs and prints one line. It
returns True only for a right answer, so that a cell can also assert it.
"""

from sbtutor.check_ensembles import ensemble_probs, vote
from sbtutor.check_landscape import disagreement_matrix, weight_dropout
from sbtutor.check_sharpness import sam_masks, sam_step, top_eigenvalue
from sbtutor.check_theory import linear_sam_step, overshoot_rho

__all__ = [
    "disagreement_matrix",
    "ensemble_probs",
    "linear_sam_step",
    "overshoot_rho",
    "sam_masks",
    "sam_step",
    "top_eigenvalue",
    "vote",
    "weight_dropout",
]
