"""AdamW and Muon over a model's named parameters, whole or sharded, with a step that can be left out on the device.

The optimiser works on each process's own part of a parameter (its shard under FSDP2): AdamW is element by element, and
Muon gathers one matrix at a time. State is kept by parameter name, so that a checkpoint says what belongs to what and
another number of processes can read it. `step` takes a factor of 0 or 1 that may lie on the device; 0 leaves weights
and state untouched without the host having to know (`found_inf` of torch's fused AdamW does the same for float16).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from trainer.config import OptimizerConfig
from trainer.devices import back_end
from trainer.muon import scaled_update

# Parts of names whose matrices are no linear map between hidden states, or that the papers leave to AdamW.
NOT_FOR_MUON = ("embed_tokens", "embed_positions", "lm_head", ".gate.weight")

# Two matrices kept as one, the gate's rows over the up-projection's.
FUSED_PAIR = "gate_up_proj"


@dataclass(frozen=True)
class Assignment:
    """Who updates a parameter, and how."""

    name: str
    rule: str
    """adamw, muon, or muon split."""
    decays: bool
    block_rows: tuple[int, ...] | None = None
    """Rows of the blocks that Muon orthogonalises by themselves; None is the whole matrix."""


def freeze(model: nn.Module, patterns: Sequence[str], learning: str = "*") -> list[str]:
    """Let only parameters that match `learning` and none of the shell `patterns` take gradients.

    Returns the names of the frozen ones. A pattern that matches nothing is a ValueError: it would silently train what
    was meant to stay.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in [*patterns, learning]:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"frozen: {pattern!r} matches no parameter of this model; a name is like {names[0]!r}")
    frozen = []
    for name, parameter in model.named_parameters():
        still = not fnmatch.fnmatchcase(name, learning) or any(fnmatch.fnmatchcase(name, one) for one in patterns)
        parameter.requires_grad_(not still)
        if still:
            frozen.append(name)
    if len(frozen) == len(names):
        raise ValueError(f"frozen: {', '.join(patterns)}: leaves no parameter of this model to train")
    return frozen


def assign(
    model: nn.Module, config: OptimizerConfig, head_rows: Mapping[str, tuple[int, ...]] | None = None
) -> list[Assignment]:
    """Which rule updates which trainable parameter. `head_rows` gives the blocks of a head by a part of the name."""
    assignments = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim >= 2
        if config.name == "adamw" or not matrix or any(part in name for part in NOT_FOR_MUON):
            assignments.append(Assignment(name, "adamw", decays=matrix))
            continue
        heads = next((rows for part, rows in (head_rows or {}).items() if part in name), None)
        if config.muon_split_heads and heads:
            assignments.append(Assignment(name, "muon split", decays=True, block_rows=heads))
            continue
        halves = (parameter.shape[-2] // 2,) * 2 if FUSED_PAIR in name else None
        assignments.append(Assignment(name, "muon", decays=True, block_rows=halves))
    return assignments


def describe(model: nn.Module, assignments: Iterable[Assignment]) -> str:
    """One line a rule: how many tensors and parameters it updates."""
    parameters = dict(model.named_parameters())
    lines: dict[str, list[int]] = {}
    for one in assignments:
        counts = lines.setdefault(one.rule + ("" if one.decays else " without decay"), [0, 0])
        counts[0] += 1
        counts[1] += parameters[one.name].numel()
    return "; ".join(f"{rule}: {tensors} tensors, {count:,} parameters" for rule, (tensors, count) in lines.items())


def local_part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor: the shard of a DTensor, else the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(part: Tensor, whole: Tensor) -> Tensor:
    """`part` as the shard of a tensor that is distributed as `whole` is."""
    if not isinstance(whole, DTensor):
        return part
    return DTensor.from_local(
        part, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


class Optimizer:
    """AdamW, with Muon for the matrices it is assigned."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, assignments: Sequence[Assignment]) -> None:
        parameters = dict(model.named_parameters())
        self.config = config
        self.parameters = {one.name: parameters[one.name] for one in assignments}
        self.device = next(iter(parameters.values())).device
        self.muon = [one for one in assignments if one.rule != "adamw"]
        self.momentum = {one.name: torch.zeros_like(self._local(one.name)) for one in self.muon}
        self.adamw_names: list[str] = []
        groups = []
        for decays in (True, False):
            names = [one.name for one in assignments if one.rule == "adamw" and one.decays == decays]
            if names:
                parts = [nn.Parameter(self._local(name)) for name in names]
                groups.append({"params": parts, "weight_decay": config.weight_decay if decays else 0.0})
                self.adamw_names += names
        fused = back_end(self.device).fused_adamw
        self.adamw = (
            torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=fused)
            if groups
            else None
        )
        self.fused = fused
        self._create_adamw_state()

    def _local(self, name: str) -> Tensor:
        return local_part(self.parameters[name].detach())

    def _adamw_parts(self) -> dict[str, nn.Parameter]:
        parts = [part for group in self.adamw.param_groups for part in group["params"]] if self.adamw else []
        return dict(zip(self.adamw_names, parts, strict=True))

    def _create_adamw_state(self) -> None:
        """Make the moments now rather than at the first step, so that a fresh optimiser can be loaded into."""
        for part in self._adamw_parts().values():
            self.adamw.state[part] = {  # type: ignore[union-attr]
                "step": torch.zeros((), dtype=torch.float32, device=part.device if self.fused else "cpu"),
                "exp_avg": torch.zeros_like(part),
                "exp_avg_sq": torch.zeros_like(part),
            }

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float, factor: Tensor | None = None, divisor: Tensor | None = None) -> None:
        """Update every parameter that has a gradient; a `factor` of 0 leaves everything as it was.

        Gradients are divided by `divisor` (clipping and loss scale), in place or not at all.
        """
        if factor is not None and not self.fused:
            if not bool(factor):
                return
            factor = None
        if self.adamw is not None:
            rate = learning_rate * (self.config.adamw_learning_rate_factor if self.muon else 1.0)
            for group in self.adamw.param_groups:
                group["lr"] = rate
            parts = self._adamw_parts()
            for name, part in parts.items():
                gradient = self.parameters[name].grad
                part.grad = None if gradient is None else local_part(gradient)
            if self.fused:
                self.adamw.grad_scale = divisor  # type: ignore[attr-defined]
            elif divisor is not None:
                torch._foreach_div_([part.grad for part in parts.values() if part.grad is not None], divisor)
            if factor is not None:
                self.adamw.found_inf = 1.0 - factor  # type: ignore[attr-defined]
            self.adamw.step()
            for part in parts.values():
                part.grad = None
        for one in self.muon:
            self._muon_step(one, learning_rate, factor, divisor)

    def _muon_step(self, one: Assignment, learning_rate: float, factor: Tensor | None, divisor: Tensor | None) -> None:
        parameter, momentum, config = self.parameters[one.name], self.momentum[one.name], self.config
        if parameter.grad is None:
            return
        gradient = local_part(parameter.grad)
        if divisor is not None:
            gradient = gradient / divisor
        taken = momentum.lerp(gradient, 1.0 - config.muon_momentum)
        ahead = gradient.lerp(taken, config.muon_momentum) if config.muon_nesterov else taken
        whole = like(ahead, parameter)
        full = whole.full_tensor() if isinstance(whole, DTensor) else whole
        steps, rms = config.muon_newton_schulz_steps, config.muon_update_rms
        update = scaled_update(full, rms, steps, one.block_rows)
        weight = local_part(parameter.detach())
        update = self._own_part(update, parameter) + config.weight_decay * weight
        if factor is None:
            momentum.copy_(taken)
            weight.sub_(update, alpha=learning_rate)
        else:
            momentum.copy_(torch.where(factor > 0, taken, momentum))
            weight.sub_(torch.where(factor > 0, update, 0.0), alpha=learning_rate)

    @staticmethod
    def _own_part(full: Tensor, parameter: Tensor) -> Tensor:
        if not isinstance(parameter, DTensor):
            return full
        return distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()

    def state_dict(self) -> dict[str, Tensor]:
        """Every tensor of the state, as `<what>.<parameter>`, distributed as its parameter is."""
        state: dict[str, Tensor] = {}
        for name, part in self._adamw_parts().items():
            own = self.adamw.state[part]  # type: ignore[union-attr]
            state[f"step.{name}"] = own["step"]
            for what in ("exp_avg", "exp_avg_sq"):
                state[f"{what}.{name}"] = like(own[what], self.parameters[name])
        for name, momentum in self.momentum.items():
            state[f"momentum.{name}"] = like(momentum, self.parameters[name])
        return state
