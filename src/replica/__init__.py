"""Replica: a reproducible workflow that regenerates the numbers of 42 papers on compact, cheaply trained transformers."""

__version__ = "0.1.0"
