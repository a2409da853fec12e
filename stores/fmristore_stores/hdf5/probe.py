"""Parsing a file that is not trusted in a process of its own first.

The HDF5 library parses what a file says without checking all of it: a damaged or crafted file can
crash the process, keep it busy for ever or have it take all memory. `probe` reads everything that
opening, listing and verifying a file would read through the library, in a child process with a
limit of time and memory, and reports what became of it. The file is read again afterwards, by
whoever asked: what it holds is not taken from the child.

Run as a module this is the child.
"""

from __future__ import annotations

import functools
import math
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from fmristore_stores.causes import causes
from fmristore_stores.errors import (
    ChangedError,
    CorruptDataError,
    DependencyError,
    FmristoreError,
    InvalidInputError,
    StorageError,
)
from fmristore_stores.hdf5.store import HDF5Array, HDF5Group, HDF5Store
from fmristore_stores.io.block_file import BlockFile
from fmristore_stores.io.location import filesystem, is_local, normalise
from fmristore_stores.io.sources import FsspecSource
from fmristore_stores.limits import LIMITS
from fmristore_stores.protocol import Capability
from fmristore_stores.shown import shown
from fmristore_stores.spec import is_string

__all__ = ["is_marked", "probe"]

_Node = TypeVar("_Node", HDF5Group, HDF5Array)

_CHILD = ("-P", "-m", "fmristore_stores.hdf5.probe")
"""Arguments of Python that make it the child; nothing is imported from the current folder."""
_OUT_OF_MEMORY = 3
"""Exit code of a child that was refused memory."""
_NOT_READ = 4
"""Exit code of a child that could not read the file, whatever is in it."""
_UNREAD = (StorageError, ChangedError, DependencyError)
"""Reason given for a child that was not reached."""
_WINDOWS_CRASH = 0xC0000000
"""Exit codes of processes that crashed on Windows begin here."""
_SMALL = 64 * 1024 * 1024
"""Bytes of an array that is read if HDF5 itself has to decode it."""
_MOST_TEXTS = 1 << 18
"""Texts of an array that are read."""
_LONGEST = 10_000
"""Letters of what a child wrote that are kept."""
_MARK = b"fmristore_format"
_ENDS = 1024 * 1024
"""Bytes at both ends of a file among which the mark is looked for."""
_NO_MEMORY = ("memory alloc", "can't alloc", "unable to alloc", "no space available")
"""Parts of HDF5's messages when it is refused memory."""


def probe(url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> None:
    """Parse an HDF5 file in a process of its own, within ``LIMITS.probe_seconds`` and memory.

    Parameters
    ----------
    url : str or path
        The file.
    storage_options : mapping, optional
        Passed to fsspec.

    Raises
    ------
    CorruptDataError
        If the HDF5 library crashes on the file, does not come to an end or takes too much memory.
    InvalidInputError
        If no other process can read what is at `url`, as in ``memory://``.
    StorageError
        If the process cannot be started, or cannot read the file.

    Notes
    -----
    Read are all groups, links, attributes, types, properties and chunk tables, the first 262,144
    texts of arrays, and the values of arrays of at most 64 MiB that are not decoded by fmristore
    itself. A file that is damaged in a way that is noticed here, too, passes: it is reported where
    it is read.
    """
    place = normalise(url)
    if not is_local(place) and "memory" in place.partition("://")[0].split("::"):
        msg = "no other process can read what lies in the memory of this one; trust it, or store it"
        raise InvalidInputError(msg, url=place)
    request = pickle.dumps((place, dict(storage_options or {}), asdict(LIMITS)))
    try:
        done = subprocess.run(  # noqa: S603 - nothing of it comes from the file
            [sys.executable, *_CHILD],
            input=request,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=LIMITS.probe_seconds,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "OPENBLAS_NUM_THREADS": "1",
            },
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CorruptDataError(_too_long(), url=place) from error
    except OSError as error:
        msg = f"no process can be started to parse the file in: {error}"
        raise StorageError(msg, url=place) from error
    _raise_for(done.returncode, done.stderr, place)


def _raise_for(code: int, stderr: bytes, url: str) -> None:
    """Raise if a child ended in another way than it should."""
    if code == 0:
        return
    if code == _OUT_OF_MEMORY:
        msg = (
            f"the HDF5 library takes more than {LIMITS.probe_memory} bytes to parse this file: it "
            "is damaged or made to do harm; if you trust it, open it with trusted=True"
        )
        raise CorruptDataError(msg, url=url)
    if code == -getattr(signal, "SIGXCPU", code + 1):
        raise CorruptDataError(_too_long(), url=url)
    if code < 0 or code >= _WINDOWS_CRASH:
        names = {int(item): item.name for item in signal.Signals}
        msg = (
            f"the HDF5 library crashed on this file ({names.get(-code, -code)}), in a process of "
            "its own: it is damaged or made to do harm"
        )
        raise CorruptDataError(msg, url=url)
    text = stderr[-_LONGEST:].decode(errors="replace").strip().rpartition("\n")[2]
    msg = f"the process that should parse the file failed: {shown(text) or f'exit code {code}'}"
    raise StorageError(msg, url=url)


def _too_long() -> str:
    return (
        f"the HDF5 library has not parsed this file in {LIMITS.probe_seconds:g} s: it is damaged "
        "or made to do harm; if you trust it, open it with trusted=True, or raise "
        "fmristore_stores.limits.LIMITS.probe_seconds"
    )


def is_marked(path: str) -> bool:
    """Return whether a local file has the mark of fmristore's own format near its beginning or end.

    Anybody can put it there. It is looked for among the bytes, without parsing the file.
    """
    try:
        with Path(path).open("rb") as file:
            if _MARK in file.read(_ENDS):
                return True
            file.seek(max(0, os.fstat(file.fileno()).st_size - _ENDS))
            return _MARK in file.read(_ENDS)
    except OSError:
        return False


# In the child --------------------------------------------------------------------------------


def _main() -> int:
    """Parse the file that the parent names; the exit code says what became of it."""
    url, options, limits = pickle.load(sys.stdin.buffer)  # noqa: S301 - the parent's
    for name, value in limits.items():
        setattr(LIMITS, name, value)
    _limit_this_process()
    try:
        with _opened(url, options) as store:
            for step in _steps(store.root):
                _try(step)
    except _UNREAD as error:
        print(shown(error), file=sys.stderr)  # noqa: T201 - the parent reads it
        return _NOT_READ
    except (FmristoreError, MemoryError) as error:
        return _OUT_OF_MEMORY if _is_refused_memory(error) else 0
    return 0


def _limit_this_process() -> None:
    try:
        import resource
    except ImportError:  # Windows: there is the parent's limit of time
        return
    seconds = math.ceil(LIMITS.probe_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux: what is there already is not known
        pages = 0
    room = pages * resource.getpagesize() + LIMITS.probe_memory
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    if most == resource.RLIM_INFINITY or room < most:
        resource.setrlimit(resource.RLIMIT_AS, (room, most))


def _opened(url: str, options: Mapping[str, Any]) -> HDF5Store:
    if is_local(url):
        return HDF5Store(url, mode="r")
    fs, path = filesystem(url, options)
    source = FsspecSource(fs)
    return HDF5Store(path, mode="r", url=url, source=source, file=BlockFile(source, path))


def _steps(root: HDF5Group) -> Iterator[Callable[[], object]]:
    """Everything that is read of a file, in steps of which each may find that it is damaged."""
    pending = [root]
    while pending:
        group = pending.pop()
        arrays: list[HDF5Array] = []
        yield group.read_attributes
        yield functools.partial(_open_children, group, pending, arrays)
        for array in arrays:
            yield array.read_attributes
            yield array.stored_units
            if is_string(array.spec.dtype):
                yield functools.partial(_read_texts, array)
            elif Capability.CHUNK_REFS not in array.capabilities and array.spec.nbytes <= _SMALL:
                yield array.read


def _read_texts(array: HDF5Array) -> None:
    shape = array.spec.shape
    rows = max(1, _MOST_TEXTS // max(1, math.prod(shape[1:])))
    array.read(tuple(slice(0, n) for n in (min(shape[0], rows), *shape[1:])) if shape else None)


def _open_children(group: HDF5Group, groups: list[HDF5Group], arrays: list[HDF5Array]) -> None:
    for name, child in group.children().items():
        if child.kind == "group":
            _try(functools.partial(_append, groups, group.group, name))
        elif child.kind == "array":
            _try(functools.partial(_append, arrays, group.array, name))


def _append(found: list[_Node], open_child: Callable[[str], _Node], name: str) -> None:
    found.append(open_child(name))


def _try(step: Callable[[], object]) -> None:
    """Do a step; what is damaged is reported to whoever reads it in earnest."""
    try:
        step()
    except (FmristoreError, MemoryError) as error:
        if isinstance(error, _UNREAD) or _is_refused_memory(error):
            raise


def _is_refused_memory(error: BaseException) -> bool:
    """Return whether memory ran out, here or in the HDF5 library."""
    return any(
        isinstance(cause, MemoryError) or any(sign in str(cause).lower() for sign in _NO_MEMORY)
        for cause in causes(error)
    )


if __name__ == "__main__":
    sys.exit(_main())
