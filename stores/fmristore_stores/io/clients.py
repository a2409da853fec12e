"""Clients of fsspec for web servers and S3 that look at what a server says it sent.

A server, or something on the way to it, may ignore a range, or send another one than was asked
for. The clients of fsspec do not look, and hand out wrong bytes. Those here compare the range that
the server names, and do so before the body is read, which may be a whole object. Imported on use:
each base class belongs to an optional package.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, NamedTuple, TypeVar

from fmristore_stores.errors import CorruptDataError, FmristoreError, LayoutNotSupportedError

__all__ = [
    "Patience",
    "check_range",
    "s3_class",
    "same_host_only",
    "tar_class",
    "web_class",
    "zip_class",
]

_T = TypeVar("_T")

Seen = Callable[[str, str], None]
"""Called with the name of an object and the version that an answer says it has."""
Here = Callable[[str, bytes], None]
"""Called with the name of an object and the bytes that were asked for, when they are here."""


class _Asked(NamedTuple):
    """Conditions of a read besides its range."""

    path: str
    if_match: str
    seen: Seen | None


_ASKED: ContextVar[_Asked | None] = ContextVar("_ASKED", default=None)

_ATTEMPTS = 4
_FIRST_PAUSE = 0.1
"""Seconds before the second attempt; each pause is three times as long as the one before."""
_CONNECT = 10.0
"""Seconds in which a web server must accept a connection."""
_SILENCE = 30.0
"""Seconds that a web server may say nothing."""
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of failures that may pass."""


def check_range(asked: str, answered: str | None, length: int | None, url: str) -> None:
    """Check that an answer holds the range that was asked for.

    Parameters
    ----------
    asked : str
        Header ``Range`` of the request.
    answered : str, optional
        Header ``Content-Range`` of the answer. Without one the answer is taken for a whole
        object.
    length : int, optional
        Bytes of the answer.
    url : str
        For messages.

    Raises
    ------
    CorruptDataError
        If it holds something else.
    """
    wanted = re.fullmatch(r"bytes=(\d*)-(\d+)", asked)
    if wanted is None:
        return
    start, last = wanted.groups()  # without a start, so many bytes from the end
    most = int(last) - int(start) + 1 if start else int(last)
    if answered:
        sent = re.match(r"bytes (\d+)-(\d+)/(\d+|\*)", answered)
        if sent is not None:
            first, end, size = sent.groups()
            right = first == start if start else size in ("*", str(int(end) + 1))
            if right and int(end) - int(first) < most:
                return
        raise CorruptDataError(f"asked for {asked} and was sent {answered}", url=url)
    if length is None or length > most:
        msg = f"asked for {asked} and was sent a whole object: the server does not serve ranges"
        raise CorruptDataError(msg, url=url)


def _passes(error: BaseException) -> bool:
    """Return whether trying again may help."""
    import aiohttp

    cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
    if isinstance(cause, aiohttp.ClientResponseError):
        return cause.status in _PASSING
    return isinstance(cause, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError)


async def _repeated(
    action: Callable[[], Awaitable[_T]], passes: Callable[[BaseException], bool] = _passes
) -> _T:
    """Do something again, after a pause that grows, while it fails in a way that may pass."""
    import asyncio

    pause = _FIRST_PAUSE
    for _ in range(_ATTEMPTS - 1):
        try:
            return await action()
        except Exception as error:
            if isinstance(error, FmristoreError) or not passes(error):
                raise
        await asyncio.sleep(pause)
        pause *= 3
    return await action()


@functools.cache
def web_class() -> type[Any]:
    """Class of filesystems on web servers: ranges are checked, failures that may pass repeated."""
    import aiohttp
    from fsspec.implementations.http import HTTPFileSystem

    class WebFileSystem(HTTPFileSystem):  # type: ignore[misc]
        names_versions = True
        """Reads take ``if_match``, the only version that may come, ``seen`` and ``here``."""

        def __init__(
            self, *args: Any, client_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
        ) -> None:
            # A large body may take long, but not a server that says nothing.
            silence = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE)
            given = {"timeout": silence, **(client_kwargs or {})}
            super().__init__(*args, client_kwargs=given, **kwargs)

        async def _cat_file(
            self,
            url: str,
            start: int | None = None,
            end: int | None = None,
            *,
            if_match: str = "",
            seen: Seen | None = None,
            here: Here | None = None,
            **kwargs: Any,
        ) -> bytes:
            if start is not None and start == end:
                return b""
            wanted = {**self.kwargs, **kwargs}
            headers = dict(wanted.get("headers") or {})
            if if_match:
                headers["If-Match"] = if_match
            if start is not None or end is not None:
                headers["Range"] = await self._process_limits(url, start, end)
            wanted["headers"] = headers
            data = await _repeated(lambda: self._get(url, wanted, seen))
            if here is not None:
                here(url, data)
            return data

        async def _get(self, url: str, wanted: Mapping[str, Any], seen: Seen | None) -> bytes:
            session = await self.set_session()
            async with session.get(self.encode_url(url), **wanted) as answer:
                self._raise_not_found_for_status(answer, url)
                if asked := wanted.get("headers", {}).get("Range"):
                    said = answer.headers
                    length = None if "Content-Encoding" in said else answer.content_length
                    check_range(asked, said.get("Content-Range"), length, url)
                body: bytes = await answer.read()
                if seen is not None:
                    seen(url, answer.headers.get("ETag", ""))
                return body

        async def _info(self, url: str, **kwargs: Any) -> dict[str, Any]:
            ask = super()._info

            async def action() -> dict[str, Any]:
                found: dict[str, Any] = await ask(url, **kwargs)
                return found

            return await _repeated(action)

    return WebFileSystem


@functools.cache
def same_host_only() -> Any:
    """Option for the session of a web client: a redirect to another host is an error.

    It is refused before anything is asked of that host.
    """
    import aiohttp
    from yarl import URL

    async def check(session: Any, context: Any, redirect: Any) -> None:  # noqa: ARG001
        there = redirect.response.headers.get("Location", "")
        target = redirect.url.join(URL(there))
        if target.origin() != redirect.url.origin():
            msg = (
                f"the server redirects to {target.host}, which is not followed for what a "
                "reference file names; if you trust that file, name its target in targets="
            )
            raise LayoutNotSupportedError(msg, url=str(redirect.url))

    found = aiohttp.TraceConfig()
    found.on_request_redirect.append(check)
    found.freeze()
    return found


class Patience:
    """Ends the attempts of botocore at once where the server did not answer the ones before.

    botocore makes several attempts of each request, with pauses of seconds. An operation whose
    server is gone makes more requests after the one that failed, to remove what it has written;
    each of them would take as long as the first.

    Parameters
    ----------
    server : str
        Its address; all clients of one server learn from each other.
    attempts : int
        Attempts of one request after which a server that gave no answer is taken for gone.
    """

    gone_until: ClassVar[dict[str, float]] = {}

    def __init__(self, server: str, attempts: int) -> None:
        self._server = server
        self._attempts = attempts

    @property
    def is_gone(self) -> bool:
        """True if the server lately answered none of the attempts of a request."""
        return time.monotonic() < self.gone_until.get(self._server, 0.0)

    def after_attempt(self, attempts: int, caught_exception: Exception | None, **_: object) -> None:
        """Look at an attempt before botocore decides on the next: a handler of its events.

        Raises
        ------
        Exception
            That of the attempt, if there is to be no other.
        """
        if caught_exception is None:
            self.gone_until.pop(self._server, None)
            return
        was_gone = self.is_gone
        if was_gone or attempts >= self._attempts:
            self.gone_until[self._server] = time.monotonic() + _GONE
        if was_gone:
            raise caught_exception


_GONE = 60.0
"""Seconds since the last attempt for which a server that gave no answer is asked only once."""
_BOTOCORE_ATTEMPTS = 5
"""Attempts of a request that botocore makes where nothing else is configured."""


def _attempts(config: Mapping[str, Any]) -> int:
    """Attempts of a request by the options of a client of botocore."""
    retries = config.get("retries") or {}
    more = retries.get("max_attempts", _BOTOCORE_ATTEMPTS - 1)
    return max(1, int(retries.get("total_max_attempts", more + 1)))


@functools.cache
def s3_class() -> type[Any]:
    """Class of filesystems on S3 whose ranges are checked, and which try for a bounded time.

    botocore repeats requests, and this class bodies that broke off; s3fs would repeat all of that.
    """
    from s3fs import S3FileSystem
    from s3fs.core import S3_RETRYABLE_ERRORS

    class CheckedS3FileSystem(S3FileSystem):  # type: ignore[misc]
        names_versions = True
        """Reads take ``if_match``, the only version that may come, ``seen`` and ``here``."""
        retries = 1
        """Of s3fs: times the attempts of botocore."""
        _patience: Patience | None = None
        _watched: Any = None

        async def set_session(self, *args: Any, **kwargs: Any) -> Any:
            client = await super().set_session(*args, **kwargs)
            if client is not self._watched:
                server = str(client.meta.endpoint_url)
                self._patience = Patience(server, _attempts(self.config_kwargs or {}))
                client.meta.events.register_first(
                    "needs-retry.s3", self._patience.after_attempt, "fmristore-patience"
                )
                self._watched = client
            return client

        def _broke_off(self, error: BaseException) -> bool:
            gone = self._patience is not None and self._patience.is_gone
            return isinstance(error, S3_RETRYABLE_ERRORS) and not gone

        async def _cat_file(
            self,
            path: str,
            *args: Any,
            if_match: str = "",
            seen: Seen | None = None,
            here: Here | None = None,
            **kwargs: Any,
        ) -> bytes:
            ask = super()._cat_file

            async def action() -> bytes:
                found: bytes = await ask(path, *args, **kwargs)
                return found

            before = _ASKED.set(_Asked(path, if_match, seen))
            try:
                data = await _repeated(action, self._broke_off)
            finally:
                _ASKED.reset(before)
            if here is not None:
                here(path, data)
            return data

        async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
            asked = _ASKED.get() if method == "get_object" else None
            if asked is not None and asked.if_match:
                kwargs["IfMatch"] = asked.if_match
            answer = await super()._call_s3(method, *args, **kwargs)
            if asked is not None and asked.seen is not None:
                asked.seen(asked.path, answer.get("ETag", ""))
            if method == "get_object" and "Range" in kwargs:
                url = f"s3://{kwargs.get('Bucket')}/{kwargs.get('Key')}"
                try:
                    check_range(
                        kwargs["Range"], answer.get("ContentRange"), answer["ContentLength"], url
                    )
                except CorruptDataError:
                    with contextlib.suppress(Exception):
                        answer["Body"].close()
                    raise
            return answer

    return CheckedS3FileSystem


def _one_at_a_time(base: type[Any]) -> type[Any]:
    """Class of filesystems in an archive, which fsspec's are not fit to use from many threads.

    While one thread fills their table of contents another one finds it half full, and takes what
    is not yet in it for missing; two that read from a tar move the same file position.
    """

    def locked(name: str) -> Callable[..., Any]:
        method = getattr(base, name)

        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            with self.__dict__.setdefault("one_at_a_time", threading.RLock()):
                return method(self, *args, **kwargs)

        return call

    names = ("info", "ls", "find", "cat_file", "open")
    return type(f"Locked{base.__name__}", (base,), {name: locked(name) for name in names})


@functools.cache
def zip_class() -> type[Any]:
    """Class of filesystems in a zip file that threads may use at once."""
    from fsspec.implementations.zip import ZipFileSystem

    return _one_at_a_time(ZipFileSystem)


@functools.cache
def tar_class() -> type[Any]:
    """Class of filesystems in a tar file that threads may use at once."""
    from fsspec.implementations.tar import TarFileSystem

    class PlainTarFileSystem(TarFileSystem):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            # "tar -C folder ." names all that lies in the folder "./name".
            self.index: dict[str, Any] = {
                name.removeprefix("./"): ({**facts, "name": name.removeprefix("./")}, *rest)
                for name, (facts, *rest) in self.index.items()
                if name != "."
            }

    return _one_at_a_time(PlainTarFileSystem)
