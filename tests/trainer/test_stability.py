"""Spikes: what is called one, that a step is left out whole, and that a run with garbage in its data recovers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from objectives.example import Batch
from tests.tiny_run import EXPERTS_MODEL, MODEL, arguments, call, losses, run_config, stage
from trainer.__main__ import pretrain_command
from trainer.checkpoints import list_checkpoints, step_of
from trainer.config import OptimizerConfig, StabilityConfig
from trainer.devices import World
from trainer.loader import Loader
from trainer.metrics import JsonLines
from trainer.optimizers import Optimizer, assign
from trainer.spikes import judge, spikes_in_a_row
from trainer.stability import LossScale, SpikeStatistics
from trainer.state import Position

CPU = torch.device("cpu")
GARBAGE = range(160, 200)
"""Samples that are made of random tokens: steps 41 to 50 of four rows each."""


def judge_all(statistics: SpikeStatistics, values: list[float]) -> list[float]:
    return [float(statistics.judge(torch.tensor(value), torch.tensor(1.0))) for value in values]


def test_a_leap_is_a_spike_and_noise_is_none() -> None:
    statistics = SpikeStatistics(StabilityConfig(window=16, minimum_steps=8), CPU)
    noise = [4.0 + 0.1 * float(np.sin(7 * i)) for i in range(40)]
    assert judge_all(statistics, noise) == [1.0] * 40
    assert judge_all(statistics, [6.0, 6.0, 4.0, float("nan"), float("inf")]) == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert int(statistics.skipped) == 4
    assert int(statistics.in_a_row) == 2


def test_judging_a_step_asks_nothing_of_the_device() -> None:
    """Tensors without values: whatever needs one on the host, as a synchronisation does, is an error."""
    meta = torch.device("meta")
    statistics = SpikeStatistics(StabilityConfig(window=16, minimum_steps=8), meta)
    factor = statistics.judge(torch.empty((), device=meta), torch.empty((), device=meta))
    assert (factor.device, factor.shape) == (meta, ())


def test_what_is_usual_survives_a_checkpoint() -> None:
    config = StabilityConfig(window=16, minimum_steps=8)
    one, other = SpikeStatistics(config, CPU), SpikeStatistics(config, CPU)
    judge_all(one, [4.0 + 0.01 * i for i in range(23)])
    other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    values = [4.2, 9.0, 4.1]
    assert judge_all(one, values) == judge_all(other, values)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_left_out_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 3))
    config = OptimizerConfig(name=name)
    optimizer = Optimizer(model, config, assign(model, config))

    def step(factor: float) -> None:
        model(torch.ones(2, 6)).square().sum().backward()
        optimizer.step(1e-2, torch.tensor(factor))
        optimizer.zero_grad()

    step(1.0)
    before = [tensor.clone() for tensor in [*model.parameters(), *optimizer.state_dict().values()]]
    step(0.0)
    assert all(
        torch.equal(a, b) for a, b in zip(before, [*model.parameters(), *optimizer.state_dict().values()], strict=True)
    )
    step(1.0)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=False))


def test_a_step_left_out_changes_no_saved_weight(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the routers' biases, which no optimiser moves."""
    factors = iter([1.0, 0.0, 1.0])
    monkeypatch.setattr(SpikeStatistics, "judge", lambda *_: torch.tensor(next(factors)))
    checkpoint = {"every": 1, "keep_last": 9}
    one = stage(steps=3, kind="causal", schedule={"peak": 3e-3, "shape": "constant", "warmup_share": 0.0})
    config = run_config(one, model=EXPERTS_MODEL, checkpoint=checkpoint, stability={"on_spike": "skip_step"})
    assert pretrain_command(arguments(workspace, tmp_path / "run", config)) == 0
    first, second, third = (load_file(folder / "model.safetensors") for folder in list_checkpoints(tmp_path / "run"))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert any("bias" in name for name in first if not torch.equal(second[name], third[name]))


def test_the_loss_scale_halves_and_grows() -> None:
    scale = LossScale(True, CPU)
    scale.update(torch.tensor(False))
    assert float(scale.scale) == 32768.0
    for _ in range(LossScale.growth_interval):
        scale.update(torch.tensor(True))
    assert float(scale.scale) == 65536.0
    assert int(scale.good_steps) == 0


def test_a_loss_scale_that_is_too_large_is_no_spike(tmp_path: Path) -> None:
    """A run that begins with 65,536 may have to halve it many times, and would go back to that scale for ever."""
    stability = StabilityConfig(on_spike="rollback", patience=3)
    run = SimpleNamespace(config=SimpleNamespace(stability=stability), folder=tmp_path, world=World())
    state = SimpleNamespace(
        loss_scale=LossScale(True, CPU), spikes=SpikeStatistics(stability, CPU), position=Position()
    )
    result, endless = SimpleNamespace(loss=torch.tensor(4.0)), torch.tensor(float("inf"))
    for _ in range(16):
        assert float(judge(run, state, result, endless, (0, 4))) == 0.0
        assert not spikes_in_a_row(run, state)
    assert float(state.loss_scale.scale) == 1.0
    for _ in range(3):  # nothing is left to halve
        judge(run, state, result, endless, (0, 4))
    assert spikes_in_a_row(run, state)


@pytest.fixture
def garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some samples of the data become random tokens."""
    batch_of = Loader.batch

    def batch(self: Loader, first: int, count: int) -> Batch:
        made = batch_of(self, first, count)
        for row in range(count):
            if first + row in GARBAGE:
                random = np.random.default_rng(first + row)
                made.targets[row] = random.integers(0, 300, made.targets[row].shape)
                made.tokens[row] = random.integers(0, 300, made.tokens[row].shape)
        return made

    monkeypatch.setattr(Loader, "batch", batch)


def train(workspace: Path, run: Path, on_spike: str) -> dict[int, float]:
    stability = {"on_spike": on_spike, "window": 32, "minimum_steps": 16, "patience": 3, "deviations": 5.0}
    model = {**MODEL, "dropout": 0.0}
    one = stage(steps=70, kind="causal", schedule={"peak": 1e-2, "end": 1e-2, "shape": "constant"})
    config = run_config(one, model=model, stability=stability, checkpoint={"every": 10, "keep_last": 9})
    assert pretrain_command(arguments(workspace, run, config)) == 0
    return losses(run)


@pytest.mark.usefixtures("garbage")
def test_garbage_in_the_data(workspace: Path, tmp_path: Path) -> None:
    """skip_step and rollback both come out of it better than a run that trains on the garbage."""
    nothing = train(workspace, tmp_path / "nothing", "nothing")
    skipped = train(workspace, tmp_path / "skipped", "skip_step")
    rolled = train(workspace, tmp_path / "rolled", "rollback")
    assert nothing[41] > nothing[40] + 0.5, "the garbage is no spike"
    assert skipped[51] < nothing[51] - 0.1
    assert rolled.keys() == nothing.keys(), "a step is missing or stands twice"
    assert max(rolled[step] for step in range(41, 71)) < nothing[41]
    lines = [json.loads(line) for line in (tmp_path / "rolled" / "metrics.jsonl").read_text().splitlines()]
    back = [line for line in lines if "rolled_back_from" in line]
    assert back
    assert back[-1]["skipped_rows"] > 0


@pytest.mark.usefixtures("garbage")
def test_a_run_that_went_back_is_gone_on_with_from_there(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spikes in steps 41 to 43 and a checkpoint of step 42: back to 21, stopped in step 30, and gone on with."""
    stability = {"on_spike": "rollback", "window": 32, "minimum_steps": 16, "deviations": 5.0}
    one = stage(steps=50, kind="causal", schedule={"peak": 1e-2, "end": 1e-2, "shape": "constant"})
    config = run_config(one, stability=stability, checkpoint={"every": 21, "keep_last": 2})
    whole, stopped = (arguments(workspace, tmp_path / name, config) for name in ("whole", "stopped"))
    assert pretrain_command(whole) == 0
    write, gone_back = JsonLines.write, []

    def stopping(self: JsonLines, line: dict) -> None:
        write(self, line)
        gone_back.extend(["rolled_back_from"] if "rolled_back_from" in line else [])
        if gone_back and line["step"] == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "write", stopping)
        assert pretrain_command(stopped) == 0
    assert [step_of(folder) for folder in list_checkpoints(tmp_path / "stopped")] == [21, 30]
    assert pretrain_command(stopped) == 0
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.mark.parametrize(("leaps", "skipped"), [((19, 20, 21), [2 * 4]), ((8, 9, 10, 23, 24, 25), [4 * 4, 6 * 4])])
def test_going_back_over_a_boundary(
    leaps: tuple[int, ...], skipped: list[int], workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spikes in a stage's last two steps and the next one's first: back into the stage before and to its optimiser.

    Two steps of four rows were left in that stage, and rows that were left out of it before stay so.
    """
    judge, reached = SpikeStatistics.judge, [0]

    def leaping(self: SpikeStatistics, loss: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        reached[0] += 1
        return judge(self, loss + (torch.inf if reached[0] in leaps else 0.0), *more)

    monkeypatch.setattr(SpikeStatistics, "judge", leaping)
    stability = {"on_spike": "rollback", "window": 32, "minimum_steps": 16, "patience": 3}
    stages = (stage("first", 20, kind="causal"), stage("second", 6, kind="causal", optimizer={"name": "muon"}))
    config = run_config(*stages, stability=stability, checkpoint={"every": 6, "keep_last": 9})
    assert pretrain_command(arguments(workspace, tmp_path / "run", config)) == 0
    assert list(losses(tmp_path / "run")) == list(range(1, 27))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    back = [line for line in lines if "rolled_back_from" in line]
    assert (back[-1]["step"], back[-1]["stage"], back[-1]["rolled_back_from"]) == (18, "first", 21)
    assert [line["skipped_rows"] for line in back] == skipped


def test_a_loss_that_is_no_number_is_named_with_its_process_and_samples(workspace: Path, tmp_path: Path) -> None:
    """Steps of four rows, two for each process; the second step's are samples 4 to 7."""
    mad = stage(steps=3, schedule={"peak": 1e30, "end": 1e30, "shape": "constant", "warmup_share": 0.0})
    argv = arguments(workspace, tmp_path / "run", run_config(mad))
    done = call("trainer", "pretrain", *argv, processes=2)
    assert "step 2: loss nan" in done.stderr, done.stderr[-3000:]
    assert "rank 0 (samples 4, 5), rank 1 (samples 6, 7) of stage 0" in done.stderr


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_loss_that_is_no_number_ends_a_run_on_every_device(device: str, tmp_path: Path) -> None:
    """The device's name is all that is given here; the tensors are the CPU's."""
    run = SimpleNamespace(
        config=SimpleNamespace(stability=StabilityConfig()), device=torch.device(device), folder=tmp_path, world=World()
    )
    state = SimpleNamespace(loss_scale=LossScale(False, CPU), position=Position())
    result = SimpleNamespace(loss=torch.tensor(float("nan")), rows=torch.tensor([[1.0], [float("nan")]]))
    with pytest.raises(ValueError, match=r"rank 0 \(samples 5\) of stage 0"):
        judge(run, state, result, torch.tensor(1.0), (4, 6))
    result.loss = result.rows[0, 0]
    assert float(judge(run, state, result, torch.tensor(1.0), (4, 6))) == 1.0
