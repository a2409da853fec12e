"""An HTTP proxy on loopback that counts requests, delays them, and fails on purpose.

It stands between a client and a server of the tests, one connection for each request, and keeps
the ``Host`` header so that signatures stay valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Request", "Rule", "SlowProxy", "slow_proxy"]


class Request(NamedTuple):
    """One request that went through."""

    method: str
    path: str
    range: str
    """Value of the ``Range`` header, empty without one."""


@dataclass
class Rule:
    """What to do to some requests.

    Parameters
    ----------
    pattern : str
        Regular expression that ``METHOD path range`` must match somewhere.
    do : {"status", "reset", "truncate", "corrupt", "norange", "stall"}
        Answer with a status; drop the connection; send a part of the body; flip a bit of it;
        forward without the range; do not answer for some seconds.
    argument : int
        The status, the bytes to send, the byte to flip, or the seconds to wait.
    times : int
        How often; the requests after that go through.
    """

    pattern: str
    do: str
    argument: int = 0
    times: int = 1_000_000


@dataclass
class SlowProxy:
    """A running proxy.

    Parameters
    ----------
    upstream : int
        Port of the server behind it.
    latency : float
        Seconds that every request waits.
    rules : list of Rule
        The first one that fits is applied.
    """

    upstream: int
    latency: float = 0.0
    rules: list[Rule] = field(default_factory=list)
    log: list[Request] = field(default_factory=list)
    port: int = 0
    most_at_once: int = 0
    _now: int = 0

    @property
    def url(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def clear(self) -> None:
        """Forget rules and requests."""
        self.rules.clear()
        self.log.clear()
        self.most_at_once = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a connection."""
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._now -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, headers = await _head(reader)
        method, path, _ = first.split(" ", 2)
        if headers.pop("expect", ""):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Request(method, path, headers.get("range", ""))
        self.log.append(request)
        await asyncio.sleep(self.latency)
        rule = self._rule(request)
        if rule.do == "reset":
            writer.transport.abort()
            return
        if rule.do == "stall":
            await asyncio.sleep(rule.argument)
            return
        if rule.do == "status":
            text = f"HTTP/1.1 {rule.argument} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            writer.write(text.encode())
            await writer.drain()
            return
        if rule.do == "norange":
            headers.pop("range", None)
        answer = await self._forward(first, headers, body)
        head, separator, content = answer.partition(b"\r\n\r\n")
        if rule.do == "truncate":
            content = content[: rule.argument]
        if rule.do == "corrupt" and content:
            place = rule.argument % len(content)
            content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        writer.write(head + separator + content)
        await writer.drain()

    async def _forward(self, first: str, headers: dict[str, str], body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        headers["connection"] = "close"
        lines = [first, *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer

    def _rule(self, request: Request) -> Rule:
        for rule in self.rules:
            if rule.times > 0 and re.search(rule.pattern, " ".join(request)):
                rule.times -= 1
                return rule
        return Rule("", "")


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text[:-4].split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, {name.lower(): value.strip() for name, _, value in pairs}


@contextlib.contextmanager
def slow_proxy(upstream: int) -> Iterator[SlowProxy]:
    """Run a proxy in front of a port of this machine, in a thread of its own."""
    proxy = SlowProxy(upstream)
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
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    started.wait(10)
    try:
        yield proxy
    finally:
        loop, stop = stopping[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
