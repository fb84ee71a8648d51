"""Sparse attention beside dense attention, forward and backward of one layer, at growing lengths.

On the CPU: our layer in sparse mode with the reference (selection, attention over the selected keys, the indexer's
loss) and the same layer in dense mode with torch's causal SDPA, each in a process of its own. Printed are CPU
milliseconds and kilobytes of peak memory above the start, a token; dense attention's milliseconds grow.

    python benchmarks/sparse_attention.py [--lengths 8192 16384 32768] [--modes dense sparse] [--top-k 512] [--json]

On a GPU, --device cuda with GLM-5's widths, bfloat16 and top-k 2,048: the relative error of the Triton kernel against
the reference, and the times of its forward and backward passes beside FlexAttention's dense MLA at 8k, 32k and 128k.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import model.sparse_attention as sparse
from model.attention import attend
from model.attention_mask import AttentionMask, build
from model.block_inputs import BlockInputs, SparseMode
from model.config import AttentionConfig, IndexerConfig, LatentConfig, ModelConfig, PositionConfig
from model.latent_attention import LatentAttention
from model.rope import rotation

MODES: dict[str, SparseMode] = {"dense": "off", "sparse": "sparse", "warmup": "warmup"}
SMALL = ModelConfig(
    hidden_size=256,
    position=PositionConfig(rope_base=1e6, rope_layout="interleaved"),
    attention=AttentionConfig(
        kind="latent",
        num_heads=8,
        latent=LatentConfig(q_lora_rank=128, kv_lora_rank=64, qk_nope_head_dim=48, qk_rope_head_dim=16, v_head_dim=64),
        indexer=IndexerConfig(num_heads=4, head_dim=32),
    ),
)
GLM_5 = LatentConfig(q_lora_rank=2048, kv_lora_rank=512, qk_nope_head_dim=192, qk_rope_head_dim=64, v_head_dim=256)


def with_top_k(config: ModelConfig, top_k: int) -> ModelConfig:
    indexer = dataclasses.replace(config.attention.indexer, top_k=top_k)
    return dataclasses.replace(config, attention=dataclasses.replace(config.attention, indexer=indexer))


def layer_pass(mode: str, length: int, top_k: int) -> Callable[[], None]:
    """Forward and backward of one attention layer over one causal row."""
    layer = LatentAttention(with_top_k(SMALL, top_k))
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    hidden = torch.randn(1, length, SMALL.hidden_size)
    turning = rotation(torch.arange(length).unsqueeze(0), SMALL.rotary_dim, 1e6, "interleaved")
    inputs = BlockInputs(turning, AttentionMask("sdpa"), torch.tensor(1.0 / length), MODES[mode], 1.0)

    def step() -> None:
        layer(hidden.requires_grad_(), inputs).square().mean().backward()
        hidden.grad = None
        layer.zero_grad()

    return step


def resident(field: str) -> float:
    """Kilobytes: VmRSS of now or VmHWM, the highest of this process so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field))


def measured_here(mode: str, length: int, top_k: int) -> dict[str, float]:
    """CPU milliseconds and kilobytes a token of one pass in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer_pass(mode, 1024, min(top_k, 512))()
    step = layer_pass(mode, length, top_k)
    before, start = resident("VmRSS"), time.process_time()
    step()
    seconds = time.process_time() - start
    return {
        "milliseconds_a_token": 1000 * seconds / length,
        "kilobytes_a_token": (resident("VmHWM") - before) / length,
    }


def on_cpu(lengths: list[int], modes: list[str], top_k: int) -> dict[str, dict[str, float]]:
    """Every measurement in a process of its own."""
    figures = {}
    for length in lengths:
        for mode in modes:
            command = [sys.executable, __file__, "--one", mode, str(length), str(top_k)]
            figures[f"{mode} {length}"] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        if {"dense", "sparse"} <= set(modes):
            dense, chosen = (figures[f"{mode} {length}"]["milliseconds_a_token"] for mode in ("dense", "sparse"))
            figures[f"sparse {length}"]["times_as_fast_as_dense"] = dense / chosen
    return figures


def milliseconds(step: Callable[[], None], rounds: int = 10) -> float:
    """Median of synchronised passes on the GPU, after three."""
    taken = []
    for number in range(rounds + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if number >= 3:
            taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def on_gpu(lengths: list[int], heads: int = 64, top_k: int = 2048) -> dict[str, dict[str, float]]:
    """The kernel against the reference, and beside FlexAttention over expanded keys and values."""
    width, rotated = GLM_5.kv_lora_rank, GLM_5.qk_rope_head_dim
    figures: dict[str, dict[str, float]] = {}
    scale = (GLM_5.qk_nope_head_dim + rotated) ** -0.5
    for length in lengths:
        place = torch.arange(length, device="cuda")
        indices = torch.rand(1, length, top_k, device="cuda").mul_(place[:, None] + 1).int()
        indices = indices.masked_fill(place[None, :, None] < torch.arange(top_k, device="cuda"), -1)
        query = torch.randn(1, length, heads, width + rotated, device="cuda", dtype=torch.bfloat16)
        memory = torch.randn(1, length, width + rotated, device="cuda", dtype=torch.bfloat16)
        row = figures[f"{length}"] = {}
        if length <= 8192:
            row |= _errors(query, memory, indices, width, scale)

        def chosen(query: Tensor = query, memory: Tensor = memory, indices: Tensor = indices) -> None:
            output, _ = sparse.sparse_attend(query.requires_grad_(), memory.requires_grad_(), indices, width, scale)
            output.backward(output.detach())

        row["sparse_milliseconds"] = milliseconds(chosen)
        del query, memory, indices
        parts = (GLM_5.qk_nope_head_dim + rotated, GLM_5.qk_nope_head_dim + rotated, GLM_5.v_head_dim)
        q, k, v = (torch.randn(1, heads, length, part, device="cuda", dtype=torch.bfloat16) for part in parts)
        document = torch.zeros(1, length, dtype=torch.int64, device="cuda")
        mask = build(document, document, "flex")

        def dense(q: Tensor = q, k: Tensor = k, v: Tensor = v, mask: AttentionMask = mask) -> None:
            output = attend(q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), mask, scale)
            output.backward(output.detach())

        row["flex_milliseconds"] = milliseconds(dense)
        row["times_as_fast_as_flex"] = row["flex_milliseconds"] / row["sparse_milliseconds"]
    return figures


def _errors(query: Tensor, memory: Tensor, indices: Tensor, width: int, scale: float) -> dict[str, float]:
    """Norm of the difference over the norm, of the output and both gradients, the reference in float32."""
    results = []
    for attention, dtype in ((sparse.sparse_attend, query.dtype), (sparse.reference_attend, torch.float32)):
        inputs = (query.to(dtype).requires_grad_(), memory.to(dtype).requires_grad_())
        output, _ = attention(*inputs, indices, width, scale)
        results.append((output, *torch.autograd.grad(output, inputs, torch.ones_like(output))))
    names = ("output_error", "query_gradient_error", "memory_gradient_error")
    return {
        name: float((ours.float() - theirs).norm() / theirs.norm())
        for name, ours, theirs in zip(names, *results, strict=True)
    }


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=None)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=["dense", "sparse"])
    parser.add_argument("--top-k", type=int, default=512)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--one", nargs=3, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measured_here(arguments.one[0], int(arguments.one[1]), int(arguments.one[2]))))
        return
    if arguments.device == "cuda":
        figures = on_gpu(arguments.lengths or [8192, 32768, 131072])
    else:
        figures = on_cpu(arguments.lengths or [8192, 16384, 32768], arguments.modes, arguments.top_k)
    if arguments.json:
        print(json.dumps(figures))
        return
    for group, values in figures.items():
        print(group, " ".join(f"{key} {value:.4g}" for key, value in values.items()))


if __name__ == "__main__":
    main()
