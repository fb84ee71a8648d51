"""Laws of the mix: shares, splits by cluster, whole copies, an order that depends on ids alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from data.annotate import AnnotateConfig
from data.card import corpus_card
from data.config import CorpusConfig
from data.filter import FilterConfig
from data.mix import MixConfig, QualityBucket, balance, base_weight, choose_validation, copies, draw, unit_interval
from data.redact import RedactConfig
from data.schema import document_id
from data.sources import SourceConfig
from tests.data.small_corpus import STAGES, configuration, digests, record, run, write_inputs
from tokenizer.config import SampleConfig, TokenizerConfig
from tokenizer.load import load_tokenizer
from tokenizer.train import train as train_tokenizer


def collection(rng: np.random.Generator, zh: int, en: int, mixed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    counts = {"zh": zh, "en": en} | ({"mixed": mixed} if mixed else {})
    return {
        "sizes": {name: rng.integers(100, 20_000, n) for name, n in counts.items()},
        "weights": {name: np.ones(n) for name, n in counts.items()},
        "chances": {name: rng.random(n) for name, n in counts.items()},
    }


def shares(given_: dict[str, dict[str, np.ndarray]], mix: MixConfig) -> tuple[float, float, dict[str, float]]:
    """Share of Chinese that came out, all that came out, and the factors."""
    factors = balance(mix=mix, **given_)
    total = {
        name: float(copies(given_["weights"][name], factors[name], given_["chances"][name], mix.max_epochs) @ sizes)
        for name, sizes in given_["sizes"].items()
    }
    both = total.get("mixed", 0.0) / 2
    everything = total["zh"] + total["en"] + 2 * both
    return (total["zh"] + both) / everything, everything, factors


@settings(max_examples=30, deadline=None)
@given(st.integers(200, 2000), st.integers(200, 2000), st.integers(0, 200), st.floats(0.3, 0.7), st.integers(0, 99))
@pytest.mark.parametrize("how", ["repeat", "downsample"])
def test_shares_are_met_to_a_document(how: Any, zh: int, en: int, mixed: int, share: float, seed: int) -> None:
    given_ = collection(np.random.default_rng(seed), zh, en, mixed)
    mix = MixConfig(zh_share=share, balance=how)
    reached, total, factors = shares(given_, mix)
    assert reached == pytest.approx(share, abs=20_000 / total)
    assert max(factors.values()) <= (mix.max_epochs if how == "repeat" else 1.0)


def test_language_that_is_too_scarce_is_not_repeated_beyond_max_epochs() -> None:
    given_ = collection(np.random.default_rng(0), 2000, 20)
    mix = MixConfig(max_epochs=3.0)
    reached, _, factors = shares(given_, mix)
    count = copies(given_["weights"]["en"], factors["en"], given_["chances"]["en"], mix.max_epochs)
    assert count.max() <= 3
    assert count.mean() > 2.9
    assert reached == pytest.approx(0.5, abs=0.02)  # Chinese was cut down for the rest


def test_expected_copies_come_out_on_average() -> None:
    ids = pl.Series([document_id("s", str(n)) for n in range(20_000)])
    chance = unit_interval(draw(ids, seed=3, purpose=1))
    assert copies(np.full(20_000, 3.2), 1.0, chance, 4.0).mean() == pytest.approx(3.2, abs=0.02)
    assert set(copies(np.full(20_000, 1.0), 1.0, chance, 4.0)) == {1}
    assert np.histogram(chance, bins=10, range=(0, 1))[0] == pytest.approx(np.full(10, 2000), abs=200)


def test_draws_of_two_purposes_are_unrelated() -> None:
    ids = pl.Series([document_id("s", str(n)) for n in range(5000)])
    first, second = (unit_interval(draw(ids, 0, purpose)) for purpose in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_no_cluster_straddles_the_split() -> None:
    rng = np.random.default_rng(1)
    clusters = [document_id("c", str(n)) for n in rng.integers(0, 400, 1000)]
    table = pl.DataFrame(
        {
            "id": [document_id("d", str(n)) for n in range(1000)],
            "cluster": clusters,
            "language": rng.choice(["zh", "en"], 1000),
            "bytes": rng.integers(100, 5000, 1000),
        }
    )
    mix = MixConfig(validation_share=0.1)
    held = choose_validation(table, mix)
    aside = table.filter(pl.col("cluster").is_in(held.implode()))
    assert aside["bytes"].sum() / table["bytes"].sum() == pytest.approx(0.1, abs=0.03)
    assert choose_validation(table.sample(fraction=1.0, shuffle=True, seed=4), mix).equals(held)


def test_each_language_with_two_clusters_is_held_out() -> None:
    table = pl.DataFrame(
        {
            "id": list("abc"),
            "cluster": [document_id("c", name) for name in "abc"],
            "language": ["zh", "zh", "en"],
            "bytes": [10, 10, 10],
        }
    )
    held = choose_validation(table, MixConfig(validation_share=0.01))
    assert table.filter(pl.col("cluster").is_in(held.implode()))["language"].to_list() == ["zh"]


def test_weights_multiply() -> None:
    table = pl.DataFrame(
        {
            "collection": ["a", "b", "b", "a"],
            "cluster_size": [1, 4, 1, 1],
            "quality_score": [0.9, 0.5, 0.1, None],  # no model knows the last one's language
        },
        schema_overrides={"cluster_size": pl.Int32},
    )
    config = CorpusConfig(
        sources=[SourceConfig(path="x", name="a"), SourceConfig(path="y", name="b", weight=0.5)],
        annotate=AnnotateConfig(quality_models={"zh": "zh.bin"}),
        mix=MixConfig(
            cluster_power=0.5, buckets=[QualityBucket(min=0.3, epochs=1.0), QualityBucket(min=0.8, epochs=3.2)]
        ),
    )
    assert base_weight(table, config) == pytest.approx([3.2, 1.0 * 0.5 * 2.0, 0.0, 1.0])


def test_buckets_without_a_model_are_refused() -> None:
    """Every shard has the column `quality_score`; without a model it is null, and no bucket would take any."""
    with pytest.raises(ValueError, match="quality_models"):
        CorpusConfig(mix=MixConfig(buckets=[QualityBucket(min=0.5, epochs=2.0)]))


@pytest.mark.parametrize("how", ["repeat", "downsample"])
@pytest.mark.parametrize("lost", ["zh", "en"])
def test_language_of_which_nothing_is_left_takes_nothing_from_the_other(how: Any, lost: str) -> None:
    """All of its documents below every bucket, it is as if it were not there: there is nothing to balance by."""
    given_ = collection(np.random.default_rng(0), 50, 50, mixed=5)
    given_["weights"][lost] = np.zeros(50)
    assert balance(mix=MixConfig(balance=how), **given_) == {"zh": 1.0, "en": 1.0, "mixed": 1.0}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("mixed")
    run(configuration(write_inputs(tmp_path_factory.mktemp("in"))), workspace)
    return workspace


def read(workspace: Path, part: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted((workspace / "mix" / part).glob("*.parquet"))])


def test_mix_on_disk_is_what_its_record_says(mixed: Path) -> None:
    counts = record(mixed, "mix")["counts"]
    train, validation = read(mixed, "train"), read(mixed, "validation")
    assert train.height == counts["train"]["documents"]
    assert train["text"].str.len_bytes().sum() == counts["train"]["bytes"]
    assert validation["id"].n_unique() == validation.height
    assert not set(train["cluster"]) & set(validation["cluster"])
    assert train.unique(["id", "copy"]).height == train.height
    assert set(train["id"]) | set(validation["id"]) == set(
        pl.read_parquet(mixed / "decontaminate" / "kept" / "*.parquet")["id"]
    )


def test_tokens_as_the_unit(mixed: Path, tmp_path: Path) -> None:
    """The shares are of tokens, by the tokenizer that is given; without one, or with another, nothing is assumed."""
    folder = tmp_path / "tokenizer"
    train_tokenizer(
        TokenizerConfig(vocab_size=700, sample=SampleConfig(megabytes=1)),
        sorted((mixed / "mix" / "train").glob("*.parquet")),
        folder,
    )
    inputs, workspace = write_inputs(tmp_path / "in"), tmp_path / "w"
    config = configuration(inputs, mix=MixConfig(unit="tokens", zh_share=0.4, validation_share=0.1, shard_mb=0.05))
    run(config, workspace, *STAGES[:-1])
    with pytest.raises(ValueError, match="give --tokenizer"):
        run(config, workspace, "mix")
    assert not run(config, workspace, "mix", tokenizer=folder)["mix"]["skipped"]
    assert run(config, workspace, "mix", tokenizer=folder)["mix"]["skipped"]
    table = read(workspace, "train")
    tokenizer = load_tokenizer(folder)
    tokens = table.select("language", pl.Series("n", [len(tokenizer.encode(text)) + 1 for text in table["text"]]))
    total = dict(tokens.group_by("language").agg(pl.col("n").sum()).rows())
    both = total.get("mixed", 0) / 2
    assert (total["zh"] + both) / (total["zh"] + total["en"] + 2 * both) == pytest.approx(0.4, abs=0.03)
    # the same share of bytes is another mix: a token of Chinese stands for fewer bytes here than one of English
    size = dict(table.group_by("language").agg(pl.col("text").str.len_bytes().sum()).rows())
    assert abs(size["zh"] / (size["zh"] + size["en"]) - total["zh"] / (total["zh"] + total["en"])) > 0.02


def test_order_is_shuffled(mixed: Path) -> None:
    """Neighbours come from different input files about as often as chance has it."""
    sources = read(mixed, "train")["collection"]
    same = (sources == sources.shift(1)).mean()
    expected = (sources.value_counts(normalize=True)["proportion"] ** 2).sum()
    assert same == pytest.approx(expected, abs=0.2)


def test_order_depends_on_ids_and_seed_alone(mixed: Path, tmp_path: Path) -> None:
    """Cut into other shards on the way, the same documents come out in the same order; another seed, another order."""
    inputs = write_inputs(tmp_path / "in")
    config = configuration(inputs)
    run(replace(config, ingest=replace(config.ingest, shard_mb=0.2, pack_mb=5.0)), tmp_path / "w")
    assert read(tmp_path / "w", "train").drop("source_id").equals(read(mixed, "train").drop("source_id"))
    run(replace(config, mix=replace(config.mix, seed=9)), tmp_path / "w", "mix")
    assert read(tmp_path / "w", "train")["id"].to_list() != read(mixed, "train")["id"].to_list()
    assert digests(tmp_path / "w")["mix"] != digests(mixed)["mix"]


def test_datasets_reads_the_mix(mixed: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(mixed / "mix"), cache_dir=str(tmp_path))
    assert loaded["train"].num_rows == read(mixed, "train").height
    assert loaded["validation"].num_rows == read(mixed, "validation").height
    assert loaded["train"][0]["text"] == read(mixed, "train")["text"][0]


def test_card_states_the_settings_that_the_stages_had(mixed: Path, tmp_path: Path) -> None:
    """The mix is run by itself with a configuration that says something else of the stages before it."""
    workspace = Path(shutil.copytree(mixed, tmp_path / "w"))
    config = configuration(
        tmp_path / "elsewhere",
        filter=FilterConfig(preset="none"),
        redact=RedactConfig(placeholder="X"),
        mix=MixConfig(shard_mb=0.05, validation_share=0.1, seed=9),
    )
    run(config, workspace, "mix")
    card = (workspace / "mix" / "README.md").read_text(encoding="utf-8")
    stated = yaml.safe_load(card.rpartition("```yaml")[2].partition("```")[0])
    for name in ("annotate", "filter", "deduplicate", "redact", "decontaminate"):
        assert stated[name] == record(mixed, name)["config"]
    assert stated["normalize"] == record(mixed, "ingest")["config"]["normalize"]
    assert stated["filter"]["preset"] == "web"
    assert stated["filter"]["thresholds"]["zh"]["words"]["min"] > 0  # the preset's own bounds
    assert stated["mix"]["seed"] == 9


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(["zh"], ["zh"]), (["en", "other"], ["en"]), (["mixed"], ["zh", "en"]), (["en", "mixed", "zh"], ["zh", "en"])],
)
def test_card_lists_the_languages_that_are_in_the_corpus(labels: list[str], expected: list[str]) -> None:
    sides: dict[str, Any] = {"train_by_language": {}, "validation_by_language": {}}
    for number, label in enumerate(labels):
        sides[list(sides)[number % 2]][label] = {"documents": 1, "bytes": 9}
    front = yaml.safe_load(corpus_card({}, sides, {}).split("---")[1])
    assert front["language"] == expected
