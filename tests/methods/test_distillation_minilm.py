"""MiniLM's loss against loops over equations 6-10, the model's own attention, and its ablations and stored signals."""

import math

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from replica.errors import ConfigError
from replica.methods.base import Context
from replica.methods.distillation import attention_signals as att
from replica.methods.registry import parse

HEADS = 4


def tiny_bert(layers=2, hidden=24, heads=HEADS, seed=0, attention="sdpa"):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * hidden,
        max_position_embeddings=32,
        initializer_range=0.3,  # far from uniform attention, so that the losses are not near zero
        attn_implementation=attention,
    )
    return BertModel(config).eval()


def batch_with_padding(seed=0, lengths=(7, 3, 5), width=8):
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(5, 50, (len(lengths), width), generator=generator)
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return {
        "input_ids": input_ids * mask,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(mask),
        "example_id": torch.arange(len(lengths)),
    }


def make(**options):
    entry, config = parse({"name": "minilm", **options})
    return entry.create(config)


def prepared(student, teacher, **options):
    method, context = make(**options), Context(head="text", teacher=teacher, seed=3)
    method.prepare(student, context)
    return method, context


def numpy_projections(model, batch, layer):
    """Queries, keys and values of a BERT layer in float64, from its input hidden state and its weights."""
    with torch.no_grad():
        inputs = {k: v for k, v in batch.items() if k != "example_id"}
        states = model(**inputs, output_hidden_states=True).hidden_states[layer].double().numpy()
    attention = model.encoder.layer[layer].attention.self
    found = []
    for linear in (attention.query, attention.key, attention.value):
        flat = states @ linear.weight.detach().double().numpy().T + linear.bias.detach().double().numpy()
        found.append(flat)
    return found


def distribution(left, right, heads, sentence, head, position, length):
    """One row of softmax(left right^T / sqrt(d_head)) over the sentence's real positions, by loops."""
    size = left.shape[-1] // heads
    part = slice(head * size, (head + 1) * size)
    logits = [
        sum(left[sentence, position, part] * right[sentence, key, part]) / math.sqrt(size) for key in range(length)
    ]
    highest = max(logits)
    exponentials = [math.exp(x - highest) for x in logits]
    return [x / sum(exponentials) for x in exponentials]


def brute_force(student, teacher, batch, student_layer, teacher_layer, *, heads=HEADS):
    """L_AT and L_VR by equations 6-9, loop by loop, averaged over sentences."""
    own = numpy_projections(student, batch, student_layer)
    taught = numpy_projections(teacher, batch, teacher_layer)
    lengths = batch["attention_mask"].sum(1).tolist()
    totals = [0.0, 0.0]
    for which, (left, right) in enumerate([(0, 1), (2, 2)]):
        for sentence, length in enumerate(lengths):
            divergence = 0.0
            for head in range(heads):
                for position in range(length):
                    p = distribution(taught[left], taught[right], heads, sentence, head, position, length)
                    q = distribution(own[left], own[right], heads, sentence, head, position, length)
                    divergence += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            totals[which] += divergence / (heads * length) / len(lengths)
    return totals


def test_loss_equals_the_equations_with_padding_and_another_width():
    student, teacher = tiny_bert(2, 24, seed=1), tiny_bert(4, 48, seed=2)
    batch = batch_with_padding()
    method, context = prepared(student, teacher)
    attention, values = brute_force(student, teacher, batch, student_layer=1, teacher_layer=3)
    assert attention > 0.1 and values > 0.1
    assert method.loss(student, batch, context).item() == pytest.approx(attention + values, rel=1e-5)
    assert context.recorded["attention_loss"] == pytest.approx(attention, rel=1e-5)
    assert context.recorded["value_loss"] == pytest.approx(values, rel=1e-5)


def test_attention_only_leaves_the_value_relation_out():
    student, teacher = tiny_bert(2, 24, seed=1), tiny_bert(4, 48, seed=2)
    batch = batch_with_padding()
    method, context = prepared(student, teacher, value="none")
    attention, _ = brute_force(student, teacher, batch, 1, 3)
    assert method.loss(student, batch, context).item() == pytest.approx(attention, rel=1e-5)
    assert set(method.signal_axes) == {"attention"}


def test_layer_to_layer_averages_the_same_loss_over_the_uniform_map():
    student, teacher = tiny_bert(2, 24, seed=1), tiny_bert(4, 48, seed=2)
    batch = batch_with_padding()
    method, context = prepared(student, teacher, layers="uniform")
    # g(1) = 2 and g(2) = 4, counted from one
    expected = np.mean(
        [sum(brute_force(student, teacher, batch, 0, 1)), sum(brute_force(student, teacher, batch, 1, 3))]
    )
    assert method.loss(student, batch, context).item() == pytest.approx(expected, rel=1e-5)


def test_value_mse_maps_the_student_values_to_the_teacher_width():
    student, teacher = tiny_bert(2, 24, seed=1), tiny_bert(4, 48, seed=2)
    batch = batch_with_padding()
    method, context = prepared(student, teacher, value="mse")
    matrix = student.get_parameter("distillation_maps.values_0.weight")
    assert tuple(matrix.shape) == (48, 24) and matrix.requires_grad
    own = numpy_projections(student, batch, 1)[2] @ matrix.detach().double().numpy().T
    taught = numpy_projections(teacher, batch, 3)[2]
    errors = [
        np.square(own[row, :length] - taught[row, :length]).mean()
        for row, length in enumerate(batch["attention_mask"].sum(1))
    ]
    attention, _ = brute_force(student, teacher, batch, 1, 3)
    assert method.loss(student, batch, context).item() == pytest.approx(attention + np.mean(errors), rel=1e-5)
    names = {name for name, _ in method.finalize(student).named_parameters()}
    assert not any("distillation" in name for name in names)


def test_attention_equals_the_probabilities_of_eager_attention():
    teacher, batch = tiny_bert(3, 24, seed=4, attention="eager"), batch_with_padding()
    signals = make().teacher_signals(teacher, batch, Context())
    inputs = {k: v for k, v in batch.items() if k != "example_id"}
    own = teacher(**inputs, output_attentions=True).attentions[-1]
    real = batch["attention_mask"].bool()
    for row in range(3):
        torch.testing.assert_close(
            signals["attention"][row, 0][:, real[row]], own[row][:, real[row]], atol=1e-6, rtol=1e-5
        )
    assert signals["attention"].dtype == torch.float32


def encoders():
    small = {
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    yield BertModel(BertConfig(**small, attn_implementation="eager"))
    yield RobertaModel(RobertaConfig(**small, type_vocab_size=1, attn_implementation="eager"))
    yield XLMRobertaModel(XLMRobertaConfig(**small, type_vocab_size=1, attn_implementation="eager"))
    yield DistilBertModel(
        DistilBertConfig(vocab_size=50, dim=24, n_layers=2, n_heads=4, hidden_dim=48, attn_implementation="eager")
    )


@pytest.mark.parametrize("model", encoders(), ids=lambda model: model.config.model_type)
def test_every_supported_encoder_gives_its_own_attention(model):
    model.eval()
    batch = batch_with_padding(lengths=(8, 8))
    signals = make(layers="uniform").teacher_signals(model, batch, Context())
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    own = torch.stack(model(**inputs, output_attentions=True).attentions, dim=1)
    torch.testing.assert_close(signals["attention"], own, atol=1e-6, rtol=1e-5)


def test_an_unknown_architecture_is_an_error_that_names_the_known_ones():
    model = T5EncoderModel(T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4))
    with pytest.raises(ConfigError, match=r"architecture 't5' is not supported; supported: bert.*distilbert"):
        prepared(model, tiny_bert())


def test_gradients_reach_the_student_alone():
    student, teacher = tiny_bert(2, 24, seed=1), tiny_bert(4, 48, seed=2)
    method, context = prepared(student, teacher)
    method.loss(student, batch_with_padding(), context).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    reached = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert "embeddings.word_embeddings.weight" in reached
    # what follows the last layer's projections has no part in the loss
    last = {name for name in reached if name.startswith("encoder.layer.1.")}
    assert last == {
        f"encoder.layer.1.attention.self.{x}.{y}" for x in ("query", "key", "value") for y in ("weight", "bias")
    }


def test_padding_does_not_change_the_loss():
    student, teacher = tiny_bert(2, 24, seed=1), tiny_bert(4, 48, seed=2)
    method, context = prepared(student, teacher)
    short = batch_with_padding(lengths=(5, 5), width=5)
    padded = {
        key: torch.nn.functional.pad(value, (0, 3)) if value.dim() == 2 else value for key, value in short.items()
    }
    loss = method.loss(student, short, context).item()
    assert method.loss(student, padded, context).item() == pytest.approx(loss, rel=1e-5)


def test_other_number_of_heads_is_an_error():
    with pytest.raises(ConfigError, match="the student has 2 attention heads, the teacher 4"):
        prepared(tiny_bert(heads=2), tiny_bert())
    stored = make().teacher_signals(tiny_bert(), batch_with_padding(), Context())
    method, context = prepared(tiny_bert(heads=2), None)
    context.stored = lambda batch: stored
    with pytest.raises(ConfigError, match="num_attention_heads: 4"):
        method.loss(tiny_bert(heads=2), batch_with_padding(), context)


def test_uniform_map_is_m_times_l_over_m():
    assert att.uniform_map(3, 12) == [3, 7, 11]  # layers 4, 8 and 12
    assert att.uniform_map(4, 4) == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="student 5, teacher 12"):
        att.uniform_map(5, 12)
    with pytest.raises(ConfigError, match="student 2, teacher 3"):
        prepared(tiny_bert(2), tiny_bert(3), layers="uniform")


@pytest.mark.parametrize("options", [{}, {"value": "none"}, {"layers": "uniform"}, {"value": "mse"}])
def test_stored_signals_give_the_online_loss(options):
    """Signals stored sentence by sentence, without padding, and padded again to the batch."""
    student, teacher = tiny_bert(2, 24, seed=1), tiny_bert(4, 48, seed=2)
    batch = batch_with_padding()
    method, context = prepared(student, teacher, **options)
    online = method.loss(student, batch, context).item()

    store = make(**options)
    rows = []
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = {key: value[row : row + 1, :length] for key, value in batch.items() if key != "example_id"}
        rows.append(store.teacher_signals(teacher, alone, Context()))
    width = batch["input_ids"].shape[1]

    def stored(_):
        padded = {}
        for name, axes in store.signal_axes.items():
            shape = [
                width if axis == "length" else size for axis, size in zip(axes, rows[0][name].shape[1:], strict=True)
            ]
            out = torch.zeros(len(rows), *shape)
            for row, signals in enumerate(rows):
                signal = signals[name][0]
                out[(row, *(slice(size) for size in signal.shape))] = signal
            padded[name] = out
        return padded

    context.stored, context.teacher = stored, None
    assert method.loss(student, batch, context).item() == pytest.approx(online, rel=1e-5)


def test_targets_without_the_value_relation_are_refused():
    student, teacher = tiny_bert(2, seed=1), tiny_bert(2, seed=2)
    batch = batch_with_padding()
    signals = make(value="none").teacher_signals(teacher, batch, Context())
    method, context = prepared(student, None)
    context.stored = lambda _: signals
    with pytest.raises(ConfigError, match="needs the teacher's value_relation; the stored targets hold attention"):
        method.loss(student, batch, context)


def test_value_mse_without_a_teacher_asks_for_its_width():
    with pytest.raises(ConfigError, match="teacher_hidden_size"):
        prepared(tiny_bert(), None, value="mse")
    student = tiny_bert(hidden=24)
    prepared(student, None, value="mse", teacher_hidden_size=48)
    assert tuple(student.distillation_maps["values_0"].weight.shape) == (48, 24)


def test_stopping_early_gives_what_the_whole_pass_gives():
    model, batch = tiny_bert(3, seed=5), batch_with_padding()
    with torch.no_grad():
        early, none = att.project(model, batch, [1])
        whole, states = att.project(model, batch, [1], hidden_states=True)
    assert none == () and len(states) == 4
    for ours, theirs in zip(early[0], whole[0], strict=True):
        assert torch.equal(ours, theirs)
    assert not any(module._forward_hooks for name, module in model.named_modules() if name.endswith("value"))


def test_loss_is_computed_in_single_precision_under_autocast():
    student, teacher = tiny_bert(2, 24, seed=1), tiny_bert(4, 48, seed=2)
    batch = batch_with_padding()
    method, context = prepared(student, teacher)
    exact = method.loss(student, batch, context).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.loss(student, batch, context)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.05)


def test_works_on_the_meta_device():
    with torch.device("meta"):
        student, teacher = tiny_bert(2, 24), tiny_bert(4, 48)
    for options in ({}, {"value": "mse"}, {"layers": "uniform"}):
        method, context = prepared(student, teacher, **options)
        batch = {"input_ids": torch.zeros(2, 8, dtype=torch.long, device="meta")}
        assert method.loss(student, batch, context).device.type == "meta"
        method.finalize(student)


@pytest.mark.parametrize("options", [{}, {"value": "mse"}, {"layers": "uniform"}])
def test_training_lowers_the_loss(options):
    student, teacher = tiny_bert(2, 24, seed=1), tiny_bert(4, 48, seed=2)
    method, context = prepared(student, teacher, **options)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    batches = [batch_with_padding(seed) for seed in range(4)]

    def mean_loss():
        with torch.no_grad():
            return sum(method.loss(student, batch, context).item() for batch in batches) / len(batches)

    before = mean_loss()
    for step in range(40):
        optimizer.zero_grad()
        method.loss(student, batches[step % 4], context).backward()
        optimizer.step()
    assert mean_loss() < 0.8 * before
