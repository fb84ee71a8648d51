"""Learning rate, batch size and every other number that changes over a stage, as pure functions of progress.

Nothing here has state: the value at a step follows from the configuration and the step, so a resumed run needs no
schedule in its checkpoint. Sources: GLM-130B (arXiv 2210.02414, section 2.3 and table 11: warm-up, cosine to a tenth
over 90 % of the samples, then flat; batch 192 to 4,224 rows in steps of 24), GLM-4.5 and GLM-5 (2508.06471 section 2.4
and 2602.15763: cosine, then a linear stage), and WSD (2404.06395) with the decay in the last share of the stage.
"""

from __future__ import annotations

import itertools
import math

from trainer.config import BatchConfig, EmbeddingShrinkConfig, ScheduleConfig, StageConfig


def learning_rate(schedule: ScheduleConfig, progress: float) -> float:
    """The learning rate at `progress`, the share of the stage (0 to 1) that lies before the step.

    The first `warmup_share` rises in a straight line from `start` to `peak`; the rest falls by `shape` and reaches
    `end` at `decay_end_share`, from where it stays.
    """
    if progress < schedule.warmup_share:
        return schedule.start + (schedule.peak - schedule.start) * progress / schedule.warmup_share
    if schedule.shape == "constant":
        return schedule.peak
    span = schedule.decay_end_share - schedule.warmup_share
    if schedule.shape == "wsd":
        span = min(span, schedule.wsd_decay_share)
    begin = schedule.decay_end_share - span
    done = min(max((progress - begin) / span, 0.0), 1.0) if span > 0 else 1.0
    if schedule.shape == "cosine":
        done = 0.5 * (1.0 - math.cos(math.pi * done))
    return schedule.peak + (schedule.end - schedule.peak) * done


def embedding_gradient_share(shrink: EmbeddingShrinkConfig, progress: float) -> float:
    """The share of the embedding's gradient kept at `progress`: the alpha of alpha e + (1 - alpha) stopgrad(e)."""
    if progress < shrink.ramp_start_share:
        return shrink.alpha
    if progress >= shrink.ramp_end_share:
        return shrink.final_alpha
    done = (progress - shrink.ramp_start_share) / (shrink.ramp_end_share - shrink.ramp_start_share)
    return shrink.alpha + (shrink.final_alpha - shrink.alpha) * done


def batch_rows(batch: BatchConfig, window: int, consumed_rows: int) -> int:
    """Rows of the next global step, when `consumed_rows` rows of the stage have been read.

    The batch grows from `warmup_from_tokens` to `tokens` in equal increments of `warmup_increment_tokens` spread
    evenly over the stage's first `warmup_over_tokens` tokens, as Megatron's ramp does.
    """
    full = max(1, batch.tokens // window)
    if not batch.warmup_over_tokens:
        return full
    first = max(1, batch.warmup_from_tokens // window)
    increment = max(1, batch.warmup_increment_tokens // window)
    increments = max(1, math.ceil((full - first) / increment))
    reached = consumed_rows * window * increments // batch.warmup_over_tokens
    return min(full, first + reached * increment)


def step_boundaries(batch: BatchConfig, window: int, steps: int) -> list[int]:
    """Index of the first row of each step of a stage, and of the row after its last: `steps + 1` integers."""
    if not batch.warmup_over_tokens:
        rows = batch_rows(batch, window, 0)
        return list(range(0, rows * steps + 1, rows))
    return list(
        itertools.accumulate(
            range(steps), lambda consumed, _: consumed + batch_rows(batch, window, consumed), initial=0
        )
    )


def progress_of(stage: StageConfig, boundaries: list[int], step: int) -> float:
    """Share of the stage before a step, in the unit of its schedule."""
    if stage.schedule.unit == "rows":
        return boundaries[step] / boundaries[-1]
    return step / stage.steps
