"""What a log line says of a step beside its loss: routers, indexers, and how far the weights moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.indexer import indexer_sums, reset_indexer_losses
from trainer.gradients import part_of
from trainer.optimizers import local_part
from trainer.parallel import sum_over_processes
from trainer.state import TrainState
from trainer.step import StepResult


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A step that was taken, as tensors on the device."""

    result: StepResult
    rate: float
    """Learning rate."""
    norm: Tensor
    """Norm of the whole gradient before it was clipped."""
    norms: Mapping[str, Tensor]
    """The same of each part."""
    load: Tensor | None
    """(routers, experts) tokens that chose each expert."""
    divergences: Tensor | None
    """(indexers,) mean KL of a query."""
    updates: Mapping[str, Tensor]
    """Of each part, the update's norm over the weights'; empty where it was not asked for."""

    def describe(self, state: TrainState) -> dict[str, Any]:
        """The step's figures; reads the device."""
        line: dict[str, Any] = {
            "loss": self.result.loss.item(),
            "learning_rate": self.rate,
            "grad_norm": self.norm.item(),
            "grad_norm_by_part": {name: value.item() for name, value in self.norms.items()},
            "update_ratio": {name: value.item() for name, value in self.updates.items()},
        }
        if self.result.mtp_loss is not None:
            line["mtp_loss"] = self.result.mtp_loss.item()
        if self.load is not None:
            share = self.load / self.load.sum(dim=1, keepdim=True).clamp(min=1)
            line["router_max_load"] = (share.max(dim=1).values.mean() * self.load.size(1)).item()
            line["router_idle_share"] = (self.load == 0).float().mean().item()
        if self.divergences is not None:
            line["indexer_kl"] = self.divergences.mean().item()
            line["indexer_kl_by_layer"] = {str(index): value for index, value in enumerate(self.divergences.tolist())}
        if state.loss_scale.active:
            line["loss_scale"] = state.loss_scale.scale.item()
        skipped = int(state.spikes.skipped.item())
        if skipped:
            line["skipped_steps"] = skipped
        return line


class WeightsBefore:
    """A copy of the weights that have a gradient, held over one step of the optimiser to see how far they move."""

    def __init__(self, model: nn.Module) -> None:
        self._copies = {
            name: (local_part(parameter.detach()), local_part(parameter.detach()).clone())
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }

    @torch.no_grad()
    def ratios(self) -> dict[str, Tensor]:
        """By part of the model, the norm of the update over the norm of the weights, over all processes.

        To be asked once: the copies become the updates.
        """
        norms: dict[str, list[Tensor]] = {}
        for name, (now, copy) in self._copies.items():
            whole = torch.linalg.vector_norm(copy)
            moved = torch.linalg.vector_norm(copy.sub_(now))
            norms.setdefault(part_of(name), []).append(torch.stack([moved, whole]))
        parts = sorted(norms)
        totals = sum_over_processes(torch.stack([torch.stack(norms[part]).square().sum(dim=0) for part in parts]))
        return dict(zip(parts, (totals[:, 0] / totals[:, 1].clamp(min=1e-30)).sqrt(), strict=True))


def indexer_divergences(state: TrainState) -> Tensor | None:
    """(indexers,) mean KL of a query in this step, over all processes; starts the mean anew."""
    if state.model.sparse_mode == "off":
        return None
    sums = sum_over_processes(indexer_sums(state.model))
    reset_indexer_losses(state.model)
    return sums[:, 0] / sums[:, 1].clamp(min=1.0)
