"""Distillation methods: a student learns from a teacher's attention, hidden states or logits.

`minilm` (last-layer self-attention), `tinybert-distillation` (layer to layer), `hidden-distillation` (all hidden
states) and `logit-distillation` (soft targets). A teacher assistant is a run whose teacher is another run.
"""
