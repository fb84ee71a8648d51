"""Forward and backward passes of one global step: micro-batches, and the one division that makes a step's loss.

The loss of a step is the sum over its targets divided by their weight in the whole global step, over processes and
micro-batches alike; so the weight is counted from the batch's arrays before the first forward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from objectives.example import Batch
from trainer.devices import World
from trainer.parallel import sum_over_processes, synchronize_gradients

MASK_INPUTS = ("document", "context_end")
INPUTS = ("tokens", "positions", "document", "context_end", "targets")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What a step's losses are multiplied by."""

    mtp: float = 0.0
    """The mean over MTP's depths."""
    z_loss: float = 0.0
    """The squared log normalisers of the output."""


@dataclass
class StepResult:
    """What a step's passes found, as tensors on the device."""

    loss: Tensor
    """Cross entropy of the main targets: their sum over all processes divided by their weight."""
    mtp_loss: Tensor | None
    """Mean cross entropy of MTP's targets, the mean over depths."""
    rows: Tensor
    """(rows of this process, 4): weighted loss, weight, nats and bytes of the targets that stand for bytes."""
    task: np.ndarray
    """(rows,) index of each row's task."""
    source: np.ndarray
    """(rows,) index of each row's source."""
    unmasked: np.ndarray
    """(rows,) source tokens that got no blank and stay as plain context."""
    limited: np.ndarray
    """(rows,) whether a row's spare room kept a blank from being drawn."""


def passes_of(rows: int, micro_rows: int, world: World) -> int:
    """Forward passes that a step of `rows` rows takes: what the process with the most rows needs."""
    return math.ceil(math.ceil(rows / world.size) / micro_rows)


def mtp_weights(batch: Batch, depth: int) -> list[float]:
    """Number of targets of each depth of MTP: those that lie 1, 2, ... places later in the same document."""
    scored, document = batch.loss_weights > 0, batch.document
    return [float(((document[:, d:] == document[:, :-d]) & scored[:, d:]).sum()) for d in range(1, depth + 1)]


def is_plainly_causal(batch: Batch, part: slice) -> bool:
    """Whether each row is one document without context, for which attention has a faster path without a mask."""
    document = batch.document[part]
    return bool((document == document[:, :1]).all() and (batch.context_end[part] <= 1).all())


class StepRunner:
    """Runs the passes of a step over a model; gradients are left in its parameters."""

    def __init__(
        self, model: nn.Module, byte_lengths: np.ndarray, device: torch.device, world: World, *, mtp_depth: int
    ) -> None:
        self.model = model
        self.byte_lengths = torch.from_numpy(byte_lengths.astype(np.int64)).to(device)
        self.device = device
        self.world = world
        self.mtp_depth = mtp_depth

    def run(self, batch: Batch, micro_rows: int, passes: int, weights: LossWeights, loss_scale: Tensor) -> StepResult:
        """Forward and backward over this process's rows in `passes` passes, the same number on every process."""
        scored = float(batch.loss_weights.sum(dtype=np.float64))
        counts = torch.tensor([scored, *mtp_weights(batch, self.mtp_depth)], dtype=torch.float32)
        counts = sum_over_processes(counts.to(self.device)).clamp(min=1.0)
        scale = loss_scale * self.world.size / counts
        sums = torch.zeros_like(counts)
        rows = []
        for index in range(passes):
            synchronize_gradients(self.model, index == passes - 1)
            part = slice(index * micro_rows, (index + 1) * micro_rows)
            if index * micro_rows >= len(batch.tokens):
                self._empty_pass(batch)
                continue
            rows.append(self._one_pass(batch, part, weights, scale, sums))
        sums = sum_over_processes(sums)
        return StepResult(
            loss=sums[0] / counts[0],
            mtp_loss=(sums[1:] / counts[1:]).mean() if self.mtp_depth else None,
            rows=torch.cat(rows) if rows else torch.zeros(0, 4, device=self.device),
            task=batch.task,
            source=batch.source,
            unmasked=batch.unmasked,
            limited=batch.limited,
        )

    def _one_pass(self, batch: Batch, part: slice, weights: LossWeights, scale: Tensor, sums: Tensor) -> Tensor:
        """One micro-batch; adds its loss sums to `sums` and returns its row sums."""
        skipped = MASK_INPUTS if is_plainly_causal(batch, part) else ()
        inputs = {name: self._tensor(getattr(batch, name)[part]) for name in INPUTS if name not in skipped}
        target_weights = self._tensor(batch.loss_weights[part])
        inputs["targets"] = torch.where(target_weights > 0, inputs["targets"], -1)
        output = self.model(**inputs, auxiliary_scale=scale[0])
        loss = (output.losses * target_weights).sum()
        sums[0] += loss.detach()
        objective = loss * scale[0]
        if weights.z_loss:
            objective = objective + (output.z_losses * target_weights).sum() * (scale[0] * weights.z_loss)
        for depth, (losses, _) in enumerate(output.mtp_losses, start=1):
            mtp_loss = losses.sum()
            sums[depth] += mtp_loss.detach()
            objective = objective + mtp_loss * (scale[depth] * weights.mtp / self.mtp_depth)
        objective.backward()
        return self._row_sums(output.losses.detach(), target_weights, inputs["targets"])

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)
        return tensor.long() if tensor.dtype == torch.int32 else tensor

    def _empty_pass(self, batch: Batch) -> None:
        """Take part in the sharded model's exchanges without rows of one's own: a gradient of exactly zero.

        In evaluation mode, so that routers do not count its tokens and attach no loss. The row is made up, for a step
        of fewer rows than processes leaves some with none at all.
        """
        arrays = {name: getattr(batch, name) for name in INPUTS}
        inputs = {name: self._tensor(np.zeros((1, *array.shape[1:]), array.dtype)) for name, array in arrays.items()}
        self.model.eval()
        output = self.model(**inputs)
        zero = sum((losses.sum() for losses, _ in output.mtp_losses), output.losses.sum()) * 0.0
        zero.backward()
        self.model.train()

    def _row_sums(self, losses: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
        lengths = self.byte_lengths[targets.clamp(min=0)] * (targets >= 0)
        nats = (losses * (lengths > 0)).sum(dim=1)
        return torch.stack([(losses * weights).sum(dim=1), weights.sum(dim=1), nats, lengths.sum(dim=1).float()], dim=1)
