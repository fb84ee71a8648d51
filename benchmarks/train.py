"""Training steps of a GLM-5-style dense model of about 28 M parameters beside HF Trainer with Llama of the same size.

Both train causally on rows of 512 random tokens, 4 rows a step, AdamW and clipping, through their own loop: ours is
the trainer's step (batch to tensors, forward, backward, norm, clip, update, sums), theirs is `transformers.Trainer`.
Runs alternate; figures are medians of tokens a second; the ratio is the median of neighbouring runs' ratios. The share
of a step that is neither forward and backward nor the update is the trainer's own cost.

    python benchmarks/train.py [--rounds 3] [--steps 3] [--threads 2] [--dtypes float32 bfloat16] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.build import build_model
from model.config import AttentionConfig, FeedForwardConfig, LatentConfig, ModelConfig, PositionConfig
from objectives.example import Batch, empty_batch
from trainer.config import OptimizerConfig
from trainer.devices import World
from trainer.gradients import clip, gradient_norms
from trainer.optimizers import Optimizer, assign
from trainer.step import LossWeights, StepRunner

VOCABULARY, ROWS, WINDOW, LAYERS, HIDDEN = 8192, 4, 512, 12, 384


def our_config(dtype: str) -> ModelConfig:
    """MLA and SwiGLU, no experts and no MTP."""
    return ModelConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_layers=LAYERS, compute_dtype=dtype,
        position=PositionConfig(rope_layout="interleaved"),
        attention=AttentionConfig(
            kind="latent", num_heads=6,
            latent=LatentConfig(
                q_lora_rank=192, kv_lora_rank=128, qk_nope_head_dim=48, qk_rope_head_dim=16, v_head_dim=64
            ),
        ),
        feed_forward=FeedForwardConfig(inner_size=1024),
    )  # fmt: skip


def rows(seed: int) -> Batch:
    """Causal rows of random tokens."""
    batch = empty_batch(ROWS, WINDOW, False)
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (ROWS, WINDOW + 1), dtype=np.int32)
    batch.tokens[:], batch.targets[:] = tokens[:, :-1], tokens[:, 1:]
    batch.loss_weights[:], batch.positions[:] = 1.0, np.arange(WINDOW)
    batch.document[:], batch.context_end[:] = 0, 0
    return batch


def ours(dtype: str) -> tuple[Callable[[int], tuple[float, float]], int]:
    """A function that runs some steps and returns seconds in all and seconds of the trainer's own."""
    model = build_model(our_config(dtype), seed=0)
    model.train()
    config = OptimizerConfig()
    optimizer = Optimizer(model, config, assign(model, config))
    device, one = torch.device("cpu"), torch.ones(())
    runner = StepRunner(model, np.ones(VOCABULARY, np.int32), device, World(), mtp_depth=0)
    forward, inner = model.forward, [0.0]
    backward = torch.Tensor.backward

    def timed(call: Callable) -> Callable:
        def wrapped(*args: object, **kwargs: object) -> object:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                inner[0] += time.perf_counter() - began

        return wrapped

    def run(steps: int) -> tuple[float, float]:
        inner[0] = 0.0
        model.forward = timed(forward)  # type: ignore[method-assign]
        torch.Tensor.backward = timed(backward)  # type: ignore[method-assign]
        step = timed(optimizer.step)
        began = time.perf_counter()
        for index in range(steps):
            runner.run(rows(index), ROWS, 1, LossWeights(), one)
            norm, _ = gradient_norms(model, one)
            clip(model, norm, 1.0, one)
            step(1e-4, None)
            optimizer.zero_grad()
        seconds = time.perf_counter() - began
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        return seconds, seconds - inner[0]

    return run, sum(parameter.numel() for parameter in model.parameters())


def theirs(dtype: str) -> tuple[Callable[[int], float], int]:
    """A function that runs some steps of HF Trainer and returns the seconds of its training loop."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=6,
        intermediate_size=1024, max_position_embeddings=WINDOW, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1 << 20

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            row = np.random.default_rng(index).integers(0, VOCABULARY, WINDOW)
            return {"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)}

    folder = tempfile.mkdtemp()

    def run(steps: int) -> float:
        arguments = transformers.TrainingArguments(
            folder, per_device_train_batch_size=ROWS, max_steps=steps, learning_rate=1e-4, max_grad_norm=1.0,
            bf16=dtype == "bfloat16", use_cpu=True, logging_steps=1000, save_strategy="no", report_to=[],
            disable_tqdm=True, optim="adamw_torch_fused",
        )  # fmt: skip
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Rows())
        began = time.perf_counter()
        trainer.train()
        return time.perf_counter() - began

    return run, sum(parameter.numel() for parameter in model.parameters())


def compare(dtype: str, rounds: int, steps: int) -> dict[str, float]:
    """Alternate both, after a warm-up of one step each."""
    our_run, our_size = ours(dtype)
    their_run, their_size = theirs(dtype)
    our_run(1), their_run(1)
    mine, other, own = [], [], []
    for _ in range(rounds):
        seconds, cost = our_run(steps)
        mine.append(steps * ROWS * WINDOW / seconds)
        own.append(cost / seconds)
        other.append(steps * ROWS * WINDOW / their_run(steps))
    return {
        "ours_tokens_per_second": statistics.median(mine),
        "hf_trainer_tokens_per_second": statistics.median(other),
        "ratio": statistics.median([a / b for a, b in zip(mine, other, strict=True)]),
        "own_cost_percent": 100 * statistics.median(own),
        "our_parameters": our_size,
        "their_parameters": their_size,
    }


def main() -> None:
    """Print the figures of each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = {dtype: compare(dtype, args.rounds, args.steps) for dtype in args.dtypes}
    if args.json:
        print(json.dumps(figures))
        return
    for dtype, values in figures.items():
        print(dtype)
        for name, value in values.items():
            print(f"  {name:<30}{value:>14,.2f}")


if __name__ == "__main__":
    main()
