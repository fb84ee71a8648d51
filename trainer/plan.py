"""What a run of a model takes: parameters and operations a token, beside the published figures where there are any.

Published counts leave out different things, so each is set beside the counts that it may mean: GLM-130B's 128.7 B is
everything; GLM-5's 744 B has embeddings and no MTP, and its 40 B active have neither, whatever the notes under the
tables say. The arithmetic decides.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from model.config import ModelConfig
from model.flops import ParameterCounts, count_parameters, flops_per_token


@dataclass(frozen=True)
class Published:
    """One published figure and which of our counts it means."""

    what: str
    theirs: float
    """Parameters in units of 10^9."""
    source: str
    ours: Callable[[ParameterCounts], int]


def _total(counts: ParameterCounts) -> int:
    return counts.total


def _total_with_mtp(counts: ParameterCounts) -> int:
    return counts.total_with_mtp


def _body(counts: ParameterCounts) -> int:
    return counts.body


def _body_with_mtp(counts: ParameterCounts) -> int:
    return counts.body + counts.mtp


def _active(counts: ParameterCounts) -> int:
    return counts.body_active


GLM_130B = (Published("total", 128.7, "arXiv 2210.02414, table 11, by arithmetic", _total),)
GLM_45 = (
    Published("total", 355, "arXiv 2508.06471, table 1", _total),
    Published("total with MTP", 355, "arXiv 2508.06471, table 1", _total_with_mtp),
    Published("blocks and MTP", 355, "arXiv 2508.06471, table 1", _body_with_mtp),
    Published("active, without embeddings", 32, "arXiv 2508.06471, table 1", _active),
)
GLM_45_AIR = (
    Published("total", 106, "arXiv 2508.06471, table 1", _total),
    Published("total with MTP", 106, "arXiv 2508.06471, table 1", _total_with_mtp),
    Published("blocks", 106, "arXiv 2508.06471, table 1", _body),
    Published("active, without embeddings", 12, "arXiv 2508.06471, table 1", _active),
)
GLM_5 = (
    Published("total", 743.9, "arXiv 2602.15763, table 10, by arithmetic", _total),
    Published("total with MTP", 753.9, "released checkpoint, by arithmetic", _total_with_mtp),
    Published("active, without embeddings", 39.9, "arXiv 2602.15763, table 10, by arithmetic", _active),
)
PUBLISHED = {
    (12288, 70, 150528): ("GLM-130B", GLM_130B),
    (5120, 92, 151552): ("GLM-4.5", GLM_45),
    (4096, 46, 151552): ("GLM-4.5-Air", GLM_45_AIR),
    (6144, 78, 154880): ("GLM-5", GLM_5),
}
"""Models by hidden size, layers and vocabulary."""


def plan(model: ModelConfig, length: int | None = None) -> dict[str, object]:
    """Parameters, operations a token on causal rows of `length` (default: at most 4,096), published counts beside.

    Of a configuration without a vocabulary (0, the tokenizer's) embedding and output are not counted.
    """
    length = length or min(model.max_positions, 4096)
    counts = count_parameters(model)
    flops = flops_per_token(model, visible_keys=(length + 1) / 2)
    name, figures = PUBLISHED.get((model.hidden_size, model.num_layers, model.vocab_size), ("", ()))
    rows = [
        {
            "what": figure.what,
            "ours_billion": figure.ours(counts) / 1e9,
            "published_billion": figure.theirs,
            "difference_percent": 100 * (figure.ours(counts) / 1e9 / figure.theirs - 1),
            "source": figure.source,
        }
        for figure in figures
    ]
    return {
        "vocab_size": model.vocab_size,
        "parameters": asdict(counts) | {"total": counts.total, "total_with_mtp": counts.total_with_mtp},
        "flops_per_token": {
            "length": length,
            "forward": flops.forward,
            "training": flops.training,
            "training_with_recompute": flops.training_with_recompute,
        },
        "published": {"name": name, "rows": rows},
    }


def plan_lines(figures: dict[str, object]) -> list[str]:
    """What `plan` returned, as lines of text."""
    parameters, flops, published = figures["parameters"], figures["flops_per_token"], figures["published"]
    assert isinstance(parameters, dict)
    assert isinstance(flops, dict)
    assert isinstance(published, dict)
    lines = ["parameters"]
    lines += [f"  {label:<34}{_count(parameters[key]):>10}" for key, label in LABELS.items()]
    if not figures["vocab_size"]:
        lines.append("  (vocab_size is the tokenizer's, so embedding and output are not counted)")
    lines.append(f"operations a token, causal rows of {flops['length']}")
    lines += [
        f"  {label:<34}{_count(flops[key]):>10}"
        for key, label in (
            ("forward", "forward"),
            ("training", "forward and backward"),
            ("training_with_recompute", "the same with all recomputed"),
        )
    ]
    if published["rows"]:
        lines.append(f"{published['name']}, in billions{'ours':>27}{'published':>11}{'difference':>12}")
        lines += [
            f"  {row['what']:<34}{row['ours_billion']:>10.2f}{row['published_billion']:>11}"
            f"{row['difference_percent']:>+11.2f}%  {row['source']}"
            for row in published["rows"]
        ]
    return lines


LABELS = {
    "total": "total",
    "total_with_mtp": "total with MTP",
    "body": "blocks",
    "body_active": "blocks, visited by a token",
    "embeddings": "embedding and output",
    "mtp": "MTP",
    "mtp_active": "MTP, visited by a token a depth",
}


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"
