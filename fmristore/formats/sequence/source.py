"""Stored runs, one after the other, as the source of one long image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fmristore.model.scaling import Scaling
from fmristore.sources.images import Block

if TYPE_CHECKING:
    from fmristore.formats.image.image import NeuroVec
    from fmristore.model.space import NeuroSpace

__all__ = ["SequenceSource"]


class SequenceSource:
    """Runs on one grid as one image, volume after volume.

    Stored numbers are taken if all runs have the same type and scaling, else numbers meant.

    Parameters
    ----------
    images : sequence of NeuroVec
        The runs; must stay open until the last block was read.
    space : NeuroSpace
        Of all of them together.
    nifti : bool
        Whether the numbers must be ones that a NIfTI header can say the scaling of.
    """

    colors = 0
    trailer = b""

    def __init__(
        self, images: Sequence[NeuroVec], space: NeuroSpace, *, nifti: bool = False
    ) -> None:
        from fmristore.nifti import make_header

        self.space = space
        self._sources = [image.as_source() for image in images]
        first = self._sources[0]
        factors = _factors(first.scaling)
        same = {(source.dtype, _factors(source.scaling)) for source in self._sources}
        self._convert = len(same) > 1 or factors is None
        if nifti and factors is not None:
            self._convert |= factors != tuple(float(np.float32(factor)) for factor in factors)
        self.scaling: Scaling | None = None if self._convert else first.scaling
        self.dtype = first.dtype
        if self._convert:
            self.dtype = np.result_type(*(image.dtype for image in images))
        self.header = make_header(
            space,
            self.dtype,
            slope=None if self.scaling is None else float(self.scaling.slope),
            inter=None if self.scaling is None else float(self.scaling.inter),
        )

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Parts of at most `max_bytes`, or single planes."""
        start = 0
        for source in self._sources:
            for t0, z0, values in source.blocks(max_bytes):
                if self._convert and source.scaling is not None:
                    times = slice(t0, t0 + len(values))
                    values = source.scaling.apply(values, times=times, axis=0)  # noqa: PLW2901
                yield Block(start + t0, z0, values.astype(self.dtype, copy=False))
            start += source.space.time_points or 1


def _factors(scaling: Scaling | None) -> tuple[float, float] | None:
    """Slope and intercept, 1 and 0 if there are none; None if each volume has its own."""
    if scaling is None:
        return 1.0, 0.0
    return None if scaling.per_volume else (float(scaling.slope), float(scaling.inter))
