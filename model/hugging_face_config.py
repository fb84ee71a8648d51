"""`config.json` of transformers' `glm_moe_dsa` and `glm4_moe`, from and to `ModelConfig`.

A configuration that those classes cannot hold is a ValueError that names the field. The GLM-130B family has no class
there: its `config.json` carries our own configuration, under the model_type `tiankong`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from model.config import (
    AttentionConfig,
    ExpertsConfig,
    FeedForwardConfig,
    IndexerConfig,
    InitialisationConfig,
    LatentConfig,
    ModelConfig,
    MtpConfig,
    NormConfig,
    PositionConfig,
)

ModelType = Literal["glm_moe_dsa", "glm4_moe", "tiankong"]
ARCHITECTURES: dict[ModelType, str] = {
    "glm_moe_dsa": "GlmMoeDsaForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "tiankong": "TiankongModel",
}
LATENT_NORM_EPS = 1e-6
"""transformers' own, not in its configuration."""


def model_type_of(config: ModelConfig) -> ModelType:
    """The transformers class that holds a configuration. ValueError where a GLM-4.5 or GLM-5 model departs from it."""
    if config.residual != "pre_norm":
        return "tiankong"
    latent = config.attention.kind == "latent"
    wanted: list[tuple[str, object, object]] = [
        ("norm.kind", config.norm.kind, "rms_norm"),
        ("position.kind", config.position.kind, "rotary"),
        ("position.rope_layout", config.position.rope_layout, "interleaved" if latent else "half"),
        ("feed_forward.kind", config.feed_forward.kind, "swiglu"),
        ("feed_forward.gate", config.feed_forward.gate, "first"),
        ("feed_forward.bias", config.feed_forward.bias, False),
        ("attention.output_bias", config.attention.output_bias, config.attention.qkv_bias if latent else False),
    ]
    if latent:
        wanted.append(("attention.latent.norm_eps", config.attention.latent.norm_eps, LATENT_NORM_EPS))
    if config.experts.num_experts:
        wanted.append(("experts.num_shared > 0", config.experts.num_shared > 0, True))
    for name, value, needed in wanted:
        if value != needed:
            raise ValueError(f"no transformers class holds this model: {name} is {value!r}, theirs is {needed!r}")
    return "glm_moe_dsa" if latent else "glm4_moe"


def to_hugging_face(config: ModelConfig, dtype: str = "float32") -> dict[str, object]:
    """The values of config.json. dtype is that of the weights on disk."""
    model_type = model_type_of(config)
    values: dict[str, object] = {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        "dtype": dtype,
    }
    if model_type == "tiankong":
        return values | {"tiankong": dataclasses.asdict(config)}
    values |= _shared_values(config)
    return values | (_latent_values(config) if model_type == "glm_moe_dsa" else _grouped_values(config))


def _shared_values(config: ModelConfig) -> dict[str, object]:
    experts = config.experts
    sparse = experts.num_experts > 0
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm.eps,
        "initializer_range": config.initial_std,
        "intermediate_size": config.feed_forward.inner_size,
        "num_attention_heads": config.attention.num_heads,
        "attention_bias": config.attention.qkv_bias,
        "attention_dropout": config.attention.dropout,
        "n_routed_experts": experts.num_experts if sparse else 1,
        "num_experts_per_tok": experts.top_k if sparse else 1,
        "moe_intermediate_size": experts.inner_size,
        "n_shared_experts": experts.num_shared,
        "first_k_dense_replace": min(experts.first_dense_layers, config.num_layers) if sparse else config.num_layers,
        "n_group": experts.num_groups,
        "topk_group": experts.top_k_groups,
        "routed_scaling_factor": experts.scaling_factor,
        "norm_topk_prob": experts.normalize_weights,
        "num_nextn_predict_layers": config.mtp.num_layers,
    }


def _latent_values(config: ModelConfig) -> dict[str, object]:
    """Without an indexer of ours, one of zeros stands in whose top-k is never exceeded: dense attention."""
    latent, indexer = config.attention.latent, config.attention.indexer
    return {
        "num_key_value_heads": config.attention.num_heads,
        "head_dim": latent.qk_rope_head_dim,
        "q_lora_rank": latent.q_lora_rank,
        "kv_lora_rank": latent.kv_lora_rank,
        "qk_nope_head_dim": latent.qk_nope_head_dim,
        "qk_rope_head_dim": latent.qk_rope_head_dim,
        "v_head_dim": latent.v_head_dim,
        "index_n_heads": indexer.num_heads or 1,
        "index_head_dim": indexer.head_dim if indexer.num_heads else latent.qk_rope_head_dim,
        "index_topk": indexer.top_k if indexer.num_heads else config.max_positions,
        "indexer_types": ["full"] * config.num_layers,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.position.rope_base},
    }


def _grouped_values(config: ModelConfig) -> dict[str, object]:
    return {
        "num_key_value_heads": config.attention.key_value_heads,
        "head_dim": config.attention.head_dim,
        "use_qk_norm": config.attention.qk_norm,
        "partial_rotary_factor": config.position.rope_fraction,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.position.rope_base,
            "partial_rotary_factor": config.position.rope_fraction,
        },
    }


class _Values:
    """config.json with typed look-ups whose errors name the key."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values

    def number(self, key: str, absent: float | None = None) -> float:
        value = self.values.get(key, absent)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"config.json: {key} should be a number, is {value!r}")
        return float(value)

    def integer(self, key: str) -> int:
        value = self.number(key)
        if not value.is_integer():
            raise ValueError(f"config.json: {key} should be a whole number, is {value!r}")
        return int(value)

    def flag(self, key: str, absent: bool = False) -> bool:
        value = self.values.get(key, absent)
        if not isinstance(value, bool):
            raise ValueError(f"config.json: {key} should be true or false, is {value!r}")
        return value


def from_hugging_face(values: Mapping[str, object]) -> ModelConfig:
    """Our configuration of a config.json. ValueError for another model, and for what we do not build (shared indexers,
    scaled RoPE, another activation)."""
    model_type = values.get("model_type")
    if model_type == "tiankong":
        ours = values.get("tiankong")
        if not isinstance(ours, Mapping):
            raise ValueError("config.json: lacks the configuration under the key tiankong")
        return ModelConfig.from_dict(ours)
    if model_type not in ("glm_moe_dsa", "glm4_moe"):
        raise ValueError(f"config.json: model_type is {model_type!r}, expected glm_moe_dsa, glm4_moe or tiankong")
    read = _Values(values)
    _require_supported(values)
    attention = _latent_attention(read) if model_type == "glm_moe_dsa" else _grouped_attention(read)
    return ModelConfig(
        vocab_size=read.integer("vocab_size"),
        hidden_size=read.integer("hidden_size"),
        num_layers=read.integer("num_hidden_layers"),
        max_positions=read.integer("max_position_embeddings"),
        compute_dtype=_compute_dtype(values),
        tie_embeddings=read.flag("tie_word_embeddings"),
        norm=NormConfig(kind="rms_norm", eps=read.number("rms_norm_eps")),
        position=_position(values, latent=model_type == "glm_moe_dsa"),
        attention=attention,
        feed_forward=FeedForwardConfig(inner_size=read.integer("intermediate_size")),
        experts=_experts(read),
        mtp=MtpConfig(depth=read.integer("num_nextn_predict_layers"), shared=False)
        if values.get("num_nextn_predict_layers")
        else MtpConfig(),
        initialisation=InitialisationConfig(std=read.number("initializer_range")),
    )


def _require_supported(values: Mapping[str, object]) -> None:
    if values.get("hidden_act", "silu") != "silu":
        raise ValueError(f"config.json: hidden_act is {values['hidden_act']!r}, expected silu")
    if values.get("rope_scaling") is not None:
        raise ValueError("config.json: rope_scaling is set, which is not built here")
    if _shares_indexers(values):
        raise ValueError("config.json: has shared indexers (indexer_types, index_topk_*), which are not built here")
    if values.get("indexer_rope_interleave", True) is not True:
        raise ValueError("config.json: indexer_rope_interleave is false; GLM-5's indexer is interleaved")


def _shares_indexers(values: Mapping[str, object]) -> bool:
    """Whether a layer takes another's keys. transformers derives `indexer_types` from further keys where it is left
    out: a pattern, or one layer in so many."""
    types = values.get("indexer_types") or values.get("index_topk_pattern")
    if isinstance(types, list | str):
        return "shared" in types or "S" in types
    read = _Values({"index_topk_freq": 1, "index_skip_topk_offset": 2, **values})
    every, offset = max(read.integer("index_topk_freq"), 1), read.integer("index_skip_topk_offset")
    return any(max(layer - offset + 1, 0) % every for layer in range(read.integer("num_hidden_layers")))


def _compute_dtype(values: Mapping[str, object]) -> Literal["float32", "bfloat16", "float16"]:
    name = values.get("dtype", values.get("torch_dtype", "float32"))
    if name == "bfloat16":
        return "bfloat16"
    return "float16" if name == "float16" else "float32"


def _position(values: Mapping[str, object], latent: bool) -> PositionConfig:
    """RoPE's values, from `rope_parameters` (transformers 5) or from the top level (released files)."""
    inner = values.get("rope_parameters")
    read = _Values({**values, **(inner if isinstance(inner, Mapping) else {})})
    if read.values.get("rope_type", "default") != "default":
        raise ValueError(f"config.json: rope_type is {read.values['rope_type']!r}, expected default")
    if latent:
        return PositionConfig(rope_base=read.number("rope_theta"), rope_layout="interleaved")
    fraction = read.number("partial_rotary_factor") if "partial_rotary_factor" in read.values else 0.5
    return PositionConfig(rope_base=read.number("rope_theta"), rope_fraction=fraction, rope_layout="half")


def _latent_attention(read: _Values) -> AttentionConfig:
    return AttentionConfig(
        kind="latent",
        num_heads=read.integer("num_attention_heads"),
        qkv_bias=read.flag("attention_bias"),
        output_bias=read.flag("attention_bias"),
        dropout=read.number("attention_dropout", absent=0.0),
        latent=LatentConfig(
            q_lora_rank=read.integer("q_lora_rank"),
            kv_lora_rank=read.integer("kv_lora_rank"),
            qk_nope_head_dim=read.integer("qk_nope_head_dim"),
            qk_rope_head_dim=read.integer("qk_rope_head_dim"),
            v_head_dim=read.integer("v_head_dim"),
            norm_eps=LATENT_NORM_EPS,
        ),
        indexer=IndexerConfig(
            num_heads=read.integer("index_n_heads"),
            head_dim=read.integer("index_head_dim"),
            top_k=read.integer("index_topk"),
        ),
    )


def _grouped_attention(read: _Values) -> AttentionConfig:
    return AttentionConfig(
        kind="multi_head",
        num_heads=read.integer("num_attention_heads"),
        num_key_value_heads=read.integer("num_key_value_heads"),
        head_dim=read.integer("head_dim"),
        qkv_bias=read.flag("attention_bias"),
        qk_norm=read.flag("use_qk_norm"),
        dropout=read.number("attention_dropout", absent=0.0),
    )


def _experts(read: _Values) -> ExpertsConfig:
    first_dense, layers = read.integer("first_k_dense_replace"), read.integer("num_hidden_layers")
    kinds = ["dense" if layer < first_dense else "sparse" for layer in range(layers)]
    if read.values.get("mlp_layer_types") not in (None, kinds):
        raise ValueError(
            f"config.json: mlp_layer_types is not first_k_dense_replace ({first_dense}) dense layers and sparse ones "
            "behind them, which is all that is built here"
        )
    if first_dense >= layers:
        return ExpertsConfig()
    return ExpertsConfig(
        num_experts=read.integer("n_routed_experts"),
        top_k=read.integer("num_experts_per_tok"),
        inner_size=read.integer("moe_intermediate_size"),
        num_shared=read.integer("n_shared_experts"),
        first_dense_layers=first_dense,
        num_groups=read.integer("n_group"),
        top_k_groups=read.integer("topk_group"),
        scaling_factor=read.number("routed_scaling_factor"),
        normalize_weights=read.flag("norm_topk_prob", absent=True),
    )
