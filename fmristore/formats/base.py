"""Common base of all stored objects: they hold a store, describe themselves, and can be closed.

Arrays of a store, facts about objects, and the base class lie together because each needs the
others and nothing else.

`StoredObject` is whole here, docstrings with it, which makes the module long.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, Unpack, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore.model.space import NeuroSpace
from fmristore.planning.options import LayoutOptions, takes
from fmristore.planning.pictures import axis_chunks, chunk_svg, facts_html
from fmristore.planning.text import size_text
from fmristore.sources.others import explained
from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    ClosedError,
    FmristoreError,
    InvalidInputError,
    MetadataError,
    NotFoundError,
    SelectionError,
)
from fmristore_stores.grid import grid_shape
from fmristore_stores.io.location import Kind, count_files, is_local, normalise
from fmristore_stores.io.stats import Stats, stats_of
from fmristore_stores.opening import Handle, Opened, locate
from fmristore_stores.protocol import AnyArray, Array
from fmristore_stores.secrets import masked_url
from fmristore_stores.shown import shown
from fmristore_stores.spec import ArraySpec, Attributes

if TYPE_CHECKING:
    import pandas as pd

    from fmristore.sources.labels import LabelTable

__all__ = [
    "BorrowedHandle",
    "MetadataHolder",
    "RawReadable",
    "RawView",
    "StoredArray",
    "StoredObject",
    "access_text",
    "describe_data",
    "describe_parcels",
    "describe_scan",
    "describe_space",
    "first_few",
    "plain_number",
    "type_text",
]

_State = tuple[Handle, str, Literal["fill", "error"], tuple[str, ...], bool, bool]


class StoredArray:
    """One array of a store, opened when it is needed.

    Parameters
    ----------
    handle : Handle
        The store.
    path : str
        Of the array in the store.
    missing : {"error", "fill"}
        What a chunk that was never written means.
    dims : tuple of str, optional
        Names of its axes, for an array of other software that has none or others.
    is_copy : bool
        Whether its data are those of another array of the same object.
    """

    def __init__(
        self,
        handle: Handle,
        path: str,
        *,
        missing: Literal["fill", "error"] = "error",
        dims: tuple[str, ...] = (),
        is_copy: bool = False,
    ) -> None:
        self._handle = handle
        self._path = path
        self._missing = missing
        self._dims = dims
        self._is_copy = is_copy
        self._cached = True

    def uncached(self) -> StoredArray:
        """The same array, without a cache of decoded chunks: for callers that have their own."""
        found = copy.copy(self)
        vars(found)["_cached"] = False
        return found

    @property
    def path(self) -> str:
        """Path in the store."""
        return self._path

    @property
    def url(self) -> str:
        """Path or URL of the store."""
        return self._handle.locator.url

    @property
    def stored(self) -> StoredArray:
        """The array itself, where this one does not give values as they are stored."""
        return self

    @property
    def is_copy(self) -> bool:
        """True if its data are those of another array of the same object."""
        return self._is_copy

    @property
    def reader(self) -> ChunkReader:
        """Reader of the array in the store that this process has open now.

        Raises
        ------
        ClosedError
            If the handle was closed.
        MetadataError
            If the store has no such array.
        """
        opened = self._handle.opened
        reader = opened.readers.get(self)
        if reader is None:
            try:
                array = opened.store.root.array(self._path)
            except NotFoundError as error:
                raise MetadataError(
                    f"the format asks for this array: {error.message}",
                    url=self._handle.locator.url,
                    node=self._path,
                ) from error
            reader = opened.readers.put(self, self._new_reader(array))
        return reader

    def streaming_reader(self) -> ChunkReader:
        """Reader without a cache of decoded chunks: for reading the whole array once."""
        return self._new_reader(self.reader.array, ChunkCache(0))

    def _new_reader(self, array: Array, cache: ChunkCache | None = None) -> ChunkReader:
        url = self._handle.locator.url
        if not self._cached:
            cache = ChunkCache(0)
        reader = ChunkReader(array, cache=cache, missing=self._missing, url=url)
        if self._dims:
            reader.spec = self._named(reader.spec)
        return reader

    def _named(self, spec: ArraySpec) -> ArraySpec:
        """The spec with the names of axes that were given."""
        try:
            return replace(spec, dims=self._dims)
        except InvalidInputError as error:
            raise MetadataError(
                f"has the shape {spec.shape} where axes {', '.join(self._dims)} are expected",
                url=self._handle.locator.url,
                node=self._path,
            ) from error

    @property
    def attributes(self) -> Attributes:
        """Attributes of the array."""
        return self.reader.array.read_attributes()

    def read_small(self, most: int) -> AnyArray:
        """Read the whole of an array that has to be small, such as an affine.

        Parameters
        ----------
        most : int
            Number of values that it may have.

        Raises
        ------
        MetadataError
            If it has more: the file is damaged, or made to exhaust memory.
        """
        reader = self.reader
        if math.prod(reader.spec.shape) > most:
            raise MetadataError(
                f"has the shape {reader.spec.shape}, more than {most} elements",
                url=self._handle.locator.url,
                node=self._path,
            )
        return reader.read()

    def __getstate__(self) -> _State:
        return (
            self._handle,
            self._path,
            self._missing,
            self._dims,
            self._is_copy,
            self._cached,
        )

    def __setstate__(self, state: _State) -> None:
        self._handle, self._path, self._missing, self._dims, self._is_copy, self._cached = state


_MOST_CHUNKS = 1 << 20
"""Most chunks of an array whose sizes on disk are added up."""

_FEW = 5


def describe_space(space: NeuroSpace) -> dict[str, Any]:
    """Place of the voxels in the world, and of the volumes in time."""
    return {
        "grid": list(space.spatial_shape),
        "affine": space.affine.tolist(),
        "spacing_mm": list(space.spacing),
        "origin_mm": list(space.origin),
        "orientation": space.orientation,
        "time_points": space.time_points,
        "tr_s": space.tr,
        "time_offset_s": space.time_offset,
        "name": space.space_name,
        "unit": space.space_unit,
        "time_unit": space.time_unit,
    }


def describe_scan(name: str, space: NeuroSpace, dtype: np.dtype[Any]) -> dict[str, Any]:
    """One of several runs or scans, in short."""
    return {
        "name": name,
        "time_points": space.time_points,
        "tr_s": space.tr,
        "dtype": type_text(dtype),
    }


def describe_parcels(table: LabelTable) -> dict[str, Any]:
    """Number of the parcels of a table, and ids and names of the first ones."""
    ids, names = table.ids[:_FEW].tolist(), table.names[:_FEW]
    first = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
    return {"count": len(table), "first": first}


def first_few(items: Sequence[Any]) -> dict[str, Any]:
    """Number of items, and the first ones."""
    return {"count": len(items), "first": list(items[:_FEW])}


def describe_data(arrays: Iterable[StoredArray]) -> dict[str, Any]:
    """Layout of the arrays that hold an object's data, and their size on disk.

    Parameters
    ----------
    arrays : iterable of StoredArray
        The main one first.

    Returns
    -------
    dict
        ``layout`` of the main array and ``sizes`` of all; empty if there are none. Encoded bytes
        are None where only h5py or zarr-python can find the chunks, or there are too many. Where
        data are stored twice, ``copy`` is the layout of the first copy, raw bytes are counted
        once, and ``copies_encoded_bytes`` is what all copies add.

    Raises
    ------
    CorruptDataError
        If a chunk table or the index of a shard is damaged.
    """
    layouts: dict[str, dict[str, Any]] = {}
    count = raw = missing = 0
    encoded: int | None = 0
    added: int | None = 0
    for array in arrays:
        reader = array.stored.reader
        role = "copy" if array.is_copy else "layout"
        if role not in layouts:
            layouts[role] = _layout(array.path, reader)
        chunks = math.prod(grid_shape(reader.spec.shape, reader.spec.layout.chunks))
        cost = reader.cost() if chunks <= _MOST_CHUNKS else None
        count += 1
        raw += 0 if array.is_copy else reader.spec.nbytes
        missing += 0 if cost is None else cost.missing
        stored = None if cost is None else cost.encoded_bytes
        encoded = None if encoded is None or stored is None else encoded + stored
        if array.is_copy:
            added = None if added is None or stored is None else added + stored
    if not count:
        return {}
    sizes = {
        "arrays": count,
        "raw_bytes": raw,
        "encoded_bytes": encoded,
        "ratio": raw / encoded if encoded else None,
        "chunks_missing": missing,
    }
    if "copy" in layouts:
        sizes["copies_encoded_bytes"] = added
    return {**layouts, "sizes": sizes}


def _layout(path: str, reader: ChunkReader) -> dict[str, Any]:
    spec = reader.spec
    layout = spec.layout
    axes = list(spec.dims) or [""] * len(spec.shape)
    return {
        "array": path,
        "axes": axes,
        "chunks": list(layout.chunks),
        "shards": None if layout.shards is None else list(layout.shards),
        "order": [axes[a] for a in layout.axes],
        "codecs": [str(codec) for codec in spec.codecs],
        "chunk_count": math.prod(grid_shape(spec.shape, layout.chunks)),
    }


def access_text(access: str) -> str:
    """The access pattern that an image is stored for, in words."""
    return "time and for volumes" if access == "both" else access


def type_text(dtype: np.dtype[Any]) -> str:
    """Name of a type of values; ``RGB`` or ``RGBA`` for colours."""
    return "".join(dtype.names) if dtype.names else str(dtype)


def plain_number(value: Any) -> Any:
    """A number, list or None as JSON can hold it; text for a number that is not finite."""
    if isinstance(value, np.ndarray):
        return [plain_number(one) for one in value.tolist()]
    if isinstance(value, Mapping):
        return {str(key): plain_number(one) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


class RawReadable(Protocol):
    """An image whose stored values can be read without scaling them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""

    def read(self, index: Any = ..., *, dtype: DTypeLike | None = None, raw: bool = False) -> Any:
        """Read a part."""


class RawView:
    """Stored values of an image, not scaled; indexed as the image is."""

    def __init__(self, image: RawReadable) -> None:
        self._image = image

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self._image.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self._image.stored_dtype

    def __getitem__(self, index: Any) -> Any:
        return self._image.read(index, raw=True)

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored image cannot become an array without a copy")
        return cast("AnyArray", self._image.read(dtype=dtype, raw=True))


class BorrowedHandle(Handle):
    """Handle of a part of an object, such as one run of a sequence, on the store of the whole.

    Closing it leaves the store open. Copies and pickles open the store themselves.

    Parameters
    ----------
    owner : Handle
        Handle of the whole object; when it is closed, this one is too.
    """

    def __init__(self, owner: Handle) -> None:
        self.locator = owner.locator
        self._owner = owner
        self._given_back = False

    @property
    def opened(self) -> Opened:
        """The opened store of this process.

        Raises
        ------
        ClosedError
            After `close`, of this handle or of its owner.
        """
        if self._given_back:
            raise ClosedError("this object was closed; ask for it again", url=self.locator.url)
        return self._owner.opened

    @property
    def closed(self) -> bool:
        """True if `close` was called, of this handle or of its owner."""
        return self._given_back or self._owner.closed

    def rest(self) -> None:
        """Do nothing: the store belongs to the whole object."""

    def close(self) -> None:
        """Stop using the store; may be called again."""
        self._given_back = True

    def __reduce__(self) -> tuple[type[Handle], Any]:
        if self.closed:
            raise ClosedError("a closed object cannot be pickled", url=self.locator.url)
        return Handle, (self.locator,)


class StoredObject(ABC):
    """An object that is read from an opened store.

    It can be pickled, copied and used in forked processes, because it has a `Handle` and no open
    file.

    Parameters
    ----------
    handle : Handle
        The store.
    """

    format_name: ClassVar[str]
    format_version: ClassVar[tuple[int, int]] = (1, 2)
    holds: ClassVar[str] = ""
    """Content of the format, in one line: see `fmristore.formats.catalogue`."""
    use_when: ClassVar[str] = ""
    """End of a sentence that begins with "use it when"."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    @classmethod
    def open(
        cls,
        url: str | os.PathLike[str],
        *,
        kind: Kind | None = None,
        storage_options: Mapping[str, Any] | None = None,
        targets: Sequence[str] = (),
    ) -> Self:
        """Open a store that holds this format: `fmristore.open` with a type.

        Parameters
        ----------
        url, kind, storage_options, targets
            See `fmristore.open`.

        Raises
        ------
        NotFoundError
            If there is nothing at `url`.
        UnknownFormatError
            If it is no store, or holds another format.
        UnsupportedVersionError
            If it was written by a newer fmristore.
        """
        opening: Any = importlib.import_module("fmristore.formats.opening")
        place = normalise(url)
        with explained(place, storage_options):
            locator = locate(place, kind=kind, storage_options=storage_options, targets=targets)
        handle = Handle(locator, fresh=True)
        try:
            found: Self = opening.open_handle(handle, expected_format=cls.format_name)
        except BaseException:
            handle.close()
            raise
        return found

    @property
    def url(self) -> str:
        """Path or URL of the store."""
        return self._handle.locator.url

    @property
    def token(self) -> str:
        """Text that stands for the version of the store that was opened; changes if it is replaced.

        Locally inode, size and time of its file or root's metadata, elsewhere what the service
        says of that object (ETag, size, time); empty where nothing tells.
        """
        return self._handle.locator.token

    @property
    def root_attributes(self) -> dict[str, Any]:
        """Attributes of the store's root group."""
        return self._handle.store.root.read_attributes()

    @property
    def closed(self) -> bool:
        """True if `close` was called."""
        return self._handle.closed

    def close(self) -> None:
        """Close the store; the object cannot be read afterwards."""
        self._handle.close()

    @property
    def stored_bytes(self) -> int | None:
        """Bytes of all files or objects of the store, which parts of it share.

        None where they cannot be listed, as over HTTP for Zarr. Of a reference file, its own.

        Raises
        ------
        StorageError
            If the server says no.
        """
        locator = self._handle.locator
        return count_files(locator.url, locator.kind, locator.options)[1]

    @property
    def stats(self) -> Stats:
        """Cost of reading this store in this process: requests, bytes and chunks.

        Counts go on for all objects that read the same URL; ``stats.reset()`` starts them again,
        and ``with obj.stats.watch() as read:`` counts what happens inside the block. The logger
        ``fmristore`` reports every fetch at level ``DEBUG``.

        Examples
        --------
        >>> with bold.stats.watch() as read:                                  # doctest: +SKIP
        ...     bold[32, 40, 20]
        >>> read.requests, read.bytes_fetched                                 # doctest: +SKIP
        (1, 104857)
        """
        return stats_of(self.url)

    # What a format says of itself: `fmristore info`, `export` and `verify` know no more ----------

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Arrays that hold the data, the main one first; every chunk of them must be there."""
        return ()

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of its runs, scans or maps, if it has such."""
        return ()

    @property
    def parts_folder(self) -> str:
        """Group of its runs or scans; one that an interrupted writer left there is not listed."""
        return ""

    def part(self, name: str) -> Any:
        """One of its runs, scans or maps; it is closed together with this object.

        Raises
        ------
        SelectionError
            If there is none of that name.
        """
        raise SelectionError(
            f"there is no part {name!r}: a {type(self).__name__} is read as a whole", url=self.url
        )

    def describe(self) -> dict[str, Any]:
        """Describe its content and its size on disk, as plain JSON values.

        Returns
        -------
        dict
            ``class``, facts of the format by name, and of its `primary_arrays` ``layout`` and
            ``sizes``. Formats call the same fact by the same name, such as ``shape``, ``space``,
            ``parcels``: see `fmristore.formats.base`.

        Raises
        ------
        FormatError
            If something that it describes is damaged.

        Notes
        -----
        Reads attributes, small arrays and where chunks lie, no data.
        """
        return self._described(self._facts())

    def _described(
        self, facts: Mapping[str, Any], arrays: Iterable[StoredArray] | None = None
    ) -> dict[str, Any]:
        """Add what is described for every format to the facts of this one."""
        stored = describe_data(self.primary_arrays if arrays is None else arrays)
        return {"class": type(self).__name__, **facts, **stored}

    def check(self) -> None:  # noqa: B027 - most have nothing to do
        """Read the small arrays that opening does not read, and check that they fit each other.

        Raises
        ------
        FormatError
            If they do not, or one is damaged.
        """

    # Export ---------------------------------------------------------------------------------------

    @takes(LayoutOptions)
    def save(self, url: str | os.PathLike[str], **options: Unpack[LayoutOptions]) -> Self:
        """Store a copy: in the other kind of store, with another codec, or in the layout of R.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        **options
            `LayoutOptions`; None means that one is not given. Only images take ``access`` and
            ``order``.

        Returns
        -------
        object of this class
            The new store, opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and ``overwrite`` is false.
        InvalidInputError
            If this format has no such option, or cannot be stored so.

        Notes
        -----
        Data are decoded and encoded; `fmristore.transcode` copies encoded chunks where it can,
        and keeps every node of a store.
        """
        return self.save_with(url, options)

    def save_with(self, url: str | os.PathLike[str], options: Mapping[str, Any]) -> Self:
        """Store a copy with any option of `create`, such as another TR; see `save`."""
        create: Any = getattr(type(self), "create", None)
        known = inspect.signature(create).parameters if create is not None else {}
        needless = {"max_memory", "progress"}  # for what is never large
        given = {name: value for name, value in options.items() if value is not None}
        unknown = sorted(set(given) - set(known) - needless)
        if unknown:
            raise InvalidInputError(
                f"a {type(self).__name__} has no option {', '.join(unknown)}", url=self.url
            )
        for name in needless - set(known):
            given.pop(name, None)
        content, facts = self._create_args()
        again: Self = create(*content, url, **{**facts, **given})
        return again

    def _create_args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of `create` that store a copy: those before the URL, and those by name."""
        raise InvalidInputError(f"a {type(self).__name__} cannot be rewritten", url=self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        """Copy with a handle of its own: closing one object leaves the other open."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what was read since opening, so that equal objects give equal bytes."""
        return {name: value for name, value in self.__dict__.items() if name.startswith("_")}

    @property
    def facts(self) -> dict[str, str]:
        """Short texts about the object by name, as its ``repr`` shows them."""
        return self._facts()

    @abstractmethod
    def _facts(self) -> dict[str, str]:
        """Facts of the object that people want to see, by name."""

    def __repr__(self) -> str:
        facts = ", ".join(map(shown, self._facts().values()))
        return f"{type(self).__name__}({masked_url(self.url)!r}, {facts})"

    def _repr_html_(self) -> str:
        facts = {"url": masked_url(self.url), **self._facts()}
        pictures: list[str] = []
        with contextlib.suppress(FmristoreError):
            facts |= self._storage_facts()
            pictures = [self._picture() if self._is_near else "", self._chunk_picture()]
        return facts_html(type(self).__name__, facts, *pictures)

    @property
    def _is_near(self) -> bool:
        """True if a small read is cheap; servers are not asked for data of a picture."""
        locator = self._handle.locator
        return is_local(locator.url) and locator.kind != "reference"

    def _storage_facts(self) -> dict[str, str]:
        """Codecs of the main array, and the size on disk of a local store."""
        facts = {}
        for array in self.primary_arrays[:1]:
            facts["codecs"] = ", ".join(map(str, array.reader.spec.codecs)) or "none"
        if self._is_near:
            facts["on disk"] = size_text(self.stored_bytes)
        return facts

    def _picture(self) -> str:
        """A small picture in HTML, for which little is read; empty where there is none."""
        return ""

    def _chunk_picture(self) -> str:
        """Drawing of the chunks of the main array, as SVG."""
        for array in self.primary_arrays[:1]:
            spec = array.reader.spec
            if spec.shape and spec.nbytes:
                names = spec.dims or tuple(map(str, range(len(spec.shape))))
                return chunk_svg(axis_chunks(names, spec.shape, spec.layout.chunks))
        return ""


class MetadataHolder(StoredObject):
    """A stored object with metadata: facts that are no part of its data."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, Any]:
        """Other facts about the data; tables are mappings from columns to values."""

    def metadata_frame(self, name: str) -> pd.DataFrame:
        """A table among the metadata, such as events or confounds, as a pandas data frame.

        Parameters
        ----------
        name : str
            Under which a data frame, or a mapping from columns to values, was stored.

        Raises
        ------
        SelectionError
            If there is nothing of that name.
        InvalidInputError
            If it is no table.
        DependencyError
            If pandas is not installed.
        """
        from fmristore.interop.pandas import metadata_frame

        return metadata_frame(self.metadata, name, url=self.url)
