"""Nothing leaks: changing a token changes no logit that may not see it, and every logit that may, for every task."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from model.build import build_model
from model.config import (
    AttentionConfig,
    ExpertsConfig,
    FeedForwardConfig,
    ModelConfig,
    MtpConfig,
    NormConfig,
    PositionConfig,
)
from model.transformer import Transformer
from objectives import fine_tuning
from objectives.blank_infilling import BlankInfilling, source_stride
from objectives.causal import build_causal
from objectives.config import BlankInfillingConfig, CausalConfig
from objectives.example import Batch, visible
from objectives.fim import build_fim, fim_stride
from objectives.fine_tuning import build_pairs
from objectives.mip import build_mip, index_pairs
from objectives.random import derive_keys, stream_key
from objectives.sentences import SentenceEnds
from objectives.source import SourceRows
from tokenizer.special_tokens import SpecialTokens

WINDOW = 64
ORDINARY = 100
SPECIAL = SpecialTokens(
    **{
        field.name: ORDINARY + i
        for i, field in enumerate(dataclasses.fields(SpecialTokens))
        if field.type in (int, "int")
    }
)
VOCABULARY = 128
BLANKS = BlankInfillingConfig(sentence_share=0.3, mask_windows=2, sentence_windows=1, mask_fill=0.75, document_fill=0.9)

MODELS = {
    "glm130b": ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=3,
        tie_embeddings=True,
        residual="deepnorm",
        norm=NormConfig(kind="layer_norm"),
        attention=AttentionConfig(num_heads=2, head_dim=16, qkv_bias=True, output_bias=True),
        feed_forward=FeedForwardConfig(kind="geglu", inner_size=64, bias=True, gate="second"),
    ),
    "glm45": ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=3,
        position=PositionConfig(rope_fraction=0.5),
        attention=AttentionConfig(num_heads=4, num_key_value_heads=2, head_dim=16, qk_norm=True),
        feed_forward=FeedForwardConfig(inner_size=64),
        experts=ExpertsConfig(num_experts=4, top_k=2, inner_size=16),
    ),
    "glm5": ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=3,
        position=PositionConfig(rope_base=1e6, rope_layout="interleaved"),
        attention=AttentionConfig(kind="latent", num_heads=2),
        feed_forward=FeedForwardConfig(inner_size=64),
        experts=ExpertsConfig(num_experts=4, top_k=2, inner_size=16),
    ),
}
TASKS = ("mask", "sentence", "document", "mip", "causal", "fim", "pair")


def source_rows(length: int, document_length: int) -> SourceRows:
    """Two rows of random tokens in documents of one length, which is the row's for no packing."""
    generator = np.random.default_rng(length)
    tokens = generator.integers(0, ORDINARY, (2, length)).astype(np.int32)
    ends = np.arange(document_length, 2 * length + 1, document_length)
    tokens.reshape(-1)[ends - 1] = SPECIAL.endoftext
    return SourceRows(tokens, ends, np.ones(2, np.bool_))


def batch_of(task: str, packed: bool) -> Batch:
    keys = derive_keys(np.repeat(stream_key(5), 2), 1) + np.arange(2, dtype=np.uint64)
    if task == "mip":
        texts = [np.arange(8) + i for i in range(6)] if packed else [np.arange(40), np.arange(30) + 5]
        targets = [np.arange(6) + 50 for _ in texts]
        lengths = np.array([len(t) for t in texts])
        index = index_pairs(lengths, np.array([6] * len(texts)), np.arange(len(texts)), WINDOW, 2 if packed else 1)
        return build_mip(np.arange(2 if index.rows > 1 else 1), index, texts, targets, BLANKS, WINDOW, SPECIAL)
    if task == "pair":
        prompts, lengths = [np.arange(9) + i for i in range(6)], np.full(6, 9)
        chosen = np.arange(6 if packed else 2)
        part = lengths if packed else np.full(6, WINDOW - 5)
        prompts = prompts if packed else [np.arange(WINDOW - 5) % ORDINARY for _ in prompts]
        index = fine_tuning.index_pairs(part, np.full(6, 5), chosen, WINDOW)
        return build_pairs(np.arange(index.rows), index, prompts, [np.arange(5)] * 6, WINDOW, SPECIAL)
    if task in ("causal", "fim"):
        code = CausalConfig(fim_rate=1.0, fim_fill=0.8)
        length = 1 + (WINDOW if task == "causal" else fim_stride(code, WINDOW))
        source = source_rows(length, 17 if packed else length)
        return build_causal(source, SPECIAL.pad) if task == "causal" else build_fim(source, keys, code, WINDOW, SPECIAL)
    pieces = [b"a." if i % 7 == 0 else b" b" for i in range(VOCABULARY)]
    blanks = BlankInfilling(BLANKS, WINDOW, SPECIAL, SentenceEnds(pieces))
    length = source_stride(BLANKS, task, WINDOW)  # type: ignore[arg-type]
    return blanks.build(task, source_rows(length, 15 if packed else length), keys)  # type: ignore[arg-type]


def randomised(config: ModelConfig) -> Transformer:
    model = build_model(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensor.copy_(around + 0.3 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def changes(model: Transformer, batch: Batch, row: int) -> Tensor:
    """(S, S): by how much changing the token of the column moves the logits of the row."""
    tokens, positions, document, context_end = (
        torch.from_numpy(array[row]).long()
        for array in (batch.tokens, batch.positions, batch.document, batch.context_end)
    )
    variants = tokens.repeat(WINDOW + 1, 1)
    places = torch.arange(WINDOW)
    variants[places, places] = (variants[places, places] + 1) % VOCABULARY
    same = [value.expand(WINDOW + 1, WINDOW) for value in (positions, document, context_end)]
    with torch.no_grad():
        logits = model(variants, *same).logits
    assert not logits.isnan().any()
    return (logits[:-1] - logits[-1]).abs().amax(dim=-1).T


@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", MODELS)
def test_a_token_moves_the_logits_that_may_see_it_and_no_other(name: str, task: str, packed: bool) -> None:
    batch = batch_of(task, packed)
    if task not in ("causal", "fim", "pair"):
        assert (batch.context_end[0] > 0).any()
    if packed:
        assert batch.document[0].max() > 1
    mask = torch.from_numpy(visible(batch.document, batch.context_end))
    model = randomised(MODELS[name])
    for row in range(len(batch.tokens)):
        moved = changes(model, batch, row)
        assert moved[~mask[row]].max() < 1e-5
        assert moved[mask[row]].min() > 1e-5


def test_padding_gives_no_nan_forward_or_backward() -> None:
    """A row of nothing but padding, and one whose end is padding."""
    document = torch.stack([torch.arange(WINDOW), torch.arange(WINDOW).clamp(min=40)])
    context_end = torch.stack([torch.zeros(WINDOW, dtype=torch.int64), torch.full((WINDOW,), 20)])
    tokens = torch.full((2, WINDOW), SPECIAL.pad)
    targets = torch.full((2, WINDOW), -1)
    for config in MODELS.values():
        model = randomised(config).train()
        output = model(tokens, torch.zeros_like(tokens), document, context_end, targets)
        assert output.losses is not None
        assert (output.losses == 0).all()
        (output.losses.sum() + output.z_losses.sum()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert model(tokens, torch.zeros_like(tokens), document, context_end).logits.isfinite().all()


@pytest.mark.parametrize("shared", [True, False])
def test_mtp_reads_no_token_beyond_its_depth_and_no_other_document(shared: bool) -> None:
    """Depth d at i may see tokens of its document up to i + d, and predicts i + d + 1."""
    model = randomised(dataclasses.replace(MODELS["glm5"], mtp=MtpConfig(depth=3, shared=shared)))
    length = 24
    document = torch.tensor([[0] * 10 + [1] * 9 + [2] * 5])
    start = torch.tensor([[0] * 10 + [10] * 9 + [19] * 5])
    tokens = torch.randint(0, ORDINARY, (1, length), generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, ORDINARY, (length + 1, length), generator=torch.Generator().manual_seed(1))[:1]
    variants = tokens.repeat(length + 1, 1)
    places = torch.arange(length)
    variants[places, places] += 1
    rows = [value.expand(length + 1, length) for value in (places - start, document, start, targets)]
    with torch.no_grad():
        output = model(variants, *rows)
    assert len(output.mtp_losses) == 3
    for depth, (losses, valid) in enumerate(output.mtp_losses, start=1):
        moved = (losses[:-1] - losses[-1]).abs().T
        same = document[0][:, None] == document[0][None, :]
        sees = same & (places[None, :] <= places[:, None] + depth)
        expected_valid = torch.tensor(
            [i + depth < length and bool(same[i, min(i + depth, length - 1)]) for i in places]
        )
        assert torch.equal(valid[0], expected_valid)
        assert (losses[~valid] == 0).all()
        assert moved[expected_valid][~sees[expected_valid]].max() < 1e-5
        assert moved[expected_valid][sees[expected_valid]].min() > 0
