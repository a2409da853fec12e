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

    holds = "one 3D volume"
    use_when = "it is one: an anatomical image, a mean, a mask, a map on its own"

    axes = ("x", "y", "z")
