"""One process and two under FSDP2 are one run: the same samples, the same gradients, the same losses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_run import (
    EXPERTS_MODEL,
    MODEL,
    PROJECT,
    arguments,
    call,
    environment,
    heldout,
    losses,
    run_config,
    stage,
)
from trainer.metrics import read_metrics

SCRIPT = """
import os, sys, pathlib, yaml, torch
from torch.distributed.tensor import DTensor
from model.config import ModelConfig
from objectives.config import ObjectiveConfig, BlankInfillingConfig
from tokenizer.load import load_tokenizer
from trainer import devices
from trainer.data_config import DataConfig
from trainer.loader import Loader
from trainer.optimizers import freeze
from trainer.parallel import build_sharded
from trainer.step import LossWeights, StepRunner, passes_of
from model.experts import expert_counts, routers
from trainer.parallel import sum_over_processes, wait_for_all

workspace, kind, dtype, rows, output, values, mode = sys.argv[1:8]
micro = 1 if dtype == "float64" else 2  # one row a pass: only double sums differ between layouts
torch.set_num_threads(1)
world = devices.read_world()
device = devices.choose_device("cpu")
devices.join_processes(device, world)
tokenizer = load_tokenizer(pathlib.Path(workspace) / "tokenizer")
values = yaml.safe_load(values)
config = ModelConfig.from_dict({**values, "vocab_size": tokenizer.vocab_size, "dropout": 0.0})
model = build_sharded(config, device, 5, world)
if dtype == "float64":
    model.to(torch.float64)
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float64
objective = ObjectiveConfig(kind=kind, blank_infilling=BlankInfillingConfig(mask_windows=1))
loader = Loader(pathlib.Path(workspace) / "tokenize", DataConfig(window=64), objective, tokenizer.special, 3)
rows = int(rows)
batch = next(loader.iterate(0, lambda step: rows, rank=world.rank, world=world.size))
runner = StepRunner(model, tokenizer.byte_lengths, device, world, mtp_depth=config.mtp.depth)
model.train()
model.set_sparse_attention(mode)
freeze(model, [], "*.indexer.*" if mode == "warmup" else "*")
result = runner.run(
    batch,
    micro,
    passes_of(rows, micro, world),
    LossWeights(mtp=0.3, z_loss=1e-4),
    torch.ones((), dtype=getattr(torch, dtype)),
)
gradients = {}
for name, parameter in model.named_parameters():
    gradient = parameter.grad
    if gradient is None:
        continue
    gradients[name] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
if routers(model):
    gradients["counts"] = sum_over_processes(expert_counts(model))
gradients["loss"] = result.loss
if world.rank == 0:
    torch.save(gradients, output)
wait_for_all()
devices.leave_processes()
os._exit(0)  # the globals above would outlive gloo's threads, which at times aborts an interpreter that ends
"""


def gradients(
    workspace: Path, folder: Path, processes: int, kind: str, dtype: str, rows: int, model: str, mode: str = "off"
) -> dict[str, Any]:
    """Gradients of one global step over a number of processes."""
    script, output = folder / "step.py", folder / f"gradients-{processes}.pt"
    script.write_text(SCRIPT, encoding="utf-8")
    words = [str(script), str(workspace), kind, dtype, str(rows), str(output), model, mode]
    if processes > 1:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *words]
    done = subprocess.run(
        [sys.executable, *words], cwd=PROJECT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output, weights_only=True)


def looped(model: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The model with its experts in a loop, since no grouped matmul takes float64."""
    if dtype == "float32" or "experts" not in model:
        return model
    return {**model, "experts": {**model["experts"], "backend": "loop"}}


@pytest.mark.parametrize(
    ("kind", "model", "rows", "dtype", "tolerance"),
    [
        ("blank_infilling", MODEL, 7, "float32", 1e-4),
        ("causal", EXPERTS_MODEL, 6, "float64", 1e-8),
        # Three rows and two: the second process has none left for the last pass and must still join.
        ("causal", EXPERTS_MODEL, 5, "float64", 1e-8),
        # Fewer rows than processes, as a batch that grows may begin: the second process has none in the whole step.
        ("causal", EXPERTS_MODEL, 1, "float64", 1e-8),
    ],
    ids=["dense, 7 rows", "experts and MTP, 6 rows", "experts and MTP, 5 rows", "experts and MTP, 1 row"],
)
def test_two_processes_have_the_gradients_of_one(
    workspace: Path, tmp_path: Path, kind: str, model: dict, rows: int, dtype: str, tolerance: float
) -> None:
    one, two = (gradients(workspace, tmp_path, n, kind, dtype, rows, json.dumps(looped(model, dtype))) for n in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        scale = one[name].abs().max().clamp(min=1e-12)
        assert (one[name] - two[name]).abs().max() <= tolerance * scale, name


def fill_counts(run: Path) -> dict[str, float]:
    """How many blanks of each language a run's last measurement saw."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line["heldout_fill_accuracy"] for line in lines if "heldout_fill_accuracy" in line][-1]
    return {language: figures["count"] for language, figures in last.items()}


def test_from_one_process_to_two_and_back(workspace: Path, tmp_path: Path) -> None:
    """A run that changes its number of processes twice stays within 1e-4 of the one that never did."""
    model = {**MODEL, "dropout": 0.0}
    # Three batches of held-out rows a language: two processes share them out unevenly.
    evaluation = {"rows_per_language": 5, "batch_rows": 2, "fill_rows_per_language": 9}
    config = run_config(stage(steps=20), model=model, checkpoint={"every": 7, "keep_last": 9}, evaluation=evaluation)
    single = arguments(workspace, tmp_path / "single", config)
    mixed = arguments(workspace, tmp_path / "mixed", config)
    assert call("trainer", "pretrain", *single).returncode == 0
    run = tmp_path / "mixed"
    shutil.copytree(tmp_path / "single", run)
    for later in ("step-000014", "step-000020"):
        shutil.rmtree(run / "checkpoints" / later)
    done = call("trainer", "pretrain", *mixed, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert heldout(run)[20] == pytest.approx(heldout(tmp_path / "single")[20], rel=1e-4)
    fills = [fill_counts(folder) for folder in (run, tmp_path / "single")]
    assert fills[0] == fills[1], "the same blanks"
    shards = {path.name for path in (run / "checkpoints" / "step-000014" / "optimizer").glob("*.distcp")}
    assert shards == {"__0_0.distcp", "__1_0.distcp"}, "two processes never ran"
    shutil.rmtree(run / "checkpoints" / "step-000020")
    done = call("trainer", "pretrain", *mixed)
    assert "going on from step-000014" in done.stderr, done.stderr[-3000:]
    expected, found = losses(tmp_path / "single"), losses(run)
    assert expected.keys() == found.keys()
    assert all(abs(found[step] - loss) < 1e-4 for step, loss in expected.items())
    alone, shared = (
        {line["step"]: line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line}
        for folder in (tmp_path / "single", run)
    )
    for step in alone:
        assert shared[step]["unmasked_tokens"] == alone[step]["unmasked_tokens"], "rows of one process alone"
        for name in ("bits_per_byte_by_language", "loss_by_task"):
            assert shared[step][name] == pytest.approx(alone[step][name], rel=1e-4), f"{name} of step {step}"
