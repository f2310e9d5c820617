"""Claims: what a paper printed, what was measured here, and the verdict computed from the two."""
