"""A file of limited size, read whole: documents, tables and indexes, from wherever they lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmristore_stores.errors import MemoryLimitError
from fmristore_stores.io.local_files import open_ordinary
from fmristore_stores.io.location import filesystem, is_local
from fmristore_stores.io.objects import protocols
from fmristore_stores.io.option_names import check_local_options
from fmristore_stores.io.sources import FsspecSource, storage_error
from fmristore_stores.io.stats import stats_of

__all__ = ["read_whole"]

_FIRST_BYTES = 8 * 1024 * 1024
"""Bytes asked for before the size of an object on S3 is known."""


def read_whole(url: str, options: Mapping[str, Any] | None = None, *, limit: int) -> bytes:
    """All bytes of a file, unless it is too long: one request on S3, two elsewhere.

    Raises
    ------
    NotFoundError, StorageError
        If it cannot be read.
    MemoryLimitError
        If it has more bytes than `limit`.
    """
    try:
        if is_local(url):
            check_local_options(options, url)
            with open(open_ordinary(url), "rb") as file:  # noqa: PTH123
                data = file.read(limit + 1)
        else:
            fs, path = filesystem(url, options)
            data = _whole(fs, path, limit)
            stats_of(url).add(requests=1, bytes_fetched=len(data))
    except Exception as error:
        raise storage_error(error, url) from error
    if len(data) > limit:
        raise MemoryLimitError(f"the file has more than {limit} bytes", url=url)
    return data


def _whole(fs: Any, path: str, limit: int) -> bytes:
    """All bytes of an object, or no more than tells that it has more than `limit`."""
    if "s3" in protocols(fs):  # the beginning tells the size
        begin = FsspecSource(fs).look(path, min(limit + 1, _FIRST_BYTES))
        if begin.size > limit:
            raise _too_long(fs.unstrip_protocol(path), limit, begin.size)
        done = len(begin.data)
        rest = fs.cat_file(path, start=done, end=begin.size) if done < begin.size else b""
        return begin.data + bytes(rest)
    fs.invalidate_cache(path)
    size = fs.info(path)["size"]
    if size is None:  # a server that does not say it: as a stream
        with fs.open(path, "rb") as file:
            return bytes(file.read(limit + 1))
    if size > limit:
        raise _too_long(fs.unstrip_protocol(path), limit, size)
    return bytes(fs.cat_file(path, start=0, end=size)) if size else b""


def _too_long(url: str, limit: int, size: int) -> MemoryLimitError:
    return MemoryLimitError(f"the file has {size} bytes, more than {limit}", url=url)
