"""The identities that act on gradients, and the embedding's shrunk gradient in the model."""

import dataclasses

import pytest
import torch

from model.attention_mask import build
from model.autograd import attach_loss, scale_gradient
from model.block_inputs import BlockInputs
from model.build import build_model
from model.config import ExpertsConfig, ModelConfig
from model.transformer import Transformer

CONFIG = ModelConfig(vocab_size=32, hidden_size=16, num_layers=2, tie_embeddings=True)


def embedding_gradient(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    model(tokens, targets=tokens.flip(1)).losses.mean().backward()
    gradient = model.embed_tokens.weight.grad
    assert gradient is not None
    return gradient.clone()


def test_a_scaled_gradient_leaves_the_value_exact() -> None:
    x = torch.randn(5, requires_grad=True)
    y = scale_gradient(x, torch.tensor(0.1))
    assert torch.equal(x, y)
    y.square().sum().backward()
    assert torch.allclose(x.grad, 0.2 * x.detach())


def test_an_attached_loss_gets_its_scale_wherever_the_gradient_comes_from() -> None:
    weight = torch.randn(4, requires_grad=True)
    hidden = torch.randn(3, 4, requires_grad=True)
    carried = attach_loss(hidden, weight.square().sum(), torch.tensor(0.5))
    assert torch.equal(carried, hidden)
    (carried * 7).sum().backward()
    assert torch.allclose(hidden.grad, torch.full((3, 4), 7.0))
    assert torch.allclose(weight.grad, weight.detach())


def test_the_shrink_is_that_of_the_paper() -> None:
    """αe + (1 - α) stopgrad(e): gradients of the input path times α; those of the logits whole, or shrunk as well."""
    tokens = torch.randint(0, 32, (2, 9), generator=torch.Generator().manual_seed(0))
    untied = dataclasses.replace(CONFIG, tie_embeddings=False)
    whole = build_model(untied, seed=1)
    parts = {}
    with torch.no_grad():
        whole.lm_head.weight.copy_(whole.embed_tokens.weight)
    parts["input"] = embedding_gradient(whole, tokens)
    parts["output"] = whole.lm_head.weight.grad.clone()
    for shrink, on_logits, expected in (
        (1.0, False, parts["input"] + parts["output"]),
        (0.1, False, 0.1 * parts["input"] + parts["output"]),
        (0.1, True, 0.1 * (parts["input"] + parts["output"])),
    ):
        config = dataclasses.replace(CONFIG, embedding_gradient_shrink=shrink, shrink_logit_gradient=on_logits)
        model = build_model(config, seed=1)
        assert torch.allclose(embedding_gradient(model, tokens), expected, atol=1e-7)
        model.set_embedding_gradient_shrink(1.0)
        assert torch.allclose(embedding_gradient(model, tokens), parts["input"] + parts["output"], atol=1e-7)


def test_a_shrink_can_begin_during_a_run() -> None:
    tokens = torch.randint(0, 32, (2, 9), generator=torch.Generator().manual_seed(0))
    started = build_model(CONFIG, seed=1)
    started.set_embedding_gradient_shrink(0.25)
    shrunk = build_model(dataclasses.replace(CONFIG, embedding_gradient_shrink=0.25), seed=1)
    assert torch.equal(embedding_gradient(started, tokens), embedding_gradient(shrunk, tokens))
    assert "embedding_gradient_shrink" not in started.state_dict()


def test_dropout_acts_in_training_alone() -> None:
    model = build_model(dataclasses.replace(CONFIG, dropout=0.5), seed=1)
    tokens = torch.arange(9)[None]
    assert not torch.equal(model(tokens).logits, model(tokens).logits)
    model.eval()
    assert torch.equal(model(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("sublayer", ["self_attn", "mlp"])
def test_dropout_acts_on_each_sublayer(sublayer: str) -> None:
    """The other sublayer gives nothing, so that what comes beside the residual is this one's output, dropped or
    scaled."""
    model = build_model(dataclasses.replace(CONFIG, dropout=0.5), seed=1)
    block = model.layers[0]
    other = {"self_attn": block.mlp.down_proj, "mlp": block.self_attn.o_proj}[sublayer]
    torch.nn.init.zeros_(other.weight)
    outputs = []
    getattr(block, sublayer).register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    hidden = torch.randn(1, 9, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0))
    inputs = BlockInputs(None, build(None, None, "sdpa"), torch.tensor(1.0))
    added = block(hidden, inputs) - hidden
    kept = added.abs() > 1e-9
    assert 0.3 < kept.float().mean() < 0.7
    assert torch.allclose(added[kept], 2 * outputs[0][kept], atol=1e-6)
    assert torch.allclose(block.eval()(hidden, inputs) - hidden, outputs[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["multi_head", "latent"])
def test_dropout_acts_on_attentions_weights(kind: str) -> None:
    """A first token sees itself alone: its value is dropped with its whole weight, or doubled."""
    attention = dataclasses.replace(CONFIG.attention, kind=kind, num_heads=64, dropout=0.5)  # type: ignore[arg-type]
    model = build_model(dataclasses.replace(CONFIG, attention=attention), seed=1)
    module, seen = model.layers[0].self_attn, []
    module.o_proj.register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0].unflatten(-1, (64, -1))[0, 0])
    )
    hidden = torch.randn(1, 3, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0))
    inputs = BlockInputs(None, build(None, None, "sdpa"), torch.tensor(1.0))
    module(hidden, inputs)
    module.eval()(hidden, inputs)
    dropped, whole = seen
    kept = dropped.abs().amax(dim=-1) > 0
    assert 0.3 < kept.float().mean() < 0.7
    assert torch.allclose(dropped[kept], 2 * whole[kept], atol=1e-6)


def test_auxiliary_losses_are_means_over_the_tokens_where_no_scale_is_given() -> None:
    experts = ExpertsConfig(num_experts=4, top_k=2, inner_size=8, balance_loss_weight=0.5)
    tokens = torch.randint(0, 32, (2, 9), generator=torch.Generator().manual_seed(0))
    gradients = []
    for scale in (None, torch.tensor(1 / 18)):
        model = build_model(dataclasses.replace(CONFIG, experts=experts), seed=1)
        model(tokens, targets=tokens, auxiliary_scale=scale).losses.mean().backward()
        gradients.append(model.layers[1].mlp.gate.weight.grad)
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_stay_float32_whatever_is_computed(dtype: str) -> None:
    model = build_model(dataclasses.replace(CONFIG, compute_dtype=dtype), seed=1)
    tokens = torch.arange(9)[None]
    output = model(tokens, targets=tokens)
    output.losses.mean().backward()
    assert output.losses.dtype == torch.float32
    assert model(tokens).logits.dtype == torch.float32
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in model.parameters())
    reference = build_model(CONFIG, seed=1)(tokens).logits
    assert (model(tokens).logits - reference).abs().max() < (1e-6 if dtype == "float32" else 0.05)
