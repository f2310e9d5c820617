"""Reading: windows keep every answer, the best span is chosen by SQuAD's rules, and scores are the official ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tokenizers
from tokenizers import models as token_models
from tokenizers import pre_tokenizers, processors

from replica.config.task_schema import Task
from replica.tasks import METRICS
from replica.tasks.kinds.span import Span, answers_from_windows, best_spans
from replica.tasks.text_metrics import exact_match, normalize_answer, token_f1
from replica.tasks.tokenizer import TextTokenizer

TASK = Task(
    name="reading",
    version=1,
    dataset="d",
    kind="span",
    inputs=["question", "context"],
    target="answers",
    splits={"train": "train", "select": "validation"},
    metrics=[{"name": "squad_f1"}],
    max_length=24,
    stride=4,
)
CONTEXT = "w0 w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18 w19"


def reader() -> TextTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "?", *[f"w{i}" for i in range(20)]]
    backend = tokenizers.Tokenizer(token_models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return TextTokenizer(backend)


def table(answers: list[tuple[str, int] | None]) -> pa.Table:
    rows = [
        {"id": f"q{i}", "question": " where ?", "context": CONTEXT}
        | {"answers": {"text": [a[0]] if a else [], "answer_start": [a[1]] if a else []}}
        for i, a in enumerate(answers)
    ]
    schema = pa.schema(
        {
            "id": pa.string(),
            "question": pa.string(),
            "context": pa.string(),
            "answers": pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int32())}),
        }
    )
    return pa.Table.from_pylist(rows, schema=schema)


def encode(answers):
    return Span().encode(TASK, table(answers), reader(), 13, train=True, asset=None)


def test_windows_overlap_by_the_stride_and_cover_the_context():
    encoded = encode([("w3 w4", CONTEXT.index("w3"))])
    columns, rows, examples = encoded.columns, encoded.rows, encoded.examples
    # 13 tokens less [CLS] where ? [SEP] … [SEP] leave 8 words; the stride is at most a quarter of 13, 3: steps of 5 words
    assert rows == [0] * 4
    starts = [[o for o in window if o >= 0] for window in columns["offset_start"]]
    assert [len(window) for window in starts] == [8, 8, 8, 5]
    assert starts[0][-3:] == starts[1][:3]
    assert {o for window in starts for o in window} == {CONTEXT.index(f"w{i} ") for i in range(19)} | {
        CONTEXT.index("w19")
    }
    assert list(examples["id"]) == ["q0"]


def test_labels_give_back_the_answer_and_point_to_the_first_token_without_it():
    encoded = encode([("w6 w7 w8", CONTEXT.index("w6")), None])
    columns, rows = encoded.columns, encoded.rows
    found = []
    for i, row in enumerate(rows):
        start, end = columns["start"][i], columns["end"][i]
        if row == 1 or (start, end) == (0, 0):
            assert (start, end) == (0, 0)
            continue
        found.append(CONTEXT[columns["offset_start"][i][start] : columns["offset_end"][i][end]])
    # words 6 to 8 lie whole in the window of words 5 to 12 alone (0-7 cuts them, 10-17 and 15-19 lack them)
    assert found == ["w6 w7 w8"]


def test_the_best_span_lies_in_the_context_and_is_not_too_long_or_turned_round():
    size = 40
    offset_start = np.array([-1, -1, -1, *range(0, 10 * (size - 4), 10), -1])
    offset_end = np.where(offset_start >= 0, offset_start + 5, -1)
    start, end = np.full(size, -10.0), np.full(size, -10.0)
    start[1], end[1] = 9, 9  # in the question
    start[30], end[10] = 5, 5  # turned round
    start[4], end[38] = 4, 4  # 35 tokens
    start[20], end[22] = 3, 2  # allowed
    start[0], end[0] = 1, 2
    rng = np.random.default_rng(0)
    best, span, null = best_spans(start, end, offset_start, offset_end)
    brute = max((start[i] + end[j], i, j) for i in range(3, 39) for j in range(i, min(i + 30, 39)))
    assert best == pytest.approx(brute[0])
    assert span == (offset_start[brute[1]], offset_end[brute[2]])
    assert null == 3
    start, end = rng.normal(size=size), rng.normal(size=size)
    brute = max((start[i] + end[j], i, j) for i in range(3, 39) for j in range(i, min(i + 30, 39)))
    assert best_spans(start, end, offset_start, offset_end)[0] == pytest.approx(brute[0])


def test_the_best_window_answers_and_no_answer_wins_only_where_it_may():
    examples = pd.DataFrame(
        {"row": [4, 9], "id": ["a", "b"], "context": ["red green blue", "one two"], "answers": [["green"], []]}
    )
    windows = pd.DataFrame(
        {
            "question": [4, 4, 9],
            "score": [1.0, 6.0, 2.0],
            "span": [(0, 3), (4, 9), (0, 3)],
            "null": [7.0, 3.0, 4.0],
        }
    )
    plain = answers_from_windows(windows, examples, unanswerable=False)
    assert list(plain["prediction"]) == ["green", "one"]
    second = answers_from_windows(windows, examples, unanswerable=True)
    # question 4: lowest null 3 < 6; question 9: 4 > 2
    assert list(second["prediction"]) == ["green", ""]
    assert list(second["null_margin"]) == [-3.0, 2.0]


def test_answers_are_normalised_as_squad_does():
    assert normalize_answer("The  Cat's, an  apple!") == "cats apple"
    assert exact_match("The Eiffel Tower.", ["eiffel tower", "tower"]) == 1
    assert exact_match("eiffel", ["eiffel tower"]) == 0


def test_f1_is_the_harmonic_mean_of_word_overlap_and_the_best_answer_counts():
    # said 3 words, gold 2, common 2: P = 2/3, R = 1, F1 = 4/5
    assert token_f1("big eiffel tower", ["eiffel tower"]) == pytest.approx(0.8)
    assert token_f1("big eiffel tower", ["paris", "big eiffel tower"]) == 1
    # repeated words count as often as both have them: said 2, gold 3, common 2
    assert token_f1("la la", ["la la la"]) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("said", "answers", "value"), [("", [], 1), ("x", [], 0), ("", ["x"], 0), ("the", [], 1), ("x", ["the", "x"], 1)]
)
def test_no_answer_is_right_only_for_no_answer(said, answers, value):
    assert exact_match(said, answers) == value
    assert token_f1(said, answers) == value


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("", ["."], 1, 0),
        ("the", ["."], 1, 0),
        ("", [".", "x"], 1, 0),
        ("x", ["."], 0, 0),
        ("x", [".", "x y"], 0, 2 / 3),
    ],
)
def test_where_every_question_has_an_answer_one_of_marks_alone_counts_as_it_is(prediction, answers, em, f1):
    """SQuAD 1.1's rules: no answer is taken out, and without a common word F1 is 0."""
    assert exact_match(prediction, answers, unanswerable=False) == em
    assert token_f1(prediction, answers, unanswerable=False) == pytest.approx(f1)


def test_a_question_without_an_answer_brings_the_rules_of_the_second_squad():
    task = SimpleNamespace(name="reading")
    table = pd.DataFrame({"prediction": ["", "x"], "answers": [[".", "y"], ["x"]]})
    assert (METRICS["em"].compute(table, task), METRICS["squad_f1"].compute(table, task)) == (100, 50)
    table = pd.concat([table, pd.DataFrame({"prediction": [""], "answers": [[]]})], ignore_index=True)
    assert METRICS["em"].compute(table, task) == METRICS["squad_f1"].compute(table, task) == pytest.approx(200 / 3)
