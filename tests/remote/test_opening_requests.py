"""Requests that opening takes: one where the first answer says all that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs

import fmristore as fs
from fmristore_stores.errors import ChangedError
from tests.conftest import S3Server
from tests.every_format import AFFINE, RUN, SPACE, WRITERS
from tests.old_affine import with_affine_array
from tests.servers.places import web_place
from tests.servers.process import Facts
from tests.servers.proxy import Proxy, run_proxy


@pytest.fixture
def proxied(s3_endpoint: str, s3: S3Server) -> Iterator[tuple[Proxy, S3Server]]:
    """A bucket through a proxy that counts."""
    with run_proxy(int(s3_endpoint.rpartition(":")[2])) as proxy:
        yield proxy, S3Server(s3.bucket, s3.options | {"endpoint_url": proxy.url})


def put(server: S3Server, path: Path) -> str:
    """Copy a store into the bucket."""
    files = s3fs.S3FileSystem(**server.options)
    files.put(str(path), f"{server.bucket}/{path.name}", recursive=True)
    return server.url(path.name)


def asked(proxy: Proxy, url: str, options: Any) -> list[str]:
    """Requests that opening takes, and asking what an object is."""
    proxy.clear()
    with fs.open(url, storage_options=options) as stored:
        np.testing.assert_array_equal(stored.affine, AFFINE)
        for name in ("shape", "tr", "dtype", "run_names", "scan_names"):
            getattr(stored, name, None)
    return [f"{r.method} {r.path.rpartition('/')[2]}" for r in proxy.log]


@pytest.mark.parametrize("ending", ["zarr", "h5"])
@pytest.mark.parametrize("name", WRITERS)
def test_one_request(
    proxied: tuple[Proxy, S3Server], tmp_path: Path, name: str, ending: str
) -> None:
    """The root of a Zarr store has the metadata of all nodes, an HDF5 file's beginning too."""
    proxy, server = proxied
    path = tmp_path / f"a.{ending}"
    WRITERS[name](path).close()
    first = "GET zarr.json" if ending == "zarr" else "GET a.h5"
    assert asked(proxy, put(server, path), server.options) == [first]


def test_what_lies_in_arrays_takes_more(proxied: tuple[Proxy, S3Server], tmp_path: Path) -> None:
    """Slopes of each volume, and the affine of format 1.1.

    A Zarr array is listed, and its chunk read; then the root is looked at again, for what is read
    may be of a store that took the place of the first one.
    """
    proxy, server = proxied
    slopes = np.linspace(0.5, 2, RUN.shape[3])
    fs.NeuroVec.create(RUN, tmp_path / "a.zarr", space=SPACE, slope=slopes, inter=slopes).close()
    found = asked(proxy, put(server, tmp_path / "a.zarr"), server.options)
    assert found[0] == "GET zarr.json"
    assert "HEAD zarr.json" in found
    fs.NeuroVec.create(RUN, tmp_path / "b.zarr", space=SPACE).close()
    with_affine_array(tmp_path / "b.zarr")
    found = asked(proxy, put(server, tmp_path / "b.zarr"), server.options)
    assert len(found) == 4
    assert (found[0], found[-1]) == ("GET zarr.json", "HEAD zarr.json")


def test_on_the_web(nginx: Facts) -> None:
    """The version is asked for first."""
    place = web_place(nginx, "ranges")
    folder: Any = place.folder
    expected = {
        "a.zarr": ["HEAD zarr.json", "GET zarr.json"],
        "a.h5": ["HEAD a.h5", "GET a.h5"],
    }
    with run_proxy(place.port) as proxy:
        for name, requests in expected.items():
            fs.NeuroVec.create(RUN, folder / name, space=SPACE).close()
            assert asked(proxy, f"{proxy.url}/{folder.name}/{name}", None) == requests


@pytest.mark.parametrize("ending", ["zarr", "h5"])
def test_a_store_that_is_replaced_after_its_one_request(s3: S3Server, ending: str) -> None:
    url, options = s3.url(f"a.{ending}"), s3.options
    fs.NeuroVec.create(RUN, url, space=SPACE, storage_options=options).close()
    with fs.open(url, storage_options=options) as run:
        fs.NeuroVec.create(
            RUN + 1, url, space=np.eye(4), storage_options=options, overwrite=True
        ).close()
        np.testing.assert_array_equal(run.affine, AFFINE)
        if ending == "h5":  # all of so small a file came with the one request
            np.testing.assert_array_equal(np.asarray(run), RUN)
        else:
            with pytest.raises(ChangedError):
                np.asarray(run)
    with fs.open(url, storage_options=options) as run:
        np.testing.assert_array_equal(run.affine, np.eye(4))
        np.testing.assert_array_equal(np.asarray(run), RUN + 1)
