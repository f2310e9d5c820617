"""TinyBERT's general distillation: embeddings, hidden states and scores, layer to layer (Jiao et al. 2020)."""

from __future__ import annotations

from typing import ClassVar

import torch
from transformers import PreTrainedModel

from replica.methods.base import Context, Method
from replica.methods.distillation import attention_signals as att
from replica.methods.distillation import layer_maps as maps


class TinyBERT(Method):
    """Mean squared errors on the embeddings, on every student layer's output and on its attention scores.

    Equations 7-9 of arXiv 1909.10351, with the uniform map g(m) = m * L / M:

        L_embd = MSE(E^S W_e, E^T);  L_hidn = MSE(H^S_m W_h, H^T_g(m))
        L_attn = 1/A * sum_a MSE(A^S_{m,a}, A^T_{g(m),a})

    A is the score matrix before the softmax. W_e and W_h (one for all layers) are learned and not stored. The losses of
    the layers are summed. The means are over the batch's real positions (real pairs for the scores).
    """

    signal_axes: ClassVar[dict[str, tuple[str, ...]]] = {
        "hidden_states": ("layers", "length", "hidden"),
        "scores": ("layers", "heads", "length", "length"),
    }

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Add the two maps; raises ConfigError for other encoders or heads, or a depth that does not divide."""
        self._student_layers = len(att.attention_linears(model))
        if context.teacher is not None:
            att.check_heads(model.config.num_attention_heads, context.teacher.config.num_attention_heads)
            att.uniform_map(self._student_layers, len(att.attention_linears(context.teacher)))
        maps.add_maps(self, model, ["embeddings", "hidden_states"], context)

    def teacher_signals(
        self, teacher: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context
    ) -> dict[str, torch.Tensor]:
        """Return `hidden_states` (batch, 1 + layers, length, hidden), `scores` (batch, layers, heads, length, length).

        The layers are those that the student's map asks for, or all of them where no student is known yet.
        """
        depth = len(att.attention_linears(teacher))
        layers = att.uniform_map(getattr(self, "_student_layers", depth), depth)
        projections, states = att.project(teacher, batch, layers, hidden_states=True)
        with att.single_precision(states[0]):
            return {
                "hidden_states": torch.stack([states[0], *(states[layer + 1] for layer in layers)], dim=1).float(),
                "scores": torch.stack([att.scores(p.query.float(), p.key.float()) for p in projections], dim=1),
            }

    def loss(self, model: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Return the weighted sum of the three errors over all layers, in float32."""
        signals = context.signals(self, batch)
        depth = len(att.attention_linears(model))
        projections, states = att.project(model, batch, range(depth), hidden_states=True)
        mask = att.attention_mask(batch)
        pairs = (mask[:, :, None] & mask[:, None, :])[:, None]
        taught = [signals["scores"].shape[1], signals["hidden_states"].shape[1] - 1]
        if taught[0] != taught[1]:
            self.fail(f"stored targets hold scores of {taught[0]} layers but hidden states of {taught[1]}")
        chosen = att.uniform_map(depth, taught[0])
        att.check_heads(model.config.num_attention_heads, signals["scores"].shape[2])
        hidden, attention = [], []
        with att.single_precision(mask):
            targets = signals["hidden_states"].to(mask.device).float()
            scores = signals["scores"].to(mask.device).float()
            embedded = maps.get_map(model, "embeddings")(states[0].float()) - targets[:, 0]
            embeddings = att.masked_mean_square(embedded, mask[..., None])
            for layer, taught_layer in enumerate(chosen):
                mapped = maps.get_map(model, "hidden_states")(states[layer + 1].float())
                hidden.append(att.masked_mean_square(mapped - targets[:, taught_layer + 1], mask[..., None]))
                own = att.scores(projections[layer].query.float(), projections[layer].key.float())
                attention.append(att.masked_mean_square(own - scores[:, taught_layer], pairs))
            hidden_loss, attention_loss = torch.stack(hidden).sum(), torch.stack(attention).sum()
            att.record_losses(
                context,
                embedding_loss=embeddings.detach(),
                hidden_loss=hidden_loss.detach(),
                attention_loss=attention_loss.detach(),
            )
            weights = self.config
            return (
                weights.embedding_weight * embeddings
                + weights.hidden_weight * hidden_loss
                + weights.attention_weight * attention_loss
            )

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Take the learned matrices out: the student alone is evaluated and stored."""
        return maps.drop_maps(model)
