"""Every registered architecture has a row, each path of a row is there in a model, and no other module holds such a table."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest
from torch import nn
from transformers import CONFIG_MAPPING

from replica import models
from replica.config import load_project
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.models.architectures import ARCHITECTURES, Attention, FeedForward, architecture, require
from replica.models.factory import known_fields
from replica.models.fused import to_linear
from replica.models.sublayers import part_of, query_value, sublayer_outputs, ups

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src/replica"
PROJECT = load_project(ROOT)
#: Depths under the names that configurations give them: one layer a stack.
DEPTHS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
)
REGISTERED = sorted({entry.architecture for entry in PROJECT.models.values() if entry.architecture in CONFIG_MAPPING})


def shallow(name: str) -> nn.Module:
    """Return a model of an architecture with a layer in each stack, on the meta device."""
    registered = [entry for entry in PROJECT.models.values() if entry.architecture == name]
    config = registered[0].config if registered else {}
    known = known_fields(name)
    config = {**config, **{field: 1 for field in DEPTHS if field in known and row_layers(name)}}
    if name == "longformer":
        config["attention_window"] = 8
    return models.build(ModelEntry(title=name, architecture=name, config=config), head="none", device="meta")


def row_layers(name: str) -> bool:
    return bool(ARCHITECTURES[name].attention)


def test_every_registered_architecture_has_a_row():
    assert len(REGISTERED) > 20
    assert [name for name in REGISTERED if name not in ARCHITECTURES] == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_path_of_a_row_leads_to_a_module(name):
    row, model = ARCHITECTURES[name], shallow(name)
    if not row.linear:
        to_linear(model)
    for number, stack in enumerate(row.stacks):
        body = model.base_model.get_submodule(stack.module)
        assert not stack.norm or isinstance(body.get_submodule(stack.norm), nn.Module)
        layers = body.get_submodule(stack.layers)
        assert isinstance(layers, nn.ModuleList) and len(layers)
        for layer in layers:
            parts = [row.attention, row.cross_attention if number else None, row.feed_forward]
            for part in filter(None, parts):
                check_part(layer, part)
            if row.feed_forward:
                assert len(ups(layer, row)) in (1, 2)


def check_part(layer: nn.Module, part: Attention | FeedForward) -> None:
    for field in fields(part):
        path = getattr(part, field.name)
        if isinstance(path, str) and path:
            assert isinstance(part_of(layer, path), nn.Module), path
            assert field.name not in ("query", "key", "value", "output", "down") or isinstance(
                part_of(layer, path), nn.Linear
            )
    for name in getattr(part, "sizes", ()):
        assert isinstance(getattr(part_of(layer, part.module), name), int)


@pytest.mark.parametrize("gated", [False, True])
def test_a_layer_has_the_input_layers_of_its_own_form(gated):
    config = {**PROJECT.models["smoke-t5"].config, "feed_forward_proj": "gated-gelu" if gated else "relu"}
    model = models.build(ModelEntry(title="t", architecture="t5", config=config), head="none", device="meta")
    names = [path.rpartition(".")[2] for path in ups(models.encoder_layers(model)[0], architecture("t5"))]
    assert names == (["wi_0", "wi_1"] if gated else ["wi"])


def test_a_refusal_names_the_method_the_architecture_the_part_and_those_that_have_it():
    with pytest.raises(
        ConfigError,
        match=r"^method 'x': architecture 'mamba' has no known query projection; known: bert, .*t5.*wav2vec2$",
    ):
        require(shallow("mamba"), "attention.query", method="x")
    with pytest.raises(ConfigError, match=r"^architecture 'vit' is not supported; supported: opt, t5, mt5, clip-t5$"):
        require(shallow("vit"), like="t5 opt")
    with pytest.raises(ConfigError, match=r"^architecture 'roberta' is not supported; supported: bert$"):
        require(shallow("roberta"), like="bert", copies=False)
    with pytest.raises(ConfigError, match="architecture 'resnet' has no known list of transformer layers; known: bert"):
        models.encoder_layers(shallow("resnet"))


def test_fused_layers_and_second_attentions_are_refused():
    with pytest.raises(ConfigError, match="architecture 'gpt2' has no known linear layers of its own"):
        sublayer_outputs(shallow("gpt2"))
    with pytest.raises(ConfigError, match="has not one query and one value but \\[2, 2\\]"):
        query_value(shallow("t5"))


def test_no_other_module_holds_a_table_of_architectures():
    """No tuple, list, set or dict outside `architectures.py` lists two architectures; methods name families in a call."""
    names = set(ARCHITECTURES) - {"residual"}
    tables = []
    for path in sorted(SOURCE.rglob("*.py")):
        if path == SOURCE / "models/architectures.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
                entries = node.elts
            elif isinstance(node, ast.Dict):
                entries = [*node.keys, *node.values]
            else:
                continue
            listed = [entry.value for entry in entries if isinstance(entry, ast.Constant) and entry.value in names]
            if len(listed) > 1:
                tables.append((str(path.relative_to(SOURCE)), node.lineno, listed))
    assert tables == []
