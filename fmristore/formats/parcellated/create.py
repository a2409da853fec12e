"""Creating stores of parcellated scans."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fmristore.formats.parcellated.writer import (
    ParcelOptions,
    ScanContent,
    ScanRequest,
    open_content,
    write_tree,
)
from fmristore.formats.profiles import Profile, find_profile
from fmristore.planning.progress import Progress
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.errors import AlreadyExistsError
from fmristore_stores.io.location import Kind, kind_of_name, normalise
from fmristore_stores.opening import Handle, locate
from fmristore_stores.publishing.publish import create_store

__all__ = ["Target", "check_names", "create_scans", "each_content", "open_created"]

_MODULE = "parcellated"

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A new store, and how it is to be written.

    Parameters
    ----------
    url : str or path
        Where.
    kind : {"hdf5", "zarr"}, optional
        By the ending of the name otherwise.
    codec : str, optional
        Preset; ``"portable"`` for HDF5 and ``"dual"`` for Zarr if None.
    profile : {"r"}, optional
        Layout of the R package.
    overwrite : bool
        Replace what is there.
    storage_options : mapping, optional
        Passed to fsspec.
    max_memory : int
        Bytes that writing may take.
    progress : callable, optional
        Called with the bytes of labelled voxels done and in all, for each scan.
    """

    url: str | os.PathLike[str]
    kind: Kind | None = None
    codec: str | None = None
    profile: Profile | None = None
    overwrite: bool = False
    storage_options: Mapping[str, Any] | None = None
    max_memory: int = 1 << 30
    progress: Progress | None = None

    @property
    def options(self) -> ParcelOptions:
        """What the writer needs to know: an HDF5 file is readable everywhere."""
        kind = self.kind or kind_of_name(normalise(self.url))
        return ParcelOptions(
            codec=self.codec or ("portable" if kind == "hdf5" else "dual"),
            max_memory=self.max_memory,
        )


def create_scans(
    target: Target,
    format_name: str,
    parcellation: Parcellation,
    requests: Sequence[ScanRequest],
) -> None:
    """Store scans; they appear together when all are complete.

    Raises
    ------
    AlreadyExistsError
        If there is something and it shall not be replaced, or two scans have one name.
    InvalidInputError
        If a scan cannot be stored.
    """
    check_names([request.name for request in requests])
    writer = write_tree
    if target.profile is not None:
        writer = find_profile(target.profile, _MODULE, target.url).write_tree
    with (
        create_store(
            target.url, overwrite=target.overwrite, storage_options=target.storage_options
        ) as store,
        contextlib.closing(each_content(target, parcellation, requests)) as contents,
    ):
        writer(store, format_name, parcellation, contents, target.options)


def check_names(names: Sequence[str]) -> None:
    """Check that names of scans are all different.

    Raises
    ------
    AlreadyExistsError
        If not.
    """
    for i, name in enumerate(names):
        if name in names[:i]:
            raise AlreadyExistsError(f"there is a scan called {name!r} already")


def each_content(
    target: Target, parcellation: Parcellation, requests: Sequence[ScanRequest]
) -> Generator[ScanContent, None, None]:
    """Open and summarise scans one after the other; only one source is open at a time."""
    for request in requests:
        with open_content(
            request,
            parcellation,
            max_memory=target.max_memory,
            storage_options=target.storage_options,
            progress=target.progress,
        ) as content:
            yield content


def open_created(target: Target, make: Callable[[Handle], Made]) -> Made:
    """Open what was just written."""
    handle = Handle(locate(target.url, storage_options=target.storage_options))
    try:
        if target.profile is not None:
            opened: Made = find_profile(target.profile, _MODULE, target.url).open_r(handle)
            return opened
        return make(handle)
    except BaseException:
        handle.close()
        raise
