"""`kill -9` anywhere, then the same command again: the same corpus, the same losses, byte for byte.

On the demo's road at random times; and in a run of four short stages at twenty moments of three kinds: between any two
steps, while a checkpoint is being written, and where one stage ends and the next begins.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_run import (
    EXPERTS_MODEL,
    MODEL,
    PROJECT,
    arguments,
    build_workspace,
    command,
    environment,
    losses,
    run_config,
    stage,
)
from trainer.checkpoints import list_checkpoints, verify

pytestmark = pytest.mark.slow
CORPUS = ("--config", "configs/corpus/demo.yaml")
STEPS = 30


def finish(project: Path, words: list[str]) -> float:
    """Run a command to its end; returns its seconds."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return time.perf_counter() - started


def run_killed(project: Path, words: list[str], seconds: float, moments: random.Random) -> bool:
    """Start a command and kill its whole process group within `seconds`; False if it had ended before."""
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout=moments.uniform(0.2, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that is data: shards, token shards, weights, tokenizer."""
    kinds = (".parquet", ".bin", ".idx", ".safetensors", ".jsonl", "tokenizer.json")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.name.endswith(kinds)
    }


def road(folder: Path) -> list[list[str]]:
    """The demo's commands up to the token shards."""
    workspace, tokenizer = str(folder / "corpus"), str(folder / "tokenizer")
    pages = str(folder / "pages.warc.gz")
    return [
        ["samples/build_warc.py", "--output", pages],
        ["-m", "data", "run", *CORPUS, "--input", pages, "--workspace", workspace],
        [
            "-m", "tokenizer", "train", "--config", "configs/tokenizer/bbpe-demo.yaml",
            "--input", f"{workspace}/mix/train", "--output", tokenizer,
        ],
        ["-m", "data", "tokenize", *CORPUS, "--workspace", workspace, "--tokenizer", tokenizer],
    ]  # fmt: skip


def pretrain(folder: Path, run: str) -> list[str]:
    return [
        "-m", "trainer", "pretrain", "--config", "configs/pretrain/glm130b-tiny.yaml",
        "--data", str(folder / "corpus" / "tokenize"), "--tokenizer", str(folder / "tokenizer"),
        "--run", str(folder / run), "--steps", str(STEPS), "--checkpoint.every", "5",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(project, tmp_path_factory) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, sum(finish(project, words) for words in road(folder))


def test_data_stages_killed_five_times_end_with_the_same_corpus(project, tmp_path, undisturbed):
    reference, seconds = undisturbed
    moments, kills = random.Random(20261122), 0
    for words in road(tmp_path):
        for _ in range(4 if words[1] == "data" else 1):
            kills += run_killed(project, words, max(1.0, seconds / 2), moments)
        finish(project, words)
    assert kills >= 5
    assert digests(tmp_path) == digests(reference)


def test_training_killed_twice_ends_with_the_same_loss(project, undisturbed):
    folder, _ = undisturbed
    seconds = finish(project, pretrain(folder, "whole"))
    moments, kills = random.Random(7), 0
    while kills < 2:
        kills += run_killed(project, pretrain(folder, "killed"), seconds, moments)
    finish(project, pretrain(folder, "killed"))

    def losses(run: str) -> dict[int, float]:
        rows = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
        return {row["step"]: row["loss"] for row in rows if "loss" in row}

    assert losses("killed") == losses("whole")
    last = f"checkpoints/step-{STEPS:06d}"
    weights = digests(folder / "whole" / last)
    assert weights
    assert digests(folder / "killed" / last) == weights


BOUNDARIES = (45, 90, 135)


def four_stages() -> dict:
    """A run of four stages that differ in window, objective, optimiser and RoPE's base; dropout draws numbers."""
    stages = (
        stage("first", 45),
        stage("second", 45, data={"window": 128}, rope_base=20000.0),
        stage("third", 45, kind="causal", optimizer={"name": "muon"}),
        stage("fourth", 20, kind="causal", batch={"tokens": 512, "micro_batch_rows": 2}),
    )
    return run_config(*stages, model=MODEL)


def last_step(line: str) -> int | None:
    """The step of a line of the console's, or None."""
    return int(line.split()[1].split("/")[0]) if line.startswith("step ") and "loss" in line else None


def kill_once(run: Path, argv: list[str], kind: str, boundary: int, moments: random.Random) -> bool:
    """Start the run and kill it at a moment of a kind; whether it left a checkpoint that was being written.

    anywhere: up to eight steps after it went on. save: when a partial checkpoint lies there. boundary: after the line
    of the stage's last step, or, if that step is saved, as the next stage begins.
    """
    process = subprocess.Popen(
        command("trainer", "pretrain", *argv), cwd=PROJECT, env=environment(),
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    steps, wanted = 0, moments.randint(0, 8)
    for line in process.stderr:
        begun = line.startswith(("stage ", "going on"))
        step = last_step(line)
        steps += step is not None
        if kind == "save" and (begun or step is not None):
            break
        if kind == "anywhere" and (step is not None or (begun and wanted == 0)) and steps >= wanted:
            break
        if kind == "boundary" and (step == boundary or (begun and f"step-{boundary:06d}" in line)):
            break
    if kind == "save":
        while not list((run / "checkpoints").glob(".step-*.partial")) and process.poll() is None:
            time.sleep(0.0005)
    time.sleep(moments.uniform(0.0, 0.03))
    if process.poll() is not None:
        pytest.fail(f"the run ended before it could be killed: {process.stderr.read()[-3000:]}")
    os.killpg(process.pid, signal.SIGKILL)
    process.stderr.close()
    process.wait()
    return bool(list((run / "checkpoints").glob(".step-*.partial")))


def compare_killed(tmp_path: Path, config: dict, plan: list[tuple[str, int]], seed: int) -> int:
    """Kill a run as planned, let it end, and hold losses and weights to an undisturbed run's; saves that were cut."""
    workspace = build_workspace(tmp_path / "workspace")
    whole, killed = (arguments(workspace, tmp_path / name, config) for name in ("whole", "killed"))
    finish(PROJECT, ["-m", "trainer", "pretrain", *whole])
    moments, cut_saves, reached = random.Random(seed), 0, []
    for kind, boundary in plan:
        cut_saves += kill_once(tmp_path / "killed", killed, kind, boundary, moments)
        for folder in list_checkpoints(tmp_path / "killed"):
            verify(folder)
        reached.append(max(losses_so_far(tmp_path / "killed"), default=0))
    finish(PROJECT, ["-m", "trainer", "pretrain", *killed])
    print(f"{len(plan)} kills, {cut_saves} left a partial checkpoint, steps reached {reached}")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    last = f"checkpoints/step-{sum(stage['steps'] for stage in config['stages']):06d}"
    weights = digests(tmp_path / "whole" / last)
    assert weights
    assert digests(tmp_path / "killed" / last) == weights
    return cut_saves


def test_twenty_kills_change_no_later_loss(tmp_path):
    kinds = ("anywhere", "save", "anywhere", "save", "boundary", "boundary")
    plan = [(kind, boundary) for boundary in BOUNDARIES for kind in kinds] + [("anywhere", 0), ("save", 0)]
    assert len(plan) == 20
    assert compare_killed(tmp_path, four_stages(), plan, seed=20) >= 3


def test_kills_at_the_hand_overs_of_sparse_attention_change_no_later_loss(tmp_path):
    indexer = {"num_heads": 2, "head_dim": 16, "top_k": 8}
    model = {**EXPERTS_MODEL, "attention": {**EXPERTS_MODEL["attention"], "indexer": indexer}}
    config = run_config(
        stage("dense", 20, "causal"),
        stage("warmup", 20, "causal", sparse_attention="warmup", schedule={"peak": 5e-3, "end": 2e-4}),
        stage("sparse", 20, "causal", sparse_attention="sparse", schedule={"peak": 1e-3, "shape": "constant"}),
        model=model,
    )
    plan = [(kind, boundary) for boundary in (20, 40) for kind in ("anywhere", "save", "boundary", "boundary")]
    compare_killed(tmp_path, config, [*plan, ("anywhere", 0)], seed=9)


def losses_so_far(run: Path) -> list[int]:
    """Steps whose losses a killed run has written; its last line may be half."""
    path = run / "metrics.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line)["step"])
        except ValueError:
            continue
    return found
