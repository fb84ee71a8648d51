"""A run's folder: how a run begins there, how one goes on, and what is refused.

config.yaml  metrics.jsonl  tokenizer/  checkpoints/step-NNNNNN/
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tokenizer.load import Tokenizer
from trainer.checkpoints import sweep
from trainer.config import RunConfig, check_same_run, to_yaml


def write_atomically(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def prepare(run: Path, config: RunConfig, tokenizer_folder: Path) -> None:
    """Make the run's folder, or check that the one that is there belongs to this configuration and tokenizer.

    ValueError in one line when it does not. config.yaml is written last, so a folder that has it is complete.
    """
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run}: is a file; --run names a folder")
    if (run / "config.yaml").is_file():
        check_same_run(run, config)
        _check_same_tokenizer(run / "tokenizer", tokenizer_folder)
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
    write_atomically(run / "config.yaml", to_yaml(config))


def _check_same_tokenizer(kept: Path, given: Path) -> None:
    if kept.resolve() == given.resolve():
        return
    name = "tokenizer.json"
    if (given / name).is_file() and (given / name).read_bytes() != (kept / name).read_bytes():
        raise ValueError(f"{given}: not the tokenizer that this run began with, which is {kept}")


def check_data(data: Path, tokenizer: Tokenizer) -> None:
    """Refuse token shards that another tokenizer made, by the digest in the record of the stage tokenize."""
    record = data / "stage.json"
    if not (data / "train").is_dir():
        raise FileNotFoundError(f"{data}: no token shards (a folder train/); run `python -m data tokenize` first")
    if not record.is_file():
        raise FileNotFoundError(
            f"{record}: missing, so nobody can tell which tokenizer made the shards; tokenize again"
        )
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{record}: not JSON: {error}; tokenize again") from error
    digest = _find(content, "tokenizer_digest")
    if digest is not None and digest != tokenizer.digest:
        raise ValueError(
            f"{data}: its shards were made with another tokenizer (digest {str(digest)[:12]}, the given one has "
            f"{tokenizer.digest[:12]}); give that tokenizer or tokenize again"
        )


def _find(content: object, key: str) -> object:
    """The value of `key` anywhere in nested dictionaries."""
    if not isinstance(content, dict):
        return None
    if key in content:
        return content[key]
    return next((found for value in content.values() if (found := _find(value, key)) is not None), None)
