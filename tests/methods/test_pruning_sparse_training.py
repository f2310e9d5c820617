"""Sparse training, pruning in rounds and hard-concrete masks: what a step does, against a version written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from replica.errors import ConfigError
from replica.methods import Context, parse
from replica.methods.pruning.hard_concrete_mask.method import HardConcrete
from replica.methods.pruning.iterative_magnitude_pruning.method import prune_smallest, repulsion
from replica.methods.pruning.masks import MASK
from replica.methods.pruning.sparse_training.method import exchange
from replica.models.residual import ResidualConfig, ResidualForImageClassification


def make(name, **config):
    entry, values = parse({"name": name, **config})
    return entry.create(values)


def network(**changes):
    torch.manual_seed(0)
    shape = {"image_size": 8, "stem_width": 4, "widths": [4, 8], "blocks": [[[4, 4]], [[4, 8]]], "num_labels": 3}
    return ResidualForImageClassification(ResidualConfig(**{**shape, **changes}))


def batch():
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(6, 3, 8, 8, generator=generator), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}


def step(model, method, context, optimizer, at):
    context.step = at
    method.on_step_begin(model, context)
    context.forward(model, batch()).loss.backward()
    method.on_gradients(model, context)
    optimizer.step()
    optimizer.zero_grad()
    method.on_step_end(model, context)


def masked(model):
    return {name: m for name, m in model.named_modules() if getattr(m, MASK, None) is not None}


@pytest.mark.parametrize("update", ["static", "set", "snfs", "rigl"])
def test_every_layer_keeps_its_number_of_weights(update):
    model, method = network(), make("sparse-training", sparsity=0.7, update=update, interval=3, drop=0.5)
    context = Context(total_steps=10, seed=3)
    method.prepare(model, context)
    before = {name: getattr(layer, MASK).clone() for name, layer in masked(model).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    context.optimizer = optimizer
    for at in range(10):
        step(model, method, context, optimizer, at)
        for name, layer in masked(model).items():
            assert int(getattr(layer, MASK).sum()) == int(before[name].sum())
            assert not layer.weight[~getattr(layer, MASK)].any()
    moved = any(not torch.equal(getattr(layer, MASK), before[name]) for name, layer in masked(model).items())
    assert moved == (update != "static")
    total = sum(p.numel() for p in model.parameters())
    kept = sum(int(mask.sum()) for mask in before.values()) + total - sum(mask.numel() for mask in before.values())
    assert method.expected(model) == {"total_parameters": total, "nonzero_parameters": kept}
    method.finalize(model)
    assert not masked(model)
    assert not any("mask" in name or "gradient" in name for name, _ in model.named_buffers())


def test_exchange_is_the_papers_drop_and_grow():
    layer = nn.Linear(3, 2, bias=False)
    layer.register_buffer(MASK, torch.tensor([[1, 1, 0], [1, 1, 0]], dtype=torch.bool))
    layer.weight.data = torch.tensor([[3.0, 0.1, 0.0], [0.2, 2.0, 0.0]])
    gradient = torch.tensor([[0.0, 9.0, 1.0], [0.5, 0.0, -4.0]])
    # half of four weights: 0.1 and 0.2 go; of what is not kept the gradients 9 (just dropped: stays, with its value) and -4 grow
    grown = exchange(layer, gradient, 0.5)
    assert getattr(layer, MASK).tolist() == [[True, True, False], [False, True, True]]
    assert layer.weight.tolist() == [[3.0, pytest.approx(0.1), 0.0], [0.0, 2.0, 0.0]]
    assert grown.tolist() == [[False, False, False], [False, False, True]]


def test_rigls_update_takes_the_place_of_the_step_and_looks_at_the_dense_gradient():
    model, method = network(), make("sparse-training", sparsity=0.5, interval=2, drop=1.0, end=1.0)
    context = Context(total_steps=8, seed=0)
    method.prepare(model, context)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    context.optimizer = optimizer
    for at in range(2):
        step(model, method, context, optimizer, at)
    state = {name: tensor.clone() for name, tensor in model.named_parameters()}
    layer = model.body.layers[0].branch[0][0]
    mask = getattr(layer, MASK).clone()
    context.step = 2
    context.forward(model, batch()).loss.backward()
    gradient = layer.weight.grad.clone()
    assert gradient[~mask].abs().max() > 0
    share = 0.5 * (1 + math.cos(math.pi * 2 / 8))
    moved = int(share * int(mask.sum()))
    order = (layer.weight.abs() * mask).flatten().argsort(descending=True)
    kept = order[: int(mask.sum()) - moved]
    score = gradient.abs().flatten()
    score[kept] = -1
    expected = torch.zeros(mask.numel(), dtype=torch.bool)
    expected[kept] = True
    expected[score.argsort(descending=True)[:moved]] = True
    method.on_gradients(model, context)
    assert torch.equal(getattr(layer, MASK), expected.view_as(mask))
    assert all(parameter.grad is None for parameter in model.parameters())
    new = getattr(layer, MASK) & ~mask
    assert new.any()
    assert not optimizer.state[layer.weight]["momentum_buffer"][new].any()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert torch.equal(parameter, state[name])


def test_resnet_counts_by_hand_for_uniform_densities():
    shape = {"image_size": 32, "stem_width": 16, "widths": [16], "blocks": [[[16, 16]]], "num_labels": 10}
    with torch.device("meta"):
        model = ResidualForImageClassification(ResidualConfig(**shape))
    method = make("sparse-training", sparsity=0.75, distribution="uniform", dense=["embedder"])
    method.prepare(model, Context())
    cost = method.cost(model)
    stem, block, head = 2 * 3 * 9 * 16 * 1024, 2 * 16 * 9 * 16 * 1024, 2 * 160
    assert cost["flops"] == stem + 2 * block + head
    assert cost["sparse_flops"] == pytest.approx(stem + (2 * block + head) / 4)
    assert cost["kept_weights"] == (2 * 2304 + 160) // 4
    sparse, dense = cost["sparse_flops"], cost["flops"]
    assert cost["training_ratio"] == pytest.approx((302 * sparse + dense) / 101 / (3 * dense))
    rest = 3 * 9 * 16 + 3 * 2 * 16 + 10
    assert cost["mb"] == pytest.approx((4 * (rest + cost["kept_weights"]) + (2 * 2304 + 160) / 8) / 1e6)


def test_the_released_counter_adds_biases_and_relus_that_never_become_sparse():
    # RigL's notebook counts an addition of a bias and a ReLU for each output: 2 n + 1 operations for an output of n weights.
    shape = {"image_size": 32, "stem_width": 16, "widths": [16], "blocks": [[[16, 16]]], "num_labels": 10}
    with torch.device("meta"):
        model = ResidualForImageClassification(ResidualConfig(**shape))
    method = make("sparse-training", sparsity=0.75, distribution="uniform", dense=["embedder"])
    method.prepare(model, Context())
    assert "micronet" not in method.cost(model)
    outputs, head = 16 * 1024, 10
    stem, block = outputs * 2 * 27, outputs * 2 * 144
    dense = stem + 2 * block + 2 * 160 + 3 * outputs + head
    sparse = stem + (2 * block + 2 * 160) / 4 + 3 * outputs + head
    cost = method.cost(model, padded_twice=())["micronet"]
    assert cost["flops"] == dense
    assert cost["sparse_flops"] == pytest.approx(sparse)
    assert cost["flops_ratio"] == pytest.approx(sparse / dense)
    assert cost["training_ratio"] == pytest.approx((302 * sparse + dense) / 101 / (3 * dense))
    # A stem that is padded by an operation of its own and by the counter again: 32 + 2 + 2 - 3 + 1 = 34 positions a side for 32.
    more = (34 * 34 - 32 * 32) * 16 * (2 * 27 + 1)
    twice = method.cost(model, padded_twice=("embedder",))["micronet"]
    assert twice["flops"] == dense + more
    assert twice["sparse_flops"] == pytest.approx(sparse + more)
    with pytest.raises(ConfigError, match="padded_twice: 'embeder' fits no convolution"):
        method.cost(model, padded_twice=("embeder",))


def test_rounds_go_back_to_the_same_weights_with_fewer_of_them():
    model = network()
    method = make("iterative-magnitude-pruning", rate=0.5, rounds=2, repel=2.0, exclude=["classifier"])
    context = Context(total_steps=9)
    method.prepare(model, context)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items() if MASK not in name}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    context.optimizer = optimizer
    weights = sum(getattr(layer, MASK).numel() for layer in masked(model).values())
    for at in range(9):
        if at in (3, 6):
            before = torch.cat([layer.weight.detach().flatten() for layer in masked(model).values()])
            left = torch.cat([getattr(layer, MASK).flatten() for layer in masked(model).values()])
            threshold = before[left].abs().sort().values[round(0.5 * int(left.sum())) - 1]
            context.step = at
            method.on_step_begin(model, context)
            after = torch.cat([getattr(layer, MASK).flatten() for layer in masked(model).values()])
            assert torch.equal(after, left & (before.abs() > threshold))
            assert not optimizer.state
            for name, tensor in model.named_parameters():
                layer = masked(model).get(name.rpartition(".")[0]) if name.endswith("weight") else None
                expected = start[name] if layer is None else start[name] * getattr(layer, MASK)
                assert torch.equal(tensor, expected), name
            assert torch.equal(model.iterative_pruning.optima[at // 3 - 1], before)
            cosine = torch.nn.functional.cosine_similarity(
                torch.cat([layer.weight.flatten() for layer in masked(model).values()]), before * after, dim=0
            )
            if at == 3:
                gap = method.loss(model, batch(), context) - context.forward(model, batch()).loss
                assert float(gap.detach()) == pytest.approx(2 * float(cosine.detach()) ** 2, abs=1e-4)
            loss = method.loss(model, batch(), context)
            loss.backward()
            method.on_gradients(model, context)
            optimizer.step()
            optimizer.zero_grad()
            method.on_step_end(model, context)
        else:
            step(model, method, context, optimizer, at)
    kept = sum(int(getattr(layer, MASK).sum()) for layer in masked(model).values())
    assert kept == weights - round(weights / 2) - round((weights - round(weights / 2)) / 2)
    assert int(model.iterative_pruning.found) == 2
    method.finalize(model)
    assert model.state_dict().keys() == start.keys() - {n for n in start if n.startswith("iterative_pruning")}


def test_the_rate_starts_again_in_every_training():
    method = make("iterative-magnitude-pruning", rounds=1, decay_at=[0.5, 0.75])
    context = Context(total_steps=16, warmup_steps=2)
    factors = [method.learning_rate_factor(at, context) for at in range(16)]
    assert factors[:8] == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert factors[8:] == factors[:8]


def test_a_rewound_training_goes_on_at_its_step_of_the_schedule():
    """20 steps with a warm-up of 4, then 15 from step 5 on in each of two rounds: no second warm-up, the fall where it was."""
    method = make("iterative-magnitude-pruning", rounds=2, rewind=0.25, decay_at=[0.5])
    context = Context(total_steps=50, warmup_steps=4)
    factors = [method.learning_rate_factor(at, context) for at in range(50)]
    first = [0, 0.25, 0.5, 0.75] + [1] * 6 + [0.1] * 10
    assert factors == pytest.approx(first + first[5:] + first[5:])
    model = nn.Sequential(nn.Linear(3, 3))
    method.prepare(model, context)
    steps = {}
    for at in range(50):
        context.step = at
        model[0].weight.data.fill_(1.0 + at)
        method.on_step_begin(model, context)
        steps[at] = model[0].weight.max().item()
    assert [at for at in range(50) if steps[at] != 1.0 + at] == [20, 35]  # back to the weights of step 5
    assert steps[20] == steps[35] == 6.0


@pytest.mark.parametrize(
    ("update", "first", "expected"),
    [
        ("rigl", "interval", [3, 6, 9]),
        ("rigl", "start", [0, 3, 6, 9]),
        ("set", "interval", [3, 6, 9]),
        ("set", "start", [1, 4, 7, 10]),
        ("snfs", "start", [1, 4, 7, 10]),
    ],
)
def test_masks_move_first_after_an_interval_or_at_once(update, first, expected):
    model, context = network(), Context(total_steps=16, seed=3)
    method = make("sparse-training", sparsity=0.7, update=update, interval=3, drop=0.5, first_update=first)
    method.prepare(model, context)
    context.optimizer = optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    moved = []
    for at in range(12):
        before = [getattr(layer, MASK).clone() for layer in masked(model).values()]
        step(model, method, context, optimizer, at)
        after = [getattr(layer, MASK) for layer in masked(model).values()]
        if not all(map(torch.equal, before, after)):
            moved.append(at)
    assert moved == expected


def test_pruning_compares_over_all_layers_and_spares_what_is_gone():
    small, large = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    small.weight.data, large.weight.data = torch.tensor([[0.1, 0.0]]), torch.tensor([[1.0, -0.2]])
    small.register_buffer(MASK, torch.tensor([[True, False]]))
    large.register_buffer(MASK, torch.tensor([[True, True]]))
    prune_smallest([small, large], 0.67)
    assert getattr(small, MASK).tolist() == [[False, False]]
    assert getattr(large, MASK).tolist() == [[True, False]]


def test_repulsion_is_the_mean_squared_cosine():
    generator = torch.Generator().manual_seed(0)
    weights, optima = torch.randn(7, generator=generator), torch.randn(3, 7, generator=generator)
    mask = torch.tensor([1, 1, 0, 1, 1, 0, 1], dtype=torch.bool)
    by_hand = 0.0
    for optimum in optima.tolist():
        a = [w for w, m in zip(weights.tolist(), mask.tolist(), strict=True) if m]
        b = [w for w, m in zip(optimum, mask.tolist(), strict=True) if m]
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        by_hand += dot**2 / (sum(x * x for x in a) * sum(y * y for y in b)) / 3
    assert float(repulsion(weights, mask, optima, -1.0)) == pytest.approx(-by_hand, rel=1e-5)


def test_hard_concrete_gates_have_the_published_expectations():
    gate = HardConcrete(-0.1, 1.1, 2 / 3)
    score = torch.full((200_000,), math.log(5))
    torch.manual_seed(0)
    gates = gate.sample(score)
    assert float(gates.min()) >= 0
    assert float(gates.max()) <= 1
    assert float((gates > 0).float().mean()) == pytest.approx(float(gate.open_share(score[:1])), abs=2e-3)
    assert gate.score_of(0.9) == pytest.approx(math.log((0.9 + 0.1) / 1.2 / (1 - 1.0 / 1.2)))
    assert float(gate.value(score[:1])) == pytest.approx(0.9)
    closed = torch.tensor([-20.0, 20.0])
    assert gate.value(closed).tolist() == [0.0, 1.0]


def test_a_ticket_is_one_cut_over_all_scores():
    model = network()
    model.classifier = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    method = make("hard-concrete-mask", sparsity=0.25, exclude=[], penalty=0.5)
    method.prepare(model, Context())
    assert method.expected(model)["trainable_parameters"] == 64 + 24
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "classifier.0.mask_score",
        "classifier.1.mask_score",
    ]
    first, second = model.classifier
    share = 0.5 * torch.sigmoid(first.mask_score + 2 / 3 * math.log(11)).mean()
    share = share + 0.5 * torch.sigmoid(second.mask_score + 2 / 3 * math.log(11)).mean()
    assert float(method.open_share(model)) == pytest.approx(float(share))
    second.mask_score.data.fill_(-5.0)
    first.mask_score.data[0, :] = -1.0
    method.finalize(model)
    assert (
        int((second.weight == 0).sum()) + int((first.weight == 0).sum()) == 22
    )  # a quarter of 88, all in the layer of low scores
    assert int((second.weight == 0).sum()) == 22
    assert [type(layer) for layer in model.classifier] == [nn.Linear, nn.Linear]
    assert all(p.requires_grad for p in model.parameters())


def test_the_penalty_rises_in_a_line():
    method = make("hard-concrete-mask")
    assert [method.penalty(at, 100) for at in (0, 9, 10, 25, 40, 99)] == pytest.approx([0, 0, 0, 0.25, 0.5, 0.5])


def test_two_methods_of_masks_cannot_act_together():
    model = network()
    make("sparse-training").prepare(model, Context())
    with pytest.raises(ConfigError, match="has a mask already"):
        make("iterative-magnitude-pruning").prepare(model, Context())
