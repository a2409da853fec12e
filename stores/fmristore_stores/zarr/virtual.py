"""Zarr nodes whose chunks lie in other files: versions in Icechunk, objects of VirtualiZarr."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import zarr

from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    DependencyError,
    InvalidInputError,
    LayoutNotSupportedError,
    NotFoundError,
)
from fmristore_stores.grid import ChunkKey, Region, grid_shape
from fmristore_stores.io.local_files import lies_in
from fmristore_stores.io.location import is_local
from fmristore_stores.io.sources import storage_error
from fmristore_stores.protocol import AnyArray
from fmristore_stores.shown import shown
from fmristore_stores.spec import ArraySpec, Attributes, is_string
from fmristore_stores.zarr.errors import quiet, zarr_errors
from fmristore_stores.zarr.metadata import creation

__all__ = ["Version", "VirtualArray", "VirtualTree", "commit", "open_version", "to_manifests"]

_BRANCH = "main"
_S3 = ("s3", "s3a")
_MOST_ABSENT = 2**22
"""Chunks that are not there, of an array that VirtualiZarr lists."""
_OPTIONS = frozenset({"anon", "client_kwargs", "endpoint_url", "key", "secret", "token"})
"""Storage options of fsspec that Icechunk has a counterpart of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualArray:
    """An array whose chunks lie in another file, but for some.

    Parameters
    ----------
    spec : ArraySpec
        Axes in the order of the bytes, all with names.
    stored : dtype
        Of the bytes, with their order.
    attributes : Attributes
        Of the array.
    rows : ndarray of int64, shape (chunks, 3)
        Number, offset and length of each chunk in the file, or in its object of a store.
    places : sequence of str
        These objects, by their paths in the store; empty where all chunks lie in one file.
    inline : dict of ChunkKey to bytes
        Other chunks, encoded.
    values : list of (Region, ndarray)
        These, decoded.
    """

    spec: ArraySpec
    stored: np.dtype[Any]
    attributes: Attributes
    rows: AnyArray
    places: Sequence[str]
    inline: dict[ChunkKey, bytes]
    values: list[tuple[Region, AnyArray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualTree:
    """Groups and arrays of one file or store.

    Parameters
    ----------
    groups : dict of str to Attributes
        By path; the root's is empty.
    arrays : dict of str to VirtualArray
        By path.
    url : str
        The file or store, with ``file://`` where it is local.
    etag : str
        Version of an object, empty where the server names none.
    mtime_ns : int
        Time of modification of a local file, or of what was written last in a local store.
    """

    groups: dict[str, Attributes]
    arrays: dict[str, VirtualArray]
    url: str
    etag: str = ""
    mtime_ns: int = 0

    @property
    def container(self) -> str:
        """Folder or bucket that it lies in, as Icechunk wants it."""
        parts = urlsplit(self.url)
        if parts.scheme in _S3:
            return f"s3://{parts.netloc}/"
        return f"{_location(self.url).rpartition('/')[0]}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Name of a version of a repository, and what it may replace."""

    message: str = ""
    tag: str | None = None
    overwrite: bool = False


# Versions in Icechunk ------------------------------------------------------------------------


def commit(
    url: str,
    trees: Mapping[str, VirtualTree],
    options: Mapping[str, Any],
    version: Version,
    check: Callable[[], None],
) -> str:
    """Add groups to a repository, which is made if there is none; returns the new snapshot.

    Parameters
    ----------
    url : str
        Normalised.
    trees : mapping of str to VirtualTree
        What the groups hold; an empty name is the root.
    options : mapping
        fsspec's storage options.
    version : Version
        How the new version is called.
    check : callable
        Called before it is committed; may raise.

    Raises
    ------
    AlreadyExistsError
        If there is a group of such a name, a tag of that name, or something else at `url`.
    ChangedError
        If somebody else made a version meanwhile.
    """
    ic = _load("icechunk")
    with _errors(ic, url):
        repository = _writable(ic, url, trees.values(), options)
        if version.tag is not None and version.tag in repository.list_tags():
            raise AlreadyExistsError(f"there is a version {version.tag!r} already", url=url)
        session = repository.writable_session(_BRANCH)
        for name, tree in trees.items():
            _write(ic, session.store, name, tree, url, overwrite=version.overwrite)
        check()
        message = version.message or f"{len(trees)} virtual stores of fmristore"
        snapshot = str(session.commit(message))
        if version.tag is not None:
            repository.create_tag(version.tag, snapshot)
    return snapshot


def open_version(url: str, version: str, options: Mapping[str, Any], targets: Sequence[str]) -> Any:
    """Store of one version, for reading.

    Parameters
    ----------
    url : str
        Of the repository, normalised.
    version : str
        A tag, a branch or a snapshot.
    options : mapping
        fsspec's storage options.
    targets : sequence of str
        What it may refer to, besides its own folder or bucket.

    Raises
    ------
    NotFoundError
        If there is no repository, or no such version.
    LayoutNotSupportedError
        If it refers to a place that `targets` does not name.
    """
    ic = _load("icechunk")
    with _errors(ic, url):
        storage = _storage(ic, url, options)
        if not ic.Repository.exists(storage):
            raise NotFoundError("there is no repository of Icechunk", url=url)
        config = ic.Repository.fetch_config(storage) or ic.RepositoryConfig.default()
        prefixes = list(config.virtual_chunk_containers or {})
        for prefix in prefixes:
            if not _is_beside(prefix, url) and not any(_is_below(prefix, t) for t in targets):
                msg = (
                    f"it refers to {shown(prefix)}, which does not lie beside it and is not "
                    "followed; if you trust the repository, name that in targets="
                )
                raise LayoutNotSupportedError(msg, url=url)
        access = _access(ic, prefixes, options)
        repository = ic.Repository.open(storage, authorize_virtual_chunk_access=access)
        if version in repository.list_tags():
            return repository.readonly_session(tag=version).store
        if version in repository.list_branches():
            return repository.readonly_session(branch=version).store
        try:
            return repository.readonly_session(snapshot_id=version).store
        except ic.IcechunkError as error:
            tags = ", ".join(sorted(repository.list_tags())) or "none"
            msg = f"there is no version {shown(version)!r}: neither a tag ({tags}) nor a snapshot"
            raise NotFoundError(msg, url=url) from error


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f"this needs {name}: Python 3.12 or newer, and pip install 'fmristore[icechunk]'"
        raise DependencyError(msg) from error


@contextlib.contextmanager
def _errors(ic: Any, url: str) -> Iterator[None]:
    try:
        yield
    except ic.ConflictError as error:
        msg = "somebody else made a version meanwhile; try again"
        raise ChangedError(msg, url=url) from error
    except ic.IcechunkError as error:
        raise storage_error(OSError(str(error).strip()[:500]), url) from error


def _writable(ic: Any, url: str, trees: Any, options: Mapping[str, Any]) -> Any:
    """The repository, with the folders and buckets of these files as places that it refers to."""
    storage = _storage(ic, url, options)
    is_file = is_local(url) and os.path.lexists(url) and not Path(url).is_dir()
    there = not is_file and ic.Repository.exists(storage)
    if not there and is_local(url) and os.path.lexists(url):
        raise AlreadyExistsError("there is something else than a repository of Icechunk", url=url)
    found = ic.Repository.fetch_config(storage) if there else None
    config = found or ic.RepositoryConfig.default()
    for prefix in sorted({tree.container for tree in trees}):
        config.set_virtual_chunk_container(
            ic.VirtualChunkContainer(prefix, _container(ic, prefix, options))
        )
    make = ic.Repository.open if there else ic.Repository.create
    repository = make(storage, config=config)
    repository.save_config()
    return repository


def _storage(ic: Any, url: str, options: Mapping[str, Any]) -> Any:
    if is_local(url):
        return ic.local_filesystem_storage(url)
    parts = urlsplit(url)
    if parts.scheme not in _S3:
        raise LayoutNotSupportedError("repositories are local or on S3", url=url)
    secrets = {
        "access_key_id": options.get("key"),
        "secret_access_key": options.get("secret"),
        "session_token": options.get("token"),
        "anonymous": bool(options.get("anon")) or None,
        "from_env": None if options.get("anon") or options.get("key") else True,
    }
    place = _s3(options)
    return ic.s3_storage(bucket=parts.netloc, prefix=parts.path.strip("/"), **place, **secrets)


def _container(ic: Any, prefix: str, options: Mapping[str, Any]) -> Any:
    """Place of chunks, without credentials: this is stored in the repository."""
    parts = urlsplit(prefix)
    if parts.scheme == "file":
        return ic.local_filesystem_store(prefix.removeprefix("file://"))
    if parts.scheme not in _S3:
        msg = "Icechunk is made to refer to local files and to S3 only"
        raise LayoutNotSupportedError(msg, url=prefix)
    place = _s3(options)
    return ic.s3_store(
        **place, anonymous=bool(options.get("anon")), s3_compatible=bool(place["endpoint_url"])
    )


def _s3(options: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        msg = f"Icechunk has no counterpart of {unknown}; it takes {', '.join(sorted(_OPTIONS))}"
        raise InvalidInputError(msg)
    client = options.get("client_kwargs") or {}
    endpoint = options.get("endpoint_url") or client.get("endpoint_url")
    return {
        "region": client.get("region_name"),
        "endpoint_url": endpoint,
        "allow_http": str(endpoint or "").startswith("http://"),
        "force_path_style": bool(endpoint),
    }


def _access(ic: Any, prefixes: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Credentials by the places that they are for; kept by the reader only."""
    found: dict[str, Any] = {}
    for prefix in prefixes:
        if prefix.startswith("file://"):
            found[prefix] = ic.credentials.LocalFileSystemAccess
        elif options.get("anon"):
            found[prefix] = ic.s3_anonymous_credentials()
        elif options.get("key"):
            found[prefix] = ic.s3_static_credentials(
                access_key_id=options["key"],
                secret_access_key=options.get("secret", ""),
                session_token=options.get("token"),
            )
        else:
            found[prefix] = ic.s3_from_env_credentials()
    return dict(ic.containers_credentials(found))


def _is_beside(prefix: str, url: str) -> bool:
    if is_local(url):
        folder = os.path.dirname(os.path.realpath(url))  # noqa: PTH120
        return _is_below(prefix, folder)
    return urlsplit(prefix)[:2] == ("s3", urlsplit(url).netloc)


def _is_below(prefix: str, folder: str) -> bool:
    if prefix.startswith("file://") and is_local(folder):
        real, top = os.path.realpath(prefix.removeprefix("file://")), os.path.realpath(folder)
        hidden = any(part.startswith(".") for part in Path(os.path.relpath(real, top)).parts)
        return lies_in(real, top) and not hidden
    base = folder.replace("s3a://", "s3://").rstrip("/") + "/"
    return ".." not in prefix.split("/") and prefix.startswith(base)


def _location(url: str) -> str:
    """URL of a file as Icechunk wants it: percent-encoded."""
    parts = urlsplit(url)
    scheme = "s3" if parts.scheme in _S3 else parts.scheme
    path = url.partition("://")[2][len(parts.netloc) :]
    return f"{scheme}://{parts.netloc}{quote(path)}"


def _write(ic: Any, store: Any, name: str, tree: VirtualTree, url: str, *, overwrite: bool) -> None:
    with zarr_errors(url, name), quiet():
        root = zarr.open_group(store, mode="a")
        taken = list(root.keys()) if not name else [name] * (name in root)
        if taken and not overwrite:
            raise AlreadyExistsError("there is a group of that name", url=url, node=taken[0])
        if name:
            zarr.create_group(store, path=name, overwrite=True)
        elif taken:
            zarr.create_group(store, overwrite=True)
        for path, attributes in tree.groups.items():
            at = _join(name, path)
            group = zarr.open_group(store, path=at, mode="a") if at else root
            group.update_attributes(attributes)
        for path, array in tree.arrays.items():
            _write_array(ic, store, _join(name, path), array, tree, url)


def _write_array(
    ic: Any, store: Any, path: str, array: VirtualArray, tree: VirtualTree, url: str
) -> None:
    made = zarr.create_array(store, name=path, attributes=array.attributes, **_arguments(array))
    for region, values in array.values:
        made[region] = values
    if not len(array.rows):
        return
    grid = grid_shape(array.spec.shape, array.spec.layout.chunks)
    chunks = np.array(np.unravel_index(array.rows[:, 0], grid or (1,))).T.tolist()
    known = _known(tree)
    locations = [_location(url) for url in _urls(array, tree)]
    failed = store.set_virtual_refs(
        path,
        [
            ic.VirtualChunkSpec(chunk if grid else [], location, offset, length, **known)
            for chunk, location, (_, offset, length) in zip(
                chunks, locations, array.rows.tolist(), strict=True
            )
        ],
    )
    if failed:
        raise LayoutNotSupportedError("Icechunk does not take its chunks", url=url, node=path)


def _urls(array: VirtualArray, tree: VirtualTree) -> list[str]:
    """File or object that each chunk lies in."""
    if not array.places:
        return [tree.url] * len(array.rows)
    return [f"{tree.url}/{place}" for place in array.places]


def _known(tree: VirtualTree) -> dict[str, Any]:
    """Facts by which Icechunk knows a file from later versions of itself."""
    if tree.etag:
        return {"etag_checksum": tree.etag}
    if tree.mtime_ns:  # it knows no fractions of seconds
        seconds = -(-tree.mtime_ns // 10**9)
        return {"last_updated_at_checksum": datetime.fromtimestamp(seconds, UTC)}
    return {}


def _arguments(array: VirtualArray) -> dict[str, Any]:
    arguments = creation(array.spec)
    if array.stored.byteorder == ">" and not is_string(array.spec.dtype):
        arguments["serializer"] = {"name": "bytes", "configuration": {"endian": "big"}}
    return arguments


def _join(name: str, path: str) -> str:
    return "/".join(part for part in (name, path) if part)


# Objects of VirtualiZarr ---------------------------------------------------------------------


def to_manifests(trees: Mapping[str, VirtualTree], options: Mapping[str, Any]) -> Any:
    """A ``virtualizarr.manifests.ManifestStore`` of groups.

    Parameters
    ----------
    trees : mapping of str to VirtualTree
        What the groups hold; an empty name is the root.
    options : mapping
        fsspec's storage options, for S3.

    Raises
    ------
    DependencyError
        If VirtualiZarr is not installed.
    LayoutNotSupportedError
        If a file is neither local nor on S3.
    """
    manifests, registry = _load("virtualizarr.manifests"), _load("obspec_utils.registry")
    stores = {}
    groups: dict[str, Any] = {"": {}}
    arrays: dict[str, dict[str, Any]] = {}
    for name, tree in trees.items():
        prefix, store = _reader(tree.url, options)
        stores[prefix] = store
        groups |= {_join(name, path): found for path, found in tree.groups.items()}
        for path, array in tree.arrays.items():
            folder, _, leaf = _join(name, path).rpartition("/")
            arrays.setdefault(folder, {})[leaf] = _manifest_array(manifests, array, tree)
    for path in list(groups):
        while path:
            path = path.rpartition("/")[0]  # noqa: PLW2901 - upwards to the root
            groups.setdefault(path, {})
    made: dict[str, Any] = {}
    for path in sorted(groups, key=lambda path: -path.count("/") - bool(path)):
        below = {p.rpartition("/")[2]: made[p] for p in made if p and p.rpartition("/")[0] == path}
        made[path] = manifests.ManifestGroup(
            arrays=arrays.get(path, {}), groups=below, attributes=groups[path]
        )
    return manifests.ManifestStore(made[""], registry=registry.ObjectStoreRegistry(stores))


def _reader(url: str, options: Mapping[str, Any]) -> tuple[str, Any]:
    stores = _load("obstore.store")
    parts = urlsplit(url)
    if parts.scheme == "file":
        return "file://", stores.LocalStore()
    if parts.scheme not in _S3:
        msg = "VirtualiZarr is made to refer to local files and to S3 only"
        raise LayoutNotSupportedError(msg, url=url)
    place = _s3(options)
    given = {
        "endpoint": place["endpoint_url"],
        "region": place["region"],
        "access_key_id": options.get("key"),
        "secret_access_key": options.get("secret"),
        "session_token": options.get("token"),
        "skip_signature": bool(options.get("anon")) or None,
        "virtual_hosted_style_request": False if place["force_path_style"] else None,
        "client_options": {"allow_http": True} if place["allow_http"] else None,
    }
    known = {name: value for name, value in given.items() if value is not None}
    return f"s3://{parts.netloc}", stores.S3Store(parts.netloc, **known)


def _manifest_array(manifests: Any, array: VirtualArray, tree: VirtualTree) -> Any:
    with quiet():
        made = zarr.create_array(
            zarr.storage.MemoryStore(), attributes=array.attributes, **_arguments(array)
        )
    grid = grid_shape(array.spec.shape, array.spec.layout.chunks)
    if math.prod(grid) > _MOST_ABSENT + 2 * len(array.rows):
        msg = f"VirtualiZarr lists all {math.prod(grid)} chunks of an array, and most are not there"
        raise LayoutNotSupportedError(msg, url=tree.url)
    paths = np.full(math.prod(grid), "", np.dtypes.StringDType())
    offsets, lengths = np.zeros((2, len(paths)), np.uint64)
    numbers = array.rows[:, 0]
    paths[numbers] = _urls(array, tree)
    offsets[numbers], lengths[numbers] = array.rows[:, 1], array.rows[:, 2]
    for chunk, data in array.inline.items():
        number = int(np.ravel_multi_index(chunk, grid)) if chunk else 0
        paths[number], lengths[number] = manifests.manifest.INLINED_CHUNK_PATH, len(data)
    manifest = manifests.ChunkManifest.from_arrays(
        paths=paths.reshape(grid),
        offsets=offsets.reshape(grid),
        lengths=lengths.reshape(grid),
        inlined=array.inline or None,
    )
    return manifests.ManifestArray(metadata=made.metadata, chunkmanifest=manifest)
