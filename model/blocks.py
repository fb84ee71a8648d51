"""A block: attention and feed-forward, each inside a residual rule."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import MultiHeadAttention
from model.autograd import learning, linked
from model.block_inputs import BlockInputs
from model.config import ModelConfig
from model.experts import MixtureOfExperts
from model.feed_forward import build_feed_forward
from model.latent_attention import LatentAttention
from model.layers import build_norm


class Block(nn.Module):
    """One layer. Pre-norm: x + f(norm(x)). DeepNorm: αn + f(n), n = norm(x): the residual is the normalised input.

    Written so, post-norm's LN(αx + f(x)) is the next sublayer's norm, the first block's first norm stands on the
    embedding, and the model's last norm closes the last block, as in GLM-130B's own code.

    While only indexers learn (`BlockInputs.frozen`), all but the residual runs without gradients: the backward pass
    goes along the residual to the losses attached to it, and through no sublayer.
    """

    def __init__(self, config: ModelConfig, layer_index: int) -> None:
        super().__init__()
        self.input_layernorm = build_norm(config.norm, config.hidden_size)
        attention = LatentAttention if config.attention.kind == "latent" else MultiHeadAttention
        self.self_attn = attention(config, layer_index)
        self.post_attention_layernorm = build_norm(config.norm, config.hidden_size)
        sparse = config.is_sparse_layer(layer_index)
        self.mlp: nn.Module = MixtureOfExperts(config) if sparse else build_feed_forward(config)
        self.is_sparse = sparse
        self.residual_from_norm = config.residual != "pre_norm"
        self.alpha = config.residual_alpha
        self.dropout = config.dropout

    def forward(self, hidden_states: Tensor, inputs: BlockInputs) -> Tensor:
        """(B, S, hidden) to (B, S, hidden)."""
        hidden_states = self._residual(
            hidden_states, inputs, self.input_layernorm, lambda normed: self.self_attn(normed, inputs)
        )
        return self._residual(
            hidden_states, inputs, self.post_attention_layernorm, lambda normed: self._feed_forward(normed, inputs)
        )

    def _feed_forward(self, normed: Tensor, inputs: BlockInputs) -> Tensor:
        with learning(not inputs.frozen):
            output: Tensor = self.mlp(normed, inputs.auxiliary_scale) if self.is_sparse else self.mlp(normed)
        return output

    def _residual(
        self, hidden_states: Tensor, inputs: BlockInputs, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]
    ) -> Tensor:
        with learning(not inputs.frozen):
            normed = norm(hidden_states)
            kept = normed * self.alpha if self.residual_from_norm else hidden_states
        if inputs.frozen and self.residual_from_norm:
            kept = linked(kept, hidden_states)
        return kept + F.dropout(sublayer(normed), self.dropout, self.training)
