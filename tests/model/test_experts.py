"""The router's load, the grouped products, and the losses that ride on them."""

import dataclasses

import pytest
import torch
from torch import Tensor

from model.build import build_model
from model.config import ExpertsConfig, ModelConfig, MtpConfig
from model.expert_by_expert import experts_in_turn
from model.experts import (
    GroupedExperts,
    MixtureOfExperts,
    Router,
    balance_loss,
    expert_counts,
    expert_matmul,
    routers,
    update_expert_bias,
)

EXPERTS = ExpertsConfig(num_experts=8, top_k=2, inner_size=16, balance_loss_weight=0.0)
CONFIG = ModelConfig(vocab_size=64, hidden_size=32, num_layers=3, experts=EXPERTS)
ONE = torch.tensor(1.0)


def changed(**values: object) -> ModelConfig:
    return dataclasses.replace(CONFIG, experts=dataclasses.replace(EXPERTS, **values))  # type: ignore[arg-type]


def initialised(module: torch.nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def skewed_tokens(generator: torch.Generator) -> Tensor:
    """Tokens around one direction, so that an untrained router sends most of them to the same experts."""
    return torch.ones(CONFIG.hidden_size) + 0.35 * torch.randn(2048, CONFIG.hidden_size, generator=generator)


def test_bias_updates_even_out_a_skewed_load() -> None:
    """At the published rate: every expert within 20 % of the mean, from one with more than three times the mean."""
    router = Router(CONFIG)
    initialised(router, scale=0.1)
    generator = torch.Generator().manual_seed(1)
    shares = []
    for _ in range(600):
        router(skewed_tokens(generator))
        counts = expert_counts(router)
        shares.append(counts[0] / counts.mean())
        update_expert_bias(router, counts, rate=1e-3)
    curve = {step: (float(shares[step].min()), float(shares[step].max())) for step in (0, 50, 100, 200, 300, 400, 599)}
    print("load over its mean, least and most:", {k: tuple(round(x, 2) for x in v) for k, v in curve.items()})
    assert curve[0][1] > 3
    last = torch.stack(shares[-20:])
    assert last.min() > 0.8
    assert last.max() < 1.2


def test_the_rule_is_the_sign_of_the_load_error() -> None:
    router = Router(CONFIG)
    load = torch.tensor([[9.0, 1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 2.0]])
    update_expert_bias(router, load, rate=0.5)
    assert router.e_score_correction_bias.tolist() == [-0.5, 0.5, 0, 0, 0, 0, 0, 0.5]
    update_expert_bias(router, 2 * load, rate=0.5)
    assert router.e_score_correction_bias.tolist() == [-1, 1, 0, 0, 0, 0, 0, 1]


def test_the_bias_chooses_and_does_not_weigh() -> None:
    router = Router(CONFIG).eval()
    initialised(router)
    tokens = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        router.e_score_correction_bias[3] = 10.0
        logits, weights, chosen = router(tokens)
    assert (chosen == 3).any(dim=1).all()
    scores = logits.sigmoid().gather(1, chosen)
    assert torch.allclose(weights, scores / scores.sum(dim=1, keepdim=True))


def test_counts_are_of_training_alone_and_include_mtp() -> None:
    model = build_model(dataclasses.replace(CONFIG, mtp=MtpConfig(depth=2)))
    tokens = torch.arange(12)[None]
    assert len(routers(model)) == 3
    model.eval()(tokens, targets=tokens)
    assert expert_counts(model).sum() == 0
    model.train()(tokens, targets=tokens)
    assert expert_counts(model).sum(dim=1).tolist() == [24, 24, 48]
    update_expert_bias(model, expert_counts(model), rate=0.1)
    assert expert_counts(model).sum() == 0
    assert model.layers[2].mlp.gate.e_score_correction_bias.abs().max() > 0
    assert not any("expert_counts" in name for name in model.state_dict())
    assert sum("e_score_correction_bias" in name for name in model.state_dict()) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_grouped_product_equals_the_loop_with_empty_experts(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([5, 0, 17, 0, 1, 9, 0, 0])
    rows = torch.randn(32, 24, generator=generator).to(dtype)
    matrices = torch.randn(8, 40, 24, generator=generator)
    upstream = torch.randn(32, 40, generator=generator).to(dtype)
    results = {}
    for backend in ("grouped", "loop"):
        inputs = rows.clone().requires_grad_(), matrices.clone().requires_grad_()
        product = expert_matmul(*inputs, counts, backend)  # type: ignore[arg-type]
        product.backward(upstream)
        results[backend] = product.detach(), inputs[0].grad, inputs[1].grad
    for grouped, loop in zip(results["grouped"], results["loop"], strict=True):
        assert grouped.dtype == loop.dtype
        tolerance = 1e-5 if dtype == torch.float32 else 0.02 * float(loop.abs().max())
        assert (grouped - loop).abs().max() <= tolerance
    assert (results["grouped"][2][counts == 0] == 0).all()


@pytest.mark.parametrize("backend", ["auto", "grouped", "loop"])
def test_experts_are_the_weighted_sum_of_the_chosen(backend: str) -> None:
    experts = GroupedExperts(changed(backend=backend))
    initialised(experts)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(20, 32, generator=generator)
    chosen = torch.stack([torch.randperm(5, generator=generator)[:2] for _ in range(20)])
    weights = torch.rand(20, 2, generator=generator)
    ours = experts(tokens, weights, chosen)
    for t in range(20):
        expected = torch.zeros(32)
        for k in range(2):
            gate, up = (experts.gate_up_proj[chosen[t, k]] @ tokens[t]).chunk(2)
            expected += weights[t, k] * (experts.down_proj[chosen[t, k]] @ (gate * gate.sigmoid() * up))
        assert (ours[t] - expected).abs().max() < 1e-5


def gradients(backend: str, dtype: torch.dtype) -> list[Tensor]:
    """The output for tokens that leave experts 5 to 7 empty, and its gradients by all that it is made of."""
    experts = GroupedExperts(changed(backend=backend))
    initialised(experts)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(40, 32, generator=generator).to(dtype).requires_grad_()
    chosen = torch.stack([torch.randperm(5, generator=generator)[:2] for _ in range(40)])
    weights = torch.rand(40, 2, generator=generator).requires_grad_()
    output = experts(tokens, weights, chosen)
    assert (output.grad_fn.name() == "_ExpertsInTurnBackward") == (backend == "auto")
    output.backward(torch.randn(40, 32, generator=generator).to(dtype))
    made_of = (tokens, weights, experts.gate_up_proj, experts.down_proj)
    return [output.detach(), *(tensor.grad for tensor in made_of if tensor.grad is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_experts_in_turn_equal_the_loop_and_repeat_bit_by_bit(dtype: torch.dtype) -> None:
    ours, again, loop = gradients("auto", dtype), gradients("auto", dtype), gradients("loop", dtype)
    assert len(ours) == len(loop) == 5
    for one, other, expected in zip(ours, again, loop, strict=True):
        assert one.dtype == expected.dtype
        assert torch.equal(one, other)
        tolerance = {torch.float32: 1e-6, torch.bfloat16: 0.02, torch.float16: 0.003}[dtype]
        assert (one - expected).abs().max() <= tolerance * expected.abs().max()
    assert (ours[3][5:] == 0).all()
    assert (ours[4][5:] == 0).all()
    assert ours[3][:5].flatten(1).any(dim=1).all()


def test_experts_in_turn_have_the_gradient_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen = torch.tensor([[0, 2], [2, 3], [3, 0], [2, 0], [0, 3]])
    order, counts = chosen.flatten().argsort(stable=True), chosen.flatten().bincount(minlength=4)
    shapes = (5, 6), (10,), (4, 8, 6), (4, 6, 4)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(lambda *made_of: experts_in_turn(*made_of, order, counts, 2), inputs)


def test_widths_that_the_grouped_product_refuses_take_the_loop() -> None:
    """Its strides must be multiples of 16 bytes."""
    generator = torch.Generator().manual_seed(0)
    rows, matrices = torch.randn(6, 6, generator=generator), torch.randn(2, 5, 6, generator=generator)
    product = expert_matmul(rows, matrices, torch.tensor([4, 2]), "auto")
    assert torch.allclose(product, torch.cat([rows[:4] @ matrices[0].T, rows[4:] @ matrices[1].T]))


def test_the_balance_loss_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 10, 8, generator=generator)
    chosen = logits.topk(2, dim=-1).indices
    for row in range(2):
        expected = 0.0
        for expert in range(8):
            count = int((chosen[row] == expert).sum())
            share = (
                sum(float(logits[row, t, expert].sigmoid() / logits[row, t].sigmoid().sum()) for t in range(10)) / 10
            )
            expected += 8 / (2 * 10) * count * share
        assert float(balance_loss(logits, chosen)[row]) == pytest.approx(expected, rel=1e-5)
    uniform = torch.zeros(1, 8, 8)
    assert float(balance_loss(uniform, torch.stack([torch.arange(8), torch.arange(8).roll(1)], -1)[None])) == 1.0


@pytest.mark.parametrize("which", ["balance_loss_weight", "z_loss_weight"])
def test_attached_losses_move_the_router_by_their_gradient(which: str) -> None:
    """The attached loss's gradient is that of adding it to the objective, times the scale, as sums over tokens."""
    tokens = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(0))
    layer = MixtureOfExperts(changed(**{which: 0.5}))
    initialised(layer)
    (layer(tokens, torch.tensor(0.25)) * 0).sum().backward()
    reference = MixtureOfExperts(CONFIG)
    initialised(reference)
    logits, _, chosen = reference.gate(tokens.flatten(0, 1))
    if which == "balance_loss_weight":
        loss = 10 * balance_loss(logits.unflatten(0, (2, 10)), chosen.unflatten(0, (2, 10))).sum()
    else:
        loss = logits.logsumexp(dim=-1).square().sum()
    (0.25 * 0.5 * loss).backward()
    assert (layer.gate.weight.grad - reference.gate.weight.grad).abs().max() < 1e-5
    assert reference.gate.weight.grad.abs().max() > 1e-3


def test_groups_limit_the_choice() -> None:
    router = Router(changed(num_groups=4, top_k_groups=1)).eval()
    initialised(router)
    _, _, chosen = router(torch.randn(40, 32, generator=torch.Generator().manual_seed(0)))
    groups = chosen // 2
    assert (groups[:, 0] == groups[:, 1]).all()
    assert len(groups.unique()) > 1
