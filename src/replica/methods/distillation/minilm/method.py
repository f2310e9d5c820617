"""MiniLM: deep self-attention distillation (Wang et al. 2020, arXiv 2002.10957, equations 6-10) and its ablations."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from replica.methods.base import Context, Method
from replica.methods.distillation import attention_signals as att
from replica.methods.distillation import layer_maps as maps


class MiniLM(Method):
    """The student learns the attention distributions and the value relations of the teacher's last layer.

    With A heads, |x| real positions, and p^T, p^S the teacher's and student's distributions over key positions:

        L = 1 / (A * |x|) * sum_a sum_t KL(p^T_{a,t} || p^S_{a,t}), for attention (L_AT) plus for value relations (L_VR)

    attention = softmax(Q K^T / sqrt(d_head)) before dropout, value relation = softmax(V V^T / sqrt(d_head)), each model
    with its own d_head. The equations are for one text x: the loss is computed per sentence and then averaged over the
    batch's sentences, so that a short one weighs as much as a long one. Padding keys are masked before both softmaxes
    and padding rows are left out. The layer-to-layer ablation averages the same loss over the student's layers; the
    paper leaves open whether it is the sum.
    """

    def __init__(self, config):
        super().__init__(config)
        self.signal_axes = {"attention": ("layers", "heads", "length", "length")}
        if config.value == "relation":
            self.signal_axes["value_relation"] = ("layers", "heads", "length", "length")
        elif config.value == "mse":
            self.signal_axes["values"] = ("layers", "length", "hidden")
        self._student_layers: int | None = None

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Check that the two models fit together and, for `value: mse`, give the student the learned d' -> d matrix.

        Raises ConfigError for other encoders, another number of heads, or a depth that the uniform map cannot divide.
        """
        self._student_layers = len(att.attention_linears(model))
        if context.teacher is not None:
            att.check_heads(model.config.num_attention_heads, context.teacher.config.num_attention_heads)
            self._teacher_layers(len(att.attention_linears(context.teacher)))
        if self.config.value == "mse":
            names = [f"values_{layer}" for layer in range(len(self._layers(self._student_layers)))]
            maps.add_maps(self, model, names, context)

    def _layers(self, depth: int) -> list[int]:
        return [depth - 1] if self.config.layers == "last" else list(range(depth))

    def _teacher_layers(self, depth: int) -> list[int]:
        if self.config.layers == "last":
            return [depth - 1]
        return att.uniform_map(self._student_layers or depth, depth)

    def teacher_signals(
        self, teacher: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context
    ) -> dict[str, torch.Tensor]:
        """Return the teacher's distributions in float32: `attention` and, by option, `value_relation` or `values`.

        Shapes are (batch, layers, heads, length, length) and for the value vectors (batch, layers, length, hidden).
        With the uniform map and no student known yet (signals stored beforehand) every teacher layer is returned.
        """
        mask = att.attention_mask(batch)
        projections, _ = att.project(teacher, batch, self._teacher_layers(len(att.attention_linears(teacher))))
        signals: dict[str, list[torch.Tensor]] = {name: [] for name in self.signal_axes}
        with att.single_precision(mask):
            for layer in projections:
                query, key, value = (part.float() for part in layer)
                signals["attention"].append(att.log_relation(query, key, mask).exp())
                if "value_relation" in signals:
                    signals["value_relation"].append(att.log_relation(value, value, mask).exp())
                if "values" in signals:
                    signals["values"].append(value.transpose(1, 2).flatten(2))
        return {name: torch.stack(layers, dim=1) for name, layers in signals.items()}

    def loss(self, model: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Return L_AT plus the value term, in float32; equation 10."""
        signals = context.signals(self, batch)
        layers = self._layers(len(att.attention_linears(model)))
        projections, _ = att.project(model, batch, layers)
        mask = att.attention_mask(batch)
        taught = self._pick(signals, len(layers))
        attention_loss = value_loss = mask.new_zeros((), dtype=torch.float32)
        with att.single_precision(mask):
            for index, layer in enumerate(projections):
                query, key, value = (part.float() for part in layer)
                targets = {name: values[:, index].to(mask.device).float() for name, values in taught.items()}
                if self.config.value == "relation":
                    both = att.log_relation(torch.cat([query, value]), torch.cat([key, value]), torch.cat([mask, mask]))
                    log_attention, log_values = both.chunk(2)
                    value_loss = value_loss + relation_loss(targets["value_relation"], log_values, mask)
                else:
                    log_attention = att.log_relation(query, key, mask)
                attention_loss = attention_loss + relation_loss(targets["attention"], log_attention, mask)
                if self.config.value == "mse":
                    mapped = maps.get_map(model, f"values_{index}")(value.transpose(1, 2).flatten(2))
                    error = (mapped - targets["values"]).square().mean(dim=-1)
                    value_loss = value_loss + att.sentence_mean(error, mask)
            attention_loss, value_loss = attention_loss / len(layers), value_loss / len(layers)
            att.record_losses(context, attention_loss=attention_loss.detach(), value_loss=value_loss.detach())
            return attention_loss + value_loss

    def _pick(self, signals: dict[str, torch.Tensor], student_layers: int) -> dict[str, torch.Tensor]:
        """Return the signals of the layers that are taught: stored ones may hold every layer of the teacher."""
        missing = [name for name in self.signal_axes if name not in signals]
        if missing:
            self.fail(
                f"`value: {self.config.value}` needs the teacher's {', '.join(missing)}; "
                f"the stored targets hold {', '.join(sorted(signals))}: store them with the same options"
            )
        depth = signals["attention"].shape[1]
        if depth == student_layers:
            return {name: signals[name] for name in self.signal_axes}
        chosen = att.uniform_map(student_layers, depth) if self.config.layers == "uniform" else [depth - 1]
        return {name: signals[name][:, chosen] for name in self.signal_axes}

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Take the learned matrix out: the student alone is evaluated and stored."""
        return maps.drop_maps(model)


def relation_loss(teacher: torch.Tensor, log_student: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return 1/(A*|x|) * sum over heads and real positions of KL(teacher || student), averaged over sentences.

    `teacher` holds probabilities and `log_student` log-probabilities, (batch, heads, length, length) each; the last
    axis is the key position. `mask` is (batch, length) bool. Raises ConfigError where the numbers of heads differ
    (equations 6 and 8).
    """
    att.check_heads(log_student.shape[1], teacher.shape[1])
    divergence = functional.kl_div(log_student, teacher, reduction="none").sum(dim=-1)
    return att.sentence_mean(divergence.mean(dim=1), mask)
