"""Schedules at their published points, and batches that grow as GLM-130B's did."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.config import BatchConfig, EmbeddingShrinkConfig, ScheduleConfig
from trainer.schedules import batch_rows, embedding_gradient_share, learning_rate, step_boundaries


def test_glm_130b_learning_rate() -> None:
    """Table 11: 1e-7 to 8e-5 over 0.5 % of the samples, cosine to 8e-6 at 90 %, then flat."""
    schedule = ScheduleConfig(start=1e-7, peak=8e-5, end=8e-6, warmup_share=0.005, decay_end_share=0.9)
    assert learning_rate(schedule, 0.0) == 1e-7
    assert learning_rate(schedule, 0.005) == pytest.approx(8e-5)
    assert learning_rate(schedule, (0.005 + 0.9) / 2) == pytest.approx((8e-5 + 8e-6) / 2)
    assert learning_rate(schedule, 0.9) == pytest.approx(8e-6)
    assert learning_rate(schedule, 1.0) == pytest.approx(8e-6)


def test_cosine_is_torchs() -> None:
    steps = 40
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=0.1)
    schedule = ScheduleConfig(peak=1.0, end=0.1, warmup_share=0.0)
    for step in range(steps):
        assert learning_rate(schedule, step / steps) == pytest.approx(reference.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        reference.step()


def test_wsd_stays_and_then_falls() -> None:
    schedule = ScheduleConfig(peak=1.0, end=0.0, shape="wsd", warmup_share=0.1, wsd_decay_share=0.2)
    assert [learning_rate(schedule, share) for share in (0.1, 0.5, 0.8)] == [1.0, 1.0, 1.0]
    assert learning_rate(schedule, 0.9) == pytest.approx(0.5)
    assert learning_rate(schedule, 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("shape", ["cosine", "linear", "wsd", "constant"])
def test_no_schedule_rises_after_its_warm_up(shape: str) -> None:
    schedule = ScheduleConfig(peak=3e-4, end=3e-5, shape=shape, warmup_share=0.02)
    rates = np.array([learning_rate(schedule, share) for share in np.linspace(0, 1, 501)])
    assert (np.diff(rates[:10]) > 0).all()
    assert (np.diff(rates[10:]) <= 1e-12).all()
    assert rates.max() == pytest.approx(3e-4)


def test_glm_130b_batch() -> None:
    """192 to 4,224 rows in steps of 24 over 5,493,164 rows."""
    batch = BatchConfig(
        tokens=4224 * 2048,
        warmup_from_tokens=192 * 2048,
        warmup_increment_tokens=24 * 2048,
        warmup_over_tokens=5_493_164 * 2048,
    )
    assert batch_rows(batch, 2048, 0) == 192
    assert batch_rows(batch, 2048, 5_493_164 // 168) == 192
    assert batch_rows(batch, 2048, 5_493_164 // 168 + 1) == 216
    assert batch_rows(batch, 2048, 5_493_163) == 4200
    assert batch_rows(batch, 2048, 5_493_164) == 4224
    boundaries = step_boundaries(batch, 2048, 3000)
    sizes = np.diff(boundaries)
    assert sizes[0] == 192
    assert set(np.diff(sizes)) <= {0, 24}
    assert sizes[-1] <= 4224


def test_a_constant_batch() -> None:
    assert step_boundaries(BatchConfig(tokens=1024), 256, 3) == [0, 4, 8, 12]


def test_embedding_gradient_share_ramps() -> None:
    shrink = EmbeddingShrinkConfig(alpha=0.1, final_alpha=1.0, ramp_start_share=0.5, ramp_end_share=0.75)
    shares = [embedding_gradient_share(shrink, progress) for progress in (0.0, 0.5, 0.625, 0.75, 1.0)]
    assert shares == pytest.approx([0.1, 0.1, 0.55, 1.0, 1.0])
