"""Every pair of methods that is not refused at parse time trains, is stored, loads to the bit and counts as its parts do.

A pair is tried in one order that the registry accepts, on a tiny model of each architecture that both support: BERT, T5, GPT-2 and ViT.
"""

from __future__ import annotations

import copy
import itertools
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import set_seed

from replica.errors import ConfigError
from replica.methods import entries, parse
from replica.methods.registry import EXCLUSIVE, parse_all
from replica.methods.stored import load_model, save_model

from .table import ROWS, Row
from .test_table import _batch, _context, _model

HEADS = {"bert": "classification", "t5": "text2text", "gpt2": "completion", "vit": "image"}
#: Options for models this small, where the defaults or the method's row in the table do not fit a partner.
OPTIONS = {
    "galore": {"rank": 1, "scale": 1.0},
    "sparse-modules": {"sparsity": 0.5, "score": "random"},
    "slimming-ticket": {"scores": "random", "draw": 0.8},
    "freeze": {"names": ["*.0.*"]},
}


def _reference(name: str, architecture: str) -> dict:
    """The method with the options of its row for the architecture, or of its first row."""
    rows = [row for row in ROWS if row.method == name]
    fitting = [row for row in rows if row.architecture == architecture and row.head == HEADS[architecture]]
    return {"name": name, **OPTIONS.get(name, (fitting or rows)[0].config)}


@cache
def _fresh(architecture: str):
    """The architecture's tiny model, which every pair copies."""
    return _model(Row("", {}, HEADS[architecture], architecture))


def _try(names: tuple[str, ...], architecture: str, folder: Path) -> None:
    """Train one step with the methods, finalize, store, load, and compare outputs and counts."""
    methods = [
        (entry, entry.create(config)) for entry, config in parse_all(_reference(name, architecture) for name in names)
    ]
    row = Row("", {}, HEADS[architecture], architecture, any(entry.needs_teacher for entry, _ in methods), 1, 1e-3)
    set_seed(0)
    model, context, batch = copy.deepcopy(_fresh(architecture)), _context(row), _batch(row)
    for _, method in methods:
        method.prepare(model, context)
    own = {
        part: method for entry, method in methods for part in method.config.changed(entry.changes) & EXCLUSIVE.keys()
    }
    if "trainable" in own:
        expected = own["trainable"].expected(model).get("trainable_parameters")
        trained = {id(p): p.numel() for p in model.parameters() if p.requires_grad}
        alone = len(methods) == 1 or not {"maps", "masks", "frozen"} & set().union(*(e.changes for e, _ in methods))
        assert not alone or expected in (None, sum(trained.values())), "the partner changed what trains"
    model.train()
    if "optimizer" in own:
        optimizer = own["optimizer"].optimizer(model, context)
    else:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    context.optimizer = optimizer
    for step in range(row.steps):
        context.step = step
        for _, method in methods:
            method.on_step_begin(model, context)
        loss = own["loss"].loss(model, batch, context) if "loss" in own else context.forward(model, batch).loss
        loss.backward()
        for _, method in methods:
            method.on_gradients(model, context)
        optimizer.step()
        optimizer.zero_grad()
        context.step = step + 1
        for _, method in methods:
            method.on_step_end(model, context)
    assert torch.isfinite(loss)
    for _, method in methods:
        model = method.finalize(model)
    model.eval()
    structure = [
        {"name": entry.name, **method.config.model_dump(exclude_defaults=True, mode="json")}
        for entry, method in methods
        if entry.persistent
    ]
    save_model(model, folder, head=row.head, labels=2, structure=structure)
    loaded, _ = load_model(folder)
    inputs = {key: value for key, value in batch.items() if key not in ("example_id", "next_sentence_label")}
    with torch.no_grad():
        assert torch.equal(model(**copy.deepcopy(inputs))["logits"], loaded.eval()(**inputs)["logits"])


@cache
def _supported(architecture: str) -> tuple[str, ...]:
    """The methods that the architecture's tiny model takes; the others refuse it with ConfigError."""
    fitting = []
    for name in entries():
        row = Row("", {}, HEADS[architecture], architecture, entries()[name].needs_teacher)
        entry, config = parse(_reference(name, architecture))
        try:
            entry.create(config).prepare(_model(row), _context(row))
        except ConfigError:
            continue
        fitting.append(name)
    return tuple(fitting)


def _pairs(architecture: str, name: str) -> list[tuple[str, str]]:
    """The pairs of a method with those after it in the alphabet, each in one accepted order; refused pairs are left out."""
    fitting = _supported(architecture)
    pairs = []
    for other in fitting:
        for pair in itertools.permutations((name, other)) if other > name else ():
            try:
                parse_all(_reference(each, architecture) for each in pair)
            except ConfigError:
                continue
            pairs.append(pair)
            break
    return pairs


@pytest.mark.parametrize("architecture", HEADS)
@pytest.mark.parametrize("name", sorted(entries()))
def test_a_method_composes_with_every_other_that_it_is_not_refused_with(name, architecture, tmp_path):
    if name not in _supported(architecture):  # it refuses the model with ConfigError; any other error fails there
        return
    failures = []
    for index, pair in enumerate(_pairs(architecture, name)):
        try:
            _try(pair, architecture, tmp_path / str(index))
        except Exception as error:  # every failure of the row is listed
            failures.append(f"{pair[0]}, {pair[1]}: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
    assert not failures, "\n".join(failures)
