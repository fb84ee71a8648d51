"""Every page of the sample meets the fate that its manifest row states, through the whole road of the data.

The road is the command that a person would type, as in `make demo`.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"
ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (SAMPLES / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
]
CLUSTERS = sorted({row["cluster"] for row in ROWS} - {None})


class Fates(NamedTuple):
    """What became of the pages: final texts and `<stage>.<rule>` of the rejected, by URL."""

    kept: dict[str, str]
    rejected: dict[str, str]


def read_columns(folder: Path, pattern: str, value: str) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob(pattern)):
        yield from pl.read_parquet(path, columns=["url", value]).iter_rows()


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory) -> Fates:
    folder = tmp_path_factory.mktemp("fates")
    warc, workspace = folder / "pages.warc.gz", folder / "corpus"
    pack = [sys.executable, "samples/build_warc.py", "--output", str(warc)]
    config = ["--config", "configs/corpus/demo.yaml", "--input", str(warc), "--workspace", str(workspace)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in (pack, [sys.executable, "-m", "data", "run", *config]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    rejects = list(read_columns(workspace, "*/rejected/*.parquet", "rejected_by"))
    kept = list(read_columns(workspace, "decontaminate/kept/*.parquet", "text"))
    assert len(kept) + len(rejects) == len(ROWS), "each page is kept or rejected, and once"
    return Fates(dict(kept), dict(rejects))


@pytest.mark.parametrize("row", [row for row in ROWS if not row["cluster"]], ids=lambda row: Path(row["file"]).stem)
def test_a_page_meets_its_fate(row: dict[str, Any], fates: Fates) -> None:
    if row["fate"] == "kept":
        assert row["url"] in fates.kept, fates.rejected.get(row["url"])
    else:
        assert re.search(row["rejected_by"], fates.rejected.get(row["url"], "kept"))


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_one_of_each_text_survives(cluster: str, fates: Fates) -> None:
    urls = [row["url"] for row in ROWS if row["cluster"] == cluster]
    assert sum(url in fates.kept for url in urls) == 1
    for url in urls:
        assert fates.kept.get(url) or fates.rejected[url].startswith("deduplicate.")


@pytest.mark.parametrize("row", [row for row in ROWS if row["must_not_contain"]], ids=lambda row: row["file"])
def test_personal_data_is_masked_and_the_article_stays(row: dict[str, Any], fates: Fates) -> None:
    text = fates.kept[row["url"]]
    for value in row["must_not_contain"]:
        assert value not in text
    for line in row["body"].split("\n"):
        if not any(value in line for value in row["must_not_contain"]):
            assert "".join(line.split()) in "".join(text.split()), "a paragraph without personal data is untouched"
