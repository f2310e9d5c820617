"""`replica measure`: what it prints of a model, which methods fit a budget, and one line for what cannot be."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from replica.cli import parser
from replica.cli.measure import measure, parse_budget, parse_method, parse_optimizer
from replica.cli.measure_report import print_budget, print_report, usual_head
from replica.config import load_project
from replica.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "transformers_version": "4.6.0",
    "torch_dtype": "float16",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "gradient_checkpointing": False,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing is downloaded: a connection would be an error."""

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def tiny(tmp_path):
    folder = tmp_path / "tiny-bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    return folder


def ask(*arguments) -> int:
    return measure(parser().parse_args(["--root", str(ROOT), "measure", *map(str, arguments)]))


def asked(capsys, *arguments) -> dict:
    assert ask(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_a_registered_model_with_a_method_has_the_papers_numbers(capsys):
    """Compacter++ on T5-base trains 104,704 parameters: 0.047 % of the base model's 222,903,552."""
    found = asked(capsys, "t5-base", "--method", "compacter:n=4,places=feed-forward", "--batch", 2, "--length", 16)
    assert found["head"] == "text2text"
    assert found["parameters"]["trainable"] == 104_704
    assert found["parameters"]["base_total"] == 222_903_552
    assert found["optimizer"]["bytes"] == 8 * 104_704
    assert found["memory"]["by_category"]["parameter"] == 4 * found["parameters"]["total"] == found["storage"]["bytes"]
    assert found["memory"]["by_category"]["gradient"] == 4 * 104_704


def test_an_eras_rules_stand_beside_todays(capsys):
    found = asked(capsys, "smoke-t5", "--semantics", "2021", "--batch", 2, "--length", 16)
    assert found["memory"]["peak"] > found["memory_today"]["peak"]
    print_report(found)
    said = capsys.readouterr().out
    assert "the rules of 2021" in said and "peak memory today" in said


def test_a_config_of_the_hubs_form_is_measured_without_the_hub(capsys, tiny):
    layer = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32
    body = (100 + 64 + 2) * 32 + 64 + 2 * layer + 32 * 32 + 32
    for path in (tiny, tiny / "config.json"):
        found = asked(capsys, path, "--batch", 2, "--length", 8)
        assert found["model"] == "tiny-bert" and found["head"] == "classification"
        assert found["parameters"]["total"] == body + 2 * 32 + 2
        assert found["memory"]["by_category"]["parameter"] == 4 * found["parameters"]["total"]


def test_the_report_says_everything_and_what_it_assumes(capsys, tiny):
    assert ask(tiny, "--batch", 2, "--length", 8, "--method", "lora:rank=2") == 0
    said = capsys.readouterr().out
    for word in (
        "lora(rank=2)",
        "parameters",
        "trained",
        "FLOPs of a step",
        "optimizer state",
        "peak memory",
        "stored",
        "assumes:",
    ):
        assert word in said
    assert "2 per multiply-add" in said and "eager attention" in said and "\x1b[" not in said
    lora = 2 * 2 * 2 * (32 + 32) + 2 * 32 + 2  # rank 2 on query and value of two layers, and the head
    assert f"{lora:,}" in said


def test_half_precision_halves_weights_state_and_stored_bytes(capsys, tiny):
    full, half = (asked(capsys, tiny, "--dtype", dtype, "--length", 8) for dtype in ("float32", "bfloat16"))
    for where in (("optimizer", "bytes"), ("storage", "bytes")):
        assert 2 * half[where[0]][where[1]] == full[where[0]][where[1]]
    assert 2 * half["memory"]["by_category"]["gradient"] == full["memory"]["by_category"]["gradient"]


def test_fused_attention_and_no_optimizer_need_less(capsys, tiny):
    plain = asked(capsys, tiny, "--length", 32)
    fused = asked(capsys, tiny, "--length", 32, "--attention", "fused", "--optimizer", "none")
    assert fused["memory"]["peak"] < plain["memory"]["peak"]
    assert "optimizer" not in fused and fused["memory"]["by_category"]["optimizer"] == 0


def test_a_budget_lists_the_methods_that_fit(capsys, tiny):
    found = asked(capsys, tiny, "--batch", 4, "--length", 16, "--budget", "1MB")
    rows = {row["method"]: row for row in found["budget"]["methods"]}
    assert rows["full training"]["peak"] == found["memory"]["peak"]
    assert rows["bitfit"]["trainable"] < rows["full training"]["trainable"]
    assert {"adapter", "lora", "layer-norm-tuning"} <= set(rows)
    assert "minilm" not in rows  # changes the loss alone
    measured = [row for row in found["budget"]["methods"] if "skipped" not in row]
    assert all(row["fits"] == (row["peak"] <= 1e6) for row in measured)
    fits = [row["fits"] for row in measured]
    assert fits == sorted(fits, reverse=True) and 0 < sum(fits) < len(fits)


def test_a_budget_that_nothing_fits_says_so_and_what_to_try(capsys):
    row = {"method": "full training", "peak": 2e9, "fits": False, "trainable": 10, "trainable_share": 1.0}
    print_budget({"bytes": 1e9, "methods": [row, {"method": "bipft", "skipped": "no [such] layers"}]})
    said = capsys.readouterr().out
    assert "what fits 1.00 GB" in said and "2.00 GB" in said and "no [such] layers" in said
    assert "nothing fits: try a smaller batch" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bert-base-uncase"], "unknown model 'bert-base-uncase'; did you mean 'bert-base-uncased'"),
        (["no/such/config.json"], "no such file"),
        (["smoke-tokenizer"], "is a tokenizer"),
        (["smoke-bert", "--batch", "-3"], "--batch: Input should be greater than or equal to 1"),
        (["smoke-bert", "--batch", "many"], "batch: Input should be a valid integer"),
        (["smoke-bert", "--length", "4096"], "length 4096 is beyond the 128 positions"),
        (["smoke-bert", "--labels", "0"], "labels: Input should be greater than or equal to 1"),
        (["smoke-bert", "--head", "clasification"], "unknown head 'clasification'; did you mean 'classification'"),
        (["smoke-bert", "--head", "text2text"], "architecture 'bert' has no head 'text2text'; it has classification"),
        (["smoke-bert", "--method", "lorra"], "unknown method 'lorra'; did you mean 'lora'"),
        (["smoke-bert", "--method", "lora:rnk=2"], "unknown key 'rnk'; did you mean 'rank'"),
        (["smoke-bert", "--method", "lora:rank"], "'rank' is not key=value"),
        (["smoke-bert", "--method", "lora:rank=33"], "method 'lora': rank 33 is above the width 32"),
        (["smoke-bert", "--method", "lora:rank=0"], "rank: Input should be greater than or equal to 1"),
        (["smoke-bert", "--optimizer", "adamv"], "unknown optimizer 'adamv'; did you mean 'adamw'"),
        (["smoke-bert", "--optimizer", "galore"], "give its rank, e.g. galore:rank=128"),
        (["smoke-bert", "--optimizer", "galore:rank=33"], "rank 33 does not lie between 1 and 32"),
        (["smoke-bert", "--optimizer", "galore:rnk=3"], "unknown option 'rnk'; did you mean 'rank'"),
        (["smoke-bert", "--semantics", "1999"], "--semantics: Input should be 'today' or '2021'"),
        (["smoke-bert", "--attention", "flash"], "attention: Input should be 'eager' or 'fused'"),
        (["smoke-bert", "--dtype", "float8"], "dtype: Input should be 'float32'"),
        (["smoke-bert", "--batch", "0"], "--batch: Input should be greater than or equal to 1 (got '0')"),
        (["smoke-bert", "--batch", "9" * 30], "--batch: Input should be less than or equal to"),
        (["smoke-bert", "--labels", "9" * 20], "--labels: Input should be less than or equal to 1000000"),
        (["smoke-bert", "--length", "-1"], "--length: Input should be greater"),
        (["smoke-bert", "--decoder-length", "8"], "--decoder-length: smoke-bert has no decoder"),
        (["bart-base", "--length", "8", "--decoder-length", "1025"], "length 1025 is beyond the 1024 positions"),
        (["smoke-bert", "--method", "prompt-tuning:tokens=120"], "have 248 positions, the model 128"),
        (["smoke-bert", "--method", "lora:rank=-1"], "rank: Input should be greater than or equal to 1"),
        (["smoke-bert", "--method", "lora", "--method", "lora"], "'lora' is listed twice"),
        (["smoke-bert", "--optimizer", "adamw:rank=4"], "`rank` belongs to galore and galore8bit; adamw has none"),
        (["smoke-bert", "--optimizer", "none:projector=int8"], "--optimizer none takes no options"),
        (["smoke-bert", "--optimizer", "galore:rank=0"], "--optimizer: rank: Input should be greater"),
        (["smoke-bert", "--optimizer", "galore:rank=4,projector=int3"], "--optimizer: projector: Input should be"),
        (["lenet-5", "--head", "image", "--method", "adapter"], "lenet-5 with head 'image' cannot be measured"),
        (["smoke-bert", "--budget", "9" * 400 + "GB"], "is no amount of memory"),
        (["smoke-bert", "--budget", "lots"], "'lots' is no amount of memory"),
        (["smoke-bert", "--budget", "0GB"], "'0GB' is no amount of memory"),
        (["deberta-base", "--attention", "fused", "--length", "8"], "has no fused attention"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, message):
    with pytest.raises(ConfigError) as caught:
        ask(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads 5 does not divide the width 32"),
        ({"hidden_size": -32}, "`hidden_size: -32` is negative"),
        ({"num_hidden_layers": 10**9}, "`num_hidden_layers: 1000000000` is beyond the 1000"),
        ({"hidden_act": "gelu_custom"}, "gelu_custom"),
        ({"model_type": "birt"}, "unknown architecture 'birt'"),
        ({"model_type": None}, "has no `model_type`"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_a_config_that_makes_no_model_is_one_line(tiny, change, message):
    (tiny / "config.json").write_text(json.dumps({**TINY, **change}), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        ask(tiny)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_json_is_said(tiny):
    (tiny / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json: corrupt, not JSON"):
        ask(tiny)


def test_the_program_exits_with_two_and_one_line():
    command = [sys.executable, "-m", "replica.cli", "--root", str(ROOT), "measure", "smoke-bert", "--batch", "-1"]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout


@pytest.mark.parametrize(("text", "size"), [("16GB", 16e9), ("1.5 GiB", 1.5 * 2**30), ("512mb", 512e6), ("24G", 24e9)])
def test_budgets_are_read(text, size):
    assert parse_budget(text) == size


def test_methods_and_optimizers_are_read_with_their_options():
    assert parse_method("lora:rank=8,targets=[q,v],alpha=1.5") == {
        "name": "lora",
        "rank": 8,
        "targets": ["q", "v"],
        "alpha": 1.5,
    }
    assert parse_method("bitfit") == {"name": "bitfit"}
    assert parse_optimizer("galore8bit:rank=4,projector=int8") == ("galore8bit", {"rank": 4, "projector": "int8"})
    assert parse_optimizer("none") == (None, {})


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("roberta-large", "classification"),
        ("bart-base", "text2text"),
        ("gpt2", "causal"),
        ("llama-7b", "causal"),
        ("mamba-130m", "causal"),
        ("resnet-50", "image"),
        ("lenet-5", "image"),
        ("clip-vit-b-32", "image"),
        ("wav2vec2-base", "ctc"),
    ],
)
def test_every_kind_of_model_has_its_usual_head(name, head):
    assert usual_head(load_project(ROOT).model(name)) == head
