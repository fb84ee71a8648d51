"""The stage tokenize: every document once, in its folder, closed, the same whatever the processes and interruptions."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data.token_shards import TokenShard, find_shards
from data.tokenize import TokenizeConfig, encode_documents
from tokenizer.config import SampleConfig, TokenizerConfig
from tokenizer.load import Tokenizer, load_tokenizer
from tokenizer.train import train

TEXTS = {
    "zh": "清晨的阳光照进窗户，街上传来卖豆浆的声音。",
    "en": "The morning light came through the window.",
    "mixed": "他用 Python 写了一个 tokenizer。",
    "other": "朝の光が窓から差し込む。",
}


def _table(seed: int, count: int = 40) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        language = str(rng.choice(list(TEXTS)))
        kind = "code" if language == "en" and rng.random() < 0.3 else "prose"
        text = "" if i == 7 else TEXTS[language] * int(rng.integers(1, 30)) + f"[MASK] {i}<|endoftext|>"
        rows.append({"text": text, "language": language, "kind": kind})
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    pl.concat([_table(0), _table(1)]).write_parquet(folder / "corpus.parquet")
    config = TokenizerConfig(vocab_size=390, sample=SampleConfig(megabytes=1))
    train(config, [folder / "corpus.parquet"], folder / "tokenizer")
    return folder / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("mix")
    for i in range(3):
        _table(i).write_parquet(folder / f"{i:05d}.parquet")
    return sorted(folder.glob("*.parquet"))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix in (".bin", ".idx")
    }


def test_every_document_is_there_once_in_order(
    shards: list[Path], tokenizer_folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = TokenizeConfig(batch_documents=7)  # so that batches end within a shard
    counts = encode_documents(shards, tokenizer_folder, tmp_path, config)
    found = find_shards(tmp_path)
    assert set(found) == set(counts) == {"zh-prose", "en-prose", "en-code", "mixed-prose", "other-prose"}
    for folder, prefixes in found.items():
        language, kind = folder.split("-")
        for prefix in prefixes:
            table = pl.read_parquet(shards[int(prefix.name)])
            texts = table.filter(language=language, kind=kind).filter(pl.col("text") != "")["text"].to_list()
            shard = TokenShard(prefix)
            assert all(shard[i][-1] == tokenizer.special.endoftext for i in range(len(shard)))
            assert [tokenizer.decode(shard[i][:-1]) for i in range(len(shard))] == texts
            # what the text spells out is characters: the only control token is the one that ends the document
            assert np.isin(shard.tokens, sorted(tokenizer.special_ids)).sum() == len(texts)
        assert counts[folder].documents == sum(len(TokenShard(prefix)) for prefix in prefixes)
        assert counts[folder].tokens == sum(TokenShard(prefix).tokens.size for prefix in prefixes)
        assert counts[folder].text_bytes == sum(
            int(tokenizer.byte_lengths[TokenShard(prefix).tokens].sum()) for prefix in prefixes
        )


def test_processes_batches_encoders_and_interruptions_change_nothing(
    shards: list[Path], tokenizer_folder: Path, tmp_path: Path
) -> None:
    once = encode_documents(shards, tokenizer_folder, tmp_path / "once", TokenizeConfig(encoder="kernel"))
    config = TokenizeConfig(batch_documents=7)
    encode_documents(shards[:1], tokenizer_folder, tmp_path / "again", config)
    for path in (tmp_path / "again" / "zh-prose").glob("*"):  # as a crash between two files would leave it
        path.unlink()
    config = TokenizeConfig(encoder="library")
    again = encode_documents(shards, tokenizer_folder, tmp_path / "again", config, workers=2)
    assert again == once
    assert _bytes(tmp_path / "again") == _bytes(tmp_path / "once")


def test_what_is_done_is_not_done_again(shards: list[Path], tokenizer_folder: Path, tmp_path: Path) -> None:
    first = encode_documents(shards, tokenizer_folder, tmp_path, TokenizeConfig())
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.idx")}
    assert encode_documents(shards, tokenizer_folder, tmp_path, TokenizeConfig()) == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.idx")} == times


def test_another_tokenizer_is_refused(shards: list[Path], tokenizer_folder: Path, tmp_path: Path) -> None:
    encode_documents(shards, tokenizer_folder, tmp_path / "out", TokenizeConfig())
    config = TokenizerConfig(vocab_size=380, sample=SampleConfig(megabytes=1))
    train(config, [tokenizer_folder.parent / "corpus.parquet"], tmp_path / "other")
    with pytest.raises(ValueError, match="holds token shards of another tokenizer"):
        encode_documents(shards, tmp_path / "other", tmp_path / "out", TokenizeConfig())


def test_a_shard_without_its_columns_is_named(tokenizer_folder: Path, tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a"]}).write_parquet(tmp_path / "00000.parquet")
    with pytest.raises(ValueError, match=r"00000\.parquet: lacks the columns kind, language"):
        encode_documents([tmp_path / "00000.parquet"], tokenizer_folder, tmp_path / "out", TokenizeConfig())
    (tmp_path / "00001.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"00001\.parquet: not a Parquet shard"):
        encode_documents([tmp_path / "00001.parquet"], tokenizer_folder, tmp_path / "out", TokenizeConfig())


def test_limit_takes_the_first_documents(shards: list[Path], tokenizer_folder: Path, tmp_path: Path) -> None:
    counts = encode_documents(shards, tokenizer_folder, tmp_path, TokenizeConfig(), limit=5)
    assert sum(count.documents for count in counts.values()) == 5 * len(shards)
