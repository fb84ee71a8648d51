"""The one definition of a pretraining run: its model, its stages, and how it is saved, measured and kept stable.

`configs/pretrain/*.yaml` are instances of `RunConfig`, which is also what `config.yaml` of a run folder holds.
Numbers in tokens count positions of rows, padding included.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import yaml

from model.config import ModelConfig
from objectives.config import ObjectiveConfig
from trainer.data_config import DataConfig


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over a stage. Shares are of the stage, counted in `unit`."""

    peak: float
    """Highest learning rate, reached at the end of the warm-up."""
    start: float = 0.0
    """Learning rate of the first step of the warm-up."""
    end: float = 0.0
    """Learning rate at the end of the decay."""
    shape: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """How it falls; wsd stays at the peak and falls in a straight line at the end."""
    warmup_share: float = 0.01
    """Share of the stage that warms up."""
    decay_end_share: float = 1.0
    """Share of the stage at which `end` is reached; GLM-130B: 0.9."""
    wsd_decay_share: float = 0.1
    """Share of the stage over which wsd falls."""
    unit: Literal["steps", "rows"] = "steps"
    """What a share counts; rows matter when the batch grows."""

    def __post_init__(self) -> None:
        _require(
            self.peak >= 0 and self.start >= 0 and self.end >= 0, "peak, start, end: learning rates are not negative"
        )
        _require(
            0 <= self.warmup_share <= self.decay_end_share <= 1,
            "warmup_share, decay_end_share: expected 0 <= warmup_share <= decay_end_share <= 1",
        )
        _require(0 < self.wsd_decay_share <= 1, "wsd_decay_share: expected a share between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW for all parameters, or Muon for the matrices of the blocks and AdamW for the rest."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon: hidden matrices by Muon; embeddings, output, router, norms and biases by AdamW."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.95
    """AdamW's decay of the second moment."""
    epsilon: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; norms, biases and gains have none."""
    gradient_clip: float = 1.0
    """Largest norm of the whole gradient; 0 does not clip."""
    adamw_learning_rate_factor: float = 1.0
    """With muon: AdamW's learning rate as a multiple of the schedule's."""
    muon_momentum: float = 0.95
    """Muon's momentum."""
    muon_nesterov: bool = True
    """Whether Muon looks ahead by one momentum step."""
    muon_update_rms: float = 0.2
    """Root mean square that an update of a matrix is scaled to (GLM-4.5: 0.2)."""
    muon_newton_schulz_steps: int = 5
    """Newton-Schulz iterations."""
    muon_split_heads: bool = False
    """GLM-5's Muon Split: orthogonalise each head of MLA's up-projections alone."""

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2", "muon_momentum"):
            _require(0 <= getattr(self, name) < 1, f"{name}: expected at least 0 and less than 1")
        for name in ("weight_decay", "gradient_clip", "adamw_learning_rate_factor"):
            _require(getattr(self, name) >= 0, f"{name}: expected 0 or more")
        for name in ("epsilon", "muon_update_rms"):
            _require(getattr(self, name) > 0, f"{name}: expected more than 0")
        _require(self.muon_newton_schulz_steps > 0, "muon_newton_schulz_steps: expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How many tokens a global step holds, and how many rows one forward pass of one process takes."""

    tokens: int
    """Tokens of a global step, over all processes and micro-batches."""
    micro_batch_rows: int = 1
    """Rows of one forward and backward pass of one process; gradients add up until the step is full."""
    warmup_from_tokens: int = 0
    """Tokens of the first step when the batch grows."""
    warmup_increment_tokens: int = 0
    """Tokens by which the batch grows each time."""
    warmup_over_tokens: int = 0
    """Tokens of the stage over which the batch grows; 0 keeps it constant."""

    def __post_init__(self) -> None:
        _require(self.tokens > 0, "tokens: expected 1 or more")
        _require(self.micro_batch_rows > 0, "micro_batch_rows: expected 1 or more")
        if self.warmup_over_tokens:
            _require(
                0 < self.warmup_from_tokens <= self.tokens, "warmup_from_tokens: expected between 1 and the full batch"
            )
            _require(self.warmup_increment_tokens > 0, "warmup_increment_tokens: expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class EmbeddingShrinkConfig:
    """GLM-130B's embedding gradient shrink: the share of the embedding's gradient that is kept."""

    alpha: float = 1.0
    """Share kept at first; GLM-130B: 0.1."""
    final_alpha: float = 1.0
    """Share kept after the ramp; give alpha's value to keep it constant."""
    ramp_start_share: float = 1.0
    """Share of the stage at which alpha starts to move."""
    ramp_end_share: float = 1.0
    """Share of the stage at which final_alpha is reached."""

    def __post_init__(self) -> None:
        _require(
            0 < self.alpha <= 1 and 0 < self.final_alpha <= 1, "alpha, final_alpha: expected more than 0, at most 1"
        )
        _require(
            0 <= self.ramp_start_share <= self.ramp_end_share <= 1,
            "ramp_start_share, ramp_end_share: expected 0 <= start <= end <= 1",
        )


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """A part of a run with one mixture of data, one window, one objective, one optimiser and one schedule."""

    name: str
    """What the stage is called in logs."""
    steps: int
    """Optimiser steps."""
    data: DataConfig
    """Window and mixture."""
    objective: ObjectiveConfig
    """What is predicted from what."""
    batch: BatchConfig
    """Tokens a step."""
    schedule: ScheduleConfig
    """Learning rate."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser; a change of its kind between stages starts its state anew."""
    embedding_shrink: EmbeddingShrinkConfig | None = None
    """Embedding gradient shrink that moves during the stage; null keeps model.embedding_gradient_shrink."""
    mtp_loss_weight: float | None = None
    """Weight of MTP's loss in this stage; null keeps model.mtp.loss_weight (GLM-4.5: 0.3, then 0.1)."""
    expert_bias_update_rate: float | None = None
    """Step of the routers' biases; null keeps model.experts.bias_update_rate (GLM-4.5: 0.001, then 0)."""
    z_loss: float = 0.0
    """Weight of the squared log normaliser of the output distribution, a token."""
    frozen: list[str] = field(default_factory=list)
    """Parameters that do not move: shell patterns over their names, such as `embedding.*`."""
    rope_base: float | None = None
    """Base of the rotary embedding from this stage on; null keeps what it was."""
    sparse_attention: Literal["off", "warmup", "sparse"] = "off"
    """off: dense attention; warmup: dense, and only the indexers learn, from attention's weights; sparse: attention
    over the keys that the indexers select, and all learn (GLM-5's DSA)."""
    indexer_loss_weight: float = 1.0
    """Weight of the indexers' KL, a query, beside the main loss, a target."""

    def __post_init__(self) -> None:
        _require(bool(self.name), "name: a stage needs a name")
        _require(self.steps > 0, "steps: expected 1 or more")
        _require(self.z_loss >= 0, "z_loss: expected 0 or more")
        for name in ("mtp_loss_weight", "expert_bias_update_rate"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"{name}: expected 0 or more")
        _require(self.rope_base is None or self.rope_base > 0, "rope_base: expected more than 0")
        _require(self.indexer_loss_weight >= 0, "indexer_loss_weight: expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved and what is kept."""

    every: int = 500
    """Steps between checkpoints; the last step and each stage's last step are always saved."""
    keep_last: int = 2
    """Latest checkpoints that are kept."""
    keep_every: int = 0
    """Checkpoints at multiples of this step are kept for good; 0 keeps none."""
    asynchronous: bool = False
    """Write in the background while training goes on (one process)."""

    def __post_init__(self) -> None:
        _require(self.every > 0, "every: expected 1 or more")
        _require(self.keep_last > 0, "keep_last: expected 1 or more")
        _require(self.keep_every >= 0, "keep_every: expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written down while the run goes on."""

    every: int = 10
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard event files to the run folder."""
    wandb_project: str = ""
    """Also log to this Weights & Biases project, when the package is installed."""

    def __post_init__(self) -> None:
        _require(self.every > 0, "every: expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out bits per byte during the run; step 0 and the last step are always measured."""

    every: int = 0
    """Steps between measurements; 0 measures only before the first and after the last step."""
    rows_per_language: int = 64
    """Held-out windows a language."""
    batch_rows: int = 8
    """Windows of one forward pass."""
    fill_rows_per_language: int = 16
    """Rows of held-out blanks a language (blank infilling) of which the share filled right is measured; 0: none."""

    def __post_init__(self) -> None:
        _require(
            self.every >= 0 and self.fill_rows_per_language >= 0, "every, fill_rows_per_language: expected 0 or more"
        )
        _require(
            self.rows_per_language > 0 and self.batch_rows > 0, "rows_per_language, batch_rows: expected 1 or more"
        )


@dataclass(frozen=True, kw_only=True)
class StabilityConfig:
    """What is done when the loss or the gradient leaps."""

    on_spike: Literal["nothing", "skip_step", "rollback"] = "nothing"
    """skip_step leaves the weights as they are; rollback returns to a checkpoint and skips the data since."""
    window: int = 128
    """Steps whose losses and gradient norms say what is usual."""
    deviations: float = 6.0
    """Standard deviations above the mean that make a spike."""
    minimum_steps: int = 32
    """Steps seen before anything is called a spike."""
    patience: int = 3
    """rollback: spikes in a row before the run goes back."""
    most_rollbacks: int = 8
    """rollback: times that a process goes back before it gives up."""
    skip_rows: int = 0
    """rollback: rows skipped beyond the step that broke."""

    def __post_init__(self) -> None:
        _require(self.window >= 2, "window: expected 2 or more")
        _require(2 <= self.minimum_steps <= self.window, "minimum_steps: expected between 2 and window")
        _require(self.deviations > 0, "deviations: expected more than 0")
        _require(self.patience > 0, "patience: expected 1 or more")
        for name in ("most_rollbacks", "skip_rows"):
            _require(getattr(self, name) >= 0, f"{name}: expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where the run computes."""

    device: str = "auto"
    """auto, cpu, cuda, npu, ...: auto takes the accelerator that torch finds, else the processor."""
    threads: int = 0
    """Threads of one process on a CPU; 0 takes the cores at hand, shared among the processes of the machine."""
    distributed: Literal["fsdp", "none"] = "fsdp"
    """How more than one process shares the model: fsdp shards parameters, gradients and optimiser; none refuses."""
    recompute: Literal["none", "layer"] = "none"
    """layer: keep only each layer's input and compute the layer again in the backward pass; less memory, more time."""
    compile: bool = False
    """Compile each layer with torch.compile: faster steps after a first one that takes minutes, other rounding."""

    def __post_init__(self) -> None:
        # torch 2.13 may give the second forward pass a graph that saves its tensors in another order, and then refuses.
        _require(not (self.compile and self.recompute != "none"), "compile, recompute: a layer has one or the other")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A pretraining run from its first step to its last."""

    model: ModelConfig
    """The model."""
    stages: list[StageConfig]
    """The stages, in order."""
    seed: int = 20220807
    """Seed of the weights, of the order of samples and of every draw."""
    init_from: str = ""
    """Weights to begin with, instead of random ones: a run folder (its last whole checkpoint), a checkpoint of one, a
    Hugging Face folder, or a folder of GLM-130B's mp_rank_NN_model_states.pt."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""
    log: LogConfig = field(default_factory=LogConfig)
    """Metrics."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Held-out measurements."""
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    """Spikes."""
    devices: DeviceConfig = field(default_factory=DeviceConfig)
    """Devices and processes."""

    def __post_init__(self) -> None:
        _require(bool(self.stages), "stages: a run needs at least one stage")
        for stage in self.stages:
            _require(
                stage.sparse_attention == "off" or self.model.attention.indexer.num_heads > 0,
                f"stage {stage.name}: sparse_attention {stage.sparse_attention} needs model.attention.indexer",
            )
        names = [stage.name for stage in self.stages]
        _require(len(set(names)) == len(names), f"stages: names must differ, got {', '.join(names)}")

    @property
    def total_steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)


def with_total_steps(config: RunConfig, steps: int) -> RunConfig:
    """The run with `steps` steps: one stage is as long as asked, of several the last ones are cut or dropped."""
    _require(steps > 0, "--steps: expected 1 or more")
    if len(config.stages) == 1:
        return dataclasses.replace(config, stages=[dataclasses.replace(config.stages[0], steps=steps)])
    _require(
        steps <= config.total_steps,
        f"--steps: this run's stages have {config.total_steps} steps in all, fewer than {steps}",
    )
    stages = []
    for stage in config.stages:
        if steps > 0:
            stages.append(dataclasses.replace(stage, steps=min(stage.steps, steps)))
        steps -= stage.steps
    return dataclasses.replace(config, stages=stages)


def to_yaml(config: RunConfig) -> str:
    """The complete configuration as YAML that `yaml.safe_load` reads back."""
    return yaml.safe_dump(dataclasses.asdict(config), allow_unicode=True, sort_keys=False)
