"""The one description of a model: what a block is made of, and how large it is.

A family is a choice of parts, made here and nowhere else: GLM-130B (arXiv 2210.02414) is multi-head attention, GeGLU
and DeepNorm with tied embeddings; GLM-4.5 (2508.06471) is grouped-query attention, SwiGLU and sigmoid-routed experts
with pre-norm RMSNorm; GLM-5 (2602.15763) replaces its attention by multi-head latent attention. Every value that a
person may turn is a field; a wrong one is a `ValueError` that names it.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

DTYPE_NAMES = Literal["float32", "bfloat16", "float16"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class NormConfig:
    """The normalisation in front of (or behind) every sublayer and before the output."""

    kind: Literal["layer_norm", "rms_norm"] = "rms_norm"
    """layer_norm (weight and bias; GLM-130B) or rms_norm (weight only; GLM-4.5, GLM-5)."""
    eps: float = 1e-5
    """Added to the variance."""

    def __post_init__(self) -> None:
        _require(self.eps > 0, f"norm.eps must be positive, got {self.eps}")


@dataclass(frozen=True, kw_only=True)
class PositionConfig:
    """How a token's position reaches attention."""

    kind: Literal["rotary", "rotary_2d", "learned_2d"] = "rotary"
    """rotary: RoPE over one position; rotary_2d: half of the rotated dimensions for each of two positions (SAT's
    position_encoding_2d); learned_2d: two learned tables added to the embedding, no RoPE (GLM 2021)."""
    rope_base: float = 10000.0
    """RoPE's base θ."""
    rope_fraction: float = 1.0
    """Share of a head that is rotated, its first dimensions (GLM-4.5: 0.5). Latent attention has its own rope part."""
    rope_layout: Literal["half", "interleaved"] = "half"
    """Which dimensions make a pair: i and i + d/2 (half), or 2i and 2i + 1 (interleaved; GLM-5)."""

    def __post_init__(self) -> None:
        _require(self.rope_base > 1, f"position.rope_base must be above 1, got {self.rope_base}")
        _require(0 < self.rope_fraction <= 1, f"position.rope_fraction must be in (0, 1], got {self.rope_fraction}")


@dataclass(frozen=True, kw_only=True)
class IndexerConfig:
    """DeepSeek Sparse Attention's lightning indexer (arXiv 2512.02556, section 2.1), built when num_heads > 0."""

    num_heads: int = 0
    """Heads of the indexer; 0 builds none (GLM-5: 32)."""
    head_dim: int = 128
    """Width of an indexer head, of which the first qk_rope_head_dim dimensions are rotated."""
    top_k: int = 2048
    """Keys that a query keeps."""

    def __post_init__(self) -> None:
        _require(self.num_heads >= 0, f"attention.indexer.num_heads must not be negative, got {self.num_heads}")
        _require(self.head_dim > 0, f"attention.indexer.head_dim must be positive, got {self.head_dim}")
        _require(self.top_k > 0, f"attention.indexer.top_k must be positive, got {self.top_k}")


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Multi-head latent attention (MLA, arXiv 2405.04434 section 2.1). Read only when attention.kind is latent."""

    q_lora_rank: int = 64
    """Width of the query latent (GLM-5: 2048)."""
    kv_lora_rank: int = 32
    """Width of the key/value latent, which is what a cache holds (GLM-5: 512)."""
    qk_nope_head_dim: int = 24
    """Dimensions of a query/key head without position (GLM-5: 192)."""
    qk_rope_head_dim: int = 8
    """Dimensions of a query/key head with RoPE; the key's are shared by all heads (GLM-5: 64)."""
    v_head_dim: int = 32
    """Dimensions of a value head (GLM-5: 256)."""
    norm_eps: float = 1e-6
    """eps of the two norms on the latents."""

    def __post_init__(self) -> None:
        for name in ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
            _require(getattr(self, name) > 0, f"attention.latent.{name} must be positive, got {getattr(self, name)}")
        _require(self.qk_rope_head_dim % 2 == 0, "attention.latent.qk_rope_head_dim must be even: RoPE rotates pairs")


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Attention of one layer."""

    kind: Literal["multi_head", "latent"] = "multi_head"
    """multi_head (grouped-query when num_key_value_heads is lower) or latent (MLA)."""
    num_heads: int = 4
    """Query heads."""
    num_key_value_heads: int | None = None
    """Key/value heads of multi_head attention; null is as many as query heads."""
    head_dim: int = 32
    """Width of a multi_head head; latent attention has its own widths."""
    qkv_bias: bool = False
    """Bias on the query, key and value projections."""
    output_bias: bool = False
    """Bias on the output projection."""
    qk_norm: bool = False
    """RMSNorm over each query and key head before RoPE (GLM-4.5)."""
    dropout: float = 0.0
    """Dropout on attention weights. Above 0 in training, SDPA is used on every device: FlexAttention has none."""
    backend: Literal["auto", "sdpa", "flex", "blocked"] = "auto"
    """auto: FlexAttention on CUDA, blocked on the CPU (float32 and bfloat16; else SDPA), SDPA elsewhere."""
    latent: LatentConfig = field(default_factory=LatentConfig)
    """Widths of latent attention."""
    indexer: IndexerConfig = field(default_factory=IndexerConfig)
    """The sparse-attention indexer of latent attention."""

    def __post_init__(self) -> None:
        _require(self.num_heads > 0, f"attention.num_heads must be positive, got {self.num_heads}")
        _require(self.head_dim > 0, f"attention.head_dim must be positive, got {self.head_dim}")
        heads = self.key_value_heads
        _require(
            heads > 0 and self.num_heads % heads == 0,
            f"attention.num_key_value_heads ({heads}) must divide attention.num_heads ({self.num_heads})",
        )
        _require(0 <= self.dropout < 1, f"attention.dropout must be in [0, 1), got {self.dropout}")
        latent = self.kind == "latent"
        _require(not (latent and self.qk_norm), "attention.qk_norm needs attention.kind multi_head")
        _require(
            not latent or heads == self.num_heads,
            "attention.num_key_value_heads needs attention.kind multi_head: latent attention has one key for all",
        )

    @property
    def key_value_heads(self) -> int:
        return self.num_heads if self.num_key_value_heads is None else self.num_key_value_heads


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig:
    """The gated feed-forward of a dense layer."""

    kind: Literal["geglu", "swiglu"] = "swiglu"
    """The gate's activation: GELU (GLM-130B) or SiLU (GLM-4.5, GLM-5)."""
    inner_size: int = 512
    """Width of each of the two halves."""
    bias: bool = False
    """Biases on both projections."""
    gate: Literal["first", "second"] = "first"
    """Which half of the up-projection goes through the activation; SAT's GLM-130B takes the second."""

    def __post_init__(self) -> None:
        _require(self.inner_size > 0, f"feed_forward.inner_size must be positive, got {self.inner_size}")


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """The mixture of experts that replaces the feed-forward from layer `first_dense_layers` on; 0 experts is none."""

    num_experts: int = 0
    """Routed experts; 0 makes every layer dense."""
    top_k: int = 2
    """Routed experts a token."""
    inner_size: int = 128
    """Width of an expert (each half of its gated up-projection)."""
    num_shared: int = 1
    """Experts that see every token, built as one of num_shared times the width."""
    first_dense_layers: int = 1
    """Leading layers that keep the dense feed-forward."""
    num_groups: int = 1
    """Groups of experts among which the router chooses first; 1 is no groups."""
    top_k_groups: int = 1
    """Groups that a token may choose from."""
    scaling_factor: float = 1.0
    """Factor on the routed experts' normalised weights (GLM-5: 2.5)."""
    normalize_weights: bool = True
    """Divide the chosen experts' scores by their sum."""
    balance_loss_weight: float = 1e-4
    """Weight of the sequence balance loss."""
    z_loss_weight: float = 0.0
    """Weight of the router's z-loss, the mean of logsumexp(logits)²."""
    bias_update_rate: float = 1e-3
    """γ of the selection bias's update by the sign of the load error."""
    backend: Literal["auto", "grouped", "loop"] = "auto"
    """How the experts' products run: one grouped matmul, or a loop over experts (the reference). auto: on the CPU,
    one expert after the other from end to end; elsewhere grouped where widths (and, compiled, bfloat16) allow it."""

    def __post_init__(self) -> None:
        _require(self.num_experts >= 0, f"experts.num_experts must not be negative, got {self.num_experts}")
        if self.num_experts == 0:
            return
        for name in ("top_k", "inner_size", "num_groups", "top_k_groups"):
            _require(getattr(self, name) > 0, f"experts.{name} must be positive, got {getattr(self, name)}")
        for name in ("num_shared", "first_dense_layers", "balance_loss_weight", "z_loss_weight", "bias_update_rate"):
            _require(getattr(self, name) >= 0, f"experts.{name} must not be negative, got {getattr(self, name)}")
        _require(
            self.num_experts % self.num_groups == 0,
            f"experts.num_groups ({self.num_groups}) must divide experts.num_experts ({self.num_experts})",
        )
        _require(self.top_k_groups <= self.num_groups, "experts.top_k_groups must not exceed experts.num_groups")
        eligible = self.num_experts // self.num_groups * self.top_k_groups
        _require(self.top_k <= eligible, f"experts.top_k ({self.top_k}) exceeds the {eligible} experts to choose from")
        _require(
            self.num_groups == 1 or self.num_experts // self.num_groups >= 2,
            "experts.num_groups leaves groups of one expert; a group's score is the sum of its best two",
        )


@dataclass(frozen=True, kw_only=True)
class MtpConfig:
    """Multi-token prediction: layers behind the last one that predict the tokens after the next."""

    depth: int = 0
    """Further tokens predicted in training; 0 builds none (GLM-4.5: 1, GLM-5: 3)."""
    shared: bool = True
    """All depths share one layer's parameters (GLM-5); otherwise each has its own."""
    loss_weight: float = 0.3
    """λ of the summed-over-depths mean loss; the trainer applies it and may change it by stage."""

    def __post_init__(self) -> None:
        _require(self.depth >= 0, f"mtp.depth must not be negative, got {self.depth}")
        _require(self.loss_weight >= 0, f"mtp.loss_weight must not be negative, got {self.loss_weight}")

    @property
    def num_layers(self) -> int:
        """Layers with parameters of their own."""
        return min(self.depth, 1) if self.shared else self.depth


@dataclass(frozen=True, kw_only=True)
class InitialisationConfig:
    """Initial weights. DeepNorm brings its own gain for the feed-forward, value and output projections."""

    std: float | None = 0.02
    """Standard deviation of the rest; null is sqrt(1 / (3 hidden_size)), GLM-130B's 0.0052."""

    def __post_init__(self) -> None:
        _require(self.std is None or self.std > 0, f"initialisation.std must be positive or null, got {self.std}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model."""

    vocab_size: int = 0
    """Rows of the embedding; 0 is taken from the tokenizer by the trainer."""
    hidden_size: int = 128
    """Width of the hidden states."""
    num_layers: int = 4
    """Layers, without those of MTP."""
    max_positions: int = 2048
    """Longest row the model is meant for; learned position tables have this many rows plus one."""
    compute_dtype: DTYPE_NAMES = "float32"
    """Precision of the computation. Weights stay float32; norms, softmax, router and losses are computed in float32."""
    tie_embeddings: bool = False
    """The output projection is the embedding (GLM-130B)."""
    embedding_gradient_shrink: float = 1.0
    """α of GLM-130B's embedding gradient shrink: the embedding receives α times its gradient; 1 is off."""
    shrink_logit_gradient: bool = False
    """Shrink the tied embedding's gradient from the logits as well."""
    dropout: float = 0.0
    """Dropout on the embedding and on each sublayer's output."""
    residual: Literal["pre_norm", "deepnorm", "deepnet"] = "pre_norm"
    """pre_norm: x + f(norm(x)); deepnorm: post-norm norm(αx + f(x)) with GLM-130B's α = (2N)^½ and gain (2N)^-½;
    deepnet: the same with the DeepNet paper's decoder values (2N)^¼ and (8N)^-¼."""
    norm: NormConfig = field(default_factory=NormConfig)
    """Normalisation."""
    position: PositionConfig = field(default_factory=PositionConfig)
    """Positions."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """Attention."""
    feed_forward: FeedForwardConfig = field(default_factory=FeedForwardConfig)
    """Feed-forward of the dense layers."""
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    """Experts of the other layers."""
    mtp: MtpConfig = field(default_factory=MtpConfig)
    """Multi-token prediction."""
    initialisation: InitialisationConfig = field(default_factory=InitialisationConfig)
    """Initial weights."""

    def __post_init__(self) -> None:
        _require(self.vocab_size >= 0, f"model.vocab_size must not be negative, got {self.vocab_size}")
        for name in ("hidden_size", "num_layers", "max_positions"):
            _require(getattr(self, name) > 0, f"model.{name} must be positive, got {getattr(self, name)}")
        _require(0 <= self.dropout < 1, f"model.dropout must be in [0, 1), got {self.dropout}")
        _require(
            0 < self.embedding_gradient_shrink <= 1,
            f"model.embedding_gradient_shrink must be in (0, 1], got {self.embedding_gradient_shrink}",
        )
        _require(
            not self.shrink_logit_gradient or self.tie_embeddings,
            "model.shrink_logit_gradient needs model.tie_embeddings: an untied output has no embedding to shrink",
        )
        self._check_positions()
        latent = self.attention.kind == "latent"
        _require(latent or self.attention.indexer.num_heads == 0, "attention.indexer needs attention.kind latent")
        if latent and self.attention.indexer.num_heads:
            _require(
                self.attention.indexer.head_dim >= self.attention.latent.qk_rope_head_dim,
                "attention.indexer.head_dim must hold attention.latent.qk_rope_head_dim",
            )

    def _check_positions(self) -> None:
        if self.position.kind == "learned_2d":
            return
        rotated = self.rotary_dim
        pairs = 2 if self.position.kind == "rotary" else 4
        _require(
            rotated > 0 and rotated % pairs == 0,
            f"{rotated} rotated dimensions a head (rope_fraction of head_dim) must be a multiple of {pairs}",
        )

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that RoPE rotates."""
        if self.attention.kind == "latent":
            return self.attention.latent.qk_rope_head_dim
        return int(self.attention.head_dim * self.position.rope_fraction)

    @property
    def residual_alpha(self) -> float:
        """The residual's weight α, 1 for pre-norm (GLM-130B section 2.1; DeepNet, arXiv 2203.00555)."""
        return {
            "pre_norm": 1.0,
            "deepnorm": (2 * self.num_layers) ** 0.5,
            "deepnet": (2 * self.num_layers) ** 0.25,
        }[self.residual]

    @property
    def residual_gain(self) -> float | None:
        """Xavier gain of the feed-forward, value and output projections; None for plain normal initialisation."""
        return {
            "pre_norm": None,
            "deepnorm": (2 * self.num_layers) ** -0.5,
            "deepnet": (8 * self.num_layers) ** -0.25,
        }[self.residual]

    @property
    def initial_std(self) -> float:
        """Standard deviation of the initial weights that have no gain of their own."""
        std = self.initialisation.std
        return std if std is not None else float(1.0 / (3 * self.hidden_size)) ** 0.5

    def is_sparse_layer(self, index: int) -> bool:
        """Whether layer `index` has experts; MTP's layers, which follow the last, have them if any layer has."""
        return self.experts.num_experts > 0 and min(index, self.num_layers - 1) >= self.experts.first_dense_layers

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "ModelConfig":
        """Read what `dataclasses.asdict` wrote. An unknown key or a wrong type is a ValueError that names the key."""
        return _dataclass_from(cls, values, "model")


_T = TypeVar("_T")


def _dataclass_from(cls: type[_T], values: object, path: str) -> _T:
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: expected a mapping of fields, got {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise ValueError(f"{path}.{key}: no such field; the fields are {', '.join(names)}")
    return cls(**{name: _value(values[name], hints[name], f"{path}.{name}") for name in names if name in values})


def _value(value: object, kind: object, path: str) -> object:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_from(kind, value, path)
    origin = typing.get_origin(kind)
    if origin is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ValueError(f"{path}: expected one of {', '.join(map(str, choices))}, got {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):
        choices = typing.get_args(kind)
        if value is None and type(None) in choices:
            return None
        return _value(value, next(c for c in choices if c is not type(None)), path)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    assert isinstance(kind, type)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{path}: expected {kind.__name__}, got {value!r}")
    return value
