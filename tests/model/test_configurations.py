"""The shipped configurations, the counts of published models, initial weights, and what a wrong value is told."""

import ast
import dataclasses
import math
import sys
from pathlib import Path

import pytest
import torch
import yaml

from model.block_inputs import SparseMode
from model.build import build_model
from model.config import (
    AttentionConfig,
    ExpertsConfig,
    IndexerConfig,
    LatentConfig,
    ModelConfig,
    MtpConfig,
    PositionConfig,
)
from model.flops import count_parameters, flops_per_token, selected_keys
from model.initialisation import initialise
from trainer.plan import plan, plan_lines

ROOT = Path(__file__).parents[2]
NAMES = (
    *("glm130b-tiny", "glm130b-10m", "glm130b-350m", "glm130b-1b", "glm-130b"),
    *("glm5-tiny", "glm5-30m-a10m", "glm5-1b-a200m", "glm-4.5-air", "glm-4.5", "glm-5"),
)


def configuration(name: str, vocab_size: int = 0) -> ModelConfig:
    text = (ROOT / "configs" / "pretrain" / f"{name}.yaml").read_text(encoding="utf-8")
    config = ModelConfig.from_dict(yaml.safe_load(text)["model"])
    return dataclasses.replace(config, vocab_size=config.vocab_size or vocab_size)


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_builds_on_the_meta_device_and_reads_back(name: str) -> None:
    config = configuration(name, vocab_size=32000)
    model = build_model(config, device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    assert ModelConfig.from_dict(yaml.safe_load(yaml.safe_dump(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("name", "count", "published"),
    [
        ("glm-130b", "total", 128.7),
        ("glm-5", "total", 743.9),
        ("glm-5", "total_with_mtp", 753.9),
        ("glm-5", "body_active", 39.9),
        ("glm-4.5", "total", 355),
        ("glm-4.5", "total_with_mtp", 355),
        ("glm-4.5-air", "total", 106),
    ],
)
def test_published_counts_within_one_per_cent(name: str, count: str, published: float) -> None:
    assert getattr(count_parameters(configuration(name)), count) / 1e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("name", "published"), [("glm-4.5", 32), ("glm-4.5-air", 12), ("glm-5", 40)])
def test_published_active_counts_to_the_printed_integer(name: str, published: int) -> None:
    assert round(count_parameters(configuration(name)).body_active / 1e9) == published


@pytest.mark.parametrize(
    ("name", "vocabulary", "millions", "active"),
    [
        ("glm130b-10m", 8192, 10, None),
        ("glm130b-350m", 32768, 340, None),
        ("glm130b-1b", 32768, 1070, None),
        ("glm5-30m-a10m", 8192, 33, 10),
        ("glm5-1b-a200m", 32768, 1087, 200),
    ],
)
def test_small_configurations_are_as_large_as_they_say(
    name: str, vocabulary: int, millions: int, active: int | None
) -> None:
    """Active: what a token visits, its output projection included."""
    config = configuration(name, vocabulary)
    counts = count_parameters(config)
    assert counts.total / 1e6 == pytest.approx(millions, rel=0.1)
    if active is not None:
        visited = counts.body_active + config.hidden_size * vocabulary
        assert visited / 1e6 == pytest.approx(active, rel=0.1)


@pytest.mark.parametrize("vocabulary", [0, 256])
def test_learned_positions_are_embeddings_and_no_blocks(vocabulary: int) -> None:
    rotary = configuration("glm130b-tiny", vocabulary)
    learned = dataclasses.replace(rotary, position=PositionConfig(kind="learned_2d"))
    theirs, ours = count_parameters(rotary), count_parameters(learned)
    tables = 2 * (learned.max_positions + 1) * learned.hidden_size
    assert ours == dataclasses.replace(theirs, embeddings=theirs.embeddings + tables)


def test_a_depth_of_mtp_visits_one_layer_shared_or_not() -> None:
    config = configuration("glm5-tiny", 256)
    one, two = (count_parameters(dataclasses.replace(config, mtp=MtpConfig(depth=2, shared=s))) for s in (True, False))
    assert two.mtp == 2 * one.mtp
    assert two.mtp_active == one.mtp_active < one.mtp


def test_the_plan_says_ours_and_theirs() -> None:
    figures = plan(configuration("glm-5"))
    lines = "\n".join(plan_lines(figures))
    for text in ("743.91", "743.9", "753.86", "753.9", "39.88", "39.9", "forward and backward"):
        assert text in lines
    assert "not counted" in "\n".join(plan_lines(plan(configuration("glm130b-tiny"))))


@pytest.mark.parametrize("name", ["glm130b-tiny", "glm5-tiny"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    """Experts by the loop, which its counter sees; attention by the whole square, which is what it counts."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = configuration(name, vocab_size=256)
    config = dataclasses.replace(config, experts=dataclasses.replace(config.experts, backend="loop"))
    model = build_model(config)
    tokens = torch.randint(0, 256, (1, 64))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output = model(tokens, targets=tokens)
    # The last position has no later target, but 63 scored tokens are projected as 64 (`losses.ROWS_MULTIPLE`).
    assert output.losses is not None
    ours = 64 * flops_per_token(config, visible_keys=64).forward
    assert counter.get_total_flops() == pytest.approx(ours, rel=1e-6)


@pytest.mark.parametrize("mode", ["warmup", "sparse"])
def test_operations_of_sparse_attention_are_those_that_torch_counts(mode: SparseMode) -> None:
    """Of the forward pass; the reference computes with all 24 places of a query's list and all 64 keys."""
    from torch.utils.flop_counter import FlopCounterMode

    config = configuration("glm5-tiny", vocab_size=256)
    indexer = IndexerConfig(num_heads=4, head_dim=16, top_k=24)
    attention = dataclasses.replace(config.attention, indexer=indexer)
    experts = dataclasses.replace(config.experts, backend="loop")
    config = dataclasses.replace(config, attention=attention, experts=experts)
    model = build_model(config)
    model.set_sparse_attention(mode)
    tokens = torch.randint(0, 256, (1, 64))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens, targets=tokens)
    ours = 64 * flops_per_token(config, visible_keys=64, sparse_mode=mode, kept_keys=24).forward
    assert counter.get_total_flops() == pytest.approx(ours, rel=1e-6)
    if mode == "warmup":
        with FlopCounterMode(display=False) as counter:
            output = model(tokens, targets=tokens)
            (output.losses.sum() + sum(losses.sum() for losses, _ in output.mtp_losses)).backward()
        # Head weights times the scores' gradient is a product of a column and a row, which torch does without counting.
        uncounted = 2 * 64 * indexer.num_heads * (config.num_layers + config.mtp.depth)
        training = flops_per_token(config, visible_keys=64, sparse_mode=mode).training - uncounted
        assert counter.get_total_flops() == pytest.approx(64 * training, rel=1e-6)


def test_operations_of_sparse_attention_grow_only_by_the_indexers() -> None:
    config = configuration("glm-5", 154880)
    assert selected_keys(10, 3) == (1 + 2 + 8 * 3) / 10
    assert selected_keys(10, 30) == 5.5
    indexer = config.attention.indexer
    long, short = (
        flops_per_token(config, (length + 1) / 2, sparse_mode="sparse", kept_keys=2048) for length in (131072, 65536)
    )
    pair = 2 * indexer.num_heads * (indexer.head_dim + 1) * (config.num_layers + config.mtp.depth)
    assert long.forward - short.forward == pytest.approx(32768 * pair)
    assert long.backward == short.backward
    dense = flops_per_token(config, 65536.5)
    assert long.training < dense.training / 2
    assert flops_per_token(config, 65536.5, sparse_mode="warmup").backward < dense.backward / 4


def test_operations_follow_the_mask_and_the_experts() -> None:
    config = configuration("glm5-tiny", 4096)
    half, whole = flops_per_token(config, 64), flops_per_token(config, 128)
    latent = config.attention.latent
    pair = 2 * config.attention.num_heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim + latent.v_head_dim)
    assert whole.forward - half.forward == 64 * pair * (config.num_layers + config.mtp.depth)
    assert whole.training == 3 * whole.forward
    assert whole.training_with_recompute - whole.training == whole.recomputed
    more = dataclasses.replace(config, experts=dataclasses.replace(config.experts, num_experts=16))
    # Recomputed is all but the output's products, MTP's among them.
    assert half.recomputed == flops_per_token(config, 64, scored_share=0.0).forward
    router_only = 2 * config.hidden_size * 8 * (config.num_layers - 1 + config.mtp.depth)
    assert flops_per_token(more, 64).forward - half.forward == router_only


def test_initial_weights_depend_on_the_seed_and_the_name_alone() -> None:
    config = configuration("glm5-tiny", 256)
    first, second, other = build_model(config, seed=1), build_model(config, seed=1), build_model(config, seed=2)
    for (name, one), two, three in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
        assert one.dim() == 1 or not torch.equal(one, three), name
    deeper = build_model(dataclasses.replace(config, num_layers=5), seed=1)
    assert torch.equal(first.layers[0].self_attn.o_proj.weight, deeper.layers[0].self_attn.o_proj.weight)
    emptied = build_model(config, device="meta").to_empty(device="cpu")
    initialise(emptied, config, seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), emptied.state_dict().values(), strict=True)
    )


def test_initial_spreads_are_the_papers() -> None:
    config = dataclasses.replace(configuration("glm130b-350m", 4096), num_layers=2)
    model = build_model(config)
    gain = (2 * 2) ** -0.5
    layer = model.layers[0]
    for module, fan in (
        (layer.self_attn.v_proj, 2 * 1024),
        (layer.self_attn.o_proj, 2 * 1024),
        (layer.mlp.gate_up_proj, 1024 + 2 * 2736),
        (layer.mlp.down_proj, 1024 + 2736),
    ):
        assert float(module.weight.detach().std()) == pytest.approx(gain * math.sqrt(2 / fan), rel=0.01)
        assert (module.bias == 0).all()
    for module in (layer.self_attn.q_proj, layer.self_attn.k_proj, model.embed_tokens):
        assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(1 / (3 * 1024)), rel=0.01)
    assert (layer.input_layernorm.weight == 1).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hiden_size": 3}, r"model\.hiden_size: no such field"),
        ({"norm": {"kind": "batch"}}, r"model\.norm\.kind: expected one of layer_norm, rms_norm"),
        ({"norm": {"eps": "small"}}, r"model\.norm\.eps: expected float"),
        ({"hidden_size": True}, r"model\.hidden_size: expected int"),
        ({"attention": 4}, r"model\.attention: expected a mapping"),
        ({"num_layers": 0}, r"model\.num_layers must be positive"),
        ({"attention": {"num_heads": 6, "num_key_value_heads": 4}}, "must divide"),
        ({"experts": {"num_experts": 4, "top_k": 5}}, r"experts\.top_k \(5\) exceeds"),
        ({"shrink_logit_gradient": True}, "needs model.tie_embeddings"),
        ({"attention": {"head_dim": 31}}, "multiple of 2"),
        ({"attention": {"indexer": {"num_heads": 2}}}, "needs attention.kind latent"),
        ({"attention": {"kind": "latent", "qk_norm": True}}, r"attention\.qk_norm needs attention\.kind multi_head"),
        ({"attention": {"kind": "latent", "num_key_value_heads": 2}}, "num_key_value_heads needs attention.kind multi"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict(values)


def test_a_model_without_a_vocabulary_is_not_built() -> None:
    with pytest.raises(ValueError, match="set it before building"):
        build_model(ModelConfig())


def test_defaults_of_nested_parts_are_used() -> None:
    config = ModelConfig.from_dict({"attention": {"kind": "latent", "latent": {"q_lora_rank": 8}}, "mtp": {"depth": 2}})
    assert config.attention == AttentionConfig(kind="latent", latent=LatentConfig(q_lora_rank=8))
    assert (config.mtp, config.experts, config.position) == (MtpConfig(depth=2), ExpertsConfig(), PositionConfig())


def test_the_room_imports_torch_and_safetensors_alone() -> None:
    """Triton beside them in the files named after it, which are read only where it is installed."""
    allowed = {"torch", "safetensors", "model", *sys.stdlib_module_names}
    for path in (ROOT / "model").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                kernel = path.stem.endswith("_triton")
                assert module.split(".")[0] in allowed | ({"triton"} if kernel else set()), f"{path.name}: {module}"
                assert kernel or not module.endswith("_triton"), f"{path.name} needs {module}"
