"""Pruning: masks on weights, heads or neurons, chosen by magnitude, gradients or learned scores."""
