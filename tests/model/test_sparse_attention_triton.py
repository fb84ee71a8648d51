"""The Triton kernels beside the reference: on a GPU where there is one, else in Triton's interpreter."""

import os

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

from model.indexer_loss import index_scores
from model.sparse_attention import reference_attend
from model.sparse_attention_triton import triton_attend, triton_index_scores

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter multiplies bfloat16 as if it were integers.
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16
SIZES = {
    # rows, queries, keys, heads, latent, rotated, selected
    "powers of two": (2, 9, 40, 16, 32, 16, 32),
    "nothing even": (2, 7, 41, 5, 20, 6, 37),
    "more heads than a block": (1, 5, 50, 35, 16, 16, 12),
    "a cache's single query": (3, 1, 33, 4, 24, 8, 33),
}


def inputs_of(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, int]:
    """Query, memory, selected keys (some queries see few, one of them a single key), width of the latent."""
    rows, queries, keys, heads, latent, rotated, selected = SIZES[name]
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(rows, queries, heads, latent + rotated, generator=generator)
    memory = torch.randn(rows, keys, latent + rotated, generator=generator)
    indices = torch.rand(rows, queries, keys, generator=generator).argsort(dim=-1)[..., :selected].int()
    counts = torch.randint(1, selected + 1, (rows, queries, 1), generator=generator)
    counts[0, 0], counts[-1, -1] = 1, selected
    indices = indices.masked_fill(torch.arange(selected) >= counts, -1)
    leaves = (query, memory)
    query, memory = (tensor.to(DEVICE, dtype).requires_grad_() for tensor in leaves)
    return query, memory, indices.to(DEVICE), latent


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=["float32", "half"])
@pytest.mark.parametrize("name", SIZES)
def test_output_distribution_and_gradients_are_the_references(name: str, dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    query, memory, indices, latent = inputs_of(name, dtype)
    upstream = torch.randn(*query.shape[:3], latent, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    results = []
    for attend, precision in ((triton_attend, dtype), (reference_attend, torch.float32)):
        leaves = [tensor.detach().to(precision).requires_grad_() for tensor in (query, memory)]
        output, distribution = attend(*leaves, indices, latent, 0.2)
        gradients = torch.autograd.grad(output, leaves, upstream.to(precision))
        results.append((output, distribution, *gradients))
    for ours, theirs in zip(*results, strict=True):
        assert (ours.float() - theirs).norm() < tolerance * theirs.norm()
    assert not results[0][1][indices < 0].any()


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=["float32", "half"])
@pytest.mark.parametrize(("queries", "keys", "heads", "width"), [(64, 128, 4, 32), (7, 70, 5, 20), (1, 3, 2, 16)])
def test_index_scores_are_the_references(queries: int, keys: int, heads: int, width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(2, queries, heads, width, generator=generator).to(DEVICE, dtype)
    key = torch.randn(2, keys, width, generator=generator).to(DEVICE, dtype)
    weights = torch.randn(2, queries, heads, generator=generator).to(DEVICE)
    products = query.float() @ key.float().transpose(1, 2).unsqueeze(1)
    expected = index_scores(products, weights)
    assert (triton_index_scores(query, key, weights) - expected).norm() < 1e-5 * expected.norm()
