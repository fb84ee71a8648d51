"""The chunked cross entropy against the whole one, and MTP's targets."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from model.build import build_model
from model.config import ExpertsConfig, ModelConfig, MtpConfig
from model.losses import chunked_cross_entropy
from model.mtp import shifted

CONFIG = ModelConfig(vocab_size=50, hidden_size=32, num_layers=2, experts=ExpertsConfig(num_experts=4, inner_size=16))


@pytest.mark.parametrize("chunk", [1 << 20, 150, 1])
def test_chunks_give_the_whole_loss_and_its_gradients(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(2, 9, 16, generator=generator), torch.randn(50, 16, generator=generator)
    targets = torch.randint(0, 50, (2, 9), generator=generator)
    targets[0, 3:5] = -1
    upstream = torch.rand(2, 9, generator=generator)
    gradients = []
    for ours in (True, False):
        inputs = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
        if ours:
            losses, squares = chunked_cross_entropy(*inputs, targets, chunk_elements=chunk)
        else:
            logits = inputs[0] @ inputs[1].T
            losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=-1)
            squares = logits.logsumexp(dim=-1).square() * (targets >= 0)
        (losses * upstream + 0.1 * squares).sum().backward()
        gradients.append([losses.detach(), squares.detach(), *(tensor.grad for tensor in inputs)])
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() < 1e-4
    assert (gradients[0][0][0, 3:5] == 0).all()


def test_a_batch_without_a_target_gives_zero_and_a_zero_gradient() -> None:
    model = build_model(
        dataclasses.replace(CONFIG, experts=dataclasses.replace(CONFIG.experts, balance_loss_weight=0.0))
    )
    tokens = torch.arange(8)[None]
    output = model(tokens, targets=torch.full_like(tokens, -1))
    output.losses.sum().backward()
    assert (output.losses == 0).all()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())


def test_losses_are_the_cross_entropies_of_the_logits() -> None:
    model = build_model(CONFIG).eval()
    tokens = torch.randint(0, 50, (2, 11), generator=torch.Generator().manual_seed(0))
    expected = F.cross_entropy(model(tokens).logits.transpose(1, 2), tokens.flip(1), reduction="none")
    assert torch.allclose(model(tokens, targets=tokens.flip(1)).losses, expected, atol=1e-5)


def test_shifting_stops_at_documents_as_its_example_says() -> None:
    document = torch.tensor([[0, 0, 0, 1, 1]])
    values, valid = shifted(torch.tensor([[10, 11, 12, 13, 14]]), document, 1)
    assert values.tolist() == [[11, 12, 0, 14, 0]]
    assert valid.tolist() == [[True, True, False, True, False]]
    values, valid = shifted(torch.tensor([[10, 11, 12, 13, 14]]), None, 3)
    assert values.tolist() == [[13, 14, 0, 0, 0]]
    assert valid.tolist() == [[True, True, False, False, False]]
    assert not shifted(torch.zeros(1, 2, dtype=torch.int64), None, 2)[1].any()


@pytest.mark.parametrize("shared", [True, False])
def test_mtp_by_hand(shared: bool) -> None:
    """Two depths written out over one document: norms, projection, block and the shared output."""
    config = dataclasses.replace(CONFIG, mtp=MtpConfig(depth=2, shared=shared))
    model = build_model(config, seed=2).eval()
    tokens = torch.randint(0, 50, (1, 10), generator=torch.Generator().manual_seed(0))
    following = torch.randint(0, 50, (1, 1), generator=torch.Generator().manual_seed(1))
    targets = torch.cat((tokens[:, 1:], following), dim=1)
    captured = {}
    model.norm.register_forward_hook(lambda _module, _inputs, output: captured.update(hidden=output))
    layers = list(model.mtp)
    blocks = {}
    layers[0].block.register_forward_pre_hook(lambda _module, inputs: blocks.update(inputs=inputs[1]))
    output = model(tokens, targets=targets)
    hidden = captured["hidden"]
    for depth in (1, 2):
        layer = layers[0] if shared else layers[depth - 1]
        later = torch.cat((tokens[:, depth:], torch.zeros(1, depth, dtype=torch.int64)), dim=1)
        joined = torch.cat((layer.enorm(model.embed_tokens(later)), layer.hnorm(hidden)), dim=-1)
        hidden = layer.norm(layer.block(layer.eh_proj(joined), blocks["inputs"]))
        logits = model.lm_head(hidden)[:, : 10 - depth]
        expected = F.cross_entropy(logits.transpose(1, 2), targets[:, depth:], reduction="none")
        losses, valid = output.mtp_losses[depth - 1]
        assert valid.sum() == 10 - depth
        assert torch.allclose(losses[:, : 10 - depth], expected, atol=1e-5)
    assert len(model.mtp) == (1 if shared else 2)


def test_a_target_that_is_not_scored_is_none_of_mtps() -> None:
    model = build_model(dataclasses.replace(CONFIG, mtp=MtpConfig(depth=1)))
    tokens = torch.arange(8)[None]
    targets = (tokens + 1).clone()
    targets[0, 4] = -1
    ((_, valid),) = model(tokens, targets=targets).mtp_losses
    assert valid[0].tolist() == [True, True, True, False, True, True, True, False]
