"""Heads by name: how they are built, and which parameters belong to the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replica.config.heads import FURTHER_HEADS, HEADS
from replica.errors import ConfigError, nearest

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from replica.config.task_schema import Task


def auto_class(head: str) -> type:
    """Return the transformers class of a head, mostly an auto class; raises ConfigError with the nearest known name."""
    known = {**HEADS, **FURTHER_HEADS}
    if head not in known:
        raise ConfigError(f"unknown head '{head}'{nearest(head, known)}")
    import transformers

    return getattr(transformers, known[head])


def check_head(config: PretrainedConfig, head: str) -> None:
    """Raise ConfigError naming the heads that this configuration's architecture has, when it lacks this one."""
    if not has_head(config, head):
        have = [name for name in (*HEADS, *FURTHER_HEADS) if name != "none" and has_head(config, name)]
        raise ConfigError(f"architecture '{config.model_type}' has no head '{head}'; it has {', '.join(have)}")


def has_head(config: PretrainedConfig, head: str) -> bool:
    """Say whether this configuration's architecture has a head; raises ConfigError for a name that no head has."""
    found = auto_class(head)
    mapping = getattr(found, "_model_mapping", None)
    return type(config) in mapping if mapping is not None else isinstance(config, found.config_class)


def supported_attention(config: PretrainedConfig, head: str, attention: str) -> str:
    """Return `attention`, or `eager` in place of `sdpa` where the architecture has no such kernel. The head must be one it has."""
    found = auto_class(head)
    mapping = getattr(found, "_model_mapping", None)
    kinds = found if mapping is None else mapping[type(config)]
    kinds = kinds if isinstance(kinds, (list, tuple)) else (kinds,)
    return attention if attention != "sdpa" or all(kind._supports_sdpa for kind in kinds) else "eager"


def head_of(task: Task) -> str:
    """Return the head that a task needs: its kind, or `pretraining` for masked words with next-sentence pairs."""
    return "pretraining" if task.kind == "mlm" and task.next_sentence else task.kind


def is_head_key(key: str, prefix: str) -> bool:
    """Whether a parameter's name belongs to the head: outside the body, or the body's pooler.

    A pooler counts as head because checkpoints of masked-language models have none; it is only used by heads.
    """
    inside = not prefix or key.startswith(f"{prefix}.")
    return not inside or "pooler" in key.removeprefix(f"{prefix}.").split(".")
