"""Multi-task instruction pre-training: prompted (text, target) pairs as blanks at the end (GLM-130B §2.2, App. C).

A pair is read as `text [MASK] <sop> target` and predicts `target <eop>`. A text too long for its part of the row keeps
its head.
"""

import numpy as np

from objectives.blank_infilling import marks_of, numbering_of
from objectives.config import BlankInfillingConfig
from objectives.example import TASKS, Batch, Int64Array
from objectives.layout import Pieces, Spans, lay_out, running_start
from objectives.pairs import Documents, PairIndex, pack_pairs
from tokenizer.special_tokens import SpecialTokens

ADDED = 2
"""Positions of a pair beside its text's and its target's: the mask token and <sop>."""


def index_pairs(
    text_lengths: Int64Array,
    target_lengths: Int64Array,
    order: Int64Array,
    window: int,
    windows: int,
    files: str = "data.mip_files",
) -> PairIndex:
    """Pack instruction pairs into rows; a pair has at most a `windows`-th of a row. ValueError where none fits."""
    return pack_pairs(text_lengths, target_lengths, order, window, windows=windows, added=ADDED, files=files)


def build_mip(
    rows: Int64Array,
    index: PairIndex,
    texts: Documents,
    targets: Documents,
    config: BlankInfillingConfig,
    window: int,
    special: SpecialTokens,
) -> Batch:
    """The rows of `index` with the numbers `rows` (R,), each `window` positions long."""
    row_P, parts, text_lengths, target_lengths = [], [], [], []
    for number, row in enumerate(rows.tolist()):
        for pair in index.of_row(row).tolist():
            text = texts[pair][: index.text_lengths[pair]]
            target = targets[pair]
            row_P.append(number)
            parts += [text, target]
            text_lengths.append(len(text))
            target_lengths.append(len(target))
    length_P = np.array(text_lengths) + np.array(target_lengths)
    pieces = Pieces(np.array(row_P), running_start(length_P), length_P)
    number_P = np.arange(len(row_P))
    spans = Spans(number_P, pieces.start_P + np.array(text_lengths), np.array(target_lengths), number_P)
    batch = lay_out(
        np.concatenate(parts), pieces, spans, marks_of(special, "mip"),
        rows=len(rows), window=window, closed=True, numbering=numbering_of(config, "mip"),
    )  # fmt: skip
    batch.task[:] = TASKS.index("mip")
    return batch
