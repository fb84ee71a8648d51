"""The optimiser's tensors through torch.distributed.checkpoint, read without executing anything.

DCP writes each process's shards to a file of its own and can be read by another number of processes. Its metadata is a
pickle, which could name any function to call; here it is read by an unpickler that knows the twelve names DCP itself
writes and refuses every other. Tensors are read by torch with `weights_only=True`; an entry that is not a tensor would
be unpickled freely by DCP, so it is refused as well.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

METADATA = ".metadata"

DTYPES = {"float32", "float64", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"}
ALLOWED = {
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
} | {("torch", name) for name in DTYPES}


class _MetadataUnpickler(pickle.Unpickler):
    """Builds only what DCP's metadata is made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")
        return super().find_class(module, name)


def read_metadata(file: IO[bytes], path: Path) -> Metadata:
    """DCP's metadata; ValueError naming `path` if it is damaged or holds anything but descriptions of tensors."""
    try:
        metadata = _MetadataUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the metadata of a checkpoint: {error}; it was not read") from error
    if not isinstance(metadata, Metadata):
        raise ValueError(f"{path}: not the metadata of a checkpoint: it holds a {type(metadata).__name__}")
    for name, entry in metadata.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise ValueError(f"{path}: {name} is not a tensor; it was not read")
    for info in (metadata.storage_data or {}).values():
        if Path(info.relative_path).name != info.relative_path:
            raise ValueError(f"{path}: it points to {info.relative_path}, outside the checkpoint; it was not read")
    return metadata


class SafeReader(FileSystemReader):
    """DCP's reader of a folder, with metadata that cannot call anything."""

    def read_metadata(self, *_args: Any, **kwargs: Any) -> Metadata:
        """The metadata of the folder, checked."""
        path = Path(str(self._get_metadata_path(kwargs.get("rank"))))
        with path.open("rb") as file:
            metadata = read_metadata(file, path)
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata


@contextmanager
def _one_process_is_meant() -> Iterator[None]:
    """DCP warns when it runs without torch.distributed; here that is one of the two ways it is meant to run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is .*uninitialized.*")
        yield


def save_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write named tensors to `folder`; DTensors as shards, by all processes together."""
    writer = FileSystemWriter(folder, thread_count=1, sync_files=True)
    with _one_process_is_meant():
        dcp.save(dict(tensors), storage_writer=writer, no_dist=not dist.is_initialized())


def load_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Read named tensors in place. ValueError when the folder does not hold what is asked for."""
    reader = SafeReader(folder)
    names = reader.read_metadata().state_dict_metadata
    for name, tensor in tensors.items():
        if name not in names:
            raise ValueError(f"{folder}: it has no {name}; the checkpoint is of another model or optimiser")
        size = getattr(names[name], "size", None)
        if size != tensor.shape:
            raise ValueError(f"{folder}: {name} has shape {size}, the run's has {tuple(tensor.shape)}")
    with _one_process_is_meant():
        dcp.load(dict(tensors), storage_reader=reader, no_dist=not dist.is_initialized())
