"""Soft targets against arithmetic written out: temperature, alpha, padding, masked tokens, spans and stored logits."""

import math

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from replica.errors import ConfigError
from replica.methods.base import Context
from replica.methods.distillation.logit_distillation.method import soft_target_loss
from replica.methods.registry import parse

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}


def make(head, teacher, **options):
    entry, config = parse({"name": "logit-distillation", **options})
    return entry.create(config), Context(head=head, teacher=teacher)


def pair(cls, **changes):
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(cls(BertConfig(**SMALL, **changes)).eval())
    return models


def text(lengths=(6, 4, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(8)[None] < torch.tensor(lengths)[:, None]).long()
    input_ids = torch.randint(5, 40, mask.shape, generator=generator) * mask
    return {"input_ids": input_ids, "attention_mask": mask, "example_id": torch.arange(len(lengths))}


def softmax(row, temperature):
    exponentials = [math.exp(x / temperature) for x in row]
    return [x / sum(exponentials) for x in exponentials]


def soft_by_hand(student, teacher, temperature):
    """T^2 * KL(teacher || student) at that temperature, averaged over rows."""
    total = 0.0
    for own, taught in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(taught, temperature), softmax(own, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


def hard_by_hand(student, labels):
    return -sum(
        math.log(softmax(row, 1)[label]) for row, label in zip(student.tolist(), labels.tolist(), strict=True)
    ) / len(labels)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_classification_weighs_hard_and_soft_targets(alpha, temperature):
    student, teacher = pair(BertForSequenceClassification, num_labels=3)
    batch = text() | {"labels": torch.tensor([0, 2, 1])}
    method, context = make("classification", teacher, alpha=alpha, temperature=temperature)
    with torch.no_grad():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        own, taught = student(**inputs).logits.double(), teacher(**inputs).logits.double()
    expected = alpha * hard_by_hand(own, batch["labels"]) + (1 - alpha) * soft_by_hand(own, taught, temperature)
    assert method.loss(student, batch, context).item() == pytest.approx(expected, rel=1e-5)


def test_squared_temperature_keeps_the_gradients_size():
    """At a high temperature the gradient tends to (z_s - z_t) / N per logit for zero-mean logits, whatever T is."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    teacher = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    student, teacher = student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
    student.requires_grad_()
    soft_target_loss(student, teacher, 1e4).backward()
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 5 / 4, rtol=1e-3, atol=1e-6)
    # at any temperature: T^2 * 1/T * (softmax(z_s / T) - softmax(z_t / T)), averaged over rows
    for temperature in (1.0, 2.0, 5.0):
        student.grad = None
        soft_target_loss(student, teacher, temperature).backward()
        exact = temperature * (torch.softmax(student / temperature, 1) - torch.softmax(teacher / temperature, 1)) / 4
        torch.testing.assert_close(student.grad, exact.detach())


def test_regression_takes_the_squared_error():
    student, teacher = pair(BertForSequenceClassification, num_labels=1, problem_type="regression")
    batch = text() | {"labels": torch.tensor([0.5, -1.0, 2.0])}
    method, context = make("regression", teacher, alpha=0.25)
    with torch.no_grad():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        own, taught = student(**inputs).logits[:, 0], teacher(**inputs).logits[:, 0]
    hard, soft = ((own - batch["labels"]) ** 2).mean(), ((own - taught) ** 2).mean()
    assert method.loss(student, batch, context).item() == pytest.approx((0.25 * hard + 0.75 * soft).item(), rel=1e-5)


def test_span_is_the_mean_of_start_and_end_over_real_positions():
    student, teacher = pair(BertForQuestionAnswering)
    batch = text() | {"start_positions": torch.tensor([1, 0, 2]), "end_positions": torch.tensor([2, 3, 2])}
    method, context = make("span", teacher, alpha=0.0, temperature=2.0)
    with torch.no_grad():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        own, taught = student(**inputs), teacher(**inputs)
    expected = 0.0
    for row, length in enumerate((6, 4, 3)):
        for name in ("start_logits", "end_logits"):
            ours, theirs = own[name][row : row + 1, :length].double(), taught[name][row : row + 1, :length].double()
            expected += soft_by_hand(ours, theirs, 2.0) / 2 / 3
    assert method.loss(student, batch, context).item() == pytest.approx(expected, rel=1e-5)
    signals = method.teacher_signals(teacher, batch, context)
    assert set(signals) == {"start_logits", "end_logits"}


def test_tagging_averages_over_labelled_positions():
    student, teacher = pair(BertForTokenClassification, num_labels=3)
    labels = torch.full((3, 8), -100)
    labels[0, 1], labels[0, 3], labels[2, 2] = 0, 2, 1
    batch = text() | {"labels": labels}
    method, context = make("tagging", teacher, alpha=0.0)
    with torch.no_grad():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        own, taught = student(**inputs).logits[labels != -100], teacher(**inputs).logits[labels != -100]
    assert method.loss(student, batch, context).item() == pytest.approx(
        soft_by_hand(own.double(), taught.double(), 2.0), rel=1e-5
    )


def masked_batch():
    labels = torch.full((3, 8), -100)
    labels[0, 1], labels[0, 4], labels[1, 2], labels[2, 1] = 7, 9, 30, 12
    return text() | {"labels": labels}


@pytest.mark.parametrize("words", ["masked", "all"])
def test_masked_language_model_distils_masked_words_or_all_but_padding(words):
    student, teacher = pair(BertForMaskedLM)
    batch = masked_batch()
    method, context = make("mlm", teacher, alpha=0.5, temperature=2.0, words=words)
    with torch.no_grad():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        chosen = batch["labels"] != -100
        taught_at = chosen if words == "masked" else inputs["attention_mask"].bool()
        own, taught = student(**inputs).logits.double(), teacher(**inputs).logits.double()
    expected = 0.5 * hard_by_hand(own[chosen], batch["labels"][chosen]) + 0.5 * soft_by_hand(
        own[taught_at], taught[taught_at], 2.0
    )
    assert taught_at.sum() == (4 if words == "masked" else 13)
    assert method.loss(student, batch, context).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("words", ["masked", "all"])
def test_pretraining_adds_the_next_sentence(words):
    student, teacher = pair(BertForPreTraining)
    batch = masked_batch() | {"next_sentence_label": torch.tensor([0, 1, 1])}
    method, context = make("pretraining", teacher, alpha=0.5, temperature=2.0, words=words)
    at = batch["labels"] != -100 if words == "masked" else batch["attention_mask"].bool()
    with torch.no_grad():
        inputs = {key: value for key, value in batch.items() if key != "example_id"}
        own, taught = student(**inputs), teacher(**inputs)
    soft = soft_by_hand(own.prediction_logits[at].double(), taught.prediction_logits[at].double(), 2.0)
    soft += soft_by_hand(own.seq_relationship_logits.double(), taught.seq_relationship_logits.double(), 2.0)
    expected = 0.5 * own.loss.item() + 0.5 * soft
    assert method.loss(student, batch, context).item() == pytest.approx(expected, rel=1e-5)


def test_stored_logits_give_the_online_loss_and_gradients_stay_with_the_student():
    student, teacher = pair(BertForSequenceClassification, num_labels=3)
    batch = text() | {"labels": torch.tensor([0, 2, 1])}
    method, context = make("classification", teacher)
    online = method.loss(student, batch, context)
    online.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    signals = method.teacher_signals(teacher, batch, context)
    assert set(signals) == set(method.signal_axes) == {"logits"} and signals["logits"].shape == (3, 3)
    context.stored, context.teacher = lambda _: signals, None
    assert method.loss(student, batch, context).item() == pytest.approx(online.item())


def test_another_number_of_labels_or_no_head_is_an_error():
    student = pair(BertForSequenceClassification, num_labels=3)[0]
    teacher = pair(BertForSequenceClassification, num_labels=2)[1]
    method, context = make("classification", teacher)
    with pytest.raises(ConfigError, match="student has 3 labels, the teacher 2"):
        method.prepare(student, context)
    method, context = make("text", teacher)
    with pytest.raises(ConfigError, match="needs a head with logits"):
        method.prepare(student, context)


def test_training_lowers_the_loss():
    student, teacher = pair(BertForSequenceClassification, num_labels=3)
    batch = text() | {"labels": torch.tensor([0, 2, 1])}
    method, context = make("classification", teacher, alpha=0.0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    before = method.loss(student, batch, context).item()
    for _ in range(15):
        optimizer.zero_grad()
        method.loss(student, batch, context).backward()
        optimizer.step()
    assert method.loss(student, batch, context).item() < 0.5 * before
