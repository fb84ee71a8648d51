"""The mathematics of the indexer's loss beside a naive implementation and beside finite differences."""

import math

import pytest
import torch
from torch import Tensor

from model.indexer_loss import (
    divergence,
    divergence_and_gradient,
    index_scores,
    index_scores_backward,
    target_distribution,
)

QUERIES, KEYS, HEADS, WIDTH = 5, 7, 3, 4


def double(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks() -> dict[str, Tensor | None]:
    """No mask, a causal one, and one that leaves a query a single key."""
    causal = torch.ones(QUERIES, KEYS, dtype=torch.bool).triu(3)
    single = torch.ones(QUERIES, KEYS, dtype=torch.bool)
    single[torch.arange(QUERIES), torch.arange(QUERIES)] = False
    return {"none": None, "causal": causal, "single": single}


def targets(hidden: Tensor | None, seed: int) -> Tensor:
    attention = double(seed, QUERIES, HEADS, KEYS).exp()
    if hidden is not None:
        attention = attention.masked_fill(hidden.unsqueeze(1), 0.0)
    return target_distribution(attention)


def naive_divergence(target: Tensor, scores: Tensor, hidden: Tensor | None) -> list[float]:
    result = []
    for query in range(QUERIES):
        keys = [key for key in range(KEYS) if hidden is None or not hidden[query, key]]
        normaliser = math.log(sum(math.exp(scores[query, key]) for key in keys))
        terms = [
            float(target[query, key]) * (math.log(target[query, key]) - float(scores[query, key]) + normaliser)
            for key in keys
        ]
        result.append(sum(terms))
    return result


def test_scores_are_the_papers_sum() -> None:
    query, key, weights = double(0, QUERIES, HEADS, WIDTH), double(1, KEYS, WIDTH), double(2, QUERIES, HEADS)
    scores = index_scores(query @ key.T, weights)
    for t in range(QUERIES):
        for s in range(KEYS):
            expected = sum(
                float(weights[t, j]) * max(0.0, sum(float(query[t, j, d] * key[s, d]) for d in range(WIDTH)))
                for j in range(HEADS)
            )
            assert float(scores[t, s]) == pytest.approx(expected, abs=1e-12)


def test_the_target_sums_over_heads_and_divides_by_the_sum() -> None:
    attention = double(3, QUERIES, HEADS, KEYS).softmax(dim=-1)
    assert torch.allclose(target_distribution(attention), attention.mean(dim=1), atol=1e-15)
    assert torch.allclose(target_distribution(5 * attention).sum(-1), torch.ones(QUERIES, dtype=torch.float64))


@pytest.mark.parametrize("mask", ["none", "causal", "single"])
def test_the_divergence_is_the_naive_one(mask: str) -> None:
    hidden = masks()[mask]
    target, scores = targets(hidden, seed=4), double(5, QUERIES, KEYS)
    values = divergence(target, scores, hidden)
    assert values.tolist() == pytest.approx(naive_divergence(target, scores, hidden), abs=1e-12)
    assert (values >= -1e-12).all()
    if mask == "single":
        assert values.abs().max() < 1e-12


@pytest.mark.parametrize("mask", ["none", "causal"])
def test_the_divergence_is_zero_where_the_indexer_agrees_and_nowhere_else(mask: str) -> None:
    hidden = masks()[mask]
    target = targets(hidden, seed=6)
    agreeing = target.clamp(min=1e-300).log() + 3.0
    values, gradient = divergence_and_gradient(target, agreeing, hidden)
    assert values.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12
    assert (divergence(target, agreeing + double(7, QUERIES, KEYS), hidden)[2:] > 1e-3).all()


@pytest.mark.parametrize("mask", ["none", "causal", "single"])
def test_the_gradient_by_finite_differences(mask: str) -> None:
    hidden = masks()[mask]
    target, scores = targets(hidden, seed=8), double(9, QUERIES, KEYS)
    _, gradient = divergence_and_gradient(target, scores, hidden)
    step = 1e-6
    for query in range(QUERIES):
        for key in range(KEYS):
            change = torch.zeros_like(scores)
            change[query, key] = step
            up, down = (divergence(target, scores + sign * change, hidden).sum() for sign in (1, -1))
            assert float(gradient[query, key]) == pytest.approx(float((up - down) / (2 * step)), abs=1e-8)


@pytest.mark.parametrize("mask", ["none", "causal"])
def test_backward_of_the_whole_by_autograds_check(mask: str) -> None:
    """The written-out gradients, chained as sparse_attention.py chains them, in gradcheck's hands."""
    hidden = masks()[mask]
    target = targets(hidden, seed=10)

    class Whole(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, products: Tensor, weights: Tensor) -> Tensor:
            values, gradient = divergence_and_gradient(target, index_scores(products, weights), hidden)
            ctx.save_for_backward(*index_scores_backward(products, weights, gradient))  # type: ignore[attr-defined]
            return values.sum()

        @staticmethod
        def backward(ctx: object, *upstream: Tensor) -> tuple[Tensor, ...]:
            return tuple(part * upstream[0] for part in ctx.saved_tensors)  # type: ignore[attr-defined]

    products = double(11, QUERIES, HEADS, KEYS).requires_grad_()
    weights = double(12, QUERIES, HEADS).requires_grad_()
    assert torch.autograd.gradcheck(Whole.apply, (products, weights))
