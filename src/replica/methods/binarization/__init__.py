"""Binarization methods: encoders with 1-bit weights and 1-bit activations.

`bipft` (BiPFT-A and BiPFT-B) is both the pre-trained method and, applied directly in fine-tuning, its task-specific baseline.
`cost.py` counts its stored bits and its operations by the conventions of the field.
"""
