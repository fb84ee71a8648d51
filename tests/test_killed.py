"""`kill -9` anywhere on the demo's road, then the same command again: the same corpus, the same loss, byte for byte."""

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
