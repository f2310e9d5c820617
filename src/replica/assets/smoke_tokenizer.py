"""The word-level tokenizers of the generated data sets, with BERT's special tokens; also T5's pad and end of sequence."""

from __future__ import annotations

import json
from pathlib import Path

from replica.assets import grammar, scenes

#: By id. [SEP] is also the end of a sequence and [CLS] its beginning, for sequence-to-sequence models.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
#: Ids that a model of this tokenizer has; words follow the special tokens, the rest is unused.
VOCABULARY_SIZE = 256
MAX_LENGTH = 128


def build_scenes(folder: Path) -> None:
    """Write the tokenizer of the scenes of shapes, as `build` does."""
    build(folder, scenes.vocabulary())


def build(folder: Path, vocabulary: list[str] | None = None) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json for AutoTokenizer into `folder`.

    Lower-cases, splits words from marks, gives `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]` with token types 0 and 1.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = grammar.vocabulary() if vocabulary is None else vocabulary
    words = [*SPECIAL, *(word for word in vocabulary if word not in SPECIAL)]
    if len(words) > VOCABULARY_SIZE:
        raise ValueError(f"the grammar has {len(words)} words; raise VOCABULARY_SIZE and the smoke models' vocab_size")
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=True)
    named = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
    }
    config = {
        **named,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_LENGTH,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    for name, value in (("tokenizer_config.json", config), ("special_tokens_map.json", named)):
        (folder / name).write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
