"""Checkpoints: whole or not there, verified before they are believed, and kept by count and by step.

    checkpoints/step-000100/
      model*.safetensors, config.yaml    weights under the model's own names: all that inference and evaluation need
      state.json                         where the run is: step, stage, rows read, tokens seen, threads
      optimizer/                         moments and spike statistics (trainer/distributed_state.py)
      digests.json                       size and XXH3-128 of every file above, written last

A checkpoint is written beside its name (`.step-000100.partial`) and renamed when all of it is on disk, so that a run
killed in the middle of a save finds the one before.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import xxhash

from trainer.config import CheckpointConfig

NAME = re.compile(r"step-(\d{6,})")
DIGESTS = "digests.json"


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    match = NAME.fullmatch(folder.name)
    if not match:
        raise ValueError(f"{folder}: not a checkpoint; its name should be like step-000100")
    return int(match[1])


def list_checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints from first to last; the partial ones are not among them."""
    folder = run / "checkpoints"
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def digest_file(path: Path) -> str:
    """XXH3-128 of a file's bytes."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / DIGESTS)


def seal(folder: Path) -> None:
    """Write the digests of all files in `folder` and see all of it to the disk."""
    digests = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "xxh3": digest_file(path)}
        for path in _files(folder)
    }
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")
    for path in [*_files(folder), folder / DIGESTS]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def verify(folder: Path) -> None:
    """ValueError naming the file if anything in the checkpoint is missing, cut short or changed."""
    record = folder / DIGESTS
    try:
        digests = json.loads(record.read_text(encoding="utf-8"))
        expected = {name: (int(entry["bytes"]), str(entry["xxh3"])) for name, entry in digests.items()}
    except FileNotFoundError:
        raise ValueError(f"{folder}: damaged: it has no {DIGESTS}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{record}: damaged: {error}") from error
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path}: damaged: the file is missing")
        if path.stat().st_size != size:
            raise ValueError(f"{path}: damaged: {path.stat().st_size} bytes of {size}")
        if digest_file(path) != digest:
            raise ValueError(f"{path}: damaged: its digest is not the one it was saved with")


def last_whole(run: Path, warn: Callable[[str], None], before: int | None = None) -> Path | None:
    """The last checkpoint that verifies (of a step below `before`), or None when the run has none yet.

    Damaged ones are passed over with a warning; if there are only damaged ones, ValueError.
    """
    found = [path for path in list_checkpoints(run) if before is None or step_of(path) < before]
    complaint = ""
    for path in reversed(found):
        try:
            verify(path)
        except ValueError as error:
            complaint = str(error)
            warn(f"{complaint}; taking the checkpoint before it")
            continue
        return path
    if complaint:
        raise ValueError(f"{complaint}; no checkpoint of {run} is whole, begin in another --run folder")
    return None


def sweep(run: Path) -> None:
    """Remove what an interrupted save left behind."""
    folder = run / "checkpoints"
    for path in folder.glob(".step-*") if folder.is_dir() else []:
        shutil.rmtree(path, ignore_errors=True)


def partial_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` is put together."""
    return run / "checkpoints" / f".step-{step:06d}.partial"


def publish(run: Path, step: int) -> Path:
    """Seal the partial checkpoint of `step` and give it its name, in the place of an older one of that step."""
    partial, final = partial_folder(run, step), run / "checkpoints" / f"step-{step:06d}"
    seal(partial)
    if final.exists():
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    partial.rename(final)
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    shutil.rmtree(final.with_name(f".{final.name}.old"), ignore_errors=True)
    return final


def remove_old(run: Path, config: CheckpointConfig) -> None:
    """Keep the last few and those of round steps; a checkpoint loses its name before its files."""
    found = list_checkpoints(run)
    for path in found[: -config.keep_last]:
        if config.keep_every and step_of(path) % config.keep_every == 0:
            continue
        _remove(path)


def remove_later(run: Path, kept: Path) -> None:
    """Remove the checkpoints of later steps than that of `kept`, to which the run has gone back."""
    for path in list_checkpoints(run):
        if step_of(path) > step_of(kept):
            _remove(path)


def _remove(path: Path) -> None:
    doomed = path.with_name(f".{path.name}.old")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def explain_failed_save(error: OSError, run: Path, step: int) -> OSError:
    """The error of a save that failed, as one line that says what is still whole."""
    found = list_checkpoints(run)
    last = f"the last checkpoint, {found[-1].name}, is whole" if found else "the run has no checkpoint yet"
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
    return OSError(
        f"{run}: checkpoint of step {step} could not be written: {reason}; {last}; run the same command again"
    )


def is_full(folder: Path) -> bool:
    """Whether the disk of `folder` has no room for another small file."""
    return shutil.disk_usage(folder).free < 1 << 20


def disk_error(error: BaseException | None, folder: Path) -> OSError | None:
    """What the system said of `folder`'s disk, if that is why a save failed: libraries wrap it or only quote it."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        text = str(error)
        if "No space left" in text or "os error 28" in text:
            return OSError(errno.ENOSPC, "No space left on device")
        if "Disk quota exceeded" in text or "os error 122" in text:
            return OSError(errno.EDQUOT, "Disk quota exceeded")
        if "inline_container" in text or "PytorchStreamWriter" in text:  # torch's writer does not say why it failed
            return (
                OSError(errno.ENOSPC, "No space left on device") if is_full(folder) else OSError(text.splitlines()[-1])
            )
        error = error.__cause__ or error.__context__
    return None


def warn(message: str) -> None:
    """Say something on standard error that the person should know."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def clear(folder: Path) -> None:
    """An empty folder where there may have been an older one."""
    discard(folder)
    folder.mkdir(parents=True)


def discard(folder: Path) -> None:
    """Remove what an unfinished save wrote."""
    shutil.rmtree(folder, ignore_errors=True)
