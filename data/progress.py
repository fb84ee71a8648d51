"""Progress of a stage on the terminal: how much, how fast, how long still. Read from the tasks' markers.

On a terminal it is one live line; elsewhere a line now and then, so that a log stays readable.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data.shards import read_json

REDRAW_SECONDS = 0.3
LOG_SECONDS = 15.0


@contextmanager
def show_progress(title: str, folder: Path, sizes: dict[str, int]) -> Iterator[None]:
    """While the block runs, show how many of `sizes` (bytes by task) have a marker in `folder`.

    A task that marks parts of its work (`TASK.NNNN.partial`) counts by the bytes that its last part says.
    """
    total = max(1, sum(sizes.values()))
    finished = threading.Event()

    def done() -> int:
        if not folder.is_dir():
            return 0
        names = {path.stem for path in folder.glob("*.json")}
        last = {path.name.partition(".")[0]: path for path in sorted(folder.glob("*.partial"))}
        so_far = sum(size for task, size in sizes.items() if task in names)
        return so_far + sum(_partial_bytes(path) for task, path in last.items() if task not in names)

    show = _live if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=show, args=(title, total, done, finished), daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _partial_bytes(path: Path) -> int:
    try:
        return int(read_json(path)["facts"]["bytes"])  # type: ignore[index]
    except (OSError, ValueError, KeyError):
        return 0


def _live(title: str, total: int, done: Callable[[], int], finished: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)
        while not finished.wait(REDRAW_SECONDS):
            progress.update(task, completed=done())


def _lines(title: str, total: int, done: Callable[[], int], finished: threading.Event) -> None:
    started = time.monotonic()
    while not finished.wait(LOG_SECONDS):
        so_far, seconds = done(), time.monotonic() - started
        left = f", {seconds * (total - so_far) / so_far:.0f} s left" if so_far else ""
        rate = f", {so_far / seconds / 1e6:.1f} MB/s" if total > 1000 else ""
        print(f"{title}: {100 * so_far / total:.0f} %{rate}{left}", file=sys.stderr, flush=True)
