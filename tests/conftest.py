"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout's root."""
    return PROJECT


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real bilingual pages, named by TIANKONG_CORPUS; a test that needs it is skipped without it."""
    folder = Path(os.environ.get("TIANKONG_CORPUS", PROJECT.parent / "shared" / "corpus"))
    if not folder.is_dir():
        pytest.skip(f"no corpus at {folder}: set TIANKONG_CORPUS to a folder with web/ and documents/")
    return folder
