"""`encode` and `decode` as filters: lines of text to lines of ids and back, tokens in colours on a terminal."""

import json
from collections.abc import Iterable, Iterator

from tokenizer.load import Tokenizer

_BACKGROUNDS = (194, 223, 189, 225, 230)
"""Pale colours of the 256-colour palette; neighbours differ."""


def encode_lines(
    lines: Iterable[str], tokenizer: Tokenizer, *, prompt: bool = False, form: str = "ids", colour: bool = False
) -> Iterator[str]:
    """A line of output for each line of text, without its line end.

    `form` is `ids` (numbers between spaces), `pieces` (the tokens, in colours or between `|`) or `json` (an object with
    both). `prompt` parses special tokens.
    """
    for line in lines:
        text = line.removesuffix("\n").removesuffix("\r")
        ids = tokenizer.encode_prompt(text) if prompt else tokenizer.encode(text)
        if form == "pieces":
            yield coloured(ids, tokenizer) if colour else "|".join(piece(i, tokenizer) for i in ids)
        elif form == "json":
            yield json.dumps({"ids": ids, "tokens": [piece(i, tokenizer) for i in ids]}, ensure_ascii=False)
        else:
            yield " ".join(map(str, ids))


def decode_lines(lines: Iterable[str], tokenizer: Tokenizer, skip_special: bool = False) -> Iterator[str]:
    """The text of each line of ids (between spaces or commas, or the objects of `encode --json`).

    Raises ValueError naming the line that holds no ids.
    """
    for number, line in enumerate(lines, 1):
        try:
            words = json.loads(line)["ids"] if line.lstrip().startswith("{") else line.replace(",", " ").split()
            ids = [int(word) for word in words]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number}: not ids between spaces: {line.strip()[:40]!r}") from error
        outside = [i for i in ids if not 0 <= i < tokenizer.vocab_size]
        if outside:
            raise ValueError(f"line {number}: id {outside[0]} is not in the vocabulary of {tokenizer.vocab_size}")
        yield tokenizer.decode(ids, skip_special=skip_special)


def piece(token_id: int, tokenizer: Tokenizer) -> str:
    """A token for the eye: its text, `\\xE4` for the bytes of part of a character, a special token as it is written."""
    value = tokenizer.token_bytes(token_id)
    if not value:
        return tokenizer.token_text(token_id) or f"<{token_id}>"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02X}" for byte in value)
    return text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")


def coloured(ids: list[int], tokenizer: Tokenizer) -> str:
    """The tokens end to end, each on its own background; special tokens in reverse."""
    parts = []
    for place, token_id in enumerate(ids):
        style = "7" if token_id in tokenizer.special_ids else f"30;48;5;{_BACKGROUNDS[place % len(_BACKGROUNDS)]}"
        parts.append(f"\x1b[{style}m{piece(token_id, tokenizer)}\x1b[0m")
    return "".join(parts)
