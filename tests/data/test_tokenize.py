"""The stage tokenize: every document once, in its folder, closed, the same whatever encodes it and what was there."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import data.encode_kernels
import data.tokenize
from data.config import CorpusConfig
from data.engine import RunOptions, run_stage
from data.stages import TOKENIZE
from data.token_shards import TokenShard, find_shards
from data.tokenize import TokenCounts, TokenizeConfig, cached_tokenizer, encode_shard
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


def _encode(
    shards: list[Path], tokenizer: Tokenizer, output: Path, config: TokenizeConfig, limit: int | None = None
) -> dict[str, TokenCounts]:
    """Encode all shards; returns the counts of each folder."""
    totals: dict[str, TokenCounts] = {}
    for shard in shards:
        for folder, counts in encode_shard(shard, tokenizer, output, config, limit).by_folder().items():
            totals.setdefault(folder, TokenCounts()).add(counts)
    return totals


def test_every_document_is_there_once_in_order(shards: list[Path], tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = TokenizeConfig(batch_documents=7)  # so that batches end within a shard
    counts = _encode(shards, tokenizer, tmp_path, config)
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


def test_batches_encoders_and_what_was_there_change_nothing(
    shards: list[Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    once = _encode(shards, tokenizer, tmp_path / "once", TokenizeConfig(encoder="kernel"))
    _encode(shards[:1], tokenizer, tmp_path / "again", TokenizeConfig(batch_documents=7))
    for path in (tmp_path / "again" / "zh-prose").glob("*.idx"):  # as a crash between two files would leave it
        path.unlink()
    assert _encode(shards, tokenizer, tmp_path / "again", TokenizeConfig(encoder="library")) == once
    assert _bytes(tmp_path / "again") == _bytes(tmp_path / "once")


def test_the_kernel_encodes_where_there_is_much_text(
    shards: list[Path], tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the shard holds or what is foretold; `encoder` overrules both."""
    kernels: list[str] = []
    monkeypatch.setattr(data.encode_kernels, "fast_encoder", lambda chosen: kernels.append(chosen.digest))
    for choice, foretold, used in (
        ("auto", 0, 0), ("auto", 10**9, 1), ("library", 10**9, 0), ("kernel", 0, 1),
    ):  # fmt: skip
        monkeypatch.setattr(data.tokenize, "_encoders", {})
        kernels.clear()
        encode_shard(shards[0], tokenizer, tmp_path, TokenizeConfig(encoder=choice), None, foretold)  # type: ignore[arg-type]
        assert len(kernels) == used, choice
    monkeypatch.setattr(data.tokenize, "_encoders", {})
    monkeypatch.setattr(data.tokenize, "KERNEL_PAYS_FROM", 1000)
    kernels.clear()
    encode_shard(shards[0], tokenizer, tmp_path, TokenizeConfig())
    assert len(kernels) == 1


def test_a_tokenizer_is_read_again_when_it_changes(tokenizer_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    first = cached_tokenizer(tmp_path / "tokenizer")
    assert cached_tokenizer(tmp_path / "tokenizer") is first
    config = TokenizerConfig(vocab_size=380, sample=SampleConfig(megabytes=1))
    train(config, [tokenizer_folder.parent / "corpus.parquet"], tmp_path / "tokenizer")
    assert cached_tokenizer(tmp_path / "tokenizer").digest != first.digest


def test_a_shard_without_its_columns_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a"]}).write_parquet(tmp_path / "00000.parquet")
    with pytest.raises(ValueError, match=r"00000\.parquet: lacks the columns kind, language"):
        encode_shard(tmp_path / "00000.parquet", tokenizer, tmp_path / "out", TokenizeConfig())
    (tmp_path / "00001.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"00001\.parquet: not a Parquet shard"):
        encode_shard(tmp_path / "00001.parquet", tokenizer, tmp_path / "out", TokenizeConfig())


def test_limit_takes_the_first_documents(shards: list[Path], tokenizer: Tokenizer, tmp_path: Path) -> None:
    counts = _encode(shards, tokenizer, tmp_path, TokenizeConfig(), limit=5)
    assert sum(count.documents for count in counts.values()) == 5 * len(shards)


def test_another_tokenizer_makes_the_shards_anew(
    shards: list[Path], tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shards of two tokenizers never lie in one folder: one line says why, and no old id is left."""
    workspace = tmp_path / "work"
    (workspace / "mix" / "train").mkdir(parents=True)
    (workspace / "mix" / "validation").mkdir()
    files = {}
    for part, shard in (("train", shards[0]), ("validation", shards[1])):
        shutil.copy(shard, workspace / "mix" / part / "00000.parquet")
        files[f"{part}/00000.parquet"] = {
            "documents": 39, "text_bytes": 1, "file_bytes": shard.stat().st_size, "digest": "",
        }  # fmt: skip
    (workspace / "mix" / "stage.json").write_text(json.dumps({"files": files, "counts": {}}))
    config = TokenizerConfig(vocab_size=380, sample=SampleConfig(megabytes=1))
    train(config, [tokenizer_folder.parent / "corpus.parquet"], tmp_path / "other")
    for folder in (tokenizer_folder, tmp_path / "other"):
        run_stage(TOKENIZE, CorpusConfig(), RunOptions(workspace=workspace, tokenizer=folder), None)
        theirs = load_tokenizer(folder)
        record = json.loads((workspace / "tokenize" / "stage.json").read_text())
        assert record["facts"]["tokenizer_digest"] == theirs.digest
        for prefix in find_shards(workspace / "tokenize" / "train")["zh-prose"]:
            assert TokenShard(prefix)[0][-1] == theirs.special.endoftext
    said = capsys.readouterr().err
    assert len([line for line in said.splitlines() if "tokenize: stale (" in line and "tokenizer" in line]) == 1
