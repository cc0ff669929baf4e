"""Ensembles of neural networks, from deep ensembles to SharpBalance: a course."""

__version__ = "0.1.0"
