"""Attention in blocks of queries on the CPU: only the keys that a block can see are touched.

torch's CPU kernel of `scaled_dot_product_attention` works through the whole square as soon as it is given a mask, and
its backward pass reaches a third of the speed of a matrix product. Here a block of queries meets one range of keys (a
document's context and past are adjacent), heads that share keys are rows of one product, and the weights are kept for
the backward pass, so that packed rows cost what their documents cost. Memory for the kept weights is bounded (`fits`);
longer rows take torch's kernel.

bfloat16 is computed in float32, which is nearer to the truth than torch's kernel of bfloat16 and faster. Products of
rounded weights would be faster still, and farther from the truth than that kernel.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

QUERY_BLOCK = 128
KEPT_ELEMENTS = 1 << 25
"""Most attention weights that a layer may keep for its backward pass (128 MB)."""


@dataclass(frozen=True)
class QueryBlock:
    """Queries `start` to `stop` of every row and the keys `first` to `last` that any of them sees."""

    start: int
    stop: int
    first: int
    last: int
    hidden: Tensor | None
    """(B or 1, 1, stop - start, last - hidden_from), True where a query must not see a key; None where all is seen."""
    hidden_from: int = 0
    """The first key that is hidden from any query of the block."""


def _block(start: int, stop: int, first: int, last: int, hidden: Tensor) -> QueryBlock:
    """The block with the part of `hidden` (B or 1, stop - start, last - first) that hides anything."""
    columns = hidden.any(dim=1).any(dim=0).nonzero()
    if not len(columns):
        return QueryBlock(start, stop, first, last, None)
    seen_by_all = int(columns[0])
    return QueryBlock(start, stop, first, last, hidden[:, None, :, seen_by_all:], first + seen_by_all)


def query_blocks(visible: Tensor, first: list[int], last: list[int], size: int) -> tuple[QueryBlock, ...]:
    """Blocks of `size` queries of a boolean mask (B, S, S); `first` and `last` bound the keys of each block."""
    length = visible.shape[1]
    blocks = []
    for index, (low, high) in enumerate(zip(first, last, strict=True)):
        start, stop = index * size, min((index + 1) * size, length)
        blocks.append(_block(start, stop, low, high, ~visible[:, start:stop, low:high]))
    return tuple(blocks)


def causal_blocks(length: int, size: int) -> tuple[QueryBlock, ...]:
    """Blocks of plain causal rows."""
    blocks = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        hidden = torch.ones(stop - start, stop, dtype=torch.bool).triu(start + 1)
        blocks.append(_block(start, stop, 0, stop, hidden[None]))
    return tuple(blocks)


def fits(query: Tensor, blocks: tuple[QueryBlock, ...]) -> bool:
    """Whether this computation suits the blocks: on the CPU, float32 or bfloat16, weights within bounds."""
    kept = query.shape[0] * query.shape[1] * sum((b.stop - b.start) * (b.last - b.first) for b in blocks)
    return query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16) and kept <= KEPT_ELEMENTS


def blocked_attention(
    query: Tensor, key: Tensor, value: Tensor, blocks: tuple[QueryBlock, ...], scale: float
) -> Tensor:
    """softmax(scale * query key^T) value; query (B, H, S, D), key (B, G, S, D), value (B, G, S, V) to (B, H, S, V)."""
    result: Tensor = _Blocked.apply(query.float(), key.float(), value.float(), blocks, scale)
    return result.to(query.dtype)


def _rows(states: Tensor, groups: int, block: QueryBlock) -> Tensor:
    """A block of (B, H, S, D) as (B * G, H / G * block, D): the heads that share keys one below the other."""
    part = states[:, :, block.start : block.stop]
    return part.reshape(part.shape[0] * groups, -1, part.shape[-1])


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: tuple[QueryBlock, ...], scale: float
    ) -> Tensor:
        groups = key.shape[1]
        keys, values = key.flatten(0, 1), value.flatten(0, 1)
        scaled = query * scale
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        kept = []
        for block in blocks:
            by_head = (*query.shape[:2], block.stop - block.start, -1)
            scores = torch.bmm(_rows(scaled, groups, block), keys[:, block.first : block.last].transpose(1, 2))
            if block.hidden is not None:
                part = scores.view(by_head)[..., block.hidden_from - block.first :]
                part.masked_fill_(block.hidden, float("-inf"))
            weights = torch.softmax(scores, dim=-1)
            seen = torch.bmm(weights, values[:, block.first : block.last])
            output[:, :, block.start : block.stop] = seen.view(by_head)
            kept.append(weights)
        ctx.save_for_backward(query, key, value, output, *kept)
        ctx.blocks, ctx.scale = blocks, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, output, *kept = ctx.saved_tensors
        (gradient,) = gradients
        groups = key.shape[1]
        keys, values = key.flatten(0, 1), value.flatten(0, 1)
        to_query, to_keys, to_values = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(values)
        # The softmax's gradient needs, for each query, the sum of weight times gradient: the output times its gradient.
        inner = (output * gradient).sum(dim=-1, keepdim=True)
        for block, weights in zip(ctx.blocks, kept, strict=True):
            span = slice(block.first, block.last)
            upstream = _rows(gradient, groups, block)
            to_values[:, span].baddbmm_(weights.transpose(1, 2), upstream)
            to_scores = torch.bmm(upstream, values[:, span].transpose(1, 2))
            to_scores = to_scores.sub_(_rows(inner, groups, block)).mul_(weights)
            part = torch.bmm(to_scores, keys[:, span]).mul_(ctx.scale)
            to_query[:, :, block.start : block.stop] = part.view(*query.shape[:2], block.stop - block.start, -1)
            to_keys[:, span].baddbmm_(to_scores.transpose(1, 2), _rows(query, groups, block), alpha=ctx.scale)
        return to_query, to_keys.view_as(key), to_values.view_as(value), None, None
