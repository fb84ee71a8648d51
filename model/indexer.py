"""The weights of DeepSeek Sparse Attention's lightning indexer (arXiv 2512.02556, section 2.1).

Dense attention does not read them: they are here so that a GLM-5 checkpoint is whole, in memory, on disk and in counts.
"""

from torch import nn

from model.config import ModelConfig
from model.layers import LayerNorm, Linear

KEY_NORM_EPS = 1e-6


class Indexer(nn.Module):
    """Queries from MLA's query latent, one key a token through a LayerNorm, and a weight for each indexer head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        indexer = config.attention.indexer
        self.wq_b = Linear(config.attention.latent.q_lora_rank, indexer.num_heads * indexer.head_dim, bias=False)
        self.wk = Linear(config.hidden_size, indexer.head_dim, bias=False)
        self.k_norm = LayerNorm(indexer.head_dim, KEY_NORM_EPS)
        self.weights_proj = Linear(config.hidden_size, indexer.num_heads, bias=False)
