"""Write a tokenizer folder: what `tokenizers`, `transformers.AutoTokenizer` and `tokenizer.load` read.

tokenizer.json            the tokenizer itself, special tokens at the end of the vocabulary
tokenizer_config.json     what transformers wants to know, and the padded size of the vocabulary
special_tokens_map.json   roles that transformers knows by name
tokenizer.model           SentencePiece's own file, for its two algorithms
config.yaml               the complete configuration
training.json             what it was trained on, written last: where it is, the folder is whole
"""

import dataclasses
import json
import os
from pathlib import Path

import tokenizers
import yaml
from tokenizers import AddedToken

from tokenizer.config import TokenizerConfig
from tokenizer.load import SETTINGS_FILE, TOKENIZER_FILE
from tokenizer.special_tokens import TEXT_OF_ROLE, layout_tokens

SENTENCEPIECE_FILE = "tokenizer.model"
RECORD_FILE = "training.json"


def add_special_tokens(backend: tokenizers.Tokenizer, config: TokenizerConfig) -> None:
    """Append the layout's special tokens to a trained vocabulary; their ids follow it without a gap."""
    first = backend.get_vocab_size(with_added_tokens=True)
    texts = layout_tokens(config.special_tokens)
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in texts])
    ids = [backend.token_to_id(text) for text in texts]
    if ids != list(range(first, first + len(texts))):
        raise ValueError(f"special tokens got the ids {ids}: the trained vocabulary already holds one of them")


def settings(config: TokenizerConfig, padded_vocab_size: int) -> dict[str, object]:
    """The contents of tokenizer_config.json.

    `split_special_tokens` stays false since transformers' users expect prompts to be parsed; whoever encodes a corpus
    with it passes `split_special_tokens=True`.
    """
    roles = _roles()
    named = set(roles.values())
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "model_max_length": 1_000_000_000,
        "split_special_tokens": False,
        **roles,
        "additional_special_tokens": [text for text in layout_tokens(config.special_tokens) if text not in named],
        "padded_vocab_size": padded_vocab_size,
    }


def write_folder(
    folder: Path,
    backend: tokenizers.Tokenizer,
    config: TokenizerConfig,
    record: dict[str, object],
    sentencepiece_model: bytes | None = None,
) -> None:
    """Write all files, each whole or not at all, `training.json` last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD_FILE).unlink(missing_ok=True)
    size = -(-backend.get_vocab_size(with_added_tokens=True) // config.pad_vocab_to_multiple_of)
    write_text(folder / TOKENIZER_FILE, backend.to_str(pretty=True))
    write_text(folder / SETTINGS_FILE, _json(settings(config, size * config.pad_vocab_to_multiple_of)))
    write_text(folder / "special_tokens_map.json", _json(_roles()))
    if sentencepiece_model is not None:
        write_bytes(folder / SENTENCEPIECE_FILE, sentencepiece_model)
    written = yaml.safe_dump(dataclasses.asdict(config), allow_unicode=True, sort_keys=False)
    write_text(folder / "config.yaml", written)
    write_text(folder / RECORD_FILE, _json(record))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _roles() -> dict[str, str]:
    return {"eos_token": TEXT_OF_ROLE["endoftext"], "pad_token": TEXT_OF_ROLE["pad"]}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
