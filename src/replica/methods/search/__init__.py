"""Searches over structures: which small modules to put where."""
