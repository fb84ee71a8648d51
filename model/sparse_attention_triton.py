"""Attention over selected keys as Triton kernels for CUDA, forward and backward, and the scores that select them.

One gather of a selected key serves a block of heads and is both key and value: a program of the forward
pass owns one query and one block of heads and goes over the selected keys BLOCK_K at a time with a running softmax
(FlashAttention-2, arXiv 2307.08691). The backward pass recomputes the weights from the saved log normaliser, in two
kernels: the queries' gradient with the forward pass's layout, and the memory's with a program for each query and block
of keys, which sums over all heads before it adds to the memory's float32 gradient. Those additions are atomic: their
order, and so the last bits, differ from run to run; `sparse_attention.sparse_attend` takes the reference instead where
torch.use_deterministic_algorithms asks for more. The indexer's scores are summed over its heads where they are made, so
that the products of J heads never reach memory.

Shapes: B rows, S queries, T keys, H heads, K selected keys, D = C + R as in `model/sparse_attention.py`. Selected keys
come first in a query's list and -1 after them. Importing this file needs Triton. TRITON_INTERPRET=1 runs it on the CPU.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_K = 32
WIDE = 256
"""From this latent width on a program takes eight warps: GLM-5's 512 then fit into registers."""


@triton.jit
def _gather(memory, places, seen, C: tl.constexpr, R: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr):  # type: ignore[no-untyped-def]
    """The latent (K, CP) and rotated part (K, RP) of the keys at `places`, zeros where not `seen` or padded."""
    latent, turned = tl.arange(0, CP), tl.arange(0, RP)
    rows = memory + places.to(tl.int64)[:, None] * (C + R)
    first = tl.load(rows + latent[None, :], mask=seen[:, None] & (latent < C)[None, :], other=0.0)
    second = tl.load(rows + C + turned[None, :], mask=seen[:, None] & (turned < R)[None, :], other=0.0)
    return first, second


@triton.jit
def _heads(query, head, H: tl.constexpr, C: tl.constexpr, R: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr):  # type: ignore[no-untyped-def]
    """The two parts of a query's heads, (heads, CP) and (heads, RP); `query` points at its first."""
    latent, turned = tl.arange(0, CP), tl.arange(0, RP)
    rows = query + head[:, None] * (C + R)
    inside = (head < H)[:, None]
    first = tl.load(rows + latent[None, :], mask=inside & (latent < C)[None, :], other=0.0)
    second = tl.load(rows + C + turned[None, :], mask=inside & (turned < R)[None, :], other=0.0)
    return first, second


@triton.jit
def _scores(query_c, query_r, memory_c, memory_r, seen, scale):  # type: ignore[no-untyped-def]
    """(heads, K) float32, -inf where not seen."""
    product = tl.dot(query_c, tl.trans(memory_c), input_precision="ieee")
    product += tl.dot(query_r, tl.trans(memory_r), input_precision="ieee")
    return tl.where(seen[None, :], product * scale, float("-inf"))


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    query, memory, indices, counts, output, normaliser, S, T, K, scale,
    H: tl.constexpr, C: tl.constexpr, R: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr,
    BH: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Output (B, S, H, C) and the log of the softmax's sum (B, S, H)."""
    at = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BH + tl.arange(0, BH)
    latent = tl.arange(0, CP)
    count = tl.load(counts + at)
    memory += at // S * T * (C + R)
    query_c, query_r = _heads(query + at * H * (C + R), head, H, C, R, CP, RP)
    highest = tl.full([BH], float("-inf"), tl.float32)
    total = tl.zeros([BH], tl.float32)
    gathered = tl.zeros([BH, CP], tl.float32)
    for start in range(0, count, BK):
        place = start + tl.arange(0, BK)
        seen = place < count
        chosen = tl.load(indices + at * K + place, mask=seen, other=0)
        memory_c, memory_r = _gather(memory, chosen, seen, C, R, CP, RP)
        scores = _scores(query_c, query_r, memory_c, memory_r, seen, scale)
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(highest - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        gathered = gathered * shrink[:, None]
        gathered += tl.dot(weights.to(memory_c.dtype), memory_c, input_precision="ieee")
        highest = higher
    rows = output + (at * H + head)[:, None] * C + latent[None, :]
    tl.store(rows, gathered / total[:, None], mask=(head < H)[:, None] & (latent < C)[None, :])
    tl.store(normaliser + at * H + head, highest + tl.log(total), mask=head < H)


@triton.jit
def _distribution_kernel(  # type: ignore[no-untyped-def]
    query, memory, indices, counts, normaliser, distribution, S, T, K, scale,
    H: tl.constexpr, C: tl.constexpr, R: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr,
    BH: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The mean over heads of attention's weights on each selected key, (B, S, K)."""
    at = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BK + tl.arange(0, BK)
    seen = place < tl.load(counts + at)
    chosen = tl.load(indices + at * K + place, mask=seen, other=0)
    memory_c, memory_r = _gather(memory + at // S * T * (C + R), chosen, seen, C, R, CP, RP)
    summed = tl.zeros([BK], tl.float32)
    for start in range(0, H, BH):
        head = start + tl.arange(0, BH)
        query_c, query_r = _heads(query + at * H * (C + R), head, H, C, R, CP, RP)
        logarithm = tl.load(normaliser + at * H + head, mask=head < H, other=0.0)
        weights = tl.exp(_scores(query_c, query_r, memory_c, memory_r, seen, scale) - logarithm[:, None])
        summed += tl.sum(tl.where((head < H)[:, None], weights, 0.0), axis=0)
    tl.store(distribution + at * K + place, summed / H, mask=place < K)


@triton.jit
def _query_gradient_kernel(  # type: ignore[no-untyped-def]
    query, memory, indices, counts, normaliser, inner, gradient, to_query, S, T, K, scale,
    H: tl.constexpr, C: tl.constexpr, R: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr,
    BH: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Gradient with respect to the query, (B, S, H, D)."""
    at = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BH + tl.arange(0, BH)
    latent, turned = tl.arange(0, CP), tl.arange(0, RP)
    count = tl.load(counts + at)
    memory += at // S * T * (C + R)
    query_c, query_r = _heads(query + at * H * (C + R), head, H, C, R, CP, RP)
    inside = (head < H)[:, None]
    rows = gradient + (at * H + head)[:, None] * C + latent[None, :]
    upstream = tl.load(rows, mask=inside & (latent < C)[None, :], other=0.0)
    logarithm = tl.load(normaliser + at * H + head, mask=head < H, other=0.0)
    along = tl.load(inner + at * H + head, mask=head < H, other=0.0)
    to_c, to_r = tl.zeros([BH, CP], tl.float32), tl.zeros([BH, RP], tl.float32)
    for start in range(0, count, BK):
        place = start + tl.arange(0, BK)
        seen = place < count
        chosen = tl.load(indices + at * K + place, mask=seen, other=0)
        memory_c, memory_r = _gather(memory, chosen, seen, C, R, CP, RP)
        weights = tl.exp(_scores(query_c, query_r, memory_c, memory_r, seen, scale) - logarithm[:, None])
        to_weights = tl.dot(upstream, tl.trans(memory_c), input_precision="ieee")
        to_scores = (weights * (to_weights - along[:, None]) * scale).to(memory_c.dtype)
        to_c += tl.dot(to_scores, memory_c, input_precision="ieee")
        to_r += tl.dot(to_scores, memory_r, input_precision="ieee")
    rows = to_query + (at * H + head)[:, None] * (C + R)
    tl.store(rows + latent[None, :], to_c, mask=inside & (latent < C)[None, :])
    tl.store(rows + C + turned[None, :], to_r, mask=inside & (turned < R)[None, :])


@triton.jit
def _memory_gradient_kernel(  # type: ignore[no-untyped-def]
    query, memory, indices, counts, normaliser, inner, gradient, to_memory, S, T, K, scale,
    H: tl.constexpr, C: tl.constexpr, R: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr,
    BH: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Adds to the gradient with respect to the memory, (B, T, D) float32."""
    at = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + at)
    if tl.program_id(1) * BK < count:
        place = tl.program_id(1) * BK + tl.arange(0, BK)
        latent, turned = tl.arange(0, CP), tl.arange(0, RP)
        seen = place < count
        chosen = tl.load(indices + at * K + place, mask=seen, other=0)
        offset = at // S * T * (C + R)
        memory_c, memory_r = _gather(memory + offset, chosen, seen, C, R, CP, RP)
        to_c, to_r = tl.zeros([BK, CP], tl.float32), tl.zeros([BK, RP], tl.float32)
        for start in range(0, H, BH):
            head = start + tl.arange(0, BH)
            query_c, query_r = _heads(query + at * H * (C + R), head, H, C, R, CP, RP)
            inside = (head < H)[:, None]
            rows = gradient + (at * H + head)[:, None] * C + latent[None, :]
            upstream = tl.load(rows, mask=inside & (latent < C)[None, :], other=0.0)
            # Heads of padding: a normaliser of +inf makes their weights 0.
            logarithm = tl.load(normaliser + at * H + head, mask=head < H, other=float("inf"))
            along = tl.load(inner + at * H + head, mask=head < H, other=0.0)
            weights = tl.exp(_scores(query_c, query_r, memory_c, memory_r, seen, scale) - logarithm[:, None])
            to_weights = tl.dot(upstream, tl.trans(memory_c), input_precision="ieee")
            to_scores = (weights * (to_weights - along[:, None]) * scale).to(query_c.dtype)
            to_c += tl.dot(tl.trans(to_scores), query_c, input_precision="ieee")
            to_c += tl.dot(tl.trans(weights.to(upstream.dtype)), upstream, input_precision="ieee")
            to_r += tl.dot(tl.trans(to_scores), query_r, input_precision="ieee")
        rows = to_memory + offset + chosen.to(tl.int64)[:, None] * (C + R)
        tl.atomic_add(rows + latent[None, :], to_c, mask=seen[:, None] & (latent < C)[None, :])
        tl.atomic_add(rows + C + turned[None, :], to_r, mask=seen[:, None] & (turned < R)[None, :])


@triton.jit
def _index_kernel(  # type: ignore[no-untyped-def]
    query, key, weights, scores, S, T,
    J: tl.constexpr, W: tl.constexpr, WP: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Σ_j weights_j ReLU(query_j key^T), (B, S, T) float32."""
    row = tl.program_id(2).to(tl.int64)
    at = tl.program_id(0) * BQ + tl.arange(0, BQ)
    place = tl.program_id(1) * BK + tl.arange(0, BK)
    width = tl.arange(0, WP)
    within = (width < W)[None, :]
    keys = tl.load(key + (row * T + place)[:, None] * W + width[None, :], mask=(place < T)[:, None] & within, other=0.0)
    summed = tl.zeros([BQ, BK], tl.float32)
    for head in range(J):
        place_of = (row * S + at) * J + head
        states = tl.load(query + place_of[:, None] * W + width[None, :], mask=(at < S)[:, None] & within, other=0.0)
        products = tl.dot(states, tl.trans(keys), input_precision="ieee")
        summed += tl.maximum(products, 0.0) * tl.load(weights + place_of, mask=at < S, other=0.0)[:, None]
    tl.store(
        scores + (row * S + at)[:, None] * T + place[None, :], summed, mask=(at < S)[:, None] & (place < T)[None, :]
    )


def triton_index_scores(query: Tensor, key: Tensor, weights: Tensor) -> Tensor:
    """The indexer's scores (B, S, T) float32 of query (B, S, J, W), key (B, T, W) and weights (B, S, J)."""
    batch, length, heads, width = query.shape
    total = key.shape[1]
    scores = query.new_empty((batch, length, total), dtype=torch.float32)
    blocks = {"BQ": 64, "BK": 64, "WP": max(16, triton.next_power_of_2(width))}
    grid = (triton.cdiv(length, blocks["BQ"]), triton.cdiv(total, blocks["BK"]), batch)
    parts = (query.contiguous(), key.contiguous(), weights.contiguous())
    _index_kernel[grid](*parts, scores, length, total, J=heads, W=width, **blocks)
    return scores


class _TritonAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, memory: Tensor, indices: Tensor, value_width: int, scale: float
    ) -> tuple[Tensor, Tensor]:
        query, memory, indices = query.contiguous(), memory.contiguous(), indices.contiguous()
        batch, length, heads, width = query.shape
        kept = indices.shape[2]
        counts = (indices >= 0).sum(dim=-1, dtype=torch.int32)
        output = query.new_empty(batch, length, heads, value_width)
        normaliser = query.new_empty((batch, length, heads), dtype=torch.float32)
        distribution = query.new_empty((batch, length, kept), dtype=torch.float32)
        sizes = (length, memory.shape[1], kept, scale)
        constants = _constants(heads, value_width, width - value_width)
        by_heads = (batch * length, triton.cdiv(heads, constants["BH"]))
        by_keys = (batch * length, triton.cdiv(kept, constants["BK"]))
        _forward_kernel[by_heads](query, memory, indices, counts, output, normaliser, *sizes, **constants)
        _distribution_kernel[by_keys](query, memory, indices, counts, normaliser, distribution, *sizes, **constants)
        ctx.save_for_backward(query, memory, indices, counts, output, normaliser)
        ctx.sizes, ctx.constants, ctx.grids = sizes, constants, (by_heads, by_keys)
        ctx.mark_non_differentiable(distribution)
        return output, distribution

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        query, memory, indices, counts, output, normaliser = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        by_heads, by_keys = ctx.grids
        inner = (output.float() * gradient.float()).sum(dim=-1)
        to_query = torch.empty_like(query)
        to_memory = torch.zeros_like(memory, dtype=torch.float32)
        given = (query, memory, indices, counts, normaliser, inner, gradient)
        _query_gradient_kernel[by_heads](*given, to_query, *ctx.sizes, **ctx.constants)
        _memory_gradient_kernel[by_keys](*given, to_memory, *ctx.sizes, **ctx.constants)
        return to_query, to_memory.to(memory.dtype), None, None, None


def _constants(heads: int, latent: int, rotated: int) -> dict[str, int]:
    """Sizes that a kernel is compiled for. Matrix units take powers of two from 16 on."""
    padded = {name: max(16, triton.next_power_of_2(size)) for name, size in (("CP", latent), ("RP", rotated))}
    blocks = {"BH": 16 if heads <= 16 else 32, "BK": BLOCK_K, "num_warps": 8 if latent >= WIDE else 4}
    return {"H": heads, "C": latent, "R": rotated, **padded, **blocks}


def triton_attend(
    query: Tensor, memory: Tensor, indices: Tensor, value_width: int, scale: float
) -> tuple[Tensor, Tensor]:
    """`sparse_attention.sparse_attend` by these kernels: the same arguments and results."""
    result: tuple[Tensor, Tensor] = _TritonAttention.apply(query, memory, indices, value_width, scale)
    return result
