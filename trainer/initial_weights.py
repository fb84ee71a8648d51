"""Weights that a new run begins with: another run's, a Hugging Face folder's, or GLM-130B's released files.

Step, optimiser, order of samples and schedule are the new run's own. What a source does not have and a model may gain
(MTP's layers, indexers) keeps its fresh weights; what of these it has and the model does without is passed over. A
configuration or tokenizer that does not fit is a ValueError of one line.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from torch import Tensor
from torch.distributed.tensor import DTensor

from model.config import ModelConfig
from model.hugging_face import import_hugging_face, read_config
from model.sat import import_sat
from model.transformer import Transformer
from model.weights import TensorFolder, fill
from trainer.checkpoints import NAME, last_whole, step_of, verify
from trainer.config import RunConfig

SAT_FILES = "mp_rank_*_model_states.pt"

# Parts of a model that may be there or not, and how their tensors are called.
OPTIONAL = re.compile(r"^mtp\.|\.indexer\.")
OPTIONAL_KEYS = ("mtp", "attention.indexer")

# Settings that decide neither the weights' shapes nor what a trained weight means.
MAY_DIFFER = (
    "max_positions",
    "compute_dtype",
    "dropout",
    "embedding_gradient_shrink",
    "shrink_logit_gradient",
    "initialisation",
    "position.rope_base",
    "attention.dropout",
    "attention.backend",
    "experts.backend",
    "experts.bias_update_rate",
    "experts.balance_loss_weight",
    "experts.z_loss_weight",
)


Shapes = Mapping[str, tuple[int, ...]]
Load = Callable[[str], Tensor]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights under our names."""

    name: str
    """What a message calls them."""
    config: ModelConfig | None
    """The configuration that they were trained with; None where the files hold none."""
    tokenizer: Path | None
    """A folder that may hold their tokenizer.json."""
    read: Callable[[], tuple[Shapes, Load]]
    """Opens the weights: the shapes that there are, and a function that gives one tensor."""


def check_initial(config: RunConfig, tokenizer: Path) -> list[str]:
    """Refuse weights of another model or vocabulary, without reading them; returns notes on what else differs.

    tokenizer: the folder of the new run's tokenizer.
    """
    first = config.stages[0].rope_base
    model = config.model if first is None else _with_rope_base(config.model, first)
    found = find_source(Path(config.init_from), model)
    _check_tokenizer(found, tokenizer)
    return _check_config(found, model)


def load_initial(model: Transformer, config: RunConfig, tokenizer: Path, say: Callable[[str], None]) -> None:
    """Fill `model`, sharded or not, with the weights that `config.init_from` names, and say what was done.

    That is a run folder (its last whole checkpoint), one checkpoint of it, a Hugging Face folder, or a folder of
    SwissArmyTransformer's `mp_rank_NN_model_states.pt`.
    """
    notes = check_initial(config, tokenizer)
    found = find_source(Path(config.init_from), config.model, say)
    there, load_theirs = found.read()
    state = model.state_dict()
    fresh = {name for name in state.keys() - there.keys() if OPTIONAL.search(name)}
    passed = {name for name in there.keys() - state.keys() if OPTIONAL.search(name)}
    shapes = {name: shape for name, shape in there.items() if name not in passed}
    shapes |= {name: tuple(state[name].shape) for name in fresh}

    def load(name: str) -> Tensor:
        if name not in fresh:
            return load_theirs(name).float()
        value = state[name]
        return value.full_tensor() if isinstance(value, DTensor) else value

    fill(model, shapes, load, found.name)
    notes += [f"{len(fresh)} tensors that it lacks are fresh"] if fresh else []
    notes += [f"{len(passed)} of its tensors (MTP, indexers) are passed over"] if passed else []
    say("; ".join([f"weights from {found.name}", *notes]))


def find_source(source: Path, config: ModelConfig, say: Callable[[str], None] = lambda _: None) -> Source:
    """What `source` holds, whichever kind of folder it is; FileNotFoundError says what kinds there are.

    say: hears of damaged checkpoints that are passed over.
    """
    if (source / "checkpoints").is_dir():
        checkpoint = last_whole(source, say)
        if checkpoint is None:
            raise FileNotFoundError(f"{source / 'checkpoints'}: holds no checkpoint; train that run first")
        return _checkpoint(checkpoint)
    if NAME.fullmatch(source.name) and (source / "config.yaml").is_file():
        verify(source)
        return _checkpoint(source)
    if (source / "config.json").is_file():

        def read() -> tuple[Shapes, Load]:
            return _whole(import_hugging_face(source, with_mtp=_has_mtp(source)))

        return Source(name=str(source), config=read_config(source), tokenizer=source, read=read)
    ranks = sorted(source.glob(SAT_FILES)) if source.is_dir() else []
    if ranks:
        return Source(name=str(source), config=None, tokenizer=None, read=lambda: _whole(import_sat(ranks, config)))
    raise FileNotFoundError(
        f"{source}: no weights to begin with (init_from): expected a run folder, one of its checkpoints, a Hugging "
        f"Face folder (config.json) or a folder of {SAT_FILES}"
    )


def _checkpoint(folder: Path) -> Source:
    path = folder / "config.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = ModelConfig.from_dict(values["model"])
        bases = [stage.get("rope_base") for stage in _stages_until(values["stages"], step_of(folder))]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the configuration of a run: {error}") from error

    for base in filter(None, bases):
        config = _with_rope_base(config, float(base))

    def read() -> tuple[Shapes, Load]:
        tensors = TensorFolder(folder)
        return {name: tensors.shape(name) for name in tensors.names}, tensors.load

    return Source(name=str(folder), config=config, tokenizer=folder.parents[1] / "tokenizer", read=read)


def _stages_until(stages: list[dict], step: int) -> list[dict]:
    """The stages that a run had begun when it had done `step` steps."""
    begins = itertools.accumulate((int(stage["steps"]) for stage in stages), initial=0)
    return [stage for stage, begin in zip(stages, begins, strict=False) if begin < max(step, 1)]


def _with_rope_base(config: ModelConfig, base: float) -> ModelConfig:
    return dataclasses.replace(config, position=dataclasses.replace(config.position, rope_base=base))


def _whole(model: Transformer) -> tuple[Shapes, Load]:
    """A model that was read whole."""
    tensors = model.state_dict()
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}, tensors.__getitem__


def _has_mtp(folder: Path) -> bool:
    """Whether a Hugging Face folder holds MTP's layers, which one that transformers wrote leaves out."""
    config = read_config(folder)
    return any(name.startswith(f"model.layers.{config.num_layers}.") for name in TensorFolder(folder).names) or (
        config.mtp.num_layers > 0 and any(name.startswith("mtp.") for name in TensorFolder(folder).names)
    )


def _leaves(values: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _used(config: ModelConfig) -> dict[str, object]:
    """The settings that this kind of model reads, by their paths."""
    unread: list[str] = [*OPTIONAL_KEYS]
    latent = config.attention.kind == "latent"
    unread += ["attention.head_dim", "attention.num_key_value_heads", "attention.qk_norm"] if latent else []
    unread += [] if latent else ["attention.latent"]
    unread += [] if config.experts.num_experts else ["experts"]
    values = {key: value for key, value in _leaves(dataclasses.asdict(config)) if not _among(key, tuple(unread))}
    return values | ({} if latent else {"attention.num_key_value_heads": config.attention.key_value_heads})


def _among(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in keys)


def _check_config(source: Source, config: ModelConfig) -> list[str]:
    """Refuse weights of another model; what else differs comes back as notes."""
    if source.config is None:
        return []
    theirs, notes = _used(source.config), []
    for key, ours in _used(config).items():
        if key not in theirs or theirs[key] == ours:  # a key that only one of two kinds reads follows the kind's
            continue
        if not _among(key, MAY_DIFFER):
            raise ValueError(
                f"{source.name}: not weights of this model: model.{key} is {theirs[key]!r} there and {ours!r} here"
            )
        if key == "position.rope_base":
            notes.append(f"RoPE's base is {ours:g} here, it was trained with {theirs[key]:g}")
    return notes


def _check_tokenizer(source: Source, tokenizer: Path) -> None:
    """Refuse weights that belong to another vocabulary, where their folder tells."""
    name = "tokenizer.json"
    if source.tokenizer is None or not (source.tokenizer / name).is_file():
        return
    theirs, ours = (_vocabulary(folder / name) for folder in (source.tokenizer, tokenizer))
    if theirs != ours:
        raise ValueError(
            f"{source.tokenizer / name}: the weights' tokenizer is not {tokenizer}, so their ids mean other tokens; "
            "give that one with --tokenizer"
        )


def _vocabulary(path: Path) -> object:
    """What of a tokenizer.json decides which id a token has."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["model"], [(token["id"], token["content"]) for token in content["added_tokens"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a tokenizer definition: {error!r}") from error
