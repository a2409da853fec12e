"""A proxy in a process of its own that delays and counts requests, as a distant server would.

Connections to clients stay open, as they do at storage services; each request waits for the latency
before it is passed on. What was asked before is answered from memory, until something is written:
the server behind it takes longer for a request than a client does, and shares the cores with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple

__all__ = ["Counted", "RemoteProxy", "remote_proxy"]


class Counted(NamedTuple):
    """What went through."""

    requests: int
    nbytes: int
    """Of the bodies of answers."""
    at_once: int
    """Most requests under way at a time."""


@dataclass(frozen=True)
class RemoteProxy:
    """A running proxy."""

    port: int
    control: Connection

    def take(self) -> Counted:
        """Counts since the last call."""
        self.control.send("take")
        return Counted(*self.control.recv())


@contextlib.contextmanager
def remote_proxy(upstream: int, latency: float) -> Iterator[RemoteProxy]:
    """Run a proxy in front of a port of this machine."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_run, args=(upstream, latency, theirs), daemon=True)
    process.start()
    try:
        yield RemoteProxy(ours.recv(), ours)
    finally:
        ours.send("stop")
        process.join(10)


class _Answer(NamedTuple):
    text: bytes
    length: int
    """Of the body."""


class _Proxy:
    def __init__(self, upstream: int, latency: float) -> None:
        self.upstream = upstream
        self.latency = latency
        self.now = 0
        self.counts = [0, 0, 0]
        self.known: dict[tuple[bytes | None, ...], _Answer] = {}
        """Answers by request, range and condition, until something is written."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self.answer(head, reader, writer)
        writer.close()

    async def answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        lines, facts = _parse(head)
        if b"expect" in facts:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(facts.get(b"content-length", 0)))
        self.now += 1
        self.counts[0] += 1
        self.counts[2] = max(self.counts[2], self.now)
        question = (lines[0], facts.get(b"range"), facts.get(b"if-match"))
        try:
            await asyncio.sleep(self.latency)
            answer = self.known.get(question) or await self.ask(lines, body)
        finally:
            self.now -= 1
        if lines[0].startswith((b"GET ", b"HEAD ")):
            self.known[question] = answer
        else:
            self.known.clear()
        self.counts[1] += answer.length
        writer.write(answer.text)
        await writer.drain()

    async def ask(self, lines: list[bytes], body: bytes) -> _Answer:
        first, _, content = (await self.forward(lines, body)).partition(b"\r\n\r\n")
        lines, facts = _parse(first + b"\r\n\r\n")
        if not lines[0].startswith(b"HTTP/1.1"):
            lines[0] = b"HTTP/1.1" + lines[0][8:]
        if not {b"content-length", b"transfer-encoding"} & facts.keys():
            lines.append(b"Content-Length: %d" % len(content))
        return _Answer(b"\r\n".join(lines) + b"\r\n\r\n" + content, len(content))

    async def forward(self, lines: list[bytes], body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        head = b"\r\n".join([*lines, b"Connection: close"])
        writer.write(head + b"\r\n\r\n" + body)
        answer = await reader.read()
        writer.close()
        return answer


def _parse(head: bytes) -> tuple[list[bytes], dict[bytes, bytes]]:
    """First line and headers, without those about the connection; and headers by name."""
    first, *rest = head[:-4].split(b"\r\n")
    kept = [line for line in rest if not line.lower().startswith((b"connection:", b"expect:"))]
    pairs = (line.partition(b":") for line in rest)
    return [first, *kept], {name.strip().lower(): value.strip() for name, _, value in pairs}


def _run(upstream: int, latency: float, control: Connection) -> None:
    proxy = _Proxy(upstream, latency)

    async def main() -> None:
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        server = await asyncio.start_server(proxy.serve, sock=listening)
        control.send(listening.getsockname()[1])
        while await asyncio.to_thread(control.recv) == "take":
            control.send(tuple(proxy.counts))
            proxy.counts = [0, 0, 0]
        server.close()

    asyncio.run(main())
