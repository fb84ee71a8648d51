"""The loss of a batch's targets: of pairs that a run does not train on, what their answers cost it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evaluation.processes import over_processes
from objectives.example import Batch


@torch.no_grad()
def target_nats(model: nn.Module, batch: Batch, scored: NDArray[np.bool_], device: torch.device) -> NDArray[np.float64]:
    """(B, S) nats of the targets where `scored` (B, S) is true, 0 elsewhere."""

    def tensor(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    output = model(
        tokens=tensor(batch.tokens.astype(np.int64)),
        positions=tensor(batch.positions.astype(np.int64)),
        document=tensor(batch.document),
        context_end=tensor(batch.context_end),
        targets=tensor(np.where(scored, batch.targets, -1).astype(np.int64)),
    )
    return output.losses.double().cpu().numpy()


def target_loss(model: nn.Module, batches: Sequence[Batch], device: torch.device) -> float:
    """Nats a target, over all targets of the batches alike, measured by all processes together.

    The model's mode (training or not) is put back afterwards.
    """

    def measure(batch: Batch) -> tuple[float, float]:
        scored = batch.loss_weights > 0
        return float(target_nats(model, batch, scored, device).sum()), float(scored.sum())

    was_training = model.training
    model.eval()
    try:
        nats, targets = over_processes(batches, measure, 2, device).sum(axis=0).tolist()
    finally:
        model.train(was_training)
    return nats / targets
