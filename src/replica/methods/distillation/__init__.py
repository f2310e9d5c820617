"""Distillation methods: a student learns from a teacher's attention, hidden states or logits.

A teacher assistant is a run whose teacher is another run.
"""
