"""What makes an image readable by the R package fmristore besides: second names and small nodes.

R finds axes by position and knows no scaling, so only some images get them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fmristore.formats.nodes import write_plain
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.planning.layout import AXES
from fmristore_stores.protocol import Group

__all__ = ["R_NUMBERS", "R_TYPES", "link_for_r", "r_class", "write_r_space"]

R_NUMBERS = "data"
"""Where R looks for the numbers of a run."""

R_TYPES = dict.fromkeys(["uint8", "int8", "int16", "uint16", "float32", "float64"], math.inf) | {
    "int32": 2**31,
    "int64": 2**53,
}
"""Types of numbers that the R package reads, and what their absolute values must stay below.

-2**31 is R's NA, and larger integers of 64 bits come out as other numbers without a word.
"""


def link_for_r(
    group: Group,
    space: NeuroSpace,
    scaling: Scaling | None,
    limits: Sequence[float] | None,
    numbers: Sequence[str] = ("0",),
) -> dict[str, Any]:
    """Give a finished image the names that R looks for, if R would read the right numbers.

    That is so if array ``0``, or a copy of it, has the canonical order of axes, numbers that R
    has, no colours and no scaling. Takes some kilobytes; the numbers are not stored again.

    Parameters
    ----------
    group : Group
        Root of a store with hard links; it has the array ``0``.
    space : NeuroSpace
        Of the image.
    scaling : Scaling, optional
        Of the image.
    limits : (float, float), optional
        Smallest and largest stored number, None if there is no finite one.
    numbers : sequence of str
        Paths of the array ``0`` and its copies; the names lead to the first that R can read.

    Returns
    -------
    dict
        Attributes for the root group, none if R cannot read the image.
    """
    specs = {path: group.array(path).spec for path in numbers}
    spec = specs["0"]
    canonical = tuple(d for d in AXES if d in spec.dims)
    target = next((path for path, found in specs.items() if found.dims == canonical), None)
    if scaling is not None or target is None or "c" in canonical:
        return {}
    if not max(map(abs, limits or [0])) < R_TYPES.get(spec.dtype.name, 0):
        return {}
    if "t" in canonical:
        group.link(R_NUMBERS, target)
    else:
        group.create_group("data").link("elements", "0")
    write_r_space(group.create_group("space"), space)
    return {"rtype": r_class(space)}


def r_class(space: NeuroSpace) -> str:
    """Name of the R class of an image: the attribute ``rtype``."""
    return "DenseNeuroVol" if space.time_points is None else "DenseNeuroVec"


def write_r_space(group: Group, space: NeuroSpace, *, names: bool = True) -> None:
    """Write what R knows of a grid: ``dim``, ``origin``, ``spacing``, and ``trans`` transposed.

    Parameters
    ----------
    group : Group
        The group ``space``, empty.
    space : NeuroSpace
        The grid; its shape becomes ``dim``.
    names : bool
        Whether the axes get names, as all of fmristore's own arrays have; R's have none.
    """
    for name, dims, values in (
        ("dim", ("dimension",), np.array(space.shape, np.int32)),
        ("origin", ("axis",), np.array(space.origin)),
        ("spacing", ("axis",), np.array(space.spacing)),
        ("trans", ("voxel", "world"), np.ascontiguousarray(space.affine.T)),
    ):
        write_plain(group, name, dims if names else (), values)
