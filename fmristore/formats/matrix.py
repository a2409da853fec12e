"""Matrices of rows x columns, read in part: what every format's values are made of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.formats.base import StoredArray
from fmristore.formats.statistics import Axis, Statistics, reduce_blocks
from fmristore.model.scaling import Scaling
from fmristore.planning.indexing import AxisPart, axis_length, bounds, parse_selection
from fmristore.planning.scratch import Scratch
from fmristore_stores.errors import (
    CorruptDataError,
    DependencyError,
    InvalidInputError,
    MemoryLimitError,
    MetadataError,
)
from fmristore_stores.grid import grid_shape
from fmristore_stores.io.ranges import ReadCost, sum_costs
from fmristore_stores.protocol import AnyArray

__all__ = [
    "ArrayMatrix",
    "Matrix",
    "MemoryMatrix",
    "ScaledMatrix",
    "ScratchMatrix",
    "SparseMatrix",
    "array_bytes",
    "chunk_count",
    "empty_result",
]

_GAP_BYTES, _READ_BYTES = 64 * 1024, 256 * 1024
"""Bytes between two rows of a scratch file that are read with them, which takes less time than
another call, and the most that are read at once."""

_SPAN = 3

"""Rows within a span of up to this many times their number are read as one region."""


class Matrix(Statistics, ABC):
    """Rows x columns of values; nothing is read before it is asked for.

    Indexed as numpy does with integers, slices and one list; `numpy.asarray` reads all of it.
    """

    is_sparse: ClassVar[bool] = False
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @abstractmethod
    def read(self, rows: AxisPart, columns: AxisPart) -> AnyArray:
        """Values of some rows and columns.

        Parameters
        ----------
        rows, columns : slice or ndarray of int
            A slice with a positive step within the matrix, or positions from 0 in any order.

        Returns
        -------
        ndarray, (rows, columns)
        """

    @property
    def stored(self) -> Matrix:
        """The values as they are stored, where these are not the ones that it gives."""
        return self

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Stored arrays that it consists of; none if it is not stored."""
        return ()

    @property
    def chunks(self) -> tuple[int, int]:
        """Rows and columns of one stored chunk; all of them where it has no chunks."""
        return self.shape

    def cost(self, rows: AxisPart, columns: AxisPart) -> ReadCost:
        """Cost of `read`: chunks, bytes and requests, without reading.

        Raises
        ------
        InvalidInputError
            If it is not stored.
        """
        del rows, columns
        raise InvalidInputError(f"a {type(self).__name__} is not read from chunks")

    def check(self) -> None:
        """Check that its arrays fit each other, as far as that takes no values.

        Raises
        ------
        CorruptDataError
            If they do not.
        """

    @property
    def encoded_bytes(self) -> int:
        """Size of its encoded chunks in bytes; decoded where only a library locates them."""
        return sum(array_bytes(array) for array in self.arrays)

    def __getitem__(self, index: Any) -> Any:
        selection = parse_selection(index, self.shape)
        return selection.apply(self.read(*selection.region))

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored matrix cannot become an array without a copy")
        values = self.read(*(slice(0, n, 1) for n in self.shape))
        return values if dtype is None else values.astype(dtype, copy=False)

    def __len__(self) -> int:
        return self.shape[0]

    def _reduced(self, statistic: str, axis: Axis, max_memory: int, **options: Any) -> Any:
        return reduce_blocks(
            statistic,
            self.shape,
            axis,
            lambda region: np.asarray(self.read(*region)),
            itemsize=self.dtype.itemsize,
            chunks=self.chunks,
            max_memory=max_memory,
            **options,
        )

    def __repr__(self) -> str:
        kind = "sparse" if self.is_sparse else "dense"
        return f"{type(self).__name__}({self.shape[0]} x {self.shape[1]} {self.dtype}, {kind})"


class ArrayMatrix(Matrix):
    """A stored array of two axes.

    Parameters
    ----------
    array : StoredArray
        Two named axes.
    row_axis : str
        Name of the axis of rows, whether it is stored first or last.
    kinds : str
        Kinds of dtype that it may have.

    Raises
    ------
    MetadataError
        If the array has other axes, or another kind of values.
    """

    def __init__(self, array: StoredArray, row_axis: str, *, kinds: str = "biuf") -> None:
        spec = array.reader.spec
        if len(spec.shape) != 2 or row_axis not in spec.dims or spec.dtype.kind not in kinds:
            raise MetadataError(
                f"is {spec.dtype} with axes {spec.dims} of shape {spec.shape}: expected a matrix "
                f"of values with an axis {row_axis!r}",
                node=array.reader.array.path,
            )
        self.array = array
        self._kinds = kinds
        self._axis = spec.dims.index(row_axis)
        self.shape = (spec.shape[self._axis], spec.shape[1 - self._axis])
        self.dtype = spec.dtype

    def read(self, rows: AxisPart, columns: AxisPart) -> AnyArray:
        """Docstring inherited."""
        reader = self.array.reader
        if isinstance(rows, slice) and isinstance(columns, slice):
            found = reader.read((rows, columns) if self._axis == 0 else (columns, rows))
            return found if self._axis == 0 else found.T
        if isinstance(rows, slice):
            return self._read_list(1 - self._axis, np.asarray(columns), rows).T
        near = bounds(columns)
        found = self._read_list(self._axis, rows, near)
        return found if isinstance(columns, slice) else found[:, columns - near.start]

    def _read_list(self, axis: int, places: NDArray[np.int64], other: slice) -> AnyArray:
        """Values (places, other) at positions along one axis of the array."""
        reader = self.array.reader
        near = _as_slice(places)
        if near is None:
            return reader.read_points((axis,), places[:, None], (other,))
        found = reader.read((near, other) if axis == 0 else (other, near))
        found = found if axis == 0 else found.T
        return found if len(places) == axis_length(near) else found[places - near.start]

    @property
    def stored(self) -> Matrix:
        """Docstring inherited."""
        array = self.array.stored
        if array is self.array:
            return self
        return ArrayMatrix(array, self.array.reader.spec.dims[self._axis], kinds=self._kinds)

    @property
    def axes(self) -> tuple[int, int]:
        """Axes of the array that are the rows and the columns."""
        return self._axis, 1 - self._axis

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        return (self.array,)

    @property
    def chunks(self) -> tuple[int, int]:
        """Docstring inherited."""
        lengths = self.array.reader.spec.layout.chunks
        row, column = self.axes
        return lengths[row], lengths[column]

    def cost(self, rows: AxisPart, columns: AxisPart) -> ReadCost:
        """Docstring inherited."""
        reader = self.array.reader
        if isinstance(rows, slice) and isinstance(columns, slice):
            return reader.cost((rows, columns) if self._axis == 0 else (columns, rows))
        if isinstance(rows, slice):
            return reader.cost_points([1 - self._axis], np.asarray(columns)[:, None], (rows,))
        return reader.cost_points([self._axis], rows[:, None], (bounds(columns),))


def _as_slice(part: NDArray[np.int64]) -> slice | None:
    """Slice to read for increasing positions that lie close together; None for others."""
    if not len(part):
        return slice(0, 0, 1)
    first, last = int(part[0]), int(part[-1]) + 1
    if last - first > _SPAN * len(part) or (len(part) > 1 and not (np.diff(part) > 0).all()):
        return None
    return slice(first, last, 1)


class MemoryMatrix(Matrix):
    """A matrix in memory.

    Parameters
    ----------
    values : ndarray, (rows, columns)
        Its values.
    """

    def __init__(self, values: AnyArray) -> None:
        self._values = values
        self.shape = (values.shape[0], values.shape[1])
        self.dtype = values.dtype

    def read(self, rows: AxisPart, columns: AxisPart) -> AnyArray:
        """Docstring inherited."""
        return self._values[rows][:, columns]


class ScratchMatrix(Matrix):
    """A matrix in memory or in a temporary file.

    Parameters
    ----------
    scratch : Scratch
        (columns, rows), or (rows, columns) if `place` is given.
    place : ndarray of int, (rows,), optional
        Row of the scratch that holds each row.
    """

    def __init__(self, scratch: Scratch, place: NDArray[np.int64] | None = None) -> None:
        self._scratch = scratch
        self._place = place
        first, second = scratch.shape
        self.shape = (second, first) if place is None else (first, second)
        self.dtype = scratch.dtype

    def read(self, rows: AxisPart, columns: AxisPart) -> AnyArray:
        """Docstring inherited."""
        if not isinstance(columns, slice):
            near = bounds(columns)
            return self.read(rows, near)[:, columns - near.start]
        times = columns
        if self._place is None:
            if isinstance(rows, slice):
                return self._scratch.read((times, rows)).T
            low, high = (int(np.min(rows)), int(np.max(rows)) + 1) if len(rows) else (0, 0)
            return self._scratch.read((times, slice(low, high, 1)))[:, rows - low].T
        places = self._place[rows]
        if self._scratch.in_memory:
            return self._scratch.read((slice(0, self.shape[0], 1), times))[places]
        values = np.empty((len(places), axis_length(times)), self.dtype)
        order = np.argsort(places)
        found = places[order]
        for piece in self._pieces(found, times):
            first = int(found[piece.start])
            near = slice(first, int(found[piece.stop - 1]) + 1, 1)
            values[order[piece]] = self._scratch.read((near, times))[found[piece] - first]
        return values

    def _pieces(self, places: NDArray[np.int64], times: slice) -> Iterator[slice]:
        """Positions of ascending rows that are read at once, with the rows between them."""
        width = max(1, self.shape[1] * self.dtype.itemsize)
        whole = axis_length(times) == self.shape[1]  # of parts each row is a call
        gap = max(1, _GAP_BYTES // width) if whole else 1
        most = max(1, _READ_BYTES // width)
        start = 0
        for stop in [*(np.flatnonzero(np.diff(places) > gap) + 1).tolist(), len(places)]:
            while start < stop:
                after = start + int(np.searchsorted(places[start:stop], places[start] + most))
                yield slice(start, after)
                start = after


class SparseMatrix(Matrix):
    """A matrix in compressed rows: CSR, or the CSC form of its transpose, which is the same.

    Parameters
    ----------
    data, indices, indptr : StoredArray
        As in ``scipy.sparse.csr_array``.
    shape : (int, int)
        Rows and columns.

    Raises
    ------
    MetadataError
        If lengths or types of the arrays do not fit.
    """

    is_sparse = True

    def __init__(
        self,
        data: StoredArray,
        indices: StoredArray,
        indptr: StoredArray,
        shape: tuple[int, int],
    ) -> None:
        specs = [array.reader.spec for array in (data, indices, indptr)]
        (count,) = specs[0].shape if len(specs[0].shape) == 1 else (-1,)
        lengths = [(count,), (count,), (shape[0] + 1,)]
        kinds = ["biuf", "iu", "iu"]
        if [s.shape for s in specs] != lengths or any(
            spec.dtype.kind not in kind for spec, kind in zip(specs, kinds, strict=True)
        ):
            raise MetadataError(
                f"a sparse matrix of shape {shape} cannot consist of data, indices, indptr of "
                f"{', '.join(f'{s.dtype}{s.shape}' for s in specs)}",
                node=data.reader.array.path,
            )
        self._data, self._indices, self._indptr = data, indices, indptr
        self.shape = shape
        self.dtype = specs[0].dtype
        self.nnz = count

    @property
    def density(self) -> float:
        """Share of the data that are stored."""
        return self.nnz / max(1, self.shape[0] * self.shape[1])

    def read(self, rows: AxisPart, columns: AxisPart) -> AnyArray:
        """Docstring inherited; rows that are a list increase strictly."""
        if isinstance(rows, slice):
            rows = np.arange(rows.start, rows.stop, rows.step)
        if not len(rows):
            return np.empty((0, self.shape[1]), self.dtype)[:, columns]
        starts, counts = self._spans(rows)
        dense = empty_result((len(rows), self.shape[1]), self.dtype)
        places, data = self._entries(self._positions(starts, counts))
        np.add.at(dense, (np.repeat(np.arange(len(rows)), counts), places), data)
        return dense[:, columns]

    def to_scipy(self) -> Any:
        """Read all of it as a ``scipy.sparse.csr_array``.

        Raises
        ------
        DependencyError
            If scipy is not installed.
        """
        try:
            from scipy.sparse import csr_array
        except ImportError as error:
            raise DependencyError(
                "sparse matrices need scipy: pip install 'fmristore[latent]'"
            ) from error
        starts, counts = self._spans(np.arange(self.shape[0]))
        columns, data = self._entries(self._positions(starts, counts))
        indptr = np.zeros(self.shape[0] + 1, np.int64)
        np.cumsum(counts, out=indptr[1:])
        return csr_array((data, columns, indptr), shape=self.shape)

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Data, indices and indptr."""
        return (self._data, self._indices, self._indptr)

    def check(self) -> None:
        """Docstring inherited."""
        self._spans(np.arange(self.shape[0]))

    def cost(self, rows: AxisPart, columns: AxisPart) -> ReadCost:
        """Docstring inherited; an upper bound, as every entry may have to be read."""
        del rows, columns
        return sum_costs([array.reader.cost() for array in self.arrays])

    def _spans(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First entry of each row, and number of its entries."""
        reader = self._indptr.reader
        first, last = int(rows[0]), int(rows[-1]) + 1
        if last - first > _SPAN * len(rows):
            both = np.unique(np.concatenate([rows, rows + 1]))
            values = reader.read_points((0,), both).astype(np.int64)
            starts = values[np.searchsorted(both, rows)]
            stops = values[np.searchsorted(both, rows + 1)]
        else:
            values = reader.read((slice(first, last + 1, 1),)).astype(np.int64)
            starts, stops = values[rows - first], values[rows - first + 1]
        counts = stops - starts
        ordered = (counts >= 0).all() and (starts[1:] >= stops[:-1]).all()
        fits = starts[0] >= 0 and stops[-1] <= self.nnz
        if not first:
            fits &= starts[0] == 0
        if last == self.shape[0]:
            fits &= stops[-1] == self.nnz
        if not ordered or not fits:
            raise self._damaged("indptr", "does not increase from 0 to the number of entries")
        if (counts > self.shape[1]).any():
            raise self._damaged("indptr", f"gives a row more than {self.shape[1]} entries")
        return starts, counts

    @staticmethod
    def _positions(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of all entries of some rows."""
        before = np.cumsum(counts) - counts
        positions: NDArray[np.int64] = np.arange(counts.sum()) + np.repeat(starts - before, counts)
        return positions

    def _entries(self, where: NDArray[np.int64]) -> tuple[AnyArray, AnyArray]:
        """Columns and values of entries."""
        columns, data = (_gather(array, where) for array in (self._indices, self._data))
        if columns.size and (columns.min() < 0 or columns.max() >= self.shape[1]):
            raise self._damaged("indices", f"has columns outside 0 to {self.shape[1] - 1}")
        return columns, data

    def _damaged(self, name: str, text: str) -> CorruptDataError:
        array = self._indptr if name == "indptr" else self._indices
        message = f"the sparse loadings are damaged: {name} {text}"
        return CorruptDataError(message, url=array.url, node=array.path)


def chunk_count(array: StoredArray) -> int:
    """Number of chunks of a stored array."""
    reader = array.reader
    return math.prod(grid_shape(reader.spec.shape, reader.spec.layout.chunks))


def array_bytes(array: StoredArray) -> int:
    """Bytes of the encoded chunks of an array; decoded where only a library knows them."""
    reader = array.reader
    encoded = reader.cost().encoded_bytes
    return reader.spec.nbytes if encoded is None else encoded


def _gather(array: StoredArray, where: NDArray[np.int64]) -> AnyArray:
    """Elements of an array of one axis, given by increasing positions."""
    reader = array.reader
    if not len(where):
        return np.empty(0, reader.spec.dtype)
    first, last = int(where[0]), int(where[-1]) + 1
    if last - first > _SPAN * len(where):
        return reader.read_points((0,), where)
    found = reader.read((slice(first, last, 1),))
    return found if last - first == len(where) else found[where - first]


def empty_result(shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
    """Zeros, or an error that says that they do not fit into memory."""
    try:
        return np.zeros(shape, dtype)
    except (MemoryError, ValueError) as error:
        msg = f"a result of shape {shape} does not fit into memory; read a smaller part"
        raise MemoryLimitError(msg) from error


@dataclass(frozen=True, slots=True, eq=False)
class ScaledMatrix:
    """Stored series, and how to scale them.

    Parameters
    ----------
    matrix : Matrix, (rows, T)
        Stored values of voxels or parcels.
    scaling : Scaling, optional
        To apply to them.
    """

    matrix: Matrix
    scaling: Scaling | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of volumes."""
        return self.matrix.shape

    @property
    def chunks(self) -> tuple[int, int]:
        """Rows and volumes of one stored chunk."""
        return self.matrix.chunks

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the scaled values."""
        stored = self.matrix.dtype
        return stored if self.scaling is None else self.scaling.dtype(stored)

    def read(
        self,
        rows: slice | NDArray[np.int64],
        times: slice | NDArray[np.int64],
        *,
        dtype: DTypeLike | None = None,
        raw: bool = False,
    ) -> AnyArray:
        """Scaled values (T, rows), or stored ones."""
        values = self.matrix.read(rows, times).T
        if raw or self.scaling is None:
            return values if dtype is None else values.astype(dtype, copy=False)
        return self.scaling.apply(values, times=times, axis=0, dtype=dtype)
