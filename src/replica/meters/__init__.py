"""Meters count and measure a model on the meta device or on real tensors: parameters, FLOPs, stored bytes, optimizer state, memory.

`options` has the options and result keys of every meter of a paper's `measurements:`, `registry` the meters by name; both are free of
torch. `timing.latency` measures finished runs, and `micronet.count_operations` serves sparse training.
"""
