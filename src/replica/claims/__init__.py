"""Claims: numbers that a paper printed, our measurements of them, and the verdicts computed from both."""
