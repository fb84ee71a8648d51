"""Attention over selected keys, and what teaches the indexer that selects them (arXiv 2512.02556, section 2.1).

Three functions, each in blocks of queries so that memory stays a fixed multiple of a row's length:

    select_keys       the top-k keys of every query by the indexer's scores
    sparse_attend     attention over them; MLA's absorbed form, in which all heads read one latent, so one gather serves
    *_divergence      the KL that trains the indexer (`model/indexer_loss.py`), over all keys or over the selected ones

`sparse_attend` is the seam for kernels, and so are the scores of `select_keys`: Triton's on CUDA where it is installed
(`model/sparse_attention_triton.py`), the reference here everywhere else. The reference recomputes a block in the
backward pass; the KL's gradient is computed together with its value, since only its sum is ever differentiated.

Shapes: B rows, S queries, T keys, H heads, J indexer heads of width W, K selected keys, D = C + R: a latent of C, of
which values are made, followed by the rotated part R of the key. A query sees the keys from `first` up to `stop`, both
(B or 1, S): what one query may see is always one range (`attention_mask.visible_ranges`).
"""

import functools
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from model.indexer import IndexStates
from model.indexer_loss import divergence_and_gradient, index_scores, index_scores_backward, target_distribution

BLOCK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Elements of the largest temporary tensor: small on the CPU, where it should stay in the cache."""
GROUPED_FROM = 8
"""Rows at least this many times top-k long are searched in groups first."""


def query_blocks(length: int, elements_a_query: int, device: torch.device) -> Iterator[slice]:
    """Blocks of queries whose temporary tensors have about BLOCK_ELEMENTS elements."""
    budget = BLOCK_ELEMENTS.get(device.type, BLOCK_ELEMENTS["cuda"])
    size = max(1, min(length, budget // max(1, elements_a_query)))
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


@torch.no_grad()
def select_keys(states: IndexStates, first: Tensor, stop: Tensor, top_k: int) -> Tensor:
    """(B, S, K) int32: the top-k visible keys of each query, best first, -1 where it sees fewer; K = min(top_k, T).

    Among equal scores the latest key wins, so that the choice depends on nothing but the scores.
    """
    batch, length = states.query.shape[:2]
    total = states.key.shape[1]
    kept = min(top_k, total)
    selected = torch.full((batch, length, kept), -1, dtype=torch.int32, device=states.query.device)
    for block in query_blocks(length, batch * total, states.query.device):
        low, high = _span(first[:, block], stop[:, block], total)
        scores = _all_scores(states, block, low, high)
        _hide(scores, first[:, block] - low, stop[:, block] - low)
        best = _ranked(scores, min(kept, high - low))
        chosen = torch.where(best >> 32 > _LOWEST, (best & 0xFFFFFFFF) + low, -1)
        selected[:, block, : chosen.shape[-1]] = chosen.to(torch.int32)
    return selected


def _all_scores(states: IndexStates, block: slice, low: int, high: int) -> Tensor:
    """The scores (B, block, high - low) of a block of queries, its products a piece of the keys at a time."""
    kernels = _kernels(states.query)
    if kernels is not None:
        scores: Tensor = kernels.triton_index_scores(
            states.query[:, block], states.key[:, low:high], states.weights[:, block]
        )
        return scores
    rows, weights = states.query[:, block].float().flatten(1, 2), states.weights[:, block]
    scores = rows.new_empty(*weights.shape[:2], high - low)
    budget = BLOCK_ELEMENTS.get(rows.device.type, BLOCK_ELEMENTS["cuda"]) // 4
    size = max(1, budget // rows.shape[:2].numel())
    for start in range(low, high, size):
        piece = slice(start, min(start + size, high))
        products = torch.matmul(rows, states.key[:, piece].float().transpose(1, 2)).unflatten(1, weights.shape[1:])
        scores[:, :, piece.start - low : piece.stop - low] = index_scores(products, weights, in_place=True)
    return scores


_LOWEST = -(1 << 31) + 0x7FFFFF
"""The bits of -inf as `_ordered` has them."""


def _ranked(scores: Tensor, count: int) -> Tensor:
    """The `count` greatest of the last dimension, best first, as integers: the score above the place (`_ordered`).

    Long rows are searched in two steps. A group is as good as its best member; the `count` best groups (of equals the
    later) hold `count` members that are better than all members of any other group.
    """
    length = scores.shape[-1]
    places = torch.arange(length, device=scores.device)
    if length < GROUPED_FROM * count:
        return _ordered(scores, places).topk(count, dim=-1).values
    size = int((length / count) ** 0.5)
    best = torch.nn.functional.max_pool1d(scores.flatten(0, -2), size, ceil_mode=True).view(*scores.shape[:-1], -1)
    groups = _ordered(best, places[: best.shape[-1]]).topk(count, dim=-1, sorted=False).values & 0xFFFFFFFF
    members = (groups.unsqueeze(-1) * size + places[:size]).flatten(-2)
    inside = members.clamp(max=length - 1)
    candidates = scores.gather(-1, inside).masked_fill_(members > inside, float("-inf"))
    return _ordered(candidates, inside).topk(count, dim=-1).values


def _ordered(scores: Tensor, places: Tensor) -> Tensor:
    """int64 that rank as the scores do, the later place first among equals: the score's bits above the place."""
    bits = (scores + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return bits.long().bitwise_left_shift_(32).bitwise_or_(places)


def _span(first: Tensor, stop: Tensor, total: int) -> tuple[int, int]:
    """The keys that any query of a block sees; all of them where asking would wait for the device."""
    return (int(first.min()), int(stop.max())) if first.device.type == "cpu" else (0, total)


def _hide(scores: Tensor, first: Tensor, stop: Tensor) -> None:
    """-inf, in place, where a query (of the last dimension but one) does not see a key (of the last)."""
    total = scores.shape[-1]
    seen_by_all = (int(first.max()), int(stop.min())) if first.device.type == "cpu" else (total, total)
    for low, high in ((0, min(seen_by_all[0], total)), (max(seen_by_all[1], 0), total)):
        if low < high:
            scores[..., low:high].masked_fill_(_hidden(first, stop, low, high), float("-inf"))


def _hidden(first: Tensor, stop: Tensor, low: int, high: int) -> Tensor:
    """(B or 1, S, high - low), True where a query does not see a key."""
    place = torch.arange(low, high, device=first.device)
    return (place < first.unsqueeze(-1)) | (place >= stop.unsqueeze(-1))


def sparse_attend(
    query: Tensor, memory: Tensor, indices: Tensor, value_width: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of every query over its own selected keys, all heads sharing keys and values.

    query (B, S, H, D), memory (B, T, D), whose first `value_width` = C dimensions are the values; indices (B, S, K)
    int32 as `select_keys` gives them. Returns the output (B, S, H, C) and, detached, attention's weights summed over
    heads and divided by their sum, (B, S, K) float32.
    """
    kernels = None if torch.are_deterministic_algorithms_enabled() else _kernels(query)
    attend = reference_attend if kernels is None else kernels.triton_attend
    return attend(query, memory, indices, value_width, scale)


def _kernels(states: Tensor) -> ModuleType | None:
    """Triton's kernels for states on CUDA, where it is installed."""
    return _installed_kernels() if states.device.type == "cuda" else None


@functools.cache
def _installed_kernels() -> ModuleType | None:
    try:
        return importlib.import_module("model.sparse_attention_triton")
    except ImportError:
        return None


def reference_attend(
    query: Tensor, memory: Tensor, indices: Tensor, value_width: int, scale: float
) -> tuple[Tensor, Tensor]:
    """`sparse_attend` in plain torch, on every device."""
    result: tuple[Tensor, Tensor] = _SparseAttention.apply(query, memory, indices, value_width, scale)
    return result


def _gathered(table: Tensor, indices: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Rows of (B, T, D) for a block of queries, (B * block, K, D), and their places in the flattened table."""
    chosen = indices[:, block].long().clamp_(min=0)
    chosen += (torch.arange(table.shape[0], device=table.device) * table.shape[1])[:, None, None]
    places = chosen.flatten()
    return table.flatten(0, 1).index_select(0, places).view(-1, indices.shape[2], table.shape[2]), places


def _weights(query: Tensor, gathered: Tensor, absent: Tensor, scale: float) -> Tensor:
    """Softmax over the gathered keys, (N, H, K) float32. query (N, H, D)."""
    scores = torch.bmm(query, gathered.transpose(1, 2)).float().mul_(scale)
    return scores.masked_fill_(absent, float("-inf")).softmax(dim=-1)


class _SparseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, memory: Tensor, indices: Tensor, value_width: int, scale: float
    ) -> tuple[Tensor, Tensor]:
        batch, length, heads, width = query.shape
        kept = indices.shape[2]
        output = query.new_empty(batch, length, heads, value_width)
        distribution = query.new_empty((batch, length, kept), dtype=torch.float32)
        for block in query_blocks(length, batch * kept * max(width, heads), query.device):
            gathered, _ = _gathered(memory, indices, block)
            absent = (indices[:, block] < 0).view(-1, 1, kept)
            weights = _weights(query[:, block].reshape(-1, heads, width), gathered, absent, scale)
            seen = torch.bmm(weights.to(query.dtype), gathered[..., :value_width])
            output[:, block] = seen.view(batch, -1, heads, value_width)
            distribution[:, block] = target_distribution(weights).view(batch, -1, kept)
        ctx.save_for_backward(query, memory, indices, output)
        ctx.value_width, ctx.scale = value_width, scale
        ctx.mark_non_differentiable(distribution)
        return output, distribution

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        query, memory, indices, output = ctx.saved_tensors
        gradient = gradients[0]
        batch, length, heads, width = query.shape
        kept = indices.shape[2]
        to_query = torch.empty_like(query)
        to_memory = torch.zeros(batch * memory.shape[1], width, dtype=torch.float32, device=query.device)
        inner = (output.float() * gradient.float()).sum(dim=-1)
        for block in query_blocks(length, batch * kept * max(width, heads), query.device):
            gathered, places = _gathered(memory, indices, block)
            absent = (indices[:, block] < 0).view(-1, 1, kept)
            rows = query[:, block].reshape(-1, heads, width)
            weights = _weights(rows, gathered, absent, ctx.scale)
            upstream = gradient[:, block].reshape(-1, heads, ctx.value_width)
            to_scores = torch.bmm(upstream, gathered[..., : ctx.value_width].transpose(1, 2)).float()
            to_scores = to_scores.sub_(inner[:, block].reshape(-1, heads, 1)).mul_(weights).mul_(ctx.scale)
            to_scores = to_scores.to(query.dtype)
            to_query[:, block] = torch.bmm(to_scores, gathered).view(batch, -1, heads, width)
            to_gathered = torch.bmm(to_scores.transpose(1, 2), rows)
            to_gathered[..., : ctx.value_width] += torch.bmm(weights.to(query.dtype).transpose(1, 2), upstream)
            to_memory.index_add_(0, places, to_gathered.flatten(0, 1).float())
        return to_query, to_memory.view(memory.shape).to(memory.dtype), None, None, None


def selected_divergence(states: IndexStates, indices: Tensor, target: Tensor) -> Tensor:
    """The sum over all queries of the KL from `target` (B, S, K) to the indexer's softmax over the selected keys."""
    result: Tensor = _SelectedDivergence.apply(
        states.query.float(), states.key.float(), states.weights, indices, target
    )
    return result


class _SelectedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, weights: Tensor, indices: Tensor, target: Tensor) -> Tensor:
        batch, length, heads, width = query.shape
        kept = indices.shape[2]
        total = query.new_zeros(())
        to_query, to_weights = torch.empty_like(query), torch.empty_like(weights)
        to_key = torch.zeros_like(key).flatten(0, 1)
        for block in query_blocks(length, batch * kept * max(width, heads), query.device):
            gathered, places = _gathered(key, indices, block)
            rows, row_weights = query[:, block].reshape(-1, heads, width), weights[:, block].reshape(-1, heads)
            products = torch.bmm(rows, gathered.transpose(1, 2))
            values, gradient = divergence_and_gradient(
                target[:, block].reshape(-1, kept),
                index_scores(products, row_weights),
                (indices[:, block] < 0).view(-1, kept),
            )
            total += values.sum()
            if not any(ctx.needs_input_grad):
                continue
            to_products, part = index_scores_backward(products, row_weights, gradient)
            to_weights[:, block] = part.view(batch, -1, heads)
            to_query[:, block] = torch.bmm(to_products, gathered).view(batch, -1, heads, width)
            to_key.index_add_(0, places, torch.bmm(to_products.transpose(1, 2), rows).flatten(0, 1))
        ctx.save_for_backward(to_query, to_key.view(key.shape), to_weights)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *(part * gradients[0] for part in ctx.saved_tensors), None, None


def dense_divergence(
    states: IndexStates, query: Tensor, key: Tensor, value: Tensor, first: Tensor, stop: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Dense attention (B, H, S, V), detached, and the sum over all queries of the KL from it to the indexer's softmax.

    query and key (B, H, S or T, D), value (B, H, T, V): MLA's, expanded. Only `states` gets a gradient.
    """
    result: tuple[Tensor, Tensor] = _DenseDivergence.apply(
        states.query.float(),
        states.key.float(),
        states.weights,
        (query.detach(), key.detach(), value.detach()),
        first,
        stop,
        scale,
    )
    return result


class _DenseDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        index_query: Tensor,
        index_key: Tensor,
        index_weights: Tensor,
        attention: tuple[Tensor, Tensor, Tensor],
        first: Tensor,
        stop: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        query, key, value = attention
        batch, heads, length, _ = query.shape
        index_heads = index_query.shape[2]
        output = query.new_empty(batch, heads, length, value.shape[-1])
        total = index_query.new_zeros(())
        to_query, to_weights = torch.empty_like(index_query), torch.empty_like(index_weights)
        to_key = torch.zeros_like(index_key)
        for block in query_blocks(length, batch * max(heads, index_heads) * key.shape[2], query.device):
            low, high = _span(first[:, block], stop[:, block], key.shape[2])
            hidden = _hidden(first[:, block], stop[:, block], low, high)
            scores = torch.matmul(query[:, :, block], key[:, :, low:high].transpose(-1, -2)).float().mul_(scale)
            attended = scores.masked_fill_(hidden.unsqueeze(1), float("-inf")).softmax(dim=-1)
            output[:, :, block] = torch.matmul(attended.to(value.dtype), value[:, :, low:high])
            rows, keys = index_query[:, block].flatten(1, 2), index_key[:, low:high]
            products = torch.matmul(rows, keys.transpose(1, 2)).unflatten(1, (-1, index_heads))
            ranked = index_scores(products, index_weights[:, block])
            values, gradient = divergence_and_gradient(target_distribution(attended.transpose(1, 2)), ranked, hidden)
            total += values.sum()
            if not any(ctx.needs_input_grad):
                continue
            to_products, to_weights[:, block] = index_scores_backward(products, index_weights[:, block], gradient)
            flat = to_products.flatten(1, 2)
            to_query[:, block] = torch.matmul(flat, keys).unflatten(1, (-1, index_heads))
            to_key[:, low:high] += torch.matmul(flat.transpose(1, 2), rows)
        ctx.save_for_backward(to_query, to_key, to_weights)
        ctx.mark_non_differentiable(output)
        return output, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *(part * gradients[1] for part in ctx.saved_tensors), None, None, None, None
