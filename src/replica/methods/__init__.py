"""Families of methods, one module each; `registry` names them without torch, `base` is the protocol they follow."""

from replica.methods.base import Context, Method
from replica.methods.registry import MethodConfig, entries, entry, method, parse

__all__ = ["Context", "Method", "MethodConfig", "entries", "entry", "method", "parse"]
