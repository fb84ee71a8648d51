"""What attention may see, from two integers a token: `document` and `context_end`.

One rule serves every objective: a query sees a key when both belong to one document and the key is context or is not
later than the query, `document[q] == document[k] and (k < context_end[q] or k <= q)`. `context_end` is the row
position, exclusive, where the context of the token's document ends. Causal language modelling has no context
(`context_end` at or before the document's start), blank infilling's is the corrupted text, packing is more than one
document, and padding is a document of its own for each position, so that every query sees at least itself.

This module alone turns the two into what a kernel wants: a boolean mask (SDPA), FlexAttention's lists of blocks, or
the range of keys that each query sees (sparse attention). The lists are written from the offsets at the cost of the
block grid, without evaluating the rule pair by pair.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from model.blocked_attention import QUERY_BLOCK, QueryBlock, query_blocks

Backend = Literal["sdpa", "flex", "blocked", "ranges"]

BLOCK_SIZE = 128
"""Rows and columns of a FlexAttention block."""


@dataclass(frozen=True)
class AttentionMask:
    """A mask ready for one back end. All three None: plain causal attention over the whole row."""

    backend: Backend = "sdpa"
    boolean: Tensor | None = None
    """(B, 1, S, S), True where the query (row) sees the key (column)."""
    blocks: BlockMask | None = None
    """FlexAttention's block lists with the rule as its function."""
    queries: tuple[QueryBlock, ...] | None = None
    """Blocks of queries with the keys that they see, for blocked attention on the CPU."""
    ranges: tuple[Tensor, Tensor] | None = None
    """First key and end (exclusive) of what each query sees, (B, S) each, for sparse attention."""

    @property
    def is_causal(self) -> bool:
        return self.boolean is None and self.blocks is None and self.ranges is None

    def key_ranges(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """`ranges`, or those of causal rows, (1, S) each."""
        if self.ranges is not None:
            return self.ranges
        assert self.is_causal, f"a mask for {self.backend} does not serve sparse attention"
        place = torch.arange(length, device=device).unsqueeze(0)
        return torch.zeros_like(place), place + 1


def build(
    document: Tensor | None, context_end: Tensor | None, backend: Backend, query_block: int = QUERY_BLOCK
) -> AttentionMask:
    """Prepare the mask of a batch once, for all layers.

    document, context_end: (B, S) integers on the device of the computation; both None for unpacked causal rows.
    Raises ValueError when only one is given, and (checked on the CPU only, where it costs no synchronisation) when a
    document's tokens are not adjacent.
    """
    if document is None and context_end is None:
        return AttentionMask(backend=backend)
    if document is None or context_end is None:
        raise ValueError("document and context_end belong together: give both, or neither for causal rows")
    if document.shape != context_end.shape or document.dim() != 2:
        raise ValueError(
            f"document {tuple(document.shape)} and context_end {tuple(context_end.shape)} must both be (batch, length)"
        )
    if document.device.type == "cpu":
        _require_adjacent(document)
    if backend == "ranges":
        return AttentionMask(backend, ranges=visible_ranges(document, context_end))
    if backend == "flex":
        return AttentionMask(backend, blocks=block_mask(document, context_end))
    visible = boolean_mask(document, context_end)
    queries = None
    if backend == "blocked":
        queries = query_blocks(visible, *_key_ranges(document, context_end, query_block), query_block)
    return AttentionMask(backend, boolean=visible.unsqueeze(1), queries=queries)


def after(past: int, length: int, backend: Backend, device: torch.device) -> AttentionMask:
    """The mask of `length` tokens behind `past` others (a cache's), each of which sees all before it."""
    stop = torch.arange(past + 1, past + length + 1, device=device).unsqueeze(0)
    if backend == "ranges":
        return AttentionMask(backend, ranges=(torch.zeros_like(stop), stop))
    place = torch.arange(past + length, device=device)
    return AttentionMask("sdpa", boolean=(place < stop.unsqueeze(-1)).unsqueeze(1))


def boolean_mask(document: Tensor, context_end: Tensor) -> Tensor:
    """The rule for all pairs: (B, S, S) boolean, queries in rows, keys in columns."""
    position = torch.arange(document.shape[1], device=document.device)
    same_document = document[:, :, None] == document[:, None, :]
    context = position[None, None, :] < context_end[:, :, None]
    return same_document & (context | (position[None, :] <= position[:, None]))


def block_mask(document: Tensor, context_end: Tensor, block_size: int = BLOCK_SIZE) -> BlockMask:
    """FlexAttention's lists of partly and fully visible blocks, and the rule for the partly visible ones."""
    partial, full = block_kinds(document, context_end, block_size)
    length = document.shape[1]

    def sees(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_document = document[batch, query] == document[batch, key]
        return same_document & ((key < context_end[batch, query]) | (key <= query))

    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(full), BLOCK_SIZE=block_size, mask_mod=sees, seq_lengths=(length, length)
    )


def block_kinds(document: Tensor, context_end: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Which blocks are visible in part and which whole: two (B, N, N) booleans, N = ceil(S / block_size).

    Documents are adjacent runs, so the keys that a block of queries sees are one range of blocks: from the start of its
    first query's document to the block itself, or to the end of its last query's context where that lies further.
    A block that the row's end cuts is never called whole.
    """
    length = document.shape[1]
    first = torch.arange(0, length, block_size, device=document.device)
    last = torch.clamp(first + block_size, max=length) - 1
    start, end = _document_bounds(document)
    context_end = torch.minimum(context_end, end)
    blocks = torch.arange(len(first), device=document.device)
    lowest = start[:, first] // block_size
    highest = torch.maximum(blocks, (context_end[:, last] - 1) // block_size)
    visible = (blocks >= lowest[:, :, None]) & (blocks <= highest[:, :, None])

    stop = first + block_size
    queries_in_one = end[:, first] >= stop
    keys_in_same = (first >= start[:, first][:, :, None]) & (stop <= end[:, first][:, :, None])
    earlier = blocks[None, :] < blocks[:, None]
    in_context = stop <= context_end[:, first][:, :, None]
    full = queries_in_one[:, :, None] & keys_in_same & (earlier | in_context)
    return visible & ~full, full


def _key_ranges(document: Tensor, context_end: Tensor, size: int) -> tuple[list[int], list[int]]:
    """First key and end (exclusive) of what any row's query of a block sees, for each block of `size` queries."""
    length = document.shape[1]
    start, end = _document_bounds(document)
    opening = torch.arange(0, length, size)
    closing = torch.clamp(opening + size, max=length) - 1
    furthest = torch.maximum(closing + 1, torch.minimum(context_end, end)[:, closing])
    return start[:, opening].amin(dim=0).tolist(), furthest.amax(dim=0).tolist()


def visible_ranges(document: Tensor, context_end: Tensor) -> tuple[Tensor, Tensor]:
    """First key and end (exclusive) of what each query sees, (B, S) each: one range, documents being adjacent."""
    start, end = _document_bounds(document)
    position = torch.arange(document.shape[1], device=document.device)
    return start, torch.maximum(position + 1, torch.minimum(context_end, end))


def visible_pairs(document: Tensor, context_end: Tensor) -> Tensor:
    """(B,) number of query-key pairs that the rule lets through, from the offsets: attention's true area."""
    first, stop = visible_ranges(document, context_end)
    return (stop - first).sum(dim=1)


def _document_bounds(document: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S) first position and end (exclusive) of each token's document."""
    length = document.shape[1]
    position = torch.arange(length, device=document.device).expand_as(document)
    changes = torch.ones_like(document, dtype=torch.bool)
    changes[:, 1:] = document[:, 1:] != document[:, :-1]
    start = torch.where(changes, position, 0).cummax(dim=1).values
    closes = torch.ones_like(changes)
    closes[:, :-1] = changes[:, 1:]
    end = torch.where(closes, position + 1, length).flip(1).cummin(dim=1).values.flip(1)
    return start, end


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """A grid of booleans as BlockMask's (B, 1, N) counts and (B, 1, N, N) indices, the listed blocks first."""
    counts = blocks.sum(dim=-1, dtype=torch.int32)
    indices = torch.argsort(blocks.to(torch.int8), dim=-1, descending=True, stable=True).to(torch.int32)
    return counts.unsqueeze(1), indices.unsqueeze(1)


def _require_adjacent(document: Tensor) -> None:
    changes = (document[:, 1:] != document[:, :-1]).sum(dim=1) + 1
    for row, runs in enumerate(changes.tolist()):
        if runs != len(torch.unique(document[row])):
            raise ValueError(f"row {row}: a document's tokens are not adjacent, which the block lists rely on")
