"""Distillation of all hidden states in addition to the pre-training loss (BiPFT, Xing et al. 2024, arXiv 2312.08937)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from replica.errors import ConfigError
from replica.methods.base import Context, Method
from replica.methods.distillation import attention_signals as att
from replica.tasks.masked_words import loss_of as mlm_loss_of
from replica.tasks.masked_words import mlm_forward


class HiddenDistillation(Method):
    """Task loss + mean over hidden states of MSE(student, teacher) + soft cross-entropy of next-sentence logits.

    The hidden states are the embeddings' output and each layer's (13 for a 12-layer encoder), of equal width in both
    models; a deeper teacher is read by the uniform map. The squared errors are averaged over real positions and width;
    without padding, as in pre-training on full sequences, that is the plain mean. The task's loss is masked tokens
    plus, where the model has that head, the next sentence; the logits of the masked tokens are not distilled.
    """

    #: Storable for plain text only: a masked-language-model task changes its inputs at every pass.
    signal_axes: ClassVar[dict[str, tuple[str, ...]]] = {"hidden_states": ("layers", "length", "hidden")}

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Raise ConfigError for a model without one stack of layers over words, and for a teacher of another width or an unfit depth."""
        if model.main_input_name != "input_ids" or model.config.is_encoder_decoder:
            self.fail(f"it compares the states of one stack of layers over words; {type(model).__name__} has none")
        if context.teacher is None:
            return
        own, other = model.config, context.teacher.config
        if own.hidden_size != other.hidden_size:
            self.fail(
                f"it compares hidden states directly: the student is {own.hidden_size} wide, "
                f"the teacher {other.hidden_size}; take such a teacher, or tinybert-distillation, which learns a map"
            )
        att.uniform_map(own.num_hidden_layers, other.num_hidden_layers)

    def teacher_signals(
        self, teacher: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context
    ) -> dict[str, torch.Tensor]:
        """Return `hidden_states` (batch, 1 + layers, length, hidden) and, if there are, `next_sentence_logits`."""
        was_training = teacher.training
        teacher.train(self.config.teacher_dropout)
        try:
            output = teacher.base_model(**att.body_inputs(teacher, batch), output_hidden_states=True)
        finally:
            teacher.train(was_training)
        signals = {"hidden_states": torch.stack(output.hidden_states, dim=1).float()}
        head = getattr(getattr(teacher, "cls", None), "seq_relationship", None)
        if self.config.next_sentence_weight and head is not None:
            signals["next_sentence_logits"] = head(output.pooler_output).float()
        return signals

    def loss(self, model: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Return the weighted sum of task loss, hidden-state errors and the next-sentence term, in float32."""
        signals = context.signals(self, batch)
        states, task_loss, next_sentence = self._forward(model, batch, context)
        mask = att.attention_mask(batch)
        with att.single_precision(mask):
            hidden = hidden_state_loss(states, signals["hidden_states"].to(mask.device).float(), mask)
            total = self.config.hidden_weight * hidden
            parts = {"hidden_loss": hidden.detach()}
            if task_loss is not None:
                total = total + self.config.task_weight * task_loss.float()
                parts["task_loss"] = task_loss.detach()
            if next_sentence is not None and "next_sentence_logits" in signals:
                targets = torch.softmax(signals["next_sentence_logits"].to(mask.device).float(), dim=-1)
                soft = functional.cross_entropy(next_sentence.float(), targets)
                total = total + self.config.next_sentence_weight * soft
                parts["next_sentence_loss"] = soft.detach()
            att.record_losses(context, **parts)
            return total

    def _forward(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None, torch.Tensor | None]:
        """Return hidden states, the task's loss (None without labels or weight), next-sentence logits (or None)."""
        if context.head not in ("mlm", "pretraining"):
            if context.head == "text" or not self.config.task_weight:
                output = model.base_model(**att.body_inputs(model, batch), output_hidden_states=True)
                return output.hidden_states, None, None
            output = context.forward(model, batch, output_hidden_states=True)
            return output.hidden_states, output.loss, None
        output = mlm_forward(model, batch, output_hidden_states=True)
        loss = mlm_loss_of(output, batch) if self.config.task_weight else None
        return output.body.hidden_states, loss, output.next_sentence_logits


def hidden_state_loss(student: tuple[torch.Tensor, ...], teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the student's hidden states of their mean squared error to the teacher's.

    `student` holds 1 + M tensors (batch, length, hidden), `teacher` is (batch, 1 + L, length, hidden), `mask` (batch,
    length).
    """
    chosen = [0, *(layer + 1 for layer in att.uniform_map(len(student) - 1, teacher.shape[1] - 1))]
    if student[0].shape[-1] != teacher.shape[-1]:
        raise ConfigError(
            f"hidden-distillation: the student is {student[0].shape[-1]} wide, the teacher {teacher.shape[-1]}"
        )
    errors = [
        att.masked_mean_square(own.float() - teacher[:, layer], mask[..., None])
        for own, layer in zip(student, chosen, strict=True)
    ]
    return torch.stack(errors).mean()
