"""Attention in blocks of queries on the CPU: only the keys that a block can see are touched.

torch's CPU kernel of `scaled_dot_product_attention` works through the whole square as soon as it is given a mask, and
its backward pass reaches a third of the speed of a matrix product. Here a block of queries meets one range of keys (a
document's context and past are adjacent), heads that share keys are rows of one product, and the weights are kept for
the backward pass, so that packed rows cost what their documents cost. Memory for the kept weights is bounded (`fits`);
longer rows take torch's kernel.

bfloat16 rounds nothing but operands of products, where the processor multiplies matrices of bfloat16 into float32
(`_bfloat16_operands`). Where much of the square is seen, torch's kernel makes the forward pass, which is fast, and the
backward pass computes the weights again rather than keeping them. Gradients are nearer to the truth than those of that
kernel, which adds up in bfloat16, and take 0.7 of its time for rows of 512 tokens, 1.2 of it for 2,048 (AMX).
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

QUERY_BLOCK = 128
ALIGNED = 16
"""A bias begins at a multiple of so many keys: sums over an odd number of columns take twice the time."""
KEPT_ELEMENTS = 1 << 25
"""Most attention weights that a layer may keep for its backward pass (128 MB)."""
WHOLE_SHARE = 0.25
"""Share of the square of queries and keys from which torch's kernel is the faster one in bfloat16's forward pass."""


@dataclass(frozen=True)
class QueryBlock:
    """Queries `start` to `stop` of every row and the keys `first` to `last` that any of them sees."""

    start: int
    stop: int
    first: int
    last: int
    bias: Tensor | None
    """What is added to scores: -inf where a query must not see a key, else 0; (B or 1, 1, stop - start, last -
    bias_from) float32. None where all is seen."""
    bias_from: int = 0
    """The first key that is hidden from any query of the block."""

    @property
    def pairs(self) -> int:
        """Queries times keys."""
        return (self.stop - self.start) * (self.last - self.first)


def _block(start: int, stop: int, first: int, last: int, hidden: Tensor) -> QueryBlock:
    """The block with the part of `hidden` (B or 1, stop - start, last - first) that hides anything."""
    columns = hidden.any(dim=1).any(dim=0).nonzero()
    if not len(columns):
        return QueryBlock(start, stop, first, last, None)
    seen_by_all = int(columns[0]) // ALIGNED * ALIGNED
    part = hidden[:, None, :, seen_by_all:]
    bias = torch.zeros(part.shape, dtype=torch.float32, device=part.device).masked_fill_(part, float("-inf"))
    return QueryBlock(start, stop, first, last, bias, first + seen_by_all)


def query_blocks(visible: Tensor, first: list[int], last: list[int], size: int) -> tuple[QueryBlock, ...]:
    """Blocks of `size` queries of a boolean mask (B, S, S); `first` and `last` bound the keys of each block."""
    length = visible.shape[1]
    blocks = []
    for index, (low, high) in enumerate(zip(first, last, strict=True)):
        start, stop = index * size, min((index + 1) * size, length)
        blocks.append(_block(start, stop, low, high, ~visible[:, start:stop, low:high]))
    return tuple(blocks)


@functools.lru_cache(maxsize=8)
def causal_blocks(length: int, size: int) -> tuple[QueryBlock, ...]:
    """Blocks of plain causal rows."""
    blocks = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        hidden = torch.ones(stop - start, stop, dtype=torch.bool, device="cpu").triu(start + 1)
        blocks.append(_block(start, stop, 0, stop, hidden[None]))
    return tuple(blocks)


def fits(query: Tensor, blocks: tuple[QueryBlock, ...]) -> bool:
    """Whether this computation suits the blocks: on the CPU, float32 or bfloat16, weights within bounds."""
    kept = query.shape[0] * query.shape[1] * sum(block.pairs for block in blocks)
    return query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16) and kept <= KEPT_ELEMENTS


def blocked_attention(
    query: Tensor, key: Tensor, value: Tensor, blocks: tuple[QueryBlock, ...], visible: Tensor | None, scale: float
) -> Tensor:
    """softmax(scale * query key^T) value; query (B, H, S, D), key (B, G, S, D), value (B, G, S, V) to (B, H, S, V).

    visible: the mask that the blocks were made of, (B, 1, S, S), or None for causal rows.
    """
    result: Tensor = _Blocked.apply(query, key, value, blocks, visible, scale)
    return result


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Whether the processor multiplies matrices of bfloat16; without AMX the library's way of doing so is slower."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


@contextlib.contextmanager
def _bfloat16_operands(wanted: bool) -> Iterator[None]:
    """Products of float32 matrices round their operands to bfloat16 and give float32, where the processor has such
    products. Operands that come from bfloat16 lose nothing by it."""
    mkldnn: Any = torch.backends.mkldnn  # torch says nothing of the types of its settings
    before = mkldnn.matmul.fp32_precision
    mkldnn.matmul.fp32_precision = "bf16" if wanted and _multiplies_bfloat16() else before
    try:
        yield
    finally:
        mkldnn.matmul.fp32_precision = before


def _float32(states: Tensor) -> Tensor:
    """In float32 and adjacent in memory, as a product wants them."""
    return states.to(torch.float32, memory_format=torch.contiguous_format).contiguous()


def _rows(states: Tensor, groups: int, block: QueryBlock) -> Tensor:
    """A block of (B, H, S, D) as (B * G, H / G * block, D): the heads that share keys one below the other."""
    part = _float32(states[:, :, block.start : block.stop])
    return part.view(part.shape[0] * groups, -1, part.shape[-1])


def _span(states: Tensor, block: QueryBlock, adjacent: bool) -> Tensor:
    """The keys or values of (B * G, S, D) that a block sees; products of bfloat16 would make a slower copy."""
    seen = states[:, block.first : block.last]
    return seen.contiguous() if adjacent else seen


def _weights(rows: Tensor, keys: Tensor, block: QueryBlock, by_head: tuple[int, ...], scale: float) -> Tensor:
    """softmax(scale * rows keys^T) of a block; `by_head` is its shape with every head apart."""
    scores = torch.bmm(rows, keys.transpose(1, 2))
    if scale != 1:
        scores.mul_(scale)
    if block.bias is not None:
        scores.view(by_head)[..., block.bias_from - block.first :].add_(block.bias)
    return torch.softmax(scores, dim=-1)


def _early(scale: float, rounded: bool) -> float:
    """What of `scale` the queries are multiplied by before their products; the scores are multiplied by the rest. If
    products round the queries, only a power of two leaves them exact."""
    return scale if not rounded or math.frexp(scale)[0] == 0.5 else 1.0


def _added(total: Tensor | None, states: Tensor, block: QueryBlock, product: Tensor) -> Tensor:
    """`total` of (B * G, S, D) states with the product added to the keys or values of a block; None is zero."""
    if total is None and product.shape[1] == states.shape[1]:
        return product
    total = torch.zeros_like(states) if total is None else total
    total[:, block.first : block.last] += product
    return total


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: tuple[QueryBlock, ...],
        visible: Tensor | None,
        scale: float,
    ) -> Tensor:
        rounded, groups, length = query.dtype == torch.bfloat16, key.shape[1], query.shape[2]
        early = _early(scale, rounded)
        kept = []
        if rounded and sum(block.pairs for block in blocks) >= WHOLE_SHARE * length**2:
            output = F.scaled_dot_product_attention(
                query, key, value, visible, is_causal=visible is None, scale=scale, enable_gqa=groups != query.shape[1]
            )
        else:
            output = query.new_empty(*query.shape[:-1], value.shape[-1])
            all_keys, all_values = (_float32(states).flatten(0, 1) for states in (key, value))
            for block in blocks:
                by_head = (*query.shape[:2], block.stop - block.start, -1)
                with _bfloat16_operands(rounded):
                    rows, keys = _rows(query, groups, block) * early, _span(all_keys, block, rounded)
                    weights = _weights(rows, keys, block, by_head, scale / early)
                # In float32: rounded weights would be farther from the truth than the weights of torch's kernel.
                seen = torch.bmm(weights, _span(all_values, block, False))
                output[:, :, block.start : block.stop] = seen.view(by_head)
                kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.blocks, ctx.scale = blocks, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query, key, value, *kept = ctx.saved_tensors
        (gradient,) = gradients
        rounded, groups, scale = query.dtype == torch.bfloat16, key.shape[1], ctx.scale
        early = _early(scale, rounded)
        all_keys, all_values = (_float32(states).flatten(0, 1) for states in (key, value))
        to_query, to_key, to_value = torch.empty_like(query), None, None
        for index, block in reversed(list(enumerate(ctx.blocks))):  # the last of causal rows sees all keys
            by_head = (*query.shape[:2], block.stop - block.start, -1)
            rows, upstream = _rows(query, groups, block) * early, _rows(gradient, groups, block)
            keys, values = _span(all_keys, block, rounded), _span(all_values, block, rounded)
            with _bfloat16_operands(rounded):
                weights = kept[index] if kept else _weights(rows, keys, block, by_head, scale / early)
                to_weights = torch.bmm(upstream, values.transpose(1, 2))
                to_scores: Tensor = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, torch.float32)
                to_key = _added(to_key, all_keys, block, torch.bmm(to_scores.transpose(1, 2), rows))
                to_value = _added(to_value, all_values, block, torch.bmm(weights.transpose(1, 2), upstream))
            # In float32: a query's gradient is a difference, since its row of `to_scores` sums to zero.
            to_query[:, :, block.start : block.stop] = torch.bmm(to_scores, keys).mul_(scale).view(by_head)
        assert to_key is not None
        assert to_value is not None
        to_key = to_key.mul_(scale / early).view_as(key).to(key.dtype)
        return to_query, to_key, to_value.view_as(value).to(value.dtype), None, None, None
