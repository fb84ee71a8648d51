"""Identities that act on gradients: a scaled one, one that carries an auxiliary loss, one that only keeps the way."""

from typing import Any

import torch
from torch import Tensor


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor.to(gradients[0].dtype), None


def scale_gradient(tensor: Tensor, factor: Tensor) -> Tensor:
    """The tensor itself; its gradient is multiplied by the scalar `factor`.

    GLM-130B's embedding gradient shrink is αe + (1 - α) stopgrad(e) (arXiv 2210.02414, section 3): this value and
    this gradient, without the rounding of the sum.
    """
    result: Tensor = _ScaleGradient.apply(tensor, factor)
    return result


class _AttachLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_states: Tensor, loss: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        ctx.loss_dtype = loss.dtype
        return hidden_states.view_as(hidden_states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (scale,) = ctx.saved_tensors
        return gradients[0], scale.to(ctx.loss_dtype), None


def attach_loss(hidden_states: Tensor, loss: Tensor, scale: Tensor) -> Tensor:
    """The hidden states themselves; when their gradient comes back, the scalar `loss` receives the gradient `scale`.

    So an auxiliary loss of a middle layer is minimised without being carried to the end of the model, under any
    pipeline layout. `scale` (a scalar tensor) is what the main loss is multiplied by: 1 / the global step's targets,
    times the loss scale of FP16.
    """
    result: Tensor = _AttachLoss.apply(hidden_states, loss, scale)
    return result


def learning(wanted: bool) -> torch.autograd.grad_mode.set_grad_enabled:
    """A context in which gradients are recorded if they were before and are wanted."""
    return torch.set_grad_enabled(wanted and torch.is_grad_enabled())


class _Linked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, source: Tensor) -> Tensor:
        ctx.shape, ctx.dtype, ctx.device = source.shape, source.dtype, source.device
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, Tensor]:
        return None, torch.zeros(ctx.shape, dtype=ctx.dtype, device=ctx.device)


def linked(values: Tensor, source: Tensor) -> Tensor:
    """The values themselves, detached; their backward pass goes on to `source` with a gradient of zero.

    Losses that `attach_loss` hung on a frozen model's hidden states are reached this way without a backward pass
    through the model.
    """
    result: Tensor = _Linked.apply(values.detach(), source)
    return result
