"""How much of the device a run uses: operations of the model (MFU) and of the hardware (HFU) over the device's peak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from model.flops import flops_per_token, selected_keys
from trainer.config import RunConfig, StageConfig
from trainer.devices import World, peak_flops


def model_flops_utilization(
    config: RunConfig, stage: StageConfig, line: Mapping[str, Any], device: torch.device, world: World
) -> tuple[float | None, float | None]:
    """MFU and HFU of a log line, or None for a device whose peak is not known (every CPU).

    Attention is counted as causal over the window; operations are counted, not measured, so that runs compare.
    """
    peak = peak_flops(device)
    if peak is None:
        return None, None
    window, top_k = stage.data.window, config.model.attention.indexer.top_k
    flops = flops_per_token(
        config.model,
        (window + 1) / 2,
        sparse_mode=stage.sparse_attention,
        kept_keys=selected_keys(window, top_k),
    )
    rate = line["tokens_per_second"] / (peak * world.size)
    recomputes = config.devices.recompute == "layer"
    return flops.training * rate, (flops.training_with_recompute if recomputes else flops.training) * rate
