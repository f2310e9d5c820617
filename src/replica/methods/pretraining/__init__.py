"""Pre-training: what changes how an encoder is trained on masked words, and leaves the stored encoder as it was."""
