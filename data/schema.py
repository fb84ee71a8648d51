"""The one definition of a corpus shard's columns.

A shard is a Parquet file with one row a document. Every stage reads shards and writes shards; a stage adds columns and
never drops those that came before, so that any document can be looked up with all that was learned about it.

    ingest       DOCUMENT_COLUMNS
    annotate     + LANGUAGE_COLUMNS and one column a signal (`data/signals.py` is the table of those)
    deduplicate  + CLUSTER_COLUMNS
    redact       + REDACTION_COLUMNS (and one count a kind of personal data, named `redacted_<kind>`)
    decontaminate+ LEAK_COLUMNS
    rejects      + REJECT_COLUMNS, at whatever stage a document leaves

A document keeps its `id` for life. A stage that changes a text says so in its own column (`normalize_changes`,
`lines_removed`, `redactions`, `spans_cut`); `content_digest` stays that of the text which ingest wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import polars as pl

Columns = Mapping[str, pl.DataType | type[pl.DataType]]

DOCUMENT_COLUMNS: Columns = {
    "id": pl.String,  # 32 hexadecimal digits: digest of (source, source_id)
    "source": pl.String,  # the row's own, else the YAML's name for it, else the input file's name
    "source_id": pl.String,  # the document's own id (JSONL `id`, WARC-Record-ID), else `file#record`
    "collection": pl.String,  # the name of the YAML's source entry: what weights in `mix` are declared for
    "url": pl.String,  # may be null
    "host": pl.String,  # lower-case host of the URL; null without one
    "date": pl.String,  # ISO 8601 of the record if it has one (WARC-Date, JSONL `date`)
    "title": pl.String,  # may be null
    "text": pl.String,  # never null
    "license": pl.String,  # the row's own, else the source's; may be null
    "kind": pl.String,  # `prose` or `code`, declared by the source
    "language_hint": pl.String,  # declared by the row or the source; a hint only, annotate decides
    "charset": pl.String,  # the charset that the bytes were decoded by; null where the input was text already
    "extraction": pl.String,  # which extractor the text came from and how it went; null where there was no HTML
    "content_digest": pl.String,  # 32 hexadecimal digits: digest of `text` as ingest wrote it
    "normalize_changes": pl.String,  # comma-separated names of what normalisation changed; empty if nothing
}

LANGUAGE_COLUMNS: Columns = {
    "language": pl.String,  # zh | en | mixed | other
    "script": pl.String,  # Hans | Hant | mixed | neutral | Latn
}

CLUSTER_COLUMNS: Columns = {
    "cluster": pl.String,  # the id of the cluster's survivor; a document without copies is a cluster of its own
    "cluster_size": pl.Int32,  # documents in the cluster, the survivor among them
    "lines_removed": pl.Int32,  # lines that stood in too many documents of the host and were taken out
}

REDACTION_COLUMNS: Columns = {
    "redactions": pl.Int32,  # spans of personal data masked, over all kinds
}

LEAK_COLUMNS: Columns = {
    "spans_cut": pl.Int32,  # spans cut because an evaluation set holds them
}

REJECT_COLUMNS: Columns = {
    "rejected_by": pl.String,  # `<stage>.<rule>`
    "rejected_value": pl.String,  # the value that broke the rule, as a string
}

LANGUAGES = ("zh", "en", "mixed", "other")
SCRIPTS = ("Hans", "Hant", "mixed", "neutral", "Latn")
KINDS = ("prose", "code")

KEPT, REJECTED = "kept", "rejected"
"""Folders of a stage's output; `mix` writes `TRAIN` and `VALIDATION` in place of kept."""
TRAIN, VALIDATION = "train", "validation"


def document_id(source: str, source_id: str) -> str:
    """The id of a document for life: 32 hexadecimal digits from its source and its own id there."""
    # the length of the source goes first, so that ("a", "bc") and ("ab", "c") differ
    key = f"{len(source)}:{source}{source_id}".encode("utf-8", "surrogatepass")
    return blake2b(key, digest_size=16).hexdigest()


def content_digest(text: str) -> str:
    """Digest of a text, byte for byte: 32 hexadecimal digits."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def empty(columns: Columns) -> pl.DataFrame:
    """A table of no rows with these columns."""
    return pl.DataFrame(schema=dict(columns))


def conform(table: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """`table` with every one of `columns` present (null where it was missing), of its dtype, and first in order.

    Columns beyond these are kept, after them.
    """
    named = [
        (pl.col(name).cast(dtype) if name in table.columns else pl.lit(None, dtype=dtype)).alias(name)
        for name, dtype in columns.items()
    ]
    return table.select(*named, pl.exclude(*columns))


def require(table: pl.DataFrame, columns: Columns, where: str) -> None:
    """ValueError naming the shard and the column if `table` lacks one of `columns` or holds another dtype."""
    for name, dtype in columns.items():
        if name not in table.columns:
            raise ValueError(f"{where}: column '{name}' is missing; this is not a shard of the stage before")
        if table.schema[name] != dtype:
            raise ValueError(f"{where}: column '{name}' is {table.schema[name]}, expected {dtype}")
