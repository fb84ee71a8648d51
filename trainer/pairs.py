"""Pairs on disk: JSONL files become two token shards beside the corpus, once, and are then memory maps.

They lie in `tokenize/mip/<digest>/` (instruction pairs) or `tokenize/pairs/<digest>/` (fine-tuning), the digest of the
files and of the tokenizer, so that a changed file or another tokenizer makes new ones. Of instruction pairs, which are
collected by the million, lines that are no pairs are counted and named in `skipped.json` there; in a file for
fine-tuning such a line is an error.
"""

import hashlib
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from data.token_shards import TokenShard, TokenShardWriter
from objectives import fine_tuning, mip
from objectives.config import ObjectiveConfig
from objectives.example import Batch, Int64Array
from objectives.pairs import PairIndex
from objectives.random import stream_key
from tokenizer.special_tokens import SpecialTokens
from trainer.data_config import DataConfig
from trainer.permutation import permute

_LINES_AT_ONCE = 1000


class PairTokenizer(Protocol):
    """What encoding pairs needs of a tokenizer."""

    digest: str
    vocab_size: int

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text."""


@dataclass(frozen=True)
class PairForm:
    """What a kind of pair is called and how it lies in a row."""

    task: Literal["mip", "pair"]
    """Of objectives.example.TASKS."""
    files: str
    """The key that names its files."""
    folder: str
    """The folder of its token shards."""
    text: str
    """The name of the text in a line, beside `target`."""
    strict: bool
    """Whether a line that is no pair is an error."""


MIP = PairForm("mip", "data.mip_files", "mip", "text", strict=False)
FINE_TUNING = PairForm("pair", "data.pair_files", "pairs", "prompt", strict=True)


class Pairs(NamedTuple):
    """Texts and targets, pair i at index i of both."""

    texts: TokenShard
    targets: TokenShard


def load_pairs(files: Sequence[str], tokenizer: PairTokenizer, folder: Path, form: PairForm) -> Pairs:
    """The pairs of JSONL `files`, encoded into `folder` unless they are there already.

    Raises FileNotFoundError for a file that is not there and ValueError where no line is a pair, or a line is none and
    should be.
    """
    digest = hashlib.sha256(tokenizer.digest.encode())
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of pairs ({form.files})")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    place = folder / form.folder / digest.hexdigest()[:16]
    if not (place / "skipped.json").is_file():
        _encode(files, tokenizer, place, form)
    return Pairs(TokenShard(place / "text"), TokenShard(place / "target"))


def _encode(files: Sequence[str], tokenizer: PairTokenizer, place: Path, form: PairForm) -> None:
    skipped: list[str] = []
    count = 0
    place.mkdir(parents=True, exist_ok=True)
    # Several processes may get here at once: each writes files of its own and then puts the same bytes in place.
    private = f".{socket.gethostname()}.{os.getpid()}"
    with (
        TokenShardWriter(place / f"text{private}", tokenizer.vocab_size) as texts,
        TokenShardWriter(place / f"target{private}", tokenizer.vocab_size) as targets,
    ):
        for name in files:
            pending: list[tuple[str, str]] = []
            with Path(name).open("rb") as file:
                for number, line in enumerate(file, 1):
                    pair = _parse(line, form.text)
                    if pair is None:
                        if form.strict and line.strip():
                            raise ValueError(
                                f"{name}:{number}: expected a JSON object with the strings `{form.text}` and `target`, "
                                f"neither of them empty ({form.files})"
                            )
                        skipped.append(f"{name}:{number}")
                        continue
                    pending.append(pair)
                    if len(pending) == _LINES_AT_ONCE:
                        count += _write(pending, tokenizer, texts, targets)
                        pending = []
            count += _write(pending, tokenizer, texts, targets)
    for part in ("text", "target"):
        for suffix in (".bin", ".idx"):
            os.replace(place / f"{part}{private}{suffix}", place / f"{part}{suffix}")
    record = {"pairs": count, "skipped": len(skipped), "first_skipped": skipped[:20]}
    if count == 0:
        raise ValueError(
            f"{', '.join(files)}: no line is an object with the strings `{form.text}` and `target` ({form.files})"
        )
    temporary = place / f"skipped.json{private}"
    temporary.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(temporary, place / "skipped.json")


def _parse(line: bytes, name: str) -> tuple[str, str] | None:
    try:
        record = json.loads(line)
        text, target = record[name], record["target"]
        text.encode(), target.encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return (text, target) if target.strip() and text.strip() else None


def _write(
    pairs: list[tuple[str, str]], tokenizer: PairTokenizer, texts: TokenShardWriter, targets: TokenShardWriter
) -> int:
    for writer, column in ((texts, 0), (targets, 1)):
        for ids in tokenizer.encode_batch([pair[column] for pair in pairs]):
            writer.add(np.array(ids))
    return len(pairs)


class PairRows:
    """The rows of pairs as an endless stream: the same rows in another order each epoch."""

    def __init__(self, pairs: Pairs, form: PairForm, window: int, windows: int, seed: int, *path: int) -> None:
        """`seed` and `path` choose the orders; an instruction pair has at most a `windows`-th of a row."""
        self.pairs, self.form, self.window = pairs, form, window
        self._seed, self._path = seed, path
        lengths = np.diff(pairs.texts.offsets), np.diff(pairs.targets.offsets)
        order = permute(len(pairs.texts), stream_key(seed, *path, 0))
        self.index: PairIndex = (
            mip.index_pairs(*lengths, order, window, windows, form.files)
            if form.task == "mip"
            else fine_tuning.index_pairs(*lengths, order, window, form.files)
        )
        self._orders: dict[int, Int64Array] = {}

    def describe(self) -> str:
        """One line: how many pairs there are, in how many rows, and what became of overlong ones."""
        index = self.index
        return (
            f"{self.form.files}: {len(index.pairs):,} pairs in {index.rows:,} rows; {index.shortened:,} with a "
            f"{self.form.text} cut to fit, {index.left_out:,} set aside (target too long or empty)"
        )

    def build(self, rows: Int64Array, objective: ObjectiveConfig, special: SpecialTokens) -> Batch:
        """The rows of the index with the numbers `rows`."""
        if self.form.task == "mip":
            return mip.build_mip(rows, self.index, *self.pairs, objective.blank_infilling, self.window, special)
        return fine_tuning.build_pairs(rows, self.index, *self.pairs, self.window, special)

    def rows(self, numbers: Int64Array) -> Int64Array:
        """Rows of the index for the stream's rows with `numbers`."""
        epochs, inside = np.divmod(numbers, self.index.rows)
        return np.array([self._order(int(epoch))[row] for epoch, row in zip(epochs, inside, strict=True)], np.int64)

    def _order(self, epoch: int) -> Int64Array:
        if epoch not in self._orders:
            kept = {number: order for number, order in self._orders.items() if abs(number - epoch) <= 1}
            order = permute(self.index.rows, stream_key(self._seed, *self._path, epoch + 1))
            self._orders = kept | {epoch: order}
        return self._orders[epoch]


def open_heldout_pairs(
    data: DataConfig, objective: ObjectiveConfig, tokenizer: PairTokenizer, folder: Path
) -> PairRows:
    """The rows of `data.heldout_pair_files`, whose lines must all be pairs of the objective's form."""
    form = FINE_TUNING if objective.kind == "causal" else MIP
    form = replace(form, files="data.heldout_pair_files", strict=True)
    pairs = load_pairs(data.heldout_pair_files, tokenizer, folder, form)
    return PairRows(pairs, form, data.window, data.mip_windows, 0)
