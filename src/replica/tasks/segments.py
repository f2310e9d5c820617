"""Unlabelled text: blocks for masked-language and next-word modelling, and pairs of segments for next-sentence prediction."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from replica.errors import ConfigError
from replica.tasks.columns import Columns, column, texts
from replica.tasks.kinds.kind import Encoded

if TYPE_CHECKING:
    import pyarrow as pa

    from replica.config.task_schema import Task
    from replica.tasks.tokenizer import TextTokenizer

#: Share of pairs that aim at a random shorter length (BERT's `short_seq_prob`), and of those whose second segment is
#: random.
SHORT_SHARE = 0.1
RANDOM_SHARE = 0.5

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+|\n+")


def encode_blocks(task: Task, table: pa.Table, tokenizer: TextTokenizer, max_length: int) -> Encoded:
    """Encode texts; one longer than `max_length` becomes consecutive blocks. Empty texts are left out."""
    rows, blocks = [], []
    for row, encoding in enumerate(tokenizer.encode(texts(task, table, task.inputs[0]), max_length)):
        for block in (encoding, *encoding.overflowing):
            if sum(block.special_tokens_mask) < len(block.ids):
                rows.append(row)
                blocks.append(block.ids)
    return Encoded({"input_ids": blocks}, rows)


def encode_pairs(task: Task, table: pa.Table, tokenizer: TextTokenizer, max_length: int) -> Encoded:
    """Build pairs of segments from documents, as BERT's pretraining data (Devlin et al. 2019, section 3.1, task 2).

    A second input column names each row's document, whose rows are its sentences in order; without one, every row is
    a document, which is cut into sentences. `next_sentence_label` is 0 when the second segment follows the first, 1
    when it is random.
    """
    cls, sep = tokenizer.facts["cls_id"], tokenizer.facts["sep_id"]
    if cls is None or sep is None:
        raise ConfigError(f"task '{task.name}': next-sentence pairs need a tokenizer with [CLS] and [SEP]")
    documents, first_rows = _documents(task, table, tokenizer)
    generator = np.random.default_rng([20181011, len(documents)])
    columns: Columns = {"input_ids": [], "token_type_ids": [], "next_sentence_label": []}
    rows = []
    for number in range(len(documents)):
        for first, second, random in document_pairs(documents, number, max_length - 3, generator):
            columns["input_ids"].append([cls, *first, sep, *second, sep])
            columns["token_type_ids"].append([0] * (len(first) + 2) + [1] * (len(second) + 1))
            columns["next_sentence_label"].append(int(random))
            rows.append(first_rows[number])
    return Encoded(columns, rows)


def document_pairs(
    documents: list[list[list[int]]], number: int, room: int, generator: np.random.Generator
) -> list[tuple[list[int], list[int], bool]]:
    """Return (first segment, second segment, whether the second is random) of one document of tokenised sentences.

    Sentences are gathered until `room` tokens are full; a random place parts them. Half the time (and always for a
    single sentence, if there is another document) the second segment comes from another document, and the sentences
    it displaced are used again.
    """
    document = documents[number]
    pairs = []
    aim = _aim(room, generator)
    chunk: list[list[int]] = []
    index = 0
    while index < len(document):
        chunk.append(document[index])
        if index == len(document) - 1 or sum(map(len, chunk)) >= aim:
            cut = 1 if len(chunk) == 1 else int(generator.integers(1, len(chunk)))
            first = [token for sentence in chunk[:cut] for token in sentence]
            others = len(documents) > 1
            random = others and (len(chunk) == 1 or generator.random() < RANDOM_SHARE)
            if random:
                second = _random_segment(documents, number, max(1, aim - len(first)), generator)
                index -= len(chunk) - cut
            else:
                second = [token for sentence in chunk[cut:] for token in sentence]
            _truncate(first, second, room, generator)
            if first and second:
                pairs.append((first, second, random))
            chunk, aim = [], _aim(room, generator)
        index += 1
    return pairs


def _aim(room: int, generator: np.random.Generator) -> int:
    return int(generator.integers(2, room + 1)) if generator.random() < SHORT_SHARE else room


def _random_segment(
    documents: list[list[list[int]]], number: int, size: int, generator: np.random.Generator
) -> list[int]:
    other = int(generator.integers(0, len(documents) - 1))
    other += other >= number
    sentences = documents[other]
    tokens: list[int] = []
    for sentence in sentences[int(generator.integers(0, len(sentences))) :]:
        tokens += sentence
        if len(tokens) >= size:
            break
    return tokens


def _truncate(first: list[int], second: list[int], room: int, generator: np.random.Generator) -> None:
    """Take tokens off the longer segment, at either end with equal chance, until both fit into `room`."""
    while len(first) + len(second) > room:
        longer = first if len(first) > len(second) else second
        longer.pop(0 if generator.random() < 0.5 else -1)


def _documents(task: Task, table: pa.Table, tokenizer: TextTokenizer) -> tuple[list[list[list[int]]], list[int]]:
    """Return documents as lists of tokenised sentences, and the first row of each."""
    where, name, *document = f"task '{task.name}', inputs", *task.inputs
    sentences = texts(task, table, name)
    if document:
        names = column(table, document[0], where)
        pieces = list(zip(names, sentences, range(len(sentences)), strict=True))
    else:
        pieces = [
            (row, sentence, row)
            for row, text in enumerate(sentences)
            for sentence in _SENTENCE_END.split(text)
            if sentence and sentence.strip()
        ]
    encodings = tokenizer.encode([piece[1] for piece in pieces], None, special=False)
    documents: dict[object, list[list[int]]] = {}
    first_rows: dict[object, int] = {}
    for (name, _, row), encoding in zip(pieces, encodings, strict=True):
        if encoding.ids:
            documents.setdefault(name, []).append(encoding.ids)
            first_rows.setdefault(name, row)
    return list(documents.values()), list(first_rows.values())
