"""A kernel on disk is made again when anything that it was made of has changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from data import compiled

KERNEL = "from data.compiled import compiled\nfrom data.table import FACTOR, twice\n\n\n@compiled\ndef kernel(x):\n"
TABLE = "from data.compiled import compiled\n\nFACTOR = {}\n\n\n@compiled\ndef twice(x):\n    return {} * x\n"


def value(project: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from data.kernel import kernel; print(kernel(1)); print(kernel.stats.cache_hits)"],
        cwd=project, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.replace("\n", " ").strip()


def test_a_change_in_another_file_is_seen(tmp_path: Path) -> None:
    """Numba alone would go on with the old constant and the old function: both are compiled into the kernel."""
    package = tmp_path / "data"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(compiled.__file__, package / "compiled.py")
    (package / "kernel.py").write_text(KERNEL + "    return FACTOR + twice(x)\n")
    (package / "table.py").write_text(TABLE.format(10, 2))
    assert value(tmp_path) == "12 Counter()"
    assert value(tmp_path).startswith("12 Counter({")
    (package / "table.py").write_text(TABLE.format(10, 3))
    assert value(tmp_path) == "13 Counter()"
    (package / "table.py").write_text(TABLE.format(20, 3))
    assert value(tmp_path) == "23 Counter()"


def test_sources_are_followed_from_file_to_file() -> None:
    found = compiled.sources("verify")
    assert {"verify", "differences", "shingles", "text_kernels", "character_classes"} <= set(found)
    assert "report" not in found
    assert {"ingest", "mix"} <= set(compiled.sources("stages")), "stages.py says `from data import ingest, mix`"


def test_other_packages_keep_their_own_stamps(tmp_path: Path) -> None:
    """Ours would not change with a file that is not of this package."""
    locator = compiled.InTree.__new__(compiled.InTree)
    locator._py_file = str(tmp_path / "verify.py")
    Path(locator._py_file).write_text("x = 1\n")
    assert locator.get_source_stamp() != compiled.source_stamp("verify")
