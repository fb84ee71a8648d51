"""Multi-token prediction (MTP): layers that predict the tokens after the next (DeepSeek-V3, 2412.19437, section 2.2).

Depth d at position i reads the embedding of token i + d and the hidden state of depth d - 1 at i, and predicts token
i + d + 1. GLM-5 unrolls three depths that share one set of parameters (2602.15763, section 2.1).
"""

import torch
from torch import Tensor, nn

from model.autograd import learning, linked
from model.block_inputs import BlockInputs
from model.blocks import Block
from model.config import ModelConfig
from model.layers import Linear, build_norm


def shifted(values: Tensor, document: Tensor | None, offset: int) -> tuple[Tensor, Tensor]:
    """The value `offset` places later, where that place exists in the same document.

    values: (B, S); document: (B, S), or None when each row is one document. Returns the shifted values, 0 where there
    is none, and a (B, S) boolean that says where there is one. With offset 1 and documents 0 0 0 1 1, values a b c d e
    become b c 0 e 0, valid 1 1 0 1 0.
    """
    length = values.shape[1]
    valid = torch.zeros_like(values, dtype=torch.bool)
    result = torch.zeros_like(values)
    if offset < length:
        valid[:, : length - offset] = (
            True if document is None else document[:, offset:] == document[:, : length - offset]
        )
        result[:, : length - offset] = values[:, offset:]
    return torch.where(valid, result, 0), valid


class MtpLayer(nn.Module):
    """block(eh_proj([enorm(embedding); hnorm(hidden)])), then a norm in front of the output shared with the model.

    The embedding comes first, as in the released checkpoints.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.enorm = build_norm(config.norm, config.hidden_size)
        self.hnorm = build_norm(config.norm, config.hidden_size)
        self.eh_proj = Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.block = Block(config, config.num_layers)
        self.norm = build_norm(config.norm, config.hidden_size)

    def forward(self, embedding: Tensor, hidden_states: Tensor, inputs: BlockInputs) -> Tensor:
        """Normalised hidden states of this depth, (B, S, hidden): the output and the next depth read them."""
        with learning(not inputs.frozen):
            joined = torch.cat((self.enorm(embedding), self.hnorm(hidden_states)), dim=-1)
            projected = self.eh_proj(joined)
        if inputs.frozen:
            projected = linked(projected, hidden_states)
        states = self.block(projected, inputs)
        with learning(not inputs.frozen):
            output: Tensor = self.norm(states)
        return linked(output, states) if inputs.frozen else output
