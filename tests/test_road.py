"""The main job by its own command lines: sample pages become a corpus, a tokenizer, two models and filled blanks.

What is asserted is that counts add up from stage to stage, that a second run has nothing to do, and that each command
line's output is what the next one reads. What becomes of each page is asserted beside the samples.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

STAGES = ("ingest", "annotate", "filter", "deduplicate", "redact", "decontaminate")
STEPS = 8


def run(project: Path, *words: object) -> str:
    """Run one of the project's command lines and return what it printed."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=project, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def workspace(project, tmp_path_factory) -> Path:
    """The sample pages after every data stage but tokenize."""
    folder = tmp_path_factory.mktemp("road")
    run(project, "samples/build_warc.py", "--output", folder / "pages.warc.gz")
    run(
        project, "-m", "data", "run", "--config", "configs/corpus/demo.yaml",
        "--input", folder / "pages.warc.gz", "--workspace", folder / "corpus",
    )  # fmt: skip
    return folder / "corpus"


@pytest.fixture(scope="module")
def tokenizer(project, workspace) -> Path:
    """A tokenizer trained on the mix, and the mix encoded with it."""
    folder = workspace.parent / "tokenizer"
    train = workspace / "mix" / "train"
    run(
        project, "-m", "tokenizer", "train", "--config", "configs/tokenizer/bbpe-demo.yaml",
        "--input", train, "--output", folder,
    )  # fmt: skip
    run(
        project, "-m", "data", "tokenize", "--config", "configs/corpus/demo.yaml",
        "--workspace", workspace, "--tokenizer", folder,
    )  # fmt: skip
    return folder


def shards(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.rglob("*.parquet"))], how="diagonal_relaxed")


def test_counts_add_up_from_stage_to_stage(project, workspace):
    arriving = len((project / "samples" / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    for stage in STAGES:
        rejects = list((workspace / stage / "rejected").rglob("*.parquet"))
        kept = len(shards(workspace / stage / "kept"))
        rejected = len(shards(workspace / stage / "rejected")) if rejects else 0
        assert kept + rejected == arriving, stage
        counts = json.loads((workspace / stage / "stage.json").read_text(encoding="utf-8"))["counts"]
        recorded = tuple(counts[name]["documents"] for name in ("read", "kept", "rejected"))
        assert recorded == (arriving, kept, rejected), stage
        arriving = kept
    mixed = {name: set(shards(workspace / "mix" / name)["cluster"]) for name in ("train", "validation")}
    left = json.loads((workspace / "mix" / "stage.json").read_text(encoding="utf-8"))["counts"]["left"]["documents"]
    assert len(mixed["train"] | mixed["validation"]) + left == arriving
    assert not mixed["train"] & mixed["validation"]
    assert (workspace / "report.html").stat().st_size > 10_000


def test_a_second_run_changes_nothing(project, workspace):
    before = {path: path.stat().st_mtime_ns for path in sorted(workspace.rglob("*.parquet"))}
    run(
        project, "-m", "data", "run", "--config", "configs/corpus/demo.yaml",
        "--input", workspace.parent / "pages.warc.gz", "--workspace", workspace,
    )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in sorted(workspace.rglob("*.parquet"))} == before


@pytest.mark.parametrize("model", ["glm130b-tiny", "glm5-tiny"])
def test_corpus_trains_a_model_that_improves_on_held_out_text(project, workspace, tokenizer, model):
    folder = workspace.parent / model
    run(
        project, "-m", "trainer", "pretrain", "--config", f"configs/pretrain/{model}.yaml",
        "--data", workspace / "tokenize", "--tokenizer", tokenizer, "--run", folder, "--steps", STEPS,
    )  # fmt: skip
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert max(row["step"] for row in steps) == STEPS
    assert (folder / "checkpoints" / f"step-{STEPS:06d}").is_dir()
    figures = json.loads(
        run(project, "-m", "evaluation", "bits-per-byte", "--run", folder, "--data", workspace / "tokenize", "--json")
    )
    text = json.dumps(figures)
    assert '"zh"' in text
    assert '"en"' in text
    if model == "glm130b-tiny":
        filled = json.loads(
            run(project, "-m", "inference", "fill", "--run", folder, "--text", "春天到了，[MASK]开了。", "--json")
        )
        assert "[MASK]" not in json.dumps(filled["fills"][0]["filled"])
        assert 0 < filled["fills"][0]["blanks"][0]["probability"] <= 1
