"""Training in less memory: what the optimizer keeps, and what the backward pass needs."""
