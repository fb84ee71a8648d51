"""Import of GLM-130B checkpoints as SwissArmyTransformer (SAT) writes them: `mp_rank_NN_model_states.pt`, one a tensor-
parallel rank.

The names are in `model/checkpoint_names.py`. Ranks hold whole heads of attention, equal parts of the feed-forward and
of the vocabulary, and copies of norms and of biases behind a sum; of GeGLU's projection each rank holds its part of
both halves. Files are read by `torch.load(weights_only=True)`, which executes nothing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from model.build import build_model
from model.checkpoint_names import SAT_LAYER, SAT_MODEL, SAT_QUERY_KEY_VALUE
from model.config import ModelConfig
from model.transformer import Transformer
from model.weights import fill, named_list

IGNORED_SUFFIX = "rotary_emb.inv_freq"
"""A buffer that follows from the configuration."""

Shards = Sequence[Tensor]


def _copies(shards: Shards) -> Tensor:
    return shards[0]


def _rows(shards: Shards) -> Tensor:
    return torch.cat(list(shards), dim=0)


def _columns(shards: Shards) -> Tensor:
    return torch.cat(list(shards), dim=1)


def _rows_of_both_halves(shards: Shards) -> Tensor:
    halves = [shard.chunk(2) for shard in shards]
    return torch.cat([first for first, _ in halves] + [second for _, second in halves])


MERGES: tuple[tuple[str, Callable[[Shards], Tensor]], ...] = (
    ("word_embeddings.weight", _rows),
    ("attention.query_key_value.weight", _rows),
    ("attention.query_key_value.bias", _rows),
    ("attention.dense.weight", _columns),
    ("mlp.dense_h_to_4h.weight", _rows_of_both_halves),
    ("mlp.dense_h_to_4h.bias", _rows_of_both_halves),
    ("mlp.dense_4h_to_h.weight", _columns),
)
"""How the shards of a tensor whose name ends so are put together; every other tensor is held whole by each rank."""


def import_sat(paths: Sequence[str | Path], config: ModelConfig, *, device: str = "cpu") -> Transformer:
    """A model with float32 weights from the files of all tensor-parallel ranks, in their order.

    config: the GLM-130B configuration of the checkpoint, which does not hold one. Raises ValueError for a tensor that
    is missing, left over or of another shape (named), and for a file that is no such checkpoint.
    """
    ranks = [_read(Path(path)) for path in paths]
    if not ranks:
        raise ValueError("no checkpoint files given: name mp_rank_00_model_states.pt and its fellows")
    origin = str(Path(paths[0]).parent)
    for path, rank in zip(paths, ranks, strict=True):
        if rank.keys() != ranks[0].keys():
            raise ValueError(
                f"{path}: holds other tensors than {paths[0]}: {named_list(rank.keys() ^ ranks[0].keys())}"
            )

    def merged(name: str) -> Tensor:
        shapes = {tuple(rank[name].shape) for rank in ranks}
        if len(shapes) > 1:
            one, other, *_ = sorted(shapes, reverse=True)
            raise ValueError(f"{origin}: {name} has shape {one} in one rank and {other} in another")
        merge = next((merge for suffix, merge in MERGES if name.endswith(suffix)), _copies)
        return merge([rank[name] for rank in ranks]).float()

    offered = _translated(set(ranks[0]), config, merged, origin)
    model = build_model(config, device="meta").to_empty(device=device)
    for name, buffer in model.named_buffers():
        buffer.fill_(config.embedding_gradient_shrink if name == "embedding_gradient_shrink" else 0.0)
    fill(model, {name: tuple(tensor.shape) for name, tensor in offered.items()}, offered.__getitem__, origin)
    return model


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file fails in the reader in a dozen ways, an OSError or KeyError without the file's name among them.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: not a checkpoint of tensors alone, or not a whole one ({reason})") from error
    module = content.get("module") if isinstance(content, dict) else None
    if not isinstance(module, dict):
        raise ValueError(f"{path}: not a SAT checkpoint, which has its tensors under the key module")
    return {
        name: tensor
        for name, tensor in module.items()
        if isinstance(tensor, Tensor) and not name.endswith(IGNORED_SUFFIX)
    }


def _translated(
    names: set[str], config: ModelConfig, merged: Callable[[str], Tensor], origin: str
) -> dict[str, Tensor]:
    """Our names and tensors; query, key and value apart."""
    rows = list(SAT_MODEL)
    fused: dict[str, str] = {}
    for index in range(config.num_layers):
        ours, theirs = f"layers.{index}.", f"transformer.layers.{index}."
        rows += [row.within(ours, theirs) for row in SAT_LAYER]
        fused |= {
            f"{theirs}{SAT_QUERY_KEY_VALUE}.{kind}": f"{ours}self_attn.{{}}.{kind}" for kind in ("weight", "bias")
        }
    wanted = {row.theirs[0] for row in rows} | fused.keys()
    if wanted != names:
        missing, left_over = wanted - names, names - wanted
        what = [f"misses {named_list(missing)}"] if missing else []
        what += [f"has {named_list(left_over)}, for which the configuration has no place"] if left_over else []
        raise ValueError(f"{origin}: {'; '.join(what)}")
    result = {row.ours: merged(row.theirs[0]) for row in rows}
    for theirs, ours in fused.items():
        tensor = merged(theirs)
        if tensor.shape[0] != 3 * config.attention.num_heads * config.attention.head_dim:
            raise ValueError(f"{origin}: {theirs} has shape {tuple(tensor.shape)}, not three of the heads' widths")
        by_head = tensor.unflatten(0, (config.attention.num_heads, 3, config.attention.head_dim))
        for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
            result[ours.format(name)] = by_head[:, part].flatten(0, 1)
    return result
