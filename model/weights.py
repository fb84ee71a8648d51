"""Weights on disk: safetensors, sharded with an index, in the layout that Hugging Face reads.

A folder holds `model.safetensors`, or `model-00001-of-0000N.safetensors` with `model.safetensors.index.json`. Reading
is strict: a tensor that is missing, left over or of another shape is a ValueError that names it, and a file that is no
whole safetensors file is one that names the file. Nothing is executed from what is read.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
SHARD_BYTES = 5 * 10**9


def save_weights(model: nn.Module, folder: str | Path, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Write a model's parameters and saved buffers under its own names; returns the files written, the index last.

    Sharded parameters (DTensor) are gathered one at a time: call on every process, which writes on the first only.
    """
    return save_tensors(model.state_dict().items(), folder, shard_bytes)


def save_tensors(
    tensors: Iterable[tuple[str, Tensor]], folder: str | Path, shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write named tensors in their order, a shard at a time, so that no more than a shard is held beside them.

    Files appear by a rename, the index last; weights of an earlier save in the folder are removed then.
    """
    folder = Path(folder)
    writes = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
    parts: list[tuple[Path, list[str]]] = []
    total = 0
    for part in _in_parts(tensors, shard_bytes):
        total += sum(tensor.nbytes for tensor in part.values())
        path = folder / f".model-part-{len(parts)}.safetensors"
        if writes:
            save_file(part, path, metadata={"format": "pt"})
        parts.append((path, list(part)))
    return _publish(folder, parts, total) if writes else []


def _in_parts(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    for name, tensor in tensors:
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if part and sum(t.nbytes for t in part.values()) + whole.nbytes > shard_bytes:
            yield part
            part = {}
        part[name] = whole.detach().to("cpu").contiguous()
    yield part


def _publish(folder: Path, parts: list[tuple[Path, list[str]]], total: int) -> list[Path]:
    """Give the parts their final names, write the index, remove what an earlier save left, broken off or not."""
    patterns = ("model*.safetensors", INDEX_NAME, ".model-part-*.safetensors")
    earlier = {path for pattern in patterns for path in folder.glob(pattern)}
    (folder / INDEX_NAME).unlink(missing_ok=True)
    if len(parts) == 1:
        written = [folder / SINGLE_NAME]
    else:
        written = [folder / f"model-{i:05}-of-{len(parts):05}.safetensors" for i in range(1, len(parts) + 1)]
    for (path, _), final in zip(parts, written, strict=True):
        os.replace(path, final)
    if len(parts) > 1:
        places = {name: final.name for (_, names), final in zip(parts, written, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        temporary = folder / f".{INDEX_NAME}"
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, folder / INDEX_NAME)
        written.append(folder / INDEX_NAME)
    for path in earlier - set(written):
        path.unlink(missing_ok=True)
    return written


class TensorFolder:
    """The tensors of a folder of safetensors, read one at a time.

    Raises FileNotFoundError where the folder holds no weights or an indexed file is missing, ValueError where a file or
    the index cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder}: no such folder of weights")
        self._files = self._places()

    def _places(self) -> dict[str, Path]:
        index = self.folder / INDEX_NAME
        if index.exists():
            try:
                weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                places = {str(name): self.folder / str(file) for name, file in weight_map.items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{index}: not an index of safetensors shards ({error})") from error
            for path in sorted(set(places.values())):
                if path.parent != self.folder:
                    raise ValueError(f"{index}: names a file outside its folder, {path.name}")
                if not path.exists():
                    raise FileNotFoundError(f"{path}: named by {INDEX_NAME} and missing")
                absent = {name for name, file in places.items() if file == path} - set(_names_in(path))
                if absent:
                    raise ValueError(f"{path}: lacks {named_list(absent)}, which {INDEX_NAME} places there")
            return places
        single = self.folder / SINGLE_NAME
        if not single.exists():
            raise FileNotFoundError(f"{self.folder}: holds neither {SINGLE_NAME} nor {INDEX_NAME}")
        return dict.fromkeys(_names_in(single), single)

    @property
    def names(self) -> set[str]:
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        with _opened(self._files[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def load(self, name: str) -> Tensor:
        """One tensor, on the CPU, in the precision it is kept in."""
        with _opened(self._files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def load_weights(model: nn.Module, folder: str | Path) -> None:
    """Fill a materialised model, sharded or not, from a folder that `save_weights` wrote."""
    tensors = TensorFolder(folder)
    fill(model, {name: tensors.shape(name) for name in tensors.names}, tensors.load, str(tensors.folder))


@torch.no_grad()
def fill(model: nn.Module, shapes: dict[str, tuple[int, ...]], load: Callable[[str], Tensor], origin: str) -> None:
    """Copy tensors into a model's parameters and saved buffers, after checking that both sides have the same.

    shapes: what is offered, under the model's names. load: gives one of them. origin: what an error calls the source.
    """
    state = model.state_dict()
    missing, left_over = state.keys() - shapes.keys(), shapes.keys() - state.keys()
    if missing or left_over:
        lines = [f"misses {named_list(missing)}"] if missing else []
        lines += [f"has {named_list(left_over)}, which the model has not"] if left_over else []
        raise ValueError(f"{origin}: {'; '.join(lines)}")
    for name, value in state.items():
        if shapes[name] != tuple(value.shape):
            raise ValueError(f"{origin}: {name} has shape {shapes[name]}, the model's has {tuple(value.shape)}")
    for name, value in state.items():
        tensor = load(name)
        if isinstance(value, DTensor):
            whole = tensor.to(device=value.device, dtype=value.dtype)
            value.copy_(distribute_tensor(whole, value.device_mesh, value.placements))
        else:
            value.copy_(tensor)


def named_list(names: Iterable[str]) -> str:
    """Names in order, at most eight of them."""
    ordered = sorted(names)
    return ", ".join(ordered[:8]) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error


def _names_in(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())
