"""Reading a row in pieces through a cache gives what reading it whole gives."""

import dataclasses

import pytest
import torch
from torch import Tensor

from model.build import build_model
from model.config import (
    AttentionConfig,
    ExpertsConfig,
    FeedForwardConfig,
    IndexerConfig,
    LatentConfig,
    ModelConfig,
    PositionConfig,
)
from model.transformer import Transformer

LENGTH, TOP_K = 90, 7
LATENT = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_layers=2,
    position=PositionConfig(rope_base=1e4, rope_layout="interleaved"),
    attention=AttentionConfig(
        kind="latent",
        num_heads=3,
        latent=LatentConfig(q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=10),
        indexer=IndexerConfig(num_heads=8, head_dim=8, top_k=TOP_K),
    ),
    feed_forward=FeedForwardConfig(inner_size=48),
    experts=ExpertsConfig(num_experts=4, top_k=2, inner_size=16),
)
GROUPED = dataclasses.replace(
    LATENT,
    position=PositionConfig(rope_fraction=0.5),
    attention=AttentionConfig(num_heads=6, num_key_value_heads=2, head_dim=16, qkv_bias=True, qk_norm=True),
)
GLM_130B = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_layers=2,
    residual="deepnorm",
    tie_embeddings=True,
    position=PositionConfig(kind="rotary_2d"),
    attention=AttentionConfig(num_heads=2, head_dim=16, qkv_bias=True, output_bias=True),
    feed_forward=FeedForwardConfig(kind="geglu", inner_size=48, bias=True),
)
CONFIGURATIONS = {"latent": LATENT, "sparse": LATENT, "grouped": GROUPED, "glm130b": GLM_130B}


def randomised(name: str) -> Transformer:
    model = build_model(CONFIGURATIONS[name], seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    model.set_sparse_attention("sparse" if name == "sparse" else "off")
    return model.eval()


def inputs_of(name: str, context: int) -> dict[str, Tensor]:
    """Two rows of tokens, of which the first `context` all see each other."""
    generator = torch.Generator().manual_seed(3)
    inputs = {"tokens": torch.randint(64, (2, LENGTH), generator=generator)}
    inputs["positions"] = torch.arange(LENGTH).expand(2, -1)
    if name == "glm130b":
        inputs["positions"] = torch.randint(LENGTH, (2, 2, LENGTH), generator=generator)
    if context:
        inputs["document"] = torch.zeros(2, LENGTH, dtype=torch.int64)
        inputs["context_end"] = torch.full((2, LENGTH), context)
    return inputs


@torch.no_grad()
@pytest.mark.parametrize("context", [0, 30])
@pytest.mark.parametrize("pieces", [(75, *[1] * 15), (1, 64, 5, 20)], ids=["by-one", "uneven"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_row_read_in_pieces_is_the_row(name: str, pieces: tuple[int, ...], context: int) -> None:
    if context and pieces[0] < context:
        pytest.skip("the context is read in one piece")
    model, inputs = randomised(name), inputs_of(name, context)
    whole = model(**inputs).logits
    cache = model.new_cache()
    parts, start = [], 0
    for size in pieces:
        part = {key: value[..., start : start + size] for key, value in inputs.items()}
        if start:
            part = {key: part[key] for key in ("tokens", "positions")}
        parts.append(model(**part, cache=cache).logits)
        start += size
        assert cache.length == start
    assert whole.std() > 0.1
    assert (torch.cat(parts, dim=1) - whole).abs().max() < 1e-4


@torch.no_grad()
def test_positions_left_out_go_on() -> None:
    model, tokens = randomised("latent"), inputs_of("latent", 0)["tokens"]
    cache = model.new_cache()
    parts = [model(part, cache=cache).logits for part in tokens.split(30, dim=1)]
    assert (torch.cat(parts, dim=1) - model(tokens).logits).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(("name", "width"), [("latent", 16), ("sparse", 16 + 8), ("grouped", 2 * 2 * 16)])
def test_a_cache_holds_what_it_must(name: str, width: int) -> None:
    """The latent and the rotated key, the indexer's key beside them, or keys and values: float32, two layers."""
    model, cache = randomised(name), randomised(name).new_cache()
    model(inputs_of(name, 0)["tokens"], cache=cache)
    assert cache.nbytes() == 2 * LENGTH * width * 2 * 4
