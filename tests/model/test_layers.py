"""The small parts whose backward passes are written out, beside autograd on their formulas in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.feed_forward import gated
from model.layers import RMSNorm
from model.rope import Layout, Rotation, rotation

PRECISION = {torch.float32: 1e-6, torch.bfloat16: 2**-8}
"""Largest error of a dtype's values and gradients, as a share of the largest of them."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def strided(values: Tensor, dtype: torch.dtype) -> Tensor:
    """A leaf's view that is not adjacent in memory, as projections' splits and transposes are."""
    wide = torch.zeros(values.shape[0], values.shape[2], values.shape[1], values.shape[3] + 6, dtype=dtype)
    wide[..., 4:-2] = values.transpose(1, 2)
    return wide.requires_grad_()[..., 4:-2].transpose(1, 2)


def agree(ours: Callable[[Tensor], Tensor], formula: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    """Values and gradients, the input adjacent in memory and not, its values left as they are."""
    for dtype, bound in PRECISION.items():
        values, upstream = random(*shape).to(dtype), random(*formula(random(*shape)).shape, seed=1).to(dtype)
        exact = values.double().requires_grad_()
        expected = formula(exact)
        expected.backward(upstream.double())
        for states in (values.clone().requires_grad_(), strided(values, dtype)):
            result = ours(states)
            (gradient,) = torch.autograd.grad(result, states, upstream)
            assert result.dtype == gradient.dtype == dtype
            for found, truth in ((result, expected.detach()), (gradient, exact.grad)):
                assert truth is not None
                assert (found - truth).abs().max() <= bound * truth.abs().max()
            assert torch.equal(states, values)


def test_rms_norm_equals_its_formula() -> None:
    norm = RMSNorm(24, 1e-5)
    norm.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2))

    def formula(states: Tensor) -> Tensor:
        return states / torch.sqrt(states.square().mean(dim=-1, keepdim=True) + 1e-5) * norm.weight.detach().double()

    agree(norm, formula, (2, 3, 5, 24))


@pytest.mark.parametrize("dtype", PRECISION)
def test_the_gradient_of_rms_norms_weight_is_torchs(dtype: torch.dtype) -> None:
    norm = RMSNorm(24, 1e-5)
    states, upstream = random(2, 50, 24).to(dtype), random(2, 50, 24, seed=1).to(dtype)
    norm(states).backward(upstream)
    weight = torch.ones(24, dtype=torch.float64, requires_grad=True)
    F.rms_norm(states.double(), (24,), weight, 1e-5).backward(upstream.double())
    assert norm.weight.grad is not None
    assert weight.grad is not None
    assert (norm.weight.grad - weight.grad).abs().max() <= 1e-6 * weight.grad.abs().max()


@pytest.mark.parametrize("kind", ["swiglu", "geglu"])
@pytest.mark.parametrize("gate_first", [True, False])
def test_gated_halves_equal_their_formula(kind: str, gate_first: bool) -> None:
    def formula(halves: Tensor) -> Tensor:
        first, second = halves.chunk(2, dim=-1)
        gate, up = (first, second) if gate_first else (second, first)
        return (F.silu(gate) if kind == "swiglu" else F.gelu(gate)) * up

    agree(lambda halves: gated(halves, kind, gate_first), formula, (2, 3, 5, 24))  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("axes", [1, 2])
def test_rope_turns_each_pair_by_its_angle_and_gradients_back(layout: Layout, axes: int) -> None:
    """Eight of twelve dimensions turn; each pair is a complex number times one of length 1."""
    positions = torch.tensor([[0, 1, 2, 2, 700], [3, 3, 4, 5, 6]])
    turning = positions if axes == 1 else torch.stack((positions, positions // 2), dim=1)
    ours: Rotation = rotation(turning, 8, 1e4, layout)

    def formula(states: Tensor) -> Tensor:
        width = 8 // axes
        parts = []
        for axis in range(axes):
            part = states[..., axis * width : (axis + 1) * width]
            places = (positions if axis == 0 else positions // 2).double()[:, None, :, None]
            angles = places * 1e4 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
            if layout == "half":
                a, b = part[..., : width // 2], part[..., width // 2 :]
            else:
                a, b = part[..., 0::2], part[..., 1::2]
            turned = torch.complex(a, b) * torch.polar(torch.ones_like(angles), angles)
            pairs = (turned.real, turned.imag)
            parts.append(torch.cat(pairs, -1) if layout == "half" else torch.stack(pairs, -1).flatten(-2))
        return torch.cat((*parts, states[..., 8:]), dim=-1)

    agree(ours.apply, formula, (2, 3, 5, 12))
