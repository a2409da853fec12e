"""Every format in both kinds of store on real servers: written, read, transcoded, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import nibabel as untyped_nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
)
from fmristore_stores.opening import open_store
from tests.remote.small_stores import AFFINE, DATA, FORMATS, KINDS, check_dense
from tests.servers.fixtures import make_place
from tests.servers.places import Place

nibabel: Any = untyped_nibabel

PLACES = ["file", "memory", "moto", "rclone", "gcs", "azure", "http"]
SERVERS = PLACES[2:]
OTHER = {"h5": "ome.zarr", "ome.zarr": "h5"}
MORE = [name for name in FORMATS if name != "dense"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return make_place(request.param, request, tmp_path)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return make_place(request.param, request, tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NIfTI file."""
    path = tmp_path_factory.mktemp("nifti") / "run.nii.gz"
    image = nibabel.Nifti1Image(DATA, AFFINE)
    image.header.set_zooms((2, 2, 3, 1.5))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


def listed(place: Place) -> list[str]:
    """Names of what lies there."""
    filesystem, path = fsspec.core.url_to_fs(place.source("").rstrip("/"), **place.source_options)
    filesystem.invalidate_cache()
    return sorted(name.rsplit("/", 1)[-1] for name in filesystem.ls(path, detail=False))


# Images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_convert_and_read(place: Place, run: Path, kind: str) -> None:
    name = f"sub-01 run ü.{kind}"
    fs.convert(run, place.source(name), storage_options=place.source_options)
    with fs.open(place / name, storage_options=place.options) as image:
        check_dense(image)
        np.testing.assert_array_equal(image.affine, AFFINE)
        assert image.tr == 1.5
        assert image.compute_digest() == image.digest
    assert fs.verify(place / name, storage_options=place.options).ok


@pytest.mark.parametrize("kind", KINDS)
def test_overwriting_is_refused_and_allowed(place: Place, run: Path, kind: str) -> None:
    url = place / f"a.{kind}"
    if place.folder is not None:
        for overwrite in (False, True):
            with pytest.raises(ReadOnlyError):
                fs.convert(run, url, overwrite=overwrite)
        assert not list(place.folder.iterdir())
        return
    fs.convert(run, url, storage_options=place.options)
    with pytest.raises(AlreadyExistsError, match="overwrite"):
        fs.NeuroVec.create(DATA + 1, url, space=AFFINE, storage_options=place.options)
    with fs.open(url, storage_options=place.options) as image:
        check_dense(image)
    fs.NeuroVec.create(
        DATA + 1, url, space=AFFINE, overwrite=True, storage_options=place.options
    ).close()
    with fs.open(url, storage_options=place.options) as image:
        check_dense(image, DATA + 1)
    assert listed(place) == [f"a.{kind}"]


@pytest.mark.once
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
        check_dense(image)
    assert listed(place) == [f"a.{kind}"]


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_nothing(place: Place, kind: str) -> None:
    with pytest.raises(NotFoundError):
        fs.open(place / f"missing.{kind}", storage_options=place.options)
    for expected_format in ("zarr", "hdf5"):
        with pytest.raises(NotFoundError):
            open_store(
                place / f"missing.{kind}", kind=expected_format, storage_options=place.options
            )


# Formats -----------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(
    ("server", "name", "kind"),
    [
        (server, name, KINDS[(s // 2 + n // 2) % 2])
        for s, server in enumerate(SERVERS)
        for n, name in enumerate(MORE)
        if (s + n) % 2 == 0
    ],
    indirect=["server"],
)
def test_every_format_there_and_back(server: Place, name: str, kind: str, tmp_path: Path) -> None:
    """Each format on several servers, in both kinds of store, which each server has too."""
    make, check_format = FORMATS[name]
    local = str(tmp_path / f"local.{OTHER[kind]}")
    make(local).close()
    file = f"{name} ü.{kind}"
    fs.transcode(local, server.source(file), storage_options=server.source_options)
    with fs.open(server / file, storage_options=server.options) as opened:
        check_format(opened)
    assert fs.verify(server / file, storage_options=server.options).ok
    back = tmp_path / f"back.{OTHER[kind]}"
    fs.transcode(server / file, back, storage_options=server.options)
    with fs.open(back) as opened:
        check_format(opened)


# URLs --------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return make_place("moto", request, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_of_protocols(bucket: Place, run: Path, kind: str, tmp_path: Path) -> None:
    fs.convert(run, bucket / f"a.{kind}", storage_options=bucket.options)
    options = {
        "s3": dict(bucket.options),
        "simplecache": {"cache_storage": str(tmp_path / "cache")},
    }
    with fs.open(f"simplecache::{bucket / 'a'}.{kind}", storage_options=options) as image:
        check_dense(image)
    assert any((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_credentials_and_endpoint_from_the_environment(
    bucket: Place, run: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.options["endpoint_url"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fresh = {"skip_instance_cache": True}
    fs.convert(run, bucket / f"a.{kind}", storage_options=fresh)
    with fs.open(bucket / f"a.{kind}", storage_options=fresh) as image:
        check_dense(image)


@pytest.mark.parametrize("kind", KINDS)
def test_azure_from_the_environment(
    request: pytest.FixtureRequest, run: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place("azure", request, run)
    connection = place.options["connection_string"]
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    url = place.url.replace("az://", "abfs://")
    fs.convert(run, f"{url}/a.{kind}", storage_options={"skip_instance_cache": True})
    with fs.open(f"{place.url}/a.{kind}", storage_options={"skip_instance_cache": True}) as image:
        check_dense(image)


@pytest.mark.parametrize("kind", KINDS)
def test_a_public_bucket_without_credentials(bucket: Place, run: Path, kind: str) -> None:
    import s3fs

    name = bucket.url.removeprefix("s3://")
    s3fs.S3FileSystem(**bucket.options).call_s3("put_bucket_acl", Bucket=name, ACL="public-read")
    public = {**bucket.options, "s3_additional_kwargs": {"ACL": "public-read"}}
    fs.convert(run, bucket / f"a.{kind}", storage_options=public)
    options = {"anon": True, "endpoint_url": bucket.options["endpoint_url"]}
    with fs.open(bucket / f"a.{kind}", storage_options=options) as image:
        check_dense(image)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_secret(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> None:
    place = make_place("rclone", request, tmp_path)
    wrong = {**place.options, "secret": "wrong"}
    with pytest.raises(AccessDeniedError, match="storage_options"):
        fs.open(place / f"a.{kind}", storage_options=wrong)
    with pytest.raises(AccessDeniedError):
        fs.NeuroVec.create(DATA, place / f"a.{kind}", space=AFFINE, storage_options=wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_no_credentials_at_all(
    bucket: Place, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fresh = {"skip_instance_cache": True}
    options = {"endpoint_url": bucket.options["endpoint_url"], **fresh}
    with pytest.raises(AccessDeniedError, match="credentials"):
        fs.open(bucket / f"a.{kind}", storage_options=options)
    with pytest.raises(AccessDeniedError, match="credentials"):
        fs.open(f"az://container/a.{kind}", storage_options=fresh)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["moto", "rclone", "gcs", "azure"])
def test_there_is_no_such_bucket(
    request: pytest.FixtureRequest, name: str, kind: str, tmp_path: Path
) -> None:
    place = make_place(name, request, tmp_path)
    url = f"{place.url.split('://')[0]}://no-such-bucket-at-all/a.{kind}"
    with pytest.raises(NotFoundError):
        fs.open(url, storage_options=place.options)
    with pytest.raises(NotFoundError, match="no such bucket"):
        fs.NeuroVec.create(DATA, url, space=AFFINE, storage_options=place.options)


@pytest.mark.parametrize("kind", KINDS)
def test_protocols_that_nobody_knows(run: Path, kind: str) -> None:
    with pytest.raises(InvalidInputError, match="protocol"):
        fs.open(f"nonsense://bucket/a.{kind}")
    with pytest.raises(InvalidInputError, match="protocol"):
        fs.convert(run, f"nonsense://bucket/a.{kind}")
