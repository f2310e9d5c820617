"""Tiny random backbones and batches for the tests of parameter-efficient methods."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from replica.methods import Context, Method, parse

_ENCODER = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}


def tiny(kind: str, device: str = "cpu") -> Any:
    """Return a tiny bert, roberta (both with a classifier), t5 or gpt2, in eval mode, the same at every call."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.default_generator.manual_seed(1)
        if kind == "bert":
            return BertForSequenceClassification(BertConfig(**_ENCODER, num_labels=2)).eval()
        if kind == "roberta":
            return RobertaForSequenceClassification(RobertaConfig(**_ENCODER, num_labels=2)).eval()
        if kind == "gpt2":
            sizes = {"vocab_size": 60, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
            still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
            return GPT2LMHeadModel(GPT2Config(**sizes, **still, pad_token_id=0, initializer_range=0.1)).eval()
        config = T5Config(
            vocab_size=60,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            initializer_factor=0.5,
        )
        return T5ForConditionalGeneration(config).eval()


def batch(kind: str, rows: int = 8, length: int = 12) -> dict[str, torch.Tensor]:
    """Return a batch whose last row is padded, and whose label is whether the first token is above 30."""
    seeds = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 60, (rows, length), generator=seeds)
    mask = torch.ones_like(ids)
    mask[-1, length // 2 :] = 0
    labels = (ids[:, 0] > 30).long()
    if kind == "t5":
        labels = torch.stack([labels + 10, torch.ones_like(labels)], 1)
    if kind == "gpt2":  # of every row the second half is asked for, of the padded one what is there of it
        labels = torch.where((torch.arange(length) >= length // 2 - 1) & mask.bool(), ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def prepared(reference: dict[str, Any] | str, kind: str, seed: int = 0) -> tuple[Any, Method]:
    """Return a tiny model with the method put in, and the method."""
    entry, config = parse(reference)
    method = entry.create(config)
    model = tiny(kind)
    method.prepare(model, context(kind, seed))
    return model, method


def context(kind: str, seed: int = 0, **values: Any) -> Context:
    """Return a context whose training split is the rows of `batch`."""
    rows = batch(kind)
    head = {"t5": "text2text", "gpt2": "completion"}.get(kind, "classification")
    return Context(
        seed=seed,
        head=head,
        rows=8,
        batch_size=8,
        rows_at=lambda places: {k: v[list(places)] for k, v in rows.items()},
        **values,
    )


def train(model: Any, kind: str, steps: int, rate: float) -> list[float]:
    """Take Adam steps on one batch and return the loss before each and after the last."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        loss = model(**batch(kind)).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses.append(float(model(**batch(kind)).loss))
    return losses
