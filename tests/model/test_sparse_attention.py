"""Sparse attention by laws: what is chosen, what attends, and who learns from what in each of the three modes."""

import dataclasses

import pytest
import torch
from torch import Tensor

import model.sparse_attention as sparse
from model.attention_mask import boolean_mask, visible_ranges
from model.build import build_model
from model.config import (
    AttentionConfig,
    ExpertsConfig,
    FeedForwardConfig,
    IndexerConfig,
    LatentConfig,
    ModelConfig,
    MtpConfig,
    PositionConfig,
)
from model.indexer import IndexStates, indexer_losses, reset_indexer_losses
from model.indexer_loss import divergence, index_scores
from model.transformer import ModelOutput, Transformer

LENGTH, TOP_K = 40, 6
CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_layers=2,
    position=PositionConfig(rope_base=1e4, rope_layout="interleaved"),
    attention=AttentionConfig(
        kind="latent",
        num_heads=3,
        latent=LatentConfig(q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=10),
        indexer=IndexerConfig(num_heads=4, head_dim=8, top_k=TOP_K),
    ),
    feed_forward=FeedForwardConfig(inner_size=48),
    experts=ExpertsConfig(num_experts=4, top_k=2, inner_size=16),
    mtp=MtpConfig(depth=2),
)


def randomised(config: ModelConfig, seed: int) -> Transformer:
    model = build_model(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def with_top_k(top_k: int) -> ModelConfig:
    indexer = dataclasses.replace(CONFIG.attention.indexer, top_k=top_k)
    return dataclasses.replace(CONFIG, attention=dataclasses.replace(CONFIG.attention, indexer=indexer))


def tokens_of(seed: int, length: int = LENGTH) -> Tensor:
    return torch.randint(0, 64, (2, length), generator=torch.Generator().manual_seed(seed))


def rows_of(kind: str) -> dict[str, Tensor]:
    """Plainly causal rows, packed causal rows, and packed rows with contexts and padding."""
    if kind == "plain":
        return {}
    document = torch.tensor([[0] * 13 + [1] * 17 + [2] * 10, [0] * 5 + [1] * 30 + list(range(2, 7))])
    if kind == "packed":
        return {"document": document, "context_end": torch.zeros_like(document)}
    ends = torch.tensor([[7] * 13 + [25] * 17 + [30] * 10, [5] * 5 + [20] * 30 + [0] * 5])
    return {"document": document, "context_end": ends}


def ranges_of(kind: str) -> tuple[Tensor, Tensor]:
    if kind == "plain":
        place = torch.arange(LENGTH).unsqueeze(0)
        return torch.zeros_like(place), place + 1
    return visible_ranges(*rows_of(kind).values())


def visible_of(kind: str) -> Tensor:
    if kind == "plain":
        return torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril().expand(2, -1, -1)
    return boolean_mask(*rows_of(kind).values())


def states_of(seed: int, heads: int = 4, width: int = 8, length: int = LENGTH) -> IndexStates:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, length, heads, width), (2, length, width), (2, length, heads))
    query, key, weights = (torch.randn(shape, generator=generator) for shape in shapes)
    return IndexStates(query, key, weights)


def all_losses(output: ModelOutput) -> Tensor:
    assert output.losses is not None
    return torch.stack([output.losses.mean(), *(losses.mean() for losses, _ in output.mtp_losses)]).sum()


@pytest.fixture(autouse=True)
def few_queries_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sparse.BLOCK_ELEMENTS, "cpu", 3000)


# What is chosen


@pytest.mark.parametrize("kind", ["plain", "packed", "context"])
@pytest.mark.parametrize("top_k", [1, TOP_K, LENGTH, 3 * LENGTH])
def test_the_best_visible_keys_are_chosen_and_no_hidden_one(kind: str, top_k: int) -> None:
    states, visible = states_of(0), visible_of(kind)
    selected = sparse.select_keys(states, *ranges_of(kind), top_k)
    assert selected.shape == (2, LENGTH, min(top_k, LENGTH))
    products = (states.query.flatten(1, 2) @ states.key.transpose(1, 2)).unflatten(1, (LENGTH, -1))
    scores = index_scores(products, states.weights)
    for row in range(2):
        for query in range(LENGTH):
            seen = visible[row, query].nonzero().squeeze(1).tolist()
            # The reference: sort by score, the later of equals first.
            best = sorted(seen, key=lambda key: (float(scores[row, query, key]) + 0.0, key), reverse=True)[:top_k]
            chosen = selected[row, query].tolist()
            assert chosen == best + [-1] * (len(chosen) - len(best))


def test_of_equal_scores_the_latest_wins() -> None:
    states = states_of(1)
    states = IndexStates(states.query, torch.zeros_like(states.key), states.weights)
    selected = sparse.select_keys(states, *ranges_of("plain"), TOP_K)
    assert selected[0, 20].tolist() == [20, 19, 18, 17, 16, 15]


def test_a_negative_zero_is_equal_to_zero() -> None:
    ranked = sparse._ranked(torch.tensor([[0.0, -0.0, 0.0, -0.0, -1.0]]), 4)
    assert (ranked & 0xFFFFFFFF).tolist() == [[3, 2, 1, 0]]


def test_candidates_by_groups_are_the_plain_choice() -> None:
    """Rows long enough for the two-step search, many equal scores among them."""
    generator = torch.Generator().manual_seed(2)
    scores = torch.randint(-3, 4, (5, 997), generator=generator) / 2 * torch.rand(5, 1, generator=generator)
    ranked = sparse._ranked(scores, 7)
    assert sparse.GROUPED_FROM * 7 <= 997
    order = torch.tensor([sorted(range(997), key=lambda k: (row[k], k), reverse=True)[:7] for row in scores.tolist()])
    assert torch.equal(ranked & 0xFFFFFFFF, order)


# What attends


@pytest.mark.parametrize("kind", ["plain", "packed", "context"])
def test_attention_over_the_selected_is_masked_attention(kind: str) -> None:
    """Value and gradients in float64 beside a softmax over all keys in which the others are masked."""
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, LENGTH, 3, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(2, LENGTH, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, LENGTH, 3, 12, generator=generator, dtype=torch.float64)
    indices = sparse.select_keys(states_of(3), *ranges_of(kind), TOP_K)
    output, target = sparse.sparse_attend(query, memory, indices, 12, 0.3)
    ours = torch.autograd.grad((output * upstream).sum(), (query, memory))

    chosen = torch.zeros(2, LENGTH, LENGTH + 1).scatter(2, indices.long() % (LENGTH + 1), 1.0)[..., :LENGTH].bool()
    assert (chosen <= visible_of(kind)).all()
    scores = torch.einsum("bshd,btd->bsht", query, memory) * 0.3
    weights = scores.masked_fill(~chosen.unsqueeze(2), float("-inf")).softmax(dim=-1)
    expected = weights @ memory[:, None, :, :12]
    theirs = torch.autograd.grad((expected * upstream).sum(), (query, memory))
    assert (output - expected).abs().max() < 1e-6
    for our_gradient, their_gradient in zip(ours, theirs, strict=True):
        assert (our_gradient - their_gradient).abs().max() < 1e-5
    summed = weights.mean(dim=2).gather(2, indices.long().clamp(min=0)).where(indices >= 0, 0.0)
    assert (target - summed).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["plain", "packed", "context"])
def test_with_top_k_of_the_length_it_is_dense_attention(kind: str) -> None:
    model = randomised(with_top_k(LENGTH), seed=4)
    tokens = tokens_of(4)
    dense = all_losses(model(tokens, None, **rows_of(kind), targets=tokens))
    dense_gradients = torch.autograd.grad(dense, [p for n, p in model.named_parameters() if "indexer" not in n])
    model.set_sparse_attention("sparse", 0.0)
    chosen = all_losses(model(tokens, None, **rows_of(kind), targets=tokens))
    gradients = torch.autograd.grad(chosen, [p for n, p in model.named_parameters() if "indexer" not in n])
    assert float((chosen - dense).detach()) == pytest.approx(0, abs=1e-4)
    for ours, theirs in zip(gradients, dense_gradients, strict=True):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm() + 1e-6


def test_a_selected_few_is_not_dense_attention() -> None:
    model = randomised(CONFIG, seed=5).eval()
    dense = model(tokens_of(5)).logits
    model.set_sparse_attention("sparse")
    chosen = model(tokens_of(5)).logits
    assert (dense[:, :TOP_K] - chosen[:, :TOP_K]).abs().max() < 1e-4
    assert (dense[:, -1] - chosen[:, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("mode", ["warmup", "sparse"])
def test_the_size_of_blocks_changes_nothing(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for elements in (200, 3000, 1 << 20):
        monkeypatch.setitem(sparse.BLOCK_ELEMENTS, "cpu", elements)
        model = randomised(CONFIG, seed=13)
        model.set_sparse_attention(mode)  # type: ignore[arg-type]
        all_losses(model(tokens_of(13), None, **rows_of("context"), targets=tokens_of(13))).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        for ours, theirs in zip(gradients[0], other, strict=True):
            assert (ours - theirs).norm() <= 1e-4 * theirs.norm() + 1e-7


def test_bfloat16_is_near_float32() -> None:
    """The same weights, compared where rounding cannot change the choice: with all keys."""
    losses = []
    for dtype in ("float32", "bfloat16"):
        model = randomised(dataclasses.replace(with_top_k(LENGTH), compute_dtype=dtype, mtp=MtpConfig()), seed=14)
        model.set_sparse_attention("sparse")
        output = model(tokens_of(14), targets=tokens_of(14))
        output.losses.mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        losses.append((output.losses.mean().detach(), indexer_losses(model)))
    assert float(losses[1][0]) == pytest.approx(float(losses[0][0]), rel=0.02)
    assert torch.allclose(losses[1][1], losses[0][1], rtol=0.1)


# Who learns from what


@pytest.mark.parametrize("kind", ["plain", "context"])
def test_in_the_warm_up_only_the_indexers_learn_and_attention_is_dense(kind: str) -> None:
    model = randomised(CONFIG, seed=6)
    tokens = tokens_of(6)
    dense = model(tokens, None, **rows_of(kind), targets=tokens)
    model.set_sparse_attention("warmup")
    warmed = model(tokens, None, **rows_of(kind), targets=tokens)
    assert torch.allclose(dense.losses, warmed.losses, atol=1e-5)
    all_losses(warmed).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and parameter.grad.abs().max() > 0) == ("indexer" in name), name


def divergences_of(model: Transformer, tokens: Tensor, inputs: dict[str, Tensor]) -> float:
    """The sum of all indexers' KL as they record it."""
    reset_indexer_losses(model)
    model(tokens, None, **inputs, targets=tokens)
    assert len(indexer_losses(model)) == 3
    return float(sum(module.divergences[0] for module in model.modules() if hasattr(module, "divergences")))


@pytest.mark.parametrize("mode", ["warmup", "sparse"])
@pytest.mark.parametrize("kind", ["plain", "context"])
def test_the_indexers_gradient_is_that_of_the_recorded_loss(mode: str, kind: str) -> None:
    """By differences along the gradient itself, whose scale is auxiliary_scale times the loss's weight."""
    model = randomised(dataclasses.replace(CONFIG, mtp=MtpConfig(depth=1)), seed=7)
    model.set_sparse_attention(mode, 0.25)  # type: ignore[arg-type]
    tokens = tokens_of(7)
    output = model(tokens, None, **rows_of(kind), targets=tokens, auxiliary_scale=torch.tensor(0.5))
    all_losses(output).backward()
    # The last layer's indexer changes nothing but its own KL in the warm-up; in sparse mode MTP's layer is the last.
    block = model.mtp[0].block
    weights = dict(block.self_attn.indexer.named_parameters())
    total = sum(float(p.grad.square().sum()) for p in weights.values())
    before = {name: p.detach().clone() for name, p in weights.items()}
    # Small enough that no key enters or leaves the selected ones.
    step = 1e-4 / total**0.5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(before[name] + sign * step * parameter.grad)
        values.append(divergences_of(model, tokens, rows_of(kind)))
    slope = (values[0] - values[1]) / (2 * step)
    assert slope == pytest.approx(total / (0.5 * 0.25), rel=0.05)


def test_the_models_losses_send_nothing_to_the_indexer() -> None:
    model = randomised(CONFIG, seed=8)
    model.set_sparse_attention("sparse", 0.0)
    all_losses(model(tokens_of(8), targets=tokens_of(8))).backward()
    for name, parameter in model.named_parameters():
        zero = parameter.grad is None or not parameter.grad.any()
        assert zero == ("indexer" in name), name


def test_the_indexers_loss_sends_nothing_to_the_model() -> None:
    """The model's gradients are the same bits with the KL at any weight."""
    gradients = []
    for weight in (0.0, 100.0):
        model = randomised(CONFIG, seed=9)
        model.set_sparse_attention("sparse", weight)
        all_losses(model(tokens_of(9), targets=tokens_of(9))).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]) == ("indexer" not in name), name


def test_the_recorded_loss_is_the_mean_of_a_query() -> None:
    states, target = states_of(10), torch.rand(2, LENGTH, TOP_K)
    indices = sparse.select_keys(states, *ranges_of("plain"), TOP_K)
    target = (target * (indices >= 0)) / (target * (indices >= 0)).sum(-1, keepdim=True)
    products = (states.query.flatten(1, 2) @ states.key.transpose(1, 2)).unflatten(1, (LENGTH, -1))
    scores = index_scores(products, states.weights).gather(2, indices.long().clamp(min=0))
    expected = divergence(target, scores, indices < 0).sum()
    assert float(sparse.selected_divergence(states, indices, target)) == pytest.approx(float(expected), rel=1e-5)
    model = randomised(CONFIG, seed=10)
    assert indexer_losses(model).tolist() == [0.0, 0.0, 0.0]
    model.set_sparse_attention("sparse")
    once = (model(tokens_of(10), targets=tokens_of(10)), indexer_losses(model))[1]
    twice = (model(tokens_of(10), targets=tokens_of(10)), indexer_losses(model))[1]
    assert torch.allclose(once, twice)
    assert (once > 0.01).all()
    reset_indexer_losses(model)
    assert indexer_losses(model).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("mode", ["warmup", "sparse"])
def test_in_evaluation_every_indexer_weight_has_a_gradient_of_zero(mode: str) -> None:
    """A sharded process without rows takes part in the others' exchange of gradients."""
    model = randomised(CONFIG, seed=11).eval()
    model.set_sparse_attention(mode)  # type: ignore[arg-type]
    (all_losses(model(tokens_of(11), targets=tokens_of(11))) * 0.0).backward()
    learned = {name: p.grad for name, p in model.named_parameters() if "indexer" in name}
    assert all(gradient is not None and not gradient.any() for gradient in learned.values())
    assert indexer_losses(model).tolist() == [0.0, 0.0, 0.0]


def test_going_back_to_dense_attention_is_dense_attention() -> None:
    model = randomised(CONFIG, seed=12).eval()
    before = model(tokens_of(12)).logits
    model.set_sparse_attention("sparse")
    assert not torch.equal(model(tokens_of(12)).logits, before)
    model.set_sparse_attention("off")
    assert torch.equal(model(tokens_of(12)).logits, before)


def test_in_the_warm_up_inference_is_dense_attention_with_its_own_mask() -> None:
    model = randomised(CONFIG, seed=15).eval()
    with torch.no_grad():
        dense, backend = model(tokens_of(15)).logits, model.mask_backend(torch.device("cpu"))
        model.set_sparse_attention("warmup")
        assert model.mask_backend(torch.device("cpu")) == backend
        assert torch.equal(model(tokens_of(15)).logits, dense)


@pytest.mark.parametrize("mode", ["warmup", "sparse"])
def test_a_model_that_cannot_is_refused(mode: str) -> None:
    attention = dataclasses.replace(CONFIG.attention, indexer=IndexerConfig())
    with pytest.raises(ValueError, match=r"indexer\.num_heads"):
        build_model(dataclasses.replace(CONFIG, attention=attention)).set_sparse_attention(mode)  # type: ignore[arg-type]
    attention = dataclasses.replace(CONFIG.attention, dropout=0.1)
    with pytest.raises(ValueError, match=r"attention\.dropout"):
        build_model(dataclasses.replace(CONFIG, attention=attention)).set_sparse_attention(mode)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="loss weight"):
        build_model(CONFIG).set_sparse_attention(mode, -1.0)  # type: ignore[arg-type]
