"""Load a tokenizer folder and turn text into ids and back.

Text of a corpus and text of a prompt are two methods: `encode` takes special tokens for the characters that they are
written in, so that a page which says `[MASK]` gets no control token; `encode_prompt` parses them.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers

from tokenizer.special_tokens import SpecialTokens

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
SPACE = "▁"
"""SentencePiece's stand-in for a space."""


class Tokenizer:
    """A trained tokenizer; made by `load_tokenizer`."""

    def __init__(self, definition: str, vocab_size: int) -> None:
        """`definition` is the text of a tokenizer.json, `vocab_size` the padded size of the vocabulary.

        Raises ValueError where the definition cannot be read, lacks a special token or exceeds `vocab_size`.
        """
        try:
            self._plain = tokenizers.Tokenizer.from_str(definition)
            self._prompt = tokenizers.Tokenizer.from_str(definition)
        except Exception as error:  # the library raises bare Exception for any damage
            raise ValueError(f"not a tokenizer definition: {error}") from error
        self._plain.encode_special_tokens = True
        self.definition = definition
        """The text of tokenizer.json."""
        self.token_count = self._plain.get_vocab_size(with_added_tokens=True)
        """Ids that stand for something; those from here to `vocab_size` only pad matrices."""
        self.vocab_size = vocab_size
        """Rows that a model's embedding must have."""
        if vocab_size < self.token_count:
            raise ValueError(f"padded vocabulary of {vocab_size} is smaller than the {self.token_count} tokens")
        self.special = SpecialTokens.from_vocabulary(self._plain.get_vocab(with_added_tokens=True))
        """The id of each role."""
        added = self._plain.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        """All ids of special tokens, those without a role here among them."""
        self._bytes_of_id = token_bytes_of(self._plain, json.loads(definition))
        self.byte_lengths: npt.NDArray[np.int32] = np.zeros(vocab_size, dtype=np.int32)
        """(vocab_size,) UTF-8 bytes that each token stands for; 0 for special and padding ids."""
        self.byte_lengths[: self.token_count] = [len(value) for value in self._bytes_of_id]
        self.digest = hashlib.blake2b(f"{vocab_size}\n{definition}".encode(), digest_size=16).hexdigest()
        """32 hexadecimal digits of all that decides the ids; a token shard's record holds them."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text of the corpus; special tokens in it are plain characters. ValueError for a lone surrogate."""
        try:
            return self._plain.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise ValueError(_surrogate_message([text])) from error

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text, on all the threads that `RAYON_NUM_THREADS` allows."""
        try:
            return [encoding.ids for encoding in self._plain.encode_batch_fast(texts, add_special_tokens=False)]
        except TypeError as error:
            raise ValueError(_surrogate_message(texts)) from error

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt: `[MASK]`, `<sop>`, `<|user|>` and the like in it are the special tokens."""
        try:
            return self._prompt.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise ValueError(_surrogate_message([text])) from error

    def decode(self, ids: npt.ArrayLike, skip_special: bool = False) -> str:
        """The text of (n,) ids; the inverse of both encodings. Padding ids stand for nothing."""
        return self._plain.decode(np.asarray(ids, dtype=np.int64).tolist(), skip_special_tokens=skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that one id stands for; they may be part of a character. Empty for special and padding ids.

        Raises IndexError outside 0 to `vocab_size`.
        """
        if not 0 <= token_id < self.vocab_size:
            raise IndexError(f"token {token_id} of a vocabulary of {self.vocab_size}")
        return self._bytes_of_id[token_id] if token_id < self.token_count else b""

    def token_text(self, token_id: int) -> str | None:
        """The token as the vocabulary writes it; None for a padding id."""
        return self._plain.id_to_token(token_id)


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer in a folder that `python -m tokenizer train` wrote (a run's `tokenizer/` is a copy).

    Raises FileNotFoundError where the folder holds none, ValueError where it is damaged.
    """
    folder = Path(folder)
    for name in (TOKENIZER_FILE, SETTINGS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; train one with `python -m tokenizer train`")
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        vocab_size = int(settings["padded_vocab_size"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / SETTINGS_FILE}: needs an integer `padded_vocab_size` ({error!r})") from error
    try:
        return Tokenizer((folder / TOKENIZER_FILE).read_text(encoding="utf-8"), vocab_size)
    except ValueError as error:
        raise ValueError(f"{folder / TOKENIZER_FILE}: {error}") from error


def bytes_of_stand_ins() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte -> the byte: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(rest)}


def token_bytes_of(backend: tokenizers.Tokenizer, definition: dict) -> list[bytes]:
    """The UTF-8 bytes of every id of any tokenizer, given its parsed tokenizer.json; empty for special tokens."""
    byte_level = (definition.get("decoder") or {}).get("type") == "ByteLevel"
    stand_ins = bytes_of_stand_ins()
    added = backend.get_added_tokens_decoder()
    values: list[bytes] = []
    for token_id in range(backend.get_vocab_size(with_added_tokens=True)):
        token = backend.id_to_token(token_id)
        if token is None or (token_id in added and added[token_id].special):
            values.append(b"")
        elif token_id in added:
            values.append(token.encode())
        elif byte_level:
            values.append(bytes(stand_ins[character] for character in token if character in stand_ins))
        elif is_byte_piece(token):
            values.append(bytes([int(token[3:5], 16)]))
        else:
            values.append(token.replace(SPACE, " ").encode())
    return values


def is_byte_piece(token: str) -> bool:
    """Whether a SentencePiece vocabulary writes a byte so: `<0x0A>`."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _surrogate_message(texts: list[str]) -> str:
    for text in texts:
        for place, character in enumerate(text):
            if "\ud800" <= character <= "\udfff":
                return f"character {place} of {text[:20]!r}... is the lone surrogate U+{ord(character):04X}: not text"
    return "text must be str"
