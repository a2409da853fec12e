"""Our stores as zarr-python sees them: a directory, counted, on the web, and in the making.

Imported on use, as zarr-python is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import quote

from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import Buffer as ZarrBuffer
from zarr.storage import FsspecStore, LocalStore

from fmristore_stores.io.lifetime import Version
from fmristore_stores.io.stats import Stats
from fmristore_stores.limits import LIMITS, check_metadata, check_values, is_metadata
from fmristore_stores.protocol import Buffer
from fmristore_stores.zarr.documents import ROOT

__all__ = [
    "ConfinedStore",
    "CountedStore",
    "LiteralStore",
    "LocalObjects",
    "NewObjects",
    "NewStore",
    "Objects",
    "WebStore",
]


class LocalObjects(Protocol):
    """The files of the store, as `files.LocalFiles` reaches them."""

    def check_readable(self, key: str) -> None:
        """Refuse links that lead out of the store, devices, and metadata that are too long."""

    def status(self, key: str) -> Any:
        """Status of a file or folder, None where there is none."""

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write one file."""


class Objects(Protocol):
    """The objects of the store, as `files.RemoteFiles` reaches them."""

    def exists(self, key: str) -> bool:
        """Return whether there is an object or a prefix of that name."""

    def names(self, folder: str) -> list[str]:
        """Names directly below a prefix."""

    def below(self, folder: str) -> list[str]:
        """Keys of all objects below a prefix."""

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write one object."""

    def remove(self, key: str) -> None:
        """Delete one object if it is there."""

    def remove_tree(self, key: str) -> None:
        """Delete a prefix with everything below it."""


class NewObjects(Objects, Protocol):
    """Objects of a store that is being made."""

    held: bytes | None
    """The root's metadata."""
    holding: bool
    """True if they are held back."""


def _check_document(found: Any, key: str, url: str) -> Any:
    """Refuse a metadata document, in a buffer of zarr-python, that is too much; returns it."""
    if found is not None and is_metadata(key):
        check_metadata(len(found), key, url)
        check_values(found.to_bytes(), url)
    return found


class ConfinedStore(LocalStore):
    """A zarr-python store that follows no symbolic link out of its directory."""

    def __init__(self, root: Path | str, *, read_only: bool = False, files: LocalObjects) -> None:
        super().__init__(root, read_only=read_only)
        self._files = files

    def with_read_only(self, read_only: bool = False) -> Self:  # noqa: FBT001, FBT002
        """The same store, to be written or not."""
        return type(self)(self.root, read_only=read_only, files=self._files)

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """Content of a file, None if there is none."""
        self._files.check_readable(key)
        return _check_document(await super().get(key, *args, **kwargs), key, str(self.root))

    async def set(self, key: str, value: ZarrBuffer) -> None:
        """Write a file."""
        self._check_writable()
        await asyncio.to_thread(self._files.put, key, [memoryview(value.as_buffer_like())])

    async def set_if_not_exists(self, key: str, value: ZarrBuffer) -> None:
        """Write a file unless there is one."""
        if self._files.status(key) is None:
            await self.set(key, value)

    def get_sync(self, key: str, **kwargs: Any) -> Any:
        """As `get`, without an event loop."""
        self._files.check_readable(key)
        return _check_document(super().get_sync(key, **kwargs), key, str(self.root))

    def set_sync(self, key: str, value: ZarrBuffer) -> None:
        """As `set`, without an event loop."""
        self._check_writable()
        self._files.put(key, [memoryview(value.as_buffer_like())])


class LiteralStore(FsspecStore):
    """A zarr-python store that takes no name for a pattern, and no error for an absence."""

    objects: Objects

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return await asyncio.to_thread(self.objects.exists, key)

    async def delete(self, key: str) -> None:
        """Remove an object if there is one."""
        self._check_writable()
        await asyncio.to_thread(self.objects.remove, key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove everything below a prefix."""
        self._check_writable()
        with suppress(FileNotFoundError):
            await asyncio.to_thread(self.objects.remove_tree, prefix.rstrip("/"))

    async def clear(self) -> None:
        """Remove everything."""
        await self.delete_dir("")

    async def list(self) -> AsyncIterator[str]:
        """Keys of all objects."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys of all objects below a prefix."""
        for key in await asyncio.to_thread(self.objects.below, prefix.rstrip("/")):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly below a prefix."""
        try:
            names = await asyncio.to_thread(self.objects.names, prefix.rstrip("/"))
        except FileNotFoundError:
            return
        for name in names:
            yield name


class CountedStore(LiteralStore):
    """A zarr-python store that counts what it reads, and knows the root's metadata for once."""

    stats: Stats
    ranged = True
    """True if a range beyond the end of an object yields what there is of it."""
    metadata: bytes | None = None
    query = ""
    """Query of the URL of a store on a web server, which follows each name."""
    version: Version | None = None

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Content of an object, None if there is none."""
        if key == ROOT and self.metadata is not None and byte_range is None:
            data, self.metadata = self.metadata, None
            return prototype.buffer.from_bytes(data)
        metadata = byte_range is None and is_metadata(key)
        if metadata and self.ranged:
            limit = max(LIMITS.document, LIMITS.consolidated)
            byte_range = RangeByteRequest(0, limit + 1)
        found = await super().get(key, prototype, byte_range)
        if metadata:
            _check_document(found, key, self.path)
        self.stats.add(requests=1, bytes_fetched=0 if found is None else len(found))
        if self.version is not None:
            self.version.arrived()
        return found


class WebStore(CountedStore):
    """A zarr-python store on a web server, where a name is a part of a URL."""

    ranged = False

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """Content of an object, None if there is none."""
        return await super().get(quote(key) + self.query, *args, **kwargs)


class NewStore(LiteralStore):
    """A zarr-python store that is being made, whose root's metadata may be held in memory."""

    objects: NewObjects

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Content of an object, None if there is none."""
        if key == ROOT and self.objects.holding:
            held = self.objects.held
            return None if held is None else prototype.buffer.from_bytes(held)
        return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:  # noqa: ARG002
        """Write an object."""
        await asyncio.to_thread(self.objects.put, key, [value.to_bytes()])

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Write an object unless there is one."""
        if not await self.exists(key):
            await self.set(key, value)

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        if key == ROOT and self.objects.holding:
            return self.objects.held is not None
        return await super().exists(key)
