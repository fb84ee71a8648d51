"""The mask against its rule applied pair by pair, and the block lists against the mask."""

import pytest
import torch
from torch import Tensor

from model.attention_mask import block_kinds, block_mask, boolean_mask, build, visible_pairs


def random_row(length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Documents of random lengths, some with context, some without, one-token ones (padding) at the end."""
    document, context_end = torch.zeros(length, dtype=torch.int32), torch.zeros(length, dtype=torch.int32)
    start = number = 0
    while start < length:
        padding = start > 0.85 * length
        longest = 1 if padding else max(1, length // 2)
        size = min(int(torch.randint(1, longest + 1, (1,), generator=generator)), length - start)
        context = 0 if padding else int(torch.randint(0, size + 1, (1,), generator=generator))
        document[start : start + size] = number
        context_end[start : start + size] = start + context
        start, number = start + size, number + 1
    return document, context_end


def random_batch(rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pairs = [random_row(length, generator) for _ in range(rows)]
    return torch.stack([d for d, _ in pairs]), torch.stack([c for _, c in pairs])


def sees(document: Tensor, context_end: Tensor, query: int, key: int) -> bool:
    """The rule, as the architecture words it."""
    same = int(document[query]) == int(document[key])
    return same and (key < int(context_end[query]) or key <= query)


@pytest.mark.parametrize("seed", range(5))
def test_the_boolean_mask_is_the_rule_pair_by_pair(seed: int) -> None:
    document, context_end = random_batch(2, 37, seed)
    mask = boolean_mask(document, context_end)
    for row in range(2):
        for query in range(37):
            for key in range(37):
                assert bool(mask[row, query, key]) == sees(document[row], context_end[row], query, key)
    assert torch.equal(visible_pairs(document, context_end), mask.sum(dim=(1, 2)))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("length", "size"), [(64, 8), (61, 8), (7, 8), (96, 16), (300, 16)])
def test_blocks_cover_exactly_the_mask_and_full_ones_are_full(length: int, size: int, seed: int) -> None:
    document, context_end = random_batch(3, length, seed)
    partial, full = block_kinds(document, context_end, size)
    blocks = -(-length // size)
    padded = torch.zeros(3, blocks * size, blocks * size, dtype=torch.bool)
    padded[:, :length, :length] = boolean_mask(document, context_end)
    counts = padded.unflatten(2, (blocks, size)).unflatten(1, (blocks, size)).sum(dim=(2, 4))
    assert torch.equal(full, counts == size * size)
    assert torch.equal(partial, (counts > 0) & (counts < size * size))


def test_blocks_equal_those_of_create_block_mask() -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    document, context_end = random_batch(2, 700, seed=1)
    ours = block_mask(document, context_end)
    theirs = create_block_mask(ours.mask_mod, 2, None, 700, 700, device="cpu")
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    for indices, counts in (("kv_indices", "kv_num_blocks"), ("full_kv_indices", "full_kv_num_blocks")):
        listed = torch.arange(getattr(ours, indices).shape[-1]) < getattr(ours, counts)[..., None]
        assert torch.equal(getattr(ours, indices)[listed], getattr(theirs, indices)[listed]), indices


def test_no_query_is_blind_and_padding_sees_itself_alone() -> None:
    document = torch.tensor([[0, 0, 0, 1, 2, 3]])
    context_end = torch.tensor([[2, 2, 2, 3, 4, 5]])
    mask = boolean_mask(document, context_end)[0]
    assert mask.diagonal().all()
    assert mask[3:].sum() == 3
    assert mask[0].tolist() == [True, True, False, False, False, False]


def test_wrong_batches_are_refused() -> None:
    document = torch.tensor([[0, 1, 0]])
    with pytest.raises(ValueError, match="row 0: a document's tokens are not adjacent"):
        build(document, torch.zeros_like(document), "flex")
    with pytest.raises(ValueError, match="give both"):
        build(document, None, "sdpa")
    with pytest.raises(ValueError, match="must both be"):
        build(document, torch.zeros(1, 2), "sdpa")
    assert build(None, None, "sdpa").is_causal
