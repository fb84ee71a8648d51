"""From token shards to batches: sample i of a stage is a pure function of (seed, stage, i).

The blend says which source sample i comes from and how many of that source come before it; within a source the task
shares say the same of its tasks; the counts of tasks times their strides say where in the source's endless stream the
row begins. So nothing has to be replayed: the loader's state is the number of the next sample, for any number of
processes, and two runs with one seed see one order.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch

from data.token_shards import find_shards
from objectives.blank_infilling import BLANK_TASKS, BlankInfilling, source_stride
from objectives.causal import build_causal
from objectives.config import ObjectiveConfig
from objectives.example import Batch, Int64Array, empty_batch
from objectives.random import draw_bits, stream_key
from objectives.sentences import SentenceEnds
from objectives.source import SourceRows
from tokenizer.special_tokens import SpecialTokens
from trainer.blending import Blend
from trainer.data_config import DataConfig
from trainer.stream import DocumentStream

# What a key is for; part of every run's order.
_SAMPLES: Final = 0
_DOCUMENTS: Final = 1


def pin(batch: Batch) -> Batch:
    """The same batch in page-locked memory, from where a copy to a device need not wait for the host."""
    return Batch(*[torch.from_numpy(array).pin_memory().numpy() for array in batch])


def share_of_rank(count: int, rank: int, world: int) -> tuple[int, int]:
    """The first sample and the number of samples that `rank` takes of `count`; the first ranks take what is over."""
    each, over = divmod(count, world)
    return rank * each + min(rank, over), each + (rank < over)


class _Rows(NamedTuple):
    """Some of a batch's samples: all of one source and one task."""

    place: Int64Array
    """Where they stand in the batch."""
    start: Int64Array
    """Where each row begins in its source's stream."""


class Loader:
    """Batches of one stage of a run."""

    def __init__(
        self,
        data_folder: Path | str,
        data: DataConfig,
        objective: ObjectiveConfig,
        special: SpecialTokens,
        seed: int,
        *,
        stage: int = 0,
        split: str = "train",
        sentence_ends: SentenceEnds | None = None,
    ) -> None:
        """Open the token shards of `data_folder`/`split` (the stage tokenize wrote them).

        Raises FileNotFoundError where there are none and ValueError where weights name a source that is not there.
        """
        self.data, self.objective, self.special = data, objective, special
        self._seed, self._stage = seed, stage
        shards = find_shards(Path(data_folder) / split)
        names = sorted(shards)
        for given in (data.weights, data.initial_weights):
            unknown = sorted(set(given or {}) - set(names))
            if unknown:
                raise ValueError(
                    f"data.weights: no source {', '.join(unknown)} in {Path(data_folder) / split}; there are {names}"
                )
        if data.weights is not None:
            asked = data.weights | (data.initial_weights or {})
            names = [name for name in names if name in asked]
        self.source_names: tuple[str, ...] = tuple(names)
        """Names of the sources, in the order of `Batch.source`."""
        self.streams = [
            DocumentStream(shards[name], seed, stage, _DOCUMENTS, number) for number, name in enumerate(names)
        ]
        weights = [
            data.weights.get(name, 0.0) if data.weights is not None else float(stream.tokens)
            for name, stream in zip(names, self.streams, strict=True)
        ]
        initial = None if data.initial_weights is None else [data.initial_weights.get(name, 0.0) for name in names]
        self.blend = Blend(weights, initial, data.ramp_samples)

        window = data.window
        self._blanks: BlankInfilling | None = None
        if objective.kind == "blank_infilling":
            self._blanks = BlankInfilling(objective.blank_infilling, window, special, sentence_ends)
            shares = self._blanks.task_shares
            self._strides = [
                source_stride(objective.blank_infilling, task, window) if share else 0
                for task, share in zip(BLANK_TASKS, shares, strict=True)
            ]
            self._tasks = [Blend(shares) for _ in names]
        else:
            self._strides = [window]
            self._tasks = [Blend([1.0]) for _ in names]
        total = sum(weights)
        self._mean_stride = sum(
            share * stride for share, stride in zip(self._task_shares(), self._strides, strict=True)
        )
        self.samples_in_epoch: int = max(
            round(stream.tokens / (self._mean_stride * weight / total))
            for stream, weight in zip(self.streams, weights, strict=True)
            if weight > 0
        )
        """Samples after which every source has been read once, by the final weights."""

    def _task_shares(self) -> list[float]:
        if self._blanks is None:
            return [1.0]
        shares = self._blanks.task_shares
        return [share / sum(shares) for share in shares]

    def batch(self, first_sample: int, count: int) -> Batch:
        """Samples `first_sample` to `first_sample + count - 1`, whatever was asked for before."""
        sources, before = self.blend.locate(first_sample, count)
        keys = draw_bits(stream_key(self._seed, self._stage, _SAMPLES), np.arange(first_sample, first_sample + count))
        two_dimensional = self._blanks is not None and self._blanks.two_dimensional
        batch = empty_batch(count, self.data.window, two_dimensional)
        groups: dict[int, list[tuple[int, _Rows]]] = {}
        for source in np.unique(sources):
            place = np.flatnonzero(sources == source)
            for task, rows in self._rows_of_tasks(int(source), int(before[source]), place):
                groups.setdefault(task, []).append((int(source), rows))
        for task, parts in groups.items():
            place = np.concatenate([rows.place for _, rows in parts])
            made = self._build(task, parts, keys[place])
            for array, part in zip(batch, made, strict=True):
                array[place] = part
        batch.source[:] = sources
        return batch

    def _rows_of_tasks(self, source: int, first: int, place: Int64Array) -> Iterator[tuple[int, _Rows]]:
        """Where the rows of each task begin, for samples `first` and on of `source`, which stand at `place`."""
        tasks, before = self._tasks[source].locate(first, len(place))
        one_hot = tasks[:, None] == np.arange(len(before))
        counts = before + np.cumsum(one_hot, axis=0) - one_hot
        start = counts @ np.array(self._strides)
        for task in np.unique(tasks):
            chosen = tasks == task
            yield int(task), _Rows(place[chosen], start[chosen])

    def _build(self, task: int, parts: list[tuple[int, _Rows]], keys: np.ndarray) -> Batch:
        length = self._strides[task] + (self._blanks is None)
        source = self._read(parts, length)
        if self._blanks is None:
            return build_causal(source, self.special.pad)
        return self._blanks.build(BLANK_TASKS[task], source, keys)

    def _read(self, parts: list[tuple[int, _Rows]], length: int) -> SourceRows:
        count = sum(len(rows.place) for _, rows in parts)
        tokens = np.empty((count, length), np.result_type(*[self.streams[source].dtype for source, _ in parts]))
        is_code = np.zeros(count, np.bool_)
        ends: list[int] = []
        row = 0
        for source, rows in parts:
            stream = self.streams[source]
            code = self.source_names[source].endswith("-code")
            for start in rows.start.tolist():
                ends.extend(row * length + end for end in stream.read(start, tokens[row]))
                is_code[row] = code
                row += 1
        return SourceRows(tokens, np.array(ends, np.int64), is_code)

    def iterate(
        self,
        start: int,
        batch_size_of: Callable[[int], int],
        *,
        step: int = 0,
        rank: int = 0,
        world: int = 1,
        prefetch: int | None = None,
        pinned: bool | None = None,
    ) -> Iterator[Batch]:
        """This rank's part of the batches of `step` and on, of which the first begins with sample `start`.

        `batch_size_of(step)` is the size of a step's whole batch, shared out by `share_of_rank`. A thread makes
        `prefetch` batches ahead; they lie in pinned memory where there is an accelerator.
        """
        to_pin = torch.accelerator.is_available() if pinned is None else pinned
        ahead = self.data.prefetch if prefetch is None else prefetch

        def make(first: int, size: int) -> Batch:
            offset, count = share_of_rank(size, rank, world)
            batch = self.batch(first + offset, count)
            return pin(batch) if to_pin else batch

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as pool:
            pending: list[Future[Batch]] = []
            try:
                while True:
                    while len(pending) < max(ahead, 1):
                        size = batch_size_of(step)
                        pending.append(pool.submit(make, start, size))
                        start += size
                        step += 1
                    yield pending.pop(0).result()
            finally:
                for future in pending:
                    future.cancel()
