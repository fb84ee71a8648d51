"""The filters `encode` and `decode`: one line for each line, tokens in colours on a terminal alone."""

import itertools
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tokenizer.filters import coloured, decode_lines, encode_lines, piece
from tokenizer.load import Tokenizer

_COLOUR = re.compile(r"\x1b\[([0-9;]*)m")


def test_colours_hold_the_tokens_and_nothing_else(any_tokenizer: Tokenizer) -> None:
    text = "今天[MASK]很好, the window 𠀀\t x"
    ids = any_tokenizer.encode_prompt(text)
    shown = coloured(ids, any_tokenizer)
    assert _COLOUR.sub("", shown) == "".join(piece(i, any_tokenizer) for i in ids)
    styles = [style for style in _COLOUR.findall(shown) if style != "0"]
    assert len(styles) == len(ids)
    assert all(first != second for first, second in itertools.pairwise(styles))
    assert [i for i, style in enumerate(styles) if style == "7"] == [ids.index(any_tokenizer.special.mask)]


def test_a_token_is_shown_as_what_it_is(bbpe: Tokenizer) -> None:
    parts = [piece(i, bbpe) for i in bbpe.encode("𠀀")]
    assert "".join(parts) == "\\xF0\\xA0\\x80\\x80"
    assert [piece(i, bbpe) for i in bbpe.encode("\n")] == ["\\n"]
    assert piece(bbpe.special.sop, bbpe) == "<sop>"
    assert piece(bbpe.vocab_size - 1, bbpe) == f"<{bbpe.vocab_size - 1}>"


def test_lines_stay_lines(any_tokenizer: Tokenizer) -> None:
    lines = ["今天很好\n", "\n", "a\tb  c\r\n", "the window"]
    ids = list(encode_lines(lines, any_tokenizer))
    assert len(ids) == 4
    assert list(decode_lines(ids, any_tokenizer)) == ["今天很好", "", "a\tb  c", "the window"]
    prompt = next(encode_lines(["[MASK]<sop>x"], any_tokenizer, prompt=True))
    assert next(decode_lines([prompt], any_tokenizer)) == "[MASK]<sop>x"
    assert next(decode_lines([prompt], any_tokenizer, skip_special=True)) == "x"


@pytest.mark.parametrize("line", ["1 2 x", '{"tokens": []}', "1.5", '{"ids": 3}', "-1", "999999999"])
def test_what_is_no_line_of_ids_is_named(bbpe: Tokenizer, line: str) -> None:
    with pytest.raises(ValueError, match="line 2: "):
        list(decode_lines(["1 2", line], bbpe))


def test_a_terminal_gets_colours_and_a_file_none(bbpe_folder: Path) -> None:
    command = [sys.executable, "-m", "tokenizer", "encode", "--pieces", "--tokenizer", str(bbpe_folder)]
    text = "今天 the window\n".encode()
    plain = subprocess.run(command, input=text, capture_output=True, check=True).stdout.decode()
    assert "\x1b" not in plain
    ours, theirs = pty.openpty()
    try:
        subprocess.run(command, input=text, stdout=theirs, check=True)
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert _COLOUR.sub("", shown).strip() == plain.strip().replace("|", "")
    assert "\x1b[30;48;5;" in shown
