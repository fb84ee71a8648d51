"""What an objective reads: rows of source tokens and where documents end in them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from objectives.example import Int64Array


class SourceRows(NamedTuple):
    """R rows of n consecutive tokens, each from one stream of documents."""

    tokens: NDArray[np.integer]
    """(R, n) token ids."""
    ends: Int64Array
    """Ends of documents, exclusive, as indices into `tokens.reshape(-1)`; the token before each is `<|endoftext|>`."""
    is_code: NDArray[np.bool_]
    """(R,) whether a row's source is of the kind `code`."""
