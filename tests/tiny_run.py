"""A workspace of invented text and runs of tiny models over it, for the tests of trainer, inference and evaluation."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from data.token_shards import TokenShardWriter
from tokenizer.config import SampleConfig, TokenizerConfig
from tokenizer.load import load_tokenizer
from tokenizer.train import train as train_tokenizer

PROJECT = Path(__file__).resolve().parents[1]
ZH = (
    "清晨",
    "阳光",
    "照进",
    "窗户",
    "街上",
    "豆浆",
    "声音",
    "老师",
    "学习",
    "说话",
    "看得",
    "更远",
    "打开",
    "书本",
    "昨天",
)
EN = [
    "the",
    "morning",
    "light",
    "came",
    "through",
    "window",
    "and",
    "street",
    "was",
    "full",
    "of",
    "voices",
    "he",
    "opened",
    "book",
    "read",
    "page",
]

MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "num_layers": 2,
    "max_positions": 128,
    "tie_embeddings": True,
    "residual": "deepnorm",
    "dropout": 0.1,
    "norm": {"kind": "layer_norm"},
    "attention": {"num_heads": 2, "head_dim": 16, "qkv_bias": True, "output_bias": True},
    "feed_forward": {"kind": "geglu", "inner_size": 64, "bias": True, "gate": "second"},
    "initialisation": {"std": None},
}
EXPERTS_MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "num_layers": 2,
    "max_positions": 128,
    "position": {"rope_layout": "interleaved"},
    "attention": {
        "kind": "latent",
        "num_heads": 2,
        "latent": {
            "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
        },
    },
    "feed_forward": {"inner_size": 64},
    "experts": {"num_experts": 4, "top_k": 2, "inner_size": 16, "first_dense_layers": 1},
    "mtp": {"depth": 2},
}  # fmt: skip


def stage(name: str = "pretrain", steps: int = 8, kind: str = "blank_infilling", **changes: Any) -> dict[str, Any]:
    """A stage of a tiny run."""
    return {
        "name": name,
        "steps": steps,
        "data": {"window": 64},
        "objective": {"kind": kind, "blank_infilling": {"mask_share": 0.5, "document_share": 0.5, "mask_windows": 1}},
        "batch": {"tokens": 256, "micro_batch_rows": 2},
        "schedule": {"peak": 3e-3, "end": 3e-4, "warmup_share": 0.1},
        **changes,
    }


def run_config(*stages: dict[str, Any], model: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A run of tiny stages that logs every step and saves every third."""
    return {
        "model": copy.deepcopy(model or MODEL),
        "stages": list(stages) or [stage()],
        "seed": 7,
        "checkpoint": {"every": 3, "keep_last": 3},
        "log": {"every": 1},
        "evaluation": {"rows_per_language": 4},
        "devices": {"device": "cpu", "threads": 1},
        **changes,
    }


def text(rng: random.Random, language: str) -> str:
    """Invented prose in which a word follows from the one before, so that there is something to learn."""
    words = ZH if language == "zh" else EN
    index, chosen = rng.randrange(len(words)), []
    for _ in range(rng.randint(15, 60)):
        index = (index * 7 + rng.choice((1, 2))) % len(words)
        chosen.append(words[index])
    return ("" if language == "zh" else " ").join(chosen) + ("。" if language == "zh" else ".")


def build_workspace(folder: Path) -> Path:
    """Write `folder/tokenizer` and `folder/tokenize` with training and validation shards in two languages."""
    rng = random.Random(3)
    rows = [{"text": text(rng, language), "language": language} for language in ("zh", "en") for _ in range(120)]
    corpus = folder / "corpus.jsonl"
    corpus.parent.mkdir(parents=True, exist_ok=True)
    corpus.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    config = TokenizerConfig(vocab_size=384, sample=SampleConfig(megabytes=1.0))
    train_tokenizer(config, [corpus], folder / "tokenizer")
    tokenizer = load_tokenizer(folder / "tokenizer")
    for split, count in (("train", 120), ("validation", 20)):
        for language in ("zh", "en"):
            prefix = folder / "tokenize" / split / f"{language}-prose" / "00000"
            with TokenShardWriter(prefix, tokenizer.vocab_size) as writer:
                for _ in range(count):
                    writer.add([*tokenizer.encode(text(rng, language)), tokenizer.special.endoftext])
    record = {"tokenizer_digest": tokenizer.digest}
    (folder / "tokenize" / "stage.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def arguments(workspace: Path, run: Path, config: dict[str, Any], *more: str) -> list[str]:
    """The arguments of `pretrain`; the configuration is written beside the run."""
    run.parent.mkdir(parents=True, exist_ok=True)
    path = run.with_name(f"{run.name}.yaml")
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return [
        "--config", str(path), "--data", str(workspace / "tokenize"), "--tokenizer", str(workspace / "tokenizer"),
        "--run", str(run), *more,
    ]  # fmt: skip


def command(*words: str, processes: int = 1) -> list[str]:
    """A command line of this checkout's Python, over several processes when asked."""
    if processes == 1:
        return [sys.executable, "-m", *words]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "--"]
    return [sys.executable, "-m", *launcher, *words]


def environment() -> dict[str, str]:
    """The environment of a subprocess: one thread, and this checkout to import from."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}


def call(*words: str, processes: int = 1, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end."""
    return subprocess.run(
        command(*words, processes=processes),
        cwd=PROJECT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def losses(run: Path) -> dict[int, float]:
    """The loss of each step in a run's metrics.jsonl; a step that stands there twice is a mistake."""
    found: dict[int, float] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        if "loss" in values:
            assert values["step"] not in found, f"step {values['step']} stands twice in {run}"
            found[values["step"]] = values["loss"]
    return found


def heldout(run: Path) -> dict[int, dict[str, float]]:
    """The held-out bits per byte of each step at which a run measured them."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["step"]: line["heldout_bits_per_byte"] for line in lines if "heldout_bits_per_byte" in line}
