"""Attention behind one interface, and the two kinds of it: multi-head (grouped-query) and multi-head latent.

`attend` is the only place where a kernel is called. CUDA takes FlexAttention, which skips the blocks that a mask hides.
FlexAttention has no backward pass elsewhere: the CPU takes blocked attention in float32, and SDPA serves everything
else. A vendor's kernel joins here: a name in `Backend`, a line in `backend_for` and one in `attend`.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from model.attention_mask import AttentionMask, Backend
from model.autograd import attach_loss, learning
from model.block_inputs import BlockInputs
from model.blocked_attention import QUERY_BLOCK, blocked_attention, causal_blocks, fits
from model.config import AttentionConfig, ModelConfig
from model.indexer import Indexer, IndexStates
from model.layers import Linear, RMSNorm
from model.rope import Rotation
from model.sparse_attention import dense_divergence, select_keys, selected_divergence, sparse_attend


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
    if mask.backend == "blocked" and dropout == 0 and not torch.compiler.is_compiling():
        blocks = causal_blocks(query.shape[2], QUERY_BLOCK) if mask.queries is None else mask.queries
        if fits(query, blocks):
            return blocked_attention(query, key, value, blocks, scale)
    return _sdpa(query, key, value, mask, scale, dropout)


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

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        attention = config.attention
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
        dropout = self.dropout if self.training else 0.0
        attended = attend(query, key, value, mask, self.head_dim**-0.5, dropout)
        output: Tensor = self.o_proj(attended.transpose(1, 2).flatten(-2))
        return output


class LatentAttention(nn.Module):
    """Multi-head latent attention (MLA; DeepSeek-V2, arXiv 2405.04434, section 2.1).

    Queries come through a latent of q_lora_rank, keys and values through one of kv_lora_rank; the rotated part of the
    key is computed apart and shared by all heads. A head is [without position, rotated] in queries and keys, and
    [key, value] in the up-projection of the key/value latent. Dense attention expands keys and values to all heads;
    sparse attention (DSA, arXiv 2512.02556) moves the up-projection to the query and the output, and reads the latent.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        attention, latent = config.attention, config.attention.latent
        self.num_heads = attention.num_heads
        self.dropout = attention.dropout
        self.nope_dim, self.rope_dim = latent.qk_nope_head_dim, latent.qk_rope_head_dim
        self.kv_lora_rank, self.v_head_dim = latent.kv_lora_rank, latent.v_head_dim
        self.scale = (self.nope_dim + self.rope_dim) ** -0.5
        self.q_a_proj = Linear(config.hidden_size, latent.q_lora_rank, bias=attention.qkv_bias)
        self.q_a_layernorm = RMSNorm(latent.q_lora_rank, latent.norm_eps)
        self.q_b_proj = Linear(latent.q_lora_rank, self.num_heads * (self.nope_dim + self.rope_dim), bias=False)
        self.kv_a_proj_with_mqa = Linear(
            config.hidden_size, latent.kv_lora_rank + self.rope_dim, bias=attention.qkv_bias
        )
        self.kv_a_layernorm = RMSNorm(latent.kv_lora_rank, latent.norm_eps)
        self.kv_b_proj = Linear(latent.kv_lora_rank, self.num_heads * (self.nope_dim + self.v_head_dim), bias=False)
        self.o_proj = Linear(self.num_heads * self.v_head_dim, config.hidden_size, bias=attention.output_bias)
        self.indexer = Indexer(config) if attention.indexer.num_heads else None

    def forward(self, hidden_states: Tensor, inputs: BlockInputs) -> Tensor:
        """(B, S, hidden) to (B, S, hidden). Where an indexer learns, its loss is attached to the result."""
        with learning(not inputs.frozen):
            query_latent = self.q_a_layernorm(self.q_a_proj(hidden_states))
            query = self.rotated_query(query_latent, inputs.rotation)
            latent, rotated_key = self.key_value_latent(hidden_states, inputs.rotation)
        if inputs.sparse_mode == "off":
            dropout = self.dropout if self.training else 0.0
            attended = attend(query, *self.expanded(latent, rotated_key), inputs.mask, self.scale, dropout)
            return self._projected(attended.transpose(1, 2))
        assert self.indexer is not None
        states = self.indexer(hidden_states, query_latent, inputs.rotation)
        first, stop = inputs.mask.key_ranges(hidden_states.shape[1], hidden_states.device)
        if inputs.sparse_mode == "warmup":
            with torch.no_grad():
                key, value = self.expanded(latent, rotated_key)
            attended, divergence = dense_divergence(states, query, key, value, first, stop, self.scale)
            with torch.no_grad():
                output = self._projected(attended.transpose(1, 2))
        else:
            indices = select_keys(states, first, stop, self.indexer.top_k)
            attended, target = self._over_selected(query, latent, rotated_key, indices)
            divergence = selected_divergence(states, indices, target)
            output = self._projected(attended)
        return self._with_loss(output, states, divergence, inputs)

    def _over_selected(
        self, query: Tensor, latent: Tensor, rotated_key: Tensor, indices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attention over the selected keys, (B, S, H, v), and its weights on them summed over heads, (B, S, K)."""
        to_key, to_value = (
            self.kv_b_proj.weight.to(query.dtype)
            .unflatten(0, (self.num_heads, -1))
            .split((self.nope_dim, self.v_head_dim), dim=1)
        )
        plain, turned = query.split((self.nope_dim, self.rope_dim), dim=-1)
        absorbed = torch.cat((plain @ to_key, turned), dim=-1).transpose(1, 2)
        memory = torch.cat((latent, rotated_key.squeeze(1)), dim=-1)
        seen, target = sparse_attend(absorbed, memory, indices, self.kv_lora_rank, self.scale)
        return (seen.transpose(1, 2) @ to_value.transpose(1, 2)).transpose(1, 2), target

    def _with_loss(self, output: Tensor, states: IndexStates, divergence: Tensor, inputs: BlockInputs) -> Tensor:
        """The output with the indexer's loss attached; in evaluation with a loss of zero, so that under sharding every
        process has a gradient for every weight that any has one for."""
        if self.training and self.indexer is not None:
            self.indexer.record(divergence.detach(), output.shape[0] * output.shape[1])
            loss = divergence * inputs.indexer_loss_weight
        else:
            loss = (states.query.sum() + states.key.sum() + states.weights.sum()) * 0.0
        return attach_loss(output, loss, inputs.auxiliary_scale) if torch.is_grad_enabled() else output

    def _projected(self, attended: Tensor) -> Tensor:
        """(B, S, H, v) to (B, S, hidden)."""
        output: Tensor = self.o_proj(attended.flatten(-2))
        return output

    def rotated_query(self, query_latent: Tensor, rotation: Rotation | None) -> Tensor:
        """(B, S, q_lora_rank) to (B, H, S, nope + rope)."""
        query = self.q_b_proj(query_latent).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        if rotation is None:
            return query
        plain, turning = query.split((self.nope_dim, self.rope_dim), dim=-1)
        return torch.cat((plain, rotation.apply(turning)), dim=-1)

    def key_value_latent(self, hidden_states: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        """What a cache would hold: the normalised latent (B, S, kv_lora_rank), the rotated key (B, 1, S, rope)."""
        latent, turning = self.kv_a_proj_with_mqa(hidden_states).split((self.kv_lora_rank, self.rope_dim), dim=-1)
        turning = turning.unsqueeze(1)
        return self.kv_a_layernorm(latent), turning if rotation is None else rotation.apply(turning)

    def expanded(self, latent: Tensor, rotated_key: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, H, S, nope + rope) and values (B, H, S, v) of every head."""
        both = self.kv_b_proj(latent).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        plain_key, value = both.split((self.nope_dim, self.v_head_dim), dim=-1)
        return torch.cat((plain_key, rotated_key.expand(-1, self.num_heads, -1, -1)), dim=-1), value


def build_attention(config: ModelConfig) -> nn.Module:
    """The attention that the configuration asks for: forward(hidden_states, inputs)."""
    return LatentAttention(config) if config.attention.kind == "latent" else MultiHeadAttention(config)
