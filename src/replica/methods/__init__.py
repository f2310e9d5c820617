"""Families of methods, a folder each; `registry` lists them without torch, `base` is their protocol."""

from replica.methods.base import Context, Method
from replica.methods.registry import MethodConfig, entries, entry, method, parse

__all__ = ["Context", "Method", "MethodConfig", "entries", "entry", "method", "parse"]
