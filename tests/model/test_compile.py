"""torch.compile gives the losses and gradients that the uncompiled model gives, a layer at a time."""

import pytest
import torch
from torch import Tensor

from model.build import build_model
from model.config import AttentionConfig, ExpertsConfig, LatentConfig, ModelConfig, MtpConfig, NormConfig
from model.transformer import Transformer

DENSE = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_layers=2,
    residual="deepnorm",
    tie_embeddings=True,
    embedding_gradient_shrink=0.5,
    norm=NormConfig(kind="layer_norm"),
    attention=AttentionConfig(num_heads=2, head_dim=16, qkv_bias=True),
)
SPARSE = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_layers=2,
    attention=AttentionConfig(kind="latent", num_heads=2, latent=LatentConfig()),
    experts=ExpertsConfig(num_experts=8, top_k=2, inner_size=16, z_loss_weight=0.01),
    mtp=MtpConfig(depth=2),
)


def losses_and_gradients(model: Transformer, packed: bool) -> dict[str, Tensor]:
    """Of two rows of 32 tokens, plainly causal or two blank-infilling windows each."""
    tokens = torch.randint(0, 64, (2, 32), generator=torch.Generator().manual_seed(1))
    document = (torch.arange(32) // 16).expand(2, 32)
    places = (document, document * 16 + 8) if packed else (None, None)
    output = model(tokens, None, *places, tokens)
    assert output.losses is not None
    (output.losses.mean() + sum(losses.mean() for losses, _ in output.mtp_losses)).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return {"losses": output.losses.detach(), **found}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_compiled_layers_equal_uncompiled_ones(config: ModelConfig, backend: str) -> None:
    """aot_eager holds the traced graphs and their gradients to the model; inductor the generated code as well."""
    plain, compiled = build_model(config, seed=0), build_model(config, seed=0)
    for layer in [*compiled.layers, *compiled.mtp]:
        layer.compile(backend=backend)
    for packed in (False, True):
        expected, found = losses_and_gradients(plain, packed), losses_and_gradients(compiled, packed)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert (found[name] - value).abs().max() <= 1e-4 * value.abs().max() + 1e-7, name
