"""`compiled`, the one decorator of Numba kernels: their machine code stays on disk until a source of theirs changes.

Numba compares only the file of a kernel with what it was compiled from. A function or a constant that the kernel takes
from another file is compiled into it all the same, so a change there would leave the old code at work, unseen. Here the
stamp of a kernel is the digest of its file and of all files of this package that it imports, directly or not.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numba
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

PACKAGE = Path(__file__).parent
F = TypeVar("F", bound=Callable[..., Any])
_IMPORTS = re.compile(rb"^(?:from|import) data(?:\.(\w+)| import ([\w, ]+))", re.MULTILINE)


@functools.cache
def _source(module: str) -> bytes:
    path = PACKAGE / f"{module}.py"
    return path.read_bytes() if path.is_file() else b""


def sources(module: str) -> list[str]:
    """The names of the modules of this package that `module` is made of, itself among them, in order."""
    found, left = set(), {module}
    while left:
        name = left.pop()
        found.add(name)
        imported = (b"%b %b" % groups for groups in _IMPORTS.findall(_source(name)))
        left |= {word for words in imported for word in re.findall(r"\w+", words.decode())} - found
    return sorted(found)


@functools.cache
def source_stamp(module: str) -> str:
    """The digest of all that `module` is made of."""
    digest = hashlib.sha256()
    for name in sources(module):
        digest.update(f"{name} {len(_source(name))}\n".encode() + _source(name))
    return digest.hexdigest()


class _WholeStamp:
    """What Numba keeps with the code, and compares before it takes it; other packages' kernels keep their own."""

    _py_file: str

    def get_source_stamp(self) -> object:
        path = Path(self._py_file)
        return source_stamp(path.stem) if path.parent == PACKAGE else super().get_source_stamp()  # type: ignore[misc]


class UserProvided(_WholeStamp, UserProvidedCacheLocator):
    """Where NUMBA_CACHE_DIR says."""


class InTree(_WholeStamp, InTreeCacheLocator):
    """Beside the source, in `__pycache__`."""


class UserWide(_WholeStamp, UserWideCacheLocator):
    """In the user's cache, when the checkout cannot be written to."""


numba.config.CACHE_LOCATOR_CLASSES = ",".join(  # type: ignore[attr-defined]
    f"{locator.__module__}.{locator.__name__}" for locator in (UserProvided, InTree, UserWide)
)


@overload
def compiled(function: F, /) -> F: ...


@overload
def compiled(*, inline: Literal["never", "always"] = "never", nogil: bool = False) -> Callable[[F], F]: ...


def compiled(function: F | None = None, /, **options: Any) -> Any:
    """`numba.njit` with its cache on, with or without further options."""
    return numba.njit(cache=True, **options) if function is None else numba.njit(function, cache=True)
