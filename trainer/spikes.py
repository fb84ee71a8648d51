"""What is done about spikes: a step that is left out, a run that goes back, a run that ends and says why."""

from __future__ import annotations

import torch

from trainer import checkpoints
from trainer.loader import share_of_rank
from trainer.parallel import gather_objects, on_first
from trainer.run import Run
from trainer.schedules import step_boundaries
from trainer.stages import build_optimizer
from trainer.state import TrainState, read_position
from trainer.step import StepResult


class SpikeError(Exception):
    """Losses or gradients have leapt so often in a row that the run should go back; carries the next unread row."""

    def __init__(self, next_row: int) -> None:
        super().__init__(f"spikes up to row {next_row}")
        self.next_row = next_row


def judge(run: Run, state: TrainState, result: StepResult, norm: torch.Tensor, rows: tuple[int, int]) -> torch.Tensor:
    """1 or 0, on the device: whether the step of the global `rows` (first row, end) is taken.

    Where spikes are not looked for, a loss that is no number ends the run: ValueError. That asks the device.
    """
    finite = torch.isfinite(result.loss) & torch.isfinite(norm)
    overflow = state.loss_scale.overflowed(result.loss, norm)
    state.loss_scale.update(finite)
    if run.config.stability.on_spike == "nothing":
        if not state.loss_scale.active and not bool(finite):
            raise ValueError(explain_not_finite(run, state, result, norm, rows))
        return finite.to(torch.float32)
    return state.spikes.judge(result.loss, norm, overflow)


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
    stage = run.config.stages[read_position(found).stage]
    crossed = stage is not run.config.stages[before.stage]
    if crossed:
        state.optimizer = build_optimizer(state.model, run.config, stage, run.say)
    state.load(found)
    # Saved within the spikes, they are of a way that the run has left; one that was stopped would go on from them.
    on_first(run.world, lambda: checkpoints.remove_later(run.folder, found))
    boundaries = step_boundaries(stage.batch, stage.data.window, stage.steps)
    # Rows are counted in their stage: of one that had ended, all that was read lies behind, and what was left out too.
    next_row = boundaries[-1] + state.position.skipped_rows if crossed else spike.next_row
    state.position.skipped_rows = next_row + stability.skip_rows - boundaries[state.position.stage_step]
    state.spikes.forget_row()
    run.say(f"step {before.step + 1}: {stability.patience} spikes in a row; back to {found.name}, past row {next_row}")
    for sink in run.sinks:
        sink.rewind(state.position.step)
    run.write(
        {
            "step": state.position.step,
            "stage": stage.name,
            "tokens": state.position.tokens,
            "rolled_back_from": before.step + 1,
            "skipped_rows": state.position.skipped_rows,
        },
    )


def explain_not_finite(
    run: Run, state: TrainState, result: StepResult, norm: torch.Tensor, rows: tuple[int, int]
) -> str:
    """Which processes, step and samples gave a loss or gradient that is not a number; asked by all processes."""
    first, end = (row + state.position.skipped_rows for row in rows)
    begin = first + share_of_rank(end - first, run.world.rank, run.world.size)[0]
    bad = (~torch.isfinite(result.rows[:, 0])).nonzero().flatten().tolist()
    places = [
        f"rank {rank} (samples {', '.join(map(str, samples[:8]))})"
        for rank, samples in enumerate(gather_objects([begin + row for row in bad]))
        if samples
    ]
    where = ", ".join(places[:8]) or f"all ranks (samples {first} to {end - 1})"
    return (
        f"{run.folder}: step {state.position.step + 1}: loss {result.loss.item()}, gradient norm {norm.item()} on "
        f"{where} of stage {state.position.stage}; lower the learning rate or set stability.on_spike: skip_step"
    )
