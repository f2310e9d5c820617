"""Sparse Structure Search: gated slots at every matrix, norm and sublayer, within a budget of trained parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.trainable import also_trained, count, train_only
from replica.methods.search.s3pet.bilevel import after_adamw, second_order
from replica.methods.search.s3pet.config import S3PETConfig
from replica.methods.search.s3pet.gates import choose, probabilities
from replica.methods.search.s3pet.slots import (
    SLOTS,
    STRUCTURE,
    Gated,
    Parallel,
    Sequential,
    Slot,
    Structure,
    leave,
    refresh,
)
from replica.models import body, encoder_layers
from replica.models.architectures import architecture_of, require
from replica.models.sublayers import part_of, place_in_layers, sublayer_outputs, ups


class SparseStructureSearch(Method):
    """Output = base + sum_i z_i delta_i(input), then + z delta(output) for adapters; p_i = sigmoid((alpha_i - zeta) / beta).

    Slots: rank-1 LoRA and a bias at q, k, v, o of self-attention and at both feed-forward matrices, a bias and a scale at each
    layer norm, rank-1 adapters after self-attention and feed-forward; cross-attention's matrices have none. zeta keeps the expected
    number of trained parameters on the budget at every step; when training ends, the most probable slots that fit it are kept.

    The run's batches come from one half of the training set and train the weights. Before each, alpha moves by its gradient on a batch of
    the other half: second order, through one virtual AdamW step of the weights (`bilevel`), or first order. All losses of a step see the
    same gates' noise and the same dropout, and alpha's are computed in float32. `phase: retrain` starts from a searched model, draws the
    chosen slots (and a new head) anew and trains them alone, on all of the training set.
    """

    config: S3PETConfig
    #: Step in which alpha has moved already: of the parts of a batch, the first moves it.
    _moved: int = -1

    def prepare(self, model: Any, context: Context) -> None:
        """Put the slots in and draw them by the run's seed; train them and alpha, or the chosen ones alone.

        Raises ConfigError where there is no searched structure to retrain.
        """
        restored = self.name in context.restored
        retrain = self.config.phase == "retrain"
        if retrain and not restored and self.config.structure == "searched":
            self.fail("`phase: retrain` starts `from:` a run that searched")
        if not restored:
            self.restore(model)
        structure, slots = getattr(model, STRUCTURE), list(self.slots(model))
        seeds = torch.Generator().manual_seed(context.seed)
        if retrain and self.config.structure == "random" and not structure.alpha.is_meta:
            order = torch.rand(len(slots), generator=seeds)
            structure.chosen.copy_(choose(order, torch.tensor(structure.sizes), structure.budget))
        if retrain or not restored:
            for slot in slots:
                slot.reset(seeds)
        if retrain and restored:
            self._reset_head(model, seeds)
        structure.searching = not retrain
        chosen = [s for s in slots if not retrain or structure.alpha.is_meta or bool(structure.chosen[s.index])]
        alpha = [] if retrain else [structure.alpha]
        own = [p for slot in chosen for p in slot.parameters()]
        train_only(model, [*alpha, *own, *self._head(model)])

    def _head(self, model: Any) -> list[nn.Parameter]:
        """Return the parameters of a new head, without alpha, which is no part of the body either."""
        return [p for p in also_trained(model, self.config) if p is not getattr(model, STRUCTURE).alpha]

    @torch.no_grad()
    def _reset_head(self, model: Any, seeds: torch.Generator) -> None:
        deviation = getattr(model.config, "initializer_range", 0.02)
        for parameter in self._head(model):
            if parameter.dim() > 1:
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, deviation, generator=seeds))
            else:
                parameter.zero_()

    def restore(self, model: Any) -> None:
        """Add the slots with weights of zero; raises ConfigError for an architecture that is not known, or a second search."""
        require(model, like="t5 bert", method="s3pet")
        if hasattr(model, STRUCTURE):
            self.fail("the model has slots already; use it once a run")
        backbone = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
        device, sizes = next(model.parameters()).device, []
        holders = [(module, "matrix") for module in self._matrices(model)]
        if self.config.space == "mix":
            holders += [(module, "norm") for module in _norms(model)]
        adapted = {id(place.module) for place in sublayer_outputs(model)} if self.config.space == "mix" else set()
        for module, part in holders:
            slots = nn.ModuleList()
            for make in self._kinds(module, part, id(module) in adapted):
                with torch.device(device):
                    slots.append(make(len(sizes)))
                sizes.append(slots[-1].size())
            module.add_module(SLOTS, slots.train(module.training))
        with torch.device(device):
            structure = Structure(sizes, self.config.budget * backbone, self.config.beta)
        model.add_module(STRUCTURE, structure.train(model.training))
        model.register_forward_pre_hook(refresh)
        model.register_forward_hook(leave, always_call=True)
        if architecture_of(model).two_stacks:
            body(model).encoder.register_forward_pre_hook(structure.refresh_encoder)
        for module, _ in holders:
            module.register_forward_hook(Gated(structure))

    def optimizer(self, model: Any, context: Context) -> torch.optim.Optimizer:
        """Return AdamW of the weights; while searching it also keeps alpha's rate and moments, though `loss` moves alpha."""
        groups: list[dict[str, Any]] = [{"params": self._weights(model)}]
        if self.config.phase == "search":
            groups.append({"params": [getattr(model, STRUCTURE).alpha], "lr": self.config.structure_rate})
        return torch.optim.AdamW(groups, lr=context.learning_rate, weight_decay=context.weight_decay)

    def _weights(self, model: Any) -> list[nn.Parameter]:
        return [p for p in model.parameters() if p.requires_grad and p is not getattr(model, STRUCTURE).alpha]

    def training_rows(self, rows: int, seed: int) -> list[int] | None:
        """Return the half of the training set that the weights are trained on while searching."""
        return self._halves(rows, seed)[0] if self.config.phase == "search" else None

    @staticmethod
    def _halves(rows: int, seed: int) -> tuple[list[int], list[int]]:
        order = np.random.default_rng([seed, 0x53]).permutation(rows)
        return np.sort(order[: -(-rows // 2)]).tolist(), np.sort(order[-(-rows // 2) :]).tolist()

    def loss(self, model: Any, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Move alpha, once a step, and return the loss that trains the weights."""
        structure = getattr(model, STRUCTURE)
        if structure.searching and self._moved != context.step:
            self._moved = context.step
            self._move(model, batch, context)
        structure.fixed = True
        try:
            return context.forward(model, batch).loss
        finally:
            structure.fixed = False

    def _move(self, model: Any, batch: dict[str, torch.Tensor], context: Context) -> None:
        structure, alpha = getattr(model, STRUCTURE), getattr(model, STRUCTURE).alpha
        _, half = self._halves(context.rows, context.seed)
        count_ = min(len(half), len(next(iter(batch.values()))))
        drawn = np.random.default_rng([context.seed, 0xA1, context.step]).choice(half, count_, replace=False)
        held = context.examples(drawn.tolist(), model)
        weights, optimizer = self._weights(model), context.optimizer
        rates = [group["lr"] for group in optimizer.param_groups]

        def alike(rows: dict[str, torch.Tensor]) -> torch.Tensor:
            devices = [alpha.device] if alpha.is_cuda else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed((context.seed + 1) * 1_000_003 + context.step)
                return context.exactly(model, rows).loss

        with torch.autocast(alpha.device.type, enabled=False):  # differences of gradients: backward, too, in float32
            if self.config.order == "first":
                (gradient,) = torch.autograd.grad(alike(held), [alpha])
            else:
                gradient = second_order(
                    alpha, weights, lambda: alike(batch), lambda: alike(held),
                    lambda step: after_adamw(weights, step, optimizer), rates[0],
                )  # fmt: skip
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(gradient.div_(torch.distributed.get_world_size()))
        structure.step(gradient, rates[1], self.config.structure_clip, optimizer.state[alpha])

    def on_step_begin(self, model: Any, context: Context) -> None:
        """Draw the step's numbers, the same for every forward pass in it."""
        uniform = getattr(model, STRUCTURE).uniform
        seeds = torch.Generator().manual_seed((context.seed + 1) * 1_000_003 + context.step)
        draw = torch.rand(uniform.shape, generator=seeds).clamp(1e-6, 1 - 1e-6)
        uniform.copy_(draw)

    def finalize(self, model: Any) -> Any:
        """Keep the chosen slots at gate 1 and shut the others."""
        structure = getattr(model, STRUCTURE)
        with torch.no_grad():
            sizes = torch.tensor(structure.sizes, dtype=torch.float64)
            if structure.searching:
                structure.chosen.copy_(choose(structure.probabilities(), sizes, structure.budget))
        structure.searching, structure.gates = False, structure.chosen
        return model

    def expected(self, model: Any) -> dict[str, float]:
        """Count alpha, all slots and a new head from the configuration of the model; a retrained structure has no expected count."""
        if self.config.phase == "retrain":
            return {}
        space = self._space(model)
        own = space["slots"] + space["parameters"]
        return {"trainable_parameters": own + count(self._head(model))}

    def reported(self, model: Any, context: Context) -> dict[str, float | int]:
        """Return the budget, the gates' expected parameters (searching), and slots and parameters of the chosen structure.

        `kept.<layer>.<slot>` is 1 for a chosen slot, named by its module and kind, and 0 for any other; layers are numbered through encoder
        and decoder, and `other` holds modules outside of the layers.
        """
        structure = getattr(model, STRUCTURE)
        sizes = torch.tensor(structure.sizes, dtype=torch.float64)
        result: dict[str, float | int] = {"budget": structure.budget}
        chosen = structure.chosen.bool()
        if structure.searching:
            chances = structure.probabilities().detach()
            result["expected"], chosen = float((sizes * chances).sum()), choose(chances, sizes, structure.budget)
        kinds = [slot.kind for slot in self.slots(model)]
        counts = {
            kind: sum(1 for k, c in zip(kinds, chosen.tolist(), strict=True) if c and k == kind) for kind in kinds
        }
        return {
            **result,
            "chosen": int(sizes[chosen].sum()),
            "chosen_slots": int(chosen.sum()),
            **{f"chosen_{kind}": number for kind, number in counts.items()},
            **{f"kept.{place}": int(on) for place, on in zip(self._places(model), chosen.tolist(), strict=True)},
        }

    def _places(self, model: Any) -> list[str]:
        """Return `<layer>.<module>-<kind>` of every slot, in the order of their indices."""
        names = {}
        for name, module in model.named_modules():
            for slot in getattr(module, SLOTS, ()):
                layer, place = place_in_layers(model, name)
                names[slot.index] = f"{layer}.{place}-{slot.kind}"
        return [names[index] for index in sorted(names)]

    def cost(self, model: Any) -> dict[str, Any]:
        """Return the space as built, by kind, the budget, and the gates' expected parameters at alpha = 0.

        slots, parameters, by_kind: {lora, bias, scale, adapter: {slots, parameters}}; backbone; budget (parameters asked for),
        expected (sum of n_i p_i), expected_share (of the backbone), chosen (parameters of the greedy structure), chosen_slots.
        """
        structure, by_kind = getattr(model, STRUCTURE), {}
        for slot in self.slots(model):
            kind = by_kind.setdefault(slot.kind, {"slots": 0, "parameters": 0})
            kind["slots"] += 1
            kind["parameters"] += slot.size()
        sizes = torch.tensor(structure.sizes, dtype=torch.float64)
        alpha = torch.zeros(len(sizes), dtype=torch.float64) if structure.alpha.is_meta else structure.alpha.detach()
        chances = probabilities(alpha, sizes, structure.budget, structure.beta)
        chosen = choose(chances, sizes, structure.budget)
        backbone = structure.budget / self.config.budget
        expected = float((sizes * chances).sum())
        return {
            "slots": len(sizes),
            "parameters": int(sizes.sum()),
            "by_kind": by_kind,
            "backbone": backbone,
            "budget": structure.budget,
            "expected": expected,
            "expected_share": expected / backbone,
            "chosen": int(sizes[chosen].sum()),
            "chosen_slots": int(chosen.sum()),
        }

    def slots(self, model: Any) -> Iterator[Slot]:
        """Yield the slots in the order of their indices."""
        yield from sorted((m for m in model.modules() if isinstance(m, Slot)), key=lambda slot: slot.index)

    def _kinds(self, module: nn.Module, part: str, adapted: bool) -> list:
        if part == "norm":
            width = module.weight.shape[0]
            centred = isinstance(module, nn.LayerNorm)
            return [lambda i: Parallel(i, "bias", width, width), lambda i: Parallel(i, "scale", width, width, centred)]
        inputs, outputs = module.in_features, module.out_features
        kinds = [lambda i: Parallel(i, "lora", inputs, outputs, scale=self.config.lora_alpha)]
        if self.config.space == "mix":
            kinds.append(lambda i: Parallel(i, "bias", inputs, outputs))
        if adapted:
            kinds.append(lambda i: Sequential(i, outputs, max(1, outputs // self.config.reduction)))
        return kinds

    def _space(self, model: Any) -> dict[str, int]:
        """Count slots and their parameters by the sizes of T5, or of BERT."""
        c = body(model).config
        if architecture_of(model).family != "t5":
            return self._space_of_bert(c)
        layers, inner = c.num_layers + c.num_decoder_layers, c.num_heads * c.d_kv
        gated = 1 if c.is_gated_act else 0
        matrices = 6 + gated
        lora = 4 * (c.d_model + inner) + (2 + gated) * (c.d_model + c.d_ff)
        if self.config.space == "lora":
            return {"slots": layers * matrices, "parameters": layers * lora}
        norms = 2 * c.num_layers + 3 * c.num_decoder_layers + 2 + 2 * hasattr(c, "regions")
        narrow = max(1, c.d_model // self.config.reduction)
        biases = 3 * inner + 2 * c.d_model + (1 + gated) * c.d_ff
        adapter = 3 * (c.d_model + narrow)
        return {
            "slots": layers * (2 * matrices + 2) + 2 * norms,
            "parameters": layers * (lora + biases + 2 * adapter) + 2 * norms * c.d_model,
        }

    def _space_of_bert(self, c: Any) -> dict[str, int]:
        layers, d, f = c.num_hidden_layers, c.hidden_size, c.intermediate_size
        lora = 4 * 2 * d + 2 * (d + f)
        if self.config.space == "lora":
            return {"slots": layers * 6, "parameters": layers * lora}
        norms, adapter = 2 * layers + 1, 3 * (d + max(1, d // self.config.reduction))
        return {
            "slots": layers * (2 * 6 + 2) + 2 * norms,
            "parameters": layers * (lora + 5 * d + f + 2 * adapter + 4 * d) + 2 * getattr(c, "embedding_size", d),
        }

    @staticmethod
    def _matrices(model: Any) -> list[nn.Linear]:
        row = architecture_of(model)
        attention = (row.attention.query, row.attention.key, row.attention.value, row.attention.output)
        return [
            part_of(layer, path)
            for layer in encoder_layers(model)
            for path in (*attention, *ups(layer, row), row.feed_forward.down)
        ]


def _norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in body(model).modules() if type(m).__name__ in ("T5LayerNorm", "LayerNorm")]
