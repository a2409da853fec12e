"""Zarr-python, imported on use, with its errors and warnings as our own errors."""

from __future__ import annotations

import contextlib
import gzip
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

from fmristore_stores.errors import (
    AlreadyExistsError,
    CodecError,
    FmristoreError,
    MemoryLimitError,
    MetadataError,
    NotFoundError,
)
from fmristore_stores.io.forks import in_forked_child
from fmristore_stores.io.sources import storage_error

__all__ = ["quiet", "zarr_errors", "zarr_python"]

_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
)
"""Errors of zarr-python and its codecs when they meet something that they did not expect."""

_warnings_lock = threading.RLock()


@contextlib.contextmanager
def zarr_python(url: str, path: str, damage: type[FmristoreError] = MetadataError) -> Iterator[Any]:
    """Zarr-python, asked for a node of a store: quietly, and with codecs that are bounded.

    It takes a quarter of a second to import, and plain stores are read without it.

    Parameters
    ----------
    url, path, damage
        As of `zarr_errors`.

    Yields
    ------
    module
        The package.
    """
    import zarr

    from fmristore_stores.zarr.bounded import bounded

    with zarr_errors(url, path, damage), quiet(), bounded():
        yield zarr


@contextlib.contextmanager
def zarr_errors(
    url: str, path: str, damage: type[FmristoreError] = MetadataError
) -> Iterator[None]:
    """Translate what zarr-python raises into our own errors.

    Parameters
    ----------
    url, path : str
        The store and the node, for messages.
    damage : type of FmristoreError
        What to raise for the many errors that mean "not as expected".
    """
    try:
        yield
    except Exception as error:
        raise _translate(error, url, path, damage) from error


def _translate(
    error: Exception, url: str, path: str, damage: type[FmristoreError]
) -> FmristoreError:
    if isinstance(error, FmristoreError):
        error.url, error.node = error.url or url, error.node or path or None
        return error
    import zarr.errors

    node = path or None
    text = str(error) or type(error).__name__
    if isinstance(error, zarr.errors.ContainsArrayError | zarr.errors.ContainsGroupError):
        return AlreadyExistsError("there is a node of that name", url=url, node=node)
    if isinstance(error, FileExistsError):
        return AlreadyExistsError("there is something else in the place", url=url, node=node)
    if isinstance(error, zarr.errors.UnknownCodecError | ImportError):
        missing = isinstance(error, ImportError)
        what = "needs a package that is not installed" if missing else "is not known"
        return CodecError(f"a codec {what}: {text}", url=url, node=node)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFoundError("there is no such node", url=url, node=node)
    if isinstance(error, MemoryError):
        return MemoryLimitError(f"there is not enough memory: {text}", url=url, node=node)
    if isinstance(error, _DAMAGE):
        return damage(f"zarr-python cannot do it: {text[:500]}", url=url, node=node)
    return storage_error(error, url)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings of zarr-python back; they are about its own plans and formats."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@in_forked_child
def _after_fork() -> None:
    """A thread of the parent that has the lock gives none back here."""
    global _warnings_lock  # noqa: PLW0603
    _warnings_lock = threading.RLock()
