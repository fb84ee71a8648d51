"""The model: embedding, blocks, norm, output, and MTP behind them.

Departures from the textbook, all of them choices in `ModelConfig`: attention follows `document` and `context_end`
rather than being causal; positions are given and may repeat; the residual may be DeepNorm; the embedding may be tied
and receive a shrunk gradient; the loss is a value for each token, and whoever trains weighs and sums it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import backend_for
from model.attention_mask import AttentionMask, Backend, after, build
from model.autograd import learning, linked, scale_gradient
from model.block_inputs import BlockInputs, SparseMode
from model.blocks import Block
from model.cache import Cache
from model.config import ModelConfig
from model.layers import COMPUTE_DTYPES, build_norm
from model.losses import chunked_cross_entropy
from model.mtp import MtpLayer, shifted
from model.rope import Rotation, rotation


@dataclass(frozen=True)
class ModelOutput:
    """What a forward pass gives: logits without targets, losses with them. All float32."""

    logits: Tensor | None = None
    """(B, S, V)."""
    losses: Tensor | None = None
    """(B, S) cross entropy of each target, unweighted; 0 where the target is negative."""
    mtp_losses: tuple[tuple[Tensor, Tensor], ...] = ()
    """For each depth of MTP: cross entropies (B, S), 0 where not valid, and where they are valid (B, S)."""
    z_losses: Tensor | None = None
    """(B, S) squared log normalisers of the logits, 0 where the target is negative."""


class Transformer(nn.Module):
    """Either family. Weights are float32; the computation runs in `config.compute_dtype`.

    `layers` and `mtp` are plain lists of modules for whoever wraps, shards or compiles them from outside. Nothing here
    knows of ranks. Buffers: the routers' biases (saved) and counts, and `embedding_gradient_shrink` (both not saved).
    """

    embedding_gradient_shrink: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size == 0:
            raise ValueError(
                "model.vocab_size is 0, which stands for the tokenizer's: set it before building the model"
            )
        self.config = config
        self.compute_dtype = COMPUTE_DTYPES[config.compute_dtype]
        self.rope_base = config.position.rope_base
        self.sparse_mode: SparseMode = "off"
        self.indexer_loss_weight = 1.0
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.position.kind == "learned_2d"
        tables = (nn.Embedding(config.max_positions + 1, config.hidden_size) for _ in range(2))
        self.embed_positions = nn.ModuleList(tables) if learned else None
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.num_layers))
        self.norm = build_norm(config.norm, config.hidden_size)
        tied = config.tie_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.mtp = nn.ModuleList(MtpLayer(config) for _ in range(config.mtp.num_layers))
        self.shrinks_embedding_gradient = config.embedding_gradient_shrink < 1
        self.register_buffer(
            "embedding_gradient_shrink", torch.tensor(config.embedding_gradient_shrink), persistent=False
        )

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        document: Tensor | None = None,
        context_end: Tensor | None = None,
        targets: Tensor | None = None,
        *,
        attention_mask: AttentionMask | None = None,
        auxiliary_scale: Tensor | None = None,
        cache: Cache | None = None,
    ) -> ModelOutput:
        """Logits, or with targets the loss of each token.

        tokens, document, context_end, targets: (B, S) integers. positions: (B, S), or (B, 2, S) for the two-dimensional
        kinds; None counts from 0. document and context_end None: every row is one causal document (the fast path).
        targets are already shifted (target i is what position i should say); a negative one is not scored, which saves
        its output projection on the CPU. attention_mask: what `attention_mask.build` gave for this batch, when it was
        prepared ahead. auxiliary_scale: scalar float32 tensor by which gradients of auxiliary losses (sums over tokens)
        are multiplied, the same factor as the main loss's; None is 1 / (B * S). cache: of `new_cache`, for inference;
        the tokens follow those that it holds, see them all, and are added to it.
        """
        past = 0 if cache is None else cache.length
        if positions is None:
            positions = torch.arange(past, past + tokens.shape[1], device=tokens.device).expand_as(tokens)
        if attention_mask is None and past:
            attention_mask = after(past, tokens.shape[1], self.mask_backend(tokens.device), tokens.device)
        elif attention_mask is None:
            attention_mask = build(document, context_end, self.mask_backend(tokens.device))
        if auxiliary_scale is None:
            auxiliary_scale = torch.tensor(1.0 / tokens.numel(), device=tokens.device)
        inputs = BlockInputs(
            self._rotation(positions), attention_mask, auxiliary_scale, self._mode(), self.indexer_loss_weight, cache
        )

        with learning(not inputs.frozen):
            hidden_states = self._embed(tokens, positions)
        for layer in self.layers:
            hidden_states = layer(hidden_states, inputs)
        with learning(not inputs.frozen):
            normed = self.norm(hidden_states)
        if inputs.frozen:
            normed = linked(normed, hidden_states)
        if targets is None:
            return ModelOutput(logits=F.linear(normed, self._output_weight()).float())
        losses, z_losses = self._cross_entropy(normed, targets, inputs)
        mtp_losses = self._mtp_losses(normed, tokens, positions, document, targets, inputs)
        return ModelOutput(losses=losses, z_losses=z_losses, mtp_losses=mtp_losses)

    def mask_backend(self, device: torch.device) -> Backend:
        """The back end for which to prepare a mask (`attention_mask.build`) on this device."""
        return "ranges" if self._mode() != "off" else backend_for(self.config.attention, device)

    def set_sparse_attention(self, mode: SparseMode, loss_weight: float = 1.0) -> None:
        """Change between dense attention, the indexers' warm-up and sparse attention during a run.

        off: dense attention, which no indexer reads. warmup: dense attention; each indexer learns from
        KL(attention's weights, summed over heads and normalised, to the softmax of its scores), and nothing else gets
        a gradient. sparse: attention over the top-k keys by the indexer's scores; the same KL over those keys. The
        KL's sum over queries is attached to the hidden states, as routers' losses are, and its gradient is multiplied
        by `auxiliary_scale` and `loss_weight`; `indexer.indexer_losses` gives its mean. ValueError for a model without
        an indexer or with dropout on attention's weights.
        """
        if mode != "off" and self.config.attention.indexer.num_heads == 0:
            raise ValueError(f"sparse attention ({mode}) needs an indexer: set model.attention.indexer.num_heads")
        if mode != "off" and self.config.attention.dropout > 0:
            raise ValueError(f"sparse attention ({mode}) has no dropout on weights: set model.attention.dropout to 0")
        if loss_weight < 0:
            raise ValueError(f"the indexer's loss weight must not be negative, got {loss_weight}")
        self.sparse_mode = mode
        self.indexer_loss_weight = loss_weight

    def _mode(self) -> SparseMode:
        """Warm-up without anything to learn is dense attention."""
        idle = self.sparse_mode == "warmup" and not (self.training or torch.is_grad_enabled())
        return "off" if idle else self.sparse_mode

    def _cross_entropy(self, hidden_states: Tensor, targets: Tensor, inputs: BlockInputs) -> tuple[Tensor, Tensor]:
        with learning(not inputs.frozen):
            losses, z_losses = chunked_cross_entropy(hidden_states, self._output_weight(), targets)
        return (linked(losses, hidden_states) if inputs.frozen else losses), z_losses

    def new_cache(self) -> Cache:
        """An empty cache for one batch of rows in inference: give it to every call that reads on."""
        return Cache(len(self.layers))

    def set_embedding_gradient_shrink(self, alpha: float) -> None:
        """Change α during a run, as GLM-130B's authors did."""
        self.shrinks_embedding_gradient = True
        self.embedding_gradient_shrink.fill_(alpha)

    def set_rope_base(self, base: float) -> None:
        """Change RoPE's base between stages (GLM-4.5: 1e4 to 1e6 at 32K)."""
        self.rope_base = base

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        embedded = self.embed_tokens(tokens)
        if self.shrinks_embedding_gradient:
            embedded = scale_gradient(embedded, self.embedding_gradient_shrink)
        if self.embed_positions is not None:
            self._require_pairs(positions)
            embedded = embedded + self.embed_positions[0](positions[:, 0]) + self.embed_positions[1](positions[:, 1])
        return F.dropout(embedded.to(self.compute_dtype), self.config.dropout, self.training)

    def _rotation(self, positions: Tensor) -> Rotation | None:
        kind = self.config.position.kind
        if kind == "learned_2d":
            return None
        if kind == "rotary_2d":
            self._require_pairs(positions)
        elif positions.dim() != 2:
            raise ValueError(
                f"model.position.kind {kind} takes positions (batch, length), got {tuple(positions.shape)}"
            )
        return rotation(positions, self.config.rotary_dim, self.rope_base, self.config.position.rope_layout)

    def _require_pairs(self, positions: Tensor) -> None:
        if positions.dim() != 3 or positions.shape[1] != 2:
            raise ValueError(
                f"model.position.kind {self.config.position.kind} takes positions (batch, 2, length), "
                f"got {tuple(positions.shape)}"
            )

    def _output_weight(self) -> Tensor:
        if self.lm_head is not None:
            return self.lm_head.weight.to(self.compute_dtype)
        weight = self.embed_tokens.weight
        if self.shrinks_embedding_gradient and self.config.shrink_logit_gradient:
            weight = scale_gradient(weight, self.embedding_gradient_shrink)
        return weight.to(self.compute_dtype)

    def _mtp_losses(
        self,
        hidden_states: Tensor,
        tokens: Tensor,
        positions: Tensor,
        document: Tensor | None,
        targets: Tensor,
        inputs: BlockInputs,
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        results = []
        for depth in range(1, self.config.mtp.depth + 1):
            layer = self.mtp[0] if self.config.mtp.shared else self.mtp[depth - 1]
            later_tokens, _ = shifted(tokens, document, depth)
            later_targets, valid = shifted(targets, document, depth)
            valid = valid & (later_targets >= 0)
            with learning(not inputs.frozen):
                embedded = self._embed(later_tokens, positions)
            hidden_states = layer(embedded, hidden_states, inputs)
            losses, _ = self._cross_entropy(hidden_states, torch.where(valid, later_targets, -1), inputs)
            results.append((losses, valid))
        return tuple(results)
