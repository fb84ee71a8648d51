"""Multi-head latent attention (MLA; DeepSeek-V2, arXiv 2405.04434, section 2.1), dense or sparse (DSA, 2512.02556).

Queries come through a latent of q_lora_rank, keys and values through one of kv_lora_rank; the rotated part of the key
is computed apart and shared by all heads. A head is [without position, rotated] in queries and keys, and [key, value]
in the up-projection of the key/value latent.

The up-projection can be applied in two places. Expanded: every head gets keys and values of its own, the cheaper way
for whole rows. Absorbed: it moves into the query and behind the output, and all heads read the latent with the rotated
key, which is called the memory here: the way of sparse attention, which gathers from it, and of a cache, which is it.
"""

import torch
from torch import Tensor, nn

from model.attention import attend
from model.autograd import attach_loss, learning
from model.block_inputs import BlockInputs
from model.config import ModelConfig
from model.indexer import Indexer, IndexStates
from model.layers import Linear, RMSNorm
from model.rope import Rotation
from model.sparse_attention import dense_divergence, select_keys, selected_divergence, sparse_attend


class LatentAttention(nn.Module):
    """MLA; with an indexer, in the mode that `BlockInputs.sparse_mode` says."""

    def __init__(self, config: ModelConfig, layer_index: int = 0) -> None:
        super().__init__()
        attention, latent = config.attention, config.attention.latent
        self.layer_index = layer_index
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
        if inputs.sparse_mode == "warmup":
            return self._warmed_up(hidden_states, query_latent, query, latent, rotated_key, inputs)
        if inputs.sparse_mode == "sparse":
            return self._sparse(hidden_states, query_latent, query, latent, rotated_key, inputs)
        dropout = self.dropout if self.training else 0.0
        if inputs.cache is not None:
            (memory,) = inputs.cache.layers[self.layer_index].extend(_memory(latent, rotated_key))
            if memory.shape[1] > hidden_states.shape[1]:
                absorbed, memory = self._absorbed(query), memory.unsqueeze(1)
                seen = attend(absorbed, memory, memory[..., : self.kv_lora_rank], inputs.mask, self.scale)
                return self._projected(self._values(seen))
        attended = attend(query, *self.expanded(latent, rotated_key), inputs.mask, self.scale, dropout)
        return self._projected(attended)

    def _warmed_up(
        self,
        hidden_states: Tensor,
        query_latent: Tensor,
        query: Tensor,
        latent: Tensor,
        rotated_key: Tensor,
        inputs: BlockInputs,
    ) -> Tensor:
        """Dense attention without gradients, and the indexer's loss against it."""
        assert self.indexer is not None
        states = self.indexer(hidden_states, query_latent, inputs.rotation)
        first, stop = inputs.mask.key_ranges(hidden_states.shape[1], hidden_states.device)
        with torch.no_grad():
            key, value = self.expanded(latent, rotated_key)
        attended, divergence = dense_divergence(states, query, key, value, first, stop, self.scale)
        with torch.no_grad():
            output = self._projected(attended)
        return self._with_loss(output, states, divergence, inputs)

    def _sparse(
        self,
        hidden_states: Tensor,
        query_latent: Tensor,
        query: Tensor,
        latent: Tensor,
        rotated_key: Tensor,
        inputs: BlockInputs,
    ) -> Tensor:
        """Attention over the keys that the indexer selects, and its loss over them."""
        assert self.indexer is not None
        states, memory = self.indexer(hidden_states, query_latent, inputs.rotation), _memory(latent, rotated_key)
        first, stop = inputs.mask.key_ranges(hidden_states.shape[1], hidden_states.device)
        if inputs.cache is not None:
            memory, index_key = inputs.cache.layers[self.layer_index].extend(memory, states.key)
            states = IndexStates(states.query, index_key, states.weights)
        indices = select_keys(states, first, stop, self.indexer.top_k)
        absorbed = self._absorbed(query).transpose(1, 2)
        seen, target = sparse_attend(absorbed, memory, indices, self.kv_lora_rank, self.scale)
        output = self._projected(self._values(seen.transpose(1, 2)))
        if not (self.training or torch.is_grad_enabled()):
            return output
        return self._with_loss(output, states, selected_divergence(states, indices, target), inputs)

    def _with_loss(self, output: Tensor, states: IndexStates, divergence: Tensor, inputs: BlockInputs) -> Tensor:
        """The output with the indexer's loss attached; in evaluation with a loss of zero, so that under sharding every
        process has a gradient for every weight that any has one for."""
        if self.training and self.indexer is not None:
            self.indexer.record(divergence.detach(), output.shape[0] * output.shape[1])
            loss = divergence * inputs.indexer_loss_weight
        else:
            loss = (states.query.sum() + states.key.sum() + states.weights.sum()) * 0.0
        return attach_loss(output, loss, inputs.auxiliary_scale) if torch.is_grad_enabled() else output

    def rotated_query(self, query_latent: Tensor, rotation: Rotation | None) -> Tensor:
        """(B, S, q_lora_rank) to (B, H, S, nope + rope)."""
        query = self.q_b_proj(query_latent).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        if rotation is None:
            return query
        plain, turning = query.split((self.nope_dim, self.rope_dim), dim=-1)
        return torch.cat((plain, rotation.apply(turning)), dim=-1)

    def key_value_latent(self, hidden_states: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        """The normalised latent (B, S, kv_lora_rank) and the rotated part of the key (B, 1, S, rope)."""
        latent, turning = self.kv_a_proj_with_mqa(hidden_states).split((self.kv_lora_rank, self.rope_dim), dim=-1)
        turning = turning.unsqueeze(1)
        return self.kv_a_layernorm(latent), turning if rotation is None else rotation.apply(turning)

    def expanded(self, latent: Tensor, rotated_key: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, H, S, nope + rope) and values (B, H, S, v) of every head."""
        both = self.kv_b_proj(latent).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        plain_key, value = both.split((self.nope_dim, self.v_head_dim), dim=-1)
        return torch.cat((plain_key, rotated_key.expand(-1, self.num_heads, -1, -1)), dim=-1), value

    def _absorbed(self, query: Tensor) -> Tensor:
        """Queries that meet the memory itself: (B, H, S, nope + rope) to (B, H, S, kv_lora_rank + rope)."""
        plain, turned = query.split((self.nope_dim, self.rope_dim), dim=-1)
        return torch.cat((plain @ self._up_projection(query.dtype)[0], turned), dim=-1)

    def _values(self, seen: Tensor) -> Tensor:
        """What attention gathered from the latent, (B, H, S, kv_lora_rank), as values (B, H, S, v)."""
        return seen @ self._up_projection(seen.dtype)[1].transpose(1, 2)

    def _up_projection(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Its two parts by head: (H, nope, kv_lora_rank) of the keys, (H, v, kv_lora_rank) of the values."""
        by_head = self.kv_b_proj.weight.to(dtype).unflatten(0, (self.num_heads, -1))
        to_key, to_value = by_head.split((self.nope_dim, self.v_head_dim), dim=1)
        return to_key, to_value

    def _projected(self, attended: Tensor) -> Tensor:
        """(B, H, S, v) to (B, S, hidden)."""
        output: Tensor = self.o_proj(attended.transpose(1, 2).flatten(-2))
        return output


def _memory(latent: Tensor, rotated_key: Tensor) -> Tensor:
    """(B, S, kv_lora_rank + rope): what all heads read, and all that a cache has to hold."""
    return torch.cat((latent, rotated_key.squeeze(1)), dim=-1)
