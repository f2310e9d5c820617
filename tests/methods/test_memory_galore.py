"""GaLore: its update against one worked out by hand, its state against the paper's Table 1."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import nn

from replica import models
from replica.config.schema import ModelEntry
from replica.errors import ConfigError
from replica.meters import optimizer_bytes
from replica.methods import Context, parse
from replica.methods.memory.config import GaLoreConfig
from replica.methods.memory.galore import GaLoreAdam

TINY = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}


def _model(device: str = "cpu", head: str = "classification"):
    return models.build(ModelEntry(title="tiny", architecture="bert", config=TINY), head=head, labels=2, device=device)


def _method(**config):
    entry, parsed = parse({"name": "galore", **config})
    return entry.load()(parsed)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
def test_update_is_the_papers(shape):
    """Three steps with a projector taken at steps 0 and 2, in numpy."""
    generator = numpy.random.default_rng(0)
    config = GaLoreConfig(rank=2, interval=2, scale=0.5, epsilon=1e-6)
    weight = generator.normal(size=shape)
    parameter = nn.Parameter(torch.tensor(weight))
    optimizer = GaLoreAdam([{"params": [parameter], "weight_decay": 0.1}], config, [parameter], lr=0.1)
    first = second = 0.0
    for step in range(3):
        gradient = generator.normal(size=shape)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        if step % 2 == 0:
            left, _, right = numpy.linalg.svd(gradient.astype("float32"), full_matrices=False)
            base = left[:, :2] if shape[0] <= shape[1] else right[:2]
        low = base.T @ gradient if shape[0] <= shape[1] else gradient @ base.T
        first, second = 0.9 * first + 0.1 * low, 0.999 * second + 0.001 * low**2
        normed = first / (numpy.sqrt(second) + 1e-6)
        back = base @ normed if shape[0] <= shape[1] else normed @ base
        weight = weight - 0.1 * numpy.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1)) * 0.5 * back
        weight = weight * (1 - 0.1 * 0.1)
        numpy.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-4, atol=1e-5)


def test_state_of_a_step_is_that_of_table_1():
    """mr + 2nr numbers for a matrix of m x n, m <= n; two for each other parameter."""
    model, method = _model(), _method(rank=4)
    optimizer = method.optimizer(model, Context(learning_rate=1e-3))
    model(input_ids=torch.randint(0, 64, (2, 5)), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    matrices = {id(p) for p in method.matrices(model).values()}
    assert len(matrices) == 2 * 6
    total = 0
    for parameter, state in optimizer.state.items():
        numbers = sum(value.numel() for value in state.values() if isinstance(value, torch.Tensor))
        short, long = sorted(parameter.shape) if parameter.dim() == 2 else (0, 0)
        assert numbers == (short * 4 + 2 * long * 4 if id(parameter) in matrices else 2 * parameter.numel())
        total += numbers
    cost = method.cost(_model("meta"))
    assert cost["states"] == total
    assert cost["matrices"]["output.dense"]["stored"] == 16 * 40 + 16 * 4 + 2 * 40 * 4
    # The closed form of the optimizer meter, which the paper's larger models are counted with.
    assert optimizer_bytes(_model("meta"), "galore", rank=4)["bytes"] == 4 * total


def test_a_rank_must_be_below_the_short_side():
    with pytest.raises(ConfigError, match="rank 16 is not below the short side"):
        _method(rank=16).optimizer(_model("meta"), Context())
