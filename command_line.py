"""What the five command lines share: a parser made from a configuration's dataclasses, and errors in one line.

The keyword-only dataclasses are the only definition of a configuration: the YAML's schema, the flags `--a.b.c`,
`--help` and the messages below all come from them, through jsonargparse. This is the only file that imports that
library, and only the `__main__.py` files import this one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings
from jsonargparse.typing import PositiveInt as PositiveInt  # the `type` of arguments that count something

Command = Callable[[list[str]], "int | None"]

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class UsageError(Exception):
    """A command line or configuration file that cannot be used; the message is one line for whoever wrote it."""


class Parser:
    """Reads `--config FILE`, every field of a configuration as `--a.b.c VALUE`, and a command's own arguments."""

    def __init__(self, prog: str, description: str, config: type | None = None) -> None:
        self._config = config
        self._parser = ArgumentParser(prog=prog, description=description, exit_on_error=False, default_env=False)
        self._own: list[str] = []
        if config is not None:
            self._parser.add_argument("--config", action="config", help="YAML file with the fields below")
            self._parser.add_class_arguments(config)
            for name in _list_fields(config):
                for action in self._parser._actions:
                    if action.dest == name or action.dest.startswith(f"{name}."):
                        action.help = argparse.SUPPRESS

    def add_argument(self, *names: str, **options: typing.Any) -> None:
        """Add an argument of the command's own; the same call as argparse's."""
        action = self._parser.add_argument(*names, **options)
        self._own.append(action.dest)

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """The command's own arguments, and `config`: the complete configuration (None without a configuration class).

        Exits with 2 and one line that names the file, the key and what was expected.
        """
        try:
            return self._read(list(argv))
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    def _read(self, argv: list[str]) -> argparse.Namespace:
        argv = [self._spelled(word) for word in argv]
        file = _value_of("--config", argv) if self._config is not None else None
        if self._config is not None:
            argv, changes = _take_list_changes(argv, _list_fields(self._config))
            if changes and file is None:
                raise UsageError(f"--{changes[0][0]}: changes an entry of a list in a --config FILE, and none is given")
            if file is not None:
                content = _read_file(Path(file))
                for name, value in changes:
                    _change(content, name, value)
                _check_keys(Path(file), content, self._config, "")
                if changes:  # the library reads a file or its text
                    text = yaml.safe_dump(content, allow_unicode=True)
                    place = max(n for n, word in enumerate(argv) if word.partition("=")[0] == "--config")
                    argv[place : place + (1 if "=" in argv[place] else 2)] = ["--config", text]
        try:
            parsed = self._parser.instantiate(self._parser.parse_args(argv))
            values = {name: parsed[name] for name in self._own}
            config = None
            if self._config is not None:
                config = _build(self._config, parsed)
        except (argparse.ArgumentError, ValueError, TypeError) as error:
            raise UsageError(_explain(str(error), file, argv)) from error
        return argparse.Namespace(config=config, **values)

    def _spelled(self, word: str) -> str:
        """A flag as it was defined: `--init-from` may be written for `--init_from`."""
        name, equals, value = word.partition("=")
        underscored = "--" + name.removeprefix("--").replace("-", "_")
        known = self._parser._option_string_actions
        return word if name in known or underscored not in known else f"{underscored}{equals}{value}"


def run_commands(prog: str, commands: Mapping[str, tuple[Command, str]], argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; a user's error is one line, a defect keeps its traceback.

    With `TIANKONG_DEBUG=1` a user's error shows where it was raised.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {prog} COMMAND [--help]\n")
        width = max(map(len, commands))
        print("\n".join(f"  {name:<{width}}  {help_line}" for name, (_, help_line) in commands.items()))
        return 0 if words else 2
    if words[0] not in commands:
        print(f"error: {prog} has no command {words[0]!r}; it has {', '.join(commands)}", file=sys.stderr)
        return 2
    try:
        return commands[words[0]][0](words[1:]) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("TIANKONG_DEBUG"):
            raise
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        return 1


def print_figures(figures: Mapping[str, typing.Any], as_json: bool) -> None:
    """Print a command's figures: one JSON object, or a line each with nested names joined by dots."""
    if as_json:
        print(json.dumps(figures, ensure_ascii=False))
        return
    lines = list(_flatten(figures, ""))
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        print(f"{name:<{width}}  {f'{value:,.4g}' if isinstance(value, float) else value}")


def _flatten(figures: Mapping[str, typing.Any], prefix: str) -> typing.Iterator[tuple[str, typing.Any]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _build(config: type, parsed: Mapping[str, typing.Any]) -> typing.Any:
    return config(**{field.name: parsed[field.name] for field in dataclasses.fields(config)})


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    """The last value given to `flag`, as `--flag value` or `--flag=value`."""
    value = None
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word == flag and following is not None:
            value = following
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
    return value


def _dataclass_in(hint: typing.Any) -> type | None:
    """The one dataclass that a type hint holds (itself, or beside None), or None."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    found = [member for member in members if isinstance(member, type) and dataclasses.is_dataclass(member)]
    return found[0] if len(found) == 1 else None


def _element_class(hint: typing.Any) -> type | None:
    """The dataclass of which a list hint holds elements, or None."""
    arguments = typing.get_args(hint)
    return _dataclass_in(arguments[0]) if typing.get_origin(hint) in (list, tuple) and arguments else None


def _list_fields(config: type) -> list[str]:
    """Fields that are lists of dataclasses, such as a run's stages: they have no single value a flag could mean."""
    return [name for name, hint in typing.get_type_hints(config).items() if _element_class(hint)]


def _take_list_changes(argv: list[str], lists: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The words without `--stages.0.steps 5` and its like, and those as names and values."""
    rest: list[str] = []
    changes: list[tuple[str, str]] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name.split(".")[0] not in lists:
            rest.append(word)
            continue
        if not re.fullmatch(r"\w+\.\d+\.[\w.]+", name):
            first = name.split(".")[0]
            raise UsageError(
                f"--{first}: a list is written in the YAML file; a field of its first entry is --{first}.0.FIELD VALUE"
            )
        value = value if equals else next(words, "")
        if not value:
            raise UsageError(f"--{name}: expected a value")
        changes.append((name, value))
    return rest, changes


def _change(content: typing.Any, name: str, value: str) -> None:
    """Set the field of a list's entry that `name` (`stages.0.schedule.peak`) leads to."""
    *path, last = name.split(".")
    node = content
    for number, key in enumerate(path):
        entry: typing.Any = None
        if isinstance(node, list):
            entry = node[int(key)] if key.isdigit() and int(key) < len(node) else None
        elif isinstance(node, dict):
            entry = node.setdefault(key, {}) if number > 1 else node.get(key)
        if not isinstance(entry, list | dict):
            raise UsageError(f"--{name}: the file has no {'.'.join(path[: number + 1])} to change")
        node = entry
    if isinstance(node, list):
        raise UsageError(f"--{name}: give the whole list, as --{name.rpartition('.')[0]} '[...]'")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--{name}: not YAML: {_one_line(str(error))}") from error
    if isinstance(node[last], str):  # YAML takes 2e-3 for a word
        with contextlib.suppress(ValueError):
            node[last] = float(value)


def _read_file(path: Path) -> typing.Any:
    """A configuration file's content; refused where it is absent or no YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {_one_line(str(error))}") from error


def _check_keys(path: Path, node: typing.Any, config: type, prefix: str) -> None:
    if not isinstance(node, dict):
        raise UsageError(f"{path}: {prefix.rstrip('.') or 'the file'}: expected keys and values, got {node!r}")
    hints = typing.get_type_hints(config)
    names = [field.name for field in dataclasses.fields(config)]
    for key, value in node.items():
        if key not in names:
            raise UsageError(f"{path}: {prefix}{key}: no such key; expected one of {', '.join(names)}")
        nested, element = _dataclass_in(hints[key]), _element_class(hints[key])
        if nested is not None and value is not None:
            _check_keys(path, value, nested, f"{prefix}{key}.")
            _check_values(path, value, nested, f"{prefix}{key}.")
        elif element is not None:
            if not isinstance(value, list):
                raise UsageError(f"{path}: {prefix}{key}: expected a list, got {value!r}")
            for index, item in enumerate(value):
                _check_keys(path, item, element, f"{prefix}{key}[{index}].")
                _check_values(path, item, element, f"{prefix}{key}[{index}].")


def _check_values(path: Path, node: dict[str, typing.Any], config: type, prefix: str) -> None:
    """Check one part of a file by itself, so that the message can say which part and which of its keys."""
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_class_arguments(config)
    try:
        _build(config, parser.instantiate(parser.parse_object(node)))
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        key, problem = _split_key(str(error))
        raise UsageError(f"{path}: {prefix}{key}: {problem}" if key else f"{path}: {prefix[:-1]}: {problem}") from error


def _split_key(message: str) -> tuple[str, str]:
    """The key and the problem in one of jsonargparse's messages; it may nest the one within the other."""
    keys = re.findall(r'Parser key "([^"]+)":', message)
    problem = re.sub(r'Parser key "[^"]+":|Problem with given class_path \S+', "", message)
    problem = re.sub(r"<class '([\w.]+)'>|typing\.(?=Literal)", r"\1", _one_line(problem))
    return ".".join(keys), problem


def _explain(message: str, file: str | None, argv: Sequence[str]) -> str:
    key, problem = _split_key(message)
    if not key:
        return problem
    on_command_line = any(word.split("=")[0].lstrip("-") in (key, key.split(".")[0]) for word in argv)
    return f"{f'--{key}' if on_command_line or file is None else f'{file}: {key}'}: {problem}"
