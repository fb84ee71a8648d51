"""Lay tokenizers side by side on the same text: figures, a table, a picture, and the curve over vocabulary sizes."""

import hashlib
import heapq
import json
from collections.abc import Iterable
from pathlib import Path

import tokenizers

from tokenizer.corpus import Faults, read_documents
from tokenizer.load import Tokenizer, is_byte_piece, load_tokenizer, token_bytes_of
from tokenizer.measure import Measured, measure, script_of

_COLUMNS = (
    ("bytes_per_token", "bytes/token", "{:.3f}"),
    ("characters_per_token", "chars/token", "{:.3f}"),
    ("tokens_per_word", "tokens/word", "{:.3f}"),
    ("partial_share", "partial", "{:.2%}"),
    ("renyi_efficiency", "Renyi", "{:.3f}"),
    ("encode_megabytes_per_second", "enc MB/s", "{:.1f}"),
    ("decode_megabytes_per_second", "dec MB/s", "{:.1f}"),
)


def evaluate(
    names: list[str], paths: list[Path], megabytes: float, sizes: list[int], limit: int | None = None
) -> dict[str, object]:
    """The figures of every tokenizer in `names` (a folder, a tokenizer.json, a SentencePiece .model).

    `sizes` adds each byte-level BPE cut to so many tokens: its first merges are what training to that size would have
    learned. `megabytes` bounds the text of each language. Raises ValueError or FileNotFoundError for what cannot be
    read, or a corpus without text.
    """
    measured = [open_measured(name, size) for name in names for size in [None, *sizes]]
    faults = Faults()
    groups = read_groups(paths, megabytes, faults, limit)
    return {
        "text": {"input": list(map(str, paths)), "unreadable": faults.count, "examples": faults.examples},
        "tokenizers": [measure(tokenizer, groups) for tokenizer in measured],
    }


def read_groups(paths: list[Path], megabytes: float, faults: Faults, limit: int | None = None) -> dict[str, list[str]]:
    """Texts by language (and code), and again by script where it is Chinese; `megabytes` of each language at most.

    Of more text than that the documents with the lowest digests are taken, whatever their order.
    """
    chosen: dict[str, list[tuple[int, str, str]]] = {}
    sizes: dict[str, int] = {}
    for document in read_documents(paths, faults, limit):
        digest = int.from_bytes(hashlib.blake2b(document.text.encode(), digest_size=8).digest(), "little")
        heap = chosen.setdefault(document.language, [])
        heapq.heappush(heap, (-digest, document.text, document.script))
        size = sizes.get(document.language, 0) + len(document.text.encode())
        while len(heap) > 1 and size > megabytes * 1e6:
            size -= len(heapq.heappop(heap)[1].encode())
        sizes[document.language] = size
    if not chosen:
        raise ValueError(f"{' '.join(map(str, paths))}: no text to measure on")
    groups: dict[str, list[str]] = {name: [] for name in ("zh", "Hans", "Hant", "en", "mixed", "other", "code")}
    for language, heap in chosen.items():
        for _, text, known_script in sorted(heap, reverse=True):
            groups.setdefault(language, []).append(text)
            script = (known_script or script_of(text)) if language == "zh" else ""
            if script in ("Hans", "Hant"):
                groups[script].append(text)
    return {name: texts for name, texts in groups.items() if texts}


def open_measured(name: str, size: int | None = None) -> Measured:
    """A tokenizer to measure. `size` cuts a byte-level BPE to so many ordinary tokens."""
    path = Path(name)
    if path.suffix == ".model":
        return _open_sentencepiece(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such tokenizer")
    try:
        definition = file.read_text(encoding="utf-8")
        parsed = json.loads(definition)
    except ValueError as error:
        raise ValueError(f"{file}: not a tokenizer definition: {error}") from None
    if size is None and path.is_dir() and (path / "tokenizer_config.json").is_file():
        try:
            return _of_ours(path.name, load_tokenizer(path))
        except ValueError:
            pass  # someone else's folder, without our special tokens
    if size is not None:
        definition = json.dumps(_cut(parsed, size, file), ensure_ascii=False)
    return _of_definition(f"{path.name or name}{'' if size is None else f'@{size}'}", definition, file)


def truncate(definition: dict, size: int) -> dict:
    """A byte-level BPE's definition with its first `size` ordinary tokens: the bytes and the first merges.

    Exact, since BPE is greedy: a larger vocabulary begins with the smaller one.
    """
    model = dict(definition["model"])
    count = max(0, size - 256)
    model["merges"] = model["merges"][:count]
    kept = {first + second for first, second in model["merges"]}
    model["vocab"] = {token: i for token, i in model["vocab"].items() if len(token) == 1 or token in kept}
    model["vocab"] = {token: i for i, token in enumerate(sorted(model["vocab"], key=model["vocab"].__getitem__))}
    return definition | {"model": model, "added_tokens": []}


def table(figures: dict[str, object]) -> str:
    """The figures for a terminal: a line a tokenizer and group, then the vocabularies."""
    rows = [["tokenizer", "group", *(title for _, title, _ in _COLUMNS)]]
    vocabularies = [["tokenizer", "tokens", "Renyi", "dead", "han 3500", "han 8105"]]
    for item in _items(figures):
        for group, values in item["groups"].items():
            rows.append([item["name"], group, *(form.format(values[key]) for key, _, form in _COLUMNS)])
        shares = (f"{item[key]:.1%}" for key in ("dead_share", "han_3500", "han_8105"))
        vocabularies.append([item["name"], str(item["tokens"]), f"{item['renyi_efficiency']:.3f}", *shares])
    return _align(rows) + "\n\n" + _align(vocabularies)


def picture(figures: dict[str, object], path: Path) -> None:
    """Write a picture: bytes a token of every tokenizer by group, over the size of the vocabulary."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    items = _items(figures)
    groups = list(items[0]["groups"])
    figure, axes = pyplot.subplots(figsize=(9, 5), constrained_layout=True)
    families: dict[str, list[dict]] = {}
    for item in items:
        families.setdefault(item["name"].split("@")[0], []).append(item)
    for (family, members), marker in zip(families.items(), "os^vDP*X" * len(families), strict=False):
        members.sort(key=lambda item: item["tokens"])
        for i, group in enumerate(groups):
            values = [item["groups"][group]["bytes_per_token"] for item in members]
            sizes = [item["tokens"] for item in members]
            axes.plot(sizes, values, marker=marker, color=f"C{i}", label=f"{family} {group}")
    axes.set(xscale="log", xlabel="tokens in the vocabulary", ylabel="UTF-8 bytes a token")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path)
    pyplot.close(figure)


def _items(figures: dict[str, object]) -> list[dict]:
    items = figures["tokenizers"]
    assert isinstance(items, list)
    return items


def _of_ours(name: str, tokenizer: Tokenizer) -> Measured:
    values = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.token_count)]
    return Measured(name, tokenizer.encode_batch, tokenizer.decode, values)


def _of_definition(name: str, definition: str, file: Path) -> Measured:
    try:
        backend = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises bare Exception for any damage
        raise ValueError(f"{file}: not a tokenizer definition: {error}") from error
    backend.encode_special_tokens = True

    def encode_batch(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(ids: list[int]) -> str:
        return backend.decode(ids, skip_special_tokens=False)

    return Measured(name, encode_batch, decode, token_bytes_of(backend, json.loads(definition)))


def _open_sentencepiece(path: Path) -> Measured:
    import sentencepiece

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such SentencePiece model")
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path}: not a SentencePiece model ({error})") from error
    values = []
    for token_id in range(model.get_piece_size()):
        piece = model.id_to_piece(token_id)
        if model.is_control(token_id) or model.is_unknown(token_id):
            values.append(b"")
        else:
            values.append(bytes([int(piece[3:5], 16)]) if is_byte_piece(piece) else piece.replace("▁", " ").encode())
    return Measured(path.name, model.encode, model.decode, values)


def _cut(definition: object, size: int, file: Path) -> dict:
    """`truncate`, or ValueError for what cannot be cut."""
    whole = definition if isinstance(definition, dict) else {}
    model, decoder = whole.get("model") or {}, whole.get("decoder") or {}
    if model.get("type") != "BPE" or decoder.get("type") != "ByteLevel":
        raise ValueError(f"{file}: only a byte-level BPE can be cut to {size} tokens; leave --sizes out")
    if not 256 <= size <= len(model["vocab"]):
        raise ValueError(f"{file}: has {len(model['vocab'])} tokens and cannot be cut to {size}")
    return truncate(whole, size)


def _align(rows: Iterable[list[str]]) -> str:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        name = row[0].ljust(widths[0])
        lines.append("  ".join([name, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]))
    return "\n".join(lines)
