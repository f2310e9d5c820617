"""The throw-away decoder: which keys its blocks see, what the head reads, and that the stored model is BERT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from replica.config import load_project
from replica.config.schema import Measurement
from replica.errors import ConfigError
from replica.measure.structural import measure
from replica.methods import Context, parse
from replica.methods.stored import load_model, save_model

PROJECT = load_project(Path(__file__).resolve().parents[2])
CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.3,
)


def tiny() -> BertForMaskedLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertForMaskedLM(CONFIG)


def method(**config):
    entry, parsed = parse({"name": "throwaway-decoder", **config})
    return entry.create(parsed)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 50, (2, 8), generator=torch.Generator().manual_seed(1))
    labels = torch.full_like(ids, -100)
    labels[:, [2, 5]] = ids[:, [2, 5]]
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def prepared(**config):
    model = tiny()
    method(**config).prepare(model, Context(seed=3, head="mlm"))
    return model


def reached(model, position: int) -> torch.Tensor:
    """Which encoder states the first block's output at a position depends on, by its gradient."""
    decoder = model.bert.throwaway_decoder
    given = batch()
    decoder.mask_and_labels = (given["attention_mask"], given["labels"])
    states = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
    decoder(states)[:, position, 0].sum().backward()
    return states.grad.abs().sum(-1) > 0


def test_masked_positions_are_no_keys_before_they_are_readmitted():
    model = prepared(blocks=2, readmitted=[0.0, 1.0], encoder_share=0.0).train()
    decoder = model.bert.throwaway_decoder
    decoder.blocks[1].forward = lambda states, mask: states  # only the first block acts
    # Masked are 2 and 5; padding (6 and 7 of the second example) is never seen. A masked query still sees all open keys and itself
    # through the residual sum.
    assert reached(model, 0).tolist() == [
        [True, True, False, True, True, False, True, True],
        [True, True, False, True, True, False, False, False],
    ]
    assert reached(model, 2)[0].tolist() == [True, True, True, True, True, False, True, True]


def test_all_are_keys_at_the_end_and_in_eval_mode():
    assert reached(prepared(blocks=1, readmitted=[1.0], encoder_share=0.0).train(), 0)[0].all()
    assert reached(prepared(readmitted=[0.0, 1.0]).eval(), 0)[0].all()


def test_readmitted_positions_stay_readmitted():
    model = prepared(blocks=3, readmitted=[0.3, 0.6, 1.0]).train()
    decoder = model.bert.throwaway_decoder
    decoder.mask_and_labels = (None, torch.zeros(64, 32, dtype=torch.long))
    seen = []
    for block in decoder.blocks:
        block.forward = lambda states, mask: (seen.append(mask[:, 0, 0] == 0), states)[1]
    torch.manual_seed(0)
    decoder(torch.zeros(64, 32, 16))
    assert [float(keys.float().mean()) for keys in seen] == pytest.approx([0.3, 0.6, 1.0], abs=0.03)
    assert not (seen[0] & ~seen[1]).any()


def test_the_head_reads_encoder_and_decoder_by_chance():
    for share in (0.0, 1.0):
        model = prepared(encoder_share=share).train()
        plain = tiny().train()
        same = torch.allclose(model(**batch()).logits, plain(**batch()).logits)
        assert same == (share == 1.0)
    model = prepared(encoder_share=0.25).train()
    decoder = model.bert.throwaway_decoder
    states = torch.randn(64, 32, 16)
    torch.manual_seed(0)
    own = (decoder(states) == states).all(-1)
    assert float(own.float().mean()) == pytest.approx(0.25, abs=0.03)


def test_encoder_and_decoder_both_learn():
    model = prepared().train()
    model(**batch()).loss.backward()
    for part in (model.bert.encoder, model.bert.throwaway_decoder):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in part.named_parameters() if "weight" in n)


def test_what_is_stored_loads_into_a_plain_bert(tmp_path):
    model, own = tiny(), method()
    own.prepare(model, Context(head="mlm"))
    model = own.finalize(model).eval()
    assert set(model.state_dict()) == set(tiny().state_dict())
    torch.testing.assert_close(model(**batch()).logits, tiny().eval()(**batch()).logits)
    save_model(model, tmp_path, head="mlm", labels=2, structure=[])
    loaded, _ = load_model(tmp_path, head="classification", labels=2)
    plain = BertForSequenceClassification(CONFIG)
    plain.load_state_dict(loaded.state_dict())
    assert not any("decoder" in name for name, _ in loaded.named_parameters() if name.startswith("bert."))


def test_bert_base_grows_by_two_layers_and_is_itself_when_stored():
    def found(**more):
        return measure(
            PROJECT,
            Measurement(model="bert-base-uncased", head="mlm", meters={"parameters": {}, "flops": {}}, **more),
        )

    bert = found()
    training, stored = (found(methods=["throwaway-decoder"], stored=value) for value in (False, True))
    assert training["parameters"]["added"] == 2 * 7_087_872
    assert (
        training["parameters"]["expected"]["throwaway-decoder"]["total_parameters"] == training["parameters"]["total"]
    )
    extra = training["flops"]["forward"] - bert["flops"]["forward"]
    assert extra * 6 == bert["flops"]["transformer_forward"] == training["flops"]["transformer_forward"] - extra
    assert stored["parameters"]["by_part"] == bert["parameters"]["by_part"]
    assert stored["flops"] == bert["flops"]


def test_it_needs_a_head_of_masked_words_and_shares_that_end_with_all():
    with pytest.raises(ConfigError, match="head of masked words"):
        method().prepare(BertForSequenceClassification(CONFIG), Context())
    with pytest.raises(ConfigError, match="one for each"):
        method(blocks=3)
    with pytest.raises(ConfigError, match="end with 1"):
        method(readmitted=[0.5, 0.9])
