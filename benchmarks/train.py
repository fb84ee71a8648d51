"""Training a GLM-5-style dense model of about 28 M parameters beside HF Trainer with Llama of the same size.

Both train through their own loop, ours being `python -m trainer pretrain`, on causal rows of 512 random tokens, 4 rows
a step, fused AdamW and clipping. Runs alternate, each a process of its own, so that none inherits what another has set
or compiled. A run's rate is that of all its steps but the first two (and the last of ours, which always writes a line
of metrics), a rate is the median of the runs' rates, and a ratio is the median of neighbouring runs' ratios. What is no
part of a step (a model's making, evaluation, the last checkpoint) is not timed. The trainer's own cost is all of a step
that is not forward, backward or the update: waiting for rows, norms, statistics, metrics (clipping is a part of the
update, which divides while it reads the gradients). Ours writes metrics every 10th step, as it does unless told
otherwise, and so in one of the 10 steps that count by default: the own cost is the mean over an interval with its line.
What a step with a line and one without it cost is printed beside it.

With `--compile` both also run compiled, ours with `devices.compile: true` (each layer) and HF Trainer with
`torch_compile=True` (the model). Compiling takes tens of seconds in the first steps, of which three are left out then.

On a machine that has other work, `--clock processor` counts the process's seconds of processor time, on one thread.

    python benchmarks/train.py [--compile] [--rounds 3] [--steps 10] [--threads 2] [--clock wall] [--dtypes float32]
        [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
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

import trainer.loop
from data.token_shards import TokenShardWriter
from model.build import build_model
from model.config import ModelConfig
from model.transformer import Transformer
from tokenizer.config import SampleConfig, TokenizerConfig
from tokenizer.load import load_tokenizer
from tokenizer.train import train as train_tokenizer
from trainer.__main__ import pretrain_command
from trainer.metrics import Interval
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
    left_out: int
    """Steps of a run that are not counted, at least the first, since nothing says when it began."""
    ends: list[float] = field(default_factory=list)
    inner: list[float] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    """Numbers of the steps (from 0) that wrote a line of metrics."""
    _sum: float = 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, with its seconds counted as the model's."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = self.now()
            result = call(*args, **kwargs)
            self._sum += self.now() - began
            return result

        return wrapped

    def ending(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, which is the first thing after a step."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.ends.append(self.now())
            self.inner.append(self._sum)
            self._sum = 0.0
            return call(*args, **kwargs)

        return wrapped

    def noting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, which a step makes that writes a line."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.lines.append(len(self.ends))
            return call(*args, **kwargs)

        return wrapped

    def timing(self, steps: int) -> Timing:
        """Of the `steps` steps that count."""
        counted = self.ends[self.left_out - 1 : self.left_out + steps]
        seconds = [after - before for before, after in itertools.pairwise(counted)]
        inner = self.inner[self.left_out : self.left_out + steps]
        own = [whole - within for whole, within in zip(seconds, inner, strict=True)] if inner else []
        return Timing(seconds, own, [number - self.left_out for number in self.lines])


@dataclass(frozen=True)
class Timing:
    """The steps of a run that count."""

    seconds: list[float]
    own: list[float]
    """Of each the seconds that are not the model's; empty for the peer."""
    lines: list[int]
    """Numbers of the steps that wrote a line of metrics; others than those that count may be among them."""

    def rate(self) -> float:
        """Tokens a second."""
        return ROWS * WINDOW * len(self.seconds) / sum(self.seconds)

    def own_milliseconds(self, *, with_line: bool) -> list[float]:
        """Own cost of each step that wrote a line, or of each that did not."""
        return [1e3 * own for number, own in enumerate(self.own) if (number in self.lines) == with_line]


@contextlib.contextmanager
def watched(clock: StepClock) -> Iterator[None]:
    """Time the model's forward and backward passes and the optimiser's update; see where steps end and write."""
    places: list[tuple[Any, str, Callable[..., Any]]] = [
        (Transformer, "forward", clock.timed), (torch.Tensor, "backward", clock.timed),
        (Optimizer, "step", clock.timed), (trainer.loop, "evaluate_and_save", clock.ending),
        (Interval, "summary", clock.noting),
    ]  # fmt: skip
    before = [getattr(owner, name) for owner, name, _ in places]
    for owner, name, wrap in places:
        setattr(owner, name, wrap(getattr(owner, name)))
    try:
        yield
    finally:
        for (owner, name, _), call in zip(places, before, strict=True):
            setattr(owner, name, call)


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


def ours(folder: Path, dtype: str, steps: int, clock: StepClock, *, compiled: bool) -> None:
    """A run of `steps` steps through the command line's function."""
    config = {
        "model": {**MODEL, "compute_dtype": dtype},
        "stages": [
            {
                "name": "pretrain", "steps": steps, "data": {"window": WINDOW}, "objective": {"kind": "causal"},
                "batch": {"tokens": ROWS * WINDOW, "micro_batch_rows": ROWS}, "schedule": {"peak": 1e-4},
            }
        ],
        "evaluation": {"rows_per_language": 1},
        "devices": {"device": "cpu", "threads": torch.get_num_threads(), "compile": compiled},
    }  # fmt: skip
    path, run = folder / "run.yaml", folder / "run"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.rmtree(run, ignore_errors=True)
    with watched(clock), contextlib.redirect_stderr(io.StringIO()):
        pretrain_command(
            [
                "--config", str(path), "--data", str(folder / "tokenize"), "--tokenizer", str(folder / "tokenizer"),
                "--run", str(run),
            ]
        )  # fmt: skip
    if len(clock.ends) < steps:
        sys.exit("the run was asked to stop")  # which the trainer does in good order


def llama() -> Any:
    """The peer's model."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=6,
        intermediate_size=1024, max_position_embeddings=WINDOW, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def theirs(folder: Path, dtype: str, steps: int, clock: StepClock, *, compiled: bool) -> None:
    """A run of `steps` steps of HF Trainer."""
    import transformers

    class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return 1 << 20

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            row = np.random.default_rng(index).integers(0, 512, WINDOW)
            return {"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)}

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.ends.append(clock.now())

    arguments = transformers.TrainingArguments(
        str(folder / "hf"), per_device_train_batch_size=ROWS, max_steps=steps, learning_rate=1e-4,
        max_grad_norm=1.0, bf16=dtype == "bfloat16", use_cpu=True, logging_steps=1000, save_strategy="no",
        report_to=[], disable_tqdm=True, optim="adamw_torch_fused", torch_compile=compiled,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        transformers.Trainer(model=llama(), args=arguments, train_dataset=Rows(), callbacks=[Watch()]).train()


def in_its_own_process(
    run: Callable[..., None], folder: Path, dtype: str, steps: int, compiled: bool, now: Callable[[], float]
) -> Timing:
    """The timing of a run.

    The process is a fork of this one, which has computed nothing yet and so has no threads that a fork would lose.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        clock = StepClock(now, left_out=3 if compiled else 2)
        run(folder, dtype, clock.left_out + steps + (run is ours), clock, compiled=compiled)
        sender.send(clock.timing(steps))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    sender.close()
    try:
        found: Timing = receiver.recv()
    except EOFError:
        sys.exit(f"{run.__name__} failed")
    process.join()
    return found


def compare(
    folder: Path, dtype: str, rounds: int, steps: int, compiled: bool, now: Callable[[], float]
) -> dict[str, float]:
    """Alternate all runs. The ratios' names say what is over what."""
    runs = {"ours": (ours, False), "hf_trainer": (theirs, False)}
    if compiled:
        runs |= {"ours_compiled": (ours, True), "hf_trainer_compiled": (theirs, True)}
    timings: dict[str, list[Timing]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (run, compiles) in runs.items():
            timings[name].append(in_its_own_process(run, folder, dtype, steps, compiles, now))
            print(f"{dtype} {name}: {timings[name][-1].rate():,.0f} tokens/s", file=sys.stderr, flush=True)
    rates = {name: [timing.rate() for timing in found] for name, found in timings.items()}
    figures = {f"{name}_tokens_per_second": statistics.median(values) for name, values in rates.items()}
    for mine, other in (
        ("ours", "hf_trainer"),
        ("ours_compiled", "hf_trainer"),
        ("ours_compiled", "hf_trainer_compiled"),
    ):
        if mine in rates:
            pairs = zip(rates[mine], rates[other], strict=True)
            figures[f"{mine}_over_{other}"] = statistics.median(one / two for one, two in pairs)
    for name in ("ours", "ours_compiled"):
        figures |= own_costs(name, timings.get(name, []))
    our_model = build_model(ModelConfig.from_dict(MODEL), device="meta")
    with torch.device("meta"):
        their_model = llama()
    figures["our_parameters"] = sum(parameter.numel() for parameter in our_model.parameters())
    figures["hf_trainer_parameters"] = sum(parameter.numel() for parameter in their_model.parameters())
    return figures


def own_costs(name: str, timings: list[Timing]) -> dict[str, float]:
    """The trainer's own cost: its share of all steps that count, and milliseconds with a line of metrics and without.

    The share is the median of the runs'.
    """
    if not timings:
        return {}
    figures = {f"{name}_own_cost_percent": statistics.median(100 * sum(t.own) / sum(t.seconds) for t in timings)}
    for kind, with_line in (("plain", False), ("logging", True)):
        if costs := [cost for timing in timings for cost in timing.own_milliseconds(with_line=with_line)]:
            figures[f"{name}_own_ms_of_a_{kind}_step"] = statistics.median(costs)
    return figures


def main() -> None:
    """Print the figures of each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="also run both compiled")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
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
        making = multiprocessing.get_context("fork").Process(target=make_workspace, args=(folder,))
        making.start()
        making.join()
        figures = {dtype: compare(folder, dtype, args.rounds, args.steps, args.compile, now) for dtype in args.dtypes}
    if args.json:
        print(json.dumps(figures))
        return
    for dtype, values in figures.items():
        print(dtype)
        for name, value in values.items():
            print(f"  {name:<40}{value:>14,.2f}")


if __name__ == "__main__":
    main()
