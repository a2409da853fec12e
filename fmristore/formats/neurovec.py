"""One stored run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.dense import DenseImage
from fmristore.formats.registry import register
from fmristore.voxels import parse_series
from fmristore_stores.errors import SelectionError
from fmristore_stores.protocol import AnyArray

__all__ = ["NeuroVec"]


@register("neurovec")
class NeuroVec(DenseImage):
    """One stored run, indexed ``[x, y, z, t]``.

    Examples
    --------
    >>> import fmristore as fs
    >>> bold = fs.open("sub-01_task-rest_bold.h5")                            # doctest: +SKIP
    >>> bold[32, 40, 20]                                                      # doctest: +SKIP
    """

    holds = "one 4D run, all of its voxels"
    use_when = "anything of a run may be needed, or its NIfTI file back byte for byte"

    axes = ("x", "y", "z", "t")

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds, None if unknown."""
        return self.space.tr

    def series(
        self,
        voxels: Any = None,
        *,
        mask: Any = None,
        times: slice | None = None,
        dtype: DTypeLike | None = None,
        raw: bool = False,
    ) -> AnyArray:
        """Time series of one voxel, many voxels, or all voxels of a mask.

        Parameters
        ----------
        voxels : (x, y, z) or array_like of int, (n, 3), optional
            One voxel, or many in any order; negative indices count from the end.
        mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z), optional
            Voxels that are not zero (NaN counts as zero), in place of `voxels`. An image must lie
            on the same grid.
        times : slice, optional
            Part of the run.
        dtype : dtype, optional
            Type to compute and return instead of `dtype`.
        raw : bool
            Return stored numbers, not scaled.

        Returns
        -------
        ndarray, (T,) for one voxel, else (T, n)
            For a mask, voxels in order of their index with x varying fastest, as in NIfTI.

        Raises
        ------
        SelectionError
            If a voxel lies outside the image, or `times` is no slice.
        InvalidInputError
            If both or neither of `voxels` and `mask` are given, or the mask does not fit.

        Notes
        -----
        Every chunk is fetched and decoded once, however many voxels lie in it.
        """
        request = parse_series(voxels, mask, times, space=self.space, length=self.shape[3])
        points, part = self._inside(request.points), request.times
        reader = self._copies.for_voxels(points, part.region[0]).reader
        spec = reader.spec
        wanted = [d for d in spec.dims if d not in "xyz"]
        region = tuple(
            part.region[0] if d == "t" else slice(0, spec.shape[spec.dims.index(d)], 1)
            for d in wanted
        )
        axes = [spec.dims.index(d) for d in "xyz"]
        found = reader.read_points(axes, points, region)
        values = self._as_indexed(found, ("voxel", *wanted), ("t", "voxel"))
        values = self._converted(values, part.region[0], axis=0, dtype=dtype, raw=raw)
        result: AnyArray = values[part.finish]
        return result[:, 0] if request.single else result

    def _inside(self, points: AnyArray) -> AnyArray:
        """Voxels (n, 3) counted from the beginning, which must lie in the image."""
        points = points.reshape(-1, 3)
        lengths = np.array(self.shape[:3])
        outside = ((points < -lengths) | (points >= lengths)).any(axis=1)
        if outside.any():
            first = tuple(points[outside][0].tolist())
            raise SelectionError(f"voxel {first} lies outside the image of shape {self.shape[:3]}")
        points = points.astype(np.int64)
        return np.where(points < 0, points + lengths, points)
