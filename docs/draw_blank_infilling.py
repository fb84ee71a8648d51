"""Draw the pictures of docs/blank-infilling.md and .zh.md from the arrays that the objectives make.

python docs/draw_blank_infilling.py
"""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from objectives.example import Batch, visible
from objectives.layout import Marks, Numbering, Pieces, Spans, lay_out

MARKS = Marks(mask=100, sop=101, eop=102, pad=103)
GMASK = MARKS._replace(mask=104)
NAMES = {100: "[M]", 101: "sop", 102: "eop", 103: "pad", 104: "[g]"}
CONTEXT, ANSWER, PADDING, LINE = "#cfe3f5", "#fbd9a6", "#eeeeee", "#555555"
WORDS = {
    "": ["The", "wind", "has", "turned", "and", "all", "the", "boats", "come", "home"],
    ".zh": ["风", "向", "变", "了", "，", "所", "有", "船", "回", "港"],
}
LABELS = {
    "": {
        "tokens": "input", "targets": "target", "glm130b": "position, GLM-130B", "glm_1": "position 1, GLM",
        "glm_2": "position 2, GLM", "mask": "[MASK]: two spans, drawn in the order “{1}”, “{0}”",
        "suffix": "[gMASK]: two documents in one row, and padding", "query": "query", "key": "key",
    },
    ".zh": {
        "tokens": "输入", "targets": "目标", "glm130b": "位置（GLM-130B）", "glm_1": "位置 1（GLM）",
        "glm_2": "位置 2（GLM）", "mask": "[MASK]：两个片段，抽到的顺序为「{1}」「{0}」",
        "suffix": "[gMASK]：一行两篇文档，以及填充", "query": "查询", "key": "键",
    },
}  # fmt: skip


def examples(numbering: Numbering, of_suffix: Numbering) -> tuple[Batch, Batch]:
    """The worked example of [MASK], and a row of two [gMASK] suffixes."""
    text = np.arange(10)
    one = Pieces(np.array([0]), np.array([0]), np.array([10]))
    spans = Spans(np.array([0, 0]), np.array([2, 5]), np.array([1, 3]), np.array([1, 0]))
    masked = lay_out(text, one, spans, MARKS, rows=1, window=14, closed=True, numbering=numbering)
    two = Pieces(np.array([0, 0]), np.array([0, 5]), np.array([5, 5]))
    tails = Spans(np.array([0, 1]), np.array([3, 6]), np.array([2, 4]), np.array([0, 1]))
    suffix = lay_out(text, two, tails, GMASK, rows=1, window=14, closed=False, numbering=of_suffix)
    return masked, suffix


def fill(axes: Axes, cells: list[tuple[int, int]], colours: list[str]) -> None:
    """Unit squares at (column, row), those of one colour as one shape, which keeps the file small."""
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY]
    for colour in sorted(set(colours)):
        own = [cell for cell, other in zip(cells, colours, strict=True) if other == colour]
        outline = Outline(np.concatenate([square + cell for cell in own]), codes * len(own))
        axes.add_patch(PathPatch(outline, facecolor=colour, edgecolor="white"))


def draw_table(axes: Axes, batch: Batch, pair: Batch, words: list[str], labels: dict[str, str]) -> None:
    """Tokens, targets and positions of a row, a cell each; only targets that count are shown."""
    width = batch.tokens.shape[1]
    counts = batch.loss_weights[0] > 0
    is_padding = batch.tokens[0] == MARKS.pad
    names = NAMES | dict(enumerate(words))
    lines = [
        (labels["tokens"], [names[token] for token in batch.tokens[0]]),
        (labels["targets"], [names[token] if c else "" for token, c in zip(batch.targets[0], counts, strict=True)]),
        (labels["glm130b"], [str(position) for position in batch.positions[0]]),
        (labels["glm_1"], [str(position) for position in pair.positions[0, 0]]),
        (labels["glm_2"], [str(position) for position in pair.positions[0, 1]]),
    ]
    colours = [PADDING if is_padding[column] else ANSWER if counts[column] else CONTEXT for column in range(width)]
    fill(axes, [(column, line) for line in range(len(lines)) for column in range(width)], colours * len(lines))
    for height, (label, cells) in enumerate(lines):
        axes.text(-0.2, height + 0.5, label, ha="right", va="center", fontsize=8)
        for column, cell in enumerate(cells):
            axes.text(column + 0.5, height + 0.5, cell, ha="center", va="center", fontsize=7)
    axes.set(xlim=(0, width), ylim=(len(lines), 0))
    axes.axis("off")


def draw_mask(axes: Axes, batch: Batch, words: list[str], labels: dict[str, str]) -> None:
    """Who sees whom: a filled cell is a key (column) that the query (row) sees."""
    sees = visible(batch.document, batch.context_end)[0]
    names = NAMES | dict(enumerate(words))
    size = len(sees)
    in_context = np.arange(size) < batch.context_end[0]
    of_key = np.where(batch.tokens[0] == MARKS.pad, PADDING, np.where(in_context, CONTEXT, ANSWER))
    queries, keys = np.nonzero(sees)
    fill(axes, list(zip(keys.tolist(), queries.tolist(), strict=True)), of_key[keys].tolist())
    ticks = [names[token] for token in batch.tokens[0]]
    axes.set_xticks(np.arange(size) + 0.5, ticks, fontsize=6, rotation=90)
    axes.set_yticks(np.arange(size) + 0.5, ticks, fontsize=6)
    axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal")
    axes.set_xlabel(labels["key"], fontsize=8)
    axes.set_ylabel(labels["query"], fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_color(LINE)


def main() -> None:
    # The pictures keep their text as text; the reader's fonts draw it, and need not be here.
    warnings.filterwarnings("ignore", message="Glyph")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tiankong", "font.family": "sans-serif"})
    for language, words in WORDS.items():
        labels = LABELS[language]
        figure, axes = plt.subplots(2, 2, figsize=(11, 6.4), height_ratios=[1, 2.6], layout="constrained")
        joined = [("" if language else " ").join(words[low:high]) for low, high in ((2, 3), (5, 8))]
        for column, (title, batch, pair) in enumerate(
            zip(("mask", "suffix"), examples("repeated", "plain"), examples("glm", "glm"), strict=True)
        ):
            axes[0, column].set_title(labels[title].format(*joined), fontsize=9)
            draw_table(axes[0, column], batch, pair, words, labels)
            draw_mask(axes[1, column], batch, words, labels)
        target = Path(__file__).resolve().parent / f"blank-infilling{language}.svg"
        figure.savefig(target, metadata={"Date": None})
        if len(sys.argv) > 1:
            figure.savefig(Path(sys.argv[1]) / f"blank-infilling{language}.png", dpi=100)
        plt.close(figure)
        print(target)


if __name__ == "__main__":
    main()
