"""Filtering: the rule and the value of each reject, presets against datatrove's own filters, alarms."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest
import yaml

from data.annotate import AnnotateConfig, annotate
from data.filter import PRESETS, Bound, FilterConfig, Thresholds, alarms, filter_documents, read_preset
from data.signals import SIGNAL_COLUMNS

CHINESE = (
    "他在村口等了很久，天黑了才回家。第二天，雨停了，路上有许多落叶。"
    "老人说：“这样的秋天，几十年没有见过。”孩子们不信，跑到河边去看。"
)
ENGLISH = (
    "The river had fallen in the night, and by the time that we came down to it there was a road of stones across. "
    "Nobody could say where the water had gone. My aunt, who is never surprised, took off her shoes and walked over."
)


def judge(texts: list[str], config: FilterConfig | None = None) -> dict[str, str | None]:
    """Text to the rule that rejected it; None where it was kept."""
    table = annotate(pl.DataFrame({"text": texts}), AnnotateConfig())
    kept, rejected = filter_documents(table, config or FilterConfig())
    assert kept.height + rejected.height == len(texts)
    return dict.fromkeys(kept["text"]) | dict(zip(rejected["text"], rejected["rejected_by"], strict=True))


STEPS = (
    "先打开门",
    "再把灯点亮",
    "接着洗一遍手",
    "然后到河边取水，不要走得太远",
    "回来以后生火",
    "最后把饭煮好，等孩子们回家",
)
TUTORIAL = "\n".join(
    f"{step}，这一步要写成下面的样子。\n```\n{{\n  {{\n    {{\n      step{n}();\n    }}\n  }}\n}}\n```\n"
    for n, step in enumerate(STEPS)
)
"""Most of its lines stood before: fences, brackets and the like, few characters in all."""


@pytest.mark.parametrize("text", [CHINESE, ENGLISH, CHINESE + "\n\n" + ENGLISH, TUTORIAL])
def test_good_text_is_kept(text: str) -> None:
    assert judge([text])[text] is None


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("太短了。", "words prose_characters"),
        ("首页 | 新闻 | 下载 | 论坛 | 帮助中心 | 关于我们 | 网站地图 | 设为首页", "words prose_characters"),
        ("\n".join(f"免费送彩金 http://{n}.example/a" for n in range(40)), "prose_characters"),
        ("\n".join(["今天的天气很好，我们去公园里走一走吧。"] * 60), "distinct_word_share"),
        ("As stated, the general was ordered " * 60, "distinct_word_share"),
        (CHINESE + "\n" + "\n".join(["这一行在文章里出现了好几次，读者已经看厌了。"] * 3), "top_line_share"),
        (f"{CHINESE}\n{CHINESE}\n{CHINESE}", "duplicate_line_character_share duplicate_10gram_share"),
        ("\n".join("12.5 33 81 9 7 4112" for _ in range(60)), "language"),
        (CHINESE.replace("了", "\ufffd"), "damaged_share"),
        ("Il était une fois une petite fille que tout le monde aimait, et sa grand-mère aussi. " * 3, "language"),
        ("むかしむかし、あるところに、おじいさんとおばあさんが住んでいました。山へ行きました。" * 2, "language"),
    ],
)  # fmt: skip
def test_bad_text_is_rejected_by_name(text: str, rules: str) -> None:
    assert judge([text])[text] in {f"filter.{rule}" for rule in rules.split()}


def test_a_reject_keeps_its_text_and_says_value_and_bound() -> None:
    table = annotate(pl.DataFrame({"id": ["x"], "text": [ENGLISH]}), AnnotateConfig())
    config = FilterConfig(
        preset="none", thresholds=Thresholds(en={"words": Bound(min=1000), "digit_share": Bound(max=0.5)})
    )
    kept, rejected = filter_documents(table, config)
    words = table["words"][0]
    assert kept.height == 0
    assert rejected.select("id", "text", "rejected_by", "rejected_value").row(0) == (
        "x", ENGLISH, "filter.words", f"{words} < 1000"
    )  # fmt: skip
    assert rejected.drop("rejected_by", "rejected_value").equals(table)


def test_every_row_is_kept_or_rejected_once_and_kept_rows_break_no_bound(corpus: Path) -> None:
    table = annotate(pl.DataFrame({"text": read_texts(corpus / "documents", 400)}), AnnotateConfig()).with_row_index()
    config = FilterConfig()
    kept, rejected = filter_documents(table, config)
    assert sorted([*kept["index"], *rejected["index"]]) == list(range(table.height))
    for language, bounds in config.bounds.tables().items():
        rows = kept.filter(pl.col("language") == language)
        for signal, bound in bounds.items():
            values = rows[signal].cast(pl.Float64)
            assert bound.min is None or (values >= bound.min - 1e-6).all()
            assert bound.max is None or (values <= bound.max + 1e-6).all()


def test_code_has_bounds_of_its_own() -> None:
    text = "for i in range(10):\n    total += values[i] * weights[i]\n" + "\n".join(
        f"x{n} = f{n}(y)" for n in range(20)
    )
    table = annotate(pl.DataFrame({"text": [text, text], "kind": ["code", "prose"]}), AnnotateConfig())
    kept, rejected = filter_documents(table, FilterConfig())
    assert kept["kind"].to_list() == ["code"]
    assert rejected["kind"].to_list() == ["prose"]


def test_bounds_are_the_presets_with_ones_own_laid_over() -> None:
    own = Thresholds(zh={"words": Bound(min=7)})
    config = FilterConfig(thresholds=own)
    assert config.thresholds == own  # what was written stays as it was written
    assert config.bounds.zh == read_preset("web").zh | {"words": Bound(min=7)}
    assert config.bounds.en == read_preset("web").en
    assert FilterConfig(preset="none").bounds == Thresholds()


def test_a_complete_configuration_reads_back() -> None:
    config = FilterConfig(thresholds=Thresholds(zh={"words": Bound(min=7)})).complete()
    saved = yaml.safe_load(yaml.safe_dump(dataclasses.asdict(config), allow_unicode=True, sort_keys=False))
    tables = {t: {s: Bound(**b) for s, b in bounds.items()} for t, bounds in saved.pop("thresholds").items()}
    assert FilterConfig(**saved, thresholds=Thresholds(**tables)) == config
    assert config.thresholds == config.bounds


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        (Thresholds(zh={"word_count": Bound(min=1)}), "thresholds.zh: 'word_count' is no signal"),
        (Thresholds(en={"digit_shares": Bound(max=1)}), "did you mean 'digit_share'"),
        (Thresholds(zh={"words": Bound(min=9, max=1)}), "min 9 is above max 1"),
    ],
)
def test_a_mistake_in_a_configuration_is_named(thresholds: Thresholds, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FilterConfig(thresholds=thresholds)


def test_presets_name_signals_that_exist() -> None:
    names = [path.stem for path in PRESETS.glob("*.yaml")]
    assert set(names) == {"web", "fineweb", "fineweb2-zh"}
    for name in names:
        assert all(signal in SIGNAL_COLUMNS for bounds in read_preset(name).tables().values() for signal in bounds)


def test_a_users_lists_reject_by_their_own_rules(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("河边\n", encoding="utf-8")
    (tmp_path / "hosts.txt").write_text("# ours\nbad.example\n", encoding="utf-8")
    lists = AnnotateConfig(flagged_words=str(tmp_path / "words.txt"), flagged_hosts=str(tmp_path / "hosts.txt"))
    rows = {"text": [CHINESE, ENGLISH, ENGLISH], "url": ["", "https://www.bad.example/x", "https://good.example/"]}
    kept, rejected = filter_documents(annotate(pl.DataFrame(rows), lists), FilterConfig())
    assert kept["url"].to_list() == ["https://good.example/"]
    assert rejected["rejected_by"].to_list() == ["filter.flagged_word_share", "filter.flagged_host"]


def test_an_edited_list_is_another_annotation(tmp_path: Path) -> None:
    from data.config import CorpusConfig
    from data.stages import ANNOTATE

    path = tmp_path / "words.txt"
    path.write_text("one\n")
    config = CorpusConfig(annotate=AnnotateConfig(flagged_words=str(path)))
    before = ANNOTATE.fingerprint(config, None)
    path.write_text("two\n")
    assert list(before) == ["annotate.flagged_words"]
    assert ANNOTATE.fingerprint(config, None) != before
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"annotate\.flagged_words: .*words\.txt"):
        ANNOTATE.fingerprint(config, None)


def test_language_that_does_not_exist_is_refused() -> None:
    """Spelled otherwise it would reject every document of that language without an alarm."""
    with pytest.raises(ValueError, match=r"filter\.languages: 'eng' is none of zh, en, mixed, other"):
        FilterConfig(languages=["zh", "eng"])


def test_alarms_speak_of_rules_that_drop_too_much() -> None:
    config = FilterConfig(alarm_share=0.2)
    rejects = {("zh", "filter.words"): 30, ("zh", "filter.url_share"): 10, ("other", "filter.language"): 50}
    lines = alarms({"zh": 100, "other": 50}, rejects, config)
    assert len(lines) == 1
    assert "filter.words rejected 30 of 100 documents in zh (30%)" in lines[0]


def read_texts(folder: Path, count: int) -> list[str]:
    """The first texts of each JSONL.zst file of a folder."""
    import zstandard

    texts: list[str] = []
    for path in sorted(folder.glob("*.jsonl.zst")):
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]
    return texts


def test_good_corpora_are_hardly_touched(corpus: Path) -> None:
    table = annotate(pl.DataFrame({"text": read_texts(corpus / "documents", 2000)}), AnnotateConfig())
    kept, _ = filter_documents(table, FilterConfig())
    for language in ("zh", "en"):
        before, after = (
            table.filter(pl.col("language") == language).height,
            kept.filter(pl.col("language") == language).height,
        )
        assert after / before >= 0.95
