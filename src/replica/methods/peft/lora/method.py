"""LoRA with the layers of the peft library, put into the model in place (Hu et al. 2022)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from replica.errors import nearest
from replica.methods.base import Context, Method
from replica.methods.peft.layers import fill
from replica.methods.peft.trainable import also_trained, count, head_parameters, train_only
from replica.models import body, encoder_layers, fused
from replica.models.architectures import architecture_of
from replica.models.sublayers import upper_layers


class LoRA(Method):
    """W + alpha / r * B A on chosen linear layers, with peft's layers while training; merged into W by `finalize`.

    GPT-2's layers are linear while training, its fused projection `query`, `key` and `value` with a pair each; at the end they are its
    own again.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Put peft's LoRA layers in place, drawn by the run's seed, and freeze the rest."""
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        config = self.config
        fused.to_linear(model)
        named = list(self._targets(model))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(context.seed)
            inject_adapter_in_model(
                LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=named),
                model,
            )
        seeds = torch.Generator().manual_seed(context.seed)
        added = [parameter for name, parameter in model.named_parameters() if ".lora_" in name]
        if config.initial_std is not None:
            for parameter in added:
                fill(parameter, std=config.initial_std, seeds=seeds)
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.train(module.get_base_layer().training)
                if config.start == "xavier":
                    factor = module.lora_A["default"].weight
                    fill(factor, std=math.sqrt(2 / sum(factor.shape)), seeds=seeds)
        train_only(model, [*added, *also_trained(model, config)])

    def finalize(self, model: Any) -> Any:
        """Return the model with plain linear layers whose weights are W + alpha / r * B A."""
        from peft.tuners.lora import LoraLayer

        wrapped = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
        for name, module in wrapped:
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
        for attribute in ("peft_config", "peft_type"):
            model.__dict__.pop(attribute, None)
        fused.to_transposed(model)
        return model

    def expected(self, model: Any) -> dict[str, float]:
        """Count r (inputs + outputs) for each chosen layer, and the other trained parameters."""
        was_fused = fused.to_linear(model)
        layers = self._targets(model).values()
        own = sum(self.config.rank * (layer.in_features + layer.out_features) for layer in layers)
        if was_fused:
            fused.to_transposed(model)
        factors = {id(parameter) for name, parameter in model.named_parameters() if ".lora_" in name}
        others = [parameter for parameter in also_trained(model, self.config) if id(parameter) not in factors]
        return {"trainable_parameters": own + count(others)}

    def _targets(self, model: Any) -> dict[str, Any]:
        """Return the linear layers to adapt by name; raises ConfigError where none fits."""
        from peft.tuners.lora import LoraLayer

        row = architecture_of(model)
        paths = [path for path in (row.get("attention.query"), row.get("attention.value")) if path]
        ends = tuple(self.config.targets) or tuple(path.rpartition(".")[2] for path in paths)
        linear = {
            name: module.get_base_layer() if isinstance(module, LoraLayer) else module
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, LoraLayer)) and not name.endswith(".base_layer") and ".lora_" not in name
        }
        layers = {name: layer for name, layer in linear.items() if name.rpartition(".")[2] in ends}
        if not self.config.head_pairs:
            head = {id(parameter) for parameter in head_parameters(model, pooler=True)}
            layers = {name: layer for name, layer in layers.items() if id(layer.weight) not in head}
        if not layers:
            known = {name.rpartition(".")[2] for name in linear}
            if not ends:
                wanted = f"some of: {', '.join(sorted(known))}"
                self.fail(f"of architecture '{row.name}' no layers are known to adapt; give `targets`, {wanted}")
            self.fail(f"no linear layer of architecture '{row.name}' is named {list(ends)}{nearest(ends[0], known)}")
        return self._above(model, layers) if self.config.skip_layers else layers

    def _above(self, model: Any, layers: dict[str, Any]) -> dict[str, Any]:
        """Leave out the first `skip_layers` layers of each stack; raises ConfigError where that leaves none."""
        upper = {id(layer) for _, _, layer in upper_layers(model, self.config.skip_layers)}
        below = {id(part) for layer in encoder_layers(model) if id(layer) not in upper for part in layer.modules()}
        above = {name: layer for name, layer in layers.items() if id(layer) not in below}
        if not above:
            self.fail(
                f"skip_layers {self.config.skip_layers} leaves no layer of this model's "
                f"{body(model).config.num_hidden_layers} to adapt"
            )
        return above
