"""Labelled maps of the R package: one dataset for each, under a name made of its label."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.base import StoredArray
from fmristore.formats.fill import Fill
from fmristore.formats.maps.layout import LabeledContent, MapInputs, read_texts
from fmristore.formats.matrix import Matrix
from fmristore.formats.new_arrays import write_array, write_plain, write_texts
from fmristore.formats.r.arrays import RArray
from fmristore.formats.r.common import (
    RLayout,
    r_dtype,
    r_values,
    read_header_space,
    transform_fields,
    write_fields,
)
from fmristore.formats.registry import StoreView
from fmristore.formats.voxel_nodes import VoxelNodes, mask_shape
from fmristore.model.voxels import VoxelSet
from fmristore.planning.indexing import AxisPart
from fmristore.planning.layout import choose_codecs
from fmristore.planning.progress import Progress
from fmristore.planning.scratch import Scratch
from fmristore.planning.streams import streaming
from fmristore.planning.text import parse_size
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import InvalidInputError, MetadataError
from fmristore_stores.io.ranges import ReadCost, sum_costs
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Group, Store
from fmristore_stores.spec import ArraySpec, ChunkLayout, check_name

__all__ = ["DatasetMaps", "RMapsLayout", "read_r_content", "sanitise", "write_labeledvolumeset"]

_OTHER = re.compile(r"[^A-Za-z0-9_.\-]")
_CHUNK = 1024
"""Voxels in a chunk, as R has it by default."""

_TYPES = {"uint8": 2, "int16": 4, "int32": 8, "float32": 16, "float64": 64, "int8": 256}
_TYPES |= {"uint16": 512}
"""NIfTI's codes for the types of values that are written for R."""


class RMapsLayout(RLayout):
    """``LabeledVolumeSet``."""

    classes = frozenset({"LabeledVolumeSet"})

    def has_nodes(self, view: StoreView) -> bool:
        """Docstring inherited."""
        names = set(view.children)
        return {"labels", "mask", "header", "data"} <= names and not {"scans", "basis"} & names

    def read(self, handle: Handle) -> LabeledContent:
        """Docstring inherited."""
        return read_r_content(handle)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        stack, voxels = content
        write_labeledvolumeset(
            store.root,
            stack,
            voxels,
            codec=options.codec,
            fill=options.fill,
            max_memory=options.max_memory,
            progress=progress,
        )


def read_r_content(handle: Handle) -> LabeledContent:
    """Find the contents of labelled maps that the R package wrote.

    Raises
    ------
    MetadataError
        If a node is missing or wrong.
    """
    labels = StoredArray(handle, "labels").reader.spec
    count = int(np.prod(labels.shape, dtype=object))
    if not count:
        raise MetadataError("there are no labels", url=handle.locator.url, node="labels")
    maps = DatasetMaps(handle)
    space = read_header_space(handle, mask_shape(handle))
    nodes = VoxelNodes(space=space, count=maps.shape[0])
    return LabeledContent(nodes=nodes, maps=maps, count=count, writable=False)


def sanitise(label: str) -> str:
    """Name of the dataset for a label, as the R package makes it."""
    return _OTHER.sub("_", label)


class DatasetMaps(Matrix):
    """Maps that are a dataset each, below ``/data``.

    Parameters
    ----------
    handle : Handle
        The store.
    as_stored : bool
        Whether missing integers are read as the numbers that stand for them, not as NaN.
    """

    def __init__(self, handle: Handle, *, as_stored: bool = False) -> None:
        self._handle = handle
        self._as_stored = as_stored
        self._labels = read_texts(handle, "labels")
        self.names = tuple(sanitise(label) for label in self._labels)
        """Names of the datasets in the order of the labels."""
        self._counts = Counter(self.names)
        spec = self._array(0).spec
        self.dtype = spec.dtype
        self.shape = (math.prod(spec.shape), len(self.names))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(DatasetMaps, as_stored=self._as_stored), (self._handle,)

    @cached_property
    def stored(self) -> DatasetMaps:
        """Docstring inherited."""
        return DatasetMaps(self._handle, as_stored=True)

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Arrays that hold the data; labels without one of their own are left out."""
        return tuple(
            StoredArray(self._handle, f"data/{name}", dims=("voxel",) if self.shape[0] > 1 else ())
            for name, count in self._counts.items()
            if count == 1 and name not in ("", ".", "..")
        )

    def read(self, rows: AxisPart, columns: AxisPart) -> AnyArray:
        """Docstring inherited."""
        if isinstance(rows, slice):
            rows = np.arange(rows.start, rows.stop, rows.step)
        if isinstance(columns, slice):
            columns = np.arange(columns.start, columns.stop, columns.step)
        numbers = columns.tolist()
        values = np.empty((len(rows), len(numbers)), self.dtype)
        for column, number in enumerate(numbers):
            reader = self._array(number)
            if math.prod(reader.spec.shape) != self.shape[0] or not np.can_cast(
                reader.spec.dtype, self.dtype, "safe"
            ):
                raise self._error(
                    number,
                    f"has the shape {reader.spec.shape} and type {reader.spec.dtype}, the first "
                    f"map {self.shape[:1]} and {self.dtype}",
                )
            values[:, column] = _read_rows(reader, rows)
        return values

    def cost(self, rows: AxisPart, columns: AxisPart) -> ReadCost:
        """Docstring inherited."""
        if isinstance(rows, slice):
            rows = np.arange(rows.start, rows.stop, rows.step)
        if isinstance(columns, slice):
            columns = np.arange(columns.start, columns.stop, columns.step)
        readers = [self._array(number) for number in columns.tolist()]
        return sum_costs(
            [
                reader.cost_points([0], rows[:, None]) if reader.spec.shape else reader.cost(())
                for reader in readers
            ]
        )

    def _array(self, number: int) -> ChunkReader:
        """Reader of the dataset of a map."""
        name = self.names[number]
        if self._counts[name] > 1:
            same = [known for known in self._labels if sanitise(known) == name]
            raise self._error(number, f"is the dataset of several labels: {same[:3]}")
        if name == "":
            raise self._error(number, "an empty label has no dataset")
        array: StoredArray = RArray(self._handle, f"data/{name}")
        if self._as_stored:
            array = array.stored
        # R writes a vector of one element as a scalar.
        if len(array.reader.spec.shape) > 1 or array.reader.spec.dtype.kind not in "biuf":
            raise self._error(number, f"has the shape {array.reader.spec.shape}, expected (V,)")
        return array.reader

    def _error(self, number: int, text: str) -> MetadataError:
        node = f"data/{self.names[number]}"
        return MetadataError(text, url=self._handle.locator.url, node=node)


def _read_rows(reader: ChunkReader, rows: NDArray[np.integer[Any]]) -> AnyArray:
    """Elements of an array of one axis, given by increasing positions."""
    if not reader.spec.shape:
        only: AnyArray = reader.read().reshape(-1)[rows]
        return only
    first = int(rows[0]) if len(rows) else 0
    if np.array_equal(rows, np.arange(first, first + len(rows))):
        return reader.read((slice(first, first + len(rows), 1),))
    return reader.read_points([0], np.asarray(rows)[:, None])


# Writing -------------------------------------------------------------------------------------


def write_labeledvolumeset(
    group: Group,
    stack: MapInputs,
    voxels: VoxelSet,
    *,
    codec: str = "portable",
    fill: Fill = 0,
    max_memory: int | str = 1 << 30,
    progress: Progress | None = None,
) -> None:
    """Write labelled maps as the R package does, below the root group of an HDF5 file.

    What R leaves out is filled in: labels are declared as UTF-8, so that R can read them.

    Parameters
    ----------
    group : Group
        Root of an empty HDF5 file.
    stack : MapInputs
        The maps.
    voxels : VoxelSet
        Voxels to store, in order of their index with x varying fastest.
    codec : {"portable", "none"}
        Preset.
    fill : {0}
        What R reads outside the mask.
    max_memory : int or str
        Bytes that writing may take.
    progress : callable, optional
        Called with the bytes of values done and in all.

    Raises
    ------
    InvalidInputError
        If R could not read the file: labels that give the same name, numbers of a type that it
        does not have, integers that float64 does not hold, or another `fill` or `codec`.

    Notes
    -----
    Integers that R does not have, those of 64 bits among them, become float64.
    """
    max_memory = parse_size(max_memory)
    _check(stack, codec, fill)
    header = group.create_group("header")
    write_fields(header, _fields(stack))
    mask = voxels.mask.transpose(2, 1, 0).astype(np.uint8)
    write_plain(group, "mask", (), mask)
    write_texts(group, "labels", "", stack.labels)
    data = group.create_group("data")
    step = len(stack.labels)
    row = len(voxels) * r_dtype(stack.dtype).itemsize
    if not stack.whole:
        step = max(1, max_memory // 2 // row)
    total = len(stack.labels) * row
    for first in range(0, len(stack.labels), step):
        rows = slice(first, min(first + step, len(stack.labels)), 1)
        _write_maps(data, stack, voxels, rows, codec=codec, max_memory=max_memory)
        if progress is not None:
            progress(rows.stop * row, total)


def _write_maps(
    group: Group,
    stack: MapInputs,
    voxels: VoxelSet,
    rows: slice,
    *,
    codec: str,
    max_memory: int,
) -> None:
    count = len(voxels)
    layout = ChunkLayout(chunks=(min(_CHUNK, count),))
    dtype = r_dtype(stack.dtype)
    spec = ArraySpec(shape=(count,), dtype=dtype, layout=layout)
    spec = replace(spec, codecs=choose_codecs(codec, spec))
    whole = slice(0, count, 1)
    shape = (rows.stop - rows.start, count)
    with Scratch(shape, dtype, max_memory=max_memory // 2) as scratch:
        with streaming(stack.blocks(voxels, rows, max_memory)) as blocks:
            for times, columns, values in blocks:
                assert isinstance(columns, slice)
                moved = slice(times.start - rows.start, times.stop - rows.start, 1)
                scratch.write((moved, columns), r_values(values, dtype))
        for number in range(shape[0]):
            values = scratch.read((slice(number, number + 1, 1), whole))[0]
            write_array(group, sanitise(stack.labels[rows.start + number]), spec, values)


def _check(stack: MapInputs, codec: str, fill: Fill) -> None:
    if fill != 0:
        raise InvalidInputError(f"fill={fill!r}: R reads 0 outside the mask")
    if codec not in ("portable", "none"):
        raise InvalidInputError(
            f"R has no plug-in for the codec {codec!r}; there are portable and none"
        )
    r_dtype(stack.dtype)
    _check_names(stack.labels)


def _check_names(labels: Sequence[str]) -> None:
    known: dict[str, str] = {}
    for label in labels:
        name = sanitise(label)
        if name in known:
            raise InvalidInputError(
                f"labels {known[name][:80]!r} and {label[:80]!r} both become {name[:80]!r} for R"
            )
        try:
            check_name(name)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"label {label[:80]!r} becomes {name[:80]!r} for R, which cannot be stored: "
                f"{error.message}"
            ) from error
        known[name] = label


def _fields(stack: MapInputs) -> dict[str, Any]:
    """The fields that R writes, in its order."""
    dtype = r_dtype(stack.dtype)
    transform = transform_fields(stack.space)
    zeros = [0.0] * 3
    return {
        "sizeof_hdr": 348,
        "data_type": "",
        "db_name": "",
        "extents": 0,
        "session_error": 0,
        "regular": "",
        "dim_info": 0,
        "dim": [4, *stack.space.spatial_shape, len(stack.labels), 1, 1, 1],
        "intent_p1": 0.0,
        "intent_p2": 0.0,
        "intent_p3": 0.0,
        "intent_code": 0,
        "datatype": _TYPES[dtype.name],
        "bitpix": 8 * dtype.itemsize,
        "slice_start": 0,
        "pixdim": [0.0, *stack.space.spacing, 0.0, *zeros],
        "vox_offset": 0.0,
        "scl_slope": 1.0,
        "scl_inter": 0.0,
        "slice_end": 0,
        "slice_code": 0,
        "xyzt_units": 2,
        "cal_max": 0.0,
        "cal_min": 0.0,
        "slice_duration": 0.0,
        "toffset": 0.0,
        "glmax": 0,
        "glmin": 0,
        "descrip": "fmristore labeled volume set",
        "aux_file": "",
        "qform_code": 1,
        "sform_code": 1,
        **transform,
        "intent_name": "",
        "magic": "n+1",
    }
