"""Heads by name: the transformers class for each kind of task, and how many outputs it has. Loads no library."""

from __future__ import annotations

#: Head: the transformers auto class that builds it. `none` is another word for `text`: the bare encoder.
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

#: Heads whose answers are texts that the model generates.
GENERATED = ("text2text", "completion")

#: Heads whose output size is the number of labels.
LABELLED = ("classification", "tagging", "image", "audio")


def label_count(head: str, labels: int) -> int | None:
    """Return `num_labels` of the configuration for a head: 1 for regression, None where there are none."""
    if head == "regression":
        return 1
    return labels if head in LABELLED else None
