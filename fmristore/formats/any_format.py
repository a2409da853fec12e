"""Type of a stored object whose format only its file says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fmristore.formats.base import StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import nibabel
    import numpy as np
    from numpy.typing import DTypeLike

    from fmristore.formats.base import RawView
    from fmristore.model.space import NeuroSpace
    from fmristore.planning.read_plan import Planner
    from fmristore_stores.protocol import AnyArray

__all__ = ["AnyFormat"]


class AnyFormat(StoredObject):
    """A stored object of a format that is not known before it is opened.

    `fmristore.open` without ``format=`` says that it returns one. It is a type for checkers and
    editors alone: what is opened is a `fmristore.NeuroVec` or another class, and no object is of
    this one. They complete what images on a grid have, and let pass whatever else is asked for, as
    only the file says which format it has. ``isinstance(stored, fs.ParcellatedMultiScan)``,
    ``format=`` and ``NeuroVec.open(url)`` give the class itself.
    """

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, ...]:
            """Lengths of the axes, (X, Y, Z), (X, Y, Z, T), or (T, K) for series of parcels."""

        @property
        def dtype(self) -> np.dtype[Any]:
            """Type of the values that indexing returns."""

        @property
        def ndim(self) -> int:
            """Number of axes."""

        @property
        def space(self) -> NeuroSpace:
            """Grid in the world, number of volumes and TR."""

        @property
        def affine(self) -> AnyArray:
            """(4, 4) float64: voxel indices (0-based) to mm, RAS+."""

        @property
        def tr(self) -> float | None:
            """Repetition time in seconds, None if unknown."""

        @property
        def metadata(self) -> Mapping[str, Any]:
            """Other facts about the data, such as those of a BIDS sidecar."""

        @property
        def raw(self) -> RawView:
            """Stored values, not scaled: ``image.raw[32, 40, 20]``."""

        @property
        def plan(self) -> Planner:
            """Cost of a read, without reading: ``image.plan[..., 10].explain()``."""

        def __getitem__(self, index: Any) -> Any:
            """Read a part: see `fmristore.NeuroVec.read`."""

        def __iter__(self) -> Iterator[Any]:
            """Go through the names of scans; images refuse, and have `iter_volumes`."""

        def __len__(self) -> int:
            """Length of the first axis, or number of scans."""

        def read(
            self, index: Any = ..., *, dtype: DTypeLike | None = None, raw: bool = False
        ) -> Any:
            """Read a part: see `fmristore.NeuroVec.read`."""

        def series(self, *args: Any, **kwargs: Any) -> Any:
            """Series of voxels, or of parcels: see `fmristore.NeuroVec.series`."""

        def to_numpy(self, *, dtype: DTypeLike | None = None) -> AnyArray:
            """All of it in memory."""

        def to_nibabel(self) -> nibabel.Nifti1Image:
            """Lazy nibabel image."""

        def to_xarray(self) -> Any:
            """Lazy dataset of xarray; a tree of them for several scans."""

        def plot(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            """Draw it with matplotlib."""

        def __getattr__(self, name: str) -> Any: ...
