"""What a stage of a run reads: the window, the blend of the sources, how the blend changes."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data of one stage."""

    window: int = 2048
    """Positions in a row."""
    weights: dict[str, float] | None = None
    """Shares of samples by source folder (zh-prose, en-code, ...); default: the token counts that the mix left."""
    initial_weights: dict[str, float] | None = None
    """Shares at the stage's start, which change linearly into `weights` over `ramp_samples`."""
    ramp_samples: int = 0
    """Samples over which the weights change; GLM-130B diverged when it changed its mixture at once."""
    mip_files: list[str] = field(default_factory=list)
    """JSONL files of instruction pairs, each line an object with `text` and `target` (blank infilling only)."""
    mip_share: float = 0.05
    """Share of samples that are rows of instruction pairs when `mip_files` are given."""
    mip_windows: int = 4
    """An instruction pair is at most this part of a row: 4 means 512 of 2,048 positions."""
    pair_files: list[str] = field(default_factory=list)
    """JSONL files to fine-tune on, each line an object with `prompt` and `target` (causal only); only targets have a
    loss."""
    pair_share: float = 1.0
    """Share of samples that are rows of such pairs when `pair_files` are given; 1 reads no other text."""
    heldout_pair_files: list[str] = field(default_factory=list)
    """JSONL files of pairs that are measured and not trained on, of the form that the objective takes: lines with
    `prompt` and `target` (causal) or with `text` and `target` (blank infilling)."""
    prefetch: int = 4
    """Batches made ahead of the training step."""

    def __post_init__(self) -> None:
        if self.window < 16:
            raise ValueError(f"data.window: {self.window} positions are too few; give 16 or more")
        for name, weights in (("weights", self.weights), ("initial_weights", self.initial_weights)):
            if weights is None:
                continue
            if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or not any(
                weights.values()
            ):
                raise ValueError(f"data.{name}: {weights} must be finite numbers, not negative, empty or all zero")
        if self.ramp_samples < 0 or (self.ramp_samples == 0) != (self.initial_weights is None):
            raise ValueError("data.ramp_samples: give it, above 0, together with data.initial_weights")
        if not 0.0 < self.mip_share < 1.0:
            raise ValueError(f"data.mip_share: {self.mip_share} must lie between 0 and 1")
        if not 0.0 < self.pair_share <= 1.0:
            raise ValueError(f"data.pair_share: {self.pair_share} must be above 0 and at most 1")
        if self.mip_files and self.pair_files:
            raise ValueError("data.mip_files and data.pair_files: a stage has one kind of pairs")
        if self.mip_windows < 1 or self.prefetch < 1:
            raise ValueError("data.mip_windows and data.prefetch must be 1 or more")

    @property
    def reads_shards(self) -> bool:
        """Whether the stage reads the corpus's token shards, or nothing but pairs."""
        return not self.pair_files or self.pair_share < 1.0
