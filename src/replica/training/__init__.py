"""The one training loop: a thin layer on transformers.Trainer with method hooks, length buckets, resume and a run's records."""
