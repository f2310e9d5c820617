"""Quantisation to eight bits: training with simulated int8, layers that store it, and export to ONNX for int8 kernels."""
