"""The names of other people's checkpoints, in one table a family.

A row says which tensor of ours is which of theirs. Where theirs are several, ours is their concatenation along the
first dimension, in equal parts; where theirs have `{expert}`, ours is the stack over the experts. Shapes are written
with V vocabulary, H hidden, N heads, G key/value heads, D head width, F dense and I expert inner width, E experts;
q, c latent ranks; n, r, v widths of MLA's plain, rotated and value parts; J, j the indexer's heads and head width.

Hugging Face: transformers 5.23, `GlmMoeDsaForCausalLM` and `Glm4MoeForCausalLM`. SAT: `sat.model.official.GLM130B`.
"""

from dataclasses import dataclass

from model.config import ModelConfig


@dataclass(frozen=True)
class Row:
    """One tensor of ours."""

    ours: str
    theirs: tuple[str, ...]
    shape: str
    """Of one of theirs."""

    def within(self, ours: str, theirs: str) -> "Row":
        """The same row below two prefixes."""
        return Row(ours + self.ours, tuple(theirs + name for name in self.theirs), self.shape)


def _same(name: str, shape: str) -> Row:
    return Row(name, (name,), shape)


MODEL = (
    Row("embed_tokens.weight", ("model.embed_tokens.weight",), "[V, H]"),
    Row("norm.weight", ("model.norm.weight",), "[H]"),
)
OUTPUT = (_same("lm_head.weight", "[V, H]"),)
NORMS = (
    _same("input_layernorm.weight", "[H]"),
    _same("post_attention_layernorm.weight", "[H]"),
)
LATENT_ATTENTION = (
    _same("self_attn.q_a_proj.weight", "[q, H]"),
    _same("self_attn.q_a_layernorm.weight", "[q]"),
    _same("self_attn.q_b_proj.weight", "[N (n + r), q]"),
    _same("self_attn.kv_a_proj_with_mqa.weight", "[c + r, H]"),
    _same("self_attn.kv_a_layernorm.weight", "[c]"),
    _same("self_attn.kv_b_proj.weight", "[N (n + v), c]"),
    _same("self_attn.o_proj.weight", "[H, N v]"),
)
LATENT_BIASES = (
    _same("self_attn.q_a_proj.bias", "[q]"),
    _same("self_attn.kv_a_proj_with_mqa.bias", "[c + r]"),
    _same("self_attn.o_proj.bias", "[H]"),
)
INDEXER = (
    _same("self_attn.indexer.wq_b.weight", "[J j, q]"),
    _same("self_attn.indexer.wk.weight", "[j, H]"),
    _same("self_attn.indexer.k_norm.weight", "[j]"),
    _same("self_attn.indexer.k_norm.bias", "[j]"),
    _same("self_attn.indexer.weights_proj.weight", "[J, H]"),
)
GROUPED_ATTENTION = (
    _same("self_attn.q_proj.weight", "[N D, H]"),
    _same("self_attn.k_proj.weight", "[G D, H]"),
    _same("self_attn.v_proj.weight", "[G D, H]"),
    _same("self_attn.o_proj.weight", "[H, N D]"),
)
GROUPED_BIASES = (
    _same("self_attn.q_proj.bias", "[N D]"),
    _same("self_attn.k_proj.bias", "[G D]"),
    _same("self_attn.v_proj.bias", "[G D]"),
)
QK_NORMS = (
    _same("self_attn.q_norm.weight", "[D]"),
    _same("self_attn.k_norm.weight", "[D]"),
)
DENSE = (
    Row("mlp.gate_up_proj.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), "[F, H]"),
    _same("mlp.down_proj.weight", "[H, F]"),
)
EXPERTS = (
    _same("mlp.gate.weight", "[E, H]"),
    _same("mlp.gate.e_score_correction_bias", "[E]"),
    Row(
        "mlp.experts.gate_up_proj",
        ("mlp.experts.{expert}.gate_proj.weight", "mlp.experts.{expert}.up_proj.weight"),
        "[I, H]",
    ),
    Row("mlp.experts.down_proj", ("mlp.experts.{expert}.down_proj.weight",), "[H, I]"),
    Row(
        "mlp.shared_experts.gate_up_proj.weight",
        ("mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight"),
        "[I, H]",
    ),
    _same("mlp.shared_experts.down_proj.weight", "[H, I]"),
)
MTP = (
    _same("enorm.weight", "[H]"),
    _same("hnorm.weight", "[H]"),
    _same("eh_proj.weight", "[H, 2 H]"),
    Row("norm.weight", ("shared_head.norm.weight",), "[H]"),
)
MTP_COPIES = {"embed_tokens.weight": "embed_tokens.weight", "lm_head.weight": "shared_head.head.weight"}
"""Tensors of ours that released checkpoints hold once more in each MTP layer, under these names."""

SAT_MODEL = (
    Row("embed_tokens.weight", ("transformer.word_embeddings.weight",), "[V, H]"),
    Row("norm.weight", ("transformer.final_layernorm.weight",), "[H]"),
    Row("norm.bias", ("transformer.final_layernorm.bias",), "[H]"),
)
SAT_LAYER = (
    _same("input_layernorm.weight", "[H]"),
    _same("input_layernorm.bias", "[H]"),
    _same("post_attention_layernorm.weight", "[H]"),
    _same("post_attention_layernorm.bias", "[H]"),
    Row("self_attn.o_proj.weight", ("attention.dense.weight",), "[H, N D]"),
    Row("self_attn.o_proj.bias", ("attention.dense.bias",), "[H]"),
    Row("mlp.gate_up_proj.weight", ("mlp.dense_h_to_4h.weight",), "[2 F, H]"),
    Row("mlp.gate_up_proj.bias", ("mlp.dense_h_to_4h.bias",), "[2 F]"),
    Row("mlp.down_proj.weight", ("mlp.dense_4h_to_h.weight",), "[H, F]"),
    Row("mlp.down_proj.bias", ("mlp.dense_4h_to_h.bias",), "[H]"),
)
SAT_QUERY_KEY_VALUE = "attention.query_key_value"
"""[N (q, k, v) D, H] and its bias: each head's query, key and value rows one after the other; ours are three."""


def hugging_face_rows(config: ModelConfig) -> list[Row]:
    """The whole table of a GLM-4.5 or GLM-5 configuration, layer by layer, MTP's layers behind the last."""
    rows = [*MODEL, *(() if config.tie_embeddings else OUTPUT)]
    for index in range(config.num_layers):
        rows += [row.within(f"layers.{index}.", f"model.layers.{index}.") for row in _layer_rows(config, index)]
    for depth in range(config.mtp.num_layers):
        theirs = f"model.layers.{config.num_layers + depth}."
        rows += [row.within(f"mtp.{depth}.", theirs) for row in MTP]
        rows += [row.within(f"mtp.{depth}.block.", theirs) for row in _layer_rows(config, config.num_layers)]
    return rows


def mtp_copies(config: ModelConfig) -> dict[str, str]:
    """Their further names of the embedding and the output in MTP's layers, each with our tensor's name."""
    layers = range(config.num_layers, config.num_layers + config.mtp.num_layers)
    return {f"model.layers.{i}.{theirs}": ours for i in layers for ours, theirs in MTP_COPIES.items()}


def _layer_rows(config: ModelConfig, index: int) -> list[Row]:
    attention = config.attention
    rows = list(NORMS)
    if attention.kind == "latent":
        rows += LATENT_ATTENTION
        rows += LATENT_BIASES if attention.qkv_bias else ()
        rows += INDEXER if attention.indexer.num_heads else ()
    else:
        rows += GROUPED_ATTENTION
        rows += GROUPED_BIASES if attention.qkv_bias else ()
        rows += QK_NORMS if attention.qk_norm else ()
    return rows + list(EXPERTS if config.is_sparse_layer(index) else DENSE)
