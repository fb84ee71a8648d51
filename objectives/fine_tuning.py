"""Fine-tuning: a prompt and its target read from left to right, with the loss on the target alone.

A pair is the document `prompt target <|endoftext|>`; each of its tokens predicts the next one, and those predictions
count whose answer is a token of the target or the end that closes it:

    tokens   p1 p2 p3 t1 t2
    targets  p2 p3 t1 t2 end
    weights   0  0  1  1  1

A prompt too long for its row loses its head, so that what stands before the target is what always stands there.
"""

import numpy as np

from objectives.example import TASKS, Batch, Int64Array
from objectives.layout import pack
from objectives.pairs import Documents, PairIndex, pack_pairs
from tokenizer.special_tokens import SpecialTokens


def index_pairs(
    prompt_lengths: Int64Array,
    target_lengths: Int64Array,
    order: Int64Array,
    window: int,
    files: str = "data.pair_files",
) -> PairIndex:
    """Pack pairs into rows; the end is predicted and never read, so it adds none. ValueError where no pair fits."""
    return pack_pairs(prompt_lengths, target_lengths, order, window, windows=1, added=0, files=files)


def build_pairs(
    rows: Int64Array, index: PairIndex, prompts: Documents, targets: Documents, window: int, special: SpecialTokens
) -> Batch:
    """The rows of `index` with the numbers `rows` (R,), each `window` positions long."""
    row_P, prompt_P, read, answers = [], [], [], []
    for number, row in enumerate(rows.tolist()):
        for pair in index.of_row(row).tolist():
            prompt = prompts[pair]
            prompt = prompt[len(prompt) - index.text_lengths[pair] :]
            whole = np.concatenate([prompt, targets[pair], [special.endoftext]])
            row_P.append(number)
            prompt_P.append(len(prompt))
            read.append(whole[:-1])
            answers.append(whole[1:])
    total_P = np.array([len(tokens) for tokens in read])
    canvas = pack(np.array(row_P), total_P, np.zeros_like(total_P), len(rows), window)
    filled = ~canvas.is_padding
    tokens = np.full((len(rows), window), special.pad, np.int32)
    tokens[filled] = np.concatenate(read)
    wanted, weights = tokens.copy(), np.zeros((len(rows), window), np.float32)
    wanted[filled] = np.concatenate(answers)
    weights[filled] = canvas.positions[filled] >= np.repeat(np.array(prompt_P), total_P) - 1
    return Batch(
        tokens=tokens,
        targets=np.where(weights > 0, wanted, tokens),
        loss_weights=weights,
        positions=canvas.positions,
        document=canvas.document,
        context_end=canvas.context_end,
        task=np.full(len(rows), TASKS.index("pair"), np.int8),
        source=np.zeros(len(rows), np.int16),
        unmasked=np.zeros(len(rows), np.int32),
        limited=np.zeros(len(rows), np.bool_),
    )
