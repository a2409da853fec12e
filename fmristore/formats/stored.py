"""An array of an opened store, held so that it survives pickling and reopening."""

from __future__ import annotations

import math
from typing import Literal

from fmristore_stores.cache import ChunkCache
from fmristore_stores.errors import MetadataError, NotFoundError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Store
from fmristore_stores.reader import ChunkReader
from fmristore_stores.spec import Attributes

__all__ = ["StoredArray"]


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
    """

    def __init__(
        self, handle: Handle, path: str, *, missing: Literal["fill", "error"] = "error"
    ) -> None:
        self._handle = handle
        self._path = path
        self._missing = missing
        self._opened: tuple[Store, ChunkReader] | None = None

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
        store = self._handle.store
        if self._opened is None or self._opened[0] is not store:
            try:
                array = store.root.array(self._path)
            except NotFoundError as error:
                raise MetadataError(
                    f"the format asks for this array: {error.message}",
                    url=self._handle.locator.url,
                    node=self._path,
                ) from error
            url = self._handle.locator.url
            self._opened = (store, ChunkReader(array, missing=self._missing, url=url))
        return self._opened[1]

    def streaming_reader(self) -> ChunkReader:
        """Reader that keeps no decoded chunks: to pass through the whole array once."""
        return ChunkReader(
            self.reader.array,
            cache=ChunkCache(0),
            missing=self._missing,
            url=self._handle.locator.url,
        )

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

    def __getstate__(self) -> tuple[Handle, str, Literal["fill", "error"]]:
        return self._handle, self._path, self._missing

    def __setstate__(self, state: tuple[Handle, str, Literal["fill", "error"]]) -> None:
        self._handle, self._path, self._missing = state
        self._opened = None
