"""The routed experts on the CPU: one expert after the other, forward and backward, each in the cache from end to end.

A product over all experts at once reads and writes matrices of every (token, expert) pair between its steps, and much
of its time goes to memory touched for the first time: in a training step of 1,024 tokens with 8 of 32 experts, 80,000
page faults. Here an expert's rows are gathered, projected, activated and projected back before the next expert's turn,
and only the first product is kept for the backward pass (2 I values a pair, where autograd would keep H + 5 I). A
token's experts are summed in the order of its choices, so that a repeated run gives the same bits.

Shapes: T tokens, H hidden, E experts, K experts a token, I an expert's width, P = T * K pairs sorted by expert.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.compiler.disable
def experts_in_turn(
    hidden_TH: Tensor,
    weights_P: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    order_P: Tensor,
    counts_E: Tensor,
    top_k: int,
) -> Tensor:
    """The weighted sum of each token's experts, (T, H).

    weights_P: a pair's weight, in the dtype of the hidden states. gate_up_proj (E, 2 I, H), down_proj (E, H, I).
    order_P: the pairs (token * K + choice) sorted by expert, `counts_E` of each. Differentiable once. torch.compile
    steps over it: its shapes hang on the router's choices.
    """
    result: Tensor = _ExpertsInTurn.apply(
        hidden_TH, weights_P, gate_up_proj, down_proj, order_P, counts_E.tolist(), top_k
    )
    return result


def _spans(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Each expert and its pairs."""
    start = 0
    for expert, count in enumerate(counts):
        yield expert, slice(start, start + count)
        start += count


def _summed(rows_PH: Tensor, places_TK: Tensor) -> Tensor:
    """Each token's rows added up, in the order of its choices and without a copy of them."""
    return F.embedding_bag(places_TK, rows_PH, mode="sum")


def _product_into(result: Tensor, left: Tensor, right: Tensor) -> None:
    """left @ right in their dtype, written to `result`, which may be float32 where they are not."""
    if result.dtype == left.dtype:
        torch.mm(left, right, out=result)
    else:
        result.copy_(left @ right)


class _ExpertsInTurn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        weights_P: Tensor,
        gate_up_proj: Tensor,
        down_proj: Tensor,
        order_P: Tensor,
        counts: Sequence[int],
        top_k: int,
    ) -> Tensor:
        pairs, tokens_P = len(order_P), order_P // top_k
        places_TK = torch.empty_like(order_P).scatter_(0, order_P, torch.arange(pairs)).view(-1, top_k)
        gate_up_PJ = hidden_TH.new_empty(pairs, gate_up_proj.shape[1])
        rows_PH = hidden_TH.new_empty(pairs, hidden_TH.shape[1])
        for expert, span in _spans(counts):
            inputs = hidden_TH.index_select(0, tokens_P[span])
            matrix = gate_up_proj[expert].to(inputs.dtype)
            gate, up = torch.mm(inputs, matrix.T, out=gate_up_PJ[span]).chunk(2, dim=-1)
            inner = F.silu(gate).mul_(up).mul_(weights_P[span, None])
            torch.mm(inner, down_proj[expert].to(inner.dtype).T, out=rows_PH[span])
        ctx.save_for_backward(hidden_TH, weights_P, gate_up_proj, down_proj, gate_up_PJ, tokens_P, places_TK)
        ctx.counts = counts
        return _summed(rows_PH, places_TK)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None, None]:
        hidden_TH, weights_P, gate_up_proj, down_proj, gate_up_PJ, tokens_P, places_TK = ctx.saved_tensors
        (gradient_TH,) = gradients
        to_rows_PH = hidden_TH.new_empty(len(tokens_P), hidden_TH.shape[1])
        to_weights_P = torch.empty_like(weights_P)
        to_gate_up_proj, to_down_proj = torch.empty_like(gate_up_proj), torch.empty_like(down_proj)
        for expert, span in _spans(ctx.counts):
            upstream = gradient_TH.index_select(0, tokens_P[span])
            gate, up = gate_up_PJ[span].chunk(2, dim=-1)
            weights = weights_P[span, None]
            activated = F.silu(gate)
            inner = activated * up
            to_inner = upstream @ down_proj[expert].to(upstream.dtype)
            to_weights_P[span] = (to_inner * inner).sum(dim=-1)
            _product_into(to_down_proj[expert], upstream.T, inner.mul_(weights))
            to_up = to_inner.mul_(weights) * activated
            to_gate = torch.ops.aten.silu_backward(to_inner.mul_(up), gate)
            to_gate_up = torch.cat((to_gate, to_up), dim=-1)
            inputs = hidden_TH.index_select(0, tokens_P[span])
            _product_into(to_gate_up_proj[expert], to_gate_up.T, inputs)
            torch.mm(to_gate_up, gate_up_proj[expert].to(to_gate_up.dtype), out=to_rows_PH[span])
        return _summed(to_rows_PH, places_TK), to_weights_P, to_gate_up_proj, to_down_proj, None, None, None
