"""Pruning: masks on linear layers, the schedules that move them, locked patterns and what a sparse model counts to.

`config` registers the methods without torch; `schedule` holds their arithmetic over steps; `masks` puts masks on
layers.
"""
