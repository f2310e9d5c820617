"""Replica: a reproducible workflow that regenerates the numbers of 42 papers on compact, cheaply trained transformers."""

import logging

__version__ = "0.1.0"

# peft imports it where it is there; it warns that an optional kernel for 4-bit weights is not, which nothing here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
