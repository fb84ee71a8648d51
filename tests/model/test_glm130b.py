"""A GLM-130B block and model against NumPy in float64, written from the paper (arXiv 2210.02414, 2.1 and table 11)."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from model.attention_mask import AttentionMask, build
from model.block_inputs import BlockInputs
from model.build import build_model
from model.config import (
    AttentionConfig,
    FeedForwardConfig,
    InitialisationConfig,
    ModelConfig,
    NormConfig,
    PositionConfig,
)
from model.rope import rotation
from model.transformer import Transformer

Array = NDArray[np.float64]
CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=48,
    num_layers=3,
    tie_embeddings=True,
    residual="deepnorm",
    norm=NormConfig(kind="layer_norm"),
    attention=AttentionConfig(num_heads=3, head_dim=16, qkv_bias=True, output_bias=True),
    feed_forward=FeedForwardConfig(kind="geglu", inner_size=128, bias=True, gate="second"),
    initialisation=InitialisationConfig(std=None),
)
LENGTH = 14
# The spec's example: A..J with spans FGH and C, so that positions repeat and part A sees part A alone.
POSITIONS = np.array([0, 1, 2, 3, 4, 5, 6, 7, 5, 5, 5, 5, 2, 2])
CONTEXT_END = 8


def randomised(config: ModelConfig, seed: int) -> Transformer:
    model = build_model(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensor.copy_(around + 0.1 * torch.randn(tensor.shape, generator=generator))
    return model


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def rotated(x: Array, positions: NDArray[np.int64]) -> Array:
    """RoPE by complex numbers: dimensions (i, i + d/2) are the real and imaginary part of one number."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * 10000.0 ** (-2 * np.arange(half) / (2 * half))
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def reference_block(x: Array, w: dict[str, Array], layers: int, heads: int) -> Array:
    """One layer on (S, H): LN(αx + f(x)) with each LN written at the sublayer that follows it."""
    alpha = math.sqrt(2 * layers)
    normed = layer_norm(x, w["input_layernorm.weight"], w["input_layernorm.bias"])
    query, key, value = (
        normed @ w[f"self_attn.{p}_proj.weight"].T + w[f"self_attn.{p}_proj.bias"] for p in ("q", "k", "v")
    )
    width = query.shape[-1] // heads
    places = np.arange(len(x))
    seen = (places[None, :] < CONTEXT_END) | (places[None, :] <= places[:, None])
    contexts = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        q, k = rotated(query[:, part], POSITIONS), rotated(key[:, part], POSITIONS)
        scores = np.where(seen, q @ k.T / math.sqrt(width), -np.inf)
        contexts.append(softmax(scores) @ value[:, part])
    attended = np.concatenate(contexts, axis=-1) @ w["self_attn.o_proj.weight"].T + w["self_attn.o_proj.bias"]
    x = alpha * normed + attended
    normed = layer_norm(x, w["post_attention_layernorm.weight"], w["post_attention_layernorm.bias"])
    both = normed @ w["mlp.gate_up_proj.weight"].T + w["mlp.gate_up_proj.bias"]
    inner = both.shape[-1] // 2
    fed = (both[:, :inner] * gelu(both[:, inner:])) @ w["mlp.down_proj.weight"].T + w["mlp.down_proj.bias"]
    return alpha * normed + fed


def weights_of(module: torch.nn.Module) -> dict[str, Array]:
    return {name: tensor.detach().double().numpy() for name, tensor in module.named_parameters()}


def mask_of_example() -> AttentionMask:
    document = torch.zeros(1, LENGTH, dtype=torch.int32)
    return build(document, torch.full_like(document, CONTEXT_END), "sdpa")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_block_equals_the_reference(seed: int) -> None:
    model = randomised(CONFIG, seed)
    x = torch.randn(1, LENGTH, 48, generator=torch.Generator().manual_seed(seed))
    turning = rotation(torch.from_numpy(POSITIONS)[None], 16, 10000.0, "half")
    ours = model.layers[0](x, BlockInputs(turning, mask_of_example(), torch.tensor(1.0)))
    theirs = reference_block(x[0].double().numpy(), weights_of(model.layers[0]), layers=3, heads=3)
    assert np.abs(ours[0].detach().numpy() - theirs).max() < 1e-5


@pytest.mark.parametrize("seed", [0, 1])
def test_the_model_equals_the_reference(seed: int) -> None:
    model = randomised(CONFIG, seed)
    tokens = torch.randint(0, 64, (1, LENGTH), generator=torch.Generator().manual_seed(seed))
    document = torch.zeros(1, LENGTH, dtype=torch.int32)
    positions = torch.from_numpy(POSITIONS)[None]
    ours = model(tokens, positions, document, torch.full_like(document, CONTEXT_END)).logits
    w = weights_of(model)
    x = w["embed_tokens.weight"][tokens[0].numpy()]
    for layer in model.layers:
        x = reference_block(x, weights_of(layer), layers=3, heads=3)
    theirs = layer_norm(x, w["norm.weight"], w["norm.bias"]) @ w["embed_tokens.weight"].T
    assert np.abs(ours[0].detach().numpy() - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_the_halves_of_geglu_can_be_swapped() -> None:
    second = randomised(CONFIG, 0)
    first = build_model(
        dataclasses.replace(CONFIG, feed_forward=dataclasses.replace(CONFIG.feed_forward, gate="first"))
    )
    state = second.state_dict()
    for name in state:
        if "gate_up_proj" in name:
            state[name] = torch.cat(state[name].chunk(2)[::-1])
    first.load_state_dict(state)
    tokens = torch.arange(LENGTH)[None]
    assert torch.allclose(first(tokens).logits, second(tokens).logits, atol=1e-6)


def test_the_published_constants() -> None:
    """α = (2N)^½ = 11.832 and gain (2N)^-½ = 0.0845 for 70 layers; table 11's 0.0052 is sqrt(1 / (3 * 12288))."""
    path = Path(__file__).parents[2] / "configs" / "pretrain" / "glm-130b.yaml"
    config = ModelConfig.from_dict(yaml.safe_load(path.read_text(encoding="utf-8"))["model"])
    assert config.residual_alpha == pytest.approx(11.832, abs=5e-4)
    assert config.residual_gain == pytest.approx(0.0845, abs=5e-5)
    assert config.initialisation.std == pytest.approx(math.sqrt(1 / (3 * config.hidden_size)), abs=5e-5)
    assert config.rotary_dim == 128
    assert config.position.rope_base == 10000
    assert config.feed_forward.inner_size == config.hidden_size * 8 // 3
    deepnet = dataclasses.replace(config, residual="deepnet")
    assert deepnet.residual_alpha == pytest.approx(140**0.25)
    assert deepnet.residual_gain == pytest.approx(560**-0.25)


def test_rope_depends_on_the_distance_alone_and_keeps_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 16, generator=generator)
    products = []
    for place in (0, 5, 300):
        turning = [rotation(torch.tensor([[p]]), 16, 10000.0, "half") for p in (place + 3, place)]
        products.append(float((turning[0].apply(query) * turning[1].apply(key)).sum()))
        assert turning[0].apply(query).norm() == pytest.approx(float(query.norm()), rel=1e-5)
    assert products == pytest.approx([products[0]] * 3, abs=1e-4)


def test_two_dimensional_rope_turns_each_half_by_its_position() -> None:
    states = torch.randn(1, 1, 4, 16, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[[0, 1, 2, 2], [0, 0, 1, 2]]])
    both = rotation(positions, 16, 10000.0, "half").apply(states)
    for axis in range(2):
        half = slice(8 * axis, 8 * axis + 8)
        alone = rotation(positions[:, axis], 8, 10000.0, "half").apply(states[..., half])
        assert torch.allclose(both[..., half], alone)


@pytest.mark.parametrize("kind", ["rotary_2d", "learned_2d"])
def test_two_dimensional_models_read_both_positions(kind: str) -> None:
    config = dataclasses.replace(CONFIG, position=PositionConfig(kind=kind), max_positions=32)
    model = randomised(config, 0)
    tokens = torch.arange(LENGTH)[None]
    positions = torch.stack([torch.arange(LENGTH), torch.zeros(LENGTH, dtype=torch.int64)])[None]
    logits = model(tokens, positions).logits
    for axis in range(2):
        moved = positions.clone()
        moved[0, axis, LENGTH // 2] += 1
        assert (model(tokens, moved).logits - logits).abs().max() > 1e-4
    with pytest.raises(ValueError, match="takes positions"):
        model(tokens, positions[:, 0])
    with pytest.raises(ValueError, match="takes positions"):
        randomised(CONFIG, 0)(tokens, positions)
