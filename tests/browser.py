"""A real browser without a window, driven through a pipe: what pages need in tests.

Chromium speaks the DevTools protocol on file descriptors 3 (in) and 4 (out), one JSON document
after the other, with a zero byte between them.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers.process import unavailable

__all__ = ["Browser", "running_browser"]

_PATIENCE = 300.0
"""Seconds that one answer may take, on the slowest machine."""
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


_BEGIN = """
import os, sys
reading, writing = (os.dup(int(n)) for n in sys.argv[1:3])
while min(reading, writing) < 5:
    reading, writing = os.dup(reading), os.dup(writing)
os.dup2(reading, 3)
os.dup2(writing, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Puts the pipes where the browser looks for them."""


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser with one empty page; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None or sys.platform == "win32":
        unavailable("no Chromium here: .ci/step tools installs it")
    to_read, their_writing = os.pipe()
    their_reading, to_write = os.pipe()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        command = [program, *_OPTIONS, f"--user-data-dir={folder}/profile", "about:blank"]
        log = stack.enter_context((Path(folder) / "log").open("w+b"))
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _BEGIN, str(their_reading), str(their_writing), *command],
            pass_fds=(their_reading, their_writing),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=os.environ | {"HOME": folder, "XDG_CONFIG_HOME": folder, "XDG_CACHE_HOME": folder},
        )
        os.close(their_reading)
        os.close(their_writing)
        try:
            browser = Browser(to_read, to_write)
            browser.attach()
            yield browser
            with contextlib.suppress(OSError):
                browser.send("Browser.close", session=False)
        except EOFError as error:
            log.seek(0)
            error.add_note(log.read()[-2000:].decode(errors="replace"))
            raise
        finally:
            os.close(to_write)
            os.close(to_read)
            try:
                process.wait(_PATIENCE / 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Browser:
    """One page of a browser.

    Parameters
    ----------
    to_read, to_write : int
        Descriptors of its pipes.
    """

    def __init__(self, to_read: int, to_write: int) -> None:
        self._to_read = to_read
        self._to_write = to_write
        self._pending = b""
        self._number = 0
        self._session: str | None = None
        self.problems: list[str] = []
        """Errors and violated policies that the page told of."""

    def attach(self) -> None:
        """Take the page that the browser began with."""
        targets = self.call("Target.getTargets", session=False)["targetInfos"]
        page = next((t for t in targets if t["type"] == "page"), None)
        if page is None:
            page = self.call("Target.createTarget", session=False, url="about:blank")
        found = self.call(
            "Target.attachToTarget", session=False, targetId=page["targetId"], flatten=True
        )
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def send(self, method: str, *, session: bool = True, **parameters: Any) -> int:
        """Send a command; its number."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to_write, data) :]
        return self._number

    def call(self, method: str, *, session: bool = True, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        number = self.send(method, session=session, **parameters)
        while True:
            message = self._next()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _next(self) -> dict[str, Any]:
        last = time.monotonic() + _PATIENCE
        while b"\0" not in self._pending:
            ready = select.select([self._to_read], [], [], max(0.0, last - time.monotonic()))[0]
            assert ready, "the browser does not answer"
            data = os.read(self._to_read, 1 << 20)
            if not data:
                raise EOFError("the browser has ended")
            self._pending += data
        text, _, self._pending = self._pending.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        facts = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(facts["exceptionDetails"])[:500])
        if message.get("method") == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self.problems.append(facts["entry"]["text"])
        if message.get("method") == "Runtime.consoleAPICalled" and facts["type"] == "error":
            self.problems.append(json.dumps(facts["args"])[:500])

    def open(self, url: str) -> None:
        """Go to a page and wait until its scripts have run."""
        failed = self.call("Page.navigate", url=url).get("errorText")
        assert failed is None, f"{url}: {failed}"
        self.run(
            "new Promise(done => document.readyState === 'complete' ? done() "
            ": addEventListener('load', done))"
        )

    def run(self, expression: str) -> Any:
        """Value of an expression of JavaScript, of a promise when it is kept."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def click(self, x: float, y: float) -> None:
        """Press and release the mouse at a place of the window, in CSS pixels."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            options: dict[str, Any] = (
                {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
            )
            options["buttons"] = int(kind == "mousePressed")
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **options)

    def press(self, key: str) -> None:
        """Press and release a key such as ``ArrowRight``."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def show_as(self, width: int, height: int, *, dark: bool = False, ratio: float = 1) -> None:
        """Set the size of the window in CSS pixels, and whether the page shall be dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=ratio,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write what the page looks like as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        path.write_bytes(base64.b64decode(found["data"]))
