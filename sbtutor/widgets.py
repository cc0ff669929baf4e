"""The explorers of the lessons: controls around functions that draw."""

from sbtutor.explore import explore

__all__ = ["explore"]
