"""Measurements of a paper: full-size models with their methods on the meta device, put through the meters."""
