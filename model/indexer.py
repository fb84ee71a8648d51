"""DeepSeek Sparse Attention's lightning indexer (arXiv 2512.02556, section 2.1) and its record of how well it does.

An index query for each of J heads comes from MLA's normalised query latent, one index key a token from the hidden state
through a LayerNorm, and a weight for each head from the hidden state. RoPE turns the first dimensions of both, as many
as in attention's own rotated part, in interleaved pairs (GLM-5). Its inputs are detached: the indexer learns from
attention and never the other way round. What is done with the three is in `model/sparse_attention.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers import LayerNorm, Linear
from model.rope import Rotation

KEY_NORM_EPS = 1e-6


@dataclass(frozen=True)
class IndexStates:
    """What the indexer's scores are made of: query and key in the computation's precision, the scores in float32."""

    query: Tensor
    """(B, S, J, W)."""
    key: Tensor
    """(B, T, W)."""
    weights: Tensor
    """(B, S, J) float32, the factors 1/√J and 1/√W of the scores included."""


class Indexer(nn.Module):
    """Queries from MLA's query latent, one key a token through a LayerNorm, and a weight for each indexer head.

    `divergences` adds up the KL over queries and their number until `reset_indexer_losses`. Whoever recomputes
    activations takes back what the second forward pass adds, or both are double.
    """

    divergences: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        indexer = config.attention.indexer
        self.num_heads, self.head_dim, self.top_k = indexer.num_heads, indexer.head_dim, indexer.top_k
        self.wq_b = Linear(config.attention.latent.q_lora_rank, indexer.num_heads * indexer.head_dim, bias=False)
        self.wk = Linear(config.hidden_size, indexer.head_dim, bias=False)
        self.k_norm = LayerNorm(indexer.head_dim, KEY_NORM_EPS)
        self.weights_proj = Linear(config.hidden_size, indexer.num_heads, bias=False)
        self.register_buffer("divergences", torch.zeros(2, dtype=torch.float32), persistent=False)

    def forward(self, hidden_states: Tensor, query_latent: Tensor, rotation: Rotation | None) -> IndexStates:
        """hidden_states (B, S, hidden), query_latent (B, S, q_lora_rank), both detached here."""
        hidden_states, query_latent = hidden_states.detach(), query_latent.detach()
        query = self.wq_b(query_latent).unflatten(-1, (self.num_heads, self.head_dim))
        key = self.k_norm(self.wk(hidden_states))
        if rotation is not None:
            query = rotation.apply(query.transpose(1, 2)).transpose(1, 2)
            key = rotation.apply(key.unsqueeze(1)).squeeze(1)
        # The weights' product is small and its sign decides: float32 whatever the precision of the rest.
        weights = self.weights_proj(hidden_states.float()) * (self.num_heads * self.head_dim) ** -0.5
        return IndexStates(query, key, weights)

    @torch.no_grad()
    def record(self, divergence: Tensor, queries: int) -> None:
        """Add the sum of the KL over `queries` queries."""
        self.divergences[0] += divergence
        self.divergences[1] += queries


def indexers(model: nn.Module) -> list[Indexer]:
    """Every indexer of a model, those of MTP included, in the model's order."""
    return [module for module in model.modules() if isinstance(module, Indexer)]


def indexer_sums(model: nn.Module) -> Tensor:
    """(indexers, 2) the KL's sum over queries since the last reset and their number, a copy to be summed over ranks."""
    return torch.stack([indexer.divergences for indexer in indexers(model)])


def indexer_losses(model: nn.Module) -> Tensor:
    """(indexers,) mean KL of a query since the last reset, in nats, detached; 0 where none was computed."""
    sums = indexer_sums(model)
    return sums[:, 0] / sums[:, 1].clamp(min=1.0)


@torch.no_grad()
def reset_indexer_losses(model: nn.Module) -> None:
    """Start the mean anew."""
    for indexer in indexers(model):
        indexer.divergences.zero_()
