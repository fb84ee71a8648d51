"""Token shards: what is written is what is read, by us and by the letter of Megatron's layout."""

import struct
from pathlib import Path

import numpy as np
import pytest

from data.token_shards import TokenShard, TokenShardWriter, find_shards, token_dtype


def _documents(vocab_size: int, count: int = 50, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab_size, size=rng.integers(1, 40)) for _ in range(count)]


def _add_all(writer: TokenShardWriter, documents: list[list[int]]) -> None:
    for document in documents:
        writer.add(document)


def _write(prefix: Path, documents: list[np.ndarray], vocab_size: int) -> None:
    with TokenShardWriter(prefix, vocab_size) as writer:
        _add_all(writer, [document.tolist() for document in documents])


@pytest.mark.parametrize("vocab_size", [300, 65_499, 65_500, 151_552])
def test_documents_read_back(tmp_path: Path, vocab_size: int) -> None:
    documents = _documents(vocab_size)
    _write(tmp_path / "zh-prose" / "00000", documents, vocab_size)
    shard = TokenShard(tmp_path / "zh-prose" / "00000")
    assert len(shard) == len(documents)
    assert shard.tokens.dtype == (np.uint16 if vocab_size < 65_500 else np.int32)
    assert all(np.array_equal(shard[i], document) for i, document in enumerate(documents))
    assert np.array_equal(shard.tokens, np.concatenate(documents))
    assert shard.offsets[-1] == sum(map(len, documents))


def test_many_at_once_is_one_by_one(tmp_path: Path) -> None:
    documents = _documents(1000)
    _write(tmp_path / "one", documents, 1000)
    with TokenShardWriter(tmp_path / "many", 1000) as writer:
        for part in (documents[:7], documents[7:]):
            writer.add_many(np.concatenate(part), np.array([len(d) for d in part]))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"many{suffix}").read_bytes()


@pytest.mark.parametrize("vocab_size", [1000, 100_000])
def test_layout_is_megatrons(tmp_path: Path, vocab_size: int) -> None:
    """Read the two files field by field in the order of Megatron's `_IndexReader`, without our reader."""
    documents = _documents(vocab_size)
    _write(tmp_path / "shard", documents, vocab_size)
    with (tmp_path / "shard.idx").open("rb") as stream:
        assert stream.read(9) == b"MMIDIDX\x00\x00"
        assert struct.unpack("<Q", stream.read(8)) == (1,)
        (code,) = struct.unpack("<B", stream.read(1))
        dtype = {4: np.int32, 8: np.uint16}[code]
        (sequence_count,) = struct.unpack("<Q", stream.read(8))
        (document_count,) = struct.unpack("<Q", stream.read(8))
        lengths = np.frombuffer(stream.read(4 * sequence_count), dtype=np.int32)
        pointers = np.frombuffer(stream.read(8 * sequence_count), dtype=np.int64)
        document_indices = np.frombuffer(stream.read(8 * document_count), dtype=np.int64)
        assert stream.read() == b""
    assert document_indices.tolist() == list(range(len(documents) + 1))
    data = (tmp_path / "shard.bin").read_bytes()
    for document, length, pointer in zip(documents, lengths, pointers, strict=True):
        assert np.frombuffer(data, dtype=dtype, count=length, offset=pointer).tolist() == document.tolist()


MEGATRONS_FILES = {
    1000: (
        "010002000300e70305000600",
        "4d4d49444944580000 0100000000000000 08 0300000000000000 0400000000000000 03000000 01000000 02000000"
        "0000000000000000 0600000000000000 0800000000000000"
        "0000000000000000 0100000000000000 0200000000000000 0300000000000000",
    ),
    70_000: (
        "010000000200000003000000e70300000500000006000000",
        "4d4d49444944580000 0100000000000000 04 0300000000000000 0400000000000000 03000000 01000000 02000000"
        "0000000000000000 0c00000000000000 1000000000000000"
        "0000000000000000 0100000000000000 0200000000000000 0300000000000000",
    ),
}
"""The two files that Megatron-LM's own IndexedDatasetBuilder (at d98e8a6) writes for three documents, by vocabulary."""


@pytest.mark.parametrize("vocab_size", MEGATRONS_FILES)
def test_the_bytes_are_megatrons(tmp_path: Path, vocab_size: int) -> None:
    _write(tmp_path / "shard", [np.array([1, 2, 3]), np.array([999]), np.array([5, 6])], vocab_size)
    for suffix, content in zip((".bin", ".idx"), MEGATRONS_FILES[vocab_size], strict=True):
        assert (tmp_path / f"shard{suffix}").read_bytes() == bytes.fromhex(content)


def test_sixteen_bits_below_megatrons_bound() -> None:
    assert token_dtype(65_499).itemsize == 2
    assert token_dtype(65_500).itemsize == 4


def test_an_error_leaves_no_shard(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="00000"), TokenShardWriter(tmp_path / "00000", 100) as writer:
        _add_all(writer, [[1, 2, 3], [4, 1000]])
    assert not list(tmp_path.glob("*.idx"))
    assert not list(tmp_path.glob("*.bin"))
    _write(tmp_path / "00000", [np.array([7, 8])], 100)
    assert TokenShard(tmp_path / "00000").tokens.tolist() == [7, 8]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("ids", [[100], [-1, 3], []])
def test_wrong_ids_are_refused(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="00000"), TokenShardWriter(tmp_path / "00000", 100) as writer:
        writer.add(ids)


def test_an_empty_shard_is_whole(tmp_path: Path) -> None:
    _write(tmp_path / "00000", [], 100)
    assert len(TokenShard(tmp_path / "00000")) == 0


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_cut_file_is_named(tmp_path: Path, suffix: str) -> None:
    _write(tmp_path / "00000", _documents(100), 100)
    path = tmp_path / f"00000{suffix}"
    whole = path.read_bytes()
    for length in (0, 5, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"00000\\{suffix}"):
            TokenShard(tmp_path / "00000")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"00000\\{suffix}"):
        TokenShard(tmp_path / "00000")


def test_find_shards_by_language_and_kind(tmp_path: Path) -> None:
    for name in ("zh-prose/00001", "zh-prose/00000", "en-code/00000"):
        _write(tmp_path / name, [np.array([1])], 100)
    assert find_shards(tmp_path) == {
        "en-code": [tmp_path / "en-code/00000"],
        "zh-prose": [tmp_path / "zh-prose/00000", tmp_path / "zh-prose/00001"],
    }
    with pytest.raises(FileNotFoundError, match="nothing"):
        find_shards(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no token shard"):
        find_shards(tmp_path / "empty")
