"""The smoke data sets follow their written rules, are the same every time, and their tokenizer knows every word."""

import re

import pytest

from replica.assets import generated, smoke_tokenizer
from replica.errors import AssetError
from tests.unit.assets_helpers import hash_rows

GOOD = {"good", "great", "lovely", "brilliant", "charming", "superb", "moving", "fresh"}
BAD = {"bad", "awful", "dull", "clumsy", "boring", "poor", "empty", "rotten"}


def rows_of(generator, **options):
    splits = generated.generate(generator, 0, options)
    return {name: [row for batch in rows.batches() for row in batch.to_pylist()] for name, rows in splits.items()}


@pytest.mark.parametrize("generator", ["sentiment", "pair", "similarity", "tagging", "span", "image", "text"])
def test_same_seed_same_rows_and_splits_share_none(generator):
    first, again = rows_of(generator), rows_of(generator)
    assert first == again
    other = generated.generate(generator, 1, {})["train"]
    assert hash_rows(row for batch in other.batches() for row in batch.to_pylist()) != hash_rows(first["train"])
    if generator == "text":
        return
    seen = [repr({k: v for k, v in row.items() if k != "id"}) for rows in first.values() for row in rows]
    assert len(set(seen)) == len(seen)
    assert [len(rows) for rows in first.values()] == [1200, 200, 200]


def test_sentiment_is_the_sign_of_polarity_words_turned_by_negations():
    for row in rows_of("sentiment")["train"]:
        words = re.findall(r"\w+", row["text"].lower())
        total = 0
        for before, word in zip(["", *words], words, strict=False):
            sign = (word in GOOD) - (word in BAD)
            total += -sign if before in ("not", "never") else sign
        assert total != 0
        assert row["label"] == (total > 0)


def test_pair_is_entailed_when_colour_and_thing_are_the_same():
    rows = rows_of("pair")["train"]
    for row in rows:
        fact = re.fullmatch(r"(\w+) (\w+) the (\w+) (\w+) in the \w+\.", row["sentence1"]).groups()
        said = re.fullmatch(r"(\w+) (\w+) a (\w+) (\w+)\.", row["sentence2"]).groups()
        assert fact[:2] == said[:2]
        assert row["label"] == int(fact != said)
    assert 0.4 < sum(row["label"] for row in rows) / len(rows) < 0.6


def test_similarity_counts_equal_content_words():
    pattern = re.compile(r"(\w+) (\w+) the (\w+) (\w+) in the (\w+)\.")
    for row in rows_of("similarity")["train"]:
        pair = zip(*(pattern.fullmatch(row[key]).groups() for key in ("sentence1", "sentence2")), strict=True)
        assert row["label"] == sum(a == b for a, b in pair)


def test_tags_of_two_fold_names_follow_the_word_before():
    seen = set()
    for row in rows_of("tagging")["train"]:
        assert len(row["tokens"]) == len(row["tags"])
        for index, word in enumerate(row["tokens"]):
            if word in {"paris", "florence", "sydney", "austin"}:
                before = row["tokens"][index - 1]
                expected = "B-PER" if before in {"mr", "mrs", "doctor", "captain"} else "B-LOC"
                assert generated.TAGS[row["tags"][index]] == expected
                seen.add(expected)
    assert seen == {"B-PER", "B-LOC"}


def test_span_answers_stand_after_the_asked_thing():
    rows = rows_of("span", unanswerable=0.3)["train"]
    without = 0
    for row in rows:
        thing = re.fullmatch(r"Where is the (\w+)\?", row["question"])[1]
        said = re.search(rf"The {thing} is in the (\w+)\.", row["context"])
        if not row["answers"]["text"]:
            without += 1
            assert said is None
        else:
            assert row["answers"]["text"] == [said[1]]
            assert row["answers"]["answer_start"] == [said.start(1)]
    assert 0.25 < without / len(rows) < 0.35
    assert all(row["answers"]["text"] for row in rows_of("span")["train"])


def test_image_shows_the_shape_of_its_label():
    for row in rows_of("image")["train"]:
        bright = {(y, x) for y, line in enumerate(row["image"]) for x, value in enumerate(line) if value > 128}
        ys, xs = sorted({y for y, _ in bright}), sorted({x for _, x in bright})
        size = (len(ys), len(xs), len(bright))
        assert size == ((1, 5, 5), (5, 1, 5), (5, 5, 5), (4, 4, 12))[row["label"]]
        assert ys == list(range(ys[0], ys[-1] + 1))
        assert xs == list(range(xs[0], xs[-1] + 1))


def test_documents_have_several_sentences_that_share_person_and_place():
    documents = {}
    for row in rows_of("text")["train"]:
        documents.setdefault(row["document"], []).append(row)
    for rows in documents.values():
        assert [row["position"] for row in rows] == list(range(len(rows)))
        assert 4 <= len(rows) <= 7
        words = [set(re.findall(r"\w+", row["text"].lower())) for row in rows]
        person, place = re.fullmatch(r"(\w+) was in the (\w+)\.", rows[0]["text"].lower()).groups()
        assert all({person, place} <= sentence for sentence in words)


def test_unknown_generators_options_and_impossible_sizes_are_errors(monkeypatch):
    with pytest.raises(AssetError, match="did you mean 'sentiment'"):
        generated.generate("sentimant", 0, {})
    with pytest.raises(AssetError, match="no option 'size'; did you mean 'sizes'"):
        generated.generate("pair", 0, {"size": 3})
    monkeypatch.setattr(generated, "_image", lambda rng: {"image": [[0]], "label": 0})
    with pytest.raises(AssetError, match="cannot make 2 different rows for 'train'"):
        generated.generate("image", 0, {"sizes": {"train": 2}})


def test_tokenizer_loads_and_knows_every_word(tmp_path):
    from transformers import AutoTokenizer

    smoke_tokenizer.build(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) <= smoke_tokenizer.VOCABULARY_SIZE
    names = ("pad", "unk", "cls", "sep", "mask", "eos")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == [0, 1, 2, 3, 4, 3]
    encoded = tokenizer("The acting was not dull.", "Anna saw it.")
    pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert pieces == ["[CLS]", "the", "acting", "was", "not", "dull", ".", "[SEP]", "anna", "saw", "it", ".", "[SEP]"]
    assert encoded["token_type_ids"] == [0] * 8 + [1] * 5
    for generator in ("sentiment", "pair", "similarity", "tagging", "span", "text"):
        for row in rows_of(generator)["validation"]:
            texts = [
                value for key, value in row.items() if isinstance(value, str) and key not in ("id", "document", "title")
            ]
            texts += row.get("tokens", [])
            assert not any(tokenizer.unk_token_id in tokenizer(text)["input_ids"] for text in texts), texts


def test_tokenizer_is_written_the_same_twice(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        smoke_tokenizer.build(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
