"""Images on object storage, on web servers and in memory: what works, its cost, its failures."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import nibabel as untyped_nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore.transcoding import transcode
from fmristore_stores.errors import (
    AccessDeniedError,
    CorruptDataError,
    StorageError,
)
from fmristore_stores.protocol import AnyArray
from tests.conftest import S3Server
from tests.servers.places import web_place
from tests.servers.process import Facts
from tests.servers.proxy import Proxy, Rule, run_proxy

nibabel: Any = untyped_nibabel

SHAPE = (24, 22, 20, 64)
DATA = np.random.default_rng(0).integers(0, 999, SHAPE).astype("i2")
KINDS = ["h5", "ome.zarr"]


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


def test_a_web_server_with_a_query_in_the_url(run: Path, nginx: Facts) -> None:
    place = web_place(nginx, "ranges")
    fs.convert(run, place.source("a.h5"))
    with fs.open(f"{place / 'a.h5'}?t=x") as image:
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
def proxied(s3_endpoint: str, stored: S3Server) -> Iterator[tuple[Proxy, S3Server]]:
    """That bucket through a proxy."""
    with run_proxy(int(s3_endpoint.rpartition(":")[2])) as proxy:
        options = stored.options | {
            "endpoint_url": proxy.url,
            "config_kwargs": {"retries": {"total_max_attempts": 2}, "read_timeout": 60},
        }
        yield proxy, S3Server(stored.bucket, options)


REQUESTS = {
    "h5": {"open": 1, "voxel": 1, "another voxel": 1},
    "ome.zarr": {"open": 1, "voxel": 3, "another voxel": 2},
}
"""Most requests that opening an image and reading one voxel's series may take.

HDF5: its beginning, with all metadata; the chunk. Zarr: the root's metadata, with those of all
nodes; listing the shards, the index of one, the chunk, and whether the store is still the same.
"""


@pytest.mark.parametrize("kind", KINDS)
def test_few_requests(proxied: tuple[Proxy, S3Server], kind: str) -> None:
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
def test_chunks_are_asked_for_together(proxied: tuple[Proxy, S3Server], kind: str) -> None:
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
@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_are_wrong(
    proxied: tuple[Proxy, S3Server], run: Path, kind: str, status: int
) -> None:
    proxy, server = proxied
    url = server.url(f"a.{kind}")
    proxy.rules.append(Rule("", "status", status))
    with pytest.raises(AccessDeniedError, match="storage_options"):
        fs.open(url, storage_options=server.options)
    with pytest.raises(AccessDeniedError):
        fs.convert(run, server.url(f"b.{kind}"), storage_options=server.options)


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


# Processes ---------------------------------------------------------------------------------------


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={"PYTHONPATH": ":".join([".", *sys.path]), "PATH": ""},
    )


@pytest.mark.parametrize("way", ["handle", "store", "thread", "array"])
def test_an_hdf5_file_that_is_left_open_does_not_crash_at_the_end(
    run: Path, nginx: Facts, way: str
) -> None:
    place = web_place(nginx, "ranges")
    fs.convert(run, place.source("a.h5"))
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
        place / "a.h5",
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
