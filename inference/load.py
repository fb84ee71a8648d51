"""A run folder's model and tokenizer, ready to compute: reads weights and config.yaml, and nothing of the trainer."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import yaml

from model.block_inputs import SparseMode
from model.build import build_model
from model.config import ModelConfig
from model.transformer import Transformer
from model.weights import load_weights
from objectives.config import BlankInfillingConfig, CausalConfig, ObjectiveConfig
from tokenizer.load import Tokenizer, load_tokenizer

_CHECKPOINT = re.compile(r"step-(\d{6,})")
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
        if (match := _CHECKPOINT.fullmatch(path.name))
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
    folder, place = Path(run), find_device(device)
    checkpoint = find_checkpoint(folder, step)
    done = int(checkpoint.name.removeprefix("step-"))
    settings = _read_settings(checkpoint / "config.yaml", done)
    model = build_model(settings.model, device, settings.seed)
    load_weights(model, checkpoint)
    if settings.rope_base is not None:
        model.set_rope_base(settings.rope_base)
    model.set_sparse_attention(settings.sparse_attention)
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(f"{folder / 'tokenizer'}: {tokenizer.vocab_size} ids, the model has {model.config.vocab_size}")
    return LoadedRun(
        folder=folder,
        step=done,
        seed=settings.seed,
        model=model.eval(),
        tokenizer=tokenizer,
        objective=settings.objective,
        window=settings.window,
        device=place,
    )


def find_device(name: str) -> torch.device:
    """The device of that name; ValueError where this torch has none."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # an AssertionError from a torch without CUDA
        raise ValueError(f"--device {name}: not to be used here: {str(error).splitlines()[0]}") from None


def load_untrained(run: LoadedRun) -> Transformer:
    """The run's model with the random weights of its seed, from which it was trained unless it began with others."""
    return build_model(run.model.config, run.device, run.seed).eval()


@dataclass(frozen=True)
class _Settings:
    """What a checkpoint's config.yaml says of its model at its step."""

    model: ModelConfig
    seed: int
    objective: ObjectiveConfig
    window: int
    rope_base: float | None
    """Base that a stage has set; None keeps the model's."""
    sparse_attention: SparseMode


def _read_settings(path: Path, step: int) -> _Settings:
    """Of the stage that the run was in after `step` steps. ValueError names the file where it is damaged."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        stages = config["stages"]
        ends = itertools.accumulate(int(stage["steps"]) for stage in stages)
        number = next((index for index, end in enumerate(ends) if step <= end), len(stages) - 1)
        stage = stages[number]
        bases = [earlier.get("rope_base") for earlier in stages[: number + 1]]
        return _Settings(
            model=ModelConfig.from_dict(config["model"]),
            seed=int(config["seed"]),
            objective=_objective(stage["objective"]),
            window=int(stage["data"]["window"]),
            rope_base=next((float(base) for base in reversed(bases) if base is not None), None),
            sparse_attention=stage.get("sparse_attention", "off"),
        )
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path}: not the configuration of a run: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: not the configuration of a run: {error}") from error


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
        raise ValueError(f"objective: no such key {', '.join(unknown)}")
    return config(**values)
