"""Heads by name: the model class for each kind of task, and which parameters belong to the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replica.errors import ConfigError, nearest

if TYPE_CHECKING:
    from replica.config.schema import Task

#: Head: the transformers auto class that builds it. `none` is another word for `text`: the bare encoder.
HEADS = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "tagging": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "mlm": "AutoModelForMaskedLM",
    "pretraining": "AutoModelForPreTraining",
    "text": "AutoModel",
    "none": "AutoModel",
    "text2text": "AutoModelForSeq2SeqLM",
    "image": "AutoModelForImageClassification",
}

#: Heads whose output size is the number of labels.
LABELLED = ("classification", "tagging", "image")


def auto_class(head: str) -> type:
    """Return the transformers auto class of a head; raises ConfigError with the nearest known name."""
    if head not in HEADS:
        raise ConfigError(f"unknown head '{head}'{nearest(head, HEADS)}")
    import transformers

    return getattr(transformers, HEADS[head])


def head_of(task: Task) -> str:
    """Return the head that a task needs: its kind, or `pretraining` for masked words with next-sentence pairs."""
    return "pretraining" if task.kind == "mlm" and task.next_sentence else task.kind


def label_count(head: str, labels: int) -> int | None:
    """Return `num_labels` of the configuration for a head: 1 for regression, None where there are none."""
    if head == "regression":
        return 1
    return labels if head in LABELLED else None


def is_head_key(key: str, prefix: str) -> bool:
    """Whether a parameter's name belongs to the head: outside the body, or the body's pooler.

    A pooler counts as head because checkpoints of masked-language models have none; it is only used by heads.
    """
    inside = not prefix or key.startswith(f"{prefix}.")
    return not inside or "pooler" in key.removeprefix(f"{prefix}.").split(".")
