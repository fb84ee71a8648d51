"""A run's folder: how a run begins there, how one goes on, and what is refused.

config.yaml  data.json  metrics.jsonl  tokenizer/  checkpoints/step-NNNNNN/
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from data.token_shards import TokenShard, check_tokenizer, find_shards
from tokenizer.load import Tokenizer
from trainer.checkpoints import sweep
from trainer.config import RunConfig, to_yaml

DATA_FILE = "data.json"

# What may differ between the command that began a run and one that goes on with it: it changes no weight.
MAY_CHANGE = (
    *("checkpoint", "log", "devices.threads", "devices.recompute", "evaluation"),
    *("stages.data.heldout_pair_files", "stages.data.prefetch"),
)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def prepare(run: Path, config: RunConfig, tokenizer_folder: Path, data: Path | None = None) -> None:
    """Make the run's folder, or check that the one that is there belongs to this configuration, tokenizer and data.

    ValueError in one line when it does not. config.yaml is written last, so a folder that has it is complete. `data`
    is the folder of token shards, if the run reads any.
    """
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run}: is a file; --run names a folder")
    if (run / "config.yaml").is_file():
        check_same_run(run, config)
        _check_same_tokenizer(run / "tokenizer", tokenizer_folder)
        _check_same_data(run / DATA_FILE, data)
        sweep(run)
        return
    if (run / "checkpoints").is_dir() and any((run / "checkpoints").iterdir()):
        raise ValueError(f"{run}: has checkpoints and no config.yaml; give another --run folder")
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    partial = run / ".tokenizer.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(tokenizer_folder, partial, ignore=shutil.ignore_patterns(".*"))
    shutil.rmtree(run / "tokenizer", ignore_errors=True)
    partial.rename(run / "tokenizer")
    if data is not None:
        write_atomically(run / DATA_FILE, json.dumps(count_data(data), indent=1))
    write_atomically(run / "config.yaml", to_yaml(config))


def count_data(data: Path) -> dict[str, list[int]]:
    """Shards, documents and tokens of each source that is trained on: what decides which text a sample is."""
    counts = {}
    for source, prefixes in find_shards(data / "train").items():
        shards = [TokenShard(prefix) for prefix in prefixes]
        counts[source] = [len(shards), sum(len(shard) for shard in shards), sum(len(shard.tokens) for shard in shards)]
    return counts


def recorded_source(run: Path, config: RunConfig) -> RunConfig:
    """The configuration with the source of the first weights as a whole path, or as the run has recorded it.

    So a command that goes on with a run need not name the source again.
    """
    if config.init_from:
        return dataclasses.replace(config, init_from=str(Path(config.init_from).resolve()))
    if not (run / "config.yaml").is_file():
        return config
    return dataclasses.replace(config, init_from=str(_read_record(run / "config.yaml").get("init_from", "")))


def _read_record(path: Path) -> dict[str, Any]:
    """What a run has written down of how it began (JSON is YAML too); ValueError naming the file if it is damaged."""
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: damaged: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}: damaged: it has no keys and values")
    return record


def _check_same_data(record: Path, data: Path | None) -> None:
    if data is None or not record.is_file():
        return
    begun, found = _read_record(record), count_data(data)
    for source in sorted({*begun, *found}):
        if begun.get(source) != found.get(source):
            was, is_ = (
                "none" if counts is None else "{} shards, {:,} documents, {:,} tokens".format(*counts)
                for counts in (begun.get(source), found.get(source))
            )
            raise ValueError(
                f"{data / 'train' / source}: the run began with {was}, now there are {is_}; its samples would be "
                "others: give that data, or begin a run with --init_from"
            )


def _check_same_tokenizer(kept: Path, given: Path) -> None:
    if kept.resolve() == given.resolve():
        return
    name = "tokenizer.json"
    if (given / name).is_file() and (given / name).read_bytes() != (kept / name).read_bytes():
        raise ValueError(f"{given}: not the tokenizer that this run began with, which is {kept}")


def check_data(data: Path | None, config: RunConfig, tokenizer: Tokenizer) -> None:
    """Refuse token shards that another tokenizer made, by the digest in the record of the stage tokenize."""
    if data is None:
        reading = [stage.name for stage in config.stages if stage.data.reads_shards]
        if reading:
            raise ValueError(f"--data: stage {reading[0]} reads token shards: name the folder of the stage tokenize")
        return
    if not (data / "train").is_dir():
        raise FileNotFoundError(f"{data}: no token shards (a folder train/); run `python -m data tokenize` first")
    check_tokenizer(data, tokenizer.digest)


def first_difference(saved: object, asked: object, path: str = "") -> str | None:
    """The first key on which a saved configuration (plain dictionaries) and an asked one differ, with both values.

    A key that the saved one lacks has its default: the run began before there was such a key.
    """
    key = re.sub(r"\[\d+\]", "", path)
    if any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE):
        return None
    if dataclasses.is_dataclass(asked) and isinstance(saved, dict):
        for one in dataclasses.fields(asked):
            below = f"{path}.{one.name}" if path else one.name
            difference = first_difference(saved.get(one.name, _default(one)), getattr(asked, one.name), below)
            if difference:
                return difference
        unknown = sorted(saved.keys() - {one.name for one in dataclasses.fields(asked)})
        return f"{path}.{unknown[0]}: the run has this key, which this version has not" if unknown else None
    if isinstance(saved, list) and isinstance(asked, list):
        if len(saved) != len(asked):  # whole stages would be pages of text
            return f"{path}: the run has {len(saved)} of them, this command asks for {len(asked)}"
        for index, (left, right) in enumerate(zip(saved, asked, strict=True)):
            difference = first_difference(left, right, f"{path}[{index}]")
            if difference:
                return difference
        return None
    plain = dataclasses.asdict(asked) if dataclasses.is_dataclass(asked) and not isinstance(asked, type) else asked
    return None if saved == plain else f"{path}: the run has {saved!r}, this command asks for {plain!r}"


def _default(one: dataclasses.Field) -> object:
    """A field's default as it would be saved; a missing one is the string that no field has."""
    value = one.default
    if one.default_factory is not dataclasses.MISSING:
        value = one.default_factory()
    if value is dataclasses.MISSING:
        return "nothing"
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def check_same_run(run: Path, config: RunConfig) -> None:
    """Refuse to go on with the run folder `run` under another configuration; ValueError names the key."""
    difference = first_difference(_read_record(run / "config.yaml"), config)
    if difference:
        raise ValueError(f"{run / 'config.yaml'}: {difference}; use the run's value or another --run folder")
