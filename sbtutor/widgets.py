"""The explorers of the lessons: controls around functions that draw."""

from sbtutor.explore import explore
from sbtutor.explore_landscape import landscape
from sbtutor.explore_live import trainer
from sbtutor.explore_theory import theory

__all__ = ["explore", "landscape", "theory", "trainer"]
