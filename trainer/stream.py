"""A source as one endless stream of tokens: its documents in a new order each epoch, end to end."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.token_shards import TokenShard
from objectives.example import Int32Array, Int64Array
from objectives.random import stream_key
from trainer.permutation import permute


class _Epoch(NamedTuple):
    order: Int64Array
    """Documents in the order of this epoch."""
    ends: Int64Array
    """Where each ends, in tokens from the epoch's start."""


class DocumentStream:
    """All documents of some token shards, permuted each epoch; readable from any position, in any order."""

    def __init__(self, shards: list[Path], seed: int, *path: int) -> None:
        """`seed` and `path` (integers that name the stage and the source) choose the permutations."""
        self._shards = [TokenShard(prefix) for prefix in shards]
        self._seed, self._path = seed, path
        self._first = np.cumsum([0] + [len(shard) for shard in self._shards])
        self._lengths: Int32Array = np.concatenate(
            [np.zeros(0, np.int32)] + [np.diff(shard.offsets).astype(np.int32) for shard in self._shards]
        )
        self.documents = len(self._lengths)
        """Documents in an epoch."""
        self.tokens = int(self._lengths.sum(dtype=np.int64))
        """Tokens in an epoch."""
        if self.tokens == 0:
            names = ", ".join(str(prefix) for prefix in shards) or "no shard"
            raise ValueError(f"{names}: no token to train on; give the source more text or no weight")
        self._epochs: dict[int, _Epoch] = {}

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """The smallest type that all shards' ids fit."""
        return np.result_type(*[shard.dtype for shard in self._shards])

    def read(self, position: int, out: NDArray[np.integer]) -> list[int]:
        """Fill `out` with the tokens from `position` (0 is the start of epoch 0) on.

        Returns where documents end in `out`, exclusive.
        """
        ends = []
        filled, length = 0, len(out)
        while filled < length:
            epoch, inside = divmod(position + filled, self.tokens)
            order, document_ends = self._epoch(epoch)
            number = int(np.searchsorted(document_ends, inside, side="right"))
            while filled < length and number < self.documents:
                remaining = int(document_ends[number]) - inside
                taken = min(remaining, length - filled)
                document = int(order[number])
                shard = int(np.searchsorted(self._first, document, side="right")) - 1
                offsets = self._shards[shard].offsets
                end = int(offsets[document - self._first[shard] + 1]) - remaining + taken
                out[filled : filled + taken] = self._shards[shard].tokens[end - taken : end]
                filled += taken
                inside += taken
                if taken == remaining:
                    ends.append(filled)
                    number += 1
        return ends

    def _epoch(self, epoch: int) -> _Epoch:
        found = self._epochs.get(epoch)
        if found is None:
            order = permute(self.documents, stream_key(self._seed, *self._path, epoch))
            found = _Epoch(order, np.cumsum(self._lengths[order], dtype=np.int64))
            # A row may cross from one epoch into the next; older ones are not read again.
            self._epochs = {number: kept for number, kept in self._epochs.items() if abs(number - epoch) <= 1}
            self._epochs[epoch] = found
        return found
