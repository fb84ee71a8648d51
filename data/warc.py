"""WARC and WET records from a stream of bytes, through damage.

A record's `Content-Length` is believed only if a new record (or the end) follows it. Where none does, the record's true
end is looked for: the next `WARC/1.` after an empty line, inside what the length promised or behind it. Records that a
gap in the stream has cut are set aside. (ISO 28500:2017, sections 4 to 6.)
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard

from data.decompress import MAGIC
from data.raw import ByteBuffer, Problems, RawRecord

MARK = b"WARC/1."
BOUNDARY = re.compile(rb"\r?\n\r?\n(?=WARC/1\.\d\r?\n)")
HEADER_LIMIT = 1 << 20
TEXT_TYPES = ("text/plain", "text/markdown", "text/x-markdown")
PAGE_TYPES = ("text/html", "application/xhtml+xml", "application/xml", "text/xml")
_CONTROLS = bytes([*range(9), 11, *range(14, 32), 127])  # what no text is written in, whatever its charset


@dataclass(slots=True)
class _Block:
    """One record's header and content."""

    headers: dict[str, str]
    content: bytes
    fault: str | None
    fault_value: str


def read_warc(buffer: ByteBuffer, problems: Problems, name: str, max_bytes: int) -> Iterator[RawRecord | None]:
    """Documents of a WARC or WET file in order; None for each record that is no document (requests, metadata)."""
    for number, block in enumerate(_blocks(buffer, problems, max_bytes)):
        kind = block.headers.get("warc-type", "")
        if kind not in ("response", "resource", "conversion") and block.fault is None:
            yield None
            continue
        record = RawRecord(
            source_id=block.headers.get("warc-record-id", "").strip("<>") or f"{name}#{number}",
            url=block.headers.get("warc-target-uri", "").strip("<>") or None,
            date=block.headers.get("warc-date"),
            content_type=block.headers.get("content-type"),
            fault=block.fault,
            fault_value=block.fault_value,
        )
        if block.fault is not None:
            record.payload = block.content
        elif kind == "conversion":
            record.text, record.content_type = block.content.decode("utf-8", "replace"), None
        else:
            _fill_page(record, block.content, kind, max_bytes)
        yield record


def _blocks(buffer: ByteBuffer, problems: Problems, max_bytes: int) -> Iterator[_Block]:
    while True:
        while buffer.need(1) and buffer.data[buffer.start] in b"\r\n":
            buffer.start += 1
        if not buffer.need(1):
            return
        buffer.need(len(MARK))
        if not buffer.data.startswith(MARK, buffer.start):
            at = _skip_to_record(buffer)
            problems.add("warc_out_of_step", f"{at} bytes that belong to no record were passed over")
            continue
        length = buffer.find(b"\r\n\r\n", HEADER_LIMIT)
        header, broken = buffer.take(length + 4 if length >= 0 else len(MARK))
        if length < 0:
            problems.add("warc_header", "a record's header has no end")
            _skip_to_record(buffer)
            continue
        headers = _parse_headers(header)
        declared = headers.get("content-length", "")
        length = int(declared) if re.fullmatch("[0-9]{1,18}", declared) else -1
        block = _content(buffer, problems, headers, length, max_bytes)
        if broken and block.fault is None:
            block.fault, block.fault_value = "damaged_record", "the record's header is cut"
        yield block


def _content(buffer: ByteBuffer, problems: Problems, headers: dict[str, str], declared: int, max_bytes: int) -> _Block:
    """The record's content, by its declared length if what follows agrees, else by the next record's beginning."""
    name = headers.get("warc-record-id", "?")
    if 0 <= declared <= max_bytes:
        whole = buffer.need(declared)
        if whole and _record_follows(buffer, declared):
            content, broken = buffer.take(declared)
            return _Block(headers, content, "damaged_record" if broken else None, "bytes are missing" if broken else "")
        if not whole and not BOUNDARY.search(buffer.data, buffer.start):
            content, _ = buffer.take(declared)
            problems.add("truncated_record", f"{name}: {len(content)} of {declared} bytes")
            return _Block(headers, content, "truncated_record", f"{len(content)} of {declared} bytes")
    size, content, broken = _until_record(buffer, max_bytes)
    if size > max_bytes:
        return _Block(headers, content, "record_too_large", str(size))
    if broken:
        return _Block(headers, content, "damaged_record", "bytes are missing")
    problems.add("warc_wrong_length", f"{name}: declares {declared} bytes, the next record begins after {size}")
    return _Block(headers, content, None, "")


def _record_follows(buffer: ByteBuffer, offset: int) -> bool:
    """Whether an end of record stands at `offset`: blank lines, then a record, missing bytes or the stream's end."""
    end = offset + 4 + len(MARK)
    buffer.need(end)
    behind = bytes(memoryview(buffer.data)[buffer.start + offset : buffer.start + end])
    stripped = behind.lstrip(b"\r\n")
    if buffer.is_gap_within(offset, end):
        return True
    return not stripped or (stripped != behind and MARK.startswith(stripped[: len(MARK)]))


def _until_record(buffer: ByteBuffer, max_bytes: int) -> tuple[int, bytes, bool]:
    """Take bytes up to the next record: how many, the first `max_bytes` of them, whether some are missing."""
    kept, size, broken = bytearray(), 0, False
    while True:
        found = BOUNDARY.search(buffer.data, buffer.start)
        if found:
            part, gap = buffer.take(found.start() - buffer.start)
            done = True
        else:  # keep back what may be the beginning of the boundary
            part, gap = buffer.take(max(0, len(buffer) - 16))
            done = not buffer.more()
            if done:
                rest, gap_too = buffer.take(len(buffer))
                part, gap = part + rest, gap or gap_too
        size, broken = size + len(part), broken or gap
        kept += part[: max(0, max_bytes - len(kept))]
        if done:
            return size, bytes(kept), broken


def _skip_to_record(buffer: ByteBuffer) -> int:
    """Pass over bytes up to the next record or the end; returns how many."""
    size, _, _ = _until_record(buffer, 0)
    return size


def _parse_headers(block: bytes) -> dict[str, str]:
    """Header lines as a dictionary with lower-case names; the first line and malformed ones are left out."""
    headers: dict[str, str] = {}
    for line in block.decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return headers


def media_type(content_type: str | None) -> str | None:
    """`text/html` of `Text/HTML; charset=gbk`; None where there is none."""
    return content_type.partition(";")[0].strip().lower() if content_type else None


def _fill_page(record: RawRecord, content: bytes, warc_type: str, max_bytes: int) -> None:
    """Take the HTTP response apart: status, type, transfer and content encoding."""
    if warc_type == "response":
        head, found, body = content.partition(b"\r\n\r\n")
        if not found:
            head, found, body = content.partition(b"\n\n")
        status = head.split(b"\n", 1)[0].split()
        if not found or not head.startswith(b"HTTP/") or len(status) < 2:
            record.fault, record.fault_value, record.payload = "not_http", head[:80].decode("latin-1"), content
            return
        headers = _parse_headers(head)
        record.content_type = headers.get("content-type")
        if status[1] != b"200":
            record.fault, record.fault_value = "http_status", status[1].decode("latin-1")
        content = _decode_body(record, body, headers, max_bytes)
    kind = media_type(record.content_type) or "text/html"
    if record.fault is None and kind not in PAGE_TYPES + TEXT_TYPES:
        record.fault, record.fault_value = "content_type", kind
    record.payload = content


def _decode_body(record: RawRecord, body: bytes, headers: dict[str, str], max_bytes: int) -> bytes:
    """Undo chunking and compression, if the bytes are really so (crawlers often leave the headers and undo both)."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _unchunk(body)
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return body
    plain = _inflate(body, encoding, max_bytes + 1)
    if plain is None and _is_binary(body):
        record.fault = record.fault or "content_encoding"
        record.fault_value = record.fault_value or encoding
    elif plain is not None and len(plain) > max_bytes:
        record.fault, record.fault_value = "decompression_bomb", f"over {max_bytes} bytes from {len(body)}"
    return body if plain is None else plain[:max_bytes]


def _inflate(body: bytes, encoding: str, most: int) -> bytes | None:
    """The first `most` bytes of what was compressed; None if it was not, or by something else (brotli)."""
    try:
        if body.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(31).decompress(body, most)
        if body.startswith(MAGIC["zstd"]):
            return zstandard.ZstdDecompressor().stream_reader(body).read(most)
        if encoding == "deflate":
            return zlib.decompressobj(15 if body.startswith(b"\x78") else -15).decompress(body, most)
    except (zlib.error, zstandard.ZstdError):
        pass
    return None


def _is_binary(body: bytes) -> bool:
    """Whether bytes are no text of any charset: one in eleven of compressed bytes is a control character."""
    head = body[:4096]
    return len(head) - len(head.translate(None, _CONTROLS)) > 0.02 * len(head)


def _unchunk(body: bytes) -> bytes:
    """The data of a chunked body; the body itself if it is not chunked after all."""
    out: list[bytes] = []
    position = 0
    while True:
        end = body.find(b"\r\n", position)
        size = body[position:end].split(b";")[0].strip() if end >= 0 else b""
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
            return b"".join(out) if out else body
        count = int(size, 16)
        if count == 0:
            return b"".join(out)
        out.append(body[end + 2 : end + 2 + count])
        position = end + 2 + count + 2
