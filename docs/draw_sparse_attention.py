"""Draw the picture of docs/sparse-attention.md and .zh.md from what benchmarks/sparse_retrieval.py wrote.

python docs/draw_sparse_attention.py FIGURES.json
"""

import json
import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

DENSE, SPARSE, RANDOM = "#777777", "#1f6fb4", "#d9822b"
LABELS = {
    "": {
        "losses": "Loss of an answer (nats)", "dense": "dense", "further": "dense, going on", "warmup": "warm-up",
        "sparse": "sparse", "floor": "lowest", "step": "step", "share": "Attention's mass on the chosen keys",
        "of_best": "of what the best choice holds", "random": "random choice", "chosen": "the indexer's choice",
        "map": "Layer {0}, one row: chosen keys blue, others white to red", "query": "query", "key": "key",
        "before": "before the warm-up", "after": "after it",
    },
    ".zh": {
        "losses": "答案的损失（nat）", "dense": "稠密", "further": "继续稠密训练", "warmup": "预热", "sparse": "稀疏",
        "floor": "下限", "step": "步", "share": "所选键占的注意力", "of_best": "相对于最佳选择", "random": "随机选择",
        "chosen": "索引器的选择", "map": "第 {0} 层的一行：所选的键为蓝，其余由白到红", "query": "查询", "key": "键",
        "before": "预热之前", "after": "预热之后",
    },
}  # fmt: skip


def draw_losses(axes: Axes, figures: dict, labels: dict[str, str]) -> None:
    """All stages on one line of steps; the two ways of going on share theirs."""
    curves = figures["curves"]
    dense = curves["dense"][-1]["step"]
    warm = dense + curves["warmup"][-1]["step"]

    def line(name: str, start: int, **style: object) -> None:
        axes.plot([start + point["step"] for point in curves[name]], [point["loss"] for point in curves[name]], **style)

    line("dense", 0, color=DENSE, label=labels["dense"])
    line("warmup", dense, color=RANDOM, label=labels["warmup"])
    line("dense_further", warm, color=DENSE, linestyle="--", label=labels["further"])
    line("sparse", warm, color=SPARSE, label=labels["sparse"])
    axes.axhline(figures["lowest_loss"], color="#bbbbbb", linewidth=0.8, label=labels["floor"])
    axes.set_ylim(figures["lowest_loss"] - 0.03, figures["lowest_loss"] + 0.27)
    axes.set_title(labels["losses"], fontsize=9)
    axes.set_xlabel(labels["step"], fontsize=8)
    axes.legend(fontsize=7, frameon=False)


def draw_share(axes: Axes, figures: dict, labels: dict[str, str]) -> None:
    """The chosen keys' mass over the best choice's, from before the warm-up to the end of sparse training."""
    warm = figures["curves"]["warmup"]
    points = [*warm, *({**p, "step": p["step"] + warm[-1]["step"]} for p in figures["curves"]["sparse"])]
    steps = [0, *(point["step"] for point in points)]
    chosen = [figures["coverage_before_warmup"], *(point["coverage"] for point in points)]
    axes.plot(steps, chosen, color=SPARSE, label=labels["chosen"])
    random = [points[0]["random"], *(point["random"] for point in points)]
    axes.plot(steps, random, color=RANDOM, label=labels["random"])
    axes.axvline(warm[-1]["step"], color="#bbbbbb", linewidth=0.8)
    axes.text(warm[-1]["step"], 0.02, f" {labels['sparse']}", fontsize=7, color="#777777")
    axes.text(0, 0.02, f"{labels['warmup']}", fontsize=7, color="#777777")
    axes.set_ylim(0, 1.02)
    axes.set_title(f"{labels['share']},\n{labels['of_best']}", fontsize=9)
    axes.set_xlabel(labels["step"], fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="center right", bbox_to_anchor=(1, 0.68))


def draw_map(axes: Axes, layer: dict, labels: dict[str, str]) -> None:
    """Attention's weights as shades: of blue on a query's chosen keys, of red on the others that it sees."""
    mass = np.sqrt(np.array(layer["mass"]))
    chosen = np.zeros(mass.shape, dtype=bool)
    for query, keys in enumerate(layer["chosen"]):
        chosen[query, [key for key in keys if key >= 0]] = True
    colours = np.where(chosen[..., None], np.array([0.80, 0.89, 0.97]), np.ones(3))
    strong = np.where(chosen[..., None], np.array([0.03, 0.19, 0.42]), np.array([0.75, 0.1, 0.05]))
    axes.imshow(colours + (strong - colours) * mass[..., None], interpolation="nearest", aspect="auto")
    axes.set_xlabel(labels["key"], fontsize=8)
    axes.set_ylabel(labels["query"], fontsize=8)


def draw(figures: dict, labels: dict[str, str], path: Path) -> None:
    """The whole picture: curves above; below, the layer that finds the answers, before the warm-up and after."""
    figure, axes = plt.subplots(2, 2, figsize=(8, 7), layout="constrained", height_ratios=(1, 1.35))
    draw_losses(axes[0, 0], figures, labels)
    draw_share(axes[0, 1], figures, labels)
    # The layer whose best few keys hold most.
    layer = int(np.argmax([one["oracle"] for one in figures["mass_after_warmup"]]))
    for place, when in zip(axes[1], ("before", "after"), strict=True):
        draw_map(place, figures[f"example_{when}"][layer], labels)
    axes[1, 0].set_title(f"{labels['map'].format(layer + 1)}\n{labels['before']}", fontsize=9)
    axes[1, 1].set_title(f"\n{labels['after']}", fontsize=9)
    for one in axes.flat:
        one.tick_params(labelsize=7)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Draw both pictures beside this file."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    figures = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    warnings.filterwarnings("ignore", message="Glyph")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tiankong", "font.family": "sans-serif"})
    for suffix, labels in LABELS.items():
        draw(figures, labels, Path(__file__).with_name(f"sparse-attention{suffix}.svg"))


if __name__ == "__main__":
    main()
