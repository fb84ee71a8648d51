"""What is done to each block of a finished model from outside: recomputation in the backward pass, and compilation.

Recomputation (Chen et al., arXiv 1604.06174) keeps a block's input instead of its activations and runs the block once
more in the backward pass; losses and gradients are the same to the bit. Compilation takes torch.compile's default back
end, a block at a time, so that equal blocks share their code. Both stand inside what shards the block and leave the
names of its parameters alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.config import DeviceConfig

RECOMPILE_LIMIT = 64
"""Kinds of blocks, with and without a mask or gradients, in the shapes of training and of evaluation."""


def wrap_blocks(blocks: Iterable[nn.Module], config: DeviceConfig) -> None:
    """Compile or recompute each block as the configuration says, in place."""
    if config.compile:
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    for block in blocks:
        if config.compile:
            block.forward = torch.compile(block.forward)
        if config.recompute == "layer":
            block.forward = _recomputed(block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _kept_buffers(block)

    def run(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        result: Tensor = checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)
        return result

    return run


@contextmanager
def _kept_buffers(block: nn.Module) -> Iterator[None]:
    """What a second forward pass adds to a block's buffers (routers' counts, indexers' divergences) is taken back."""
    kept = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
