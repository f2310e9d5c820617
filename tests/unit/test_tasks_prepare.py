"""Preparing: splits that never move, pieces and labels where they belong, one folder in one step."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from tokenizers import models as token_models
from tokenizers import normalizers, pre_tokenizers, processors

from replica.assets import manifest
from replica.config.task_schema import Task
from replica.errors import AssetError, ConfigError
from replica.files import read_json, sha256_file
from replica.tasks import PreparedSplit, kinds, prepare
from replica.tasks.segments import document_pairs
from replica.tasks.splits import held_out

ROOT = Path(__file__).parents[2]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> Path:
    """A WordPiece tokenizer of letters: a word of n letters is n pieces. Its file asks for truncation and padding."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        ":",
        ".",
        *LETTERS,
        *(f"##{c}" for c in LETTERS),
        *"0123456789",
    ]
    backend = tokenizers.Tokenizer(token_models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    folder = tmp_path_factory.mktemp("tokenizer")
    backend.save(str(folder / "tokenizer.json"))
    return folder


def ids(word: str) -> list[int]:
    first = 7 + LETTERS.index(word[0])
    return [first, *(33 + LETTERS.index(c) for c in word[1:])]


def task(kind: str, **fields) -> Task:
    fields.setdefault("splits", {"train": "train", "select": "validation"})
    fields.setdefault("inputs", ["text"])
    return Task(name="t", version=1, dataset="d", kind=kind, metrics=[{"name": "accuracy"}], **fields)


def dataset(folder: Path, **splits: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def prepared(tmp_path: Path, this: Task, rows: list[dict], tokenizer: Path, **options) -> PreparedSplit:
    data = dataset(tmp_path / "data", train=rows, validation=rows)
    prepare(this, data, tokenizer, tmp_path / "out", **options)
    return PreparedSplit.read(tmp_path / "out", "train")


def test_pairs_of_texts_have_two_segments_and_are_cut_to_the_length(tmp_path, pieces):
    this = task("classification", inputs=["a", "b"], target="label", labels=["no", "yes"], max_length=8)
    rows = [{"a": "ab", "b": "c", "label": 1}, {"a": "abcdef", "b": "abcdefgh", "label": "no" == "yes"}]
    split = prepared(tmp_path, this, [{**r, "label": int(r["label"])} for r in rows], pieces)
    assert split[0]["input_ids"].tolist() == [2, *ids("ab"), 3, *ids("c"), 3]
    assert split[0]["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1]
    assert split[0]["label"] == 1
    assert split.lengths.tolist() == [6, 8]
    assert split.facts["labels"] == 2
    assert split.facts["tokenizer"]["mask_id"] == 4


def test_max_length_of_the_call_cuts_the_tasks_own(tmp_path, pieces):
    this = task("classification", target="label", labels=["no", "yes"], max_length=16)
    split = prepared(tmp_path, this, [{"text": LETTERS, "label": 0}], pieces, max_length=6)
    assert split.lengths.tolist() == [6]


def test_labels_by_name_and_wrong_labels(tmp_path, pieces):
    this = task("classification", target="label", labels=["no", "yes"])
    assert prepared(tmp_path, this, [{"text": "a", "label": "yes"}], pieces)[0]["label"] == 1
    for value, message in (("yess", "did you mean 'yes'"), (2, "label 2 is not one of the 2"), (-1, "hidden labels")):
        with pytest.raises(ConfigError, match=message):
            prepared(tmp_path, this, [{"text": "a", "label": value}], pieces)
    with pytest.raises(ConfigError, match="no column 'txt'; did you mean 'text'"):
        prepared(tmp_path, this.model_copy(update={"inputs": ["txt"]}), [{"text": "a", "label": 0}], pieces)
    with pytest.raises(ConfigError, match="needs `labels`"):
        kinds.KINDS["classification"].label_count(task("classification", target="label"))


def test_a_words_tag_stands_at_its_first_piece(tmp_path, pieces):
    this = task("tagging", inputs=["tokens"], target="tags", labels=["O", "B-X"])
    split = prepared(tmp_path, this, [{"tokens": ["abc", "d", "ef"], "tags": [1, 0, 1]}], pieces)
    assert split[0]["input_ids"].tolist() == [2, *ids("abc"), *ids("d"), *ids("ef"), 3]
    assert split[0]["labels"].tolist() == [-100, 1, -100, -100, 0, 1, -100, -100]


def test_text_to_text_is_written_as_t5_does(tmp_path, pieces):
    this = task(
        "text2text", inputs=["a", "b"], target="label", labels=["no", "yes"], label_words={"yes": "good"}, prefix="job"
    )
    split = prepared(tmp_path, this, [{"a": "x", "b": "y", "label": 1}], pieces)
    expected = [*ids("job"), *ids("a"), 5, *ids("x"), *ids("b"), 5, *ids("y")]
    assert split[0]["input_ids"].tolist() == [2, *expected, 3]
    assert split[0]["labels"].tolist() == [2, *ids("good"), 3]
    assert split[0]["references"] == ["good"]
    assert split.facts["target_length"] == 6
    bare = task("text2text", target="target", prefix="job:")
    split = prepared(tmp_path, bare, [{"text": "x", "target": ["u", "v"]}], pieces)
    assert len(split) == 2
    assert split[0]["input_ids"].tolist() == [2, *ids("job"), 5, *ids("x"), 3]
    assert [split[i]["labels"].tolist()[1:-1] for i in (0, 1)] == [ids("u"), ids("v")]
    assert len(PreparedSplit.read(tmp_path / "out", "select")) == 1


def test_numbers_as_text_are_rounded_to_a_fifth(tmp_path, pieces):
    split = prepared(tmp_path, task("text2text", target="score"), [{"text": "x", "score": 3.71}], pieces)
    assert split[0]["references"] == ["3.8"]  # 3.71 * 5 = 18.55, rounded 19, divided by 5
    assert split[0]["value"] == 3.71


def test_long_texts_become_blocks_and_empty_ones_go(tmp_path, pieces):
    this = task("mlm", max_length=8)
    split = prepared(tmp_path, this, [{"text": "abcdefghij"}, {"text": ""}, {"text": "k"}], pieces)
    assert split.values("row").tolist() == [0, 0, 2]
    body = [token for i in (0, 1) for token in split[i]["input_ids"][1:-1].tolist()]
    assert body == ids("abcdefghij")
    assert split.values("example_id").tolist() == [0, 1, 2]


def test_pairs_of_segments_follow_each_other_or_come_from_another_document(tmp_path, pieces):
    documents = [[LETTERS[d] * 3 for _ in range(6)] for d in range(26)]
    rows = [{"text": s, "document": f"d{d}"} for d, sentences in enumerate(documents) for s in sentences]
    this = task("mlm", inputs=["text", "document"], next_sentence=True, max_length=16)
    split = prepared(tmp_path, this, rows, pieces)
    random = 0
    for i in range(len(split)):
        row = split[i]
        tokens, kinds = row["input_ids"], row["token_type_ids"]
        assert len(tokens) <= 16
        first = {(int(t) - 7) % 26 for t in tokens[kinds == 0] if t > 4}
        second = {(int(t) - 7) % 26 for t in tokens[kinds == 1] if t > 4}
        assert len(first) == len(second) == 1
        assert (first != second) == bool(row["next_sentence_label"])
        random += row["next_sentence_label"]
    assert 0.3 < random / len(split) < 0.7


def test_no_token_of_a_document_is_lost_when_segments_are_random():
    generator = np.random.default_rng(0)
    documents = [[[100 * d + s] for s in range(12)] for d in range(4)]
    pairs = document_pairs(documents, 0, 6, generator)
    own = [t for first, second, random in pairs for t in (first if random else first + second)]
    assert own == list(range(12))


def test_images_become_bytes_by_channel(tmp_path, pieces):
    this = task("image", inputs=["image"], target="label", labels=["a", "b"])
    grey = [[0, 1], [2, 3]]
    split = prepared(tmp_path, this, [{"image": grey, "label": 1}], pieces)
    assert split[0]["pixels"].tolist() == [0, 1, 2, 3]
    assert {k: split.facts["image"][k] for k in ("channels", "height", "width")} == {
        "channels": 1,
        "height": 2,
        "width": 2,
    }
    colour = [[[1, 2, 3], [4, 5, 6]]]
    split = prepared(tmp_path, this, [{"image": colour, "label": 0}], pieces)
    assert split[0]["pixels"].tolist() == [1, 4, 2, 5, 3, 6]


def test_held_out_rows_never_move_and_groups_stay_together(tmp_path, pieces):
    names = [f"film {i}" for i in range(4000)]
    apart = held_out(names, 0.1)
    assert apart.mean() == pytest.approx(0.1, abs=0.02)  # standard error 0.005
    assert np.array_equal(held_out(names[:100], 0.1), apart[:100])
    assert np.all(held_out(names, 0.3)[apart])
    rows = [{"text": "a", "label": 0, "film": f"film {i // 3}"} for i in range(300)]
    splits = {"train": "train", "select": {"from": "train", "share": 0.2, "by": "film"}, "report": "validation"}
    this = task("classification", target="label", labels=["no", "yes"], splits=splits)
    data = dataset(tmp_path / "data", train=rows, validation=rows[:5])
    facts = prepare(this, data, pieces, tmp_path / "out")
    parts = {s: PreparedSplit.read(tmp_path / "out", s).values("row").tolist() for s in ("train", "select", "report")}
    assert sorted(parts["train"] + parts["select"]) == list(range(300))
    assert not {r // 3 for r in parts["train"]} & {r // 3 for r in parts["select"]}
    assert parts["report"] == [0, 1, 2, 3, 4]
    assert facts["rows"] == {name: len(part) for name, part in parts.items()}


def test_the_folder_has_hashes_and_a_failed_call_leaves_the_old_one(tmp_path, pieces):
    this = task("classification", target="label", labels=["no", "yes"])
    prepared(tmp_path, this, [{"text": "a", "label": 0}], pieces)
    out = tmp_path / "out"
    manifest = read_json(out / "manifest.json")
    hashes = {name: fact["sha256"] for name, fact in manifest["files"].items()}
    assert hashes == {p.name: sha256_file(p) for p in sorted(out.iterdir()) if p.name != "manifest.json"}
    with pytest.raises(ConfigError):
        prepared(tmp_path, this, [{"text": "a", "label": 5}], pieces)
    assert manifest == read_json(out / "manifest.json")
    prepared(tmp_path, this, [{"text": "a", "label": 0}], pieces)
    assert manifest == read_json(out / "manifest.json")


def test_missing_or_broken_files_are_named(tmp_path, pieces):
    this = task("classification", target="label", labels=["no", "yes"])
    data = dataset(tmp_path / "data", train=[{"text": "a", "label": 0}], valid=[{"text": "a", "label": 0}])
    with pytest.raises(AssetError, match="no split 'validation'; did you mean 'valid'"):
        prepare(this, data, pieces, tmp_path / "out")
    (data / "validation.parquet").write_bytes(b"PAR1 half a file")
    with pytest.raises(AssetError, match=r"validation\.parquet"):
        prepare(this, data, pieces, tmp_path / "out")
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "tokenizer.json").write_text("{}", encoding="utf-8")
    dataset(data, validation=[{"text": "a", "label": 0}])
    with pytest.raises(AssetError, match=r"tokenizer\.json is not a tokenizer"):
        prepare(this, data, tmp_path / "tok", tmp_path / "out")
    with pytest.raises(AssetError, match="prepare the task first"):
        PreparedSplit.read(tmp_path / "nowhere", "train")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_tokenizer_json_is_converted(tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]) + "\n", encoding="utf-8"
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    this = task("classification", target="label", labels=["no", "yes"])
    split = prepared(tmp_path, this, [{"text": "A ab", "label": 0}], folder)
    assert split[0]["input_ids"].tolist() == [2, 5, 5, 6, 3]
    with pytest.raises(AssetError, match="no tokenizer"):
        prepared(tmp_path, this, [{"text": "a", "label": 0}], tmp_path)


def test_thirteen_thousand_sentences_take_seconds(tmp_path, pieces):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list(LETTERS), 3)) for _ in range(500)]
    rows = [{"text": " ".join(rng.choice(words, 20)), "label": int(rng.integers(2))} for _ in range(13_000)]
    data = dataset(tmp_path / "data", train=rows, validation=rows[:10])
    started = time.process_time()
    prepare(task("classification", target="label", labels=["no", "yes"]), data, pieces, tmp_path / "out")
    assert time.process_time() - started < 20


def test_the_program_prepares_a_registered_task_and_says_what_is_wrong(tmp_path, pieces):
    spec = importlib.util.spec_from_file_location("prepare_program", ROOT / "scripts" / "prepare.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    data = dataset(tmp_path / "data", **{s: [{"text": "a b", "label": 1}] for s in ("train", "validation", "test")})
    manifest.write(data, asset="dataset", name="smoke-sentiment")
    manifest.write(pieces, asset="model", name="pieces")
    common = ["--dataset", str(data), "--tokenizer", str(pieces), "--root", str(ROOT), "--out", str(tmp_path / "out")]
    program.program(["--task", "smoke-sentiment", *common])
    assert json.loads((tmp_path / "out" / "facts.json").read_text(encoding="utf-8"))["rows"] == {
        "train": 1,
        "select": 1,
        "report": 1,
    }
    with pytest.raises(ConfigError, match="did you mean 'smoke-sentiment'"):
        program.program(["--task", "smoke-sentimental", *common])
    splits = {"train": {"rows": 1, "sha256": "0" * 64}}
    manifest.write(
        data, asset="dataset", splits=splits
    )  # other rows than the registry pins: retrieved before the pin was changed
    with pytest.raises(AssetError, match=r"split 'train' has rows with sha256 0{64}, config/datasets.yaml pins"):
        program.program(["--task", "smoke-sentiment", *common])


def test_only_keeps_rows_of_these_values_and_numbers_their_labels_from_zero(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"image": [[number * 10] * 2] * 2, "label": number} for number in (7, 1, 5, 6, 0, 5)]
    pq.write_table(pa.Table.from_pylist(rows), data / "train.parquet")

    def keeping(values):
        return Task(
            name="t",
            version=1,
            dataset="d",
            kind="image",
            inputs=["image"],
            target="label",
            labels=["five", "seven"],
            only={"label": values},
            splits={"train": "train", "select": "train"},
            metrics=[{"name": "accuracy"}],
        )

    prepare(keeping([5, 7]), data, tmp_path, tmp_path / "out")
    split = PreparedSplit.read(tmp_path / "out", "train")
    assert [(split[i]["row"], split[i]["label"]) for i in range(len(split))] == [(0, 1), (2, 0), (5, 0)]
    with pytest.raises(ValueError, match=r"`only` keeps 3 values of 'label', and `labels` names 2"):
        keeping([5, 6, 7])


def test_counted_classes_a_limit_of_rows_and_rows_of_each_class(tmp_path, pieces):
    this = task("classification", inputs=["text"], target="label", classes=3, rows={"train": 40})
    rows = [{"text": "good", "label": index % 3} for index in range(60)]
    split = prepared(tmp_path, this, rows, pieces)
    assert len(split) == 40
    assert split.facts["labels"] == 3
    drawn = split.sample_per_class(2, seed=1)
    assert sorted(drawn.values("label")) == [0, 0, 1, 1, 2, 2]
    assert list(drawn.values("row")) == list(split.sample_per_class(2, seed=1).values("row"))
    assert list(drawn.values("row")) != list(split.sample_per_class(2, seed=2).values("row"))
    assert len(split.sample_per_class(100, seed=1)) == 40
    with pytest.raises(ConfigError, match="label 3 is not one of the 3 of `classes`"):
        prepared(tmp_path, this, [{"text": "good", "label": 3}], pieces)


PAIR = {"inputs": ["a", "b"], "target": "label", "labels": ["no", "yes"]}
LABELLED = {"target": "label", "labels": ["no", "yes"]}
GOOD = {"question": "a b", "context": "c d", "answers": {"text": ["c"], "answer_start": [0]}}
#: Kind and fields of a task, a row that is whole, and what in its place is wrong: with the words of the error.
WRONG = [
    ("classification", LABELLED, {"text": "a", "label": 0}, {"text": None}, "column 'text' holds a null"),
    ("classification", LABELLED, {"text": "a", "label": 0}, {"label": None}, "column 'label' holds a null"),
    ("classification", LABELLED, {"text": "a", "label": 0.0}, {"label": 0.5}, "label 0.5 is not one of the 2"),
    ("classification", LABELLED, {"text": "a", "label": 0.0}, {"label": float("nan")}, "label nan is not one of the 2"),
    ("classification", LABELLED, {"text": "a", "label": 1}, {"label": -1}, "label -1 is not one of the 2"),
    ("classification", LABELLED, {"text": "a", "label": "no"}, {"label": "on"}, "unknown label 'on'"),
    ("classification", {"target": "label", "classes": 3}, {"text": "a", "label": "2"}, {}, "unknown label '2'"),
    (
        "classification",
        LABELLED,
        {"text": 1, "label": 0},
        {},
        "column 'text': 1, where kind classification needs a text",
    ),
    ("classification", PAIR, {"a": "a", "b": "b", "label": 1}, {"b": None}, "column 'b' holds a null"),
    ("regression", {"target": "label"}, {"text": "a", "label": 1.0}, {"label": None}, "column 'label' holds a null"),
    (
        "regression",
        {"target": "label"},
        {"text": "a", "label": 1.0},
        {"label": float("inf")},
        "inf, .* a finite number",
    ),
    ("regression", {"target": "label"}, {"text": "a", "label": "1"}, {}, "'1', .* a finite number"),
    ("tagging", LABELLED, {"text": ["a", "b"], "label": [0, 1]}, {"text": ["a", None]}, "holds a list with a null"),
    ("tagging", LABELLED, {"text": ["a", "b"], "label": [0, 1]}, {"label": [0, 2]}, "label 2 is not one of the 2"),
    ("tagging", LABELLED, {"text": ["a", "b"], "label": [0, 1]}, {"label": [0]}, "a tag for each of 2 words"),
    ("tagging", LABELLED, {"text": ["a", "b"], "label": [0, 1]}, {"label": [0, 1, 1]}, "a tag for each of 2 words"),
    ("text2text", {"target": "label"}, {"text": "a", "label": "b"}, {"text": None}, "column 'text' holds a null"),
    ("text2text", {"target": "label"}, {"text": "a", "label": "b"}, {"label": None}, "column 'label' holds a null"),
    (
        "text2text",
        {"target": "label"},
        {"text": "a", "label": ["b"]},
        {"label": ["b", None]},
        "holds a list with a null",
    ),
    ("text2text", {"target": "label"}, {"text": "a", "label": 1.0}, {"label": float("nan")}, "nan, .* a finite number"),
    ("text2text", {"target": "label"}, {"text": "a", "label": {"text": "b"}}, {}, "needs a text, a whole number"),
    ("text2text", {"target": "label"}, {"text": 0.5, "label": "b"}, {}, "0.5, .* needs a text, a whole number"),
    ("text2text", LABELLED, {"text": "a", "label": 1.0}, {"label": 0.9}, "label 0.9 is not one of the 2"),
    ("completion", {"target": "label"}, {"text": "a", "label": "b"}, {"label": None}, "column 'label' holds a null"),
    (
        "span",
        {"inputs": ["question", "context"], "target": "answers"},
        GOOD,
        {"question": None},
        "'question' holds a null",
    ),
    (
        "span",
        {"inputs": ["question", "context"], "target": "answers"},
        GOOD,
        {"context": None},
        "'context' holds a null",
    ),
    (
        "span",
        {"inputs": ["question", "context"], "target": "answers"},
        GOOD,
        {"answers": None},
        "'answers' holds a null",
    ),
    (
        "span",
        {"inputs": ["question", "context"], "target": "answers"},
        GOOD,
        {"answers": {"text": ["c"], "answer_start": []}},
        "`text` and `answer_start`, lists of one length",
    ),
    (
        "span",
        {"inputs": ["question", "context"], "target": "answers"},
        GOOD,
        {"answers": {"text": [None], "answer_start": [0]}},
        "`text` and `answer_start`, lists of one length",
    ),
    ("mlm", {}, {"text": "a"}, {"text": None}, "column 'text' holds a null"),
    ("causal", {}, {"text": "a"}, {"text": None}, "column 'text' holds a null"),
    ("text", {}, {"text": "a"}, {"text": None}, "column 'text' holds a null"),
    (
        "mlm",
        {"inputs": ["text", "document"], "next_sentence": True},
        {"text": "a", "document": "d"},
        {"document": None},
        "column 'document' holds a null",
    ),
    ("image", LABELLED, {"text": [[0, 1]], "label": 1}, {"text": None}, "column 'text' holds a null"),
    (
        "image",
        LABELLED,
        {"text": [[0, 1]], "label": 1},
        {"text": [[0, 999]]},
        "column 'text': no image that can be read",
    ),
    ("image", LABELLED, {"text": {"bytes": b"GIF89a", "path": None}, "label": 1}, {}, "no image that can be read"),
    (
        "text2text",
        {"inputs": [], "target": "label", "images": "image"},
        {"image": [[[0, 1]]], "label": "a"},
        {"image": [[[0, 1, 2]]]},
        "images of one size",
    ),
    (
        "text2text",
        {"inputs": [], "target": "label", "images": "image"},
        {"image": [[[0.0, 1.0]]], "label": "a"},
        {"image": [[[0.0, float("nan")]]]},
        "finite features",
    ),
]


@pytest.mark.parametrize("kind, fields, row, wrong, message", WRONG)
def test_what_a_kind_cannot_encode_is_an_error_with_its_row(tmp_path, pieces, kind, fields, row, wrong, message):
    this = task(kind, only={"kept": [1]}, **fields)
    whole, other = {**row, "kept": 1}, {**row, **wrong, "kept": 1}
    left_out = {**dict.fromkeys(row), "kept": 0}  # nothing is asked of rows that are not read
    number = 2 if wrong else 0  # a whole column of another type is wrong from its first row on
    data = dataset(tmp_path / "data", train=[whole, left_out, other][: 3 if wrong else 1], validation=[whole])
    with pytest.raises(ConfigError, match=rf"task 't'.*{message}.*: row {number} of its train split"):
        prepare(this, data, pieces, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["mlm", "causal", "text"])
def test_a_split_without_an_example_is_an_error(tmp_path, pieces, kind):
    with pytest.raises(ConfigError, match="task 't': its train split would be empty: no row has a text"):
        prepared(tmp_path, task(kind), [{"text": ""}, {"text": " "}] * 20, pieces)


@pytest.mark.parametrize(
    "kind, columns, wanted",
    [
        ("span", ["text"], "2"),
        ("classification", ["a", "b", "c"], "1 to 2"),
        ("mlm", [], "1 to 2"),
        ("image", ["a", "b"], "1"),
    ],
)
def test_the_number_of_inputs_is_that_of_the_kind(kind, columns, wanted):
    with pytest.raises(ConfigError, match=f"kind {kind} takes {wanted} columns of `inputs`, not {len(columns)}"):
        kinds.KINDS[kind].check(task(kind, inputs=columns, target="label", labels=["a", "b"]))


@pytest.mark.parametrize("config", [{"size": "big"}, {"size": 0}, {"image_mean": 0.5}, {"image_std": ["a"]}, []])
def test_an_images_preprocessing_of_wrong_types_is_named(tmp_path, config):
    data = dataset(tmp_path / "data", train=[{"image": [[0]], "label": 0}], validation=[{"image": [[0]], "label": 0}])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    this = task("image", inputs=["image"], target="label", labels=["a", "b"])
    with pytest.raises(AssetError, match=r"preprocessor_config\.json: `"):
        prepare(this, data, tmp_path, tmp_path / "out")
