"""The loader is a pure function of the sample's number, and reads every source token once an epoch."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.token_shards import TokenShardWriter
from objectives.config import BlankInfillingConfig, CausalConfig, ObjectiveConfig
from objectives.example import TASKS, Batch
from tokenizer.special_tokens import TEXT_OF_ROLE, SpecialTokens
from trainer.data_config import DataConfig
from trainer.loader import Loader, share_of_rank
from trainer.stream import DocumentStream

WORDS = 30_000
SPECIAL = SpecialTokens(**{role: WORDS + number for number, role in enumerate(TEXT_OF_ROLE)})
SOURCES = {"en-code": 60, "en-prose": 170, "zh-prose": 240}


class LetterTokenizer:
    """A tokenizer of code points, enough for pairs and sentences."""

    digest = "letters"
    vocab_size = WORDS + len(TEXT_OF_ROLE)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[ord(character) % WORDS for character in text] for text in texts]

    def token_bytes(self, token_id: int) -> bytes:
        return "。".encode() if token_id % 10 == 0 else b"a"


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources of two shards each; every token of a source but the closing ones is different."""
    folder = tmp_path_factory.mktemp("tokenize")
    random = np.random.default_rng(7)
    for name, documents in SOURCES.items():
        lengths = np.minimum(random.geometric(1 / 100, documents), 900)
        starts = np.cumsum(lengths) - lengths
        for shard in range(2):
            with TokenShardWriter(folder / "train" / name / f"{shard:05d}", LetterTokenizer.vocab_size) as writer:
                for document in range(shard, documents, 2):
                    writer.add(np.append(starts[document] + np.arange(lengths[document]), SPECIAL.endoftext))
    pairs = [{"text": "问" * (1 + 7 * n % 90), "target": "答" * (1 + n % 12)} for n in range(200)]
    (folder / "pairs.jsonl").write_text(
        "\n".join(
            [*(json.dumps(pair) for pair in pairs), "not JSON", '{"text": "alone"}', '{"text": "a", "target": 3}']
        )
    )
    return folder


def loader(folder: Path, kind: str, window: int = 256, **data: object) -> Loader:
    """A loader with every task and source of a kind of objective in it."""
    objective = ObjectiveConfig(
        kind=kind,
        blank_infilling=BlankInfillingConfig(sentence_share=0.2, positions="glm"),
        causal=CausalConfig(fim_rate=0.5, fim_fill=0.9),
    )
    if kind == "blank_infilling":
        data = {"mip_files": [str(folder / "pairs.jsonl")], "mip_share": 0.1} | data
    config = DataConfig(window=window, **data)
    return Loader(folder, config, objective, SPECIAL, seed=11, tokenizer=LetterTokenizer())


def same(one: Batch, other: Batch) -> bool:
    return all((a == b).all() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["blank_infilling", "causal"])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_samples_are_the_same_for_any_number_of_ranks(corpus_folder: Path, kind: str, world: int) -> None:
    whole = loader(corpus_folder, kind).batch(0, 5 * 24)
    sizes = [24, 24, 48, 24]
    ranks = [
        list(
            itertools.islice(
                loader(corpus_folder, kind).iterate(0, sizes.__getitem__, rank=rank, world=world, prefetch=2), 2
            )
        )
        for rank in range(world)
    ]
    for step in range(2):
        expected = Batch(*[array[24 * step : 24 * (step + 1)] for array in whole])
        together = Batch(*[np.concatenate(arrays) for arrays in zip(*[rank[step] for rank in ranks], strict=True)])
        assert same(together, expected)


@pytest.mark.parametrize("kind", ["blank_infilling", "causal"])
def test_samples_are_the_same_after_a_restart(corpus_folder: Path, kind: str) -> None:
    first = loader(corpus_folder, kind)
    sizes = [10, 20, 30, 40, *[50] * 10]
    run = list(itertools.islice(first.iterate(0, sizes.__getitem__), 4))
    resumed = loader(corpus_folder, kind)
    for step in range(4):
        again = next(resumed.iterate(sum(sizes[:step]), sizes.__getitem__, step=step))
        assert same(again, run[step])
    # Far ahead and back again leaves no trace.
    resumed.batch(100_000, 3)
    assert same(resumed.batch(30, 30), run[2])


def test_a_seed_and_a_stage_have_orders_of_their_own(corpus_folder: Path) -> None:
    orders = [
        Loader(corpus_folder, DataConfig(window=256), ObjectiveConfig(), SPECIAL, seed, stage=stage).batch(0, 8).tokens
        for seed, stage in [(1, 0), (1, 1), (2, 0)]
    ]
    assert not (orders[0] == orders[1]).all()
    assert not (orders[0] == orders[2]).all()


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 24])
def test_ranks_share_out_a_step(count: int, world: int) -> None:
    parts = [share_of_rank(count, rank, world) for rank in range(world)]
    assert [first for first, _ in parts] == np.cumsum([0] + [size for _, size in parts])[:-1].tolist()
    assert sum(size for _, size in parts) == count


def source_tokens(batch: Batch, row: int) -> list[int]:
    """The source tokens of a row that has no noise, in any order; `<|endoftext|>` too."""
    predicted = batch.loss_weights[row] == 1
    if TASKS[batch.task[row]] == "causal":
        return batch.tokens[row].tolist()
    shown = batch.tokens[row][~predicted]
    targets = batch.targets[row][predicted]
    roles = [SPECIAL.mask, SPECIAL.gmask, SPECIAL.smask, SPECIAL.pad, SPECIAL.eop]
    return [token for token in np.concatenate([shown, targets]).tolist() if token not in roles]


@pytest.mark.parametrize("kind", ["blank_infilling", "causal"])
def test_each_source_token_is_read_once_an_epoch(corpus_folder: Path, kind: str) -> None:
    made = Loader(
        corpus_folder, DataConfig(window=256, mip_files=[]),
        ObjectiveConfig(kind=kind, blank_infilling=BlankInfillingConfig(sentence_share=0.2)),
        SPECIAL, seed=3, tokenizer=LetterTokenizer(),
    )  # fmt: skip
    epochs = 3
    counts = [np.zeros(LetterTokenizer.vocab_size, np.int64) for _ in made.streams]
    read = [0 for _ in made.streams]
    for first in range(0, 2 * epochs * made.samples_in_epoch, 64):
        batch = made.batch(first, 64)
        for row, source in enumerate(batch.source):
            stream = made.streams[source]
            tokens = source_tokens(batch, row)
            if read[source] + len(tokens) <= epochs * stream.tokens:
                np.add.at(counts[source], tokens, 1)
                read[source] += len(tokens)
    for stream, count, total in zip(made.streams, counts, read, strict=True):
        words = count[:WORDS]
        real = stream.tokens - stream.documents
        assert (words[real:] == 0).all()
        # Three epochs but for the last row or two, which were not counted.
        assert words[:real].max() == epochs
        assert words[:real].sum() >= epochs * real - 3 * 256
        assert total >= epochs * stream.tokens - 3 * 256


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 200_000), length=st.integers(1, 70_000))
def test_a_stream_reads_alike_from_any_position(corpus_folder: Path, position: int, length: int) -> None:
    stream = DocumentStream([corpus_folder / "train" / "zh-prose" / f"0000{n}" for n in range(2)], 5, 0, 1)
    whole = np.zeros(length, np.int32)
    ends = stream.read(position, whole)
    assert ends == (np.flatnonzero(whole == SPECIAL.endoftext) + 1).tolist()
    cut = length // 3
    parts = [np.zeros(cut, np.int32), np.zeros(length - cut, np.int32)]
    later = DocumentStream([corpus_folder / "train" / "zh-prose" / f"0000{n}" for n in range(2)], 5, 0, 1)
    later.read(position + cut, parts[1])
    later.read(position, parts[0])
    assert (np.concatenate(parts) == whole).all()


def test_epochs_are_permutations_and_differ(corpus_folder: Path) -> None:
    stream = DocumentStream([corpus_folder / "train" / "zh-prose" / f"0000{n}" for n in range(2)], 5, 0, 1)
    epochs = np.zeros((3, stream.tokens), np.int32)
    for number, epoch in enumerate(epochs):
        stream.read(number * stream.tokens, epoch)
    assert (np.sort(epochs, axis=1) == np.sort(epochs[0])).all()
    assert len({epoch.tobytes() for epoch in epochs}) == 3
    first_tokens = [epoch[:40].tolist() for epoch in epochs]
    assert first_tokens[0] != first_tokens[1]


def test_shares_of_sources_and_tasks_hold_on_every_prefix(corpus_folder: Path) -> None:
    made = loader(corpus_folder, "blank_infilling", weights={"zh-prose": 0.5, "en-prose": 0.3, "en-code": 0.2})
    batch = made.batch(0, 1500)
    assert made.source_names == ("en-code", "en-prose", "zh-prose", "mip")
    number = np.arange(1, 1501)
    for source, share in enumerate([0.18, 0.27, 0.45, 0.1]):
        assert np.abs(np.cumsum(batch.source == source) - number * share).max() < 1
    for source in range(3):
        tasks = batch.task[batch.source == source]
        of_source = np.arange(1, len(tasks) + 1)
        for task, share in (("mask", 0.3), ("sentence", 0.2), ("document", 0.7)):
            assert np.abs(np.cumsum(tasks == TASKS.index(task)) - of_source * share / 1.2).max() < 1
    assert (batch.task[batch.source == 3] == TASKS.index("mip")).all()


def test_weights_ramp(corpus_folder: Path) -> None:
    made = loader(
        corpus_folder, "causal", weights={"zh-prose": 0.5, "en-prose": 0.5}, initial_weights={"zh-prose": 1.0},
        ramp_samples=400,
    )  # fmt: skip
    assert made.source_names == ("en-prose", "zh-prose")
    english = np.cumsum(made.batch(0, 800).source == 0)
    for samples in range(1, 800):
        ramped = min(samples, 400)
        assert abs(english[samples - 1] - (ramped * ramped / 1600 + (samples - ramped) / 2)) < 1


def test_weights_default_to_what_the_mix_left(corpus_folder: Path) -> None:
    made = Loader(corpus_folder, DataConfig(window=256), ObjectiveConfig(), SPECIAL, 1)
    tokens = np.array([stream.tokens for stream in made.streams])
    counts = np.bincount(made.batch(0, 1000).source)
    assert np.abs(counts - 1000 * tokens / tokens.sum()).max() < 1.01
    epochs = made.epochs(made.samples_in_epoch)
    assert min(epochs.values()) > 0.98
    assert max(epochs.values()) < 1.05


def test_lines_that_are_no_pairs_are_counted(corpus_folder: Path) -> None:
    loader(corpus_folder, "blank_infilling")
    [record] = (corpus_folder / "mip").glob("*/skipped.json")
    lines = [f"{corpus_folder / 'pairs.jsonl'}:{line}" for line in (201, 202, 203)]
    assert json.loads(record.read_text()) == {"pairs": 200, "skipped": 3, "first_skipped": lines}


def test_mistakes_are_answered_in_words(corpus_folder: Path, tmp_path: Path) -> None:
    blank, causal = ObjectiveConfig(), ObjectiveConfig(kind="causal")
    pairs = DataConfig(window=256, mip_files=[str(corpus_folder / "pairs.jsonl")])
    with pytest.raises(FileNotFoundError, match="tokenize"):
        Loader(tmp_path, DataConfig(), blank, SPECIAL, 1)
    with pytest.raises(ValueError, match=r"no source fr-prose .* en-code, en-prose, zh-prose"):
        Loader(corpus_folder, DataConfig(weights={"fr-prose": 1.0}), blank, SPECIAL, 1)
    with pytest.raises(ValueError, match="need the tokenizer"):
        Loader(corpus_folder, pairs, blank, SPECIAL, 1)
    with pytest.raises(ValueError, match="kind blank_infilling"):
        Loader(corpus_folder, pairs, causal, SPECIAL, 1, tokenizer=LetterTokenizer())
    with pytest.raises(FileNotFoundError, match="mip_files"):
        Loader(corpus_folder, DataConfig(mip_files=["nowhere.jsonl"]), blank, SPECIAL, 1, tokenizer=LetterTokenizer())
    empty = tmp_path / "empty.jsonl"
    empty.write_text("nothing\n")
    with pytest.raises(ValueError, match="no line is an object"):
        Loader(corpus_folder, DataConfig(mip_files=[str(empty)]), blank, SPECIAL, 1, tokenizer=LetterTokenizer())
    with pytest.raises(ValueError, match="MTP"):
        blank.check_model(mtp_layers=1)
    causal.check_model(mtp_layers=1)
