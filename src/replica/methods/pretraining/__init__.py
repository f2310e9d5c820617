"""Pre-training: changes to the training of an encoder on masked words that leave the stored encoder as it was."""
