"""Attention behind one interface, and multi-head attention (grouped-query). The latent kind has a file of its own.

`attend` is the only place where a kernel is called. CUDA takes FlexAttention, which skips the blocks that a mask hides.
FlexAttention has no backward pass elsewhere: the CPU takes blocked attention, and SDPA serves everything else. A
vendor's kernel joins here: a name in `Backend`, a line in `backend_for` and one in `attend`.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from model.attention_mask import AttentionMask, Backend
from model.block_inputs import BlockInputs
from model.blocked_attention import QUERY_BLOCK, blocked_attention, causal_blocks, fits
from model.config import AttentionConfig, ModelConfig
from model.layers import Linear, RMSNorm


def backend_for(config: AttentionConfig, device: torch.device) -> Backend:
    """The kernel of this configuration on this device; with dropout on attention weights only SDPA is left."""
    if config.backend != "auto":
        return config.backend
    fast: dict[str, Backend] = {"cuda": "flex", "cpu": "blocked"}
    return "sdpa" if config.dropout > 0 else fast.get(device.type, "sdpa")


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scale: float, dropout: float = 0.0
) -> Tensor:
    """softmax(scale * query key^T) value over what the mask lets a query see, softmax in float32.

    query (B, H, S, D), key (B, G, S, D), value (B, G, S, V) with G dividing H; the result is (B, H, S, V).
    """
    if mask.blocks is not None:
        return _flex(query, key, value, mask, scale, dropout)
    if mask.backend == "blocked" and dropout == 0:
        return _blocked(query, key, value, mask, scale)
    return _sdpa(query, key, value, mask, scale, dropout)


@torch.compiler.disable
def _blocked(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scale: float) -> Tensor:
    """Not compiled: its blocks differ from batch to batch, and its products are not the compiler's anyway."""
    blocks = causal_blocks(query.shape[2], QUERY_BLOCK) if mask.queries is None else mask.queries
    if fits(query, blocks):
        return blocked_attention(query, key, value, blocks, mask.boolean, scale)
    return _sdpa(query, key, value, mask, scale, 0.0)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scale: float, dropout: float) -> Tensor:
    grouped = key.shape[1] != query.shape[1]
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask.boolean,
        dropout_p=dropout,
        is_causal=mask.is_causal,
        scale=scale,
        enable_gqa=grouped,
    )


def _flex(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scale: float, dropout: float) -> Tensor:
    if dropout > 0:
        raise ValueError("FlexAttention has no dropout: set attention.backend to sdpa or attention.dropout to 0")
    if query.device.type != "cuda" and torch.is_grad_enabled() and query.requires_grad:
        raise ValueError("FlexAttention has a backward pass on CUDA alone: leave attention.backend at auto")
    grouped = key.shape[1] != query.shape[1]
    kernel = _compiled_flex() if query.device.type == "cuda" else _uncompiled_flex
    return kernel(query, key, value, block_mask=mask.blocks, scale=scale, enable_gqa=grouped)


def _uncompiled_flex(
    query: Tensor, key: Tensor, value: Tensor, *, block_mask: BlockMask | None, **options: Any
) -> Tensor:
    result: Tensor = flex_attention(query, key, value, block_mask=block_mask, **options)
    return result


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    """Uncompiled FlexAttention materialises all scores; one compiled copy serves every layer."""
    return torch.compile(flex_attention, dynamic=False)


class MultiHeadAttention(nn.Module):
    """Multi-head attention; grouped-query when there are fewer key/value heads (arXiv 2305.13245)."""

    def __init__(self, config: ModelConfig, layer_index: int) -> None:
        super().__init__()
        attention = config.attention
        self.layer_index = layer_index
        self.head_dim = attention.head_dim
        self.dropout = attention.dropout
        query_size = attention.num_heads * attention.head_dim
        key_size = attention.key_value_heads * attention.head_dim
        self.q_proj = Linear(config.hidden_size, query_size, bias=attention.qkv_bias)
        self.k_proj = Linear(config.hidden_size, key_size, bias=attention.qkv_bias)
        self.v_proj = Linear(config.hidden_size, key_size, bias=attention.qkv_bias)
        self.o_proj = Linear(query_size, config.hidden_size, bias=attention.output_bias)
        self.q_norm = RMSNorm(self.head_dim, config.norm.eps) if attention.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm.eps) if attention.qk_norm else None

    def forward(self, hidden_states: Tensor, inputs: BlockInputs) -> Tensor:
        """(B, S, hidden) to (B, S, hidden)."""
        rotation, mask = inputs.rotation, inputs.mask
        query = self.q_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        key = self.k_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        value = self.v_proj(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        if rotation is not None:
            query, key = rotation.apply(query), rotation.apply(key)
        if inputs.cache is not None:
            key, value = inputs.cache.layers[self.layer_index].extend(key, value)
        dropout = self.dropout if self.training else 0.0
        attended = attend(query, key, value, mask, self.head_dim**-0.5, dropout)
        output: Tensor = self.o_proj(attended.transpose(1, 2).flatten(-2))
        return output
