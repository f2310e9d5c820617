"""Tokenizers as files: one batched call to the fast tokenizer, and the facts about it that batches need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers

from replica.errors import AssetError
from replica.files import read_json

#: Role: the spellings that tokenizers of BERT's, RoBERTa's, T5's and GPT's families use.
_ROLES = {
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "eos": ("</s>", "[SEP]", "<|endoftext|>"),
    "unk": ("[UNK]", "<unk>"),
}


class TextTokenizer:
    """A fast tokenizer without the truncation and padding that its file may ask for.

    `facts` are its properties that batches need: `{role}_id` for pad, mask, cls, sep, eos and unk (None where it has none),
    `special_ids`, and `vocab_size`.
    """

    def __init__(self, backend: tokenizers.Tokenizer, named: dict[str, str] | None = None):
        self.backend = backend
        backend.no_padding()
        backend.no_truncation()
        self.facts = _facts(backend, named or {})

    @classmethod
    def read(cls, folder: Path | str) -> TextTokenizer:
        """Read `tokenizer.json` of a model's folder; without one, let transformers convert its files.

        Raises AssetError naming the folder when there is no tokenizer that can be read.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            return cls(_convert(folder))
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for a malformed file
            raise AssetError(f"{path} is not a tokenizer: {error}") from None
        config = folder / "tokenizer_config.json"
        named = read_json(config, AssetError) if config.is_file() else {}
        if not isinstance(named, dict):
            raise AssetError(f"{config} holds no JSON object; retrieve the model again")
        return cls(backend, _named(named))

    def encode(
        self,
        texts: list[Any],
        max_length: int | None,
        *,
        special: bool = True,
        words: bool = False,
        stride: int = 0,
        strategy: str = "longest_first",
    ) -> list[tokenizers.Encoding]:
        """Encode texts or pairs (tuples) in one call, cut to `max_length`; `words`: a text is a list of words."""
        self.backend.no_truncation()
        if max_length is not None:
            self.backend.enable_truncation(max_length, stride=stride, strategy=strategy)
        try:
            return self.backend.encode_batch(texts, is_pretokenized=words, add_special_tokens=special)
        finally:
            self.backend.no_truncation()

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Turn lists of ids back into text without special tokens."""
        return [text.strip() for text in self.backend.decode_batch(ids, skip_special_tokens=True)]


def _convert(folder: Path) -> tokenizers.Tokenizer:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except (OSError, ValueError, AttributeError, ImportError) as error:
        raise AssetError(f"{folder} has no tokenizer.json and no tokenizer that can be converted: {error}") from None


def _named(config: dict[str, Any]) -> dict[str, str]:
    """Return the special tokens that a tokenizer_config.json names, by role."""
    named = {}
    for role in _ROLES:
        token = config.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token:
            named[role] = token
    return named


def _facts(backend: tokenizers.Tokenizer, named: dict[str, str]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for role, spellings in _ROLES.items():
        candidates = (named[role], *spellings) if role in named else spellings
        ids = (backend.token_to_id(token) for token in candidates)
        facts[f"{role}_id"] = next((number for number in ids if number is not None), None)
    added = [number for number, token in backend.get_added_tokens_decoder().items() if token.special]
    roles = [number for number in facts.values() if number is not None]
    facts["special_ids"] = sorted({*added, *roles})
    facts["vocab_size"] = backend.get_vocab_size(with_added_tokens=True)
    if facts["pad_id"] is None:
        facts["pad_id"] = 0
    return facts
