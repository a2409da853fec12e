"""An array of an opened store, held so that it survives pickling and reopening."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import InvalidInputError, MetadataError, NotFoundError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Array
from fmristore_stores.spec import ArraySpec, Attributes

__all__ = ["StoredArray"]

_State = tuple[Handle, str, Literal["fill", "error"], tuple[str, ...], bool]


class StoredArray:
    """One array of a store, opened when it is needed.

    Parameters
    ----------
    handle : Handle
        The store.
    path : str
        Of the array in the store.
    missing : {"error", "fill"}
        What a chunk that was never written means.
    dims : tuple of str, optional
        Names of its axes, for an array of other software that has none or others.
    is_copy : bool
        Whether its numbers are those of another array of the same object.
    """

    def __init__(
        self,
        handle: Handle,
        path: str,
        *,
        missing: Literal["fill", "error"] = "error",
        dims: tuple[str, ...] = (),
        is_copy: bool = False,
    ) -> None:
        self._handle = handle
        self._path = path
        self._missing = missing
        self._dims = dims
        self._is_copy = is_copy

    @property
    def path(self) -> str:
        """Path in the store."""
        return self._path

    @property
    def url(self) -> str:
        """Path or URL of the store."""
        return self._handle.locator.url

    @property
    def is_copy(self) -> bool:
        """Whether its numbers are those of another array of the same object."""
        return self._is_copy

    @property
    def reader(self) -> ChunkReader:
        """Reader of the array in the store that this process has open now.

        Raises
        ------
        ClosedError
            If the handle was closed.
        MetadataError
            If the store has no such array.
        """
        opened = self._handle.opened
        reader = opened.readers.get(self)
        if reader is None:
            try:
                array = opened.store.root.array(self._path)
            except NotFoundError as error:
                raise MetadataError(
                    f"the format asks for this array: {error.message}",
                    url=self._handle.locator.url,
                    node=self._path,
                ) from error
            reader = opened.readers[self] = self._new_reader(array)
        return reader

    def streaming_reader(self) -> ChunkReader:
        """Reader that keeps no decoded chunks: to pass through the whole array once."""
        return self._new_reader(self.reader.array, ChunkCache(0))

    def _new_reader(self, array: Array, cache: ChunkCache | None = None) -> ChunkReader:
        url = self._handle.locator.url
        reader = ChunkReader(array, cache=cache, missing=self._missing, url=url)
        if self._dims:
            reader.spec = self._named(reader.spec)
        return reader

    def _named(self, spec: ArraySpec) -> ArraySpec:
        """The spec with the names that its axes are to have here."""
        try:
            return replace(spec, dims=self._dims)
        except InvalidInputError as error:
            raise MetadataError(
                f"has the shape {spec.shape} where axes {', '.join(self._dims)} are expected",
                url=self._handle.locator.url,
                node=self._path,
            ) from error

    @property
    def attributes(self) -> Attributes:
        """Attributes of the array."""
        return self.reader.array.read_attributes()

    def read_small(self, most: int) -> AnyArray:
        """Read all of an array that by its meaning is small.

        Parameters
        ----------
        most : int
            Elements that it may have.

        Raises
        ------
        MetadataError
            If it has more: the file is damaged, or made to exhaust memory.
        """
        reader = self.reader
        if math.prod(reader.spec.shape) > most:
            raise MetadataError(
                f"has the shape {reader.spec.shape}, more than the {most} numbers that it may hold",
                url=self._handle.locator.url,
                node=self._path,
            )
        return reader.read()

    def __getstate__(self) -> _State:
        return self._handle, self._path, self._missing, self._dims, self._is_copy

    def __setstate__(self, state: _State) -> None:
        self._handle, self._path, self._missing, self._dims, self._is_copy = state
