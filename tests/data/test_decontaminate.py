"""Leaks of evaluation sets: found whatever their dress, cut with care, and nothing else touched."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import opencc
import polars as pl
import pytest
import zstandard

from data.annotate import annotate
from data.config import CorpusConfig
from data.decontaminate import DecontaminateConfig, build_index, cut, decontaminate, merge, widen
from data.decontaminate_stage import DECONTAMINATE
from data.evaluation_sets import read_items
from data.folding import fold
from data.overlap import documents_holding, scan
from data.shingles import folded_units
from tests.data.small_corpus import STAGES, articles, configuration, record, run, write_inputs

QUESTION_ZH = "近年来，上海郊区瓜果飘香，鲜花争艳，影响该变化的主要原因是什么？请结合材料说明理由。"
OPTIONS_ZH = ["(A)市场需求变化", "(B)劳动力减少", "(C)城市热岛效应加剧", "(D)水资源减少"]
QUESTION_EN = "Gabriel wants to buy a car for $10000 and a phone for $800. How much money does he still need then?"
FILLER_ZH = "".join(f"第{i}段说的是窗外的雨和书里的人，写到第{i * 3}页就停了。\n" for i in range(30))
FILLER_EN = "".join(f"Paragraph {i} tells of rain at the window and of page {i * 3} in a book. " for i in range(30))


@pytest.fixture
def config(tmp_path: Path) -> DecontaminateConfig:
    path = tmp_path / "exam.jsonl"
    rows = [{"question": QUESTION_ZH, "options": OPTIONS_ZH}, {"question": QUESTION_EN, "answer": "He needs 5600."}]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return DecontaminateConfig(against=(str(path),))


def table_of(*texts: str) -> pl.DataFrame:
    ids = [f"d{i}" for i in range(len(texts))]
    return pl.DataFrame({"id": ids, "text": texts}, schema={"id": pl.String, "text": pl.String})


@pytest.mark.parametrize(
    "leak",
    [
        QUESTION_ZH + "\n" + "\n".join(OPTIONS_ZH),
        opencc.OpenCC("s2tw").convert(QUESTION_ZH),
        QUESTION_ZH.replace("，", ", ").replace("上海", "上 海"),
        QUESTION_EN.upper(),
        QUESTION_EN.replace(" ", "\n"),
        QUESTION_EN.replace("phone", "telephone"),
    ],
)
def test_a_leak_is_cut_and_its_neighbours_stay(config: DecontaminateConfig, leak: str) -> None:
    filler = FILLER_ZH if "上" in leak else FILLER_EN
    text = f"{filler}\n{leak}\n{filler}"
    kept, rejected, hits = decontaminate(table_of(text, filler), build_index(config), config)
    assert rejected.is_empty()
    assert kept["spans_cut"].to_list() == [1, 0]
    assert kept["text"][1] == filler
    assert kept["text"][0].replace("\n", "") == (filler + filler).replace("\n", "")
    assert hits["set"].to_list() == ["exam.jsonl"]
    assert hits["action"].to_list() == ["cut"]
    assert text[hits["start"][0] : hits["stop"][0]].strip() in leak + "\n"


def test_a_document_that_is_a_leak_is_dropped(config: DecontaminateConfig) -> None:
    kept, rejected, hits = decontaminate(table_of(QUESTION_ZH, FILLER_ZH), build_index(config), config)
    assert kept["id"].to_list() == ["d1"]
    assert rejected["rejected_by"].to_list() == ["decontaminate.leak"]
    assert rejected["text"].to_list() == [QUESTION_ZH]
    share, _, bound = rejected["rejected_value"][0].partition(" of the text > ")
    assert 0.9 < float(share) <= 1
    assert float(bound) == config.drop_share
    assert hits["action"].to_list() == ["dropped"]


def test_a_document_of_which_too_little_is_left_says_so(config: DecontaminateConfig) -> None:
    """The leak is less than half of it, so that its share was not the reason."""
    text = f"{FILLER_ZH[:60]}\n{QUESTION_ZH}"
    _, rejected, _ = decontaminate(table_of(text), build_index(config), config)
    rest = int(rejected["rejected_value"][0].removesuffix(" characters left < 100"))
    assert len(text) / 2 < rest < 100


def test_short_strings_and_passing_likeness_are_no_leak(config: DecontaminateConfig) -> None:
    texts = [f"{FILLER_ZH}影响该变化的主要原因是市场需求变化。", f"{FILLER_EN} He wants to buy a car and a phone."]
    kept, rejected, hits = decontaminate(table_of(*texts), build_index(config), config)
    assert kept["text"].to_list() == texts
    assert rejected.is_empty()
    assert hits.is_empty()


def test_common_ngrams_are_left_out(tmp_path: Path) -> None:
    stem = "Read the following passage with care and then choose the best answer to the question below it"
    path = tmp_path / "set.json"
    items = [{"input": f"{stem}: the colour of number {i} times {i * i} is what", "id": f"q{i}"} for i in range(30)]
    path.write_text(json.dumps({"canary": "do not train", "examples": items}), encoding="utf-8")
    config = DecontaminateConfig(against=(str(path),))
    index = build_index(config)
    text = pl.Series("text", [f"{FILLER_EN}\n{stem}.\n{FILLER_EN}"])
    assert documents_holding(index, text).sum() == 0
    assert documents_holding(build_index(DecontaminateConfig(against=(str(path),), common_share=1.0)), text).sum() > 0
    assert set(index.items) == {"0", *(f"q{i}" for i in range(30))}
    thinned = index.without(np.ones(len(index.grams), bool))
    assert len(scan(*folded_units(pl.Series([items[0]["input"]])), thinned)[0]) == 0


def test_scan_finds_what_string_search_finds(config: DecontaminateConfig) -> None:
    """Against `str.find` over words: every window of eight words of the item, and no other."""
    index = build_index(config)
    words = fold(pl.Series([QUESTION_EN.replace("$", "")]))[0].replace(".", " ").replace("?", "").split()
    generator = np.random.default_rng(0)
    texts = [" ".join(words[a : a + n]) + " end" for a, n in generator.integers(0, 18, (200, 2))]
    documents, places, _ = scan(*folded_units(pl.Series("text", texts)), index)
    ours = set(zip(documents.tolist(), places.tolist(), strict=True))
    joined = " ".join(words) + " he needs 5600"
    expected = set()
    for number, text in enumerate(texts):
        units = text.split()
        for place in range(len(units) - 7):
            if f" {' '.join(units[place : place + 8])} " in f" {joined} ":
                expected.add((number, place))
    assert ours == expected
    assert len(expected) > 100


def test_every_format_is_read(tmp_path: Path) -> None:
    rows = [{"id": "x", "q": {"text": "first string"}, "a": ["second string", 3, None]}, {"q": "third string"}]
    (tmp_path / "a.json").write_text(json.dumps({"data": rows}))
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    pl.DataFrame({"q": ["first string", "third string"]}).write_parquet(tmp_path / "d.parquet")
    (tmp_path / "e.txt").write_text("first string\n\nthird string\n")
    (tmp_path / "README.md").write_text("not an evaluation set")
    names = ("a.json", "b.jsonl", "c.jsonl.gz", "d.parquet", "e.txt")
    found = list(read_items((str(tmp_path),)))
    assert [item.set for item in found] == [name for name in names for _ in range(2)]
    assert found[0].strings == ("x", "first string", "second string")
    assert found[0].item == "x"
    assert found[1].strings == ("third string",)
    assert len(list(read_items((f"{tmp_path}/*.jsonl*",)))) == 4


def test_sets_whose_files_are_called_alike_are_told_apart(tmp_path: Path) -> None:
    """Benchmarks call their files test.jsonl; each is a set of its own, and a change in any is noticed."""
    folders = [tmp_path / name for name in ("physics/val", "history/val", "history/test")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "all.jsonl").write_text(json.dumps({"q": f"a question from {folder}"}))
    (tmp_path / "exam.jsonl").write_text(json.dumps({"q": "one more question"}))
    config = CorpusConfig(decontaminate=DecontaminateConfig(against=(str(tmp_path), f"{tmp_path}/physics/*/*.jsonl")))
    names = [item.set for item in read_items(config.decontaminate.against)]
    assert sorted(names) == ["exam.jsonl", "history/val/all.jsonl", "physics/val/all.jsonl", "test/all.jsonl"]
    fingerprints = []
    for folder in folders:
        fingerprints.append(DECONTAMINATE.fingerprint(config, None))
        (folder / "all.jsonl").write_text(json.dumps({"q": "another question"}))
    fingerprints.append(DECONTAMINATE.fingerprint(config, None))
    assert all(fingerprint not in fingerprints[:i] for i, fingerprint in enumerate(fingerprints))


def test_every_frame_and_every_line_is_read(tmp_path: Path) -> None:
    """Files put together of several are whole; a line separator inside a string parts no record."""
    frames = [zstandard.compress(json.dumps({"q": f"question {i}"}).encode() + b"\n") for i in range(3)]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    rows = [{"q": "one\u2028line"}, {"q": "another"}]
    (tmp_path / "b.json").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    (tmp_path / "c.csv").write_text(f"a short field,{'a long one ' * 20_000}\n")
    found = list(read_items((str(tmp_path),)))
    assert [item.set for item in found] == ["a.jsonl.zst"] * 3 + ["b.json"] * 2 + ["c.csv"]
    assert found[3].strings == ("one\u2028line",)
    assert len(found[5].strings) == 2


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.csv.gz", "a.json"])
def test_a_damaged_set_is_named(tmp_path: Path, name: str) -> None:
    """Half of a set would leave its other half's leaks in, so that a damaged one ends the run with a line."""
    text = "\n".join(json.dumps({"q": f"{i} {i * i}"}) for i in range(5000)).encode()
    path = tmp_path / name
    if path.suffix == ".gz":
        whole = bytearray(gzip.compress(text))
        whole[100:110] = b"\xff" * 10
    elif path.suffix == ".zst":
        whole = bytearray(zstandard.compress(text))[:-20]
    elif path.suffix == ".parquet":
        whole = bytearray(text)
    else:
        whole = bytearray(text[:-4])
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=rf"{name}: not readable"):
        list(read_items((str(path),)))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        list(read_items((str(tmp_path / "nothing-here*"),)))
    (tmp_path / "broken.jsonl").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"broken\.jsonl"):
        list(read_items((str(tmp_path / "broken.jsonl"),)))
    with pytest.raises(ValueError, match=r"decontaminate\.margin"):
        DecontaminateConfig(margin=-1)


def test_spans_grow_to_sentences_merge_and_leave() -> None:
    text = "One. Two is here. Three."
    assert widen(text, 7, 10, 40) == (5, 18)
    assert widen("x" * 100, 50, 60, 10) == (40, 70)
    assert merge([(5, 9), (1, 3), (3, 4), (8, 12)]) == [(1, 4), (5, 12)]
    assert cut("one\ntwo\nthree", [(4, 8)]) == "one\nthree"


def test_no_evaluation_set_is_no_change() -> None:
    config = DecontaminateConfig()
    kept, rejected, hits = decontaminate(table_of(FILLER_EN), build_index(config), config)
    assert kept["text"].to_list() == [FILLER_EN]
    assert rejected.is_empty()
    assert hits.is_empty()


def test_the_stage_cuts_what_its_sets_hold_now(tmp_path: Path) -> None:
    """From shards to shards, in one process: a set that changed is looked for anew, and every hit is in the table."""
    exam, workspace = tmp_path / "exam.jsonl", tmp_path / "w"
    config = configuration(
        write_inputs(tmp_path / "in"), decontaminate=DecontaminateConfig(against=(str(exam),), shortest_rest=1)
    )
    leaks = [articles()[3][40:140], articles()[9][40:140]]
    for leak in leaks:
        exam.write_text(json.dumps({"q": leak}))
        run(config, workspace, *STAGES[:-1])
        counts = record(workspace, "decontaminate")["counts"]
        hits = pl.read_parquet(workspace / "decontaminate" / "hits" / "*.parquet")
        kept = pl.read_parquet(workspace / "decontaminate" / "kept" / "*.parquet")
        rejected = pl.read_parquet(workspace / "decontaminate" / "rejected" / "*.parquet")
        before = pl.read_parquet(workspace / "redact" / "kept" / "*.parquet")
        holding = before.filter(pl.col("text").str.contains(leak, literal=True))["id"].to_list()
        assert len(holding) > 0
        assert set(holding) <= set(hits["id"])
        assert not kept["text"].str.contains(leak, literal=True).any()
        assert counts["leaks"] == {"exam.jsonl": hits.height}
        cut_ids = kept.filter(pl.col("spans_cut") > 0)["id"].to_list()
        assert sorted(cut_ids + rejected["id"].to_list()) == sorted(set(hits["id"]))
        # signals are those of the text as it is
        again = annotate(kept, config.annotate)
        assert again.select("words", "language").equals(kept.select("words", "language"))
