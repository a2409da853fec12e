"""From URLs to filesystems, paths and kinds of stores."""

from __future__ import annotations

import contextlib
import importlib
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from fmristore_stores.errors import (
    DependencyError,
    FmristoreError,
    InvalidInputError,
    NotFoundError,
    UnknownFormatError,
)
from fmristore_stores.io import location
from fmristore_stores.io.location import (
    content_token,
    detect_kind,
    exists,
    filesystem,
    is_local,
    kind_of_name,
    normalise,
    token_of,
)
from fmristore_stores.io.sources import when_written


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("/a/b.h5", "/a/b.h5"),
        ("/a//b/./c.zarr/", "/a/b/c.zarr"),
        ("file:///a/b c ü.h5", "/a/b c ü.h5"),
        (Path("/a/b.h5"), "/a/b.h5"),
        ("s3://bucket/key.zarr/", "s3://bucket/key.zarr"),
        ("memory://a/b", "memory://a/b"),
        ("memory://", "memory://"),
        ("simplecache::s3://b/k", "simplecache::s3://b/k"),
        ("http://h:80/x.h5?token=1", "http://h:80/x.h5?token=1"),
        ("/a/b:c://d", "/a/b:c:/d"),
        ("FILE:///a/b.h5", "/a/b.h5"),
        ("local:///a/b.h5", "/a/b.h5"),
        ("file://localhost/a/b.h5", "/a/b.h5"),
        ("S3://Bucket/Key", "s3://Bucket/Key"),
    ],
)
def test_one_form_for_every_url(url: Any, normal: str) -> None:
    assert normalise(url) == normal
    assert normalise(normal) == normal
    assert is_local(normal) == normal.startswith("/")


def test_relative_paths_and_homes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert normalise("x.h5") == str(tmp_path / "x.h5")
    assert normalise("~/x y.h5") == str(tmp_path / "x y.h5")
    assert normalise("c:x.h5") == str(tmp_path / "c:x.h5")


def test_a_file_url_may_be_percent_encoded(tmp_path: Path) -> None:
    for name in ("a b.h5", "\u00e4#1.h5", "100%.h5"):
        path = tmp_path / name
        for _ in ("new", "there"):
            assert normalise(path.as_uri()) == str(path)
            assert normalise(f"file://{path}") == str(path)
            path.touch()
    literal = tmp_path / "x%20y.h5"
    literal.touch()
    assert normalise(f"file://{literal}") == str(literal)
    for wrong in ("file:///a%00b", "file:///%ff.h5"):
        with contextlib.suppress(InvalidInputError):  # Windows puts the drive in front
            assert normalise(wrong).replace("\\", "/").endswith(wrong.removeprefix("file://"))


def test_a_name_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=r"\./~x-nobody\.h5"):
        normalise("~x-nobody.h5")
    Path("~x-nobody.h5").touch()
    assert normalise("~x-nobody.h5") == str(tmp_path / "~x-nobody.h5")


def test_a_fragment_of_a_web_url_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="%23"):
        normalise("https://host/a.nii.gz#part")
    assert normalise("s3://bucket/a#b.h5") == "s3://bucket/a#b.h5"


def test_drives_of_windows() -> None:
    assert location._without_scheme("file:///C:/a b/x.h5", windows=True) == "C:/a b/x.h5"
    assert location._without_scheme("file:///C:/x.h5", windows=False) == "/C:/x.h5"
    assert location._without_scheme("file:///data/x.h5", windows=True) == "/data/x.h5"
    assert is_local("C:\\data\\x.h5")
    assert is_local("C:/data/x.h5")


def test_options_are_added_to_and_never_overruled() -> None:
    given = {"config_kwargs": {"read_timeout": 3}, "anon": True}
    fs, path = filesystem("s3://bucket/key", given)
    assert path == "bucket/key"
    assert fs.anon
    assert fs.config_kwargs["read_timeout"] == 3
    assert fs.config_kwargs["max_pool_connections"] == 64
    fs, _ = filesystem("s3://bucket/key", {"config_kwargs": {"max_pool_connections": 7}})
    assert fs.config_kwargs["max_pool_connections"] == 7
    chain, _ = filesystem("simplecache::s3://bucket/key", {"s3": {"anon": True}})
    assert chain.fs.anon
    assert chain.fs.config_kwargs["max_pool_connections"] == 64
    assert given == {"config_kwargs": {"read_timeout": 3}, "anon": True}


@pytest.mark.parametrize("wrong", ["", "a\x00b", b"/a", 5, None, "~nobody-of-that-name/x.h5"])
def test_what_is_no_path_or_url(wrong: Any) -> None:
    with pytest.raises(InvalidInputError):
        normalise(wrong)


@given(text=st.text(min_size=1, max_size=30))
def test_any_text_is_normalised_or_refused(text: str) -> None:
    try:
        found = normalise(text)
    except FmristoreError:
        return
    assert normalise(found) == found


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.h5", "hdf5"),
        ("A.HDF5", "hdf5"),
        ("a.nc", "hdf5"),
        ("s3://b/a.ome.zarr", "zarr"),
        ("a.zarr/", "zarr"),
        ("a.nii.gz", None),
        ("zarr", None),
    ],
)
def test_kinds_by_name(name: str, kind: str | None) -> None:
    assert kind_of_name(name) == kind


def test_unknown_protocols_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="protocol"):
        filesystem("nonsense://bucket/key")
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.delitem(registry._registry, "gs", raising=False)
    monkeypatch.setitem(
        registry.known_implementations,
        "gs",
        {"class": "no_such_package_at_all.GCS", "err": "install gcsfs"},
    )
    with pytest.raises(DependencyError, match=r"fmristore\[gcs\]"):
        filesystem("gs://bucket/key")
    with pytest.raises(DependencyError):
        detect_kind("gs://bucket/key.h5")


def make_hdf5(path: Path, userblock: int = 0) -> None:
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["a"] = np.arange(3)


def memory_copy(folder: Path) -> str:
    """The same files below a new place of the filesystem in memory."""
    place = f"memory://{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    for name in folder.rglob("*"):
        if name.is_file():
            fs.pipe_file(f"{place}/{name.relative_to(folder)}", name.read_bytes())
    return place


@pytest.mark.parametrize("remote", [False, True])
def test_kinds_by_content(tmp_path: Path, remote: bool) -> None:
    make_hdf5(tmp_path / "a.zarr.bin")
    make_hdf5(tmp_path / "block.dat", userblock=2048)
    zarr.create_group(tmp_path / "three", zarr_format=3)
    zarr.create_group(tmp_path / "two.h5", zarr_format=2)
    (tmp_path / "text.h5").write_text("text")
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "short").write_bytes(b"\x89HDF")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("x")
    place = memory_copy(tmp_path) if remote else str(tmp_path)
    assert detect_kind(f"{place}/a.zarr.bin") == "hdf5"
    assert detect_kind(f"{place}/block.dat") == "hdf5"
    assert detect_kind(f"{place}/three") == "zarr"
    assert detect_kind(f"{place}/two.h5") == "zarr"
    for name in ("text.h5", "empty.h5", "short", "folder"):
        with pytest.raises(UnknownFormatError):
            detect_kind(f"{place}/{name}")
        assert exists(f"{place}/{name}")
    for name in ("missing.h5", "missing.zarr", "missing", "a.zarr.bin/x"):
        with pytest.raises(NotFoundError):
            detect_kind(f"{place}/{name}")
        assert not exists(f"{place}/{name}")


def test_two_zarr_stores_of_one_root_are_told_apart_by_their_time() -> None:
    """On S3 the etag of an object is the digest of its bytes."""
    one = {"LastModified": datetime(2024, 1, 2, 3, 4, 5, 900, tzinfo=UTC)}
    other = {"LastModified": datetime(2024, 1, 2, 3, 4, 6, tzinfo=UTC)}
    tokens = [token_of("zarr", '"e"', when_written(facts), 99) for facts in (one, other, {})]
    assert len({*tokens}) == 3
    assert tokens[0].startswith('"e"-')
    assert token_of("hdf5", '"e"', when_written(one), 99) == '"e"-99'


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_tokens_change_when_a_store_is_replaced(tmp_path: Path, remote: bool, kind: Any) -> None:
    def make(name: str) -> None:
        if kind == "hdf5":
            make_hdf5(tmp_path / name)
        else:
            zarr.create_group(tmp_path / name, zarr_format=3)

    make("a")
    make("b")
    place = memory_copy(tmp_path) if remote else str(tmp_path)
    before = content_token(f"{place}/a", kind)
    assert before
    assert content_token(f"{place}/a", kind) == before
    if remote:
        fs = fsspec.filesystem("memory")
        for name in fs.find(f"{place}/b"):
            folder, _, rest = name.rpartition("/b")
            fs.pipe_file(f"{folder}/a{rest}", fs.cat_file(name))
    else:
        (tmp_path / "a").rename(tmp_path / "old")
        (tmp_path / "b").rename(tmp_path / "a")
    assert content_token(f"{place}/a", kind) not in ("", before)
    assert content_token(f"{place}/missing", kind) == ""
