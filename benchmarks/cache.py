"""Greedy generation with the cache of keys and values beside reading the whole row for every token.

Three models of about ten million active parameters, untrained: GLM-130B's family, GLM-5's with dense attention, and
with sparse attention over 128 keys. Printed are CPU milliseconds a token on one thread, whether both write the same
tokens, and kilobytes that the cache holds a token.

    python benchmarks/cache.py [--prompt 512] [--tokens 32] [--json]
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
import yaml
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.build import build_model
from model.config import IndexerConfig, InitialisationConfig, ModelConfig
from model.transformer import Transformer

ROOT = Path(__file__).resolve().parents[1]


def built(name: str, sparse: bool = False) -> Transformer:
    """A shipped configuration in float32, its weights large enough that what it writes is not one token."""
    text = (ROOT / "configs" / "pretrain" / f"{name}.yaml").read_text(encoding="utf-8")
    config = ModelConfig.from_dict(yaml.safe_load(text)["model"])
    config = dataclasses.replace(
        config, vocab_size=8192, compute_dtype="float32", initialisation=InitialisationConfig(std=0.05)
    )
    if sparse:
        indexer = IndexerConfig(num_heads=8, head_dim=64, top_k=128)
        config = dataclasses.replace(config, attention=dataclasses.replace(config.attention, indexer=indexer))
    model = build_model(config).eval()
    model.set_sparse_attention("sparse" if sparse else "off")
    return model


@torch.no_grad()
def written(model: Transformer, prompt: Tensor, tokens: int, cached: bool) -> tuple[list[int], float, int]:
    """The tokens, CPU milliseconds for each after the first (which reads the prompt), bytes of the cache."""
    cache = model.new_cache() if cached else None
    row, ids, start = prompt, [], 0.0
    for number in range(tokens):
        new = row if cache is None else row[:, cache.length :]
        ids.append(int(model(new, cache=cache).logits[0, -1].argmax()))
        row = torch.cat((row, torch.tensor([ids[-1:]])), dim=1)
        if number == 0:
            start = time.process_time()
    spent = time.process_time() - start
    return ids, 1000 * spent / (tokens - 1), 0 if cache is None else cache.nbytes()


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prompt = torch.randint(8192, (1, arguments.prompt), generator=torch.Generator().manual_seed(0))
    figures: dict[str, dict[str, float]] = {}
    for name, sparse in (("glm130b-10m", False), ("glm5-30m-a10m", False), ("glm5-30m-a10m", True)):
        model = built(name, sparse)
        whole, plain, _ = written(model, prompt, arguments.tokens, cached=False)
        again, quick, size = written(model, prompt, arguments.tokens, cached=True)
        figures[f"{name} sparse" if sparse else name] = {
            "milliseconds_whole": plain,
            "milliseconds_cached": quick,
            "times_as_fast": plain / quick,
            "same_tokens": float(whole == again),
            "kilobytes_a_token": size / 1024 / (arguments.prompt + arguments.tokens),
        }
    if arguments.json:
        print(json.dumps(figures))
        return
    for group, values in figures.items():
        print(group, " ".join(f"{key} {value:.4g}" for key, value in values.items()))


if __name__ == "__main__":
    main()
