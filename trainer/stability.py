"""Loss spikes: what is usual, what is not, and the factor by which a step is taken.

GLM-130B (arXiv 2210.02414, section 3.3, and its training log) saw gradient norms leap a few steps before the loss did,
and its authors went back to a checkpoint and skipped the data by hand. Here the losses and gradient norms of the last
`window` steps lie in tensors on the device; a step whose loss or norm is far above their mean is taken with factor 0.
The factor stays on the device, so that judging a step costs no synchronisation. The idea of multiplying the update by a
tensor of 0 or 1 is OLMo-core's skip-step optimiser.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import StabilityConfig


class SpikeStatistics:
    """Losses and gradient norms of the last steps that were taken, and how many steps in a row were not usual."""

    def __init__(self, config: StabilityConfig, device: torch.device) -> None:
        self.config = config
        self.losses = torch.zeros(config.window, device=device)
        self.norms = torch.zeros(config.window, device=device)
        self.seen = torch.zeros((), dtype=torch.int64, device=device)
        self.in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)

    def judge(self, loss: Tensor, gradient_norm: Tensor, overflow: Tensor | None = None) -> Tensor:
        """1.0 for a usual step, 0.0 for a spike or a number that is not finite, as a scalar on the device.

        A spike is not added to what is usual, else two of them would make the third look normal. overflow: the step is
        left out because the loss scale was too large, which is none of a row of spikes.
        """
        enough = self.seen >= self.config.minimum_steps
        count = self.seen.clamp(min=1, max=self.config.window)
        places = torch.arange(self.config.window, device=loss.device)
        filled = places < count
        usual = torch.isfinite(loss) & torch.isfinite(gradient_norm)
        for value, history in ((loss, self.losses), (gradient_norm, self.norms)):
            mean = torch.where(filled, history, 0.0).sum() / count
            variance = torch.where(filled, (history - mean) ** 2, 0.0).sum() / (count - 1).clamp(min=1)
            usual &= ~enough | (value <= mean + self.config.deviations * variance.sqrt())
        # An index that is a tensor of one number would be read by the host; a comparison is not.
        written = usual & (places == self.seen % self.config.window)
        for value, history in ((loss, self.losses), (gradient_norm, self.norms)):
            history.copy_(torch.where(written, value.to(history.dtype), history))
        self.seen += usual
        leapt = ~usual if overflow is None else ~usual & ~overflow
        self.in_a_row.copy_(torch.where(usual, 0, self.in_a_row + leapt))
        self.skipped += ~usual
        return usual.to(loss.dtype)

    def forget_row(self) -> None:
        """Start counting spikes in a row anew, after a rollback."""
        self.in_a_row.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that resumes, by name."""
        names = ("losses", "norms", "seen", "in_a_row", "skipped")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the values of `state`; a window of another length starts anew."""
        if state["losses"].shape != self.losses.shape:
            return
        for name, value in self.state_dict().items():
            value.copy_(state[name])


class LossScale:
    """Dynamic loss scaling for float16 (Micikevicius et al., arXiv 1710.03740); 1 and idle in other precisions.

    A step whose gradient is not finite halves the scale and is left out; `growth_interval` good steps double it.
    """

    growth_interval = 1000

    def __init__(self, active: bool, device: torch.device) -> None:
        self.active = active
        self.scale = torch.tensor(65536.0 if active else 1.0, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int64, device=device)

    def overflowed(self, loss: Tensor, gradient_norm: Tensor) -> Tensor:
        """Whether a gradient is not finite for the scale's sake (a boolean scalar): a smaller one may mend it."""
        return torch.isfinite(loss) & ~torch.isfinite(gradient_norm) & (self.scale > 1.0)

    def update(self, finite: Tensor) -> None:
        """Take note of a step whose gradient was `finite` (a boolean scalar) or not."""
        if not self.active:
            return
        self.good_steps.copy_(torch.where(finite, self.good_steps + 1, 0))
        grows = self.good_steps >= self.growth_interval
        self.scale.mul_(torch.where(finite, torch.where(grows, 2.0, 1.0), 0.5)).clamp_(min=1.0)
        self.good_steps.copy_(torch.where(grows, 0, self.good_steps))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that resumes, by name."""
        return {"scale": self.scale, "good_steps": self.good_steps}
