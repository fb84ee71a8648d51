"""The mixture of experts of GLM-4.5 and GLM-5 (arXiv 2508.06471, section 2.1; DeepSeek-V3, 2412.19437, section 2.1.2).

Shapes: T tokens of the batch, H hidden, E experts, K experts a token, I an expert's width, J = 2 I, P = T * K pairs of
both.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.autograd import attach_loss
from model.config import ModelConfig
from model.expert_by_expert import experts_in_turn
from model.feed_forward import FeedForward, gated


class Router(nn.Module):
    """Sigmoid router: selects on score + bias, weighs by the score alone.

    `e_score_correction_bias` is no parameter: `update_expert_bias` moves it against the load. `expert_counts` adds up
    the tokens that each expert was chosen for in training until `reset_expert_counts`. Whoever recomputes activations
    takes back what the second forward pass adds, or all counts of the layer are double.
    """

    e_score_correction_bias: Tensor
    expert_counts: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts = config.experts
        self.config = experts
        self.weight = nn.Parameter(torch.empty(experts.num_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(experts.num_experts, dtype=torch.float32))
        self.register_buffer("expert_counts", torch.zeros(experts.num_experts, dtype=torch.float32), persistent=False)

    def forward(self, hidden_TH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Router logits (T, E) in float32, the chosen experts' weights (T, K) in float32, and their indices (T, K)."""
        logits_TE = F.linear(hidden_TH.float(), self.weight.float())
        scores_TE = logits_TE.sigmoid()
        chosen_TK = self._choose(scores_TE.detach() + self.e_score_correction_bias)
        weights_TK = scores_TE.gather(1, chosen_TK)
        if self.config.normalize_weights:
            weights_TK = weights_TK / (weights_TK.sum(dim=-1, keepdim=True) + 1e-20)
        if self.training:
            self.expert_counts += chosen_TK.flatten().bincount(minlength=self.config.num_experts)
        return logits_TE, weights_TK * self.config.scaling_factor, chosen_TK

    def _choose(self, biased_TE: Tensor) -> Tensor:
        if self.config.num_groups > 1:
            grouped = biased_TE.unflatten(-1, (self.config.num_groups, -1))
            group_scores = grouped.topk(2, dim=-1).values.sum(dim=-1)
            kept = group_scores.topk(self.config.top_k_groups, dim=-1, sorted=False).indices
            allowed = torch.zeros_like(group_scores, dtype=torch.bool).scatter(1, kept, True)
            biased_TE = grouped.masked_fill(~allowed.unsqueeze(-1), float("-inf")).flatten(-2)
        return biased_TE.topk(self.config.top_k, dim=-1, sorted=False).indices


def balance_loss(logits_BSE: Tensor, chosen_BSK: Tensor) -> Tensor:
    """The sequence balance loss of each row, (B,), unweighted: E/(K S) Σ_i count_i * mean share of score i.

    It is 1 for uniform routing. DeepSeek-V3's form (section 2.1.2, equations 17 to 20); GLM publishes only its weight.
    """
    num_experts = logits_BSE.shape[-1]
    scores = logits_BSE.sigmoid()
    mean_share_BE = (scores / scores.sum(dim=-1, keepdim=True)).mean(dim=1)
    chosen_BP = chosen_BSK.flatten(1)
    counts_BE = torch.zeros_like(mean_share_BE).scatter_add(
        1, chosen_BP, torch.ones_like(chosen_BP, dtype=scores.dtype)
    )
    return (counts_BE * (num_experts / chosen_BP.shape[1]) * mean_share_BE).sum(dim=-1)


def _inverse(order_P: Tensor) -> Tensor:
    places = torch.arange(len(order_P), device=order_P.device)
    return torch.empty_like(order_P).scatter_(0, order_P, places)


def _dispatched(rows_TH: Tensor, order_P: Tensor, top_k: int) -> Tensor:
    return rows_TH.index_select(0, order_P // top_k)


def _combined(rows_PH: Tensor, order_P: Tensor, top_k: int) -> Tensor:
    returned = rows_PH.index_select(0, _inverse(order_P))
    return returned if top_k == 1 else returned.unflatten(0, (-1, top_k)).sum(dim=1)


class _Dispatch(torch.autograd.Function):
    """Each token once for each of its experts, in the experts' order; `_Combine` is its transpose.

    Both are gathers, so that forward and backward sum a token's experts in one order on every device.
    """

    @staticmethod
    def forward(ctx: Any, rows_TH: Tensor, order_P: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(order_P)
        ctx.top_k = top_k
        return _dispatched(rows_TH, order_P, top_k)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _combined(gradients[0], ctx.saved_tensors[0], ctx.top_k), None, None


class _Combine(torch.autograd.Function):
    """The sum of each token's experts, from rows in the experts' order."""

    @staticmethod
    def forward(ctx: Any, rows_PH: Tensor, order_P: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(order_P)
        ctx.top_k = top_k
        return _combined(rows_PH, order_P, top_k)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _dispatched(gradients[0], ctx.saved_tensors[0], ctx.top_k), None, None


class GroupedExperts(nn.Module):
    """All routed experts of a layer as two stacks of matrices, the gate before the up-projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts = config.experts
        self.gate_up_proj = nn.Parameter(torch.empty(experts.num_experts, 2 * experts.inner_size, config.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(experts.num_experts, config.hidden_size, experts.inner_size))
        self.backend = experts.backend

    def forward(self, hidden_TH: Tensor, weights_TK: Tensor, chosen_TK: Tensor) -> Tensor:
        """The weighted sum of each token's chosen experts, (T, H)."""
        order_P = chosen_TK.flatten().argsort(stable=True)
        counts_E = chosen_TK.flatten().bincount(minlength=self.gate_up_proj.shape[0])
        # The weights go in before the last product, where a pair is narrowest.
        weights_P: Tensor = _Dispatch.apply(weights_TK.flatten().to(hidden_TH.dtype), order_P, 1)
        if self.backend == "auto" and hidden_TH.device.type == "cpu":
            return experts_in_turn(
                hidden_TH, weights_P, self.gate_up_proj, self.down_proj, order_P, counts_E, chosen_TK.shape[1]
            )
        gathered_PH: Tensor = _Dispatch.apply(hidden_TH, order_P, chosen_TK.shape[1])
        gate_up_PJ = expert_matmul(gathered_PH, self.gate_up_proj, counts_E, self.backend)
        inner_PI = gated(gate_up_PJ, "swiglu") * weights_P[:, None]
        combined_TH: Tensor = _Combine.apply(
            expert_matmul(inner_PI, self.down_proj, counts_E, self.backend), order_P, chosen_TK.shape[1]
        )
        return combined_TH


def expert_matmul(
    rows_PN: Tensor, matrices_EMN: Tensor, counts_E: Tensor, backend: Literal["auto", "grouped", "loop"]
) -> Tensor:
    """Rows sorted by expert, `counts_E` of each, times the transpose of their expert's matrix: (P, M).

    This is the one seam for a vendor's grouped matmul. `auto` takes torch's where rows and matrices meet its rule of
    strides in multiples of 16 bytes, and else the loop, which is the reference.
    """
    if backend == "grouped" or (backend == "auto" and _can_group(rows_PN, matrices_EMN)):
        offsets_E = counts_E.cumsum(0, dtype=torch.int32)
        return F.grouped_mm(rows_PN, matrices_EMN.to(rows_PN.dtype).transpose(-2, -1), offs=offsets_E)
    parts = rows_PN.split(counts_E.tolist())
    products = [F.linear(part, matrix.to(part.dtype)) for part, matrix in zip(parts, matrices_EMN, strict=True)]
    return torch.cat(products)


def _can_group(rows_PN: Tensor, matrices_EMN: Tensor) -> bool:
    if not hasattr(F, "grouped_mm"):
        return False
    if torch.compiler.is_compiling() and rows_PN.dtype != torch.bfloat16:
        return False  # torch 2.13 traces its grouped product in bfloat16 alone
    return all(size * rows_PN.element_size() % 16 == 0 for size in matrices_EMN.shape[1:])


class MixtureOfExperts(nn.Module):
    """Router, routed experts and the shared expert that sees every token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts = config.experts
        self.config = experts
        self.gate = Router(config)
        self.experts = GroupedExperts(config)
        shared_size = experts.inner_size * experts.num_shared
        self.shared_experts = FeedForward(config.hidden_size, shared_size, "swiglu") if experts.num_shared else None

    def forward(self, hidden_states: Tensor, auxiliary_scale: Tensor) -> Tensor:
        """(B, S, H) to (B, S, H). In training, the router's auxiliary losses are attached to the result."""
        logits_TE, weights_TK, chosen_TK = self.gate(hidden_states.flatten(0, 1))
        routed = self.experts(hidden_states.flatten(0, 1), weights_TK, chosen_TK).view_as(hidden_states)
        output: Tensor = routed if self.shared_experts is None else routed + self.shared_experts(hidden_states)
        if not self.training:
            return output
        shape = hidden_states.shape[:2]
        if self.config.balance_loss_weight:
            losses_B = balance_loss(logits_TE.unflatten(0, shape), chosen_TK.unflatten(0, shape))
            output = attach_loss(output, losses_B.sum() * (self.config.balance_loss_weight * shape[1]), auxiliary_scale)
        if self.config.z_loss_weight:
            squares = logits_TE.logsumexp(dim=-1).square().sum()
            output = attach_loss(output, squares * self.config.z_loss_weight, auxiliary_scale)
        return output


def routers(model: nn.Module) -> list[Router]:
    """Every router of a model, those of MTP included, in the model's order."""
    return [module for module in model.modules() if isinstance(module, Router)]


def expert_counts(model: nn.Module) -> Tensor:
    """(routers, E) tokens that chose each expert since the last reset, a copy to be summed over all ranks."""
    return torch.stack([router.expert_counts for router in routers(model)])


@torch.no_grad()
def update_expert_bias(model: nn.Module, counts: Tensor, rate: float) -> None:
    """Move each router's selection bias by rate * sign(mean load - load), and start counting anew.

    counts: (routers, E) as `expert_counts` gives it, summed over all ranks and micro-batches of the step. The rule is
    that of arXiv 2408.15664; GLM-4.5's rate is 0.001 for most of training, then 0 (2508.06471, section 2.4).
    """
    for router, load in zip(routers(model), counts, strict=True):
        router.e_score_correction_bias += rate * torch.sign(load.mean() - load)
    reset_expert_counts(model)


def reset_expert_counts(model: nn.Module) -> None:
    """Start counting anew."""
    for router in routers(model):
        router.expert_counts.zero_()
