"""A run folder's model and tokenizer, ready to compute: reads weights and config.yaml, and nothing of the trainer."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import yaml

from model.build import build_model
from model.config import ModelConfig
from model.transformer import Transformer
from model.weights import load_weights
from objectives.config import BlankInfillingConfig, CausalConfig, ObjectiveConfig
from tokenizer.load import Tokenizer, load_tokenizer

CHECKPOINT = re.compile(r"step-(\d{6,})")
_C = TypeVar("_C")


@dataclass(frozen=True, kw_only=True)
class LoadedRun:
    """A model as a checkpoint has it, and what is needed to use it."""

    folder: Path
    """The run's folder."""
    step: int
    """Steps it was trained for."""
    seed: int
    """Seed of its initial weights."""
    model: Transformer
    """The model, in evaluation mode."""
    tokenizer: Tokenizer
    """The run's tokenizer."""
    objective: ObjectiveConfig
    """What the checkpoint's stage trained."""
    window: int
    """Positions of a row in that stage."""
    device: torch.device
    """Where the model is."""


def find_checkpoint(run: Path, step: int | None = None) -> Path:
    """The checkpoint of `step`, or the last one; FileNotFoundError says which there are."""
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder")
    folder = run / "checkpoints"
    found = {
        int(match[1]): path
        for path in (folder.iterdir() if folder.is_dir() else [])
        if (match := CHECKPOINT.fullmatch(path.name))
    }
    if not found:
        raise FileNotFoundError(f"{folder}: holds no checkpoint; train the run first")
    if step is None:
        return found[max(found)]
    if step not in found:
        raise FileNotFoundError(
            f"{folder}: no checkpoint of step {step}; there are {', '.join(map(str, sorted(found)))}"
        )
    return found[step]


def load_run(run: str | Path, step: int | None = None, device: str = "cpu") -> LoadedRun:
    """Load a checkpoint of a run folder.

    Raises FileNotFoundError where something is missing and ValueError where something is damaged or does not fit.
    """
    folder = Path(run)
    checkpoint = find_checkpoint(folder, step)
    path = checkpoint / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    if not isinstance(config, Mapping) or not config.get("model") or not config.get("stages"):
        raise ValueError(f"{path}: not the configuration of a run: it needs model and stages")
    done = int(CHECKPOINT.fullmatch(checkpoint.name)[1])  # type: ignore[index]
    stage = _stage_at(config["stages"], done)
    model = build_model(ModelConfig.from_dict(config["model"]), device, config["seed"])
    load_weights(model, checkpoint)
    for earlier in config["stages"]:
        if earlier.get("rope_base"):
            model.set_rope_base(earlier["rope_base"])
        if earlier is stage:
            break
    model.set_sparse_attention(stage.get("sparse_attention", "off"))
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(f"{folder / 'tokenizer'}: {tokenizer.vocab_size} ids, the model has {model.config.vocab_size}")
    return LoadedRun(
        folder=folder,
        step=done,
        seed=int(config["seed"]),
        model=model.eval(),
        tokenizer=tokenizer,
        objective=_objective(stage["objective"]),
        window=int(stage["data"]["window"]),
        device=torch.device(device),
    )


def load_untrained(run: LoadedRun) -> Transformer:
    """The run's model as it was before its first step: its initial weights follow from the seed."""
    return build_model(run.model.config, run.device, run.seed).eval()


def _stage_at(stages: list[dict], step: int) -> dict:
    """The stage that a run was in after `step` steps."""
    end = 0
    for stage in stages:
        end += int(stage["steps"])
        if step <= end:
            return stage
    return stages[-1]


def _objective(values: Mapping) -> ObjectiveConfig:
    return ObjectiveConfig(
        kind=values["kind"],
        blank_infilling=_known(BlankInfillingConfig, values.get("blank_infilling", {})),
        causal=_known(CausalConfig, values.get("causal", {})),
    )


def _known(config: type[_C], values: Mapping) -> _C:
    names = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - names)
    if unknown:
        raise ValueError(f"config.yaml: objective: no such key {', '.join(unknown)}")
    return config(**values)
