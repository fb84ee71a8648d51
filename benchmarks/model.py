"""Forward and backward passes of our models beside transformers' on the same shapes, in one run on the CPU.

    dense      our GLM-4.5 configuration with every layer dense, and transformers' Glm4Moe of the same
    moe        the same with experts, eight a token and a third as wide as the hidden size as GLM-4.5's are, each with
               the experts' kernel that its library chooses (a grouped matmul in both)
    blanks     GLM-130B's parts on packed blank-infilling rows (four windows), beside causal rows of the same length
    mask       FlexAttention's block lists written from the offsets, beside torch's create_block_mask

Runs alternate; a figure is the median, in tokens a second of the process's CPU time on one thread (so that neighbours
on the machine weigh less); a ratio is the median of the ratios of neighbouring runs. Every position is a target.

    python benchmarks/model.py [--rounds 7] [--only dense moe blanks mask] [--json]

On a GPU, add --device cuda: then MFU of glm130b-1b and glm5-1b-a200m at 4,096 in bfloat16, compiled, blank infilling
beside causal, and FlexAttention beside SDPA with a mask.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from model.attention_mask import block_mask, build, visible_pairs  # noqa: E402
from model.build import build_model  # noqa: E402
from model.config import AttentionConfig, ExpertsConfig, FeedForwardConfig, ModelConfig, PositionConfig  # noqa: E402
from model.flops import flops_per_token  # noqa: E402
from model.hugging_face_config import to_hugging_face  # noqa: E402

VOCABULARY = 8192
PEAK_FLOPS = 989e12
"""One H200's or H100's bfloat16 peak, for MFU."""
DENSE = ModelConfig(
    vocab_size=VOCABULARY,
    hidden_size=384,
    num_layers=8,
    max_positions=2048,
    position=PositionConfig(rope_fraction=0.5),
    attention=AttentionConfig(num_heads=6, num_key_value_heads=2, head_dim=64, qkv_bias=True, qk_norm=True),
    feed_forward=FeedForwardConfig(inner_size=1024),
)
MOE = dataclasses.replace(
    DENSE,
    experts=ExpertsConfig(num_experts=32, top_k=8, inner_size=128, first_dense_layers=1, balance_loss_weight=0.0),
)


def configuration(name: str, **changes: object) -> ModelConfig:
    text = (ROOT / "configs" / "pretrain" / f"{name}.yaml").read_text(encoding="utf-8")
    return dataclasses.replace(ModelConfig.from_dict(yaml.safe_load(text)["model"]), **changes)  # type: ignore[arg-type]


def packed_blanks(rows: int, length: int, windows: int = 4) -> tuple[Tensor, Tensor]:
    """(document, context_end) of rows of `windows` windows with GLM-130B's proportions: seven eighths are context."""
    size = length // windows
    document = torch.arange(windows).repeat_interleave(size).expand(rows, length)
    return document.contiguous(), (document * size + size * 7 // 8).contiguous()


def ours(config: ModelConfig, rows: int, length: int, blanks: bool = False) -> Callable[[], None]:
    """One forward and backward pass, every position a target."""
    model = build_model(config)
    tokens = torch.randint(0, VOCABULARY, (rows, length))
    inputs = packed_blanks(rows, length) if blanks else (None, None)

    def step() -> None:
        model(tokens, None, *inputs, tokens).losses.mean().backward()
        model.zero_grad()

    return step


def theirs(config: ModelConfig, rows: int, length: int) -> Callable[[], None]:
    """The same by transformers, its own loss and its default kernels."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = to_hugging_face(config)
    values = {key: value for key, value in values.items() if key not in ("architectures", "model_type", "dtype")}
    settings = AutoConfig.for_model("glm4_moe", **values)
    model = AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa", dtype=torch.float32).train()
    tokens = torch.randint(0, VOCABULARY, (rows, length))

    def step() -> None:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        model.zero_grad()

    return step


def alternated(steps: dict[str, Callable[[], None]], tokens: int, rounds: int) -> dict[str, float]:
    """Tokens a second of each step, and the first's ratio to each of the others."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number:
                seconds[name].append(time.process_time() - start)
    figures = {f"{name}_tokens_per_second": tokens / statistics.median(taken) for name, taken in seconds.items()}
    first, *others = seconds
    for other in others:
        pairs = zip(seconds[other], seconds[first], strict=True)
        figures[f"{first}_over_{other}"] = statistics.median(b / a for b, a in pairs)
    return figures


def masks(rounds: int) -> dict[str, float]:
    """Milliseconds to list the blocks of one row of 8,192 in 16 windows."""
    from torch.nn.attention.flex_attention import create_block_mask

    document, context_end = packed_blanks(1, 8192, windows=16)
    rule = block_mask(document, context_end).mask_mod
    figures = {}
    for name, step, times in (
        ("ours_milliseconds", lambda: block_mask(document, context_end), rounds),
        ("create_block_mask_milliseconds", lambda: create_block_mask(rule, 1, None, 8192, 8192, device="cpu"), 1),
    ):
        taken = []
        for _ in range(times + 1):
            start = time.process_time()
            step()
            taken.append(1000 * (time.process_time() - start))
        figures[name] = statistics.median(taken[1:])
    return figures


def on_cpu(only: list[str], rounds: int) -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    figures: dict[str, dict[str, float]] = {}
    for name, config in (("dense", DENSE), ("moe", MOE)):
        if name in only:
            steps = {"ours": ours(config, 2, 512), "transformers": theirs(config, 2, 512)}
            figures[name] = alternated(steps, 1024, rounds)
    if "blanks" in only:
        for length in (512, 2048):
            config = configuration("glm130b-10m", vocab_size=VOCABULARY, compute_dtype="float32")
            rows = 2048 // length
            steps = {"blanks": ours(config, rows, length, blanks=True), "causal": ours(config, rows, length)}
            figures[f"blanks_{length}"] = alternated(steps, rows * length, rounds)
            taken = 1 / figures[f"blanks_{length}"]["blanks_over_causal"]
            figures[f"blanks_{length}"]["time_of_blanks_over_causal"] = taken
    if "mask" in only:
        figures["mask_8192"] = masks(rounds)
    return figures


def on_gpu(rounds: int) -> dict[str, dict[str, float]]:
    """Model operations a second over the peak, compiled, bfloat16, four rows of 4,096."""
    figures = {}
    for name in ("glm130b-1b", "glm5-1b-a200m"):
        for mask in ("causal", "blanks") if name == "glm130b-1b" else ("causal",):
            for backend in ("flex", "sdpa") if mask == "blanks" else ("auto",):
                config = configuration(name, vocab_size=32768)
                config = dataclasses.replace(config, attention=dataclasses.replace(config.attention, backend=backend))
                figures[f"{name} {mask} {backend}"] = _gpu_run(config, mask == "blanks", rounds)
    return figures


def _gpu_run(config: ModelConfig, blanks: bool, rounds: int, rows: int = 4, length: int = 4096) -> dict[str, float]:
    device = torch.device("cuda")
    model = build_model(config, device)
    for layer in model.layers:
        layer.compile()
    tokens = torch.randint(0, config.vocab_size, (rows, length), device=device)
    places = [part.to(device) for part in packed_blanks(rows, length)]
    backend = "sdpa" if config.attention.backend == "sdpa" else "flex"
    mask = build(*places, backend) if blanks else build(None, None, backend)
    visible = float(visible_pairs(*places).float().mean()) / length if blanks else (length + 1) / 2
    seconds = []
    for number in range(rounds + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model(tokens, targets=tokens, attention_mask=mask).losses.mean().backward()
        torch.cuda.synchronize()
        if number >= 3:
            seconds.append(time.perf_counter() - start)
    rate = rows * length / statistics.median(seconds)
    return {
        "tokens_per_second": rate,
        "mfu": rate * flops_per_token(config, visible).training / PEAK_FLOPS,
        "peak_gigabytes": torch.cuda.max_memory_allocated() / 1e9,
    }


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=["dense", "moe", "blanks", "mask"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = on_gpu(arguments.rounds) if arguments.device == "cuda" else on_cpu(arguments.only, arguments.rounds)
    if arguments.json:
        print(json.dumps(figures))
        return
    for group, values in figures.items():
        print(group)
        for key, value in values.items():
            print(f"  {key:<36}{value:>12.2f}")


if __name__ == "__main__":
    main()
