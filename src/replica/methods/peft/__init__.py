"""Parameter-efficient tuning: adapters in sublayers, biases, norms, random subspaces, low-rank updates and prompts."""
