"""A mistake in a configuration or on a command line is answered by one line that names file, key and expectation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from command_line import Parser, PositiveInt, print_figures, run_commands


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a stage."""

    shortest: int = 5
    """Shortest document, in characters."""
    rate: float = 1e-4
    """Share."""

    def __post_init__(self) -> None:
        if self.shortest < 0:
            raise ValueError(f"shortest: expected at least 0, got {self.shortest}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source."""

    path: str
    """Where it is."""
    kind: Literal["prose", "code"] = "prose"
    """What it holds."""
    limits: Limits | None = None
    """Limits of its own."""
    parts: list[str] = field(default_factory=list)
    """Names of its parts."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A configuration with what configurations here have: nested parts and lists."""

    name: str
    """Its name."""
    sources: list[Source] = field(default_factory=list)
    """What is read."""
    zh: Limits = field(default_factory=Limits)
    """Chinese."""


def read(tmp_path: Path, text: str, *words: str):
    file = tmp_path / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    parser = Parser("test", "A test.", Settings)
    parser.add_argument("--workspace")
    parser.add_argument("--limit", type=int)
    return parser.read(["--config", str(file), *words])


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("name: x\nzz: 1\n", (), "settings.yaml: zz: no such key; expected one of name, sources, zh"),
        ("name: x\nzh: {shrtest: 1}\n", (), "settings.yaml: zh.shrtest: no such key; expected one of shortest, rate"),
        ("name: x\nzh: {shortest: few}\n", (), "settings.yaml: zh.shortest: Expected a int. Got value: few"),
        ("name: x\nzh: {shortest: -1}\n", (), "settings.yaml: zh: shortest: expected at least 0, got -1"),
        ("name: x\nsources: [{path: a}, {path: b, knd: code}]\n", (), "settings.yaml: sources[1].knd: no such key"),
        ("name: x\nsources: [{path: a, kind: cod}]\n", (), "settings.yaml: sources[0].kind: Expected a Literal"),
        ("name: x\nsources: [{path: a, limits: {rate: y}}]\n", (), "sources[0].limits.rate: Expected a float"),
        ("name: x\nsources: {path: a}\n", (), "settings.yaml: sources: expected a list"),
        ("- 1\n", (), "settings.yaml: the file: expected keys and values"),
        ("name: [x\n", (), "settings.yaml: not YAML"),
        ("zh: {}\n", (), "required: name"),
        ("name: x\n", ("--zh.rate", "y"), "--zh.rate: Expected a float. Got value: y"),
        ("name: x\n", ("--zh.shortest", "-4"), "shortest: expected at least 0, got -4"),
        ("name: x\n", ("--zh.other", "1"), "unrecognized arguments: --zh.other"),
        ("name: x\n", ("--limit", "y"), "--limit: Expected a int"),
        ("name: x\nsources: [{path: a}]\n", ("--sources.path", "b"), "--sources: a list is written in the YAML file"),
    ],
)
def test_mistake_is_one_line(tmp_path, capsys, text, words, expected):
    with pytest.raises(SystemExit) as stop:
        read(tmp_path, text, *words)
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert expected in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1


def test_missing_file_is_named(capsys):
    with pytest.raises(SystemExit):
        Parser("test", "A test.", Settings).read(["--config", "nowhere.yaml"])
    assert capsys.readouterr().err == "error: nowhere.yaml: no such configuration file\n"


def test_command_line_goes_before_the_file(tmp_path):
    arguments = read(tmp_path, "name: x\nzh: {rate: 1e-3}\n", "--zh.shortest", "9", "--workspace", "w")
    assert arguments.config == Settings(name="x", zh=Limits(shortest=9, rate=0.001))
    assert arguments.workspace == "w"


def test_saved_configuration_reads_back(tmp_path):
    config = read(tmp_path, "name: 填空\nsources: [{path: a, limits: {rate: 1e-5}}]\n").config
    saved = yaml.safe_dump(asdict(config), allow_unicode=True, sort_keys=False)
    limits = {"shortest": 5, "rate": 1e-5}
    assert yaml.safe_load(saved)["sources"] == [{"path": "a", "kind": "prose", "limits": limits, "parts": []}]
    assert read(tmp_path, saved).config == config


def test_help_shows_the_line_under_each_field(capsys):
    with pytest.raises(SystemExit) as stop:
        Parser("test", "A test.", Settings).read(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "Shortest document, in characters." in text
    assert "--sources" not in text


def test_users_error_is_one_line_and_a_defect_keeps_its_traceback(capsys, monkeypatch):
    monkeypatch.delenv("TIANKONG_DEBUG", raising=False)

    def user_error(_: list[str]) -> int:
        raise FileNotFoundError("pages.warc:\nno such file")

    def defect(_: list[str]) -> int:
        raise KeyError("x")

    commands = {"read": (user_error, "reads"), "break": (defect, "breaks")}
    assert run_commands("test", commands, ["read"]) == 1
    assert capsys.readouterr().err == "error: pages.warc: no such file\n"
    with pytest.raises(KeyError):
        run_commands("test", commands, ["break"])
    assert run_commands("test", commands, ["rad"]) == 2
    assert "it has read, break" in capsys.readouterr().err


def test_figures_as_json_and_as_lines(capsys):
    print_figures({"zh": {"documents": 3}, "share": 0.25}, as_json=True)
    assert capsys.readouterr().out == '{"zh": {"documents": 3}, "share": 0.25}\n'
    print_figures({"zh": {"documents": 3}, "share": 0.25}, as_json=False)
    assert capsys.readouterr().out.splitlines() == ["zh.documents  3", "share         0.25"]


def test_a_field_of_a_lists_entry_can_be_changed(tmp_path: Path) -> None:
    text = "name: x\nsources: [{path: a}, {path: b}]\n"
    words = (
        "--sources.1.kind",
        "code",
        "--name",
        "y",
        "--sources.0.limits.shortest=7",
        "--sources.1.limits.rate",
        "2e-3",
    )
    config = read(tmp_path, text, *words).config
    assert config == Settings(
        name="y",
        sources=[Source(path="a", limits=Limits(shortest=7)), Source(path="b", kind="code", limits=Limits(rate=2e-3))],
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--sources.2.path", "c"), "--sources.2.path: the file has no sources.2 to change"),
        (("--sources.0.colour", "red"), "sources[0].colour: no such key"),
        (("--sources.0.kind", "verse"), "sources[0].kind: "),
        (("--sources.0.path",), "--sources.0.path: expected a value"),
        (("--sources", "[]"), "--sources: a list is written in the YAML file"),
        (("--sources.0.kind", "[verse"), "--sources.0.kind: not YAML"),
        (("--sources.1.parts.0", "x"), "--sources.1.parts.0: give the whole list, as --sources.1.parts '[...]'"),
    ],
)
def test_a_wrong_change_of_a_list_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(SystemExit):
        read(tmp_path, "name: x\nsources: [{path: a}, {path: b, parts: [p]}]\n", *words)
    [line] = capsys.readouterr().err.splitlines()
    assert expected in line


@pytest.mark.parametrize("value", ["0", "-3", "x", "1.5"])
def test_a_number_that_must_be_positive_is(capsys: pytest.CaptureFixture[str], value: str) -> None:
    parser = Parser("test", "A test.", None)
    parser.add_argument("--limit", type=PositiveInt)
    assert parser.read(["--limit", "12"]).limit == 12
    with pytest.raises(SystemExit):
        parser.read(["--limit", value])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --limit: Not of type PositiveInt: ")
    assert value in line


def test_a_dash_may_stand_for_an_underscore() -> None:
    parser = Parser("test", "A test.", None)
    parser.add_argument("--max_tokens", type=int)
    assert parser.read(["--max-tokens", "3"]).max_tokens == 3
    assert parser.read(["--max-tokens=4"]).max_tokens == 4
