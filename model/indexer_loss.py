"""The mathematics of training a sparse-attention indexer, without a back end, blocks or modules.

DeepSeek Sparse Attention (arXiv 2512.02556, section 2.1; GLM-5, 2602.15763, section 2.1.1): the indexer gives a query t
and a key s the score I(t, s) = Σ_j w_j(t) ReLU(q_j(t) · k(s)), and learns to rank keys as attention does, by
KL(p_t ‖ softmax I_t), p_t being attention's weights summed over heads and divided by their sum. In the dense warm-up
both run over all keys that the query sees, in sparse training over the selected ones.

Shapes: Q queries, K keys, J heads of the indexer, H of attention; leading dimensions are free. All float32 or float64.
`hidden` (..., Q, K) is True where a key does not count; every query has at least one that does.
"""

import torch
from torch import Tensor


def index_scores(products: Tensor, weights: Tensor, in_place: bool = False) -> Tensor:
    """Σ_j weights_j ReLU(products_j): products (..., Q, J, K), weights (..., Q, J) to (..., Q, K).

    The positive factors that scale products (1/√width) and their sum (1/√J) may stand in the weights. in_place: the
    products are not needed afterwards.
    """
    activated = products.relu_() if in_place else products.relu()
    return (weights.unsqueeze(-2) @ activated).squeeze(-2)


def index_scores_backward(products: Tensor, weights: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `index_scores` with respect to products and weights, of their shapes; gradient (..., Q, K)."""
    to_weights = (products.relu() @ gradient.unsqueeze(-1)).squeeze(-1)
    to_products = (weights.unsqueeze(-1) * gradient.unsqueeze(-2)).mul_(products > 0)
    return to_products, to_weights


def target_distribution(attention: Tensor) -> Tensor:
    """Attention's weights (..., Q, H, K) summed over heads and divided by their sum: (..., Q, K)."""
    summed = attention.sum(dim=-2)
    return summed / summed.sum(dim=-1, keepdim=True)


def divergence(target: Tensor, scores: Tensor, hidden: Tensor | None) -> Tensor:
    """KL(target ‖ softmax(scores)) of each query, (..., Q), in nats; target is 0 where hidden."""
    return divergence_and_gradient(target, scores, hidden)[0]


def divergence_and_gradient(target: Tensor, scores: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """The divergence (..., Q) and its gradient with respect to the scores (..., Q, K): softmax(scores) - target."""
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    log_chosen = scores.log_softmax(dim=-1)
    chosen = log_chosen.exp()
    if hidden is not None:
        log_chosen = log_chosen.masked_fill(hidden, 0.0)
    values = (torch.xlogy(target, target) - target * log_chosen).sum(dim=-1)
    return values, chosen - target
