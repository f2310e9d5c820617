"""Ladder side-tuning: the paper's counts, its equations by hand, the frozen backbone's graph, and the pruned start."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.methods import Context, parse
from replica.methods.peft.ladder_side_tuning.side_network import fisher, prune_into, stacks_of

from .peft_models import batch, context, prepared, tiny

T5 = {"vocab_size": 32128, "d_kv": 64, "relative_attention_num_buckets": 32, "decoder_start_token_id": 0}


@pytest.mark.parametrize(
    ("config", "layers", "trained"),
    [
        # the side networks of the authors' scripts, counted by hand: per encoder block 4 s i + 2 s f + 2 s, per decoder block
        # 8 s i + 2 s f + 3 s, per rung d s + s, with s = d / 8, i = heads x d_kv / 8, f = d_ff / 8
        ({"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}, [1, 2, 3, 5, 6, 7, 9, 10, 11], 3_878_712),
        ({"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16}, list(range(1, 24, 2)), 9_057_328),
        ({"d_model": 1024, "d_ff": 16384, "num_layers": 24, "num_heads": 32, "d_kv": 128}, [23], 2_494_896),
    ],
    ids=["base", "large", "3b"],
)
def test_counts_of_the_paper(config, layers, trained):
    depth = {"num_decoder_layers": config["num_layers"]}
    entry = ModelEntry(title="t5", architecture="t5", config={**T5, **config, **depth})
    model = models.build(entry, head="text2text", device="meta")
    found, values = parse({"name": "ladder-side-tuning", "layers": layers})
    method = found.create(values)
    method.prepare(model, Context(head="text2text"))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    assert method.expected(model)["trainable_parameters"] == trained


def _decoder(kind: str, device: str = "cpu"):
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 0}
    sizes |= {"max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2}
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.default_generator.manual_seed(1)
        if kind == "opt":
            return OPTForCausalLM(OPTConfig(**sizes, ffn_dim=64, word_embed_proj_dim=32, dropout=0.0)).eval()
        return LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=64, num_key_value_heads=2)).eval()


@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_decoders_count_and_look_only_back(kind):
    model = _decoder(kind)
    found, values = parse({"name": "ladder-side-tuning", "reduction": 2, "layers": [0, 2], "start": "random"})
    method = found.create(values)
    method.prepare(model, Context(head="causal"))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert method.expected(model)["trainable_parameters"] == trained
    ids = batch("t5")["input_ids"]
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] + 1) % 60
    with torch.no_grad():
        one, two = model(input_ids=ids).logits, model(input_ids=changed).logits
    torch.testing.assert_close(one[:, :-1], two[:, :-1])
    assert not torch.allclose(one[:, -1], two[:, -1])


def _by_hand(side: nn.Module, first, taps, call):
    """The equations of the ladder, one rung after the other, with T = 0.1."""
    hidden = first @ side.first.weight.t() + side.first.bias
    for index, rung in zip(side.rungs, side.blocks, strict=True):
        mu = 1 / (1 + torch.exp(-side.gates[index] / 0.1))
        down = taps[index] @ rung.down.weight.t() + rung.down.bias
        hidden = call(rung.block, mu * hidden + (1 - mu) * down)
    return hidden


def test_an_encoder_follows_the_equations():
    plain = tiny("bert")
    model, _ = prepared({"name": "ladder-side-tuning", "reduction": 4, "layers": [1]}, "bert")
    with torch.no_grad():
        model.bert.ladder.gates.copy_(torch.tensor([9.0, 0.05]))  # that of the dropped layer must not matter
    inputs = {key: value for key, value in batch("bert").items() if key != "labels"}
    with torch.no_grad():
        states = plain(**inputs, output_hidden_states=True).hidden_states
        mask = (1.0 - inputs["attention_mask"][:, None, None, :].float()) * torch.finfo(torch.float32).min
        side = model.bert.ladder
        taps = {index: states[index + 1] for index in range(2)}
        model.config._attn_implementation = "eager"
        for module in side.modules():
            if hasattr(module, "config"):
                module.config._attn_implementation = "eager"
        hidden = _by_hand(side, states[0], taps, lambda block, u: block(u, mask))
        read = hidden @ side.up.weight.t() + side.up.bias
        logits = plain.classifier(
            torch.tanh(read[:, 0] @ plain.bert.pooler.dense.weight.t() + plain.bert.pooler.dense.bias)
        )
        torch.testing.assert_close(model(**inputs).logits, logits, rtol=1e-4, atol=1e-5)


def test_the_side_decoder_attends_to_the_side_encoder():
    plain = tiny("t5")
    model, _ = prepared({"name": "ladder-side-tuning", "reduction": 2, "layers": [0, 1]}, "t5")
    inputs = batch("t5")
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    start = nn.functional.pad(inputs["labels"], (1, 0))[:, :-1]

    def run(part, first, taps, memory=None):
        biases = [None, None]
        length = first.shape[1]
        mask = (
            torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
            if memory is not None
            else None
        )

        def call(block, u):
            nonlocal biases
            hidden, *biases = block(u, mask, biases[0], memory, None, biases[1])
            return hidden

        hidden = _by_hand(part.ladder, first, taps, call)
        return part.ladder.norm(hidden)

    with torch.no_grad():
        whole = plain(input_ids=inputs["input_ids"], decoder_input_ids=start, output_hidden_states=True)
        ends = {"encoder": [], "decoder": []}
        for name in ends:  # the last of the hidden states that transformers gives is normed: take the layers' own
            for layer in getattr(plain, name).block:
                layer.register_forward_hook(lambda _m, _i, out, name=name: ends[name].append(out[0]))
        plain(input_ids=inputs["input_ids"], decoder_input_ids=start)
        memory = run(model.encoder, whole.encoder_hidden_states[0], dict(enumerate(ends["encoder"])))
        side = run(model.decoder, whole.decoder_hidden_states[0], dict(enumerate(ends["decoder"])), memory)
        read = model.decoder.ladder.up(side) * 32**-0.5
        expected = read @ plain.shared.weight.t()
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_the_backbone_runs_without_a_graph(kind):
    model, _ = prepared({"name": "ladder-side-tuning", "reduction": 2, "layers": [1]}, kind)
    own = {id(module) for stack, _ in stacks_of(model) for module in stack.ladder.modules()}
    graphs = []
    for _, layers in stacks_of(model):
        for layer in layers:
            layer.register_forward_hook(lambda _m, _i, out: graphs.append(out[0] if isinstance(out, tuple) else out))
        assert all(id(module) not in own for layer in layers for module in layer.modules())
    model.train()
    loss = model(**batch(kind)).loss
    assert len(graphs) == sum(len(layers) for _, layers in stacks_of(model))
    assert all(states.grad_fn is None and not states.requires_grad for states in graphs)
    loss.backward()
    gates = [stack.ladder.gates.grad for stack, _ in stacks_of(model)]
    assert all(grad[0] == 0 and grad[1] != 0 for grad in gates), "only the gate of the kept layer moves"


def test_saves_nothing_of_the_backbone_but_what_its_rungs_read():
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    model, _ = prepared({"name": "ladder-side-tuning", "reduction": 8, "layers": [1]}, "t5")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch("t5"))
    wide = {t.untyped_storage().data_ptr() for t in saved if t.numel() == 8 * 12 * 32}
    assert len(wide) == 2, "of the encoder: the embeddings and the output of layer 1"
    wide = {t.untyped_storage().data_ptr() for t in saved if t.numel() == 8 * 2 * 32 and t.is_floating_point()}
    assert len(wide) == 2, "of the decoder as well; the output layer is frozen"


def test_starts_as_a_pruning_of_the_backbone():
    model = tiny("bert")
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():  # layer 0: make rows and columns important that are known
        model.bert.embeddings.word_embeddings.weight[:, [3, 5]] *= 100
        layer.attention.self.query.weight[[1, 9, 17, 25]] *= 100
    found, values = parse(
        {"name": "ladder-side-tuning", "reduction": 16, "layers": [0], "start": "magnitude", "within_heads": True}
    )
    with pytest.raises(ConfigError, match="4 heads"):
        found.create(values).prepare(model, Context())
    values = values.model_copy(update={"reduction": 8})
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[:, [7, 30]] *= 100
    found.create(values).prepare(model, Context())
    block = model.bert.ladder.blocks[0].block
    rows, columns = [1, 9, 17, 25], [3, 5, 7, 30]
    for name in ("query", "key", "value"):
        source, target = getattr(layer.attention.self, name), getattr(block.attention.self, name)
        assert torch.equal(target.weight, source.weight[rows][:, columns])
        assert torch.equal(target.bias, source.bias[rows])
    score = layer.attention.output.dense.weight[:, rows].square().sum(1)
    out = score.topk(4).indices.sort().values
    assert torch.equal(block.attention.output.dense.weight, layer.attention.output.dense.weight[out][:, rows])
    assert torch.equal(block.attention.output.LayerNorm.weight, layer.attention.output.LayerNorm.weight[out])


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_fisher_is_the_sum_of_squared_gradients_of_single_examples(kind):
    model, rows = tiny(kind), batch(kind)
    model.train().requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)
    importance = fisher(model, context(kind), 1024)
    assert model.training, "left as it was"
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        next(name for name, p in model.named_parameters() if p is model.get_input_embeddings().weight)
    ]
    model.eval().requires_grad_(True)
    wanted = {
        name: torch.zeros_like(m.weight) for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)
    }
    for index in range(8):
        model.zero_grad()
        model(**{key: value[index : index + 1] for key, value in rows.items()}).loss.backward()
        for name, total in wanted.items():
            total += model.get_submodule(name).weight.grad ** 2
    for name, total in wanted.items():
        torch.testing.assert_close(importance(model.get_submodule(name)), total, rtol=1e-3, atol=1e-9)
    fewer = fisher(model, context(kind), 3)
    assert float(fewer(model.get_input_embeddings()).sum()) < float(importance(model.get_input_embeddings()).sum())


def test_starts_from_what_matters_to_the_task():
    """Walked by hand for one encoder layer: kept columns by the embedding's Fisher information, kept rows by that of q k v over them."""
    plain = tiny("bert")
    importance = fisher(plain, context("bert"), 1024)
    model, _ = prepared({"name": "ladder-side-tuning", "reduction": 8, "layers": [0]}, "bert")
    columns = importance(plain.bert.embeddings.word_embeddings).sum(0).topk(4).indices.sort().values
    attention = plain.bert.encoder.layer[0].attention
    score = torch.ones(())
    for name in ("query", "key", "value"):
        score = score * importance(getattr(attention.self, name))[:, columns]
    rows = score.sum(1).topk(4).indices.sort().values  # over all rows: heads are not looked at
    out = importance(attention.output.dense)[:, rows].sum(1).topk(4).indices.sort().values
    block = model.bert.ladder.blocks[0].block
    for name in ("query", "key", "value"):
        assert torch.equal(
            getattr(block.attention.self, name).weight, getattr(attention.self, name).weight[rows][:, columns]
        )
    assert torch.equal(block.attention.output.dense.weight, attention.output.dense.weight[out][:, rows])
    assert torch.equal(block.attention.output.LayerNorm.bias, attention.output.LayerNorm.bias[out])


def test_pruning_may_walk_on_from_the_encoder_as_the_released_code_does():
    """By hand on two T5 blocks a stack: one walk through all matrices, each cut to the columns of the rows kept before it."""
    plain = tiny("t5")
    model, _ = prepared(
        {"name": "ladder-side-tuning", "reduction": 8, "start": "magnitude", "released_walk": True}, "t5"
    )
    usual, _ = prepared({"name": "ladder-side-tuning", "reduction": 8, "start": "magnitude"}, "t5")
    squared = {name: weight.detach() ** 2 for name, weight in plain.named_parameters()}
    rows, seen, restarted = squared["shared.weight"].sum(0).topk(4).indices.sort().values, 0, 0
    for stack in ("encoder", "decoder"):
        for number in range(2):
            attentions = ["layer.0.SelfAttention", *(["layer.1.EncDecAttention"] if stack == "decoder" else [])]
            last = f"layer.{len(attentions)}.DenseReluDense"
            steps = [[f"{part}.{n}" for n in group] for part in attentions for group in ("qkv", "o")]
            for group in (*steps, [f"{last}.wi"], [f"{last}.wo"]):
                score = torch.ones(())
                for name in group:
                    score = score * squared[f"{stack}.block.{number}.{name}.weight"][:, rows]
                kept = score.sum(1).topk(len(score) // 8).indices.sort().values
                for name in group:
                    source = plain.get_submodule(f"{stack}.block.{number}.{name}").weight
                    own = [
                        m.get_submodule(f"{stack}.ladder.blocks.{number}.block.{name}").weight for m in (model, usual)
                    ]
                    assert torch.equal(own[0], source[kept][:, rows])
                    restarted += not torch.equal(*own)
                    seen += 1
                rows = kept
    assert seen == 2 * 6 + 2 * 10 and restarted >= 6, (
        "keys and values of two cross-attentions and the decoder's first block"
    )


@pytest.mark.parametrize("start", ["fisher", "magnitude"])
def test_a_start_that_a_model_cannot_have_is_refused_before_it_is_looked_for(start):
    found, values = parse({"name": "ladder-side-tuning", "reduction": 2, "start": start})
    with pytest.raises(ConfigError, match="'vit' is not supported"):
        entry = ModelEntry(title="v", architecture="vit", config={"num_hidden_layers": 1, "hidden_size": 24})
        found.create(values).prepare(models.build(entry, head="image"), context("bert"))
    with pytest.raises(ConfigError, match=r"`start: fisher` and `start: magnitude` .* llama.*use `start: random`"):
        found.create(values).prepare(_decoder("llama"), Context(head="causal"))


def test_projections_may_start_as_the_released_codes():
    plain, _ = prepared({"name": "ladder-side-tuning", "reduction": 2}, "t5")
    model, _ = prepared({"name": "ladder-side-tuning", "reduction": 2, "projection_std": 0.01}, "t5")
    for (stack, _), (other, _) in zip(stacks_of(model), stacks_of(plain), strict=True):
        linears = [stack.ladder.first, *(rung.down for rung in stack.ladder.blocks)] + (
            [stack.ladder.up] if stack.ladder.up else []
        )
        for linear in linears:
            assert not linear.bias.any() and float(linear.weight.detach().std()) == pytest.approx(0.01, rel=0.15)
        assert float(other.ladder.first.weight.detach().std()) == pytest.approx((1 / 3 / 32) ** 0.5, rel=0.1)
        blocks = zip(stack.ladder.blocks, other.ladder.blocks, strict=True)
        assert all(
            torch.equal(a, b)
            for x, y in blocks
            for a, b in zip(x.block.parameters(), y.block.parameters(), strict=True)
        )


def test_fisher_needs_data():
    found, values = parse("ladder-side-tuning")
    with pytest.raises(ConfigError, match="looks at training data"):
        found.create(values.model_copy(update={"reduction": 2})).prepare(tiny("bert"), Context())


def test_importance_may_be_given():
    model, _ = prepared({"name": "ladder-side-tuning", "reduction": 2, "start": "random"}, "t5")
    before = copy.deepcopy(model.state_dict())
    prune_into(model, [stack.ladder for stack, _ in stacks_of(model)], lambda module: module.weight.detach().abs())
    after = model.state_dict()
    table = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    copied = "decoder.ladder.blocks.0.block.layer.0.SelfAttention.relative_attention_bias.weight"
    assert torch.equal(after[copied], after[table])
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all(".ladder." in name and ".block." in name for name in changed)


def test_generates_greedily_and_refuses_what_it_cannot_keep():
    model, _ = prepared({"name": "ladder-side-tuning", "reduction": 2}, "t5")
    inputs = {key: value for key, value in batch("t5").items() if key != "labels"}
    made = model.generate(**inputs, max_new_tokens=3, do_sample=False, num_beams=1)
    with torch.no_grad():
        again = model(**inputs, decoder_input_ids=made[:, :-1]).logits.argmax(-1)
    ended = (made[:, 1:] == 1).cumsum(1) - (made[:, 1:] == 1).long() > 0
    assert torch.equal(torch.where(ended, made[:, 1:], again), made[:, 1:])
    with pytest.raises(ConfigError, match="use_cache=False"):
        model.generate(**inputs, max_new_tokens=3, use_cache=True)
    with pytest.raises(ConfigError, match="num_beams=1"):
        model.generate(**inputs, max_new_tokens=3, num_beams=2)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"layers": [2]}, "not among"), ({"layers": [1, 1]}, "repeats"), ({"reduction": 3}, "does not divide d_model 32")],
)
def test_what_does_not_fit_is_said(config, message):
    with pytest.raises(ConfigError, match=message):
        prepared({"name": "ladder-side-tuning", "reduction": 2, **config}, "t5")


def test_an_unknown_architecture_is_said():
    entry = ModelEntry(title="v", architecture="vit", config={"num_hidden_layers": 1})
    found, values = parse("ladder-side-tuning")
    with pytest.raises(ConfigError, match="'vit' is not supported"):
        found.create(values).prepare(models.build(entry, head="image", device="meta"), Context(head="image"))
