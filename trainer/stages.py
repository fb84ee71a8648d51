"""What a stage of a run begins with: its optimiser, its model's settings, its loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from model.experts import reset_expert_counts
from model.indexer import reset_indexer_losses
from objectives.example import Batch
from trainer.config import RunConfig, StageConfig
from trainer.loader import Loader
from trainer.optimizers import Optimizer, assign, describe, freeze
from trainer.run import Run
from trainer.state import Position, TrainState


def build_optimizer(
    model: torch.nn.Module, config: RunConfig, stage: StageConfig, say: Callable[[str], None]
) -> Optimizer:
    """The stage's optimiser over the parameters that it does not freeze, with a line that says what goes where."""
    warming_up = stage.sparse_attention == "warmup"
    frozen = freeze(model, stage.frozen, "*.indexer.*" if warming_up else "*")
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


def prepare_model(run: Run, state: TrainState) -> None:
    """Make the model what the stage wants, whether the run has come here by training or by resuming."""
    model, stages = state.model, run.config.stages[: state.position.stage + 1]
    model.train()
    bases = [run.config.model.position.rope_base, *(stage.rope_base for stage in stages)]
    model.set_rope_base([base for base in bases if base is not None][-1])
    if any(stage.embedding_shrink is not None for stage in stages):
        model.set_embedding_gradient_shrink(run.config.model.embedding_gradient_shrink)
    stage = stages[-1]
    model.set_sparse_attention(stage.sparse_attention, stage.indexer_loss_weight)
    reset_expert_counts(model)
    reset_indexer_losses(model)


def open_loader(run: Run, stage: StageConfig, index: int) -> Loader:
    """The loader of a stage's samples."""
    return Loader(
        run.data or run.folder,  # what reads nothing but pairs keeps them beside the run
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
