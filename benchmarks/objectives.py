"""How fast rows of tokens become examples, on one core, beside THUDM/GLM's own collator.

    python benchmarks/objectives.py [--peer CHECKOUT_OF_THUDM_GLM] [--data WORKSPACE/tokenize --tokenizer DIR] [--json]

Rates are source tokens a second of this process's CPU time, medians over alternated repeats. With `--peer` the
checkout's `blocklm_utils.py` is imported (its imports of Megatron's helpers are answered here) and works on the same
rows; that both make equal arrays is checked by laying out the spans that the peer drew. With `--data` the share of
rows that their room limited is counted on real text. `--wait MODEL.yaml` trains on CPU and times the loader's wait.
"""

import argparse
import json
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import yaml

from objectives.blank_infilling import BlankInfilling, BlankTask, marks_of, source_stride
from objectives.causal import build_causal
from objectives.config import GLM_10B, GLM_130B, BlankInfillingConfig, CausalConfig, ObjectiveConfig
from objectives.example import TASKS
from objectives.fim import build_fim, fim_stride
from objectives.layout import Pieces, Spans, lay_out
from objectives.mip import build_mip, index_pairs
from objectives.random import draw_bits, stream_key
from objectives.sentences import SentenceEnds
from objectives.source import SourceRows
from tokenizer.special_tokens import TEXT_OF_ROLE, SpecialTokens

VOCABULARY = 50_000
SPECIAL = SpecialTokens(**{role: VOCABULARY + number for number, role in enumerate(TEXT_OF_ROLE)})
ENC = VOCABULARY + len(TEXT_OF_ROLE)
DBLOCK = ENC + 1
# Tokens as text, one in twelve the end of a sentence.
TEXTS = ["。" if token % 12 == 0 else "字" for token in range(VOCABULARY)]
ONE_WINDOW = replace(GLM_130B, mask_windows=1, sentence_windows=1, sentence_share=0.3)


def random_rows(rows: int, length: int, document: int, seed: int = 0) -> SourceRows:
    """Rows of uniform tokens with a document's end every `document` tokens on average (0: none)."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, VOCABULARY, (rows, length)).astype(np.uint16)
    ends = np.flatnonzero(random.random(rows * length) < 1 / document) + 1 if document else np.zeros(0, np.int64)
    tokens.reshape(-1)[ends - 1] = SPECIAL.endoftext
    return SourceRows(tokens, ends, np.zeros(rows, np.bool_))


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


class Case:
    """One task at one window, ours and the peer's."""

    def __init__(self, name: str, config: BlankInfillingConfig, task: BlankTask, window: int, rows: int) -> None:
        self.name, self.task, self.window = name, task, window
        self.stride = source_stride(config, task, window)
        self.rows = rows
        ends = SentenceEnds([text.encode() for text in TEXTS] + [b""] * 20)
        self.builder = BlankInfilling(config, window, SPECIAL, ends)
        self.source = random_rows(rows, self.stride, document=1000)
        self.keys = draw_bits(stream_key(1), np.arange(rows))

    def ours(self) -> object:
        return self.builder.build(self.task, self.source, self.keys)


def load_peer(checkout: Path, case: Case) -> Any:
    """THUDM/GLM's ConstructBlockStrategy for a case."""
    if not (checkout / "blocklm_utils.py").is_file():
        raise FileNotFoundError(f"{checkout / 'blocklm_utils.py'}: --peer wants a checkout of THUDM/GLM")
    mpu, utils = types.ModuleType("mpu"), types.ModuleType("utils")
    vars(mpu).update(get_data_parallel_rank=lambda: 0, get_data_parallel_world_size=lambda: 1)
    vars(utils).update(print_rank_0=lambda *_: None)
    sys.modules.update({"mpu": mpu, "utils": utils})
    sys.path.insert(0, str(checkout))
    warnings.filterwarnings("ignore", message="Creating a tensor from a list")
    import blocklm_utils  # type: ignore[import-not-found]

    ids = {
        "MASK": SPECIAL.mask, "gMASK": SPECIAL.gmask, "sMASK": SPECIAL.smask, "sop": SPECIAL.sop, "eop": SPECIAL.eop,
        "eos": SPECIAL.endoftext, "pad": SPECIAL.endoftext, "ENC": ENC, "dBLOCK": DBLOCK,
    }  # fmt: skip
    commands = {name: types.SimpleNamespace(Id=number) for name, number in ids.items()}
    texts = [*TEXTS, *[""] * 20]
    tokenizer = types.SimpleNamespace(get_command=commands.__getitem__, IdToToken=texts.__getitem__)
    return blocklm_utils.ConstructBlockStrategy(
        types.SimpleNamespace(eod_token=SPECIAL.endoftext), tokenizer, case.window,
        bert_prob=float(case.task == "mask"), gap_sentence_prob=float(case.task == "sentence"),
        gpt_infill_prob=1.0, gpt_min_ratio=0.2, task_mask=True,
    )  # fmt: skip


def peer_samples(case: Case) -> list[dict[str, np.ndarray]]:
    """Rows of as many tokens as ours, in the form that the peer takes: one document each, opened by [ENC]."""
    source = random_rows(case.rows, case.stride, document=0, seed=2)
    rows = source.tokens.astype(np.int64)
    rows[:, 0] = ENC
    return [{"text": row, "loss_mask": np.ones(len(row), np.int64)} for row in rows]


def equal_to_peer(case: Case, peer: Any) -> int:
    """Lay out the peer's own spans and compare all arrays; the number of rows that were equal (all, or it raises)."""
    drawn: list[list[tuple[int, int]]] = []
    inner = peer.make_block_data

    def remember(tokens: Any, masks: Any, attention: Any, spans: list, rng: Any, task: str = "bert") -> Any:
        made = inner(tokens, masks, attention, spans, rng, task=task)
        drawn.append(list(spans))  # shuffled in place: the order of Part B
        return made

    samples = peer_samples(case)
    peer.make_block_data = remember
    theirs = peer.construct_blocks(samples)
    peer.make_block_data = inner
    if case.task == "document":
        separators = theirs["attention_mask"].tolist()
        drawn = [[(separator - 1, case.stride)] for separator in separators]
    if len(drawn) != len(samples):
        raise ValueError("the peer dropped samples; run again with other rows")
    order = [sorted(range(len(row)), key=lambda index, row=row: row[index][0]) for row in drawn]
    rank = [np.argsort(row) for row in order]
    first = np.cumsum([0] + [len(row) for row in drawn])
    row_K = np.repeat(np.arange(len(drawn)), np.diff(first))
    bounds = np.array([drawn[row][index] for row in range(len(drawn)) for index in order[row]])
    length = case.stride
    spans = Spans(
        row_K, bounds[:, 0] + row_K * length, bounds[:, 1] - bounds[:, 0],
        np.concatenate([ranks + start for ranks, start in zip(rank, first, strict=False)]),
    )  # fmt: skip
    number = np.arange(len(drawn))
    batch = lay_out(
        np.concatenate([sample["text"] for sample in samples]),
        Pieces(number, number * length, np.full(len(drawn), length)), spans, marks_of(SPECIAL, case.task),
        rows=len(drawn), window=2 * length, closed=case.task != "document", numbering="glm",
    )  # fmt: skip
    for row in range(len(drawn)):
        used = int((batch.tokens[row] != SPECIAL.pad).sum())
        pairs = [
            (theirs["text"][row], batch.tokens[row]),
            (theirs["target"][row], batch.targets[row]),
            (theirs["loss_mask"][row], batch.loss_weights[row]),
            (theirs["position_id"][row][0], batch.positions[row, 0]),
            (theirs["position_id"][row][1], batch.positions[row, 1]),
        ]
        if any((other[:used].numpy() != mine[:used]).any() for other, mine in pairs):
            raise ValueError(f"{case.name}: row {row} differs from the peer's")
        if int(theirs["attention_mask"][row]) != batch.context_end[row, 0]:
            raise ValueError(f"{case.name}: row {row} has another separator than the peer's")
    return len(drawn)


def measure(peer: Path | None, repeats: int) -> dict[str, dict[str, float]]:
    """Tokens a second of every task."""
    cases = [
        Case("[MASK] 4 x 512", GLM_130B, "mask", 2048, 64),
        Case("[MASK] 512", ONE_WINDOW, "mask", 512, 256),
        Case("[MASK] 2048", ONE_WINDOW, "mask", 2048, 64),
        Case("[sMASK] 512", ONE_WINDOW, "sentence", 512, 256),
        Case("[gMASK] 2048", GLM_130B, "document", 2048, 64),
        Case("[MASK] 512, GLM-10B", replace(GLM_10B, decoder_noise=0.0), "mask", 512, 256),
    ]
    figures: dict[str, dict[str, float]] = {}
    for case in cases:
        strategy = load_peer(peer, case) if peer is not None else None
        mine, theirs = [], []
        few = max(case.rows // 4, 1)
        samples = peer_samples(case)[:few]
        for _ in range(repeats):
            mine.append(case.rows * case.stride / seconds(case.ours))
            if strategy is not None:
                theirs.append(few * case.stride / seconds(lambda: strategy.construct_blocks(samples)))  # noqa: B023
        figures[case.name] = {"tokens_per_second": statistics.median(mine)}
        if strategy is not None:
            figures[case.name] |= {
                "peer_tokens_per_second": statistics.median(theirs),
                "ratio": statistics.median(mine) / statistics.median(theirs),
                "rows_equal_to_peer": equal_to_peer(case, load_peer(peer, case)) if peer is not None else 0,
            }
    causal = random_rows(64, 2049, 1000)
    config = CausalConfig(fim_rate=0.5)
    stride = fim_stride(config, 2048)
    code, keys = random_rows(64, stride + 1, 1000), draw_bits(stream_key(1), np.arange(64))
    random = np.random.default_rng(3)
    texts = [random.integers(0, VOCABULARY, size).astype(np.uint16) for size in random.integers(50, 400, 2000)]
    answers = [random.integers(0, VOCABULARY, size).astype(np.uint16) for size in random.integers(1, 60, 2000)]
    lengths = [np.array([len(part) for part in parts]) for parts in (texts, answers)]
    index = index_pairs(lengths[0], lengths[1], np.arange(2000), 2048, 4)
    pair_tokens = int((index.text_lengths + lengths[1])[index.pairs[: index.row_ends[63]]].sum())
    works: dict[str, tuple[int, Callable[[], object]]] = {
        "instruction pairs 2048": (
            pair_tokens // 64,
            lambda: build_mip(np.arange(64), index, texts, answers, GLM_130B, 2048, SPECIAL),
        ),
        "causal 2048": (2048, lambda: build_causal(causal, SPECIAL.pad)),
        "fill-in-the-middle 2048": (stride, lambda: build_fim(code, keys, config, 2048, SPECIAL)),
    }
    for name, (length, work) in works.items():
        rates = [64 * length / seconds(work) for _ in range(4 * repeats)]
        figures[name] = {"tokens_per_second": statistics.median(rates)}
    return figures


def limited_on(data: Path, tokenizer_folder: Path, window: int, samples: int) -> dict[str, dict[str, float]]:
    """Of real rows, a task: the share that the room limited, and of tokens left in pieces without a blank."""
    from tokenizer.load import load_tokenizer
    from trainer.data_config import DataConfig
    from trainer.loader import Loader

    tokenizer = load_tokenizer(tokenizer_folder)
    objective = ObjectiveConfig(blank_infilling=replace(GLM_130B, mask_share=1, sentence_share=1, document_share=1))
    loader = Loader(data, DataConfig(window=window), objective, tokenizer.special, 1, tokenizer=tokenizer)
    figures = {}
    batch = loader.batch(0, samples)
    for task in ("mask", "sentence", "document"):
        chosen = batch.task == TASKS.index(task)
        used = (batch.tokens[chosen] != tokenizer.special.pad).sum(axis=1)
        figures[f"{task} {window}"] = {
            "rows": int(chosen.sum()),
            "rows_limited": float(batch.limited[chosen].mean()),
            "tokens_without_blank": float(batch.unmasked[chosen].sum() / used.sum()),
            "positions_padded": float(1 - used.mean() / window),
            "share_of_targets": float(batch.loss_weights[chosen].sum() / used.sum()),
        }
    return figures


def loader_speed(data: Path, tokenizer_folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Row positions a second of a whole loader, reading from the shards included, in batches of 64 rows."""
    from tokenizer.load import load_tokenizer
    from trainer.data_config import DataConfig
    from trainer.loader import Loader

    tokenizer = load_tokenizer(tokenizer_folder)
    figures = {}
    for kind in ("blank_infilling", "causal"):
        for window in (2048, 256):
            loader = Loader(data, DataConfig(window=window), ObjectiveConfig(kind=kind), tokenizer.special, 1)
            loader.batch(0, 64)
            rates = [64 * window / seconds(lambda: loader.batch(64 * number, 64)) for number in range(1, 4 * repeats)]  # noqa: B023
            figures[f"{kind} {window}"] = {"positions_per_second": statistics.median(rates)}
    return figures


def loader_wait(run_config: Path, data: Path, tokenizer_folder: Path, steps: int) -> dict[str, float]:
    """The share of a training step on this CPU that waits for the loader."""
    from model.build import build_model
    from model.config import ModelConfig
    from tokenizer.load import load_tokenizer
    from trainer.data_config import DataConfig
    from trainer.loader import Loader

    settings = yaml.safe_load(run_config.read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(tokenizer_folder)
    stage = settings["stages"][0]
    window = int(stage["data"]["window"])
    rows = max(1, int(stage["batch"]["tokens"]) // window)
    blank = BlankInfillingConfig(**stage["objective"].get("blank_infilling", {}))
    objective = ObjectiveConfig(kind="blank_infilling", blank_infilling=blank)
    loader = Loader(data, DataConfig(window=window), objective, tokenizer.special, 1, tokenizer=tokenizer)
    model = build_model(ModelConfig.from_dict(settings["model"] | {"vocab_size": tokenizer.vocab_size}), seed=0)
    batches = loader.iterate(0, lambda _: rows)
    next(batches)
    waited = worked = 0.0
    for _ in range(steps):
        begin = time.perf_counter()
        batch = next(batches)
        got = time.perf_counter()
        tensors = [torch.from_numpy(getattr(batch, name)).long() for name in ("tokens", "positions", "document")]
        output = model(
            *tensors, torch.from_numpy(batch.context_end).long(), targets=torch.from_numpy(batch.targets).long()
        )
        (output.losses * torch.from_numpy(batch.loss_weights)).sum().backward()
        model.zero_grad()
        waited += got - begin
        worked += time.perf_counter() - got
    return {
        "wait_seconds_a_step": waited / steps,
        "step_seconds": worked / steps,
        "wait_share": waited / (waited + worked),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peer", type=Path, help="a checkout of THUDM/GLM")
    parser.add_argument("--data", type=Path, help="WORKSPACE/tokenize: count limited rows on real text")
    parser.add_argument("--tokenizer", type=Path, help="the tokenizer of --data")
    parser.add_argument("--wait", type=Path, help="a YAML of configs/pretrain: time the loader's wait (needs --data)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.wait is None else torch.get_num_threads())
    figures: dict[str, Any] = {"speed": measure(options.peer, options.repeats)} if options.wait is None else {}
    if options.data is not None and options.wait is None:
        figures["loader"] = loader_speed(options.data, options.tokenizer, options.repeats)
        figures["real_text"] = {}
        for window in (2048, 512, 256):
            figures["real_text"] |= limited_on(options.data, options.tokenizer, window, 3000)
    if options.wait is not None:
        figures["loader"] = {"glm130b-tiny": loader_wait(options.wait, options.data, options.tokenizer, 20)}
    if options.json:
        print(json.dumps(figures))
        return
    for group, rows in figures.items():
        print(group)
        for name, row in rows.items():
            print(
                f"  {name:26}"
                + "  ".join(
                    f"{key} {value:,.4g}" if value < 100 else f"{key} {value:,.0f}" for key, value in row.items()
                )
            )


if __name__ == "__main__":
    main()
