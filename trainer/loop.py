"""The training loop: next batch, forward, backward, clip, step, log, save; stage after stage.

Everything that resumes is in `TrainState`; what comes from outside (evaluation, sinks of metrics) is handed in.
Nothing here knows the objective, the family of the model, or that a process might hold all of it.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path

import torch

from model.experts import expert_counts, routers, update_expert_bias
from model.transformer import Transformer
from objectives.example import TASKS, Batch
from trainer.config import RunConfig, StageConfig
from trainer.devices import keep_freed_memory, peak_memory
from trainer.figures import Taken, WeightsBefore, indexer_divergences
from trainer.gradients import clip_divisor, gradient_norms
from trainer.metrics import Interval
from trainer.parallel import broadcast_object, sum_over_processes
from trainer.rates import model_flops_utilization
from trainer.run import Run, Stopped, StopRequest
from trainer.schedules import embedding_gradient_share, learning_rate, progress_of, step_boundaries
from trainer.spikes import SpikeError, judge, roll_back, spikes_in_a_row
from trainer.stability import LossScale, SpikeStatistics
from trainer.stages import build_optimizer, hand_over, open_loader, prepare_model, read_batches
from trainer.state import TrainState, position_of, seed_step
from trainer.step import LossWeights, StepRunner, passes_of


def train(run: Run, model: Transformer, resume_from: Path | None) -> TrainState:
    """Train to the last step of the last stage, from the checkpoint `resume_from` or from the model as it is.

    Raises Stopped when a signal asked for it, after saving.
    """
    config = run.config
    keep_freed_memory(run.device)
    position = position_of(resume_from)
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
            prepare_model(run, state)
            log_heldout(run, state, config.stages[0])
            if config.init_from or config.stability.on_spike == "rollback":
                run.saver.save(state)
        gc.collect()
        gc.freeze()  # collections during the steps need not look at the whole program's objects
        while state.position.stage < len(config.stages):
            try:
                train_stage(run, state, config.stages[state.position.stage], stop)
            except SpikeError as spike:
                roll_back(run, state, spike)
        run.saver.wait()
    finally:
        gc.unfreeze()
        stop.restore()
        run.saver.close()
        for sink in run.sinks:
            sink.close()
    return state


def train_stage(run: Run, state: TrainState, stage: StageConfig, stop: StopRequest) -> None:
    """The steps of one stage that are still to be done, and the hand-over to the next."""
    position = state.position
    prepare_model(run, state)
    loader = open_loader(run, stage, position.stage)
    boundaries = step_boundaries(stage.batch, stage.data.window, stage.steps)
    for note in loader.describe(boundaries[-1]):
        run.say(f"stage {stage.name}: {note}")
    depth = run.config.model.mtp.depth
    runner = StepRunner(state.model, run.tokenizer.byte_lengths, run.device, run.world, mtp_depth=depth)
    interval = Interval(TASKS, loader.source_names)
    batches = read_batches(run, loader, boundaries, position)
    while position.stage_step < stage.steps:
        began = time.perf_counter()
        batch = next(batches)
        interval.loader_seconds += time.perf_counter() - began
        first, end = boundaries[position.stage_step : position.stage_step + 2]
        last_of_stage = position.stage_step + 1 == stage.steps
        logs = (position.step + 1) % run.config.log.every == 0 or last_of_stage
        progress = progress_of(stage, boundaries, position.stage_step)

        taken = take_step(run, state, stage, runner, batch, (first, end), progress, measured=logs)
        if spikes_in_a_row(run, state):
            raise SpikeError(end + position.skipped_rows)
        tokens = (end - first) * stage.data.window
        position.step += 1
        position.stage_step += 1
        position.tokens += tokens
        interval.add(taken.result, tokens)
        if logs:
            line = {
                "step": position.step,
                "stage": stage.name,
                "tokens": position.tokens,
                **taken.describe(state),
                **interval.summary(),
                "epochs": loader.epochs(end + position.skipped_rows),
                "memory": peak_memory(run.device),
            }
            line["mfu"], line["hfu"] = model_flops_utilization(run.config, stage, line, run.device, run.world)
            run.write(line)
            interval.begin()
        if last_of_stage:
            # Before saving, so that a checkpoint's optimiser is that of the stage that goes on from it.
            position.stage, position.stage_step, position.skipped_rows = position.stage + 1, 0, 0
            hand_over(run, state)
        began = time.perf_counter()
        evaluate_and_save(run, state, stage, last_of_stage, stop)
        interval.paused_seconds += time.perf_counter() - began
        if last_of_stage:
            return


def take_step(
    run: Run,
    state: TrainState,
    stage: StageConfig,
    runner: StepRunner,
    batch: Batch,
    rows: tuple[int, int],
    progress: float,
    *,
    measured: bool,
) -> Taken:
    """Forward, backward, clip, step. `batch` is this process's part of the global step's `rows` (first row, end).

    measured: also find how far the weights moved, for which they are copied.
    """
    first, end = rows
    seed_step(run.config.seed, state.position.step, run.world.rank)
    if stage.embedding_shrink is not None:
        state.model.set_embedding_gradient_shrink(embedding_gradient_share(stage.embedding_shrink, progress))
    rate = learning_rate(stage.schedule, progress)
    passes = passes_of(end - first, stage.batch.micro_batch_rows, run.world)
    weights = loss_weights(run.config, stage)
    result = runner.run(batch, stage.batch.micro_batch_rows, passes, weights, state.loss_scale.scale)
    norm, norms = gradient_norms(state.model, state.loss_scale.scale)
    divisor = clip_divisor(norm, stage.optimizer.gradient_clip, state.loss_scale.scale)
    factor = judge(run, state, result, norm, rows)
    before = WeightsBefore(state.model) if measured else None
    state.optimizer.step(rate, factor, divisor)
    updates = before.ratios() if before else {}
    state.optimizer.zero_grad()
    return Taken(
        result=result,
        rate=rate,
        norm=norm,
        norms=norms,
        load=balance_experts(state, run.config, stage, factor),
        divergences=indexer_divergences(state),
        updates=updates,
    )


def loss_weights(config: RunConfig, stage: StageConfig) -> LossWeights:
    """The weights of the losses beside the main one in a stage."""
    mtp = config.model.mtp.loss_weight if stage.mtp_loss_weight is None else stage.mtp_loss_weight
    return LossWeights(mtp=mtp, z_loss=stage.z_loss)


def balance_experts(
    state: TrainState, config: RunConfig, stage: StageConfig, factor: torch.Tensor
) -> torch.Tensor | None:
    """Move the routers' biases by the whole step's counts, unless `factor` is 0; returns the counts (routers, experts).

    A step that is left out has its tokens left out of the balance too: no count, no movement.
    """
    if config.model.experts.num_experts == 0 or not routers(state.model):
        return None
    counts = sum_over_processes(expert_counts(state.model))
    rate = stage.expert_bias_update_rate
    rate = config.model.experts.bias_update_rate if rate is None else rate
    # A bias is no parameter that could be frozen; in the indexers' warm-up it stays as the model does.
    update_expert_bias(state.model, counts * factor, 0.0 if stage.sparse_attention == "warmup" else rate)
    return counts


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


def log_heldout(run: Run, state: TrainState, stage: StageConfig) -> None:
    """Measure on held-out text and write it down."""
    figures = run.evaluate(state.model, stage)
    if not figures:
        return
    run.write({"step": state.position.step, "stage": stage.name, "tokens": state.position.tokens, **figures})
