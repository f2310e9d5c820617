"""Distillation of logits: soft targets in addition to the task's own loss (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from replica.methods.base import Context, Method
from replica.methods.distillation import attention_signals as att
from replica.tasks.masked_words import loss_of as mlm_loss_of
from replica.tasks.masked_words import mlm_forward

#: Heads that give one row of logits per example, and those that give one per labelled position.
_PER_EXAMPLE = ("classification", "image", "regression")
_PER_TOKEN = ("tagging", "text2text")
_MASKED = ("mlm", "pretraining")


class LogitDistillation(Method):
    """alpha * task loss + (1 - alpha) * T^2 * KL(softmax(teacher / T) || softmax(student / T)).

    T^2 keeps the soft gradients as large as the hard ones when T changes (section 2 of the source). The averages are
    over:

    - classification, image: examples (`batchmean`); tagging, text2text: labelled positions; mlm: masked words, or with
      `words: all` every word but padding;
    - span: examples, with the mean of start and end, over real positions only;
    - pretraining: the same words for the token logits plus examples for the next-sentence logits, as the task's loss
      sums both;
    - regression has no distribution: the mean squared error between the two outputs takes the divergence's place,
      without T.
    """

    #: Only per-example logits can be stored; those of other heads are asked of the teacher at every step.
    signal_axes: ClassVar[dict[str, tuple[str, ...]]] = {"logits": ("classes",)}

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Raise ConfigError for a head without logits, or another number of labels than the teacher's."""
        known = (*_PER_EXAMPLE, *_PER_TOKEN, *_MASKED, "span")
        if context.head not in known:
            self.fail(f"it needs a head with logits ({', '.join(known)}); this run's task has '{context.head}'")
        if context.teacher is None or context.head not in (*_PER_EXAMPLE, "tagging"):
            return
        labels = model.config.num_labels, context.teacher.config.num_labels
        if labels[0] != labels[1]:
            self.fail(f"the student has {labels[0]} labels, the teacher {labels[1]}; use one task")

    def teacher_signals(
        self, teacher: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context
    ) -> dict[str, torch.Tensor]:
        """Return the teacher's logits in float32: `logits` (batch, classes), or those of other heads:

        `token_logits` (batch, length, classes); `start_logits` and `end_logits` (batch, length); for masked language
        models `word_logits` (words, vocabulary) and `next_sentence_logits` (batch, 2).
        """
        return {name: logits.float() for name, logits in self._forward(teacher, batch, context)[0].items()}

    def _forward(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Return the logits by name, and the task's loss where the batch has labels."""
        if context.head in _MASKED:
            output = mlm_forward(model, batch, where=att.attention_mask(batch) if self.config.words == "all" else None)
            logits = {"word_logits": output.logits}
            if output.next_sentence_logits is not None and "next_sentence_label" in batch:
                logits["next_sentence_logits"] = output.next_sentence_logits
            return logits, mlm_loss_of(output.masked() if self.config.words == "all" else output, batch)
        output = context.forward(model, batch)
        if context.head == "span":
            return {"start_logits": output.start_logits, "end_logits": output.end_logits}, output.loss
        return {"token_logits" if context.head in _PER_TOKEN else "logits": output.logits}, output.loss

    def loss(self, model: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Return the weighted sum of the task's loss and the distillation term, in float32."""
        alpha = self.config.alpha
        logits, task_loss = self._forward(model, batch, context)
        if alpha > 0 and task_loss is None:
            self.fail("alpha is above 0 but the batch has no labels; set `alpha: 0`")
        if alpha == 1:
            return task_loss
        signals = context.signals(self, batch)
        with att.single_precision(next(iter(logits.values()))):
            terms = []
            for name, student in logits.items():
                teacher = signals[name].to(student.device).float()
                terms.append(self._soft_loss(name, student.float(), teacher, batch, context.head))
            soft = torch.stack(terms).mean() if context.head == "span" else torch.stack(terms).sum()
        if alpha == 0:
            return soft
        att.record_losses(context, task_loss=task_loss.detach(), distillation_loss=soft.detach())
        return alpha * task_loss + (1 - alpha) * soft

    def _soft_loss(
        self, name: str, student: torch.Tensor, teacher: torch.Tensor, batch: dict[str, torch.Tensor], head: str
    ) -> torch.Tensor:
        if student.shape != teacher.shape:
            self.fail(
                f"the student's {name} are {tuple(student.shape)}, "
                f"the teacher's {tuple(teacher.shape)}: both need the same labels, vocabulary and tokenizer"
            )
        if head == "regression":
            return functional.mse_loss(student, teacher)
        if head in _PER_TOKEN:
            labelled = batch["labels"] != -100
            student, teacher = student[labelled], teacher[labelled]
        if head == "span":
            padding, lowest = ~att.attention_mask(batch), torch.finfo(student.dtype).min
            student, teacher = student.masked_fill(padding, lowest), teacher.masked_fill(padding, lowest)
        return soft_target_loss(student, teacher, self.config.temperature)


def soft_target_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)), averaged over rows (reduction `batchmean`).

    Both are logits, (rows, classes). No rows (a batch without masked words) give zero.
    """
    targets = torch.softmax(teacher / temperature, dim=-1)
    divergence = functional.kl_div(torch.log_softmax(student / temperature, dim=-1), targets, reduction="sum")
    return temperature**2 * divergence / max(student.shape[0], 1)
