"""Parameters and floating-point operations, counted from the configuration.

A product of an (m, k) and a (k, n) matrix is 2mkn operations; a backward pass is twice its forward pass. Attention is
counted by the pairs that its mask lets through, not by the square, and experts by those that a token visits, so that
MFU (model operations a second over the device's peak) is honest; recomputation is given apart, for HFU. Norms,
activations, softmax and the embedding's look-up are left out, as in PaLM's definition (arXiv 2204.02311, appendix B).
"""

from dataclasses import dataclass, replace

from model.block_inputs import SparseMode
from model.build import build_model
from model.config import ModelConfig

ANY_VOCABULARY = 128
"""Stands for a vocabulary that the tokenizer has yet to give."""


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters. The router's selection biases, which are no parameters, are left out."""

    body: int
    """Blocks and the last norm: no embedding, output or MTP."""
    body_active: int
    """Of `body`, what one token visits: top_k of the routed experts."""
    embeddings: int
    """Embedding, learned positions and, where it is its own, output projection."""
    mtp: int
    """MTP's layers."""
    mtp_active: int
    """Of `mtp`, what one token visits in one depth."""

    @property
    def total(self) -> int:
        """Without MTP, as models are usually named."""
        return self.body + self.embeddings

    @property
    def total_with_mtp(self) -> int:
        return self.total + self.mtp


@dataclass(frozen=True)
class Flops:
    """Operations a token of one training step."""

    forward: float
    """One forward pass, MTP included."""
    recomputed: float
    """The blocks once more, when all of them are recomputed in the backward pass."""
    backward: float
    """One backward pass: twice the forward pass but for what learns nothing (sparse attention's modes)."""

    @property
    def training(self) -> float:
        """Forward and backward: what MFU counts."""
        return self.forward + self.backward

    @property
    def training_with_recompute(self) -> float:
        """What the hardware does under full recomputation: what HFU counts."""
        return self.training + self.recomputed


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """Counts of the model as built on the meta device. A vocab_size of 0 counts no embedding of tokens."""
    built = config if config.vocab_size else replace(config, vocab_size=ANY_VOCABULARY)
    body = body_routed = embeddings = mtp = mtp_routed = 0
    for name, parameter in build_model(built, device="meta").named_parameters():
        size = parameter.numel()
        routed = size if ".experts." in name and "shared_experts" not in name else 0
        if name.startswith(("embed_tokens", "lm_head")):
            embeddings += size if config.vocab_size else 0
        elif name.startswith("embed_positions"):
            embeddings += size
        elif name.startswith("mtp."):
            mtp, mtp_routed = mtp + size, mtp_routed + routed
        else:
            body, body_routed = body + size, body_routed + routed
    share = config.experts.top_k / config.experts.num_experts if config.experts.num_experts else 1.0
    layers = max(config.mtp.num_layers, 1)
    return ParameterCounts(
        body=body,
        body_active=body - round(body_routed * (1 - share)),
        embeddings=embeddings,
        mtp=mtp,
        mtp_active=(mtp - round(mtp_routed * (1 - share))) // layers,
    )


def selected_keys(length: int, top_k: int) -> float:
    """Mean number of keys that the queries of a whole causal row attend to when each keeps at most `top_k`."""
    full = min(length, top_k)
    return (full * (full + 1) / 2 + (length - full) * full) / length


def flops_per_token(
    config: ModelConfig,
    visible_keys: float,
    scored_share: float = 1.0,
    sparse_mode: SparseMode = "off",
    kept_keys: float | None = None,
) -> Flops:
    """Operations a token.

    visible_keys: mean number of keys that a query sees, itself included: (S + 1) / 2 for whole causal rows of S, else
    `attention_mask.visible_pairs` over the row's length. scored_share: share of the positions whose logits are computed
    (only scored targets on the CPU, all of them elsewhere). sparse_mode: of `Transformer.set_sparse_attention`; for
    sparse, kept_keys is the mean number of keys that a query attends to (`selected_keys`; None: the smaller of top-k
    and visible_keys). The indexer's projections have no gradient to send on, its scores over all keys none at all
    when they only select; in the warm-up only the indexer has a backward pass.
    """
    kept = min(config.attention.indexer.top_k, visible_keys) if kept_keys is None else kept_keys
    output = 2.0 * config.hidden_size * config.vocab_size * scored_share
    projection = 2.0 * 2 * config.hidden_size**2
    model = config.mtp.depth * projection + output * (1 + config.mtp.depth)
    indexer_forward = indexer_backward = 0.0
    for index in [*range(config.num_layers), *[config.num_layers] * config.mtp.depth]:
        model += 2.0 * (_attention_matrices(config) + _feed_forward_matrices(config, index))
        model += _score_flops(config, visible_keys) if sparse_mode != "sparse" else _selected_flops(config, kept)
        forward, backward = _indexer_flops(config, visible_keys, kept, sparse_mode)
        indexer_forward, indexer_backward = indexer_forward + forward, indexer_backward + backward
    forward = model + indexer_forward
    return Flops(
        forward=forward,
        recomputed=forward - output * (1 + config.mtp.depth),
        backward=indexer_backward + (0.0 if sparse_mode == "warmup" else 2 * model),
    )


def _selected_flops(config: ModelConfig, kept_keys: float) -> float:
    """Scores and values from the latent, in the absorbed form: wider than expanded heads, over fewer keys."""
    latent = config.attention.latent
    return 2.0 * kept_keys * config.attention.num_heads * (2 * latent.kv_lora_rank + latent.qk_rope_head_dim)


def _indexer_flops(
    config: ModelConfig, visible_keys: float, kept_keys: float, sparse_mode: SparseMode
) -> tuple[float, float]:
    """Forward and backward operations of one layer's indexer."""
    if sparse_mode == "off":
        return 0.0, 0.0
    indexer, latent = config.attention.indexer, config.attention.latent
    width = indexer.num_heads * indexer.head_dim
    projections = 2.0 * (latent.q_lora_rank * width + config.hidden_size * (indexer.head_dim + indexer.num_heads))
    all_keys, kept = (2.0 * keys * (width + indexer.num_heads) for keys in (visible_keys, kept_keys))
    learned = all_keys if sparse_mode == "warmup" else kept
    forward = projections + all_keys + (kept if sparse_mode == "sparse" else 0.0)
    return forward, projections + 2 * learned


def _score_flops(config: ModelConfig, visible_keys: float) -> float:
    attention = config.attention
    if attention.kind == "latent":
        widths = attention.latent.qk_nope_head_dim + attention.latent.qk_rope_head_dim + attention.latent.v_head_dim
    else:
        widths = 2 * attention.head_dim
    return 2.0 * visible_keys * attention.num_heads * widths


def _attention_matrices(config: ModelConfig) -> int:
    """Weights of attention's products for one token; without the indexer's, which dense attention does not use."""
    hidden, attention, latent = config.hidden_size, config.attention, config.attention.latent
    if attention.kind == "multi_head":
        return 2 * hidden * attention.head_dim * (attention.num_heads + attention.key_value_heads)
    query = latent.q_lora_rank * (hidden + attention.num_heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim))
    down = hidden * (latent.kv_lora_rank + latent.qk_rope_head_dim)
    up = latent.kv_lora_rank * attention.num_heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    return query + down + up + attention.num_heads * latent.v_head_dim * hidden


def _feed_forward_matrices(config: ModelConfig, index: int) -> int:
    if not config.is_sparse_layer(index):
        return 3 * config.hidden_size * config.feed_forward.inner_size
    experts = config.experts
    visited = 3 * config.hidden_size * experts.inner_size * (experts.top_k + experts.num_shared)
    return visited + config.hidden_size * experts.num_experts
