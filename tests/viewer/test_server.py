"""The page's server: who gets an answer, and what the answers are."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore.viewer import Viewer
from fmristore_stores.errors import InvalidInputError, StorageError
from tests.every_format import RUN, SHAPE, WRITERS

TYPES = {"f4": "<f4", "f8": "<f8", "i1": "i1", "i4": "<i4"}


class Client:
    """Asks the server of a page as a browser does, or as one should not."""

    def __init__(self, page: Viewer) -> None:
        self.port = int(page.url.split(":")[2].partition("/")[0])
        self.root = "/" + page.url.split("/", 3)[3]

    def get(
        self, path: str, *, root: str | None = None, method: str = "GET", **headers: str
    ) -> tuple[int, bytes, Any]:
        """Status, body and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.putrequest(
                method, (self.root if root is None else root) + path, skip_host="Host" in headers
            )
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        status, body, _ = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def array(self, path: str) -> Any:
        status, body, headers = self.get(path)
        assert status == 200, body
        facts = json.loads(headers["X-Array"])
        return np.frombuffer(body, TYPES[facts["type"]]).reshape(facts["shape"])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    url = tmp_path_factory.mktemp("viewer") / "bold.h5"
    with WRITERS["neurovec"](url) as bold, fs.view(bold, open_browser=False) as viewer:
        yield viewer


@pytest.fixture
def client(page: Viewer) -> Client:
    return Client(page)


def test_page_and_its_files(client: Client) -> None:
    status, body, headers = client.get("")
    assert status == 200
    assert b"<title>" in body
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    for found in files("fmristore.viewer").joinpath("page").iterdir():
        if found.name != "page.html":
            assert client.get(found.name)[:2] == (200, found.read_bytes())


@pytest.mark.parametrize("root", ["/", "", "/about", "//", "/x/", "/%2e%2e/", "http://h/"])
def test_without_the_token_nothing_is_answered(client: Client, root: str) -> None:
    assert client.get("about", root=root or "about")[0] == 403


def test_bytes_that_are_no_text(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=300) as connection:
        host = f"Host: 127.0.0.1:{client.port}\r\n\r\n".encode()
        connection.sendall(b"GET /\xe9\xff/about HTTP/1.0\r\n" + host)
        assert b" 403 " in connection.makefile("rb").readline()


def test_part_of_the_token_is_no_token(client: Client) -> None:
    assert client.get("about", root=client.root[:-2] + "/")[0] == 403
    assert client.get("about", root=client.root[:-1] + "x/")[0] == 403


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1", "localhost.example.org:{port}", ""])
def test_other_hosts_are_refused(client: Client, host: str) -> None:
    assert client.get("about", Host=host.format(port=client.port))[0] == 403
    assert client.get("about", Host=f"localhost:{client.port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("nothing", "page.html", "../about", "%61bout", "about/", "/about", "./about", "bold.h5"),
        *("page.js/..", "..%2f..%2fetc/passwd", "//etc/passwd", "page.css%00"),
    ],
)
def test_odd_paths_lead_nowhere(client: Client, path: str) -> None:
    assert client.get(path)[0] == 404


def test_no_slash_after_the_token(client: Client) -> None:
    assert client.get("", root=client.root[:-1])[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_other_methods_are_refused(client: Client, method: str) -> None:
    assert client.get("about", method=method)[0] == 501


@pytest.mark.parametrize(
    "path",
    [
        "series?layer=0&x=6&y=0&z=0",
        "series?layer=0&x=-1&y=0&z=0",
        "series?layer=1&x=0&y=0&z=0",
        "series?layer=0&x=0&y=0",
        "series?layer=0&x=0&y=0&z=0&w=1",
        "series?layer=0&x=0&y=0&z=0&z=0",
        "series?layer=0&x=1e1&y=0&z=0",
        "series?layer=0&x=&y=0&z=0",
        "series?layer=0&x=0&y=0&z=99999999999999999999",
        "series?" + "&".join(f"p{i}=1" for i in range(50)),
        "plane?layer=0&axis=3&index=0&step=0",
        "plane?layer=0&axis=0&index=6&step=0",
        "plane?layer=0&axis=0&index=0&step=20",
        "labels?layer=0&axis=0&index=0",
        "parcel?layer=0&position=0",
        "course?layer=0&step=0",
        "costs?layer=0&x=0&y=0&z=0&step=20",
        "about?x=1",
        "page.js?x=1",
    ],
)
def test_what_is_out_of_range_is_refused(client: Client, path: str) -> None:
    status, body, _ = client.get(path)
    assert status == 400
    assert json.loads(body)["error"]


def test_series_and_slices_are_those_of_the_image(client: Client, page: Viewer) -> None:
    scaled = RUN * 0.5 + 1
    assert np.array_equal(client.array("series?layer=0&x=4&y=3&z=2"), scaled[4, 3, 2])
    for axis in range(3):
        found = client.array(f"plane?layer=0&axis={axis}&index=3&step=7")
        assert np.array_equal(found, np.take(scaled[..., 7], 3, axis=axis))


def test_what_a_read_took(client: Client) -> None:
    costs: list[Any] = []
    for _ in range(2):
        headers = client.get("series?layer=0&x=0&y=4&z=3")[2]
        costs.append(json.loads(headers["X-Array"])["cost"])
    assert set(costs[0]) == {"requests", "fetched", "chunks", "decoded", "seconds"}
    assert costs[1]["requests"] == costs[1]["fetched"] == 0  # in memory by then
    plans = {row["name"]: row for row in client.json("costs?layer=0&x=0&y=4&z=3&step=0")}
    assert plans["this voxel, all volumes"]["returned"] == 2 * SHAPE[3]
    assert plans["everything"]["chunks"] == plans["everything"]["of"]


def test_carpet(client: Client) -> None:
    found = client.array("carpet?layer=0")
    assert found.shape[1] == SHAPE[3]
    assert found.dtype == np.int8
    assert np.abs(found.mean(axis=1)).max() < 3


def test_requests_at_the_same_time(client: Client) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(client.get("series?layer=0&x=1&y=1&z=1")[0]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 8


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with WRITERS["neurovol"](tmp_path / "a.h5") as volume:
        viewer = fs.view(volume, open_browser=False)
    client = Client(viewer)
    idle = http.client.HTTPConnection("127.0.0.1", client.port, timeout=300)
    idle.connect()  # a browser that says nothing does not hold it up
    assert client.array("plane?layer=0&axis=2&index=1&step=0").shape == SHAPE[:2]
    assert "127.0.0.1" in repr(viewer)
    assert viewer.url in viewer._repr_html_()
    viewer.close()
    viewer.close()
    idle.close()
    assert {t for t in threading.enumerate() if "view" in t.name} <= before
    assert viewer._server.socket.fileno() == -1


def test_two_pages_do_not_know_each_other(page: Viewer, tmp_path: Path) -> None:
    with WRITERS["neurovol"](tmp_path / "a.h5") as volume:
        other = fs.view(volume, open_browser=False)
    with other:
        assert Client(other).get("about", root=Client(page).root)[0] == 403


def test_a_port_that_is_taken(page: Viewer, tmp_path: Path) -> None:
    with WRITERS["neurovol"](tmp_path / "a.h5") as volume:
        with pytest.raises(StorageError, match="port"):
            fs.view(volume, open_browser=False, port=Client(page).port)
        assert not volume.closed


def test_what_cannot_be_viewed() -> None:
    with pytest.raises(InvalidInputError, match="a path, a URL or a stored object"):
        fs.view(RUN)
    with pytest.raises(fs.errors.NotFoundError):
        fs.view("absent.h5")


def test_browser_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    WRITERS["neurovol"](tmp_path / "a.h5").close()
    with fs.view(tmp_path / "a.h5") as viewer:
        assert opened == [viewer.url]


def test_remote_store(tmp_path: Path, s3: Any) -> None:
    url = s3.url("bold.zarr")
    with WRITERS["neurovec"](tmp_path / "a.h5") as bold:
        bold.save(url, storage_options=s3.options).close()
    with fs.view(url, open_browser=False, storage_options=s3.options) as viewer:
        client = Client(viewer)
        assert client.json("about")["remote"] is True
        assert np.array_equal(client.array("series?layer=0&x=1&y=2&z=3"), RUN[1, 2, 3] * 0.5 + 1)
