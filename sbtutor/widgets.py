"""The explorers of the lessons: controls around functions that draw."""

from sbtutor.explore import explore
from sbtutor.explore_landscape import landscape
from sbtutor.explore_live import trainer
from sbtutor.explore_members import members
from sbtutor.explore_theory import theory
from sbtutor.explore_tradeoff import tradeoff, tradeoff_figure

__all__ = [
    "explore",
    "landscape",
    "members",
    "theory",
    "tradeoff",
    "tradeoff_figure",
    "trainer",
]
