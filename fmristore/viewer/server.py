"""The page's server: on this machine only, for whoever knows the token.

It listens on 127.0.0.1. A request is answered if its path begins with a random token and its
``Host`` is this address, which a page of another site cannot bring about. What follows the token
is looked up in a table; no file is opened by a path from a request.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import re
import secrets
import socket
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fmristore.viewer.content import SCRIPTS, STYLE, Content, page_file
from fmristore_stores.errors import FmristoreError, InvalidInputError, SelectionError, StorageError

__all__ = ["PageServer"]

_logger = logging.getLogger("fmristore")
_ADDRESS = "127.0.0.1"
_THREADS = 12
"""Browsers open up to six connections, some of them before there is anything to ask."""
_IDLE_SECONDS = 30.0
_MOST_PARAMETERS = 8
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that gets a status and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class PageServer(TCPServer):
    """Serves one page in threads of its own.

    Parameters
    ----------
    content : Content
        What the page shows.
    port : int
        0 for a free one.

    Raises
    ------
    StorageError
        If the port is taken.
    """

    allow_reuse_address = sys.platform != "win32"  # there it would let others listen, too
    allow_reuse_port = False
    request_queue_size = 2 * _THREADS

    def __init__(self, content: Content, port: int = 0) -> None:
        self.content = content
        self.token = secrets.token_urlsafe(24)
        self.files = {"": "page.html", **{name: name for name in (STYLE, *SCRIPTS)}}
        self._sockets: set[Any] = set()
        self._guard = threading.Lock()
        self._workers: ThreadPoolExecutor | None = None
        self._listener: threading.Thread | None = None
        try:
            super().__init__((_ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise StorageError(
                f"cannot listen on port {port} of {_ADDRESS} ({error}): take another one, or 0"
            ) from error

    @property
    def hosts(self) -> frozenset[str]:
        """Names by which a browser on this machine may call the server."""
        return frozenset(f"{name}:{self.server_address[1]}" for name in (_ADDRESS, "localhost"))

    @property
    def url(self) -> str:
        """Address of the page, with its token."""
        return f"http://{_ADDRESS}:{self.server_address[1]}/{self.token}/"

    def start(self) -> None:
        """Answer requests from now on, in other threads."""
        self._workers = ThreadPoolExecutor(_THREADS, "fmristore-view")
        self._listener = threading.Thread(
            target=self.serve_forever, args=(0.1,), name="fmristore-view", daemon=True
        )
        self._listener.start()

    def close(self) -> None:
        """Stop, and wait for the threads to end; harmless when repeated."""
        if self._listener is not None:
            self.shutdown()
            self._listener.join()
            self._listener = None
        self.server_close()
        with self._guard:
            waiting = list(self._sockets)
        for connection in waiting:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self._workers is not None:
            self._workers.shutdown()
            self._workers = None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Docstring inherited."""
        assert self._workers is not None
        with self._guard:
            crowded = len(self._sockets) >= 2 * _THREADS
            if not crowded:
                self._sockets.add(request)
        if crowded:
            self.shutdown_request(request)
        else:
            done = self._workers.submit(self._process, request, client_address)
            done.add_done_callback(_log_fault)

    def _process(self, request: Any, client_address: Any) -> None:
        try:
            with contextlib.suppress(OSError):  # the browser went away
                self.finish_request(request, client_address)
        finally:
            self.shutdown_request(request)
            with self._guard:
                self._sockets.discard(request)


def _log_fault(done: Future[None]) -> None:
    """Say what went wrong where nobody waits for an answer; it is a fault of ours."""
    error = done.exception()
    if error is not None:
        _logger.error("the page got no answer: %r", error, exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = _IDLE_SECONDS
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain; charset=utf-8"

    def do_GET(self) -> None:
        """Answer a request."""
        try:
            self._answer()
        except _Refused as refused:
            self._send_json(refused.status, {"error": refused.text})
        except (InvalidInputError, SelectionError) as error:
            self._send_json(400, {"error": error.message})
        except FmristoreError as error:
            self._send_json(500, {"error": str(error)})

    def _answer(self) -> None:
        name, query = self._parse()
        if name in self.server.files:
            if query:
                raise _Refused(400, "no parameters are expected")
            file = self.server.files[name]
            kind = _TYPES[file.rpartition(".")[2]]
            self._send(200, f"{kind}; charset=utf-8", page_file(file))
            return
        if name not in self.server.content.names:
            raise _Refused(404, "there is nothing of that name")
        found = self.server.content.answer(name, _parameters(query))
        if found.cost is None:
            self._send_json(200, found.value)
            return
        facts = {
            "shape": list(found.value.shape),
            "type": found.value.dtype.str.lstrip("<|"),
            "cost": found.cost,
        }
        self._send(
            200,
            "application/octet-stream",
            found.value.tobytes(),
            {"X-Array": json.dumps(facts)},
        )

    def _parse(self) -> tuple[str, str]:
        """Name of what is asked for, and the query; only for those who may ask."""
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            raise _Refused(403, "this page is served to this machine, by its address")
        try:
            parts = urlsplit(self.path)
        except ValueError as error:
            raise _Refused(404, "there is nothing of that name") from error
        _, _, rest = parts.path.partition("/")
        token, slash, name = rest.partition("/")
        given = token.encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self.server.token.encode()):
            raise _Refused(403, "the address of the page has a token, which is missing or another")
        if not slash or parts.scheme or parts.netloc or not parts.path.startswith("/"):
            raise _Refused(404, "there is nothing of that name")
        return name, parts.query

    def _send_json(self, status: int, document: Any) -> None:
        self._send(status, "application/json", json.dumps(document).encode())

    def _send(
        self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in {**_HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Docstring inherited."""
        return "fmristore"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - called so by the library
        """Say nothing: addresses hold the token."""


def _parameters(query: str) -> dict[str, int]:
    try:
        pairs = parse_qsl(query, strict_parsing=bool(query), max_num_fields=_MOST_PARAMETERS)
    except ValueError as error:
        raise InvalidInputError("the parameters cannot be read") from error
    if any(not re.fullmatch(r"-?[0-9]{1,9}", value) for _, value in pairs):
        raise InvalidInputError("parameters are whole numbers")
    found = {name: int(value) for name, value in pairs}
    if len(found) != len(pairs):
        raise InvalidInputError("a parameter is given twice")
    return found
