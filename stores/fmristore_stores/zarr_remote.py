"""Remote stores as zarr-python sees them: counted, on the web, and in the making."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from zarr.storage import FsspecStore

from fmristore_stores.protocol import Buffer
from fmristore_stores.stats import Stats

__all__ = ["ROOT", "CountedStore", "NewStore", "WebStore"]

ROOT = "zarr.json"
"""Key of the root's metadata."""


class CountedStore(FsspecStore):
    """A zarr-python store that counts what it reads, and knows the root's metadata for once."""

    stats: Stats
    metadata: bytes | None = None

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Content of an object, None if there is none."""
        if key == ROOT and self.metadata is not None and byte_range is None:
            data, self.metadata = self.metadata, None
            return prototype.buffer.from_bytes(data)
        found = await super().get(key, prototype, byte_range)
        self.stats.add(requests=1, bytes_fetched=0 if found is None else len(found))
        return found


class WebStore(CountedStore):
    """A zarr-python store on a web server, where a name is a part of a URL."""

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """Content of an object, None if there is none."""
        return await super().get(quote(key), *args, **kwargs)

    async def exists(self, key: str) -> bool:
        """Whether there is an object."""
        return await super().exists(quote(key))


class NewStore(FsspecStore):
    """A zarr-python store that is being made.

    It keeps the root's metadata in memory as long as `holding`, and writes through `write`.
    """

    held: Any = None
    holding = True
    write: Callable[[str, Sequence[Buffer]], None]

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """Content of an object, None if there is none."""
        if key == ROOT and self.holding:
            return self.held
        return await super().get(key, *args, **kwargs)

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:  # noqa: ARG002
        """Write an object."""
        if key == ROOT and self.holding:
            self.held = value
        else:
            await asyncio.to_thread(self.write, key, [value.to_bytes()])

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Write an object unless there is one."""
        if not await self.exists(key):
            await self.set(key, value)

    async def exists(self, key: str) -> bool:
        """Whether there is an object."""
        if key == ROOT and self.holding:
            return self.held is not None
        return await super().exists(key)
