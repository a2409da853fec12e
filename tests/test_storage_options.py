"""Options and names of files reach everything that a user may give as a path or URL."""

from __future__ import annotations

import gzip
import pickle
import uuid
from pathlib import Path
from typing import Any, ClassVar

import nibabel
import numpy as np
import pytest
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem

import fmristore as fs
from fmristore.sources.door import load_volume
from fmristore.sources.masks import mask_array
from fmristore_stores.errors import (
    AccessDeniedError,
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    MemoryLimitError,
    StorageError,
)
from fmristore_stores.io.location import filesystem
from fmristore_stores.io.option_names import options_for
from fmristore_stores.io.sources import storage_error
from fmristore_stores.io.whole import read_whole

nib: Any = nibabel
OPTIONS = {"key": "right"}
RUN = np.random.default_rng(0).integers(1, 99, (4, 5, 3, 6)).astype("i2")
LABELS = np.zeros((4, 5, 3), "i2")
LABELS[1:3] = 1
LABELS[3] = 2


class Private(MemoryFileSystem):  # type: ignore[misc]
    """Memory behind a key."""

    protocol = "private"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    environment: ClassVar[dict[str, str]] = {}

    def __init__(self, key: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.key = key or self.environment.get("key")

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return "/" + str(path).removeprefix("private://").strip("/")

    def info(self, path: str, **kwargs: Any) -> Any:
        self._check()
        return super().info(path, **kwargs)

    def _check(self) -> None:
        if self.key != "right":
            raise PermissionError("no key")

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return super()._open(path, *args, **kwargs)


register_implementation("private", Private, clobber=True)


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    """A run, labels and a table of names that need the key."""
    Private.store.clear()
    bytes_of = {"names.tsv": b"index\tname\n1\tone\n2\ttwo\n"}
    for name, values in (("run.nii.gz", RUN), ("labels.nii.gz", LABELS)):
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / name)
        bytes_of[name] = (tmp_path / name).read_bytes()
    made = Private(**OPTIONS)
    for name, data in bytes_of.items():
        made.pipe_file(f"/{name}", data)
    return "private://"


def test_masks_labels_weights_and_names_get_the_options(bucket: str, tmp_path: Path) -> None:
    run, labels = f"{bucket}/run.nii.gz", f"{bucket}/labels.nii.gz"
    made = fs.parcellate(
        run,
        labels,
        tmp_path / "a.h5",
        names=f"{bucket}/names.tsv",
        mask=labels,
        weights=labels,
        storage_options=OPTIONS,
    )
    assert list(made.parcellation.names) == ["one", "two"]
    np.testing.assert_allclose(made[:, 0], RUN[LABELS == 1].mean(axis=0))
    masked = fs.MaskedNeuroVec.create(run, tmp_path / "b.h5", mask=labels, storage_options=OPTIONS)
    np.testing.assert_array_equal(masked.mask, LABELS != 0)
    maps = fs.LabeledVolumeSet.create(
        {"a": labels}, tmp_path / "c.h5", mask=labels, storage_options=OPTIONS
    )
    np.testing.assert_array_equal(maps.mask, LABELS != 0)
    with pytest.raises(AccessDeniedError):
        fs.MaskedNeuroVec.create(str(tmp_path / "run.nii.gz"), tmp_path / "d.h5", mask=labels)


def test_scans_and_weights_of_another_place_than_the_store(bucket: str, tmp_path: Path) -> None:
    run, labels = f"{bucket}/run.nii.gz", f"{bucket}/labels.nii.gz"
    with fs.ParcellatedScan.create(
        run, tmp_path / "a.h5", parcellation=labels, storage_options=OPTIONS
    ) as scan:
        expected = RUN[LABELS == 2].mean(axis=0)
        found = scan.summary(weights=labels, storage_options=OPTIONS)
        np.testing.assert_allclose(found[:, 1], expected, rtol=1e-6)
        with pytest.raises(AccessDeniedError):
            scan.summary(weights=labels)
    with fs.ParcellatedMultiScan.create(
        {}, tmp_path / "b.h5", parcellation=labels, storage_options=OPTIONS
    ) as multi:
        given: dict[str, Any] = {"statistic": "mean", "storage_options": OPTIONS}
        multi.add_scan("rest", run, weights=labels, **given)
        multi.add_scans({"again": run}, **given)
        np.testing.assert_allclose(multi["rest"].to_numpy()[:, 1], expected, rtol=1e-6)
        np.testing.assert_allclose(multi["again"].to_numpy()[:, 1], expected, rtol=1e-6)


@pytest.mark.parametrize("ending", ["h5", "ome.zarr"])
def test_the_path_of_a_store_is_taken_where_its_volume_is(tmp_path: Path, ending: str) -> None:
    path = f"{tmp_path}/labels.{ending}"
    fs.NeuroVol.create(LABELS, path, space=np.eye(4)).close()
    with fs.NeuroVec.create(RUN, tmp_path / "run.h5", space=np.eye(4)) as run:
        expected = run.series(mask=LABELS)
        np.testing.assert_array_equal(run.series(mask=path), expected)
        stored = f"{tmp_path}/masked.{ending}"
        fs.MaskedNeuroVec.create(run, stored, mask=path).close()
        np.testing.assert_array_equal(run.series(mask=stored), expected)
        weighted = fs.parcellate(run, path, tmp_path / "p.h5", weights=path, mask=path)
    np.testing.assert_allclose(weighted[:, 1], RUN[LABELS == 2].mean(axis=0))


def test_a_file_of_another_shape_is_not_read(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((4, 5, 3, 5000)).astype("f4")
    image = nib.Nifti1Image(values, np.eye(4))
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(gzip.compress(image.to_bytes())[:-20])
    space = fs.NeuroSpace(spatial_shape=(4, 5, 3), affine=np.eye(4))
    with pytest.raises(InvalidInputError, match=r"shape \(4, 5, 3, 5000\)"):
        mask_array(path, space)
    with pytest.raises(InvalidInputError, match="shape"):
        fs.Parcellation.from_labels(path, space=space)
    with pytest.raises(CorruptDataError):
        load_volume(path, "mask")


def test_a_document_that_is_too_long_is_not_fetched() -> None:
    remote = filesystem("memory://long.json")[0]
    remote.pipe_file("/long.json", bytes(1000))
    assert read_whole("memory://long.json", limit=1000) == bytes(1000)

    def never(*args: Any, **kwargs: Any) -> bytes:
        raise AssertionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(remote), "cat_file", never)
        with pytest.raises(MemoryLimitError):
            read_whole("memory://long.json", limit=999)


def test_credentials_that_come_later_are_seen(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AccessDeniedError):
        read_whole(f"{bucket}/names.tsv", limit=1000)
    monkeypatch.setitem(Private.environment, "key", "right")
    assert read_whole(f"{bucket}/names.tsv", limit=1000).startswith(b"index")


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://me:hush@host/a.h5?dl=1", "hush"),
        ("https://hush@host/a.h5", "hush"),
        ("s3://key:hush@bucket/a.h5", "hush"),
        ("https://host/a.h5?sig=hush&se=2", "hush"),
        ("https://host/a.h5?x=1&X-Amz-Signature=hush", "hush"),
        ("https://host/a.h5?X-Amz-Security-Token=hush&x=1", "hush"),
        ("https://host/a.h5?access_token=hush", "hush"),
        ("simplecache::https://host/a.h5?token=hush", "hush"),
    ],
)
def test_no_secret_in_errors(url: str, secret: str) -> None:
    for error in (
        StorageError("it failed", url=url),
        storage_error(OSError(f"cannot reach {url}"), "b/k"),
        StorageError(f"refers to {url}"),
    ):
        for seen in (error, pickle.loads(pickle.dumps(error))):
            assert secret not in f"{seen} {seen!r} {seen.args} {seen.url} {seen.message}"
            assert "host" in str(seen) or "bucket" in str(seen)


@pytest.mark.parametrize(
    "text",
    ["{'token': 'hush', 'x': 1}", "AccountKey=hush==;", "Bearer hush-hush-hush", "password: hush"],
)
def test_no_secret_in_what_clients_say(text: str) -> None:
    assert "hush" not in str(storage_error(RuntimeError(text), "b/k"))


@pytest.mark.parametrize(
    "text", ["/data/sub-01:02/a@b.h5", "memory://a/b@c.zarr", "abfs://c@acc/x"]
)
def test_names_without_secrets_stay(text: str) -> None:
    assert str(StorageError("it failed", url=text)) == f"{text}: it failed"


def test_options_that_nobody_knows_are_named() -> None:
    error = storage_error(
        TypeError("AioSession.__init__() got an unexpected keyword argument 'endpoint'"), "b/k"
    )
    assert isinstance(error, InvalidInputError)
    assert "'endpoint'" in str(error)


@pytest.mark.parametrize(
    "url",
    ["memory://o/a.h5", "memory://o/a.zarr", "a.h5", "file://a.h5", "http://h/a.h5", "gs://b/a.h5"],
)
def test_a_slip_in_an_option_is_named_before_anything_is_opened(url: str, tmp_path: Path) -> None:
    place = url.replace("a.", f"{tmp_path}/a.") if "//a" in url or "/" not in url else url
    wrong = {"anonn": True}
    with pytest.raises(InvalidInputError, match=r"'anonn'.*(anon|leave)"):
        fs.open(place, storage_options=wrong)
    with pytest.raises(InvalidInputError, match="anonn"):
        fs.convert(place.replace(".h5", ".nii"), tmp_path / "b.h5", storage_options=wrong)
    with pytest.raises(InvalidInputError, match="anonn"):
        read_whole(place, wrong, limit=9)
    if "//h" not in place and "gs:" not in place:
        with pytest.raises(InvalidInputError, match="anonn"):
            fs.NeuroVec.create(RUN, place, space=np.eye(4), storage_options=wrong)


def test_options_of_another_url_of_the_same_call(tmp_path: Path) -> None:
    options = {"anon": True, "s3": {"anon": False}, "skip_instance_cache": True}
    fs.NeuroVec.create(RUN, tmp_path / "a.h5", space=np.eye(4), storage_options=options).close()
    url = f"memory://{uuid.uuid4().hex}/a.h5"
    fs.transcode(tmp_path / "a.h5", url, storage_options=options)
    np.testing.assert_array_equal(fs.open(url, storage_options=options)[...], RUN)
    with pytest.raises(InvalidInputError, match=r"'anon'.*http:// does not know.*by its protocol"):
        fs.open("http://127.0.0.1:1/a.h5", storage_options={"anon": True})
    kept = options_for(["http"], {"s3": {"anon": True}, "headers": {"a": "b"}, "http": {"ssl": 1}})
    assert kept == {"headers": {"a": "b"}, "http": {"ssl": 1}}


@pytest.mark.parametrize(
    "options",
    [{"host": "h", "port": 2121}, {"auto_mkdir": True}, {"of_another_client": 1}, {"tls": True}],
)
def test_options_beside_a_path_may_be_those_of_any_client(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fsspec.registry", {})
    path = tmp_path / "a.h5"
    fs.NeuroVec.create(RUN, path, space=np.eye(4), storage_options=options).close()
    url = f"memory://{uuid.uuid4().hex}/b.h5"
    fs.transcode(path, url, storage_options=options)
    fs.open(url, storage_options=options).close()


def test_which_options_are_slips_does_not_depend_on_what_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Late(MemoryFileSystem):  # type: ignore[misc]
        def __init__(self, annon: bool = False, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    monkeypatch.setattr("fsspec.registry", {"late": Late})
    with pytest.raises(InvalidInputError, match="did you mean 'anon'"):
        fs.open(tmp_path / "a.h5", storage_options={"annon": True})


def test_what_a_disk_refuses_is_no_matter_of_credentials() -> None:
    error = storage_error(PermissionError(13, "Permission denied", "/a/b.h5"), "/a/b.h5")
    assert isinstance(error, AccessDeniedError)
    assert "credentials" not in str(error)


def test_no_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(StorageError, match="TMPDIR"):
        fs.NeuroVec.create(RUN, "memory://t/a.h5", space=np.eye(4))
    with pytest.raises(FmristoreError, match="TMPDIR"):
        fs.NeuroVec.create(RUN, tmp_path / "a.h5", space=np.eye(4)).to_nifti("memory://t/a.nii")
