"""How each engine opens and reads one image on S3, whatever its axes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import fmristore as fs
from fmristore_stores.protocol import AnyArray

__all__ = ["ENGINES", "READS", "STORES", "Place", "RemoteStore"]


class Place(NamedTuple):
    """A bucket behind the proxy."""

    bucket: str
    port: int

    @property
    def endpoint(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, Any]:
        """Storage options of fsspec, as a user would give them."""
        return {
            "key": "test",
            "secret": "test",
            "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
        }


class RemoteStore(NamedTuple):
    """One way to store the run."""

    name: str
    key: str
    codec: str
    virtual: bool = False


STORES = (
    RemoteStore("hdf5-portable", "portable.h5", "portable"),
    RemoteStore("hdf5-dual", "dual.h5", "dual"),
    RemoteStore("zarr-dual", "dual.ome.zarr", "dual"),
    RemoteStore("refs-portable", "portable.h5.refs.json", "portable", virtual=True),
    RemoteStore("refs-dual", "dual.h5.refs.json", "dual", virtual=True),
)

READS: dict[str, Callable[[tuple[int, ...]], tuple[Any, ...]]] = {
    "voxel": lambda s: (s[0] // 2, s[1] // 2, s[2] // 2, slice(None)),
    "roi 7x7x7": lambda s: (*(slice(n // 2 - 3, n // 2 + 4) for n in s[:3]), slice(None)),
    "volume": lambda s: (slice(None), slice(None), slice(None), s[3] // 2),
    "run": lambda s: (slice(None),) * len(s),
}
"""Index along x, y, z and t by the shape of the run."""

Read = Callable[[tuple[Any, ...]], AnyArray]
"""Takes an index along x, y, z, t; axes of the result are in that order."""


def by_dims(array: Any, dims: tuple[str, ...], index: tuple[Any, ...]) -> AnyArray:
    """Read an array whose axes are in another order."""
    place = dict(zip("xyzt", index, strict=True))
    values = np.asarray(array[tuple(place[dim] for dim in dims)])
    left = [dim for dim in dims if isinstance(place[dim], slice)]
    wanted = [dim for dim in "xyzt" if dim in left]
    return values.transpose([left.index(dim) for dim in wanted])


@contextlib.contextmanager
def ours(store: RemoteStore, place: Place) -> Iterator[Read]:
    url = f"s3://{place.bucket}/{store.key}"
    with fs.open(url, storage_options=place.options) as image:
        yield lambda index: np.asarray(image[index])


def _h5py(**caching: Any) -> Callable[[RemoteStore, Place], Any]:
    @contextlib.contextmanager
    def engine(store: RemoteStore, place: Place) -> Iterator[Read]:
        import fsspec
        import h5py
        import hdf5plugin  # noqa: F401 - registers blosc

        bucket = fsspec.filesystem("s3", **place.options)
        bucket.invalidate_cache()
        with (
            bucket.open(f"{place.bucket}/{store.key}", "rb", **caching) as file,
            h5py.File(file, "r") as opened,
        ):
            data = opened["0"]
            dims = tuple(dim.label for dim in data.dims)
            yield lambda index: by_dims(data, dims, index)

    return engine


def _from_zarr(store: Any, **options: Any) -> Read:
    import zarr

    group = zarr.open_group(store, mode="r", **options)
    array: Any = group["0"]
    dims = array.metadata.to_dict().get("dimension_names") or array.attrs["_ARRAY_DIMENSIONS"]
    return lambda index: by_dims(array, tuple(dims), index)


@contextlib.contextmanager
def zarr_on_fsspec(store: RemoteStore, place: Place) -> Iterator[Read]:
    import fsspec
    from zarr.storage import FsspecStore

    fsspec.filesystem("s3", **place.options).invalidate_cache()
    url = f"s3://{place.bucket}/{store.key}"
    yield _from_zarr(FsspecStore.from_url(url, storage_options=place.options, read_only=True))


@contextlib.contextmanager
def zarr_on_obstore(store: RemoteStore, place: Place) -> Iterator[Read]:
    import obstore.store
    from zarr.storage import ObjectStore

    bucket = obstore.store.S3Store(
        place.bucket,
        prefix=store.key,
        endpoint=place.endpoint,
        access_key_id="test",
        secret_access_key="test",
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    yield _from_zarr(ObjectStore(bucket, read_only=True))


@contextlib.contextmanager
def zarr_on_references(store: RemoteStore, place: Place) -> Iterator[Read]:
    import fsspec
    from zarr.storage import FsspecStore

    made = fsspec.filesystem(
        "reference",
        fo=f"s3://{place.bucket}/{store.key}",
        remote_protocol="s3",
        remote_options=place.options | {"asynchronous": True},
        target_options=place.options,
        asynchronous=True,
        skip_instance_cache=True,
    )
    yield _from_zarr(FsspecStore(made, read_only=True), zarr_format=2)


@contextlib.contextmanager
def tensorstore(store: RemoteStore, place: Place) -> Iterator[Read]:
    import tensorstore as ts

    spec = {
        "driver": "zarr3",
        "kvstore": {
            "driver": "s3",
            "bucket": place.bucket,
            "path": f"{store.key}/0/",
            "endpoint": place.endpoint,
            "aws_region": "us-east-1",
        },
    }
    array = ts.open(spec, read=True, context=ts.Context()).result()
    dims = tuple(array.domain.labels)
    yield lambda index: by_dims(array, dims, index)


ENGINES: dict[str, dict[str, Callable[[RemoteStore, Place], Any]]] = {
    "hdf5": {
        "fmristore": ours,
        "h5py over s3fs": _h5py(),
        "h5py over s3fs, 1 MiB blocks": _h5py(cache_type="blockcache", block_size=2**20),
    },
    "zarr": {
        "fmristore": ours,
        "zarr over s3fs": zarr_on_fsspec,
        "zarr over obstore": zarr_on_obstore,
        "tensorstore": tensorstore,
    },
    "refs": {"fmristore": ours, "zarr over reference filesystem": zarr_on_references},
}
"""Engines that read a kind of store."""
