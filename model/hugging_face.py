"""Models in Hugging Face's layout: sharded safetensors under its names, `config.json`, tokenizer files.

GLM-4.5 and GLM-5 models are what transformers' `Glm4MoeForCausalLM` and `GlmMoeDsaForCausalLM` load; MTP's layers stand
under their released names, which transformers passes over. GLM-130B models, which transformers cannot hold, keep our
names (docs/models.md lists them). `model/checkpoint_names.py` is the table.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from model.build import build_model
from model.checkpoint_names import INDEXER, Row, hugging_face_rows, mtp_copies
from model.config import ModelConfig
from model.hugging_face_config import from_hugging_face, model_type_of, to_hugging_face
from model.layers import COMPUTE_DTYPES
from model.transformer import Transformer
from model.weights import SHARD_BYTES, TensorFolder, fill, named_list, save_tensors

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
FLOAT32_SUFFIX = "e_score_correction_bias"
"""Kept in float32 whatever the precision of the rest."""


def export_hugging_face(
    model: Transformer,
    folder: str | Path,
    *,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    tokenizer_folder: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Write a model for transformers; returns the files written.

    tokenizer_folder: its tokenizer files are copied. settings: further entries of config.json, such as eos_token_id
    and pad_token_id, which transformers would otherwise fill with ids of its own. RoPE's base is the one that the model
    has come to. Raises ValueError for a model that no class of theirs holds.
    """
    folder = Path(folder)
    config = replace(model.config, position=replace(model.config.position, rope_base=model.rope_base))
    values = to_hugging_face(config, dtype) | {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    written = save_tensors(_exported(model, COMPUTE_DTYPES[dtype]), folder, shard_bytes)
    temporary = folder / ".config.json"
    temporary.write_text(json.dumps(values | dict(settings or {}), indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "config.json")
    written.append(folder / "config.json")
    for name in TOKENIZER_FILES if tokenizer_folder else ():
        source = Path(str(tokenizer_folder)) / name
        if source.exists():
            shutil.copyfile(source, folder / f".{name}")
            os.replace(folder / f".{name}", folder / name)
            written.append(folder / name)
    return written


def _exported(model: Transformer, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Their names and tensors, one of ours at a time."""
    config = model.config
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}

    def cast(name: str, tensor: Tensor) -> Tensor:
        return tensor if name.endswith(FLOAT32_SUFFIX) else tensor.to(dtype)

    if model_type_of(config) == "tiankong":
        yield from ((name, cast(name, _whole(tensor))) for name, tensor in state.items())
        return
    for row in hugging_face_rows(config):
        tensor = _whole(state[row.ours])
        for name, part in _taken_apart(row, tensor):
            yield name, cast(name, part)
    for name, ours in mtp_copies(config).items():
        if ours in state:
            yield name, cast(name, _whole(state[ours])).clone()
    if config.attention.kind == "latent" and config.attention.indexer.num_heads == 0:
        yield from ((name, tensor.to(dtype)) for name, tensor in _blank_indexers(config))


def _blank_indexers(config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Indexers of zeros for `to_hugging_face`'s stand-in configuration (one head as wide as the rotated part)."""
    latent = config.attention.latent
    width = latent.qk_rope_head_dim
    shapes = ((width, latent.q_lora_rank), (width, config.hidden_size), (width,), (width,), (1, config.hidden_size))
    for layer in range(config.num_layers + config.mtp.num_layers):
        for row, shape in zip(INDEXER, shapes, strict=True):
            yield f"model.layers.{layer}.{row.ours}", torch.zeros(shape)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _taken_apart(row: Row, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Their tensors of one of ours. Copies, since safetensors writes no views of one storage twice."""
    stacked = "{expert}" in row.theirs[0]
    for expert, matrix in enumerate(tensor if stacked else (tensor,)):
        for name, part in zip(row.theirs, matrix.chunk(len(row.theirs)), strict=True):
            yield name.replace("{expert}", str(expert)), part.clone()


def import_hugging_face(folder: str | Path, *, device: str = "cpu", with_mtp: bool = True) -> Transformer:
    """Read a folder in Hugging Face's layout into a model with float32 weights.

    with_mtp=False passes over MTP's layers, which a folder that transformers itself wrote does not have. Raises
    FileNotFoundError or ValueError: no config.json or one of another model, a tensor missing, left over or of another
    shape (named), a damaged file.
    """
    folder = Path(folder)
    config = read_config(folder)
    mtp_layers = range(config.num_layers, config.num_layers + config.mtp.num_layers)
    skipped = () if with_mtp else tuple(f"model.layers.{layer}." for layer in mtp_layers)
    config = config if with_mtp else replace(config, mtp=replace(config.mtp, depth=0))
    model = build_model(config, device="meta").to_empty(device=device)
    _reset_buffers(model, config)
    tensors = TensorFolder(folder)
    if model_type_of(config) == "tiankong":
        fill(model, {name: tensors.shape(name) for name in tensors.names}, tensors.load, str(folder))
        return model
    names = {name for name in tensors.names if not name.startswith(skipped)} if skipped else tensors.names
    rows = hugging_face_rows(config)
    _require_tensors(model, rows, tensors, names, folder)
    by_ours = {row.ours: row for row in rows}
    state = model.state_dict()
    shapes = {name: tuple(state[name].shape) for name in by_ours}
    fill(model, shapes, lambda name: _put_together(by_ours[name], config, tensors.load), str(folder))
    _require_equal_copies(config, tensors, by_ours, folder)
    return model


def read_config(folder: str | Path) -> ModelConfig:
    """Our configuration of a folder's config.json."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing; a folder in Hugging Face's layout has it")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected an object of settings")
    try:
        return from_hugging_face(values)
    except ValueError as error:
        raise ValueError(f"{path.parent}: {error}") from error


def _reset_buffers(model: Transformer, config: ModelConfig) -> None:
    for name, buffer in model.named_buffers():
        buffer.fill_(config.embedding_gradient_shrink if name == "embedding_gradient_shrink" else 0.0)


def _require_tensors(model: Transformer, rows: list[Row], tensors: TensorFolder, names: set[str], folder: Path) -> None:
    """Every tensor of theirs is there, none is left over, each has the shape that the configuration says."""
    state = model.state_dict()
    wanted: dict[str, tuple[int, ...]] = {}
    for row in rows:
        shape = tuple(state[row.ours].shape)
        experts = range(shape[0]) if "{expert}" in row.theirs[0] else range(1)
        first, *rest = shape[1:] if "{expert}" in row.theirs[0] else shape
        for expert in experts:
            for name in row.theirs:
                wanted[name.replace("{expert}", str(expert))] = (first // len(row.theirs), *rest)
    missing, left_over = wanted.keys() - names, names - wanted.keys() - mtp_copies(model.config).keys()
    if missing:
        remedy = ""
        if all(name.startswith(_mtp_prefixes(model.config)) for name in missing):
            remedy = " (all of MTP's layers: with_mtp=False imports without them)"
        raise ValueError(f"{folder}: misses {named_list(missing)}{remedy}")
    if left_over:
        raise ValueError(f"{folder}: has {named_list(left_over)}, for which the configuration has no place")
    for name, shape in wanted.items():
        if tensors.shape(name) != shape:
            raise ValueError(f"{folder}: {name} has shape {tensors.shape(name)}, config.json makes it {shape}")


def _mtp_prefixes(config: ModelConfig) -> tuple[str, ...]:
    return tuple(f"model.layers.{config.num_layers + depth}." for depth in range(config.mtp.num_layers))


def _put_together(row: Row, config: ModelConfig, load: Callable[[str], Tensor]) -> Tensor:
    if "{expert}" not in row.theirs[0]:
        return torch.cat([load(name) for name in row.theirs])
    experts = range(config.experts.num_experts)
    return torch.stack([torch.cat([load(name.replace("{expert}", str(e))) for name in row.theirs]) for e in experts])


def _require_equal_copies(config: ModelConfig, tensors: TensorFolder, rows: dict[str, Row], folder: Path) -> None:
    """MTP shares the embedding and the output, so its copies on disk must be copies."""
    for name, ours in mtp_copies(config).items():
        if name in tensors.names and ours in rows:
            original = rows[ours].theirs[0]
            if not torch.equal(tensors.load(name), tensors.load(original)):
                raise ValueError(f"{folder}: {name} differs from {original}, which MTP shares")
