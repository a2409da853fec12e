"""Files that a command parses in a process of their own first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmristore_stores.errors import FmristoreError, StorageError
from fmristore_stores.io.location import is_local
from fmristore_stores.opening import check_untrusted, locate

__all__ = ["check_trust"]


def check_trust(url: str, options: Mapping[str, Any], *, trusted: bool | None) -> None:
    """Parse an HDF5 file in a process of its own, unless it is trusted.

    Parameters
    ----------
    url : str
        Path or URL of any file.
    options : mapping
        For fsspec.
    trusted : bool, optional
        Local files that have fmristore's own mark are trusted by default, and what lies in the
        memory of this process.

    Raises
    ------
    CorruptDataError
        If the HDF5 library does not survive the file.
    StorageError
        If it cannot be looked at.
    """
    if trusted:
        return
    try:
        locator = locate(url, storage_options=options)
    except StorageError:  # which may pass: the command must not open what was not looked at
        raise
    except FmristoreError:  # no store, or none that can be opened: the command says so
        return
    if locator.kind != "hdf5" or (trusted is None and _is_trusted(locator.url)):
        return
    check_untrusted(locator)


def _is_trusted(url: str) -> bool:
    if not is_local(url):
        return url.startswith("memory://")
    from fmristore_stores.hdf5.probe import is_marked

    return is_marked(url)
