"""Arrays of a store that must be whole, because a format keeps its data there."""

from __future__ import annotations

from fmristore.formats.base import StoredObject
from fmristore.formats.opening import open_handle
from fmristore.formats.registry import FORMAT
from fmristore_stores.errors import (
    ChangedError,
    FmristoreError,
    StorageError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from fmristore_stores.opening import FixedHandle, Locator
from fmristore_stores.protocol import Store

__all__ = ["is_own_data", "whole_arrays"]


def whole_arrays(locator: Locator, store: Store) -> frozenset[str] | None:
    """Paths of the arrays of which every chunk must be there.

    Parameters
    ----------
    locator : Locator
        Of the store.
    store : Store
        Opened for reading.

    Returns
    -------
    frozenset of str or None
        Empty for a store of other software. None if the store is of a format that cannot be opened;
        then `is_own_data` has to do.

    Raises
    ------
    StorageError, ChangedError
        If the disk or the service fails, or the store was replaced.
    """
    try:
        stored = open_handle(FixedHandle(locator, store))
        if not isinstance(stored, StoredObject):
            return frozenset()
        return frozenset(array.path for array in stored.primary_arrays)
    except (UnknownFormatError, UnsupportedVersionError):
        return None if FORMAT in store.root.view_attributes() else frozenset()
    except (StorageError, ChangedError):
        raise
    except FmristoreError:
        return None


def is_own_data(path: str) -> bool:
    """Return whether an array has the name under which every format of fmristore keeps its data."""
    return path.rpartition("/")[2] == "0"
