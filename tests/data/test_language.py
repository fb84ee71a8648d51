"""Language and script: short pieces, mixed documents, neighbours that must not pass, OpenCC's text both ways."""

from __future__ import annotations

import json
from pathlib import Path

import opencc
import polars as pl
import pytest

from data.annotate import AnnotateConfig, annotate

HANS = "他在村口等了很久，天黑了才回家。第二天，雨停了，路上有许多落叶。老人说，这样的秋天几十年没有见过。"
ENGLISH = "The river had fallen in the night, and by the time that we came down there was a road of stones across it."

CODE = "```\nfor x in the_list:\n    if x is not None and x in this or that:\n        it.do(x, to=y)\n```"
TABLE = "Apache ServiceComb Kie 0.1.0 (LATEST) | [src] [asc] [sha512] | [Binary] [asc]\n" * 5


def identify(*texts: str) -> list[tuple[str, str]]:
    return annotate(pl.DataFrame({"text": texts}), AnnotateConfig()).select("language", "script").rows()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HANS, ("zh", "Hans")),
        (opencc.OpenCC("s2t").convert(HANS), ("zh", "Hant")),
        ("人民日報：中国经济发展很快，這是第一句。后来又說了一些話。", ("zh", "mixed")),
        ("山上有人，水中有月。", ("zh", "neutral")),
        (ENGLISH, ("en", "Latn")),
        (ENGLISH.upper(), ("en", "Latn")),
        ("How to install the driver", ("en", "Latn")),
        (HANS + "\n" + ENGLISH, ("mixed", "Hans")),
        ("调用 `GetRowCount()` 返回 DataGridView 的行数，AllowUserToAddRows 决定能否添加行。", ("zh", "Hans")),
        (f"{HANS * 2}\n\n{CODE}", ("zh", "Hans")),
        (f"{HANS * 2}\n{TABLE}", ("zh", "Hans")),
        (HANS + ENGLISH, ("mixed", "Hans")),
        ("```\n" + "int main(void) { return 0; }\n" * 30 + "```\n\n" + ENGLISH, ("en", "Latn")),
        ("むかしむかし、あるところに、おじいさんとおばあさんが住んでいました。", ("other", "neutral")),
        ("東京都は日本の首都である。人口は約千四百万人。", ("other", "Hans")),
        ("안녕하세요. 오늘은 날씨가 좋습니다.", ("other", "Latn")),
        ("Il était une fois une petite fille que tout le monde aimait, et sa grand-mère aussi.", ("other", "Latn")),
        ("Der Fluss war in der Nacht gefallen, und als wir kamen, lag da eine Straße aus Steinen.", ("other", "Latn")),
        ("Todo el mundo sabe que la casa de mi abuela está cerca del río y que no hay puente.", ("other", "Latn")),
        ("Tất cả mọi người sinh ra đều có quyền bình đẳng và tự do.", ("other", "Latn")),
        ("Все счастливые семьи похожи друг на друга, каждая несчастливая по-своему.", ("other", "Latn")),
        ("12 34 56\n78 90", ("other", "Latn")),
        ("", ("other", "Latn")),
    ],
)  # fmt: skip
def test_language_and_script(text: str, expected: tuple[str, str]) -> None:
    language, script = identify(text)[0]
    assert language == expected[0]
    if language != "other":
        assert script == expected[1]


def test_traditional_text_of_opencc_is_hant(corpus: Path) -> None:
    import zstandard

    with zstandard.open(corpus / "documents" / "zh-00000.jsonl.zst", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(300), strict=False)]
    hans = [text for text, (language, script) in zip(texts, identify(*texts), strict=True) if script == "Hans"]
    converter = opencc.OpenCC("s2t")
    scripts = [script for _, script in identify(*[converter.convert(text) for text in hans])]
    assert len(hans) > 100
    assert scripts.count("Hant") / len(scripts) >= 0.99


def test_pieces_of_sixty_characters(corpus: Path) -> None:
    import zstandard

    wrong = total = 0
    for name, language in (("zh-00000", "zh"), ("en-00000", "en")):
        with zstandard.open(corpus / "documents" / f"{name}.jsonl.zst", "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line, _ in zip(lines, range(300), strict=False)]
        pieces = [text[len(text) // 2 :][:60] for text in texts]
        found = [found for found, _ in identify(*pieces)]
        wrong += sum(answer not in (language, "mixed") for answer in found)
        total += len(found)
    assert wrong / total < 0.08  # code and tables among them have no language
