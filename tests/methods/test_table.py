"""What every method must do, run for each row of the table."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, set_seed

from replica import models
from replica.config import load_project
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.methods import Context, entries, parse
from replica.methods.registry import CHANGES
from replica.methods.stored import load_model, save_model

from .table import ROWS, Row

PROJECT = load_project(Path(__file__).resolve().parents[2])
SIZES = {
    "bert": {
        "vocab_size": 64,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    },
    "t5": {
        "vocab_size": 64,
        "d_model": 16,
        "d_kv": 4,
        "num_heads": 4,
        "d_ff": 32,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    },
    "gpt2": {
        "vocab_size": 64,
        "n_positions": 32,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "vit": {
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
    },
}
SIZES["bart"] = {
    **{f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in ("layers", "attention_heads")},
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "d_model": 16,
    "vocab_size": 64,
    "max_position_embeddings": 32,
}
for _kind in ("bart", "t5"):
    SIZES[f"clip-{_kind}"] = {**SIZES[_kind], "vision": [4, 8], "image_size": 8, "feature_size": 8, "regions": 4}
IDS = [f"{row.method}-{row.head}-{row.architecture}-{index}" for index, row in enumerate(ROWS)]


def _entry(row: Row) -> ModelEntry:
    return ModelEntry(title="tiny", architecture=row.architecture, config=SIZES[row.architecture])


def _model(row: Row, seed: int = 0, device: str = "cpu"):
    return models.build(_entry(row), head=row.head, labels=2, seed=seed, device=device)


def _batch(row: Row) -> dict[str, torch.Tensor]:
    """Eight sentences of a learnable rule: the label says whether a word below 32 comes first (or, of images, how bright one is)."""
    generator = torch.Generator().manual_seed(1)
    if row.head == "image":
        pixels = torch.randn(8, 1, 8, 8, generator=generator)
        return {"pixel_values": pixels, "labels": (pixels.mean((1, 2, 3)) > 0).long(), "example_id": torch.arange(8)}
    ids = torch.randint(4, 64, (8, 10), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "example_id": torch.arange(8)}
    batch["attention_mask"][:2, 7:] = 0
    if row.head == "classification":
        batch["labels"] = (ids[:, 0] < 32).long()
    elif row.head in ("mlm", "pretraining"):
        labels = torch.full_like(ids, -100)
        labels[:, 2] = ids[:, 2]
        batch["labels"] = labels
        if row.head == "pretraining":
            batch["next_sentence_label"] = (ids[:, 0] < 32).long()
    elif row.head == "text2text":
        batch["labels"] = ids[:, :3].contiguous()
        if row.architecture.startswith("clip-"):
            batch["pixel_values"] = torch.randn(8, 2, 3, 8, 8, generator=generator)
            batch["image_mask"] = torch.tensor([[1, 0], [1, 1]] * 4)
    elif row.head == "completion":
        batch["labels"] = torch.where(batch["attention_mask"].bool(), ids, -100)
        batch["labels"][:, :4] = -100
    return batch


def _context(row: Row) -> Context:
    teacher = _model(row, seed=9).eval().requires_grad_(False) if row.teacher else None
    batch = _batch(row)

    def rows(places):
        return {key: value[list(places)] for key, value in batch.items()}

    return Context(
        total_steps=row.steps,
        head=row.head,
        teacher=teacher,
        learning_rate=row.learning_rate,
        rows=8,
        batch_size=8,
        rows_at=rows,
        unseen=lambda count: rows(range(min(count, 8))),
        beside=lambda step, count: rows(range(count)),
    )


def _make(row: Row):
    entry, config = parse({"name": row.method, **row.config})
    return entry, entry.create(config)


def _undeclared(keys, declared) -> list[str]:
    return [key for key in keys if not any(fnmatchcase(key, pattern) for pattern in declared)]


def _train(row: Row):
    """Train a few steps by hand; returns model, method, entry and the losses."""
    set_seed(0)
    entry, method = _make(row)
    model, context, batch = _model(row), _context(row), _batch(row)
    method.prepare(model, context)
    model.train()
    if "optimizer" in entry.changes:
        optimizer = method.optimizer(model, context)
    else:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=row.learning_rate)
    context.optimizer = optimizer
    losses = []
    for step in range(row.steps):
        context.step = step
        method.on_step_begin(model, context)
        loss = method.loss(model, batch, context) if "loss" in entry.changes else context.forward(model, batch).loss
        loss.backward()
        method.on_gradients(model, context)
        optimizer.step()
        optimizer.zero_grad()
        context.step = step + 1
        method.on_step_end(model, context)
        losses.append(float(loss.detach()))
    reported = method.reported(model, context)
    assert all(isinstance(value, float | int | str) for value in reported.values()), reported
    assert not _undeclared(reported, entry.reported), "declare them: @method(…, reported=…)"
    assert not _undeclared(context.recorded, entry.recorded), "declare them: @method(…, recorded=…)"
    return model, method, entry, losses


def test_every_registered_method_has_a_row():
    missing = set(entries()) - {row.method for row in ROWS}
    assert not missing, f"add a row to tests/methods/table.py for {sorted(missing)}"


@pytest.mark.parametrize("name", entries())
def test_smoke_models_hold_every_method(name):
    """Defaults and the options under `methods:` in config/scales/smoke.yaml (where a method needs more, its row's) fit the smoke models."""
    row = next(row for row in ROWS if row.method == name)
    options = PROJECT.scales["smoke"].methods.get(name, {})
    try:
        entry, config = parse({"name": name, **options})
    except ConfigError:
        entry, config = parse({"name": name, **row.config, **options})
    model, teacher = (
        models.build(PROJECT.model(f"smoke-{row.architecture}"), head=row.head, labels=2, device="meta")
        for _ in range(2)
    )
    entry.create(config).prepare(model, Context(total_steps=6, head=row.head, teacher=teacher, rows=8, batch_size=8))


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_configuration_round_trip(row):
    entry, config = parse({"name": row.method, **row.config})
    again = entry.config.model_validate(config.model_dump(mode="json"))
    assert again == config
    assert entry.changes <= CHANGES.keys()
    undocumented = [name for name, field in entry.config.model_fields.items() if not field.description]
    assert not undocumented, f"fields without a description: {undocumented}"


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_prepares_on_meta_and_counts_as_expected(row):
    _, method = _make(row)
    model = _model(row, device="meta")
    method.prepare(
        model,
        Context(
            total_steps=10,
            head=row.head,
            teacher=_model(row, device="meta") if row.teacher else None,
            rows=8,
            batch_size=8,
        ),
    )
    assert all(parameter.is_meta for parameter in model.parameters())
    expected = method.expected(model)
    if "trainable_parameters" in expected:
        unique = {id(p): p.numel() for p in model.parameters() if p.requires_grad}
        assert expected["trainable_parameters"] == sum(unique.values())


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_training_lowers_the_loss_and_storage_keeps_the_result(row, tmp_path):
    model, method, entry, losses = _train(row)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert min(losses[-3:]) < losses[0], losses
    model = method.finalize(model).eval()
    stored = method.config.model_dump(exclude_defaults=True, mode="json")
    kept = [{"name": row.method, **stored}] if entry.persistent else []
    save_model(model, tmp_path, head=row.head, labels=2, structure=kept)
    loaded, structure = load_model(tmp_path)
    assert structure == kept
    batch = _batch(row)
    inputs = {key: value for key, value in batch.items() if key != "example_id" and key != "next_sentence_label"}
    with torch.no_grad():
        first, second = model(**copy.deepcopy(inputs)), loaded.eval()(**inputs)
    key = (
        "logits" if "logits" in first else "last_hidden_state" if "last_hidden_state" in first else "prediction_logits"
    )
    torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)


def test_sizes_are_those_of_transformers():
    assert AutoConfig.for_model("bert", **SIZES["bert"]).hidden_size == 16
