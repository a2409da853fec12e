"""Storing content as a format: the choices that users leave open, and the way into a new store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fmristore.formats.registry import select_layout
from fmristore.planning.options import StoreOptions
from fmristore.planning.progress import Progress
from fmristore.planning.text import parse_size
from fmristore_stores.io.location import Kind, kind_of_name, normalise
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import Store

if TYPE_CHECKING:
    from fmristore_stores.publishing.turns import Turn

__all__ = ["MatrixOptions", "Target", "store_as"]

Stored = TypeVar("Stored")


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixOptions:
    """Options of storing a format by voxel.

    Parameters
    ----------
    codec : str
        Name of a codec preset.
    max_memory : int
        Bytes that writing may take.
    fill : int or float
        What voxels outside the mask are read as.
    """

    codec: str = "dual"
    max_memory: int = 1 << 30
    fill: Any = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A store that is to be made, and how.

    Parameters
    ----------
    url : str or path
        Where.
    kind : {"hdf5", "zarr"}, optional
        Container, if that is known.
    codec : str
        Name of a codec preset.
    profile : str, optional
        Name of a layout; fmristore's own by default.
    overwrite : bool
        Replace what is there.
    storage_options : mapping, optional
        Passed to fsspec.
    max_memory : int
        Bytes that writing may take.
    progress : callable, optional
        Called with the bytes done and in all.
    """

    url: str | os.PathLike[str]
    kind: Kind | None = None
    codec: str = "dual"
    profile: str | None = None
    overwrite: bool = False
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    max_memory: int = 1 << 30
    progress: Progress | None = None

    @classmethod
    def of(
        cls, url: str | os.PathLike[str], options: StoreOptions, *, kind: Kind | None = None
    ) -> Self:
        """Fill in what a user left open: any HDF5 reader opens an HDF5 file, R too.

        Parameters
        ----------
        url : str or path
            New store.
        options : StoreOptions
            As they were given.
        kind : {"hdf5", "zarr"}, optional
            Of the store; by the ending of its name otherwise.

        Raises
        ------
        InvalidInputError
            If ``max_memory`` is no size.
        """
        kind = kind or kind_of_name(normalise(url))
        return cls(
            url=url,
            kind=kind,
            codec=options.get("codec") or ("portable" if kind == "hdf5" else "dual"),
            profile=options.get("profile"),
            overwrite=options.get("overwrite", False),
            storage_options=options.get("storage_options"),
            max_memory=parse_size(options.get("max_memory", 1 << 30)),
            progress=options.get("progress"),
        )

    def matrix(self, fill: Any = 0) -> MatrixOptions:
        """Options of what is stored by voxel."""
        return MatrixOptions(codec=self.codec, max_memory=self.max_memory, fill=fill)


def store_as(
    cls: type[Stored],
    target: Target,
    content: Any,
    options: Any,
    *,
    check: Callable[[Store], None] | None = None,
    turn: Turn | None = None,
    expected: str | None = None,
) -> Stored:
    """Store content in a layout of its format, and open it.

    Parameters
    ----------
    cls : type
        Format class.
    target : Target
        New store; it appears when complete.
    content, options : object
        As the layouts of the class take them.
    check, turn, expected : object, optional
        As of `fmristore_stores.publishing.publish.create_store`.

    Returns
    -------
    object of `cls`
        The new store; a local HDF5 file is not held open until it is used.
    """
    from fmristore_stores.publishing.publish import create_store  # not needed by readers

    layout = select_layout(cls, target.profile, target.url)
    with create_store(
        target.url,
        overwrite=target.overwrite,
        storage_options=target.storage_options,
        check=check,
        turn=turn,
        expected=expected,
        variable_text=layout.variable_text,
    ) as store:
        layout.write(store, content, options, progress=target.progress)
    handle = Handle(locate(target.url, storage_options=target.storage_options), fresh=True)
    try:
        make: Any = cls
        made: Stored = make(handle, layout.read(handle))
        handle.rest()
    except BaseException:
        handle.close()
        raise
    return made
