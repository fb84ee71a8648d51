"""Readers: one input file to raw records, whatever its format, and never an exception for what the file holds.

`read_records` yields one item for every record of the file in order, None for those that are no documents, so that a
position in a file is a number of items and a run that was cut short can go on from there.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, Literal

import orjson

from data.decompress import MAGIC, SUFFIXES, Compression, Gap, Limits, decompress
from data.raw import EXCERPT, ByteBuffer, Problems, RawRecord
from data.warc import read_warc

if TYPE_CHECKING:
    from pyarrow import RecordBatch

    from data.sources import InputFile

Format = Literal["warc", "wet", "jsonl", "json", "parquet", "text", "lines", "html", "huggingface"]
EXTENSIONS: dict[str, Format] = {
    ".warc": "warc",
    ".wet": "wet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
}
BOM = b"\xef\xbb\xbf"
READ_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Names of the fields of a JSON object or a table's row."""

    text: str = "text"
    """The document."""
    id: str = "id"
    """Its own id; where it is missing, file and record number stand for it."""
    url: str = "url"
    """Its address."""
    date: str = "date"
    """Its date."""
    title: str = "title"
    """Its title."""
    license: str = "license"
    """Its licence."""
    language: str = "language"
    """Its language, as a hint."""
    source: str = "source"
    """The data set that it came from."""


def detect(path: str, head: bytes) -> tuple[Format | None, Compression]:
    """Format, None if nothing tells it, and compression of a file, from its name and its first bytes."""
    name = path.lower().rpartition("/")[2]
    promised: Compression = "none"
    for suffix, kind in SUFFIXES.items():
        if name.endswith(suffix):
            name, promised = name.removesuffix(suffix), kind
    compression = _compression_of(head, promised)
    for suffix, form in EXTENSIONS.items():
        if name.endswith(suffix):
            return form, compression
    start = head.removeprefix(BOM).lstrip()
    if head.startswith(b"PAR1"):
        return "parquet", "none"
    if start.startswith(b"WARC/"):
        return "warc", "none"
    if start.startswith(b"{"):
        return "jsonl", "none"
    if start[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "html", "none"
    return None, compression


def _compression_of(head: bytes, promised: Compression) -> Compression:
    """The compression that the bytes show, else the one that the name promises: it is added or forgotten by a slip."""
    for kind, magic in MAGIC.items():
        if head.startswith(magic) and not magic.isascii():  # a text may begin with bz2's letters
            return kind
    return "none" if head[:1] in (b"{", b"<", b"W") else promised


def read_records(item: InputFile, problems: Problems, max_bytes: int, limits: Limits) -> Iterator[RawRecord | None]:
    """All records of a file. Problems of the file as a whole are added to `problems`."""
    if item.format == "huggingface":
        yield from _read_huggingface(item, problems)
        return
    if item.format == "parquet":
        yield from _read_parquet(item, problems)
        return
    try:
        with item.open() as file:
            pieces = decompress(_pieces(file, problems), item.compression, limits)
            if item.format in ("jsonl", "json", "lines"):  # pages and texts have their charset found later
                pieces = _to_utf8(pieces)
            buffer = ByteBuffer(pieces, problems)
            if not buffer.need(1):
                problems.add("empty_file", "no bytes in it")
            elif item.format in ("warc", "wet"):
                yield from read_warc(buffer, problems, item.name, max_bytes)
            elif item.format == "jsonl":
                yield from _read_lines(buffer, item, max_bytes, _json_line)
            elif item.format == "lines":
                yield from _read_lines(buffer, item, max_bytes, _text_line)
            else:
                yield from _read_whole(buffer, item, problems, max_bytes)
    except OSError as error:
        problems.add("unreadable", str(error))


def _pieces(file: IO[bytes], problems: Problems) -> Iterator[bytes]:
    while piece := file.read(READ_BYTES):
        problems.read_bytes += len(piece)
        yield piece


def _to_utf8(pieces: Iterator[bytes | Gap]) -> Iterator[bytes | Gap]:
    """The same bytes in UTF-8, if they begin with the byte order mark of UTF-16."""
    first = next((piece for piece in pieces if piece), b"")
    if not isinstance(first, bytes) or not first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield first
        yield from pieces
        return
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    for piece in chain((first,), pieces):
        if isinstance(piece, Gap):
            yield piece
        elif text := decoder.decode(piece):
            yield text.encode("utf-8", "replace")


def _read_lines(
    buffer: ByteBuffer, item: InputFile, max_bytes: int, parse: Callable[[bytes, InputFile, int], RawRecord]
) -> Iterator[RawRecord | None]:
    """A record a line; blank lines are none. A line over `max_bytes` is passed over without being held.

    Where bytes are missing the line ends: what comes behind a gap is a member's beginning, most often a line's too.
    """
    number = 0
    record: RawRecord | None
    while buffer.need(1):
        length = buffer.find(b"\n", max_bytes + 1)
        if length < 0 and len(buffer) > max_bytes:
            head, size = _pass_line(buffer)
            record = _set_aside(item, number, "line_too_long", str(size), head)
        elif (gap := buffer.gap()) is not None and (length < 0 or gap <= length):
            line = buffer.take_to_gap().strip()
            if not line:
                continue
            record = _set_aside(item, number, "damaged_record", "bytes of the line are missing", line)
        else:
            line, _ = buffer.take(length + 1 if length >= 0 else len(buffer))
            line = (line.removeprefix(BOM) if number == 0 else line).strip()
            record = parse(line, item, number) if line else None
        yield record
        number += 1


def _pass_line(buffer: ByteBuffer) -> tuple[bytes, int]:
    """Pass over the rest of a line, or to where bytes are missing: its beginning and its length."""
    head, size = b"", 0
    while True:
        at, gap = buffer.find(b"\n", len(buffer)), buffer.gap()
        if gap is not None and (at < 0 or gap <= at):
            part = buffer.take_to_gap()
        else:
            part, _ = buffer.take(at + 1 if at >= 0 else len(buffer))
            gap = None
        head, size = head or part[: EXCERPT * 4], size + len(part)
        if at >= 0 or gap is not None or not buffer.need(1):
            return head, size


def _set_aside(item: InputFile, number: int, fault: str, value: str, raw: bytes) -> RawRecord:
    text = raw[: EXCERPT * 4].decode("utf-8", "replace")[:EXCERPT]
    return RawRecord(source_id=f"{item.name}#{number}", text=text, fault=fault, fault_value=value[:200])


def _text_line(line: bytes, item: InputFile, number: int) -> RawRecord:
    return RawRecord(source_id=f"{item.name}#{number}", text=line.decode("utf-8", "replace"))


def _json_line(line: bytes, item: InputFile, number: int) -> RawRecord:
    """One line of JSON. Bytes that are not UTF-8 become U+FFFD, NULs go; what is no JSON even then is set aside."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        text = line.replace(b"\x00", b"").decode("utf-8", "replace")
        try:  # Python's own reader takes what Python's own writer writes: NaN, lone surrogates, control characters
            value = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            return _set_aside(item, number, "invalid_json", str(error), line)
    return from_fields(value, item, number)


def from_fields(value: object, item: InputFile, number: int) -> RawRecord:
    """A JSON object or a table's row as a record."""
    fields, where = item.fields, f"{item.name}#{number}"
    if not isinstance(value, dict):
        kind = type(value).__name__
        return RawRecord(source_id=where, text=_excerpt(value), fault="not_an_object", fault_value=kind)
    record = RawRecord(
        source_id=_string(value.get(fields.id)) or where,
        source=_string(value.get(fields.source)) or None,
        url=_string(value.get(fields.url)),
        date=_string(value.get(fields.date)),
        title=_string(value.get(fields.title)),
        license=_string(value.get(fields.license)),
        language=_string(value.get(fields.language)),
    )
    text = value.get(fields.text)
    if isinstance(text, (str, bytes)):
        record.text = _string(text)
        return record
    record.text = _excerpt(value)
    if fields.text not in value:
        record.fault, record.fault_value = "missing_text", f"no field '{fields.text}'"
    elif text is None:
        record.fault, record.fault_value = "null_text", f"field '{fields.text}' is null"
    else:
        record.fault, record.fault_value = "text_not_string", type(text).__name__
    return record


def _string(value: object) -> str | None:
    """A field as text that UTF-8 can hold: bytes that are not UTF-8, and lone surrogates, become U+FFFD."""
    if value is None or isinstance(value, (dict, list)):
        return None
    if isinstance(value, bytes):  # a Parquet column that nobody declared to be text
        return value.decode("utf-8", "replace")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _excerpt(value: object) -> str:
    """The beginning of a record that is no document, as JSON; of one that JSON cannot hold, the names of its fields."""
    try:
        return orjson.dumps(value, default=str).decode()[:EXCERPT]
    except TypeError:  # nested too deep, numbers of more than 64 bits, lone surrogates, names that are no strings
        return (_string(" ".join(map(str, value))) or "")[:EXCERPT] if isinstance(value, dict) else ""


def _read_whole(buffer: ByteBuffer, item: InputFile, problems: Problems, max_bytes: int) -> Iterator[RawRecord | None]:
    """A file that is one document (text, HTML), or one JSON value: an object, or a list of records."""
    buffer.need(max_bytes + 1)
    content, broken = buffer.take(max_bytes + 1)
    if len(content) > max_bytes:
        yield _set_aside(item, 0, "file_too_large", f"over {max_bytes} bytes", content)
    elif item.format == "html":
        yield RawRecord(source_id=item.name, payload=content, content_type=None)
    elif item.format == "text":
        # a text file's charset is found as a page's is: the extractor decodes it
        yield RawRecord(source_id=item.name, payload=content, content_type="text/plain")
    else:
        yield from _read_json(content, item, problems)
    if broken:
        problems.add("damaged_record", "bytes are missing in the middle")


def _read_json(content: bytes, item: InputFile, problems: Problems) -> Iterator[RawRecord | None]:
    text = content.removeprefix(BOM)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) > 1 and lines[0].lstrip().startswith(b"{") and lines[0].rstrip().endswith(b"}"):
            for number, line in enumerate(lines):  # JSON lines under the name .json
                yield _json_line(line, item, number)
            return
        problems.add("invalid_json", str(error))
        yield _set_aside(item, 0, "invalid_json", str(error), content)
        return
    for number, one in enumerate(value if isinstance(value, list) else [value]):
        yield from_fields(one, item, number)


def _read_parquet(item: InputFile, problems: Problems) -> Iterator[RawRecord | None]:
    """A record a row. A row group that is damaged costs what is left of itself; rows keep their numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with item.open() as file:
            table = pq.ParquetFile(file)
            names = table.schema_arrow.names
            if item.fields.text not in names:
                problems.add("missing_text_column", f"no column '{item.fields.text}'; it has {', '.join(names)[:300]}")
                return
            wanted = [name for name in vars(item.fields).values() if name in names]
            first = 0
            for group in range(table.num_row_groups):
                number = first
                try:
                    for batch in table.iter_batches(batch_size=1024, columns=wanted, row_groups=[group]):
                        for row in _rows(batch):
                            yield from_fields(row, item, number)
                            number += 1
                except (pa.ArrowException, OSError) as error:
                    problems.add("corrupt_parquet", f"row group {group}: {_first_line(error)}")
                first += table.metadata.row_group(group).num_rows
    except (pa.ArrowException, OSError) as error:
        problems.add("corrupt_parquet", _first_line(error))


def _rows(batch: RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch; text columns as bytes where some of their bytes are not UTF-8."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        import pyarrow as pa

        kinds = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
        columns = [column.cast(kinds.get(column.type, column.type)) for column in batch.columns]
        return pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]


def _read_huggingface(item: InputFile, problems: Problems) -> Iterator[RawRecord | None]:
    import datasets

    try:
        rows = item.load_dataset()
        for number, row in enumerate(rows):
            yield from_fields(row, item, number)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        problems.add("unreadable", _first_line(error))
