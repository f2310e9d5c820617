"""Binarization: encoders with 1-bit weights and 1-bit activations."""
