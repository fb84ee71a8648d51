"""What attention keeps of the tokens behind it, so that each further token costs one token's work.

Multi-head attention keeps rotated keys and values; latent attention the normalised latent with the rotated part of the
key, which all heads share, and its indexer's keys. A cache serves rows that grow together: the first call reads the
whole prompt, contexts included, and every later token sees all before it.
"""

from torch import Tensor


class LayerCache:
    """Tensors of one layer that grow along their last dimension but one."""

    def __init__(self) -> None:
        self.length = 0
        self._buffers: list[Tensor] = []

    def extend(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Append (..., new, width) to each tensor; returns views of the whole of each, (..., length, width)."""
        new = parts[0].shape[-2]
        if not self._buffers or self.length + new > self._buffers[0].shape[-2]:
            self._grow(parts, new)
        for buffer, part in zip(self._buffers, parts, strict=True):
            buffer[..., self.length : self.length + new, :] = part
        self.length += new
        return tuple(buffer[..., : self.length, :] for buffer in self._buffers)

    def _grow(self, parts: tuple[Tensor, ...], new: int) -> None:
        """Twice the room, so that a token is copied a bounded number of times."""
        room = max(self.length + new, 2 * self.length, 64)
        grown = [part.new_empty(*part.shape[:-2], room, part.shape[-1]) for part in parts]
        for larger, smaller in zip(grown, self._buffers, strict=False):
            larger[..., : self.length, :] = smaller[..., : self.length, :]
        self._buffers = grown


class Cache:
    """Of each layer of a model; `Transformer.new_cache` makes one."""

    def __init__(self, num_layers: int) -> None:
        self.layers = [LayerCache() for _ in range(num_layers)]

    @property
    def length(self) -> int:
        """Tokens that it holds."""
        return self.layers[-1].length

    def nbytes(self) -> int:
        """Memory of its tensors, room for further tokens included."""
        return sum(buffer.nbytes for layer in self.layers for buffer in layer._buffers)
