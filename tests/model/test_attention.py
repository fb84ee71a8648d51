"""Every attention back end against softmax over the visible pairs, written out query by query in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import attend, backend_for
from model.attention_mask import Backend, build
from model.config import AttentionConfig

LENGTH, HEADS, GROUPS, WIDTH = 40, 4, 2, 16

DOCUMENTS = {
    "causal": ([(40, 0)], [(40, 0)]),
    "packed-causal": ([(11, 0), (20, 0), (9, 0)], [(40, 0)]),
    "blank-infilling": ([(40, 25)], [(40, 40)]),
    "packed-blank-infilling": ([(16, 10), (20, 12), *[(1, 0)] * 4], [(30, 1), (8, 8), (1, 0), (1, 0)]),
}


def batch_of(name: str) -> tuple[Tensor, Tensor]:
    """(document, context_end) of two rows, each a list of (length, context)."""
    document, context_end = torch.zeros(2, LENGTH, dtype=torch.int32), torch.zeros(2, LENGTH, dtype=torch.int32)
    for row, parts in enumerate(DOCUMENTS[name]):
        start = 0
        for number, (length, context) in enumerate(parts):
            document[row, start : start + length] = number
            context_end[row, start : start + length] = start + context
            start += length
        assert start == LENGTH
    return document, context_end


def pairwise(query: Tensor, key: Tensor, value: Tensor, document: Tensor, context_end: Tensor, scale: float) -> Tensor:
    """Each query over the keys that the rule names, one by one."""
    share = query.shape[1] // key.shape[1]
    rows = []
    for row in range(query.shape[0]):
        for head in range(query.shape[1]):
            for q in range(LENGTH):
                same = document[row] == document[row, q]
                places = torch.arange(LENGTH)
                seen = (same & ((places < context_end[row, q]) | (places <= q))).nonzero().squeeze(1)
                scores = (key[row, head // share, seen] * query[row, head, q]).sum(dim=-1) * scale
                rows.append(scores.softmax(dim=0) @ value[row, head // share, seen])
    return torch.stack(rows).view(query.shape[0], query.shape[1], LENGTH, -1)


def states(value_width: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, HEADS, LENGTH, WIDTH, generator=generator)
    key = torch.randn(2, groups, LENGTH, WIDTH, generator=generator)
    value = torch.randn(2, groups, LENGTH, value_width, generator=generator)
    return query, key, value


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("groups", [HEADS, GROUPS])
@pytest.mark.parametrize("value_width", [WIDTH, 32])
@pytest.mark.parametrize(("backend", "query_block"), [("sdpa", 128), ("blocked", 128), ("blocked", 16), ("blocked", 7)])
def test_back_ends_equal_the_rule_forward_and_backward(
    name: str, groups: int, value_width: int, backend: Backend, query_block: int
) -> None:
    document, context_end = batch_of(name)
    scale = 1 / math.sqrt(WIDTH)
    single = [tensor.requires_grad_() for tensor in states(value_width, groups)]
    double = [tensor.detach().double().requires_grad_() for tensor in single]
    ours = attend(*single, build(document, context_end, backend, query_block), scale)
    reference = pairwise(*double, document, context_end, scale)
    assert (ours - reference).abs().max() < 1e-5
    weights = torch.randn(reference.shape, generator=torch.Generator().manual_seed(1))
    (ours * weights).sum().backward()
    (reference * weights).sum().backward()
    for ours_in, reference_in in zip(single, double, strict=True):
        assert (ours_in.grad - reference_in.grad).abs().max() < 1e-5


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("groups", [HEADS, GROUPS])
def test_flex_equals_the_rule_forward(name: str, groups: int) -> None:
    """Its backward pass exists on CUDA alone."""
    document, context_end = batch_of(name)
    query, key, value = states(WIDTH, groups)
    ours = attend(query, key, value, build(document, context_end, "flex"), 0.25)
    reference = pairwise(query.double(), key.double(), value.double(), document, context_end, 0.25)
    assert (ours - reference).abs().max() < 1e-5


@pytest.mark.parametrize("backend", ["sdpa", "flex", "blocked"])
def test_the_fast_causal_path_equals_the_rule(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.attention.QUERY_BLOCK", 16)
    document, context_end = batch_of("causal")
    document[:], context_end[:] = 0, 0
    query, key, value = states(WIDTH, HEADS)
    ours = attend(query, key, value, build(None, None, backend), 0.25)
    reference = pairwise(query.double(), key.double(), value.double(), document, context_end, 0.25)
    assert (ours - reference).abs().max() < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's backward pass needs a GPU")
@pytest.mark.parametrize("name", DOCUMENTS)
def test_flex_equals_sdpa_backward_on_a_gpu(name: str) -> None:
    document, context_end = (tensor.cuda() for tensor in batch_of(name))
    gradients = {}
    for backend in ("sdpa", "flex"):
        inputs = [tensor.cuda().requires_grad_() for tensor in states(WIDTH, GROUPS)]
        attend(*inputs, build(document, context_end, backend), 0.25).square().sum().backward()
        gradients[backend] = [tensor.grad for tensor in inputs]
    for one, other in zip(gradients["sdpa"], gradients["flex"], strict=True):
        assert (one - other).abs().max() < 1e-4


def test_the_back_end_follows_the_device_and_dropout() -> None:
    assert backend_for(AttentionConfig(), torch.device("cpu")) == "blocked"
    assert backend_for(AttentionConfig(), torch.device("meta")) == "sdpa"
    assert backend_for(AttentionConfig(), torch.device("cuda")) == "flex"
    assert backend_for(AttentionConfig(dropout=0.1), torch.device("cuda")) == "sdpa"
    assert backend_for(AttentionConfig(backend="flex"), torch.device("cpu")) == "flex"
    document, context_end = batch_of("causal")
    with pytest.raises(ValueError, match=r"attention\.backend to sdpa"):
        attend(*states(WIDTH, HEADS), build(document, context_end, "flex"), 0.25, dropout=0.1)
    with pytest.raises(ValueError, match=r"attention\.backend at auto"):
        attend(*(part.requires_grad_() for part in states(WIDTH, HEADS)), build(document, context_end, "flex"), 0.25)


def rounded_results(name: str, backend: Backend, dtype: torch.dtype, scale: float, query_block: int) -> list[Tensor]:
    """Values and gradients, in float64, of states that were rounded to bfloat16 and are computed in `dtype`."""
    document, context_end = batch_of(name)
    inputs = [tensor.bfloat16().to(dtype, copy=True).requires_grad_() for tensor in states(WIDTH, HEADS)]
    upstream = states(WIDTH, HEADS)[0].flip(0).bfloat16()
    output = attend(*inputs, build(document, context_end, backend, query_block), scale)
    assert output.dtype == dtype
    output.backward(upstream.to(dtype))
    return [output.detach().double(), *(tensor.grad.double() for tensor in inputs if tensor.grad is not None)]


@pytest.mark.parametrize("name", ["causal", "packed-blank-infilling"])
def test_bfloat16_in_blocks_is_no_farther_from_the_truth_than_torchs_kernel(name: str) -> None:
    """Values and gradients of rounded states, beside the same states in float64."""
    truth = rounded_results(name, "sdpa", torch.float64, WIDTH**-0.5, 128)
    kernel, blocked = (rounded_results(name, b, torch.bfloat16, WIDTH**-0.5, 128) for b in ("sdpa", "blocked"))
    assert len(truth) == len(blocked) == 4
    for exact, theirs, ours in zip(truth, kernel, blocked, strict=True):
        assert (ours - exact).norm() <= 1.05 * (theirs - exact).norm()
        assert (ours - exact).abs().max() <= 2**-8 * exact.abs().max()


@pytest.mark.parametrize("whole_share", [0.0, 2.0], ids=["torch's-forward", "forward-in-blocks"])
@pytest.mark.parametrize("query_block", [128, 16])
@pytest.mark.parametrize("scale", [0.25, 0.3])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_bfloat16_gradients_are_nearer_to_the_truth_than_those_of_torchs_kernel(
    name: str, scale: float, query_block: int, whole_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For both ways forward, and for a scale that is a power of two and one that is not."""
    monkeypatch.setattr("model.blocked_attention.WHOLE_SHARE", whole_share)
    mkldnn: Any = torch.backends.mkldnn
    before = mkldnn.matmul.fp32_precision
    truth = rounded_results(name, "sdpa", torch.float64, scale, query_block)
    kernel = rounded_results(name, "sdpa", torch.bfloat16, scale, query_block)
    blocked = rounded_results(name, "blocked", torch.bfloat16, scale, query_block)
    output, *gradients = (
        (ours - exact).norm() / (theirs - exact).norm()
        for exact, theirs, ours in zip(truth, kernel, blocked, strict=True)
    )
    assert output <= 1.05
    assert max(gradients) < 1
    assert mkldnn.matmul.fp32_precision == before
