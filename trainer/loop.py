"""The training loop: next batch, forward, backward, clip, step, log, save; stage after stage.

Everything that resumes is in `TrainState`; what comes from outside (evaluation, sinks of metrics) is handed in.
Nothing here knows the objective, the family of the model, or that a process might hold all of it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from model.experts import expert_counts, reset_expert_counts, routers, update_expert_bias
from model.transformer import Transformer
from objectives.example import TASKS, Batch
from tokenizer.load import Tokenizer
from trainer import checkpoints
from trainer.config import RunConfig, StageConfig
from trainer.devices import World, peak_memory
from trainer.gradients import clip, gradient_norms
from trainer.loader import Loader
from trainer.metrics import Interval, Sink
from trainer.optimizers import Optimizer, assign, describe, freeze
from trainer.parallel import broadcast_object, sum_over_processes
from trainer.rates import model_flops_utilization
from trainer.saving import Saver
from trainer.schedules import embedding_gradient_share, learning_rate, step_boundaries
from trainer.stability import LossScale, SpikeStatistics
from trainer.state import Position, TrainState, read_position, seed_step
from trainer.step import LossWeights, StepResult, StepRunner, passes_of

Evaluate = Callable[[torch.nn.Module, StageConfig], dict[str, Any]]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(kw_only=True)
class Run:
    """What a run works with, none of which it has to save."""

    config: RunConfig
    folder: Path
    data: Path
    tokenizer: Tokenizer
    device: torch.device
    world: World
    sinks: list[Sink]
    evaluate: Evaluate
    saver: Saver
    say: Callable[[str], None]
    rollbacks: int = 0


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop; its state is saved."""


class SpikeError(Exception):
    """Losses or gradients have leapt so often in a row that the run should go back; carries the next unread row."""

    def __init__(self, next_row: int) -> None:
        super().__init__(f"spikes up to row {next_row}")
        self.next_row = next_row


class StopRequest:
    """Remembers that SIGINT, SIGTERM or Slurm's SIGUSR1 came, so that the step in hand can be finished and saved."""

    def __init__(self) -> None:
        self.name = ""
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.name:  # the second time the person means it
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def restore(self) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def build_optimizer(
    model: torch.nn.Module, config: RunConfig, stage: StageConfig, say: Callable[[str], None]
) -> Optimizer:
    """The stage's optimiser over the parameters that it does not freeze, with a line that says what goes where."""
    frozen = freeze(model, stage.frozen)
    latent, attention = config.model.attention.latent, config.model.attention
    head_rows: dict[str, tuple[int, ...]] = {}
    if attention.kind == "latent":
        head_rows = {
            "q_b_proj": (latent.qk_nope_head_dim + latent.qk_rope_head_dim,),
            "kv_b_proj": (latent.qk_nope_head_dim, latent.v_head_dim),
        }
    assignments = assign(model, stage.optimizer, head_rows)
    note = f"; frozen: {len(frozen)} tensors" if frozen else ""
    say(f"stage {stage.name}: {describe(model, assignments)}{note}")
    return Optimizer(model, stage.optimizer, assignments)


def train(run: Run, model: Transformer, resume_from: Path | None) -> TrainState:
    """Train to the last step of the last stage, from the checkpoint `resume_from` or from the model as it is.

    Raises Stopped when a signal asked for it, after saving.
    """
    config = run.config
    position = checkpoints_position(resume_from)
    position.threads = torch.get_num_threads()
    stage = config.stages[min(position.stage, len(config.stages) - 1)]
    state = TrainState(
        model=model,
        optimizer=build_optimizer(model, config, stage, run.say),
        spikes=SpikeStatistics(config.stability, run.device),
        loss_scale=LossScale(config.model.compute_dtype == "float16", run.device),
        position=position,
    )
    if resume_from is not None:
        state.load(resume_from)
        state.position.threads = position.threads
        run.say(f"going on from {resume_from.name}")
    stop = StopRequest()
    try:
        if state.position.step == 0:
            log_heldout(run, state, config.stages[0])
            if config.stability.on_spike == "rollback":
                run.saver.save(state)
        while state.position.stage < len(config.stages):
            try:
                train_stage(run, state, config.stages[state.position.stage], stop)
            except SpikeError as spike:
                roll_back(run, state, spike)
        run.saver.wait()
    finally:
        stop.restore()
        run.saver.close()
        for sink in run.sinks:
            sink.close()
    return state


def checkpoints_position(checkpoint: Path | None) -> Position:
    """Where a checkpoint's run was, or the beginning."""
    return Position() if checkpoint is None else read_position(checkpoint)


def train_stage(run: Run, state: TrainState, stage: StageConfig, stop: StopRequest) -> None:
    """The steps of one stage that are still to be done, and the hand-over to the next."""
    position = state.position
    prepare_model(run, state)
    loader = open_loader(run, stage, position.stage)
    boundaries = step_boundaries(stage.batch, stage.data.window, stage.steps)
    mtp = run.config.model.mtp
    runner = StepRunner(state.model, run.tokenizer.byte_lengths, run.device, run.world, mtp_depth=mtp.depth)
    mtp_weight = mtp.loss_weight if stage.mtp_loss_weight is None else stage.mtp_loss_weight
    weights = LossWeights(mtp=mtp_weight, z_loss=stage.z_loss)
    interval = Interval(TASKS, loader.source_names)
    batches = read_batches(run, loader, boundaries, position)
    while position.stage_step < stage.steps:
        began = time.perf_counter()
        batch = next(batches)
        interval.loader_seconds += time.perf_counter() - began
        first, end = boundaries[position.stage_step : position.stage_step + 2]
        progress = progress_of(stage, boundaries, position.stage_step)

        seed_step(run.config.seed, position.step, run.world.rank)
        if stage.embedding_shrink is not None:
            state.model.set_embedding_gradient_shrink(embedding_gradient_share(stage.embedding_shrink, progress))
        rate = learning_rate(stage.schedule, progress)
        passes = passes_of(end - first, stage.batch.micro_batch_rows, run.world)
        result = runner.run(batch, stage.batch.micro_batch_rows, passes, weights, state.loss_scale.scale)
        norm, norms = gradient_norms(state.model, state.loss_scale.scale)
        clip(state.model, norm, stage.optimizer.gradient_clip, state.loss_scale.scale)
        factor = judge(run, state, result, norm, first)
        state.optimizer.step(rate, factor)
        state.optimizer.zero_grad()
        load = balance_experts(state, run.config, stage)

        if spikes_in_a_row(run, state):
            raise SpikeError(end + position.skipped_rows)
        tokens = (end - first) * stage.data.window
        position.step += 1
        position.stage_step += 1
        position.tokens += tokens
        interval.add(result, tokens)
        last_of_stage = position.stage_step == stage.steps
        if position.step % run.config.log.every == 0 or last_of_stage:
            line = {
                "step": position.step,
                "stage": stage.name,
                "tokens": position.tokens,
                "loss": result.loss.item(),
                "learning_rate": rate,
                "grad_norm": norm.item(),
                "grad_norm_by_part": {name: value.item() for name, value in norms.items()},
                **describe_extras(state, result, load),
                **interval.summary(),
                "memory": peak_memory(run.device),
            }
            line["mfu"], line["hfu"] = model_flops_utilization(run.config.model, stage, line, run.device, run.world)
            write(run, line)
            interval.begin()
        if last_of_stage:
            position.stage, position.stage_step, position.skipped_rows = position.stage + 1, 0, 0
        evaluate_and_save(run, state, stage, last_of_stage, stop)
        if last_of_stage:
            hand_over(run, state)
            return


def progress_of(stage: StageConfig, boundaries: list[int], step: int) -> float:
    """Share of the stage before a step, in the unit of its schedule."""
    if stage.schedule.unit == "rows":
        return boundaries[step] / boundaries[-1]
    return step / stage.steps


def prepare_model(run: Run, state: TrainState) -> None:
    """Make the model what the stage wants, whether the run has come here by training or by resuming."""
    model, stages = state.model, run.config.stages[: state.position.stage + 1]
    model.train()
    bases = [run.config.model.position.rope_base, *(stage.rope_base for stage in stages)]
    model.set_rope_base([base for base in bases if base is not None][-1])
    if any(stage.embedding_shrink is not None for stage in stages):
        model.set_embedding_gradient_shrink(run.config.model.embedding_gradient_shrink)
    reset_expert_counts(model)


def open_loader(run: Run, stage: StageConfig, index: int) -> Loader:
    """The loader of a stage's samples."""
    return Loader(
        run.data,
        stage.data,
        stage.objective,
        run.tokenizer.special,
        run.config.seed,
        stage=index,
        tokenizer=run.tokenizer,
    )


def read_batches(run: Run, loader: Loader, boundaries: list[int], position: Position) -> Iterator[Batch]:
    """This process's batches from where the run is."""
    start = boundaries[position.stage_step] + position.skipped_rows

    def size_of(step: int) -> int:
        step = min(step, len(boundaries) - 2)  # what is made ahead at the end of a stage is thrown away
        return boundaries[step + 1] - boundaries[step]

    return loader.iterate(start, size_of, step=position.stage_step, rank=run.world.rank, world=run.world.size)


def judge(run: Run, state: TrainState, result: StepResult, norm: torch.Tensor, first_row: int) -> torch.Tensor:
    """1 or 0, on the device: whether the step is taken."""
    finite = torch.isfinite(result.loss) & torch.isfinite(norm)
    state.loss_scale.update(finite)
    if run.config.stability.on_spike == "nothing":
        if run.device.type == "cpu" and not state.loss_scale.active and not bool(finite):
            raise ValueError(explain_not_finite(run, state, result, norm, first_row))
        return finite.to(torch.float32)
    return state.spikes.judge(result.loss, norm)


def spikes_in_a_row(run: Run, state: TrainState) -> bool:
    """Whether so many steps in a row were spikes that the run should go back; asks the device only in that mode."""
    stability = run.config.stability
    return stability.on_spike == "rollback" and int(state.spikes.in_a_row) >= stability.patience


def roll_back(run: Run, state: TrainState, spike: SpikeError) -> None:
    """Go back to the last checkpoint from before the spikes, and past the rows that have been read since.

    GLM-130B's authors did this by hand (its training log, steps 40,701 and 42,401). A run that finds no way past is
    ended: ValueError.
    """
    stability, before = run.config.stability, state.position
    run.saver.wait()
    run.rollbacks += 1
    found = checkpoints.last_whole(run.folder, run.say, before=before.step - stability.patience + 2)
    if found is None or run.rollbacks > stability.most_rollbacks:
        raise ValueError(
            f"{run.folder}: step {before.step + 1}: still spikes after {run.rollbacks - 1} rollbacks; lower the "
            "learning rate, or look at the data of these steps"
        )
    state.load(found)
    stage = run.config.stages[state.position.stage]
    boundaries = step_boundaries(stage.batch, stage.data.window, stage.steps)
    state.position.skipped_rows = spike.next_row + stability.skip_rows - boundaries[state.position.stage_step]
    state.spikes.forget_row()
    run.say(
        f"step {before.step + 1}: {stability.patience} spikes in a row; back to {found.name}, past {spike.next_row}"
    )
    for sink in run.sinks:
        sink.rewind(state.position.step)
    write(
        run,
        {
            "step": state.position.step,
            "stage": stage.name,
            "tokens": state.position.tokens,
            "rolled_back_from": before.step + 1,
            "skipped_rows": state.position.skipped_rows,
        },
    )


def explain_not_finite(run: Run, state: TrainState, result: StepResult, norm: torch.Tensor, first_row: int) -> str:
    """Which process, step and samples gave a loss or gradient that is not a number."""
    bad = (~torch.isfinite(result.rows[:, 0])).nonzero().flatten().tolist()
    first = first_row + state.position.skipped_rows
    samples = ", ".join(str(first + row) for row in bad[:8]) or f"{first} and on"
    return (
        f"{run.folder}: step {state.position.step + 1}: loss {result.loss.item()}, gradient norm {norm.item()} on rank "
        f"{run.world.rank}, samples {samples} of stage {state.position.stage}; lower the learning rate or set "
        "stability.on_spike: skip_step"
    )


def balance_experts(state: TrainState, config: RunConfig, stage: StageConfig) -> torch.Tensor | None:
    """Move the routers' biases by the whole step's counts; returns the counts (routers, experts)."""
    if config.model.experts.num_experts == 0 or not routers(state.model):
        return None
    counts = sum_over_processes(expert_counts(state.model))
    rate = stage.expert_bias_update_rate
    update_expert_bias(state.model, counts, config.model.experts.bias_update_rate if rate is None else rate)
    return counts


def describe_extras(state: TrainState, result: StepResult, load: torch.Tensor | None) -> dict[str, Any]:
    """Figures that only some runs have."""
    extras: dict[str, Any] = {}
    if result.mtp_loss is not None:
        extras["mtp_loss"] = result.mtp_loss.item()
    if load is not None:
        share = load / load.sum(dim=1, keepdim=True).clamp(min=1)
        extras["router_max_load"] = (share.max(dim=1).values.mean() * load.size(1)).item()
        extras["router_idle_share"] = (load == 0).float().mean().item()
    if state.loss_scale.active:
        extras["loss_scale"] = state.loss_scale.scale.item()
    skipped = int(state.spikes.skipped.item())
    if skipped:
        extras["skipped_steps"] = skipped
    return extras


def evaluate_and_save(run: Run, state: TrainState, stage: StageConfig, last_of_stage: bool, stop: StopRequest) -> None:
    """Measure and save where the configuration says so, and leave when a signal came."""
    step = state.position.step
    last = step == run.config.total_steps
    if last or (run.config.evaluation.every and step % run.config.evaluation.every == 0):
        log_heldout(run, state, stage)
    stopping = bool(broadcast_object(stop.name))
    if last_of_stage or stopping or step % run.config.checkpoint.every == 0:
        run.saver.save(state)
    if stopping and not last:
        run.saver.wait()
        raise Stopped(f"stopped by {stop.name} after step {step}, which is saved; run the same command to go on")


def hand_over(run: Run, state: TrainState) -> None:
    """Make the next stage's optimiser, which keeps the moments of parameters that it updates by the same rule."""
    if state.position.stage >= len(run.config.stages):
        return
    before = {name: tensor.clone() for name, tensor in state.optimizer.state_dict().items()}
    stage = run.config.stages[state.position.stage]
    state.optimizer = build_optimizer(state.model, run.config, stage, run.say)
    with torch.no_grad():
        for name, tensor in state.optimizer.state_dict().items():
            if name in before:
                tensor.copy_(before[name])


def log_heldout(run: Run, state: TrainState, stage: StageConfig) -> None:
    """Measure on held-out text and write it down."""
    figures = run.evaluate(state.model, stage)
    write(run, {"step": state.position.step, "stage": stage.name, "tokens": state.position.tokens, **figures})


def write(run: Run, line: dict[str, Any]) -> None:
    """A line to every sink; only the first process has any."""
    for sink in run.sinks:
        sink.write(line)
