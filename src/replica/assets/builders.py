"""Builders: from a source's raw file to a data set's canonical splits."""

from __future__ import annotations

import bz2
import csv
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from replica.assets.rows import Rows
from replica.errors import AssetError, nearest

REVIEW_SCHEMA = pa.schema({"id": pa.int64(), "text": pa.string(), "label": pa.int64(), "movie": pa.string()})
PLOT_SCHEMA = pa.schema({"id": pa.int64(), "text": pa.string(), "movie": pa.string()})
#: Unlabelled text in reading order: rows of one `document` are adjacent, `position` counts from 0.
TEXT_SCHEMA = pa.schema({"document": pa.string(), "position": pa.int64(), "kind": pa.string(), "text": pa.string()})

#: A duplicate stays in the last of the splits that have it: no text of a later split was seen in an earlier one.
SPLITS = ("train", "validation", "test")
SHARES = (0.70, 0.15, 0.15)
SEED = 0
LABELS = {"rotten": 0, "fresh": 1}


def build(builder: str, files: dict[str, Path], source: str) -> dict[str, Rows]:
    """Run the named builder on the files of a source."""
    known = {"rotten-tomatoes": rotten_tomatoes}
    if builder not in known:
        raise AssetError(f"no builder {builder!r}{nearest(builder, known)}")
    return known[builder](files, source)


def rotten_tomatoes(files: dict[str, Path], source: str) -> dict[str, Rows]:
    """Split review sentences (0 rotten, 1 fresh) and plot summaries by movie, 70/15/15 by a hash of the movie's name.

    `train`, `validation` and `test` hold review sentences; `plots_train` the plots of training movies; `text_train`
    and `text_validation` the reviews and the plots' sentences of those movies as unlabelled documents. A text (up to
    case and space) is kept once, and only in the last of the three splits that has it; a plot is left out where one of
    its sentences is in a later split: no training text is one of validation or test.
    """
    records = _read_csv(files["reviews"], source)
    reviews: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    plots: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for number, record in enumerate(records):
        text = " ".join(record["text"].split())
        if not text:
            continue
        split = split_of(record["movie_name"])
        row = {"id": number, "text": text, "movie": record["movie_name"]}
        if record["category"] == "plot":
            plots[split].append({**row, "paragraphs": record["text"]})
        elif record["category"] in LABELS:
            reviews[split].append({**row, "label": LABELS[record["category"]]})
        else:
            raise AssetError(
                f"{source}: row {number} has the category {record['category']!r}; known: fresh, rotten, plot"
            )
    # A review, plot or sentence of a plot that a later split has is left out of earlier ones.
    sentences = {split: [_sentences(row["paragraphs"]) for row in plots[split]] for split in SPLITS}
    seen: set[str] = set()
    out: dict[str, Rows] = {}
    for split in reversed(SPLITS):
        later = frozenset(seen)
        unique = _once(reviews[split], later)
        chunks = dict(zip((row["id"] for row in plots[split]), sentences[split], strict=True))
        clean = [row for row in plots[split] if not any(_key(sentence) in later for sentence in chunks[row["id"]])]
        unique_plots = _once(clean, later)
        out[split] = Rows.of(unique, REVIEW_SCHEMA)
        text = _documents(unique, [(row, chunks[row["id"]]) for row in unique_plots])
        out[f"text_{split}"] = Rows.of(text, TEXT_SCHEMA)
        out[f"plots_{split}"] = Rows.of(unique_plots, PLOT_SCHEMA)
        seen |= {_key(row["text"]) for row in reviews[split] + plots[split]}
        seen |= {_key(sentence) for document in sentences[split] for sentence in document}
    names = ("train", "validation", "test", "plots_train", "text_train", "text_validation")
    return {name: out[name] for name in names}


def split_of(movie: str) -> str:
    """Return a movie's split by a seeded hash of its name: it never moves when other movies come or go."""
    share = int.from_bytes(hashlib.sha256(f"{SEED}:{movie}".encode()).digest()[:8]) / 2**64
    return SPLITS[0] if share < SHARES[0] else SPLITS[1] if share < SHARES[0] + SHARES[1] else SPLITS[2]


def _read_csv(path: Path, source: str) -> list[dict[str, str]]:
    try:
        text = bz2.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, ValueError) as error:
        raise AssetError(f"{source}: {path.name} is truncated or no bz2 file ({error})") from None
    records = list(csv.DictReader(io.StringIO(text, newline="")))
    missing = {"category", "text", "movie_name"} - set(records[0] if records else ())
    if missing:
        raise AssetError(f"{source}: {path.name} lacks the columns {', '.join(sorted(missing))}")
    return records


def _once(rows: list[dict[str, Any]], barred: frozenset[str]) -> list[dict[str, Any]]:
    unique, here = [], set(barred)
    for row in rows:
        if _key(row["text"]) not in here:
            here.add(_key(row["text"]))
            unique.append(row)
    return unique


def _documents(reviews: list[dict[str, Any]], plots: list[tuple[dict[str, Any], list[str]]]) -> list[dict[str, Any]]:
    documents = [(f"plot-{row['id']}", "plot", sentences) for row, sentences in plots]
    documents += [(f"review-{row['id']}", "review", [row["text"]]) for row in reviews]
    return [
        {"document": document, "position": position, "kind": kind, "text": sentence}
        for document, kind, sentences in documents
        for position, sentence in enumerate(sentences)
    ]


#: The end of a sentence: a stop, perhaps a closing quote, space, and then the start of a sentence.
_END = re.compile(r"""(?<=[.!?…])(?P<close>["'”’)]*)\s+(?=["'“‘(]*[A-Z0-9])""")
_ABBREVIATIONS = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Sr|Jr|Prof|Lt|Col|Gen|Capt|Sgt|vs|No|[A-Z])|\.\w)\.$")
_FEWEST_WORDS = 4


def _sentences(text: str) -> list[str]:
    """Break a text into sentences inside its paragraphs; a piece of under four words stays with its neighbour."""
    out: list[str] = []
    for paragraph in re.split(r"\n\s*\n|\r\n\s*\r\n", text):
        pieces: list[str] = []
        start = 0
        flat = " ".join(paragraph.split())
        for end in _END.finditer(flat):
            if not _ABBREVIATIONS.search(flat[start : end.start()]):
                pieces.append(flat[start : end.end("close")])
                start = end.end()
        pieces.append(flat[start:])
        for piece in pieces:
            if out and piece and len(piece.split()) < _FEWEST_WORDS:
                out[-1] += " " + piece
            elif piece:
                out.append(piece)
    return out


def _key(text: str) -> str:
    return " ".join(text.casefold().split())
