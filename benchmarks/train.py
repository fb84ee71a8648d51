"""Training a GLM-5-style dense model of about 28 M parameters beside HF Trainer with Llama of the same size.

Both train through their own loop, ours being `python -m trainer pretrain` in this process, on causal rows of 512 random
tokens, 4 rows a step, fused AdamW and clipping. Runs alternate, a new model each time; a step is timed from the end of
the one before, the first of a run is left out, figures are medians, and the ratio is the median of neighbouring runs'
ratios. What is no part of a step (a model's making, evaluation, the last checkpoint) is not timed; ours writes its
line of metrics every step. The trainer's own cost is all of a step that is not forward, backward or the update: waiting
for rows, norms, clipping, statistics, metrics.

On a machine that has other work, `--clock processor` counts the process's seconds of processor time, on one thread.

    python benchmarks/train.py [--rounds 3] [--steps 4] [--threads 2] [--clock wall] [--dtypes float32] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.token_shards import TokenShardWriter
from model.build import build_model
from model.config import ModelConfig
from model.transformer import Transformer
from tokenizer.config import SampleConfig, TokenizerConfig
from tokenizer.load import load_tokenizer
from tokenizer.train import train as train_tokenizer
from trainer.__main__ import pretrain_command
from trainer.optimizers import Optimizer

VOCABULARY, ROWS, WINDOW, LAYERS, HIDDEN = 8192, 4, 512, 12, 384

# MLA and SwiGLU, no experts and no MTP; the feed-forward is as wide as makes up for MLA's fewer parameters.
MODEL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_layers": LAYERS, "max_positions": WINDOW,
    "position": {"rope_layout": "interleaved"},
    "attention": {
        "kind": "latent", "num_heads": 6,
        "latent": {
            "q_lora_rank": 192, "kv_lora_rank": 128, "qk_nope_head_dim": 48, "qk_rope_head_dim": 16, "v_head_dim": 64,
        },
    },
    "feed_forward": {"inner_size": 1152},
}  # fmt: skip


@dataclass
class StepClock:
    """When steps end, and what of them is forward, backward and update, in seconds of a clock."""

    now: Callable[[], float]
    ends: list[float] = field(default_factory=list)
    inner: list[float] = field(default_factory=list)
    _sum: float = 0.0

    def timed(self, call: Callable[..., Any], *, ends_a_step: bool = False) -> Callable[..., Any]:
        """`call`, with its seconds counted as the model's."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = self.now()
            result = call(*args, **kwargs)
            ended = self.now()
            self._sum += ended - began
            if ends_a_step:
                self.ends.append(ended)
                self.inner.append(self._sum)
                self._sum = 0.0
            return result

        return wrapped

    def seconds(self) -> list[float]:
        """Of each step but the first."""
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]

    def own_shares(self) -> list[float]:
        """Share of each step but the first that is not the model's."""
        return [1 - inner / seconds for inner, seconds in zip(self.inner[1:], self.seconds(), strict=True)]


@contextlib.contextmanager
def watched(clock: StepClock) -> Iterator[None]:
    """Time the model's forward and backward passes and the optimiser's update."""
    forward, backward, step = Transformer.forward, torch.Tensor.backward, Optimizer.step
    Transformer.forward = clock.timed(forward)  # type: ignore[method-assign]
    torch.Tensor.backward = clock.timed(backward)  # type: ignore[method-assign]
    Optimizer.step = clock.timed(step, ends_a_step=True)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Transformer.forward, torch.Tensor.backward = forward, backward  # type: ignore[method-assign]
        Optimizer.step = step  # type: ignore[method-assign]


def make_workspace(folder: Path) -> None:
    """A tokenizer with as many ids as the model has, and shards of random tokens without document ends."""
    manifest = Path(__file__).resolve().parents[1] / "samples" / "manifest.jsonl"
    pages = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    rows = [{"text": page["body"], "language": page["language"]} for page in pages if page["language"] in ("zh", "en")]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = TokenizerConfig(
        vocab_size=512, pad_vocab_to_multiple_of=VOCABULARY, sample=SampleConfig(megabytes=0.2, keep_balance=False)
    )
    with contextlib.redirect_stderr(io.StringIO()):
        train_tokenizer(config, [folder / "text.jsonl"], folder / "tokenizer")
    draw = np.random.default_rng(0)
    for split, length in (("train", 1 << 17), ("validation", 600)):
        with TokenShardWriter(folder / "tokenize" / split / "en-prose" / "00000", VOCABULARY) as writer:
            writer.add(draw.integers(0, 512, length))
    record = {"tokenizer_digest": load_tokenizer(folder / "tokenizer").digest}
    (folder / "tokenize" / "stage.json").write_text(json.dumps(record), encoding="utf-8")


def ours(folder: Path, dtype: str, steps: int, threads: int, now: Callable[[], float]) -> StepClock:
    """A run of `steps` + 1 steps through the command line's function."""
    config = {
        "model": {**MODEL, "compute_dtype": dtype},
        "stages": [
            {
                "name": "pretrain", "steps": steps + 1, "data": {"window": WINDOW}, "objective": {"kind": "causal"},
                "batch": {"tokens": ROWS * WINDOW, "micro_batch_rows": ROWS}, "schedule": {"peak": 1e-4},
            }
        ],
        "log": {"every": 1}, "evaluation": {"rows_per_language": 1},
        "devices": {"device": "cpu", "threads": threads},
    }  # fmt: skip
    path, run, clock = folder / "run.yaml", folder / "run", StepClock(now)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.rmtree(run, ignore_errors=True)
    with watched(clock), contextlib.redirect_stderr(io.StringIO()):
        pretrain_command(
            [
                "--config", str(path), "--data", str(folder / "tokenize"), "--tokenizer", str(folder / "tokenizer"),
                "--run", str(run),
            ]
        )  # fmt: skip
    torch.use_deterministic_algorithms(False)
    if len(clock.ends) <= steps:
        sys.exit("the run was asked to stop")  # which the trainer does in good order
    return clock


def theirs(folder: Path, dtype: str, steps: int, now: Callable[[], float]) -> tuple[StepClock, int]:
    """A run of `steps` + 1 steps of HF Trainer, and the parameters of its model."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=6,
        intermediate_size=1024, max_position_embeddings=WINDOW, tie_word_embeddings=False,
    )  # fmt: skip
    model, clock = transformers.LlamaForCausalLM(config), StepClock(now)

    class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return 1 << 20

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            row = np.random.default_rng(index).integers(0, 512, WINDOW)
            return {"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)}

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.ends.append(now())

    arguments = transformers.TrainingArguments(
        str(folder / "hf"), per_device_train_batch_size=ROWS, max_steps=steps + 1, learning_rate=1e-4,
        max_grad_norm=1.0, bf16=dtype == "bfloat16", use_cpu=True, logging_steps=1000, save_strategy="no",
        report_to=[], disable_tqdm=True, optim="adamw_torch_fused",
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        transformers.Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[Watch()]).train()
    return clock, sum(parameter.numel() for parameter in model.parameters())


def compare(
    folder: Path, dtype: str, rounds: int, steps: int, threads: int, now: Callable[[], float]
) -> dict[str, float]:
    """Alternate both, after a round that is not counted."""
    rates: list[tuple[float, float]] = []
    own: list[float] = []
    for round_ in range(rounds + 1):
        mine = ours(folder, dtype, steps if round_ else 1, threads, now)
        other, their_size = theirs(folder, dtype, steps if round_ else 1, now)
        if round_:
            rates.append(tuple(ROWS * WINDOW / statistics.median(clock.seconds()) for clock in (mine, other)))  # type: ignore[arg-type]
            own += mine.own_shares()
    our_model = build_model(ModelConfig.from_dict({**MODEL, "compute_dtype": dtype}), device="meta")
    return {
        "ours_tokens_per_second": statistics.median(mine for mine, _ in rates),
        "hf_trainer_tokens_per_second": statistics.median(other for _, other in rates),
        "ratio": statistics.median(mine / other for mine, other in rates),
        "own_cost_percent": 100 * statistics.median(own),
        "our_parameters": sum(parameter.numel() for parameter in our_model.parameters()),
        "their_parameters": their_size,
    }


def main() -> None:
    """Print the figures of each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    threads = 1 if args.clock == "processor" else args.threads
    now = time.process_time if args.clock == "processor" else time.perf_counter
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_workspace(folder)
        figures = {dtype: compare(folder, dtype, args.rounds, args.steps, threads, now) for dtype in args.dtypes}
    if args.json:
        print(json.dumps(figures))
        return
    for dtype, values in figures.items():
        print(dtype)
        for name, value in values.items():
            print(f"  {name:<30}{value:>14,.2f}")


if __name__ == "__main__":
    main()
