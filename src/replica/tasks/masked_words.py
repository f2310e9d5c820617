"""Masked-language modelling: the choice of masked words, and a head that is computed at those words only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from replica.models.architectures import architecture_of
from replica.tasks.columns import IGNORED
from replica.tasks.kinds.kind import model_inputs

if TYPE_CHECKING:
    from torch import nn

#: Of the chosen words: share replaced by the mask token, and by a random word; the rest stay (Devlin et al. 2019,
#: section 3.1).
MASK_SHARE = 0.8
RANDOM_SHARE = 0.1


def mask_tokens(
    input_ids: np.ndarray, tokenizer: dict[str, Any], *, share: float, seed: int, epoch: int, example_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose `share` of a row's words (rounded, at least one; never special tokens) and mask them.

    Of the chosen, 80 % become the mask token, 10 % a random word of the vocabulary and 10 % stay. Everything is drawn
    from a counter-based generator keyed by (seed, epoch, example_id): it does not depend on earlier draws, on
    the process, or on the batch of the row. Returns (inputs, labels), both `(length,)` int64, labels -100
    where nothing was chosen.
    """
    inputs = np.array(input_ids, dtype=np.int64)
    labels = np.full(len(inputs), IGNORED, dtype=np.int64)
    words = np.flatnonzero(~np.isin(inputs, tokenizer["special_ids"]))
    if not len(words):
        return inputs, labels
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, example_id]))
    count = max(1, round(share * len(words)))
    chosen = generator.permutation(words)[:count]
    fate = generator.random(count)
    random_words = generator.integers(0, tokenizer["vocab_size"], size=count)
    labels[chosen] = inputs[chosen]
    inputs[chosen] = np.where(
        fate < MASK_SHARE,
        tokenizer["mask_id"],
        np.where(fate < MASK_SHARE + RANDOM_SHARE, random_words, inputs[chosen]),
    )
    return inputs, labels


@dataclass
class MlmOutput:
    """The outputs of body and heads for a batch.

    `logits` `(positions, vocabulary)` and `labels` `(positions,)` in row-major order of the batch's positions; `body` is
    the body's own output (`last_hidden_state`, `hidden_states`, `attentions`); `next_sentence_logits` `(batch, 2)` or
    None.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    body: Any
    next_sentence_logits: torch.Tensor | None = None

    def masked(self) -> MlmOutput:
        """Return the same output at masked words only."""
        chosen = self.labels != IGNORED
        return replace(self, logits=self.logits[chosen], labels=self.labels[chosen])


def mlm_forward(
    model: nn.Module, batch: dict[str, torch.Tensor], *, where: torch.Tensor | None = None, **options: Any
) -> MlmOutput:
    """Run the body on a batch and the masked-language head at the positions whose label is not -100, or at those of `where`.

    `where` is `(batch, length)` bool; `labels` of the output hold -100 at its words that are not masked. `options` go to the body
    (`output_hidden_states=True`, …). Works for BertForMaskedLM, BertForPreTraining and the like (`cls.predictions`) and
    RobertaForMaskedLM (`lm_head`); for any other model the full head is run and then indexed.
    """
    inputs = model_inputs(batch)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    masked = batch["labels"] != IGNORED if where is None else where
    labels = batch["labels"][masked]
    head = _head(inner)
    if head is None:
        output = model(**inputs, **options)
        logits = getattr(output, "prediction_logits", None)
        logits = output.logits if logits is None else logits
        return MlmOutput(logits[masked], labels, output, getattr(output, "seq_relationship_logits", None))
    body = inner.base_model(**inputs, **options)
    logits = head(body.last_hidden_state[masked])
    relation = getattr(getattr(inner, "cls", None), "seq_relationship", None)
    return MlmOutput(logits, labels, body, relation(body.pooler_output) if relation is not None else None)


def mlm_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean cross-entropy over masked words, plus that of next-sentence labels where there are any.

    Equal to the loss that the full model returns, at a fraction of the head's cost.
    """
    return loss_of(mlm_forward(model, batch), batch)


def loss_of(output: MlmOutput, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the loss of an output (see `mlm_loss`); 0 where a batch has no masked word."""
    logits, labels = output.logits.float(), output.labels
    loss = functional.cross_entropy(logits, labels) if len(labels) else logits.sum() * 0.0
    if output.next_sentence_logits is not None and "next_sentence_label" in batch:
        loss = loss + functional.cross_entropy(output.next_sentence_logits.float(), batch["next_sentence_label"])
    return loss


def _head(model: nn.Module) -> nn.Module | None:
    """Return the module that maps hidden states to vocabulary logits position by position, or None."""
    if hasattr(model, "cls") and hasattr(model.cls, "predictions"):
        return model.cls.predictions
    return getattr(model, "lm_head", None) if architecture_of(model).family == "bert" else None
