"""A run that is cut short anywhere ends, when it is run again, with the same corpus byte for byte."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data import shards
from data.deduplicate import DeduplicateConfig
from data.redact import RedactConfig
from tests.data.small_corpus import STAGES, configuration, digests, examination, record, run, write_inputs


class Killed(BaseException):
    """Stands for a kill: nothing in the project may catch it."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, place: str) -> Iterator[None]:
    """What runs within is killed where it first calls the function at `place`."""

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, kill)
        with pytest.raises(Killed):
            yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    workspace = tmp_path_factory.mktemp("undisturbed")
    run(configuration(inputs), workspace)
    return digests(workspace)


def test_cut_short_at_any_write_it_ends_the_same(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is stopped again and again, each time a few writes further on, before or after a file appears.

    There is an evaluation set, so that decontamination is cut short with its n-grams counted in a part of the shards.
    """
    config, workspace = configuration(inputs, decontaminate=examination(tmp_path)), tmp_path / "cut"
    run(config, tmp_path / "undisturbed")
    assert record(tmp_path / "undisturbed", "decontaminate")["counts"]["documents_cut"] > 0
    replace, draw = os.replace, random.Random(7)
    left = 0

    def stop(source: object, target: object) -> None:
        nonlocal left
        left -= 1
        if left == 0 and draw.random() < 0.5:
            raise Killed
        replace(source, target)  # type: ignore[arg-type]
        if left == 0:
            raise Killed

    stops: dict[str, int] = {}
    monkeypatch.setattr(shards.os, "replace", stop)
    while True:
        left = draw.randrange(3, 25)
        try:
            run(config, workspace)
            break
        except Killed:
            begun = next((name for name in STAGES if not (workspace / name / "stage.json").exists()), "mix")
            stops[begun] = stops.get(begun, 0) + 1
    assert sum(stops.values()) >= 8
    assert stops.get("decontaminate", 0) > 0
    assert digests(workspace) == digests(tmp_path / "undisturbed")


def test_cut_short_before_the_first_key_is_written(
    inputs: Path, undisturbed: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at(monkeypatch, "data.shards.os.replace"):
        run(configuration(inputs), tmp_path)
    run(configuration(inputs), tmp_path)
    assert digests(tmp_path) == undisturbed


def test_cut_short_while_another_run_s_markers_go(
    inputs: Path, undisturbed: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a killed run with other settings is emptied, and that is cut short too: it is still ours."""
    run(configuration(inputs), tmp_path, *STAGES[:4])
    with killed_at(monkeypatch, "data.engine.gather"):
        run(configuration(inputs, redact=RedactConfig(placeholder="X")), tmp_path, "redact")
    progress, remove = tmp_path / "redact" / "progress", shutil.rmtree

    def stop(folder: Path, **given: bool) -> None:
        if progress in (folder, folder.parent):
            if folder == progress:  # a folder goes file by file, in any order
                (progress / "key.json").unlink()
            raise Killed
        remove(folder, **given)

    monkeypatch.setattr("data.engine.shutil.rmtree", stop)
    with pytest.raises(Killed):
        run(configuration(inputs), tmp_path)
    monkeypatch.undo()
    run(configuration(inputs), tmp_path)
    assert digests(tmp_path) == undisturbed


def test_cut_short_behind_its_record_a_stage_leaves_nothing(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage whose record is there is skipped, and what it needed on the way (the texts' size) goes all the same."""
    with killed_at(monkeypatch, "data.engine.shutil.rmtree"):
        run(configuration(inputs), tmp_path, "ingest")
    assert (tmp_path / "ingest" / "work").exists()
    assert run(configuration(inputs), tmp_path, "ingest")["ingest"]["skipped"]
    assert {path.name for path in (tmp_path / "ingest").iterdir()} == {"kept", "rejected", "stage.json"}


def test_half_written_files_of_an_index_go(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index names every file in its folder: what a killed process left half-written must not be among them."""
    config = configuration(inputs, deduplicate=DeduplicateConfig(keep_index=True))
    run(config, tmp_path / "whole", *STAGES[:4])
    run(config, tmp_path / "cut", *STAGES[:3])
    replace, parts_cut = os.replace, set[str]()

    def stop(source: Path, target: Path) -> None:
        if "index" in target.parts and target.parent.name not in parts_cut:
            parts_cut.add(target.parent.name)
            os.link(source, source.with_name(source.name.replace(str(os.getpid()), "77")))  # another process's
            raise Killed
        replace(source, target)

    monkeypatch.setattr(shards.os, "replace", stop)
    for _ in range(5):
        with pytest.raises(Killed):
            run(config, tmp_path / "cut", "deduplicate")
    run(config, tmp_path / "cut", "deduplicate")
    assert parts_cut == {"digests", "documents", "bands", "units", "index"}
    assert digests(tmp_path / "cut")["deduplicate"] == digests(tmp_path / "whole")["deduplicate"]


def test_half_written_files_go(
    inputs: Path, undisturbed: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves under temporary names is removed when the stage goes on."""
    run(configuration(inputs), tmp_path, "ingest")
    with killed_at(monkeypatch, "data.engine.gather"):
        run(configuration(inputs), tmp_path, "annotate")
    half = tmp_path / "annotate" / "kept" / ".00000-0000.parquet.99.tmp"
    half.write_bytes(b"half")
    run(configuration(inputs), tmp_path)
    assert not half.exists()
    assert digests(tmp_path) == undisturbed


def test_shard_damaged_after_it_was_marked_is_made_again(
    inputs: Path, undisturbed: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resuming compares digests: a power failure may leave a marker whose shard did not reach the disk."""
    run(configuration(inputs), tmp_path, "ingest")
    calls = 0
    whole = shards.write_json

    def stop_late(path: Path, value: object) -> None:
        nonlocal calls
        calls += path.parent.name == "annotate"
        if calls > 3 and path.suffix == ".json":
            raise Killed
        whole(path, value)

    monkeypatch.setattr("data.stage.write_json", stop_late)
    with pytest.raises(Killed):
        run(configuration(inputs), tmp_path, "annotate")
    monkeypatch.setattr("data.stage.write_json", whole)
    victim = sorted((tmp_path / "annotate" / "kept").glob("*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:-7] + b"garbage")
    run(configuration(inputs), tmp_path)
    assert digests(tmp_path) == undisturbed


def command(inputs: Path, workspace: Path, workers: int) -> list[str]:
    small = "--ingest.shard_mb 0.03 --ingest.pack_mb 0.02 --ingest.split_mb 0.06 --mix.shard_mb 0.05 "
    small += "--mix.validation_share 0.1 --engine.disk_reserve_mb 0 --engine.spread_mb 0"
    return [
        sys.executable, "-m", "data", "run", "--workspace", str(workspace), "--input", str(inputs),
        "--workers", str(workers), *small.split(),
    ]  # fmt: skip


def kill_and_resume(project: Path, words: list[str], kills: int, seconds: float, seed: int) -> None:
    """Kill the main process alone (its workers must end by themselves) `kills` times, then let it run to its end."""
    draw = random.Random(seed)
    for _ in range(kills):
        process = subprocess.Popen(words, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.5, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


def orphans(workspace: Path) -> list[str]:
    """Command lines of processes that still have the workspace's files open or named."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            names = [os.readlink(link) for link in (folder / "fd").iterdir()]
        except OSError:
            continue
        if int(folder.name) != os.getpid() and any(str(workspace) in name for name in names):
            found.append((folder / "cmdline").read_text())
    return found


def test_kill_9_and_resume(inputs: Path, undisturbed: dict[str, object], project: Path, tmp_path: Path) -> None:
    kill_and_resume(project, command(inputs, tmp_path, workers=1), kills=2, seconds=6.0, seed=1)
    assert digests(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_thirty_kills_over_all_stages(
    inputs: Path, undisturbed: dict[str, object], project: Path, tmp_path: Path, workers: int
) -> None:
    """Each stage is killed four times or more at random moments after it began, the main process alone."""
    draw, words = random.Random(workers), command(inputs, tmp_path, workers)
    hit: dict[str, int] = {}
    for number in range(30):
        aimed = STAGES[number * len(STAGES) // 30]
        process = subprocess.Popen(words, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / aimed / "progress").exists():
            if (tmp_path / aimed / "stage.json").exists():
                break
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, draw.choice([0.03, 0.1, 0.4 * workers])))
        process.send_signal(signal.SIGKILL)
        process.wait()
        begun = [name for name in STAGES if not (tmp_path / name / "stage.json").exists()]
        where = begun[0] if begun else "finished"
        hit[where] = hit.get(where, 0) + 1
    print(f"{workers} workers, killed in: {hit}")
    assert len(set(hit) & set(STAGES)) >= 6
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {name: digests(tmp_path)[name] for name in STAGES} == undisturbed
    time.sleep(1.0)
    assert orphans(tmp_path) == []
