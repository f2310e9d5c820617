"""Training with differential privacy: clipped gradients of single examples, with noise."""
