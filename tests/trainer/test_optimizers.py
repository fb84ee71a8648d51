"""AdamW and Muon beside torch's own, Muon Split beside Muon on each head alone, and who updates what."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from model.build import build_model
from model.config import ModelConfig
from tests.tiny_run import EXPERTS_MODEL
from trainer.config import OptimizerConfig
from trainer.devices import BACK_ENDS
from trainer.gradients import clip_divisor, gradient_norms
from trainer.muon import orthogonalize, scaled_update
from trainer.optimizers import Optimizer, assign, freeze

HEAD_ROWS = {"q_b_proj": (16,), "kv_b_proj": (8, 16)}


def experts_model() -> nn.Module:
    return build_model(ModelConfig.from_dict({**EXPERTS_MODEL, "vocab_size": 128}), seed=1)


def test_adamw_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    config = OptimizerConfig(weight_decay=0.3)
    optimizer = Optimizer(ours, config, assign(ours, config))
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    plain = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": plain, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for step in range(5):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        for model in (ours, theirs):
            model(x).square().sum().backward()
        optimizer.step(1e-2)
        optimizer.zero_grad()
        reference.step()
        reference.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_divisor_of_gradients_is_torchs_clipping(name: str, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps with scaled gradients and a divisor, beside steps after clip_grad_norm_; also where AdamW is not fused."""
    if not fused:
        monkeypatch.setitem(BACK_ENDS, "cpu", dataclasses.replace(BACK_ENDS["cpu"], fused_adamw=False))
    torch.manual_seed(0)
    ours, theirs = (nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    config, loss_scale = OptimizerConfig(name=name), torch.tensor(64.0)
    optimizer, reference = (Optimizer(model, config, assign(model, config)) for model in (ours, theirs))
    clipped = []
    for step in range(4):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        for model, scale in ((ours, loss_scale), (theirs, torch.tensor(1.0))):
            (model(x).square().mean() * scale * (0.01 if step == 3 else 1.0)).backward()
        norm, _ = gradient_norms(ours, loss_scale)
        optimizer.step(1e-2, torch.tensor(1.0), clip_divisor(norm, 0.5, loss_scale))
        clipped.append(bool(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5) > 0.5))
        reference.step(1e-2)
        optimizer.zero_grad()
        reference.zero_grad()
    assert set(clipped) == {True, False}, "both kinds of steps should be here"
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_norm_of_millions_of_elements_is_exact_to_a_millionth() -> None:
    """And the parts' norms make up the whole's."""
    model = nn.ModuleDict({"self_attn": nn.Linear(1500, 2000, bias=False), "mlp": nn.Linear(1500, 10)})
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    norm, parts = gradient_norms(model, torch.tensor(4.0))
    exact = torch.stack([p.grad.double().square().sum() for p in model.parameters() if p.grad is not None])
    assert float(norm) == pytest.approx(float(exact.sum().sqrt()) / 4, rel=1e-6)
    assert float(parts["attention"]) == pytest.approx(float(exact[0].sqrt()) / 4, rel=1e-6)
    assert float(parts["feed_forward"]) == pytest.approx(float(exact[1:].sum().sqrt()) / 4, rel=1e-6)


def test_muon_is_torchs_on_a_matrix() -> None:
    """torch.optim.Muon computes in bfloat16, so its update is close to ours and not equal."""
    torch.manual_seed(0)
    ours, theirs = (nn.Linear(24, 16, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    config = OptimizerConfig(name="muon", weight_decay=0.1)
    optimizer = Optimizer(ours, config, assign(ours, config))
    reference = torch.optim.Muon(
        theirs.parameters(), lr=1e-2, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    before = ours.weight.detach().clone()
    for step in range(3):
        x = torch.randn(64, 24, generator=torch.Generator().manual_seed(step))
        for model in (ours, theirs):
            model(x).pow(3).sum().backward()
        optimizer.step(1e-2)
        optimizer.zero_grad()
        reference.step()
        reference.zero_grad()
    moved = (ours.weight - before).norm()
    assert (ours.weight - theirs.weight).norm() < 0.05 * moved


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (4, 16, 24)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3
    rms = scaled_update(matrices, 0.2).square().mean(dim=(-2, -1)).sqrt()
    assert ((rms > 0.14) & (rms < 0.25)).all()


def test_split_is_muon_on_each_head_alone() -> None:
    """Two heads of keys (8 rows) and values (16 rows), as MLA's kv_b_proj keeps them."""
    momentum = torch.randn(48, 20, generator=torch.Generator().manual_seed(3))
    split = scaled_update(momentum, 0.2, block_rows=(8, 16))
    alone = [scaled_update(block, 0.2) for block in momentum.split([8, 16, 8, 16])]
    torch.testing.assert_close(split, torch.cat(alone), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(split, scaled_update(momentum, 0.2), atol=1e-3), "the whole matrix gives the same"


def test_a_stack_of_experts_is_each_expert_alone() -> None:
    stack = torch.randn(3, 16, 10, generator=torch.Generator().manual_seed(4))
    together = scaled_update(stack, 0.2, block_rows=(8, 8))
    for index in range(3):
        alone = torch.cat([scaled_update(half, 0.2) for half in stack[index].chunk(2)])
        torch.testing.assert_close(together[index], alone, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="does not divide"):
        scaled_update(stack, 0.2, block_rows=(7,))


def test_who_updates_what() -> None:
    model = experts_model()
    config = OptimizerConfig(name="muon", muon_split_heads=True)
    rules = {one.name: one for one in assign(model, config, HEAD_ROWS)}
    assert rules.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "embed" in name or "lm_head" in name or ".gate.weight" in name:
            assert rules[name].rule == "adamw", name
        elif "q_b_proj" in name or "kv_b_proj" in name:
            assert rules[name].rule == "muon split", name
        else:
            assert rules[name].rule == "muon", name
        assert rules[name].decays == (parameter.ndim > 1), name
    whole = {one.name: one for one in assign(model, OptimizerConfig(name="muon"), HEAD_ROWS)}
    assert {one.rule for one in whole.values()} == {"adamw", "muon"}


def test_frozen_parameters_stay_and_a_pattern_must_match() -> None:
    model = experts_model()
    frozen = freeze(model, ["embed_tokens.*", "layers.0.*"])
    assert "embed_tokens.weight" in frozen
    names = {one.name for one in assign(model, OptimizerConfig())}
    assert not names & set(frozen)
    with pytest.raises(ValueError, match="matches no parameter"):
        freeze(model, ["embeding.*"])
    with pytest.raises(ValueError, match=r"frozen: \*.weight, \*_proj: leaves no parameter of this model to train"):
        freeze(model, ["*.weight", "*_proj"])
