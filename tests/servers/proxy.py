"""An HTTP proxy on loopback that counts requests, delays them, and fails on purpose.

It stands between a client and a server of the tests, one connection for each request, and keeps
the ``Host`` header so that signatures stay valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

__all__ = ["Fault", "Proxy", "Request", "Rule", "run_proxy"]

Fault = Literal[
    "",
    "status",  # answer with the status `argument`, and do nothing
    "reset",  # drop the connection, and do nothing
    "stall",  # say nothing for `argument` seconds, and drop the connection
    "cut",  # send `argument` bytes of the body and reset the connection
    "truncate",  # send `argument` bytes of the body and close the connection in good order
    "shorten",  # send `argument` bytes of the body, and say that it is that long
    "corrupt",  # flip a bit of the byte `argument` of the body
    "norange",  # forward without the range
    "wrongrange",  # ask for bytes that lie `argument` further back, and say so
    "lost",  # do it, and reset the connection instead of an answer
]


class Request(NamedTuple):
    """One request that went through."""

    method: str
    path: str
    range: str
    """Value of the header ``Range``, or Azure's of that purpose; empty without one."""


@dataclass
class Rule:
    """What to do to some requests.

    Parameters
    ----------
    pattern : str
        Regular expression that ``METHOD path range`` must match somewhere.
    do : Fault
        What goes wrong.
    argument : int
        What it means depends on the fault.
    times : int
        How often; the requests after that go through.
    after : int
        How many that match go through before the first.
    """

    pattern: str
    do: Fault
    argument: int = 0
    times: int = 1_000_000
    after: int = 0


class _Message(NamedTuple):
    """A request or an answer."""

    first: str
    headers: dict[str, str]
    body: bytes

    def encode(self) -> bytes:
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


@dataclass
class Proxy:
    """A running proxy.

    Parameters
    ----------
    upstream : int
        Port of the server behind it.
    google : bool
        Let the emulator of Google's storage honour "only if there is no such object", which it
        ignores.
    latency : float
        Seconds that every request waits.
    rules : list of Rule
        The first one that fits is applied.
    before : callable, optional
        Called with each request before it is forwarded, in a thread.
    """

    upstream: int
    google: bool = False
    latency: float = 0.0
    rules: list[Rule] = field(default_factory=list)
    log: list[Request] = field(default_factory=list)
    before: Callable[[Request], None] | None = None
    port: int = 0
    most_at_once: int = 0
    faults: int = 0
    _now: int = 0
    _serving: set[asyncio.Task[None] | None] = field(default_factory=set)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def url(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def clear(self) -> None:
        """Forget rules and requests."""
        self.rules.clear()
        self.log.clear()
        self.latency = 0.0
        self.before = None
        self.most_at_once = self.faults = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a connection."""
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        # Nothing else refers to it while it waits for the server, and the client has said all.
        self._serving.add(asyncio.current_task())
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._now -= 1
            self._serving.discard(asyncio.current_task())
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await _read_request(reader, writer)
        method, path, _ = asked.first.split(" ", 2)
        name = _range_name(asked)
        request = Request(method, path, asked.headers.get(name, ""))
        self.log.append(request)
        await asyncio.sleep(self.latency)
        rule = self._rule(request)
        if rule.do in ("reset", "stall"):
            await asyncio.sleep(rule.argument)
            writer.transport.abort()
            return
        if rule.do == "status":
            writer.write(_refusal(rule.argument))
            await writer.drain()
            return
        if rule.do == "norange":
            asked.headers.pop(name, None)
        if rule.do == "wrongrange" and re.match(r"bytes=\d", request.range):
            first, _, last = request.range.removeprefix("bytes=").partition("-")
            back = min(rule.argument, int(first))
            asked.headers[name] = f"bytes={int(first) - back}-{int(last) - back}"
        if self.before is not None:
            await asyncio.to_thread(self.before, request)
        answer = await (
            self._forward_to_google(request, asked) if self.google else self._forward(asked)
        )
        if rule.do == "lost":
            writer.transport.abort()
            return
        writer.write(_damaged(answer, rule))
        await writer.drain()
        if rule.do == "cut":
            await asyncio.sleep(0.02)  # what is on its way is lost otherwise
            writer.transport.abort()

    async def _forward_to_google(self, request: Request, asked: _Message) -> bytes:
        async with self._one_at_a_time:
            if await self._exists_on_google(request, asked.body):
                return _refusal(412)
            return await self._forward(asked)

    async def _exists_on_google(self, request: Request, body: bytes) -> bool:
        address = urlsplit(request.path)
        query = parse_qs(address.query)
        if query.get("ifGenerationMatch") != ["0"] or "upload_id" in query:
            return False
        bucket = address.path.split("/b/")[1].split("/")[0]
        said = re.search(rb'"name": *("[^"]*")', body)
        name = json.loads(said[1]) if said else query["name"][0]
        lines = {"host": "storage"}
        first = f"GET /storage/v1/b/{bucket}/o/{quote(name, safe='')} HTTP/1.1"
        found = await self._forward(_Message(first, lines, b""))
        return found.split(b" ", 2)[1] == b"200"

    async def _forward(self, asked: _Message) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        asked.headers["connection"] = "close"
        writer.write(asked.encode())
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer

    def _rule(self, request: Request) -> Rule:
        for rule in self.rules:
            if rule.times > 0 and re.search(rule.pattern, " ".join(request)):
                if rule.after > 0:
                    rule.after -= 1
                    continue
                rule.times -= 1
                self.faults += 1
                return rule
        return Rule("", "")


def _range_name(asked: _Message) -> str:
    """Azure has a header of its own."""
    return "x-ms-range" if "x-ms-range" in asked.headers else "range"


def _refusal(status: int) -> bytes:
    return f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def _damaged(answer: bytes, rule: Rule) -> bytes:
    head, separator, content = answer.partition(b"\r\n\r\n")
    if rule.do in ("truncate", "cut", "shorten"):
        content = content[: rule.argument]
    if rule.do == "shorten":
        length = f"Content-Length: {len(content)}".encode()
        head = re.sub(rb"(?i)content-length: *\d+", length, head)
    if rule.do == "corrupt" and content:
        place = rule.argument % len(content)
        content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    return head + separator + content


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Message:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text[:-4].split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.pop("expect", ""):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if "chunked" in headers.pop("transfer-encoding", ""):
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        headers["content-length"] = str(len(body))
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return _Message(first, headers, body)


@contextlib.contextmanager
def run_proxy(upstream: int, *, google: bool = False) -> Iterator[Proxy]:
    """Run a proxy in front of a port of this machine, in a thread of its own."""
    proxy = Proxy(upstream, google)
    started = threading.Event()
    stopping: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        stop = asyncio.Event()
        stopping.append((asyncio.get_running_loop(), stop))
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, backlog=256)
        proxy.port = server.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        server.close()
        # Connections that were accepted a moment ago become tasks only now.
        while serving := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
            await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert started.wait(300)
    try:
        yield proxy
    finally:
        loop, stop = stopping[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(300)
