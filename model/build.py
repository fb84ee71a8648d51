"""From a configuration to a model."""

import torch

from model.config import ModelConfig
from model.initialisation import initialise
from model.transformer import Transformer


def build_model(config: ModelConfig, device: str | torch.device = "cpu", seed: int = 0) -> Transformer:
    """A model with initial weights on a device.

    On "meta" no memory is taken and nothing is initialised: shard it, `to_empty` it, then `initialise` it or load
    weights (`initialise` also fills the buffers, so it comes before loading).
    The same seed gives the same weights on every device and layout. Raises ValueError when vocab_size is still 0.
    """
    with torch.device("meta"):
        model = Transformer(config)
    if torch.device(device).type == "meta":
        return model
    model.to_empty(device=device)
    initialise(model, config, seed)
    return model
