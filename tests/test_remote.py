"""Images on object storage, on web servers and in memory: what works, its cost, its failures."""

from __future__ import annotations

import contextlib
import http.server
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import nibabel as untyped_nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore.transcoding import transcode
from fmristore_stores.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import AnyArray
from tests.conftest import S3Server
from tests.slowproxy import Rule, SlowProxy, slow_proxy

nibabel: Any = untyped_nibabel

SHAPE = (24, 22, 20, 64)
DATA = np.random.default_rng(0).integers(0, 999, SHAPE).astype("i2")
KINDS = ["h5", "ome.zarr"]


@dataclass
class Place:
    """Somewhere that stores can be put, or at least read from."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    """Where the files of a web server lie."""

    def __truediv__(self, name: str) -> str:
        return f"{self.url}/{name}"

    @contextlib.contextmanager
    def written(self, name: str) -> Iterator[str]:
        """Where to write what is then read from this place."""
        yield f"{self.folder}/{name}" if self.folder else self / name


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, with ranges."""

    protocol_version = "HTTP/1.1"
    honest: ClassVar[bool] = True

    def send_head(self) -> Any:
        wanted = self.headers.get("Range", "")
        path = Path(self.translate_path(self.path))
        if not self.honest or not wanted.startswith("bytes=") or not path.is_file():
            return super().send_head()
        size = path.stat().st_size
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or size - 1) + 1, size)
        if start >= size:
            self.send_error(416)
            return None
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(path.read_bytes()[start:stop])
        return None

    def log_message(self, *args: Any) -> None:
        pass


class NoRanges(Ranges):
    """Files of a folder, always whole."""

    honest = False


@contextlib.contextmanager
def web_server(folder: Path, handler: type[Ranges] = Ranges) -> Iterator[int]:
    def make(*args: Any) -> Ranges:
        return handler(*args, directory=str(folder))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), make)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(params=["file", "memory", "s3", "http"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "file":
        yield Place(f"file://{tmp_path}")
    elif request.param == "memory":
        url = f"memory://{uuid.uuid4().hex}"
        fsspec.filesystem("memory").mkdir(url)
        yield Place(url)
    elif request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        yield Place(f"s3://{server.bucket}", server.options)
    else:
        with web_server(tmp_path) as port:
            yield Place(f"http://127.0.0.1:{port}", folder=tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NIfTI file."""
    path = tmp_path_factory.mktemp("nifti") / "run.nii.gz"
    image = nibabel.Nifti1Image(DATA, np.diag([2, 2, 3, 1]))
    image.header.set_zooms((2, 2, 3, 1.5))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


def check(image: Any, data: AnyArray = DATA) -> None:
    """One voxel, a region, a volume, scattered voxels, everything."""
    assert image.shape == SHAPE
    np.testing.assert_array_equal(image[3, 4, 5], data[3, 4, 5])
    region = (slice(2, 9, 2), slice(5, 7), slice(0, 20), slice(10, 50, 3))
    np.testing.assert_array_equal(image[region], data[region])
    np.testing.assert_array_equal(image[..., 7], data[..., 7])
    voxels = np.array([[0, 0, 0], [23, 21, 19], [3, 4, 5]])
    np.testing.assert_array_equal(image.series(voxels), data[tuple(voxels.T)].T)
    np.testing.assert_array_equal(np.asarray(image), data)


# What works --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("access", ["time", "volume"])
def test_convert_and_read(place: Place, run: Path, kind: str, access: Any) -> None:
    name = f"sub-01 run ü.{kind}"
    options = None if place.folder else place.options
    with place.written(name) as url:
        fs.convert(run, url, access=access, storage_options=options)
    with fs.open(place / name, storage_options=place.options) as image:
        check(image)
        np.testing.assert_array_equal(image.affine, np.diag([2, 2, 3, 1]))
        assert image.tr == 1.5
        assert image.compute_digest() == image.digest


@pytest.mark.parametrize("kind", KINDS)
def test_overwriting(place: Place, run: Path, kind: str) -> None:
    url = place / f"a.{kind}"
    if place.folder is not None:
        for overwrite in (False, True):
            with pytest.raises(ReadOnlyError):
                fs.convert(run, url, overwrite=overwrite)
        assert not list(place.folder.iterdir())
        return
    fs.convert(run, url, storage_options=place.options)
    with pytest.raises(AlreadyExistsError):
        fs.convert(run, url, storage_options=place.options)
    with fs.open(url, storage_options=place.options) as image:
        check(image)
    space = image.space
    fs.NeuroVec.create(
        url, DATA + 1, space=space, overwrite=True, storage_options=place.options
    ).close()
    with fs.open(url, storage_options=place.options) as image:
        check(image, DATA + 1)
    filesystem, path = fsspec.core.url_to_fs(place.url, **place.options)
    filesystem.invalidate_cache()
    left = [name.rsplit("/", 1)[-1] for name in filesystem.ls(path, detail=False)]
    assert left == [f"a.{kind}"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_write_leaves_what_was_there(place: Place, run: Path, kind: str) -> None:
    if place.folder is not None:
        return
    url = place / f"a.{kind}"
    fs.convert(run, url, storage_options=place.options)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for name, overwrite in ((f"a.{kind}", True), (f"b.{kind}", False)):
        with pytest.raises(KeyboardInterrupt):
            fs.convert(
                run,
                place / name,
                overwrite=overwrite,
                storage_options=place.options,
                progress=stop,
            )
    with fs.open(url, storage_options=place.options) as image:
        check(image)
    filesystem, path = fsspec.core.url_to_fs(place.url, **place.options)
    filesystem.invalidate_cache()
    left = [name.rsplit("/", 1)[-1] for name in filesystem.ls(path, detail=False)]
    assert left == [f"a.{kind}"]


def test_transcoding_between_places(s3: S3Server, run: Path, tmp_path: Path) -> None:
    fs.convert(run, tmp_path / "a.h5", codec="dual")
    transcode(tmp_path / "a.h5", s3.url("b.ome.zarr"), storage_options=s3.options)
    transcode(s3.url("b.ome.zarr"), s3.url("c.h5"), storage_options=s3.options)
    transcode(s3.url("c.h5"), "memory://c.ome.zarr", storage_options=s3.options, overwrite=True)
    report = transcode("memory://c.ome.zarr", tmp_path / "d.h5")
    assert "0" in report.kept
    for url, options in (
        (s3.url("b.ome.zarr"), s3.options),
        (s3.url("c.h5"), s3.options),
        (str(tmp_path / "d.h5"), None),
    ):
        with fs.open(url, storage_options=options) as image:
            check(image)


def test_a_web_server_with_a_query_in_the_url(run: Path, tmp_path: Path) -> None:
    fs.convert(run, tmp_path / "a.h5")
    with web_server(tmp_path) as port, fs.open(f"http://127.0.0.1:{port}/a.h5?t=x") as image:
        check(image)


# What it costs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(s3_endpoint: str, run: Path) -> S3Server:
    """A bucket with an image in either kind of store, which the tests only read."""
    import s3fs

    options = {
        "key": "test",
        "secret": "test",
        "endpoint_url": s3_endpoint,
        "client_kwargs": {"region_name": "us-east-1"},
    }
    bucket = f"stored-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(**options).call_s3("create_bucket", Bucket=bucket)
    for kind in KINDS:
        fs.convert(run, f"s3://{bucket}/a.{kind}", storage_options=options, codec="dual")
    return S3Server(bucket, options)


@pytest.fixture
def proxied(s3_endpoint: str, stored: S3Server) -> Iterator[tuple[SlowProxy, S3Server]]:
    """That bucket through a proxy."""
    with slow_proxy(int(s3_endpoint.rpartition(":")[2])) as proxy:
        options = stored.options | {
            "endpoint_url": proxy.url,
            "config_kwargs": {"retries": {"total_max_attempts": 2}, "read_timeout": 5},
        }
        yield proxy, S3Server(stored.bucket, options)


REQUESTS = {
    "h5": {"open": 6, "voxel": 1, "another voxel": 1},
    "ome.zarr": {"open": 5, "voxel": 3, "another voxel": 1},
}
"""Most requests that opening an image and reading one voxel's series may take.

HDF5: two looks at the size and version, the signature, metadata (two blocks) and the affine; the
chunk. Zarr: the version, all metadata, the affine (listing it, its chunk); listing the shards, the
index of one, the chunk.
"""


@pytest.mark.parametrize("kind", KINDS)
def test_few_requests(proxied: tuple[SlowProxy, S3Server], kind: str) -> None:
    proxy, server = proxied
    url = server.url(f"a.{kind}")
    proxy.clear()
    with fs.open(url, storage_options=server.options) as image:
        counts = {"open": len(proxy.log)}
        for name, voxel in (("voxel", (3, 4, 5)), ("another voxel", (20, 18, 17))):
            proxy.log.clear()
            np.testing.assert_array_equal(image[voxel], DATA[voxel])
            counts[name] = len(proxy.log)
            image[voxel]
            assert len(proxy.log) == counts[name]
    assert all(counts[name] <= most for name, most in REQUESTS[kind].items()), counts


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_are_asked_for_together(proxied: tuple[SlowProxy, S3Server], kind: str) -> None:
    proxy, server = proxied
    url = server.url(f"a.{kind}")
    with fs.open(url, storage_options=server.options) as image:
        image[0, 0, 0]
        proxy.clear()
        proxy.latency = 0.05
        np.testing.assert_array_equal(image[..., 3], DATA[..., 3])
        assert len(proxy.log) == proxy.most_at_once or len(proxy.log) <= 2


# What goes wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_nothing(place: Place, kind: str) -> None:
    with pytest.raises(NotFoundError):
        fs.open(place / f"missing.{kind}", storage_options=place.options)
    with pytest.raises(NotFoundError):
        open_store(place / f"missing.{kind}", kind="zarr", storage_options=place.options)
    with pytest.raises(NotFoundError):
        open_store(place / f"missing.{kind}", kind="hdf5", storage_options=place.options)


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_no_such_bucket(s3: S3Server, run: Path, kind: str) -> None:
    url = f"s3://no-such-bucket-{uuid.uuid4().hex[:8]}/a.{kind}"
    with pytest.raises(NotFoundError):
        fs.open(url, storage_options=s3.options)
    with pytest.raises(FmristoreError):
        fs.convert(run, url, storage_options=s3.options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_are_wrong(
    proxied: tuple[SlowProxy, S3Server], run: Path, kind: str, status: int
) -> None:
    proxy, server = proxied
    url = server.url(f"a.{kind}")
    proxy.rules.append(Rule("", "status", status))
    with pytest.raises(AccessDeniedError, match="storage_options"):
        fs.open(url, storage_options=server.options)
    with pytest.raises(AccessDeniedError):
        fs.convert(run, server.url(f"b.{kind}"), storage_options=server.options)


@pytest.mark.parametrize("kind", KINDS)
def test_protocols_that_nobody_knows(run: Path, kind: str) -> None:
    for action in (fs.open, lambda url: fs.convert(run, url)):
        with pytest.raises(InvalidInputError, match="protocol"):
            action(f"nonsense://bucket/a.{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_web_server_that_ignores_ranges(run: Path, tmp_path: Path, kind: str) -> None:
    fs.convert(run, tmp_path / f"a.{kind}", access="time")
    with (
        web_server(tmp_path, NoRanges) as port,
        pytest.raises(FmristoreError, match="ranges"),
        fs.open(f"http://127.0.0.1:{port}/a.{kind}") as image,
    ):
        image[3, 4, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_store_that_ignores_ranges(
    proxied: tuple[SlowProxy, S3Server], kind: str
) -> None:
    proxy, server = proxied
    url = server.url(f"a.{kind}")
    proxy.rules.append(Rule("bytes=[1-9]", "norange"))
    with (
        pytest.raises(CorruptDataError, match="ranges"),
        fs.open(url, storage_options=server.options) as image,
    ):
        image[20, 20, 15]


def outcome(url: str, options: dict[str, Any]) -> str:
    """Read an image: "right", or the error; wrong numbers fail the test."""
    try:
        with fs.open(url, storage_options=options) as image:
            np.testing.assert_array_equal(image[..., 5], DATA[..., 5])
            np.testing.assert_array_equal(image[20, 18, 17], DATA[20, 18, 17])
    except FmristoreError as error:
        return type(error).__name__
    return "right"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("do", "argument", "times"),
    [
        ("reset", 0, 1),
        ("truncate", 100, 1),
        ("status", 503, 1),
        ("reset", 0, 1_000_000),
        ("truncate", 100, 1_000_000),
        ("status", 500, 1_000_000),
    ],
)
def test_object_storage_that_fails(
    proxied: tuple[SlowProxy, S3Server],
    kind: str,
    do: Any,
    argument: int,
    times: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once is mended by another attempt; for ever is our own error."""
    proxy, server = proxied
    url = server.url(f"a.{kind}")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 2)
    proxy.rules.append(Rule("GET .*bytes=", do, argument, times))
    found = outcome(url, server.options)
    assert found == "right" if times == 1 else found in ("StorageError", "CorruptDataError")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("do", "argument"),
    [("reset", 0), ("truncate", 100), ("status", 500), ("status", 403), ("norange", 0)],
)
def test_web_servers_that_fail(
    run: Path, tmp_path: Path, kind: str, do: Any, argument: int
) -> None:
    fs.convert(run, tmp_path / f"a.{kind}")
    with web_server(tmp_path) as port, slow_proxy(port) as proxy:
        url = f"{proxy.url}/a.{kind}"
        assert outcome(url, {}) == "right"
        proxy.rules.append(Rule("GET .*bytes=[1-9]", do, argument))
        found = outcome(url, {})
        expected = {
            "truncate": ("CorruptDataError", "StorageError"),
            "norange": ("CorruptDataError",),
        }
        wanted = ("AccessDeniedError",) if argument == 403 else ("StorageError",)
        assert found in expected.get(do, wanted)
        proxy.rules[:] = [Rule("", do, argument)]
        if do != "norange" and do != "truncate":
            assert outcome(url, {}) in wanted


def test_a_server_that_is_not_there() -> None:
    for kind in KINDS:
        with pytest.raises(StorageError):
            fs.open(f"http://127.0.0.1:9/a.{kind}")


def test_a_chunk_that_goes_missing_is_not_read_as_zeros(s3: S3Server, run: Path) -> None:
    fs.convert(run, s3.url("a.ome.zarr"), storage_options=s3.options)
    filesystem, path = fsspec.core.url_to_fs(s3.url("a.ome.zarr"), **s3.options)
    chunks = [name for name in filesystem.find(path) if "/0/c/" in name]
    filesystem.rm_file(chunks[0])
    filesystem.invalidate_cache()
    with (
        fs.open(s3.url("a.ome.zarr"), storage_options=s3.options) as image,
        pytest.raises(CorruptDataError, match="missing"),
    ):
        np.asarray(image)


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_on_the_way_are_noticed_or_harmless(
    proxied: tuple[SlowProxy, S3Server], kind: str
) -> None:
    proxy, server = proxied
    url = server.url(f"a.{kind}")
    for place in (0, 4, 15, 40):
        proxy.rules[:] = [Rule("GET .*bytes=[1-9]", "corrupt", place)]
        with contextlib.suppress(FmristoreError), fs.open(url, storage_options=server.options) as i:
            assert i[3, 4, 5].shape == (SHAPE[3],)


# Processes ---------------------------------------------------------------------------------------


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PYTHONPATH": ":".join([".", *sys.path]), "PATH": ""},
    )


@pytest.mark.parametrize("way", ["handle", "store", "thread", "array"])
def test_an_hdf5_file_that_is_left_open_does_not_crash_at_the_end(
    run: Path, tmp_path: Path, way: str
) -> None:
    fs.convert(run, tmp_path / "a.h5")
    with web_server(tmp_path) as port:
        done = run_python(
            """
            import sys, threading
            import fmristore as fs
            from fmristore_stores.opening import open_store

            url, way = sys.argv[1:]
            if way == "handle":
                left = fs.open(url)
                print(left[3, 4, 5].sum())
            elif way == "store":
                left = open_store(url)
                print(left.root.array("0").read((slice(0, 1),) * 4).shape)
            elif way == "array":
                left = open_store(url).root.array("0")
                cycle = [left]; cycle.append(cycle)
                print(left.spec.shape)
            else:
                def work():
                    global left
                    left = fs.open(url)
                    print(left[3, 4, 5].sum())
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
            """,
            f"http://127.0.0.1:{port}/a.h5",
            way,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "Fatal" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_images_travel_to_forked_processes(stored: S3Server, s3_endpoint: str, kind: str) -> None:
    """After the parent has used its connections."""
    url = stored.url(f"a.{kind}")
    done = run_python(
        """
        import multiprocessing, sys
        import fmristore as fs

        def work(image):
            return int(image[3, 4, 5].sum())

        if __name__ == "__main__":
            url, endpoint = sys.argv[1:]
            options = {
                "key": "test", "secret": "test", "endpoint_url": endpoint,
                "client_kwargs": {"region_name": "us-east-1"},
            }
            with fs.open(url, storage_options=options) as image:
                print(work(image))
                with multiprocessing.get_context("fork").Pool(2) as pool:
                    print(*pool.map(work, [image] * 3))
        """,
        url,
        s3_endpoint,
    )
    assert done.returncode == 0, done.stderr
    expected = str(int(DATA[3, 4, 5].sum()))
    assert done.stdout.split() == [expected] * 4
