"""Stored matrices, read by rows: dense in either orientation, or sparse in compressed rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.formats.array import StoredArray
from fmristore.formats.latent.factors import CompressedRows
from fmristore.planning.indexing import parse_selection
from fmristore_stores.errors import (
    CorruptDataError,
    DependencyError,
    InvalidInputError,
    MemoryLimitError,
    MetadataError,
)
from fmristore_stores.protocol import AnyArray

__all__ = ["DenseMatrix", "SparseMatrix", "StoredMatrix", "array_bytes", "empty_result"]

_SPAN = 3
"""Rows within a span of up to this many times their number are read as one region."""


class StoredMatrix(ABC):
    """A matrix in a store: nothing of it is read before it is asked for.

    Indexed as numpy does with integers and slices; `numpy.asarray` reads all of it.
    """

    is_sparse: ClassVar[bool]
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    @abstractmethod
    def arrays(self) -> tuple[StoredArray, ...]:
        """Arrays that it consists of."""

    def check(self) -> None:  # noqa: B027 - a dense one has nothing to do
        """See whether its arrays fit each other, as far as that takes no numbers.

        Raises
        ------
        CorruptDataError
            If they do not.
        """

    @abstractmethod
    def take(self, rows: NDArray[np.int64]) -> AnyArray:
        """Dense rows (n, K) given by strictly increasing numbers from 0."""

    @property
    def encoded_bytes(self) -> int:
        """Bytes of its encoded chunks; decoded where only a library knows where they are."""
        return sum(array_bytes(array) for array in self.arrays)

    def __getitem__(self, index: Any) -> Any:
        selection = parse_selection(index, self.shape)
        rows, columns = selection.region
        values = self.take(np.arange(rows.start, rows.stop, rows.step))
        return selection.apply(values[:, columns])

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored matrix cannot become an array without a copy")
        values = self.take(np.arange(self.shape[0]))
        return values if dtype is None else values.astype(dtype, copy=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        kind = "sparse" if self.is_sparse else "dense"
        return f"{type(self).__name__}({self.shape[0]} x {self.shape[1]} {self.dtype}, {kind})"


class DenseMatrix(StoredMatrix):
    """An array of two axes.

    Parameters
    ----------
    array : StoredArray
        Has two named axes.
    row_axis : str
        Name of the axis that numbers the rows, whether it is stored first or last.

    Raises
    ------
    MetadataError
        If the array is no matrix of real numbers, or has no such axis.
    """

    is_sparse = False

    def __init__(self, array: StoredArray, row_axis: str) -> None:
        spec = array.reader.spec
        if len(spec.shape) != 2 or row_axis not in spec.dims or spec.dtype.kind not in "biuf":
            raise MetadataError(
                f"is {spec.dtype} with axes {spec.dims} of shape {spec.shape}: expected a matrix "
                f"of real numbers with an axis {row_axis!r}",
                node=array.reader.array.path,
            )
        self._array = array
        self._axis = spec.dims.index(row_axis)
        rows, columns = spec.shape[self._axis], spec.shape[1 - self._axis]
        self.shape = (rows, columns)
        self.dtype = spec.dtype

    def take(self, rows: NDArray[np.int64]) -> AnyArray:
        """Rows (n, K) given by strictly increasing numbers from 0."""
        if not len(rows):
            return np.empty((0, self.shape[1]), self.dtype)
        first, last = int(rows[0]), int(rows[-1]) + 1
        if last - first > _SPAN * len(rows):
            return self._array.reader.read_points((self._axis,), rows)
        found = self.read(slice(first, last, 1))
        return found if last - first == len(rows) else found[rows - first]

    def read(self, rows: slice) -> AnyArray:
        """Rows (n, K) of a slice with positive step, in the range of the matrix."""
        region = [slice(0, self.shape[1], 1)] * 2
        region[self._axis] = rows
        found = self._array.reader.read(tuple(region))
        return found.T if self._axis else found

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """The array."""
        return (self._array,)


class SparseMatrix(StoredMatrix):
    """A matrix in compressed rows: CSR, or the CSC form of its transpose, which is the same.

    Parameters
    ----------
    data, indices, indptr : StoredArray
        As in `fmristore.formats.latent.factors.CompressedRows`.
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
        """Share of the numbers that are stored."""
        return self.nnz / max(1, self.shape[0] * self.shape[1])

    def take(self, rows: NDArray[np.int64]) -> AnyArray:
        """Dense rows (n, K) given by strictly increasing numbers from 0."""
        if not len(rows):
            return np.empty((0, self.shape[1]), self.dtype)
        starts, counts = self._spans(rows)
        dense = empty_result((len(rows), self.shape[1]), self.dtype)
        where = self._positions(starts, counts)
        columns, data = self._entries(where)
        np.add.at(dense, (np.repeat(np.arange(len(rows)), counts), columns), data)
        return dense

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
        rows = self.rows()
        return csr_array((rows.data, rows.indices, rows.indptr), shape=rows.shape)

    def rows(self) -> CompressedRows:
        """Read all of it in compressed rows."""
        starts, counts = self._spans(np.arange(self.shape[0]))
        columns, data = self._entries(self._positions(starts, counts))
        indptr = np.zeros(self.shape[0] + 1, np.int64)
        np.cumsum(counts, out=indptr[1:])
        return CompressedRows(data, columns.astype(np.int32), indptr, self.shape)

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Data, indices and indptr."""
        return (self._data, self._indices, self._indptr)

    def check(self) -> None:
        """Docstring inherited."""
        self._spans(np.arange(self.shape[0]))

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
        """Numbers of all entries of some rows."""
        before = np.cumsum(counts) - counts
        positions: NDArray[np.int64] = np.arange(counts.sum()) + np.repeat(starts - before, counts)
        return positions

    def _entries(self, where: NDArray[np.int64]) -> tuple[AnyArray, AnyArray]:
        """Columns and numbers of entries."""
        columns, data = (_gather(array, where) for array in (self._indices, self._data))
        if columns.size and (columns.min() < 0 or columns.max() >= self.shape[1]):
            raise self._damaged("indices", f"has columns outside 0 to {self.shape[1] - 1}")
        return columns, data

    def _damaged(self, name: str, text: str) -> CorruptDataError:
        array = self._indptr if name == "indptr" else self._indices
        message = f"the sparse loadings are damaged: {name} {text}"
        return CorruptDataError(message, url=array.url, node=array.path)


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
