"""Filters whose plugins HDF5 finds and cannot create datasets with.

netCDF4 sets ``HDF5_PLUGIN_PATH`` to plugins that are linked with its own copy of the HDF5 library.
Where it is imported first, the library of h5py loads them, and the function by which such a plugin
adapts its parameters to a dataset fails: it asks the other copy. Here parameters are complete and
chunks encoded before HDF5 has them, so that function is not needed. For the moment of creation the
plugin is registered without it, by h5py's ``h5z.register_filter``; what decodes stays its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar

from h5py import h5pl, h5z

from fmristore_stores.io.forks import in_forked_child

__all__ = ["plain_filters"]

_lock = threading.Lock()
_known: dict[int, tuple[_FilterClass, _FilterClass]] = {}
_kept: list[Any] = []
"""Libraries to whose functions HDF5 refers as long as the process lives."""
_FILTER = 0
"""Kind of a plugin that is a filter: ``H5PL_TYPE_FILTER``."""
_ENDINGS = (".so", ".dylib", ".dll")


class _FilterClass(ctypes.Structure):
    """``H5Z_class2_t`` of H5Zpublic.h."""

    _fields_: ClassVar = [
        ("version", ctypes.c_int),
        ("id", ctypes.c_int),
        ("encoder_present", ctypes.c_uint),
        ("decoder_present", ctypes.c_uint),
        ("name", ctypes.c_char_p),
        ("can_apply", ctypes.c_void_p),
        ("set_local", ctypes.c_void_p),
        ("filter", ctypes.c_void_p),
    ]


@contextlib.contextmanager
def plain_filters(numbers: Collection[int]) -> Iterator[bool]:
    """Have filters of plugins without the functions that look at the dataset, for one creation.

    Afterwards they are as they were: datasets that others create need these functions, and would
    be encoded with parameters that are missing.

    Parameters
    ----------
    numbers : collection of int
        Of filters that HDF5 has loaded from where it looks for plugins.

    Yields
    ------
    bool
        Whether the plugins of all were found.
    """
    with _lock:
        found = [_filter(number) for number in numbers]
        known = [one for one in found if one is not None]
        try:
            for _, plain in known:
                h5z.register_filter(ctypes.addressof(plain))
            yield len(known) == len(numbers)
        finally:
            for own, _ in known:
                h5z.register_filter(ctypes.addressof(own))


def _filter(number: int) -> tuple[_FilterClass, _FilterClass] | None:
    """Class of a filter as its plugin has it, and without the functions; None if none has it."""
    if number in _known:
        return _known[number]
    for path in _plugins():
        found = _class_in(path)
        if found is not None and found.id == number:
            plain = _FilterClass.from_buffer_copy(found)
            plain.can_apply = plain.set_local = None
            return _known.setdefault(number, (found, plain))
    return None


def _plugins() -> list[Path]:
    """Libraries in the folders where HDF5 looks for plugins."""
    folders = [Path(os.fsdecode(h5pl.get(place))) for place in range(h5pl.size())]
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix in _ENDINGS
    ]


def _class_in(path: Path) -> _FilterClass | None:
    """Class of the filter in a library; None if it is no plugin of a filter."""
    try:
        library = ctypes.CDLL(str(path))
        if library.H5PLget_plugin_type() != _FILTER:
            return None
        get = library.H5PLget_plugin_info
    except (OSError, AttributeError):
        return None
    get.restype = ctypes.POINTER(_FilterClass)
    found = get()
    if not found:
        return None
    _kept.append(library)
    made: _FilterClass = found.contents
    return made


@in_forked_child
def _after_fork() -> None:
    """A thread of the parent that has the lock gives none back here."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
