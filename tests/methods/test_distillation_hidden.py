"""TinyBERT's layer-to-layer losses and BiPFT's hidden-state objective against loops and the models' own outputs."""

import math

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel

from replica.errors import ConfigError
from replica.methods.base import Context
from replica.methods.registry import parse


def model_of(cls, layers, hidden, seed, heads=2, dropout=0.1):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=40,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * hidden,
        max_position_embeddings=32,
        initializer_range=0.2,
        hidden_dropout_prob=dropout,
    )
    return cls(config).eval()


def batch_of(lengths=(8, 5, 3), **more):
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(8)[None] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 40, mask.shape, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "example_id": torch.arange(len(lengths)), **more}


def masked_batch(**more):
    labels = torch.full((3, 8), -100)
    labels[0, 1], labels[0, 4], labels[1, 2], labels[2, 1] = 7, 9, 30, 12
    return batch_of(labels=labels, **more)


def make(name, head, teacher, **options):
    entry, config = parse({"name": name, **options})
    return entry.create(config), Context(head=head, teacher=teacher, seed=5)


def states_of(model, batch):
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return [s.double().numpy() for s in model.base_model(**inputs, output_hidden_states=True).hidden_states]


def scores_of(model, state, layer, heads):
    """Scores before the softmax, (batch, heads, length, length), by numpy from a layer's input."""
    attention = model.base_model.encoder.layer[layer].attention.self
    parts = []
    for linear in (attention.query, attention.key):
        flat = state @ linear.weight.detach().double().numpy().T + linear.bias.detach().double().numpy()
        parts.append(np.stack(np.split(flat, heads, axis=-1), axis=1))
    return parts[0] @ parts[1].transpose(0, 1, 3, 2) / math.sqrt(parts[0].shape[-1])


def error(difference, lengths):
    """Mean square of (batch, length, width) over real positions."""
    return np.concatenate([np.square(difference[row, :n]).ravel() for row, n in enumerate(lengths)]).mean()


def tinybert_by_hand(student, teacher, batch, mapping, heads=2):
    lengths = batch["attention_mask"].sum(1).tolist()
    own, taught = states_of(student, batch), states_of(teacher, batch)
    embed, hidden = (
        student.distillation_maps[name].weight.detach().double().numpy().T for name in ("embeddings", "hidden_states")
    )
    losses = [error(own[0] @ embed - taught[0], lengths), 0.0, 0.0]
    for layer, other in enumerate(mapping):
        losses[1] += error(own[layer + 1] @ hidden - taught[other + 1], lengths)
        gap = scores_of(student, own[layer], layer, heads) - scores_of(teacher, taught[other], other, heads)
        losses[2] += np.concatenate([np.square(gap[row, :, :n, :n]).ravel() for row, n in enumerate(lengths)]).mean()
    return losses


def test_tinybert_sums_embeddings_hidden_states_and_scores_over_the_uniform_map():
    student, teacher, batch = model_of(BertModel, 2, 16, 1), model_of(BertModel, 4, 24, 2), batch_of()
    method, context = make("tinybert-distillation", "text", teacher)
    method.prepare(student, context)
    losses = tinybert_by_hand(student, teacher, batch, [1, 3])
    assert method.loss(student, batch, context).item() == pytest.approx(sum(losses), rel=1e-5)
    weighted, _ = make(
        "tinybert-distillation", "text", teacher, embedding_weight=2, hidden_weight=0, attention_weight=0.5
    )
    assert weighted.loss(student, batch, context).item() == pytest.approx(2 * losses[0] + 0.5 * losses[2], rel=1e-5)


def test_tinybert_stored_signals_of_all_layers_give_the_online_loss():
    student, teacher, batch = model_of(BertModel, 2, 16, 1), model_of(BertModel, 4, 24, 2), batch_of()
    method, context = make("tinybert-distillation", "text", teacher)
    method.prepare(student, context)
    online = method.loss(student, batch, context)
    online.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.distillation_maps["hidden_states"].weight.grad is not None
    store, _ = make("tinybert-distillation", "text", teacher)
    with torch.no_grad():
        signals = store.teacher_signals(teacher, batch, Context())
    assert signals["scores"].shape[:2] == (3, 4) and set(signals) == set(store.signal_axes)
    context.stored = lambda _: signals
    assert method.loss(student, batch, context).item() == pytest.approx(online.item(), rel=1e-5)
    assert not any("maps" in name for name in method.finalize(student).state_dict())


def test_tinybert_refuses_another_number_of_heads_and_depths_that_do_not_divide():
    teacher = model_of(BertModel, 3, 16, 1)
    for student, message in (
        (model_of(BertModel, 3, 16, 1, heads=4), "student has 4 attention heads, the teacher 2"),
        (model_of(BertModel, 2, 16, 1), "student 2, teacher 3"),
    ):
        method, context = make("tinybert-distillation", "text", teacher)
        with pytest.raises(ConfigError, match=message):
            method.prepare(student, context)


def hidden_by_hand(student, teacher, batch, mapping):
    lengths = batch["attention_mask"].sum(1).tolist()
    own, taught = states_of(student, batch), states_of(teacher, batch)
    return np.mean([error(own[m] - taught[g], lengths) for m, g in enumerate(mapping)])


def test_hidden_distillation_is_task_plus_hidden_states_plus_next_sentence():
    student, teacher = model_of(BertForPreTraining, 2, 16, 1), model_of(BertForPreTraining, 2, 16, 2)
    batch = masked_batch(next_sentence_label=torch.tensor([0, 1, 1]))
    method, context = make("hidden-distillation", "pretraining", teacher)
    method.prepare(student, context)
    inputs = {key: value for key, value in batch.items() if key != "example_id"}
    with torch.no_grad():
        own, taught = student(**inputs), teacher(**inputs)
    soft = 0.0
    for ours, theirs in zip(own.seq_relationship_logits.tolist(), taught.seq_relationship_logits.tolist(), strict=True):
        p = [math.exp(x) / sum(map(math.exp, theirs)) for x in theirs]
        q = [math.exp(x) / sum(map(math.exp, ours)) for x in ours]
        soft -= sum(a * math.log(b) for a, b in zip(p, q, strict=True)) / 3
    hidden = hidden_by_hand(student, teacher, batch, [0, 1, 2])
    assert method.loss(student, batch, context).item() == pytest.approx(own.loss.item() + hidden + soft, rel=1e-5)
    weighted, _ = make(
        "hidden-distillation", "pretraining", teacher, task_weight=0, hidden_weight=2, next_sentence_weight=0.5
    )
    assert weighted.loss(student, batch, context).item() == pytest.approx(2 * hidden + 0.5 * soft, rel=1e-5)
    # the released term is the mean over sentences and both classes: half of the sum over the classes
    taught_shares = torch.softmax(taught.seq_relationship_logits, -1)
    released = -(taught_shares * torch.log_softmax(own.seq_relationship_logits, -1)).mean().item()
    assert released == pytest.approx(0.5 * soft, rel=1e-5)


def test_hidden_distillation_without_next_sentence_and_from_a_deeper_teacher():
    student, teacher = model_of(BertForMaskedLM, 2, 16, 1), model_of(BertForMaskedLM, 4, 16, 2)
    batch = masked_batch()
    method, context = make("hidden-distillation", "mlm", teacher)
    method.prepare(student, context)
    task = student(**{key: value for key, value in batch.items() if key != "example_id"}).loss.item()
    expected = task + hidden_by_hand(student, teacher, batch, [0, 2, 4])
    assert method.loss(student, batch, context).item() == pytest.approx(expected, rel=1e-5)
    assert set(method.teacher_signals(teacher, batch, context)) == {"hidden_states"}


def test_hidden_distillation_on_text_without_labels_compares_hidden_states_only():
    student, teacher, batch = model_of(BertModel, 2, 16, 1), model_of(BertModel, 2, 16, 2), batch_of()
    method, context = make("hidden-distillation", "text", teacher)
    loss = method.loss(student, batch, context)
    assert loss.item() == pytest.approx(hidden_by_hand(student, teacher, batch, [0, 1, 2]), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    signals = method.teacher_signals(teacher, batch, context)
    context.stored = lambda _: signals
    assert method.loss(student, batch, context).item() == pytest.approx(loss.item())


def test_hidden_distillation_refuses_another_width():
    method, context = make("hidden-distillation", "mlm", model_of(BertForMaskedLM, 2, 24, 1))
    with pytest.raises(ConfigError, match="student is 16 wide, the teacher 24"):
        method.prepare(model_of(BertForMaskedLM, 2, 16, 1), context)


def test_teacher_dropout_is_off_unless_asked_for():
    teacher, batch = model_of(BertModel, 2, 16, 1, dropout=0.5), batch_of()
    for wanted in (False, True):
        method, context = make("hidden-distillation", "text", teacher, teacher_dropout=wanted)
        first, second = (method.teacher_signals(teacher, batch, context)["hidden_states"] for _ in range(2))
        assert torch.equal(first, second) is not wanted
        assert not teacher.training


@pytest.mark.parametrize(
    ("name", "head", "cls"),
    [("tinybert-distillation", "text", BertModel), ("hidden-distillation", "pretraining", BertForPreTraining)],
)
def test_training_lowers_the_loss(name, head, cls):
    student, teacher = model_of(cls, 2, 16, 1), model_of(cls, 4, 16, 2)
    batch = masked_batch(next_sentence_label=torch.tensor([0, 1, 1]))
    method, context = make(name, head, teacher)
    method.prepare(student, context)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    before = method.loss(student, batch, context).item()
    for _ in range(20):
        optimizer.zero_grad()
        method.loss(student, batch, context).backward()
        optimizer.step()
    assert method.loss(student, batch, context).item() < 0.9 * before
