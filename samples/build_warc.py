"""Pack the sample pages into one WARC, as a crawler would have stored them.

`make demo` begins here. The pages lie in `samples/pages/` as files that a person can open and edit; this command
gives each the HTTP response that `manifest.jsonl` describes. Everything that could differ from run to run (dates,
record ids, the gzip header) is fixed or derived from the URL, so the same pages always give the same bytes.

    python samples/build_warc.py --output out/samples.warc.gz

The format is ISO 28500:2017 (WARC 1.0 records, each its own gzip member), written by warcio.
"""

import argparse
import io
import json
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

SAMPLES = Path(__file__).resolve().parent
CRAWL_DATE = "2024-11-22T08:00:00Z"
HTTP_DATE = "Fri, 22 Nov 2024 08:00:00 GMT"


def read_manifest(samples: Path = SAMPLES) -> list[dict[str, object]]:
    """Rows of `manifest.jsonl`, in the file's order; a malformed row is a ValueError naming its line."""
    path = samples / "manifest.jsonl"
    rows: list[dict[str, object]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error.msg}); one page a line is expected") from error
        missing = {"file", "url", "content_type"} - row.keys()
        if missing:
            raise ValueError(f"{path}:{number}: the row lacks {', '.join(sorted(missing))}")
        rows.append(row)
    return rows


def record_id(url: str, role: str = "response") -> str:
    """A WARC-Record-ID that depends on the URL alone."""
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{role}:{url}')}>"


def write_warc(output: Path, samples: Path = SAMPLES) -> int:
    """Write every page of the manifest to `output` (gzip members), whole or not at all; return the page count."""
    rows = read_manifest(samples)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            _write_records(stream, rows, samples)
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    return len(rows)


def _write_records(stream: io.BufferedWriter, rows: Sequence[dict[str, object]], samples: Path) -> None:
    writer = WARCWriter(stream, gzip=True)
    information = {"software": "tiankong samples/build_warc.py", "format": "WARC File Format 1.0"}
    # Written under a fixed name: the output path must not change the bytes.
    info = writer.create_warcinfo_record("samples.warc.gz", information)
    info.rec_headers.replace_header("WARC-Record-ID", record_id("samples.warc.gz", "warcinfo"))
    info.rec_headers.replace_header("WARC-Date", CRAWL_DATE)
    writer.write_record(info)
    for row in rows:
        payload = (samples / str(row["file"])).read_bytes()
        url = str(row["url"])
        http_headers = StatusAndHeaders(
            "200 OK",
            [
                ("Content-Type", str(row["content_type"])),
                ("Content-Length", str(len(payload))),
                ("Date", HTTP_DATE),
                ("Server", "example"),
            ],
            protocol="HTTP/1.1",
        )
        record = writer.create_warc_record(
            url,
            "response",
            payload=io.BytesIO(payload),
            http_headers=http_headers,
            warc_headers_dict={"WARC-Record-ID": record_id(url), "WARC-Date": CRAWL_DATE},
        )
        writer.write_record(record)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; a user's mistake is one line on stderr and exit status 1."""
    parser = argparse.ArgumentParser(prog="python samples/build_warc.py", description="Pack samples/pages into a WARC.")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.warc.gz", help="the file to write")
    arguments = parser.parse_args(argv)
    try:
        count = write_warc(arguments.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.output}: {count} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
