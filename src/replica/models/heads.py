"""Heads by name: how they are built, and which parameters belong to the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replica.errors import ConfigError, nearest

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Head: the transformers class that builds it. Heads of tasks have the name of the kind, or `pretraining` (masked words with
#: next-sentence pairs); `none` is another word for `text`: the bare encoder.
HEADS = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "tagging": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "mlm": "AutoModelForMaskedLM",
    "pretraining": "AutoModelForPreTraining",
    "causal": "AutoModelForCausalLM",
    "text": "AutoModel",
    "none": "AutoModel",
    "text2text": "AutoModelForSeq2SeqLM",
    "completion": "AutoModelForCausalLM",
    "image": "AutoModelForImageClassification",
}

#: Heads that no task has yet, for measurements; `projection` is the image embedding of CLIP's tower.
FURTHER_HEADS = {
    "ctc": "AutoModelForCTC",
    "audio": "AutoModelForAudioClassification",
    "projection": "CLIPVisionModelWithProjection",
}

#: Heads of a decoder that predicts each word from the ones before it.
DECODERS = ("causal", "completion")

#: Heads whose output size is the number of labels.
LABELLED = ("classification", "tagging", "image", "audio")


def output_count(head: str, labels: int) -> int | None:
    """Return `num_labels` of the configuration for a head: 1 for regression, None where there are none."""
    if head == "regression":
        return 1
    return labels if head in LABELLED else None


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
    """Return whether this configuration's architecture has a head; raises ConfigError for a name that no head has."""
    auto = auto_class(head)
    mapping = getattr(auto, "_model_mapping", None)
    return type(config) in mapping if mapping is not None else isinstance(config, auto.config_class)


def supported_attention(config: PretrainedConfig, head: str, attention: str) -> str:
    """Return `attention`, or `eager` in place of `sdpa` where the architecture has no such kernel. The head must be one it has."""
    auto = auto_class(head)
    mapping = getattr(auto, "_model_mapping", None)
    kinds = auto if mapping is None else mapping[type(config)]
    kinds = kinds if isinstance(kinds, (list, tuple)) else (kinds,)
    return attention if attention != "sdpa" or all(kind._supports_sdpa for kind in kinds) else "eager"


def is_head_key(key: str, prefix: str) -> bool:
    """Whether a parameter's name belongs to the head: outside the body, or the body's pooler.

    A pooler counts as head because checkpoints of masked-language models have none; it is only used by heads.
    """
    inside = not prefix or key.startswith(f"{prefix}.")
    return not inside or "pooler" in key.removeprefix(f"{prefix}.").split(".")
