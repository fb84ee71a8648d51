"""What every block of a forward pass shares."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from model.attention_mask import AttentionMask
from model.cache import Cache
from model.rope import Rotation

SparseMode = Literal["off", "warmup", "sparse"]
"""off: dense attention. warmup: dense attention, from which the indexer learns and nothing else does. sparse: attention
over the keys that the indexer selects; the model learns from its own losses, the indexer from attention."""


@dataclass(frozen=True)
class BlockInputs:
    """A plain class: FSDP2's casting of arguments leaves it alone."""

    rotation: Rotation | None
    mask: AttentionMask
    auxiliary_scale: Tensor
    """Scalar float32: the main loss's factor, by which gradients of auxiliary losses are multiplied."""
    sparse_mode: SparseMode = "off"
    indexer_loss_weight: float = 0.0
    """Weight of the indexers' KL beside the main loss."""

    cache: Cache | None = None
    """Keys and values of the tokens before this call's, in inference."""

    @property
    def frozen(self) -> bool:
        """Whether only indexers learn."""
        return self.sparse_mode == "warmup"
