"""Common ground of the layouts of the R package fmristore."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.base import StoredArray
from fmristore.formats.names import decode_name, encode_name
from fmristore.formats.new_arrays import write_plain
from fmristore.formats.r.missing import with_missing
from fmristore.formats.registry import Layout, StoreView
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.planning.layout import AXES
from fmristore_stores.errors import InvalidInputError, MetadataError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Group
from fmristore_stores.spec import STRING, check_name

__all__ = [
    "R_DATA",
    "R_EXACT",
    "R_TYPES",
    "RLayout",
    "attribute_text",
    "from_r_name",
    "link_for_r",
    "node_name",
    "r_class",
    "r_dtype",
    "r_values",
    "r_writer",
    "read_header_space",
    "to_r_name",
    "transform_fields",
    "write_fields",
    "write_r_space",
]

R_DATA = "data"

"""Paths where R looks for the data of a run."""

R_TYPES = dict.fromkeys(["uint8", "int8", "int16", "uint16", "float32", "float64"], math.inf) | {
    "int32": 2**31,
    "int64": 2**53,
}

"""Types of values that the R package reads, and what their absolute values must stay below.

-2**31 is R's NA, and larger integers of 64 bits come out as other data without a word.
"""


def link_for_r(
    group: Group,
    space: NeuroSpace,
    scaling: Scaling | None,
    limits: Sequence[float] | None,
    data: Sequence[str] = ("0",),
) -> dict[str, Any]:
    """Give a finished image the names that R looks for, if R would read the right values.

    That is so if array ``0``, or a copy of it, has the canonical order of axes, values that R
    has, no colours and no scaling. Takes some kilobytes; the data are not stored again.

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
    data : sequence of str
        Paths of the array ``0`` and its copies; the names lead to the first that R can read.

    Returns
    -------
    dict
        Attributes for the root group, none if R cannot read the image.
    """
    specs = {path: group.array(path).spec for path in data}
    spec = specs["0"]
    canonical = tuple(d for d in AXES if d in spec.dims)
    target = next((path for path, found in specs.items() if found.dims == canonical), None)
    if scaling is not None or target is None or "c" in canonical:
        return {}
    if not max(map(abs, limits or [0])) < R_TYPES.get(spec.dtype.name, 0):
        return {}
    if "t" in canonical:
        group.link(R_DATA, target)
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


R_EXACT = 2**53

"""Below it, float64 holds every whole number."""


def r_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type in which R reads values of a type: float64 for integers that it does not have.

    Raises
    ------
    InvalidInputError
        If there is none.
    """
    if dtype.name in ("uint32", "int64", "uint64"):
        return np.dtype(np.float64)
    if dtype.name not in R_TYPES:
        raise InvalidInputError(f"R cannot read values of type {dtype}")
    return dtype


def r_values(values: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    """Values in a type of R's, the same array where it has that type.

    Parameters
    ----------
    values : ndarray
        Real values; floating-point ones may be rounded.
    dtype : dtype
        int32, or one that holds all integers of the type of `values` below 2**53.

    Raises
    ------
    InvalidInputError
        If an integer would be another number in R, or missing.
    """
    if values.dtype.kind in "iu" and values.dtype.itemsize >= 4 and values.size:
        limit = 2**31 if dtype == np.int32 else R_EXACT
        for value in (int(values.min()), int(values.max())):
            if not -limit < value < limit:
                raise InvalidInputError(
                    f"R has no whole number {value} in values of type {dtype}: "
                    "store floating-point values"
                )
    return values.astype(dtype, copy=False)


def node_name(name: str, what: str) -> str:
    """Check a name that R finds a node by, and return it.

    Parameters
    ----------
    name : str
        The name.
    what : str
        What it is the name of, for the message.

    Raises
    ------
    InvalidInputError
        If it cannot be that of a node as it is.
    """
    try:
        return check_name(name)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{name!r:.80} cannot be the name of {what} in R's layout, where it is that of a node: "
            "rename it, without slashes, backslashes and control characters"
        ) from error


def to_r_name(name: str, what: str) -> str:
    """Name of a node that R is to list: what is not ASCII is percent-encoded as UTF-8.

    Raises
    ------
    InvalidInputError
        If `name` cannot be that of a node, or gets longer than 255 bytes.
    """
    return check_name(_ascii(node_name(name, what)))


def from_r_name(node: str) -> str:
    """The text that `to_r_name` made the name of a node of; other names are what they say."""
    try:
        name = decode_name(node)
        made = encode_name(name) == name and _ascii(name) == node
    except (InvalidInputError, MetadataError):
        return node
    return name if made else node


def _ascii(name: str) -> str:
    return "".join(c if c.isascii() else quote(c) for c in name)


_QUATERNION = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


def read_header_space(handle: Handle, shape: tuple[int, int, int]) -> NeuroSpace:
    """Grid of a file of the R package that has a ``/header``.

    Parameters
    ----------
    handle : Handle
        The store.
    shape : tuple of int
        Lengths along x, y, z.

    Returns
    -------
    NeuroSpace
        With the affine of ``srow_x``, ``srow_y``, ``srow_z`` where these can be one, whatever
        their code says, for R fills them in and lets the code be 0; else that of the quaternion.

    Raises
    ------
    MetadataError
        If there is no usable affine, or the header is that of another grid.
    """
    names = handle.store.root.group("header").children()

    def field(name: str, count: int) -> NDArray[np.float64] | None:
        if name not in names:
            return None
        path = f"header/{name}"
        values = np.atleast_1d(StoredArray(handle, path).read_small(64))
        if values.ndim != 1 or len(values) < count or values.dtype.kind not in "iuf":
            raise MetadataError(
                f"has the shape {values.shape} and type {values.dtype}, expected {count} numbers",
                url=handle.locator.url,
                node=path,
            )
        return with_missing(values).astype(np.float64)

    dim = field("dim", 4)
    if dim is not None and tuple(dim[1:4].tolist()) != shape:
        raise MetadataError(
            f"says {dim.tolist()} of a mask of shape {shape}",
            url=handle.locator.url,
            node="header/dim",
        )
    rows = [field(f"srow_{axis}", 4) for axis in "xyz"]
    if all(row is not None for row in rows):
        affine = np.vstack([*(row[:4] for row in rows if row is not None), [0, 0, 0, 1]])
        try:
            return NeuroSpace(spatial_shape=shape, affine=affine)
        except InvalidInputError:
            pass  # R writes zeros where it knows none
    pixdim = field("pixdim", 4)
    parts = [field(name, 1) for name in _QUATERNION]
    given = [0.0 if part is None else float(part[0]) for part in parts]
    sign = field("qfac", 1)
    if pixdim is None:
        raise MetadataError(
            "neither srow_x, srow_y, srow_z nor pixdim say where the voxels lie",
            url=handle.locator.url,
            node="header",
        )
    qfac = float(pixdim[0] if sign is None else sign[0])
    try:
        return NeuroSpace(
            spatial_shape=shape,
            affine=_from_quaternion(given[:3], given[3:], pixdim[1:4], -1.0 if qfac < 0 else 1.0),
        )
    except InvalidInputError as error:
        raise MetadataError(
            f"the affine is damaged: {error.message}", url=handle.locator.url, node="header"
        ) from error


def _from_quaternion(
    vector: list[float], offset: list[float], spacing: NDArray[np.float64], qfac: float
) -> NDArray[np.float64]:
    """Affine by NIfTI's method 2: https://nifti.nimh.nih.gov/nifti-1/."""
    b, c, d = vector
    length = math.hypot(b, c, d)
    if length > 1:
        b, c, d = b / length, c / length, d / length
    a = math.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing * [1.0, 1.0, qfac]
    affine[:3, 3] = offset
    return affine


def transform_fields(space: NeuroSpace) -> dict[str, Any]:
    """Fields that say where voxels lie: the quaternion with its offset and sign, and the rows.

    A quaternion holds no shear: of a sheared grid it is the nearest one without, and only the
    rows are right.
    """
    from nibabel import quaternions

    library: Any = quaternions
    columns = space.affine[:3, :3] / space.spacing
    qfac = 1.0 if np.linalg.det(columns) > 0 else -1.0
    left, _, right = np.linalg.svd(columns * [1.0, 1.0, qfac])
    _, b, c, d = library.mat2quat(left @ right).tolist()
    offset = space.origin
    return {
        "qfac": qfac,
        "quatern_b": b,
        "quatern_c": c,
        "quatern_d": d,
        **{f"qoffset_{axis}": value for axis, value in zip("xyz", offset, strict=True)},
        **{f"srow_{axis}": space.affine[row] for row, axis in enumerate("xyz")},
    }


def write_fields(group: Group, fields: dict[str, Any]) -> None:
    """Write fields as R does: a dataset each, whole numbers as int32, others as float64."""
    for name, value in fields.items():
        if isinstance(value, str):
            array = np.array(value, STRING)
        elif isinstance(value, int) or (isinstance(value, list) and isinstance(value[0], int)):
            array = np.array(value, np.int32)
        else:
            array = np.array(value, np.float64)
        write_plain(group, name, (), array)


_CLASS_ATTRIBUTES = ("fmristore_class", "rtype")

"""Attributes that name R's class, in the order in which R looks at them."""

_CLASSES = frozenset(
    {
        *("H5NeuroVec", "H5NeuroVol", "DenseNeuroVec", "DenseNeuroVol", "LatentNeuroVec"),
        *("H5NeuroVecSeq", "NeuroVecSeq", "LabeledVolumeSet"),
        *("H5ParcellatedMultiScan", "H5ParcellatedScan", "H5ParcellatedScanSummary"),
    }
)

"""Every class of R that has a layout."""


class RLayout(Layout):
    """Base of the layouts of the R package.

    A file is recognised by the class that it names. Older ones, and those of packages that build
    on it, name none: then it is the nodes that only this layout has, so that a file of other
    software that happens to have ``/data`` or ``/labels`` is not taken for R's.
    """

    name = "r"
    stores = frozenset({"hdf5"})
    variable_text = True
    classes: ClassVar[frozenset[str]]
    """R's classes that are stored in this layout."""

    def detect(self, view: StoreView) -> bool:
        """Docstring inherited."""
        named = _class_of(view.attributes)
        return self.has_nodes(view) if named is None else named in self.classes

    def has_nodes(self, view: StoreView) -> bool:
        """Return whether the nodes are those of this layout, and of no other one of R's."""
        del view
        return False


def _class_of(attributes: Mapping[str, Any]) -> str | None:
    for name in _CLASS_ATTRIBUTES:
        text = attribute_text(attributes.get(name))
        if text in _CLASSES:
            return text
    return None


def attribute_text(value: Any) -> str:
    """Text of an attribute; R writes lists of one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else ""


def r_writer(root: Group) -> str:
    """Name and, where it is recorded, version of the software that wrote a file of R's."""
    version = attribute_text(root.read_attributes().get("fmristore_version"))
    return f"R package fmristore {version}".rstrip()
