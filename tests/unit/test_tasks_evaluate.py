"""Evaluation says what a model predicts, whatever the batches, and leaves the model as it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
import torch
from tokenizers import models as token_models
from tokenizers import pre_tokenizers, processors
from torch import nn

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.config.task_schema import Task
from replica.errors import ConfigError
from replica.tasks import PreparedSplit, collate, evaluate, prepare, score, task_loss

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "so", "text", ":", "1.0", "4.0"]
SIZES = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = ModelEntry(
    title="t", architecture="bert", config={**SIZES, "intermediate_size": 32, "max_position_embeddings": 32}
)
T5 = ModelEntry(
    title="t",
    architecture="t5",
    config={"vocab_size": len(WORDS), "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    | {"eos_token_id": 3, "pad_token_id": 0, "dropout_rate": 0.0},
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    backend = tokenizers.Tokenizer(token_models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(WORDS[:5])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    backend.save(str(folder / "tokenizer.json"))
    return folder


def task(kind: str, metrics: list[str], **fields) -> Task:
    fields = {"inputs": ["text"], **fields}
    names = [{"name": m} for m in metrics]
    splits = {"train": "train", "select": "train"}
    return Task(name="t", version=1, dataset="d", kind=kind, splits=splits, metrics=names, max_length=32, **fields)


def split_of(tmp_path: Path, this: Task, rows: list[dict], tokenizer: Path) -> PreparedSplit:
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "train.parquet")
    prepare(this, tmp_path / "data", tokenizer, tmp_path / "out")
    return PreparedSplit.read(tmp_path / "out", "select")


class GoodCounter(nn.Module):
    """Says class 1 where `good` stands more often than `bad`; as a regression, how many more."""

    def __init__(self, numbers: bool = False):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.numbers = numbers
        self.sizes: list[int] = []

    def forward(self, input_ids, attention_mask):
        assert not self.training
        self.sizes.append(len(input_ids))
        assert torch.equal(attention_mask.bool(), input_ids != 0)
        more = (input_ids == 5).sum(1) - (input_ids == 6).sum(1)
        more = more.float()[:, None] * self.scale
        return SimpleNamespace(logits=more if self.numbers else torch.cat([-more, more], dim=1))


ROWS = [("good", 1), ("bad so so", 0), ("so good good bad", 0), ("bad", 0), ("good good", 1)]


def test_classification_predicts_every_example_in_its_order(tmp_path, tokenizer):
    this = task("classification", ["accuracy"], target="label", labels=["no", "yes"])
    split = split_of(tmp_path, this, [{"text": t, "label": y} for t, y in ROWS], tokenizer)
    model = GoodCounter().train()
    predictions, metrics = evaluate(model, this, split, batch_size=2)
    assert model.training
    assert model.sizes == [2, 2, 1]
    assert predictions["example_id"].tolist() == predictions["row"].tolist() == [0, 1, 2, 3, 4]
    assert predictions["prediction"].tolist() == [1, 0, 1, 0, 1]
    assert predictions["label"].tolist() == [1, 0, 0, 0, 1]
    assert metrics == {"accuracy": pytest.approx(80)} == score(this, predictions)
    assert predictions["logits"][4] == [-2.0, 2.0]


def test_regression_predicts_numbers(tmp_path, tokenizer):
    this = task("regression", ["pearson"], target="score")
    rows = [{"text": t, "score": s} for t, s in (("good", 3.0), ("bad", 1.0), ("good good", 4.0))]
    predictions, metrics = evaluate(GoodCounter(numbers=True), this, split_of(tmp_path, this, rows, tokenizer))
    assert predictions["prediction"].tolist() == [1.0, -1.0, 2.0]
    assert metrics["pearson"] == pytest.approx(100)  # score = prediction + 2


def test_spans_come_back_from_perfect_logits(tmp_path, tokenizer):
    class Oracle(nn.Module):
        """Marks the word `4.0` as the answer, and the first token where there is none."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, input_ids, attention_mask, token_type_ids=None):
            marks = (input_ids == 11).float()
            marks[:, 0] = 0.5
            return SimpleNamespace(start_logits=marks * self.scale, end_logits=marks * self.scale)

    this = task("span", ["squad_f1", "em", "em_no_answer"], inputs=["question", "context"], target="answers", stride=2)
    rows = [
        {"question": "text", "context": "so " * n + "4.0 so", "answers": {"text": ["4.0"], "answer_start": [3 * n]}}
        for n in (1, 5, 40)
    ]
    rows.append({"question": "text", "context": "so so", "answers": {"text": [], "answer_start": []}})
    split = split_of(tmp_path, this, rows, tokenizer)
    assert len(split) > 4
    predictions, metrics = evaluate(Oracle(), this, split)
    assert predictions["prediction"].tolist() == ["4.0", "4.0", "4.0", ""]
    assert metrics == {"squad_f1": 100, "em": 100, "em_no_answer": 100}


def test_masked_words_are_scored_as_the_full_model_does(tmp_path, tokenizer):
    this = task("mlm", ["mlm_loss", "mlm_accuracy"])
    split = split_of(tmp_path, this, [{"text": t} for t, _ in ROWS], tokenizer)
    model = models.build(BERT, head="mlm", seed=4)
    predictions, metrics = evaluate(model, this, split, batch_size=2)
    again, _ = evaluate(model, this, split, batch_size=5)
    assert again["masked"].tolist() == predictions["masked"].tolist()
    assert again["loss"].tolist() == pytest.approx(predictions["loss"].tolist(), rel=1e-4)
    batch = collate(this, split.facts)([split[i] for i in range(5)])
    with torch.no_grad():
        output = model(**{k: v for k, v in batch.items() if k != "example_id"})
    assert metrics["mlm_loss"] == pytest.approx(output.loss.item(), rel=1e-4)
    where = batch["labels"] != -100
    right = (output.logits.argmax(-1) == batch["labels"])[where].float().mean()
    assert metrics["mlm_accuracy"] == pytest.approx(100 * right.item())


def test_next_sentence_predictions_stand_beside_the_masked_words(tmp_path, tokenizer):
    this = task("mlm", ["mlm_loss", "next_sentence_accuracy"], inputs=["text", "document"], next_sentence=True)
    rows = [{"text": "good so text", "document": d} for d in "abc" for _ in range(3)]
    split = split_of(tmp_path, this, rows, tokenizer)
    model = models.build(BERT, head="pretraining", seed=4)
    predictions, metrics = evaluate(model, this, split)
    right = (predictions["next_sentence"] == predictions["next_sentence_label"]).mean()
    assert metrics["next_sentence_accuracy"] == pytest.approx(100 * right)


def test_generated_words_are_read_back_as_labels_and_numbers(tmp_path, tokenizer):
    words = {"no": "bad", "yes": "good"}
    this = task("text2text", ["accuracy"], target="label", labels=["no", "yes"], label_words=words)
    rows = [{"text": "so so so", "label": 1}, {"text": "text", "label": 0}]
    split = split_of(tmp_path, this, rows, tokenizer)
    model = models.build(T5, head="text2text", seed=0)
    batch = collate(this, split.facts)([split[0], split[1]])
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(150):
        loss = task_loss(this, model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    predictions, metrics = evaluate(model, this, split, batch_size=1)
    assert loss.item() < 0.05
    assert predictions["generated"].tolist() == ["good", "bad"]
    assert predictions["prediction"].tolist() == [1, 0]
    assert metrics == {"accuracy": 100}
    other = this.model_copy(update={"label_words": {"no": "bad", "yes": "fine"}})
    assert evaluate(model, other, split)[0]["prediction"].tolist() == [-1, 0]


def test_unlabelled_text_has_no_loss_and_no_metric(tmp_path, tokenizer):
    this = task("text", ["distillation_loss"])
    split = split_of(tmp_path, this, [{"text": t} for t, _ in ROWS], tokenizer)
    model = models.build(BERT, head="text")
    predictions, metrics = evaluate(model, this, split)
    assert metrics == {}
    assert predictions["length"].tolist() == [3, 5, 6, 3, 4]
    with pytest.raises(ConfigError, match="has no loss"):
        task_loss(this, model, collate(this, split.facts)([split[0]]))


def test_tags_are_scored_per_word(tmp_path, tokenizer):
    class Tagger(nn.Module):
        """Says tag 1 at `good` and tag 0 elsewhere."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, input_ids, attention_mask):
            return SimpleNamespace(logits=nn.functional.one_hot((input_ids == 5).long(), 3).float() * self.scale)

    this = task("tagging", ["span_f1", "accuracy"], inputs=["tokens"], target="tags", labels=["O", "B-A", "I-A"])
    rows = [{"tokens": ["good", "so"], "tags": [1, 0]}, {"tokens": ["so", "bad", "good"], "tags": [0, 1, 2]}]
    predictions, metrics = evaluate(Tagger(), this, split_of(tmp_path, this, rows, tokenizer))
    assert [list(map(int, t)) for t in predictions["predictions"]] == [[1, 0], [0, 0, 1]]
    # entities: gold (0,0) and (1,2); found (0,0) and (2,2); 1 right: P = R = 1/2; words: 3 of 5
    assert metrics["span_f1"] == pytest.approx(50)
    assert metrics["accuracy"] == pytest.approx(60)


def test_images_are_classified(tmp_path, tokenizer):
    class Brightness(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, pixel_values):
            mean = pixel_values.mean((1, 2, 3))[:, None] * self.scale
            return SimpleNamespace(logits=torch.cat([-mean, mean], dim=1))

    this = task("image", ["accuracy"], inputs=["image"], target="label", labels=["dark", "bright"])
    rows = [{"image": np.full((4, 4), v).tolist(), "label": y} for v, y in ((0, 0), (255, 1), (200, 0))]
    _, metrics = evaluate(Brightness(), this, split_of(tmp_path, this, rows, tokenizer))
    assert metrics["accuracy"] == pytest.approx(200 / 3)


def test_next_words_are_scored_as_the_product_of_what_each_prefix_says(tmp_path, tokenizer):
    rows = [{"text": text} for text in ("good bad so text", "bad", "so so good : text bad")]
    this = task("causal", ["lm_loss", "lm_perplexity"])
    split = split_of(tmp_path, this, rows, tokenizer)
    llama = {**SIZES, "intermediate_size": 32, "max_position_embeddings": 32}
    model = models.build(ModelEntry(title="t", architecture="llama", config=llama), head="causal", seed=4).eval()
    predictions, metrics = evaluate(model, this, split, batch_size=2)
    losses = []
    for index in range(len(split)):
        ids = torch.tensor(split[index]["input_ids"].astype(np.int64))
        for place in range(1, len(ids)):  # nothing but the words before it
            said = model(input_ids=ids[None, :place]).logits[0, -1].log_softmax(-1)
            losses.append(-said[ids[place]].item())
    assert predictions["words"].sum() == len(losses)
    assert metrics["lm_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert metrics["lm_perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    batch = collate(this, split.facts, model=model)([split[index] for index in range(len(split))])
    assert task_loss(this, model, batch).item() == pytest.approx(np.mean(losses), rel=1e-4)
