"""One stored volume."""

from __future__ import annotations

from fmristore.formats.dense import DenseImage
from fmristore.formats.registry import register

__all__ = ["NeuroVol"]


@register("neurovol")
class NeuroVol(DenseImage):
    """One stored volume, indexed ``[x, y, z]``.

    Examples
    --------
    >>> import fmristore as fs
    >>> t1 = fs.open("sub-01_T1w.h5")                                         # doctest: +SKIP
    >>> t1[90, 100, :]                                                        # doctest: +SKIP
    """

    axes = ("x", "y", "z")
