"""Objectives that call a model's parts are computed inside the wrapper that averages gradients over processes."""

from __future__ import annotations

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from replica import models
from replica.methods import Context, parse
from replica.training.loop import inside

from .small_models import entry


@pytest.fixture
def one_process(tmp_path):
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def _gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", ["minilm", "hidden-distillation"])
def test_distillation_under_distributed_data_parallel(one_process, method):
    student = models.build(entry(num_hidden_layers=1), head="mlm", seed=1)
    teacher = models.build(entry(), head="mlm", seed=2).requires_grad_(False)
    found, config = parse(method)
    objective, context = found.create(config), Context(head="mlm", teacher=teacher)
    ids = torch.randint(5, 50, (2, 8), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    expected = _gradients(student, objective.loss(student, batch, context))

    wrapped = DistributedDataParallel(student, find_unused_parameters=True)
    reduced = []

    def averaged_over_processes(state, bucket):
        reduced.append(bucket.buffer().numel())
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    wrapped.register_comm_hook(None, averaged_over_processes)
    with pytest.raises(AttributeError):
        objective.loss(wrapped, batch, context)  # the wrapper has not the model's parts
    loss = inside(wrapped, student, lambda: objective.loss(student, batch, context))
    found = _gradients(student, loss)
    assert sum(reduced) == sum(p.numel() for p in student.parameters()), "every gradient went through the reducer"
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-6), name
    assert "forward" not in vars(student)


def test_the_models_own_forward_comes_back_also_after_an_error(one_process):
    model = torch.nn.Linear(2, 2)
    own = model.forward = lambda x: x
    wrapped = DistributedDataParallel(model)
    with pytest.raises(ZeroDivisionError):
        inside(wrapped, model, lambda: 1 / 0)
    assert model.forward is own
    assert inside(model, model, lambda: 3) == 3
