"""What an indexer learns: associative recall, where attention must find one key among many.

A row shows pairs, one token for a key and its value, each key once, among twice as many filler tokens in random order;
then come questions, a token for a key, whose answer is the value that the row gave it, or NOISE of the time a random
one, so that the loss ends at a known height. A two-layer GLM-5 with MLA learns it densely. Then its training goes on
twice from the same weights over the same rows: densely, and sparsely after a warm-up of the indexers. Reported: the
loss of the three parts; the mass of attention that the chosen keys hold, as a share of what the best choice of as many
keys would hold, of queries that see more than top-k keys, beside that of a random choice; and the loss of both ways at
equal steps, on rows that neither was trained on.

    python benchmarks/sparse_retrieval.py [--output FILE.json] [--json]     (about 4 minutes on one core)
"""

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.block_inputs import BlockInputs
from model.build import build_model
from model.config import (
    AttentionConfig,
    FeedForwardConfig,
    IndexerConfig,
    InitialisationConfig,
    LatentConfig,
    ModelConfig,
    PositionConfig,
)
from model.indexer import indexer_losses, reset_indexer_losses
from model.indexer_loss import target_distribution
from model.latent_attention import LatentAttention
from model.sparse_attention import select_keys
from model.transformer import Transformer

KEYS, VALUES, FILLERS, QUESTIONS = 32, 8, 16, 32
LESSONS = ((150, 4), (150, 12))
"""Steps and pairs of the first rows of the dense training, which learns to look back from short ones."""
NOISE = 0.1
ROWS = 16
TOP_K = 8
FLOOR = -(1 - NOISE + NOISE / VALUES) * math.log(1 - NOISE + NOISE / VALUES) - (NOISE - NOISE / VALUES) * math.log(
    NOISE / VALUES
)
"""Entropy of an answer for who has found the key: the lowest loss there is."""
CONFIG = ModelConfig(
    vocab_size=KEYS * VALUES + KEYS + VALUES + FILLERS,
    hidden_size=96,
    num_layers=2,
    max_positions=3 * KEYS + QUESTIONS,
    position=PositionConfig(rope_base=1e4, rope_layout="interleaved"),
    attention=AttentionConfig(
        kind="latent",
        num_heads=4,
        latent=LatentConfig(q_lora_rank=64, kv_lora_rank=48, qk_nope_head_dim=24, qk_rope_head_dim=16, v_head_dim=32),
        indexer=IndexerConfig(num_heads=8, head_dim=32, top_k=TOP_K),
    ),
    feed_forward=FeedForwardConfig(inner_size=192),
    initialisation=InitialisationConfig(std=0.1),
)


def rows(count: int, seed: int, pairs: int = KEYS) -> tuple[Tensor, Tensor]:
    """Tokens and targets (count, 3 pairs + QUESTIONS); only answers are targets."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(count, KEYS, generator=generator).argsort(dim=1)[:, :pairs]
    values = torch.randint(VALUES, (count, pairs), generator=generator)
    asked = torch.randint(pairs, (count, QUESTIONS), generator=generator)
    noise = torch.rand(asked.shape, generator=generator) < NOISE
    answers = torch.where(noise, torch.randint(VALUES, asked.shape, generator=generator), values.gather(1, asked))
    fillers = torch.randint(FILLERS, (count, 2 * pairs), generator=generator) + KEYS * VALUES + KEYS + VALUES
    shown = torch.cat((keys * VALUES + values, fillers), dim=1)
    shown = shown.gather(1, torch.rand(shown.shape, generator=generator).argsort(dim=1))
    tokens = torch.cat((shown, KEYS * VALUES + keys.gather(1, asked)), dim=1)
    return tokens, torch.cat((torch.full_like(shown, -1), KEYS * VALUES + KEYS + answers), dim=1)


def train(
    model: Transformer,
    steps: int,
    first_seed: int,
    peak: float,
    end: float,
    indexers_only: bool = False,
    lessons: tuple[tuple[int, int], ...] = (),
) -> Iterator[tuple[int, float, float]]:
    """Train by AdamW with a cosine from peak to end; yields step, mean loss and mean KL after each."""
    pairs = [number for length, number in lessons for _ in range(length)]
    model.train()
    parameters = [p for name, p in model.named_parameters() if not indexers_only or "indexer" in name]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(steps):
        rate = end + (peak - end) * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50)
        tokens, targets = rows(ROWS, first_seed + step, pairs[step] if step < len(pairs) else KEYS)
        reset_indexer_losses(model)
        scored = (targets >= 0).sum()
        loss = model(tokens, targets=targets, auxiliary_scale=1 / tokens.new_tensor(tokens.numel()).float()).losses
        (loss.sum() / scored).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        model.zero_grad()
        yield step + 1, float(loss.detach().sum() / scored), float(indexer_losses(model).mean())


@torch.no_grad()
def held_out(model: Transformer) -> tuple[float, float]:
    """Mean loss of an answer, and the share of answers that are the likeliest token."""
    model.eval()
    tokens, targets = rows(256, seed=10**9)
    scored = targets >= 0
    losses, hits = [], []
    for part in range(0, 256, 32):
        piece = slice(part, part + 32)
        losses.append(model(tokens[piece], targets=targets[piece]).losses[scored[piece]])
        hits.append((model(tokens[piece]).logits.argmax(dim=-1) == targets[piece])[scored[piece]])
    return float(torch.cat(losses).mean()), float(torch.cat(hits).float().mean())


@torch.no_grad()
def observed(model: Transformer, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each layer in dense attention: its weights summed over heads (B, S, S), and the keys its indexer would choose
    (B, S, TOP_K), -1 where a query sees fewer."""
    seen: list[tuple[Tensor, Tensor]] = []

    def look(module: torch.nn.Module, arguments: tuple[Tensor, BlockInputs]) -> None:
        assert isinstance(module, LatentAttention)
        assert module.indexer is not None
        hidden, inputs = arguments
        latent = module.q_a_layernorm(module.q_a_proj(hidden))
        query = module.rotated_query(latent, inputs.rotation)
        key, _ = module.expanded(*module.key_value_latent(hidden, inputs.rotation))
        length = hidden.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = (query @ key.transpose(-1, -2) * module.scale).masked_fill(later, float("-inf"))
        place = torch.arange(length).unsqueeze(0)
        states = module.indexer(hidden, latent, inputs.rotation)
        chosen = select_keys(states, torch.zeros_like(place), place + 1, TOP_K)
        seen.append((target_distribution(scores.softmax(dim=-1).transpose(1, 2)), chosen))

    training, mode, weight = model.training, model.sparse_mode, model.indexer_loss_weight
    attentions = [module for module in model.modules() if isinstance(module, LatentAttention)]
    hooks = [module.register_forward_pre_hook(look) for module in attentions]
    model.eval().set_sparse_attention("off")
    model(tokens)
    for hook in hooks:
        hook.remove()
    model.train(training).set_sparse_attention(mode, weight)
    return seen


def attention_mass(model: Transformer) -> list[dict[str, float]]:
    """Of each layer, the mean mass on the chosen keys, on as many best keys and on as many random keys: of all queries
    that see more keys than are chosen, and of the questions among them."""
    figures = []
    for mass, chosen in observed(model, rows(64, seed=10**9 + 1)[0]):
        length = mass.shape[1]
        layer = {}
        for start, prefix in ((TOP_K, ""), (length - QUESTIONS, "asked_")):
            late, kept = mass[:, start:], chosen[:, start:].long()
            layer[f"{prefix}chosen"] = float(late.gather(-1, kept).sum(-1).mean())
            layer[f"{prefix}oracle"] = float(late.topk(TOP_K).values.sum(-1).mean())
            layer[f"{prefix}random"] = float((TOP_K / torch.arange(start + 1, length + 1)).mean())
        figures.append(layer)
    return figures


def example(model: Transformer) -> list[dict[str, list[list[float]]]]:
    """Of one row and each layer, attention's weights and the chosen keys, for the picture."""
    layers = observed(model, rows(1, seed=10**9 + 2)[0])
    return [
        {"mass": [[round(x, 4) for x in line] for line in mass[0].tolist()], "chosen": chosen[0].tolist()}
        for mass, chosen in layers
    ]


def coverage(figures: list[dict[str, float]], which: str) -> float:
    """The mass that a choice holds over what the best choice holds, of all layers together."""
    oracle = "asked_oracle" if which.startswith("asked_") else "oracle"
    return sum(layer[which] for layer in figures) / sum(layer[oracle] for layer in figures)


def followed(
    model: Transformer, name: str, steps: int, every: int, mass: bool, **options: object
) -> list[dict[str, float]]:
    """Train and note a point of the curve every so many steps."""
    points = []
    losses: list[float] = []
    divergences: list[float] = []
    for step, loss, divergence in train(model, steps, **options):  # type: ignore[arg-type]
        losses.append(loss)
        divergences.append(divergence)
        if step % every and step != steps:
            continue
        point = {"step": step, "loss": sum(losses) / len(losses), "divergence": sum(divergences) / len(divergences)}
        if mass:
            figures = attention_mass(model)
            point |= {"coverage": coverage(figures, "chosen"), "random": coverage(figures, "random")}
            point["asked_coverage"] = coverage(figures, "asked_chosen")
        print(name, {key: round(value, 4) for key, value in point.items()}, file=sys.stderr, flush=True)
        points.append(point)
        losses, divergences = [], []
    return points


def experiment(dense_steps: int, warmup_steps: int, further_steps: int) -> dict[str, object]:
    """The three stages and what they show."""
    start = time.perf_counter()
    model = build_model(CONFIG, seed=0)
    curves = {
        "dense": followed(
            model, "dense", dense_steps, 50, mass=False, first_seed=0, peak=3e-3, end=1e-3, lessons=LESSONS
        )
    }
    before, example_before = attention_mass(model), example(model)
    dense = copy.deepcopy(model)
    further = {"first_seed": 10**6, "peak": 1e-3, "end": 1e-4}
    curves["dense_further"] = followed(dense, "dense further", further_steps, 50, mass=False, **further)
    model.set_sparse_attention("warmup")
    curves["warmup"] = followed(
        model, "warm-up", warmup_steps, 20, mass=True, first_seed=2 * 10**6, peak=1e-2, end=2e-4, indexers_only=True
    )
    after, example_after = attention_mass(model), example(model)
    model.set_sparse_attention("sparse")
    at_handover = held_out(model)
    curves["sparse"] = followed(model, "sparse", further_steps, 50, mass=True, **further)
    (dense_loss, dense_hits), (sparse_loss, sparse_hits) = held_out(dense), held_out(model)
    return {
        "curves": curves,
        "example_before": example_before,
        "example_after": example_after,
        "mass_before_warmup": before,
        "mass_after_warmup": after,
        "coverage_before_warmup": coverage(before, "chosen"),
        "coverage_after_warmup": coverage(after, "chosen"),
        "coverage_of_random": coverage(after, "random"),
        "asked_coverage_before_warmup": coverage(before, "asked_chosen"),
        "asked_coverage_after_warmup": coverage(after, "asked_chosen"),
        "asked_coverage_of_random": coverage(after, "asked_random"),
        "lowest_loss": FLOOR,
        "loss_at_handover": at_handover[0],
        "dense_loss": dense_loss,
        "sparse_loss": sparse_loss,
        "sparse_over_dense": sparse_loss / dense_loss,
        "dense_hits": dense_hits,
        "sparse_hits": sparse_hits,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs=3, default=[600, 600, 300], metavar=("DENSE", "WARMUP", "FURTHER"))
    parser.add_argument("--output", type=Path, default=None, help="write all curves here, for docs' picture")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = experiment(*arguments.steps)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    figures = {name: value for name, value in figures.items() if isinstance(value, float)}
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<28}{value:>10.4f}")


if __name__ == "__main__":
    main()
