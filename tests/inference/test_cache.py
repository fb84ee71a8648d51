"""Generation and filling with the cache write what they write without it."""

import dataclasses
from pathlib import Path

import pytest

from inference.fill import fill
from inference.generate import generate
from inference.load import load_run
from inference.sampling import SamplingConfig
from model.build import build_model
from model.config import IndexerConfig, InitialisationConfig

PROMPT = "清晨的光照进窗户，the light is "


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_causal_model_writes_the_same(causal_run: Path, temperature: float) -> None:
    run = load_run(causal_run)
    options = {"sampling": SamplingConfig(temperature=temperature), "max_tokens": 24, "seed": 3}
    first, second = (
        generate(run.model, run.tokenizer, run.objective, PROMPT, use_cache=cached, **options)
        for cached in (True, False)
    )
    assert first.tokens > 3
    assert first.text == second.text
    assert first.log_probability == pytest.approx(second.log_probability, rel=1e-4)


@pytest.mark.parametrize("text", [f"{PROMPT}[gMASK]", "清晨[MASK]照进窗户，the light [MASK] through [MASK]."])
def test_a_blank_infilling_model_fills_the_same(blanks_run: Path, text: str) -> None:
    run = load_run(blanks_run)
    first, second = (
        fill(run.model, run.tokenizer, run.objective, text, max_tokens=12, use_cache=cached) for cached in (True, False)
    )
    assert first.text == second.text
    for ours, theirs in zip(first.blanks, second.blanks, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, rel=1e-4)


def test_sparse_attention_past_its_top_k_writes_the_same(causal_run: Path) -> None:
    """Greedy, from a model with an indexer that keeps 8 keys, the prompt alone being longer."""
    run = load_run(causal_run)
    indexer = IndexerConfig(num_heads=4, head_dim=16, top_k=8)
    attention = dataclasses.replace(run.model.config.attention, indexer=indexer)
    config = dataclasses.replace(run.model.config, attention=attention, initialisation=InitialisationConfig(std=0.2))
    model = build_model(config, seed=5).eval()
    model.set_sparse_attention("sparse")
    assert len(run.tokenizer.encode(PROMPT)) > config.attention.indexer.top_k
    first, second = (
        generate(model, run.tokenizer, run.objective, PROMPT, max_tokens=40, use_cache=cached)
        for cached in (True, False)
    )
    assert first.tokens == 40
    assert first.text == second.text
    model.set_sparse_attention("off")
    dense = generate(model, run.tokenizer, run.objective, PROMPT, max_tokens=40)
    assert dense.log_probability != first.log_probability
