"""BiPFT in a tiny BERT: attention against numpy, the exact identity behind the estimators, training, storing, resuming."""

import math
import shutil

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaModel,
)

from replica.config.schema import Train
from replica.errors import AssetError, ConfigError, TrainingError
from replica.methods.base import Context
from replica.methods.binarization.bipft.binarizers import ActivationScale, SignedBinarizer
from replica.methods.binarization.bipft.binary_attention import ESTIMATORS, BinarySelfAttention
from replica.methods.registry import parse
from replica.methods.stored import load_model, save_model

TINY = {
    "vocab_size": 53,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def method(**options):
    entry, config = parse({"name": "bipft", **options})
    return entry.create(config)


def build(kind=BertForSequenceClassification, **changes):
    torch.manual_seed(0)
    return kind(BertConfig(**{**TINY, **changes}))


def batch(rows=8, length=10, seed=1):
    """Sentences of the vocabulary's lower or upper half, told apart by their label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 2
    ids = torch.randint(5, 29, (rows, length), generator=generator) + 24 * labels[:, None]
    mask = torch.ones_like(ids)
    mask[1::3, 7:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def trained(steps=3, kind=BertForSequenceClassification, rate=1e-3, **options):
    model, found = build(kind), method(**options)
    found.prepare(model, Context(seed=4))
    losses = train(model, steps, rate)
    return model, found, losses


def train(model, steps, rate=1e-3, autocast=False):
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        inputs = batch()
        if isinstance(model, BertForMaskedLM):
            inputs["labels"] = inputs["input_ids"]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def logits(model, inputs=None):
    with torch.no_grad():
        inputs = inputs or batch(seed=9)
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits


def test_exact_score_is_the_binary_product_plus_three_residual_terms():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(6, 24))
    query, key = (hidden @ rng.normal(size=(24, 8)) for _ in range(2))
    query_binary, key_binary = (
        SignedBinarizer.apply(torch.tensor(x), torch.tensor(2 * np.abs(x).mean())).numpy() for x in (query, key)
    )
    residual_q, residual_k = query - query_binary, key - key_binary
    terms = query_binary @ residual_k.T + residual_q @ key_binary.T + residual_q @ residual_k.T
    np.testing.assert_allclose(query_binary @ key_binary.T + terms, query @ key.T, rtol=0, atol=1e-12)


def test_estimators_are_exact_where_binary_terms_and_residuals_have_rank_one():
    """With one channel per head, k_p = R_k, q_p = R_q, k_m = K_b and q_m = Q_b give back the full-precision scores."""
    rng = np.random.default_rng(1)
    q_residual, k_residual, q_binary, k_binary = rng.normal(size=(4, 5, 1))
    attention = attention_of(estimators=True)
    rows = {"q_p": q_residual, "k_p": k_residual, "q_m": q_binary, "k_m": k_binary, "v_p": np.zeros((5, 1))}
    hidden = np.zeros((1, 5, 24))
    weight = np.zeros((len(ESTIMATORS), 24))
    for place, name in enumerate(ESTIMATORS):
        hidden[0, :, place], weight[place, place] = rows[name][:, 0], 1.0
    with torch.no_grad():
        attention.estimators.weight.copy_(torch.tensor(weight))
        attention.estimators.bias.zero_()
        residual, _ = attention._estimate(torch.tensor(hidden).float())
    exact = (q_binary + q_residual) @ (k_binary + k_residual).T
    np.testing.assert_allclose(residual[0, 0].numpy() + q_binary @ k_binary.T, exact, atol=1e-5)


def attention_of(estimators):
    model = build(BertModel)
    method(estimators=estimators).prepare(model, Context(seed=4))
    attention = model.encoder.layer[0].attention.self
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in attention.parameters():
            if parameter.dim():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return attention


@pytest.mark.parametrize("estimators", [True, False])
def test_attention_equals_the_equations_in_numpy(estimators):
    attention = attention_of(estimators)
    torch.manual_seed(5)
    hidden = torch.randn(2, 6, 24)
    attention.train()
    attention(hidden)  # sets the scales
    attention.eval()
    allowed = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    allowed[1, :, :, 4:] = False
    with torch.no_grad():
        context, probabilities = attention(hidden, allowed)
        added, _ = attention(hidden, torch.where(allowed, 0.0, torch.finfo(torch.float32).min))
    assert torch.equal(context, added)

    h = hidden.double().numpy()
    state = {name: value.double().numpy() for name, value in attention.state_dict().items()}

    def sign(x):
        return np.where(x >= 0, 1.0, -1.0)

    def linear(name):
        w = state[f"{name}.weight"]
        binary = np.abs(w).mean() * sign(w - w.mean())
        x = state[f"{name}.scale.alpha"] * sign(h + state[f"{name}.shift"])
        out = x @ binary.T + state[f"{name}.bias"]
        out = state[f"{name}_scale.alpha"] * sign(out)
        return out.reshape(2, 6, 3, 8).transpose(0, 2, 1, 3)

    q, k, v = linear("query"), linear("key"), linear("value")
    scores = q @ k.transpose(0, 1, 3, 2)
    if estimators:
        e = h @ state["estimators.weight"].T + state["estimators.bias"]
        q_p, k_p, q_m, k_m, v_p = (e[..., [i]] for i in range(5))
        t = (0, 2, 1)
        terms = q_m @ k_p.transpose(t) + q_p @ k_m.transpose(t) + q_p @ k_p.transpose(t)
        scores = scores + terms[:, None]
    scores = scores / math.sqrt(8)
    scores = np.where(allowed.numpy(), scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    alpha = state["probability_scale.alpha"]
    p = alpha * np.round(np.clip(p / alpha, 0, 1))
    out = p @ v
    if estimators:
        out = out + p @ np.broadcast_to(v_p[:, None], (2, 3, 6, 8))
    np.testing.assert_allclose(probabilities.numpy(), p, rtol=1e-6)
    np.testing.assert_allclose(context.numpy(), out.transpose(0, 2, 1, 3).reshape(2, 6, 24), rtol=1e-4, atol=1e-5)
    kept = np.unique(probabilities.numpy())
    assert len(kept) == 2 and kept[0] == 0


def test_what_stays_in_full_precision_and_what_is_binary():
    model = build(BertModel)
    before = dict(model.named_parameters())
    method().prepare(model, Context())
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert {"pooler.LayerNorm.weight", "pooler.LayerNorm.bias"} <= after.keys() - before.keys()
    kinds = {}
    for module in model.modules():
        kinds[type(module).__name__] = kinds.get(type(module).__name__, 0) + 1
    assert kinds["BinaryLinear"] == 2 * 6 + 1 and kinds["BinaryEmbedding"] == 1 and kinds["Embedding"] == 2
    assert kinds["LayerNorm"] == 2 * 2 + 2 and kinds["Linear"] == 2  # the estimators alone
    assert kinds["ActivationScale"] == 2 * 10 + 1


@pytest.mark.parametrize("packed", [False, True])
def test_pooler_has_a_norm_and_a_residual_connection_around_its_binary_matrix(packed):
    """tanh(LayerNorm(W_b x_b + bias) + x) in numpy, from the stored tensors; without them the pooler sees one 1-bit product alone."""
    model, found, _ = trained(store="packed" if packed else "latent")
    body, inputs = model.base_model, {key: value for key, value in batch(seed=9).items() if key != "labels"}
    pooler = {name: value.detach().double().numpy() for name, value in body.pooler.state_dict().items()}
    if packed:
        model = found.finalize(model)
    with torch.no_grad():
        output = model.base_model(**inputs)
    x = output.last_hidden_state[:, 0].double().numpy()
    weight, alpha = pooler["dense.weight"], pooler["dense.scale.alpha"]
    binary = np.abs(weight).mean() * np.where(weight >= weight.mean(), 1.0, -1.0)
    dense = alpha * np.where(x + pooler["dense.shift"] >= 0, 1.0, -1.0) @ binary.T + pooler["dense.bias"]
    centred = dense - dense.mean(-1, keepdims=True)
    norm = centred / np.sqrt(dense.var(-1, keepdims=True) + model.config.layer_norm_eps)
    wanted = np.tanh(norm * pooler["LayerNorm.weight"] + pooler["LayerNorm.bias"] + x)
    np.testing.assert_allclose(output.pooler_output.numpy(), wanted, atol=2e-5)


def test_feed_forward_keeps_gelu_whatever_is_configured():
    model = build(BertModel, hidden_act="relu")
    method().prepare(model, Context())
    values = torch.linspace(-2, 2, 9)
    wanted = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in values.tolist()]
    assert model.encoder.layer[1].intermediate.intermediate_act_fn(values).tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("estimators", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_training_lowers_the_loss(estimators, autocast):
    model, found = build(), method(estimators=estimators)
    found.prepare(model, Context(seed=4))
    losses = train(model, 25, 5e-3, autocast)
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("estimators", [True, False])
def test_every_parameter_gets_a_gradient(estimators):
    model, found = build(initializer_range=0.2), method(estimators=estimators)
    found.prepare(model, Context(seed=4))
    model.train()
    model(**batch()).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if not parameter.grad.any()]


def test_first_training_batch_sets_every_scale_and_stored_scales_are_not_set_again(tmp_path):
    model, _, _ = trained(steps=1)
    scales = {name: m for name, m in model.named_modules() if isinstance(m, ActivationScale)}
    assert all(scale.initialised for scale in scales.values())
    save_model(model, tmp_path, head="classification", labels=2, structure=[{"name": "bipft"}])
    again = method()
    loaded, structure = load_model(tmp_path, methods={"bipft": again})
    again.prepare(loaded, Context(restored=frozenset(item["name"] for item in structure)))
    kept = {name: value.clone() for name, value in loaded.state_dict().items()}
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    assert torch.equal(logits(loaded), logits(model))
    loaded.train()
    loaded(**batch(seed=77))
    assert all(torch.equal(kept[name], value) for name, value in loaded.state_dict().items())


def test_alphas_survive_a_checkpoint_of_the_trainer(tmp_path):
    from replica.training.loop import Loop

    data = batch(rows=32)

    class Rows(torch.utils.data.Dataset):
        lengths = [10] * 32

        def __len__(self):
            return 32

        def __getitem__(self, row):
            return row

    class Collate:
        def __call__(self, rows):
            return {key: value[list(rows)] for key, value in data.items()}

        def set_epoch(self, epoch):
            pass

    def fit(folder):
        model, found = build(), method()
        context = Context(seed=4, total_steps=4)
        torch.manual_seed(11)
        found.prepare(model, context)
        loop = Loop(
            model,
            Train(steps=4, batch_size=8, learning_rate=1e-3, checkpoint_every=2, precision="fp32"),
            split=Rows(),
            collate=Collate(),
            context=context,
            methods=[(frozenset({"layers"}), found)],
            objective=lambda m, inputs, c: m(**inputs).loss,
            state_folder=folder,
        )
        outcome = loop.fit()
        assert outcome.finished
        return model.state_dict(), loop.first_step

    whole, first = fit(tmp_path / "a")
    assert first == 0
    shutil.rmtree(tmp_path / "a" / "checkpoint-4")
    resumed, first = fit(tmp_path / "a")
    assert first == 2
    assert whole["bert.pooler.dense.scale.initialised"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("estimators", [True, False])
def test_packed_model_gives_the_latent_models_logits(tmp_path, estimators):
    model, found, _ = trained(estimators=estimators, store="packed")
    wanted = logits(model)
    packed = found.finalize(model)
    assert torch.equal(logits(packed), wanted)
    item = {"name": "bipft", **found.config.model_dump(exclude_defaults=True, mode="json")}
    save_model(packed, tmp_path, head="classification", labels=2, structure=[item])
    loaded, structure = load_model(tmp_path)
    assert structure == [item] and item["form"] == "packed"
    assert torch.equal(logits(loaded), wanted)
    # the stored bytes: a header, and what the method says
    size = (tmp_path / "model.safetensors").stat().st_size
    header = 8 + int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert 8 * (size - header) == found.expected(loaded)["storage_bits"]


def test_fine_tuning_from_a_latent_model_trains_on_and_then_packs(tmp_path):
    pretrained, _, _ = trained(kind=BertForMaskedLM)
    save_model(pretrained, tmp_path, head="mlm", labels=2, structure=[{"name": "bipft"}])
    tuned = method(store="packed")
    model, structure = load_model(tmp_path, head="classification", labels=2, methods={"bipft": tuned})
    tuned.prepare(model, Context(restored=frozenset(item["name"] for item in structure)))
    for name, value in pretrained.bert.state_dict().items():
        assert torch.equal(model.bert.state_dict()[name], value)
    train(model, 2)
    wanted = logits(model)
    assert torch.equal(logits(tuned.finalize(model)), wanted)


def test_masked_language_head_stays_tied_to_the_latent_embedding_and_is_kept_when_packed(tmp_path):
    model, found, _ = trained(kind=BertForMaskedLM, store="packed")
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert sum(p.numel() for p in model.parameters()) == found.expected(model)["trainable_parameters"]
    wanted = logits(model)
    found.finalize(model)
    item = {"name": "bipft", **found.config.model_dump(exclude_defaults=True, mode="json")}
    save_model(model, tmp_path, head="mlm", labels=2, structure=[item])
    loaded, _ = load_model(tmp_path)
    assert torch.equal(logits(loaded), wanted)


def test_what_cannot_be_is_said():
    with pytest.raises(ConfigError, match="roberta"):
        method().prepare(RobertaModel(RobertaConfig(**TINY)), Context())
    with pytest.raises(ConfigError, match="decoder"):
        method().prepare(build(BertModel, is_decoder=True), Context())
    model = build()
    method().prepare(model, Context())
    with pytest.raises(ConfigError, match="BinarySelfAttention"):
        method().prepare(model, Context())
    with pytest.raises(ConfigError, match="written by packing"):
        method(form="packed").prepare(build(), Context())
    with pytest.raises(TrainingError, match="never set by a training batch"):
        method(store="packed").finalize(model)
    with pytest.raises(ConfigError, match="cache"):
        model.bert.encoder.layer[0].attention.self(torch.zeros(1, 2, 24), past_key_values=object())


def test_a_packed_model_cannot_be_trained_on(tmp_path):
    model, found, _ = trained(store="packed")
    found.finalize(model)
    item = {"name": "bipft", **found.config.model_dump(exclude_defaults=True, mode="json")}
    save_model(model, tmp_path, head="classification", labels=2, structure=[item])
    with pytest.raises(AssetError, match="packed"):
        load_model(tmp_path, methods={"bipft": method()})


def test_attentions_are_the_binarized_probabilities():
    model, _, _ = trained()
    attentions = model(**batch(), output_attentions=True).attentions
    assert len(attentions) == 2
    assert all(len(attention.unique()) <= 2 for attention in attentions)
    assert isinstance(model.bert.encoder.layer[0].attention.self, BinarySelfAttention)
