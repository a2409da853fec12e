"""The one error tree of fmristore.

::

    FmristoreError
    ├── NotFoundError (also FileNotFoundError): no such file, store, node or key
    ├── AlreadyExistsError (also FileExistsError): pass overwrite=True
    ├── ReadOnlyError: opened for reading, or its protocol cannot write
    ├── ClosedError: the object was used after close()
    ├── ChangedError: the store is not the one that was opened
    ├── InvalidInputError (also ValueError): an argument cannot be used
    │   └── SelectionError (also IndexError): an index does not fit the array
    ├── FormatError: what is stored is not what it should be
    │   ├── UnknownFormatError: neither HDF5, Zarr nor NIfTI, or no known format inside
    │   ├── UnsupportedVersionError: written by a newer fmristore
    │   ├── MetadataError: header, attributes or specification are wrong or contradictory
    │   └── CorruptDataError: damaged, missing or truncated chunks
    ├── LayoutNotSupportedError: this store cannot hold that array as specified
    ├── CodecError: unknown codec, or a plugin is missing
    ├── LossyError: an exact conversion does not exist and was not waived
    ├── MemoryLimitError: the work cannot be done within max_memory
    ├── RunsError: some of many runs failed
    ├── DependencyError (also ImportError): an optional package is not installed
    └── StorageError (also OSError): the disk, network or service failed
        └── AccessDeniedError (also PermissionError): credentials are missing or not sufficient

A class says what a handler would do; ``kind`` (stable, append-only) says which case it is. Messages
and URLs in errors hold no password, token or signature; the errors of other packages that they were
raised from are left as they are, and may.
"""

from __future__ import annotations

from typing import Any

from fmristore_stores.secrets import masked
from fmristore_stores.shown import shown, shown_lines

__all__ = [
    "AccessDeniedError",
    "AlreadyExistsError",
    "ChangedError",
    "ClosedError",
    "CodecError",
    "CorruptDataError",
    "DependencyError",
    "FmristoreError",
    "FormatError",
    "InvalidInputError",
    "LayoutNotSupportedError",
    "LossyError",
    "MemoryLimitError",
    "MetadataError",
    "NotFoundError",
    "ReadOnlyError",
    "RunsError",
    "SelectionError",
    "StorageError",
    "UnknownFormatError",
    "UnsupportedVersionError",
]


class FmristoreError(Exception):
    """Base of every error that fmristore raises on purpose.

    Parameters
    ----------
    message : str
        What was found, what was expected and what to do.
    url : str, optional
        The file or store concerned.
    node : str, optional
        Path of the group or array inside the store.

    Attributes
    ----------
    kind : str
        Stable code of the category, for programs.
    """

    kind = "error"

    def __init__(self, message: str, *, url: str | None = None, node: str | None = None) -> None:
        message = masked(message)
        super().__init__(message)
        self.message = message
        self.url = url
        self.node = node

    @property
    def url(self) -> str | None:
        """The file or store concerned, without passwords, tokens and signatures."""
        return self._url

    @url.setter
    def url(self, url: str | None) -> None:
        self._url = None if url is None else masked(str(url))

    def __str__(self) -> str:
        where = "".join(
            part
            for part in (
                shown(self.url) if self.url else "",
                f"[/{shown(self.node)}]" if self.node else "",
            )
        )
        text = shown_lines(self.message)
        return f"{where}: {text}" if where else text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.url, self.node)


def _rebuild(
    cls: type[FmristoreError], message: str, url: str | None, node: str | None
) -> FmristoreError:
    return cls(message, url=url, node=node)


class NotFoundError(FmristoreError, FileNotFoundError):
    """No such file, store, node or key."""

    kind = "not-found"


class AlreadyExistsError(FmristoreError, FileExistsError):
    """The destination exists and nobody asked to replace it."""

    kind = "already-exists"


class ReadOnlyError(FmristoreError):
    """The store was opened for reading, or its protocol cannot write."""

    kind = "read-only"


class ClosedError(FmristoreError):
    """The object was used after ``close()``."""

    kind = "closed"


class ChangedError(FmristoreError):
    """The store is no longer the one that was opened."""

    kind = "changed"


class InvalidInputError(FmristoreError, ValueError):
    """An argument cannot be used."""

    kind = "invalid-input"


class SelectionError(InvalidInputError, IndexError):
    """An index or selection does not fit the array."""

    kind = "selection"


class FormatError(FmristoreError):
    """Stored bytes are not what they should be."""

    kind = "format"


class UnknownFormatError(FormatError):
    """Neither the container nor the format inside it is known."""

    kind = "unknown-format"


class UnsupportedVersionError(FormatError):
    """The file was written by a newer major version of the format."""

    kind = "unsupported-version"


class MetadataError(FormatError):
    """Header, attributes or specification are wrong or contradictory."""

    kind = "metadata"


class CorruptDataError(FormatError):
    """Stored values are damaged, missing or truncated."""

    kind = "corrupt-data"


class LayoutNotSupportedError(FmristoreError):
    """The store cannot hold that array as specified."""

    kind = "layout-not-supported"


class CodecError(FmristoreError):
    """A codec is unknown, misconfigured or its plugin is missing."""

    kind = "codec"


class LossyError(FmristoreError):
    """An exact conversion does not exist and the loss was not waived."""

    kind = "lossy"


class MemoryLimitError(FmristoreError):
    """The work cannot be done within the memory limit.

    Attributes
    ----------
    needs : tuple of (str, int, int), optional
        What does not fit, and the bytes that were given and that are needed, where that is known.
    """

    kind = "memory-limit"
    needs: tuple[str, int, int] | None = None


class RunsError(FmristoreError):
    """Some of many runs failed; the message says which and why."""

    kind = "runs"


class DependencyError(FmristoreError, ImportError):
    """An optional package is needed and not installed."""

    kind = "dependency"


class StorageError(FmristoreError, OSError):
    """The disk, the network or the storage service failed."""

    kind = "storage"


class AccessDeniedError(StorageError, PermissionError):
    """Credentials are missing or not sufficient."""

    kind = "access-denied"
