"""From token shards to batches: sample i of a stage is a pure function of (seed, stage, i).

The blend says which source sample i comes from and how many of that source come before it; within a source the task
shares say the same of its tasks; the counts of tasks times their strides say where in the source's endless stream the
row begins. So nothing has to be replayed: the loader's state is the number of the next sample, for any number of
processes, and two runs with one seed see one order.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import torch

from data.token_shards import find_shards
from objectives.blank_infilling import BLANK_TASKS, BlankInfilling, BlankTask, source_stride
from objectives.causal import build_causal
from objectives.config import ObjectiveConfig
from objectives.example import Batch, Int64Array, empty_batch
from objectives.fim import build_fim, fim_stride
from objectives.random import UInt64Array, draw_bits, stream_key
from objectives.sentences import SentenceEnds
from objectives.source import SourceRows
from tokenizer.special_tokens import SpecialTokens
from trainer.blending import Blend, as_shares
from trainer.data_config import DataConfig
from trainer.pairs import FINE_TUNING, MIP, PairForm, PairRows, PairTokenizer, load_pairs
from trainer.stream import DocumentStream

# What a key is for; part of every run's order.
_SAMPLES: Final = 0
_DOCUMENTS: Final = 1
_PAIRS: Final = 2
# How the names of code sources end.
_CODE: Final = "-code"


def pin(batch: Batch) -> Batch:
    """The same batch in page-locked memory, from where a copy to a device need not wait for the host."""
    return Batch(*[torch.from_numpy(array).pin_memory().numpy() for array in batch])


def share_of_rank(count: int, rank: int, world: int) -> tuple[int, int]:
    """The first sample and the number of samples that `rank` takes of `count`; the first ranks take what is over."""
    each, over = divmod(count, world)
    return rank * each + min(rank, over), each + (rank < over)


class LoaderTokenizer(PairTokenizer, Protocol):
    """What a loader needs of a tokenizer, and only for whole sentences and for pairs."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for."""


class _Task(NamedTuple):
    """One way in which a source's rows are used."""

    name: BlankTask | Literal["causal", "fim", "mip", "pair"]
    """Of objectives.example.TASKS."""
    stride: int
    """What a row reads of its source's stream: tokens, or 1 row of pairs."""


class _Rows(NamedTuple):
    """Some of a batch's samples: all of one source and one task."""

    source: int
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
        tokenizer: LoaderTokenizer | None = None,
    ) -> None:
        """Open the token shards of `data_folder`/`split` (the stage tokenize wrote them); pairs lie beside.

        `tokenizer` is needed for whole sentences and for pairs. Raises FileNotFoundError where there are no
        shards and ValueError where weights name a source that is not there.
        """
        self.data, self.objective, self.special = data, objective, special
        self._seed, self._stage = seed, stage
        shards = find_shards(Path(data_folder) / split) if data.reads_shards else {}
        names = self._check_names(sorted(shards), Path(data_folder) / split)
        self.streams = [
            DocumentStream(shards[name], seed, stage, _DOCUMENTS, number) for number, name in enumerate(names)
        ]
        """The text sources; pairs, if any, come after them."""
        self._blanks: BlankInfilling | None = None
        if objective.kind == "blank_infilling":
            ends = _sentence_ends(tokenizer) if objective.blank_infilling.sentence_share else None
            self._blanks = BlankInfilling(objective.blank_infilling, data.window, special, ends)
        self._tasks = [self._tasks_of(name) for name in names]
        self._pairs: PairRows | None = None
        if data.mip_files or data.pair_files:
            self._pairs = self._open_pairs(Path(data_folder), tokenizer)
            self._tasks.append([_Task("mip" if data.mip_files else "pair", 1)])
            names = [*names, self._pairs.form.folder]
        self.source_names: tuple[str, ...] = tuple(names)
        """Names of the sources, in the order of `Batch.source`."""
        shares = [1.0] if self._blanks is None else list(self._blanks.task_shares)
        self._task_blends = [Blend(shares if len(tasks) > 1 else [1.0]) for tasks in self._tasks]
        left_by_mix = {name: float(stream.tokens) for name, stream in zip(names, self.streams, strict=False)}
        weights = self._with_pairs(left_by_mix if data.weights is None else data.weights)
        initial = None if data.initial_weights is None else self._with_pairs(data.initial_weights)
        self.blend = Blend(weights, initial, data.ramp_samples)
        self.samples_in_epoch: int = self._samples_in_epoch()
        """Samples after which every text source has been read once, by the final weights; without any, every pair."""

    def _check_names(self, found: list[str], folder: Path) -> list[str]:
        """The sources that have a weight, in order."""
        asked = [given for given in (self.data.weights, self.data.initial_weights) if given is not None]
        for weights in asked:
            unknown = sorted(set(weights) - set(found))
            if unknown:
                raise ValueError(f"data.weights: no source {', '.join(unknown)} in {folder}; it has {', '.join(found)}")
        return [name for name in found if self.data.weights is None or any(name in weights for weights in asked)]

    def _tasks_of(self, name: str) -> list[_Task]:
        if self._blanks is not None:
            config = self._blanks.config
            return [
                _Task(task, source_stride(config, task, self.data.window) if share else 0)
                for task, share in zip(BLANK_TASKS, self._blanks.task_shares, strict=True)
            ]
        if self.objective.causal.fim_rate > 0 and name.endswith(_CODE):
            return [_Task("fim", fim_stride(self.objective.causal, self.data.window))]
        return [_Task("causal", self.data.window)]

    def _open_pairs(self, folder: Path, tokenizer: LoaderTokenizer | None) -> PairRows:
        form, files, windows = MIP, self.data.mip_files, self.data.mip_windows
        if self.data.pair_files:
            form, files, windows = FINE_TUNING, self.data.pair_files, 1
        self._check_pairs(form, tokenizer)
        assert tokenizer is not None
        pairs = load_pairs(files, tokenizer, folder, form)
        return PairRows(pairs, form, self.data.window, windows, self._seed, self._stage, _PAIRS)

    def _check_pairs(self, form: PairForm, tokenizer: LoaderTokenizer | None) -> None:
        if form is MIP and self._blanks is None:
            raise ValueError(
                "data.mip_files: instruction pairs are blanks; they need objective.kind blank_infilling (causal takes "
                "prompts and targets: data.pair_files)"
            )
        if form is FINE_TUNING and self._blanks is not None:
            raise ValueError(
                "data.pair_files: prompts and targets need objective.kind causal (blank_infilling takes instruction "
                "pairs: data.mip_files)"
            )
        if tokenizer is None:
            raise ValueError(f"{form.files}: pairs need the tokenizer")

    def _with_pairs(self, weights: Mapping[str, float]) -> list[Fraction]:
        """Exact shares in the order of the sources; pairs have theirs, the others share out the rest."""
        exact = [Fraction(repr(float(weights.get(name, 0.0)))) for name in self.source_names[: len(self.streams)]]
        if self._pairs is None:
            return exact
        share = Fraction(repr(self.data.mip_share if self.data.mip_files else self.data.pair_share))
        return [weight / sum(exact) * (1 - share) for weight in exact] + [share]

    def _samples_in_epoch(self) -> int:
        longest = Fraction(0)
        for source, stream in enumerate(self.streams):
            shares = as_shares([1.0] if self._blanks is None else self._blanks.task_shares)
            stride = sum(share * task.stride for share, task in zip(shares[0], self._tasks[source], strict=True))
            weight = self.blend.final_share(source)
            if weight > 0:
                longest = max(longest, Fraction(stream.tokens * shares[1], stride) / weight)
        if not self.streams:  # nothing but pairs
            longest = Fraction(self._rows_of_pairs().index.rows)
        return ceil(longest)

    def epochs(self, samples: int) -> dict[str, float]:
        """How often each source has been read after the first `samples` samples."""
        read = {}
        _, counts = self.blend.locate(samples, 0)
        for source, (name, tasks) in enumerate(zip(self.source_names, self._tasks, strict=True)):
            _, of_tasks = self._task_blends[source].locate(int(counts[source]), 0)
            units = int(of_tasks @ np.array([task.stride for task in tasks]))
            whole = self.streams[source].tokens if source < len(self.streams) else self._rows_of_pairs().index.rows
            read[name] = units / whole
        return read

    def describe(self, samples: int) -> list[str]:
        """Lines for a person at the start of a stage of `samples` samples."""
        if self._pairs is None:
            return []
        times = self.epochs(samples)[self.source_names[-1]]
        return [f"{self._pairs.describe()}; this stage reads them {times:.2f} times"]

    def _rows_of_pairs(self) -> PairRows:
        assert self._pairs is not None
        return self._pairs

    def batch(self, first_sample: int, count: int) -> Batch:
        """Samples `first_sample` to `first_sample + count - 1`, whatever was asked for before."""
        sources, before = self.blend.locate(first_sample, count)
        keys = draw_bits(stream_key(self._seed, self._stage, _SAMPLES), np.arange(first_sample, first_sample + count))
        two_dimensional = self._blanks is not None and self._blanks.two_dimensional
        batch = empty_batch(count, self.data.window, two_dimensional)
        groups: dict[_Task, list[_Rows]] = {}
        for source in np.unique(sources).tolist():
            place = np.flatnonzero(sources == source)
            for task, rows in self._rows_of_tasks(source, int(before[source]), place):
                groups.setdefault(task, []).append(rows)
        for task, parts in groups.items():
            place = np.concatenate([rows.place for rows in parts])
            made = self._build(task, parts, keys[place])
            for name in Batch._fields:
                getattr(batch, name)[place] = getattr(made, name)
        batch.source[:] = sources
        return batch

    def _rows_of_tasks(self, source: int, first: int, place: Int64Array) -> Iterator[tuple[_Task, _Rows]]:
        """Where the rows of each task begin, for samples `first` and on of `source`, which stand at `place`."""
        numbers, before = self._task_blends[source].locate(first, len(place))
        one_hot = numbers[:, None] == np.arange(len(before))
        counts = before + np.cumsum(one_hot, axis=0) - one_hot
        start = counts @ np.array([task.stride for task in self._tasks[source]])
        for number in np.unique(numbers).tolist():
            chosen = numbers == number
            yield self._tasks[source][number], _Rows(source, place[chosen], start[chosen])

    def _build(self, task: _Task, parts: list[_Rows], keys: UInt64Array) -> Batch:
        if task.name == "mip" or task.name == "pair":
            pairs = self._rows_of_pairs()
            numbers = pairs.rows(np.concatenate([rows.start for rows in parts]))
            return pairs.build(numbers, self.objective, self.special)
        if task.name == "fim":
            source = self._read(parts, task.stride + 1)
            return build_fim(source, keys, self.objective.causal, self.data.window, self.special)
        if task.name == "causal":
            return build_causal(self._read(parts, task.stride + 1), self.special.pad)
        assert self._blanks is not None
        return self._blanks.build(task.name, self._read(parts, task.stride), keys)

    def _read(self, parts: list[_Rows], length: int) -> SourceRows:
        count = sum(len(rows.place) for rows in parts)
        tokens = np.empty((count, length), np.result_type(*[self.streams[rows.source].dtype for rows in parts]))
        is_code = np.zeros(count, np.bool_)
        ends: list[int] = []
        row = 0
        for rows in parts:
            stream = self.streams[rows.source]
            is_code[row : row + len(rows.place)] = self.source_names[rows.source].endswith(_CODE)
            for start in rows.start.tolist():
                ends.extend(row * length + end for end in stream.read(start, tokens[row]))
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


def _sentence_ends(tokenizer: LoaderTokenizer | None) -> SentenceEnds:
    if tokenizer is None:
        raise ValueError("objective.blank_infilling.sentence_share: whole sentences need the tokenizer")
    return SentenceEnds([tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)])
