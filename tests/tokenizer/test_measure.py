"""What is measured is what it says: figures held to counts by hand and to definitions written another way."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from tokenizer.corpus import Faults
from tokenizer.evaluate import evaluate, open_measured, picture, read_groups, table, truncate
from tokenizer.measure import Measured, count_words, measure, renyi_efficiency, script_of, standard_characters
from tokenizer.train import train


def test_figures_of_a_tokenizer_of_bytes() -> None:
    """A tokenizer whose tokens are the bytes themselves has figures that one can count."""
    of_bytes = Measured(
        "bytes", lambda texts: [list(text.encode()) for text in texts], lambda ids: bytes(ids).decode(), _all_bytes()
    )
    figures = measure(of_bytes, {"zh": ["你好，ab"], "en": ["ab ab"]})
    chinese, english = figures["groups"]["zh"], figures["groups"]["en"]  # type: ignore[index]
    assert chinese["bytes_per_token"] == 1.0
    assert chinese["characters_per_token"] == pytest.approx(5 / 11)
    assert chinese["tokens_per_word"] == pytest.approx(11 / 3)  # 你, 好, ab
    assert chinese["partial_share"] == pytest.approx(9 / 11)
    assert english["partial_share"] == 0
    assert english["tokens_per_word"] == pytest.approx(5 / 2)
    assert figures["dead_share"] == pytest.approx(1 - len(set("你好，ab ".encode())) / 256)
    assert figures["han_3500"] == figures["han_8105"] == 0


def test_renyi_efficiency_is_its_definition() -> None:
    assert renyi_efficiency(np.full(64, 7), 64) == pytest.approx(1.0)
    assert renyi_efficiency(np.array([5, 0, 0]), 3) == pytest.approx(0.0)
    counts = np.array([8, 4, 2, 1, 1, 0])
    shares = counts / counts.sum()
    direct = 2.5 / (1 - 2.5) * np.log((shares**2.5).sum() ** (1 / 2.5)) / np.log(6)
    assert renyi_efficiency(counts, 6) == pytest.approx(direct)


def test_standard_characters_are_the_standards() -> None:
    """Counts of the standard of 2013, and how GB 2312's 3,755 common characters lie in its 3,500."""
    characters = standard_characters()
    assert len(characters) == len(set(characters)) == 8105
    assert (characters[0], characters[3499], characters[3500], characters[6500]) == ("一", "矗", "乂", "亍")
    level_one = {bytes([a, b]).decode("gb2312", "ignore") for a in range(0xB0, 0xD8) for b in range(0xA1, 0xFF)} - {""}
    assert len(level_one) == 3755
    assert len(level_one & set(characters[:3500])) > 3300


@pytest.mark.parametrize(
    ("text", "words"), [("我用Python写了2行。", 7), ("don't stop 3.14", 5), ("", 0), ("𠀀𠀁 a_b", 4), ("，。！", 0)]
)
def test_words_are_han_characters_and_runs_of_letters(text: str, words: int) -> None:
    assert count_words(text) == words


def test_scripts_are_told_by_their_own_characters() -> None:
    assert script_of("这里说的是汉语，体现发展与变化") == "Hans"
    assert script_of("這裡說的是漢語，體現發展與變化") == "Hant"
    assert script_of("一二三 abc") == ""


def test_a_large_bpe_begins_with_the_small_one(corpus_file: Path, tmp_path: Path, small_config) -> None:  # type: ignore[no-untyped-def]
    """Cutting a vocabulary is training a smaller one: the same ids from both."""
    train(small_config(vocab_size=1000), [corpus_file], tmp_path / "large")
    train(small_config(vocab_size=600), [corpus_file], tmp_path / "small")
    ordinary = 600 - 37
    large = json.loads((tmp_path / "large" / "tokenizer.json").read_text(encoding="utf-8"))
    cut = tokenizers.Tokenizer.from_str(json.dumps(truncate(large, ordinary)))
    small = tokenizers.Tokenizer.from_file(str(tmp_path / "small" / "tokenizer.json"))
    assert cut.get_vocab_size() == ordinary
    for line in corpus_file.read_text(encoding="utf-8").splitlines()[::10]:
        text = json.loads(line)["text"]
        assert cut.encode(text).tokens == small.encode(text).tokens


def test_side_by_side(bbpe_folder: Path, corpus_file: Path, tmp_path: Path) -> None:
    names = [str(bbpe_folder), str(bbpe_folder / "tokenizer.json")]
    figures = evaluate(names, [corpus_file], 0.05, [400])
    items = figures["tokenizers"]
    assert [item["tokens"] for item in items] == [563, 400, 563, 400]  # type: ignore[attr-defined,index]
    ours, theirs = items[0]["groups"], items[2]["groups"]  # type: ignore[index]
    for group in ("zh", "en"):
        assert ours[group]["bytes_per_token"] == theirs[group]["bytes_per_token"]
    assert "bytes/token" in table(figures)
    picture(figures, tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").stat().st_size > 1000


def test_of_too_much_text_the_same_is_taken_in_any_order(corpus_file: Path, tmp_path: Path) -> None:
    lines = corpus_file.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "reversed.jsonl").write_text("".join(reversed(lines)), encoding="utf-8")
    groups = read_groups([corpus_file], 0.01, Faults())
    assert groups == read_groups([tmp_path / "reversed.jsonl"], 0.01, Faults())
    assert 0 < sum(len(text.encode()) for text in groups["zh"]) <= 10_000


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.*: no such tokenizer"):
        open_measured(str(tmp_path / "nowhere"))
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer definition"):
        open_measured(str(tmp_path))
    for content in ("{", "[]", "\udcff"):
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(ValueError, match=r"tokenizer\.json: "):
            open_measured(str(tmp_path), 300)
    (tmp_path / "x.model").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"x\.model: not a SentencePiece model"):
        open_measured(str(tmp_path / "x.model"))


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_vocabulary_is_cut_to_what_it_holds(bbpe_folder: Path, size: int) -> None:
    with pytest.raises(ValueError, match=rf"has 563 tokens and cannot be cut to {size}"):
        open_measured(str(bbpe_folder), size)


def test_the_commands_give_json_and_invert_each_other(bbpe_folder: Path, corpus_file: Path) -> None:
    arguments = ["--tokenizer", str(bbpe_folder)]
    text = "今天[MASK]很好\n\nhello <|endoftext|> 𠀀\r\n"
    ids = _run(["encode", *arguments], text)
    assert all(int(i) < 640 for i in ids.split())
    assert _run(["decode", *arguments], ids) == text.replace("\r\n", "\n")
    assert _run(["decode", *arguments], _run(["encode", "--json", *arguments], text)) == text.replace("\r\n", "\n")
    assert "[MASK]" in _run(["encode", "--prompt", "--pieces", *arguments], text).split("|")
    assert _run(["encode", "--limit", "1", *arguments], text).count("\n") == 1
    figures = json.loads(_run(["evaluate", "--json", "--limit", "80", *arguments, "--input", str(corpus_file)], ""))
    assert set(figures["tokenizers"][0]["groups"]) >= {"zh", "en"}


def _all_bytes() -> list[bytes]:
    return [bytes([byte]) for byte in range(256)]


def _run(arguments: list[str], text: str) -> str:
    command = [sys.executable, "-m", "tokenizer", *arguments]
    return subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout.decode()
