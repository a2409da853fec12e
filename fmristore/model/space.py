"""Place of the voxels of an image: shape, affine, spacing, repetition time, units.

`NeuroSpace` is whole here, with how NIfTI headers say it both ways, which makes the module long.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from fmristore.planning.pictures import facts_html
from fmristore_stores.errors import InvalidInputError, LayoutNotSupportedError, MetadataError
from fmristore_stores.shown import shown

if TYPE_CHECKING:
    import nibabel

__all__ = [
    "IMPLAUSIBLE_TR_S",
    "FoldedShape",
    "HeaderWarning",
    "NeuroSpace",
    "fold_shape",
    "name_of_space",
    "read_space",
    "transform_code",
]

FloatArray = npt.NDArray[np.float64]

IMPLAUSIBLE_TR_S = 100.0
"""A repetition time above this was most likely meant as milliseconds."""
_IMPLAUSIBLY_SHORT_TR_S = 0.01
"""One below this has most likely the wrong unit."""

_SMALLEST_REAL_PART = 1e-7
"""niftilib takes the square of a quaternion's real part for 0 below this."""

_QUATERNION_ROUNDING = 1e-5
"""A squared length above 1 by no more than this comes from rounding."""

_NIFTI1_MAX_LENGTH = 32767
_NIFTI1_MAX_NUMBER = 1e38
_FREESURFER_SURFACE = (27307, 1, 6)
"""NIfTI-1 readers take this shape for a surface with 163842 vertices."""

_SPACE_UNITS = {0: ("unknown", 1.0), 1: ("mm", 1e3), 2: ("mm", 1.0), 3: ("mm", 1e-3)}
_TIME_UNITS = {0: ("unknown", 1.0), 8: ("s", 1.0), 16: ("s", 1e-3), 24: ("s", 1e-6)}
_OTHER_UNITS = {32: "hz", 40: "ppm", 48: "rads"}
_TIME_CODES = {"s": 8, "hz": 32, "ppm": 40, "rads": 48, "unknown": 0}


class HeaderWarning(UserWarning):
    """A header says something that is possible but most likely wrong."""


class FoldedShape(NamedTuple):
    """A NIfTI shape of one to seven dimensions, read as a volume or a run."""

    spatial: tuple[int, int, int]
    """Lengths along x, y, z."""
    time_points: int | None
    """Number of volumes, None for a single volume that has no fourth dimension."""
    volume_axis: int | None
    """Dimension (counted from 0) that numbers the volumes: 3 is time, 4 to 6 something else."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class NeuroSpace:
    """The grid of an image in the world, and its sampling in time.

    Two spaces are equal if all their fields are; to compare grids whose affines went through
    different software, use `same_grid`.

    Parameters
    ----------
    spatial_shape : tuple of int, (X, Y, Z)
        Number of voxels along each axis, at least 1.
    affine : array_like, (4, 4), float64
        Takes voxel indices (0-based i, j, k, 1) to world coordinates in mm, RAS+.
        The space keeps a read-only copy.
    time_points : int, optional
        Number of volumes; None for a single volume without a time axis.
    tr : float, optional
        Repetition time in seconds; None if unknown or if the volumes are not a time series.
    space_name : str, optional
        Name of the template or reference space, such as ``"MNI152NLin2009cAsym"``; NIfTI's codes
        are taken for the names that they stand for.
    space_unit : str, optional
        ``"mm"``, or ``"unknown"`` if the source did not say (the data are taken as mm).
    time_unit : str, optional
        ``"s"``, ``"unknown"`` if the source did not say (taken as seconds), or ``"hz"``,
        ``"ppm"``, ``"rads"`` for volumes that do not follow each other in time.
    time_offset : float, optional
        Time of the first volume in seconds, NIfTI's ``toffset``; programs that correct the timing
        of slices set it.

    Raises
    ------
    InvalidInputError
        If a length is below 1, the affine is not an invertible 4 x 4 matrix of finite numbers
        with last row 0 0 0 1, or `tr` is not positive or given for a single volume, or
        `time_offset` is not finite or given for a single volume.
    """

    spatial_shape: tuple[int, int, int]
    affine: FloatArray
    time_points: int | None = None
    tr: float | None = None
    space_name: str | None = None
    space_unit: str = "mm"
    time_unit: str = "s"
    time_offset: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "spatial_shape", _checked_shape(self.spatial_shape))
        given: object = self.space_name
        if isinstance(given, int):
            object.__setattr__(self, "space_name", name_of_space(given))
        try:
            affine = np.array(self.affine, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidInputError(
                f"the affine is not a matrix of values ({error}): expected a NeuroSpace or an "
                "array (4, 4), such as image.affine"
            ) from error
        if problem := _affine_problem(affine):
            raise InvalidInputError(f"affine {problem}")
        affine += 0.0  # turns -0.0 into 0.0, so that equal affines have equal bytes
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)
        if self.time_points is not None:
            object.__setattr__(self, "time_points", int(self.time_points))
            if self.time_points < 1:
                raise InvalidInputError(f"{self.time_points} time points: expected at least 1")
        if self.tr is not None:
            try:
                object.__setattr__(self, "tr", float(self.tr))
            except (TypeError, ValueError, OverflowError) as error:
                raise InvalidInputError(f"TR {self.tr!r:.80} is not a number") from error
            if self.time_points is None or not math.isfinite(self.tr) or self.tr <= 0:
                msg = f"TR {self.tr} s: expected a positive number, and only with time points"
                raise InvalidInputError(msg)
        self._check_offset()

    def _check_offset(self) -> None:
        try:
            offset = float(self.time_offset) + 0.0
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"time offset {self.time_offset!r:.80} is not a number"
            raise InvalidInputError(msg) from error
        if not math.isfinite(offset) or (offset and self.time_points is None):
            raise InvalidInputError(
                f"time offset {offset} s: expected a finite number, and only with time points"
            )
        object.__setattr__(self, "time_offset", offset)

    # The default would bring the affine back writable.
    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), tuple(getattr(self, name) for name in self.__slots__))

    def _key(self) -> tuple[Any, ...]:
        rest = (getattr(self, name) for name in self.__slots__ if name != "affine")
        return self.affine.tobytes(), *rest

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, NeuroSpace) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        facts = [
            " x ".join(map(str, self.shape)),
            " x ".join(f"{length:.4g}" for length in self.spacing) + " mm",
            self.orientation,
            f"origin ({', '.join(f'{x:.4g}' for x in self.origin)}) mm",
        ]
        if self.tr is not None:
            facts.insert(2, f"TR {self.tr:.6g} s")
        if self.time_offset:
            facts.append(f"first volume at {self.time_offset:.6g} s")
        if self.space_name:
            facts.append(shown(self.space_name))
        return f"NeuroSpace({', '.join(facts)})"

    def _repr_html_(self) -> str:
        unit = self.space_unit if self.space_unit == "mm" else "mm (not said by the source)"
        facts = {
            "shape": " x ".join(map(str, self.shape)),
            "voxels": " x ".join(f"{length:.4g}" for length in self.spacing) + f" {unit}",
            "orientation": self.orientation,
            "origin": ", ".join(f"{x:.4g}" for x in self.origin) + " mm",
        }
        if self.tr is not None:
            facts["TR"] = f"{self.tr:.6g} s"
        if self.time_offset:
            facts["first volume"] = f"at {self.time_offset:.6g} s"
        if self.space_name:
            facts["space"] = self.space_name
        return facts_html("NeuroSpace", facts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths along x, y, z and, where there is one, the time axis."""
        return self.spatial_shape + (() if self.time_points is None else (self.time_points,))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along i, j, k, in mm."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)).tolist()
        return x, y, z

    @property
    def origin(self) -> tuple[float, float, float]:
        """World coordinates of the centre of voxel (0, 0, 0), in mm."""
        x, y, z = self.affine[:3, 3].tolist()
        return x, y, z

    @property
    def times(self) -> FloatArray | None:
        """(T,): times of the volumes in seconds; None where the repetition time is unknown."""
        if self.time_points is None or self.tr is None:
            return None
        return np.asarray(self.time_offset + np.arange(self.time_points) * self.tr)

    @property
    def orientation(self) -> str:
        """Directions in which i, j, k grow, such as ``"RAS"`` or ``"LPI"``."""
        from nibabel import orientations

        library: Any = orientations
        codes: Sequence[str | None] = library.aff2axcodes(self.affine)
        return "".join(code or "?" for code in codes)

    def without_time(self) -> Self:
        """The space of one volume."""
        return replace(self, time_points=None, tr=None, time_offset=0.0)

    def with_time(
        self, time_points: int, *, tr: float | None = None, time_offset: float = 0.0
    ) -> Self:
        """The space of `time_points` volumes on this grid, `tr` seconds apart.

        Raises
        ------
        InvalidInputError
            If `time_points` is below 1 or `tr` is not positive.
        """
        return replace(self, time_points=time_points, tr=tr, time_offset=time_offset)

    def voxel_to_world(self, ijk: npt.ArrayLike) -> FloatArray:
        """World coordinates of voxels.

        Parameters
        ----------
        ijk : array_like, (..., 3)
            Voxel indices, 0-based; fractions and positions outside the grid are fine.

        Returns
        -------
        ndarray, (..., 3), float64
            Coordinates in mm, RAS+.

        Raises
        ------
        InvalidInputError
            If the last axis does not have length 3.
        """
        points = _points(ijk)
        return np.asarray(points @ self.affine[:3, :3].T + self.affine[:3, 3])

    def world_to_voxel(self, xyz: npt.ArrayLike) -> FloatArray:
        """Voxel coordinates of places in the world, not rounded.

        Parameters
        ----------
        xyz : array_like, (..., 3)
            Coordinates in mm, RAS+.

        Returns
        -------
        ndarray, (..., 3), float64
            Voxel coordinates, 0-based.

        Raises
        ------
        InvalidInputError
            If the last axis does not have length 3.
        """
        inverse = np.linalg.inv(self.affine)
        return np.asarray(_points(xyz) @ inverse[:3, :3].T + inverse[:3, 3])

    def grid_distance(self, other: NeuroSpace) -> float:
        """Largest distance in mm between equal voxels of two grids; infinite if shapes differ."""
        if self.spatial_shape != other.spatial_shape:
            return math.inf
        # The difference of two affine maps is affine, so it is largest at a corner.
        corners = np.stack(
            np.meshgrid(*[(0, length - 1) for length in self.spatial_shape], indexing="ij"), axis=-1
        )
        shift = self.voxel_to_world(corners) - other.voxel_to_world(corners)
        return float(np.sqrt((shift**2).sum(axis=-1)).max())

    def same_grid(self, other: NeuroSpace, *, tolerance_mm: float = 0.01) -> bool:
        """Return whether voxels of both spaces lie at the same places; time does not matter.

        Parameters
        ----------
        other : NeuroSpace
            The space to compare with.
        tolerance_mm : float, optional
            How far apart equal voxels may lie. The default allows for affines that were stored
            as float32 or as a quaternion.
        """
        return self.grid_distance(other) <= tolerance_mm

    @classmethod
    def from_nibabel(cls, source: Any, *, space_name: str | None = None) -> NeuroSpace:
        """Space of a nibabel image or header.

        The affine is chosen as nibabel does: the sform if its code is set, else the qform if its
        code is set, else one made from the voxel sizes; a choice that is not an invertible matrix
        of finite numbers is passed over with a `HeaderWarning`. Lengths become mm and times
        seconds, by the units the header names.

        Parameters
        ----------
        source : nibabel image or header
            An image's own affine comes before that of its header.
        space_name : str, optional
            Name of the template, if known.

        Raises
        ------
        MetadataError
            If a length is below 1 or no usable affine is found.
        LayoutNotSupportedError
            If more than one dimension beyond the third is longer than 1.
        """
        space, header_warnings = read_space(source)
        for warning in header_warnings:
            warnings.warn(warning, HeaderWarning, stacklevel=2)
        return replace(space, space_name=space_name)

    def to_header(self, dtype: npt.DTypeLike = np.float32) -> nibabel.Nifti1Header:
        """Make a nibabel header for this space.

        Parameters
        ----------
        dtype : dtype_like, optional
            Type of the data.

        Returns
        -------
        nibabel.Nifti1Header or nibabel.Nifti2Header
            NIfTI-2 only if a length or number does not fit NIfTI-1. Both sform and qform are
            set; NIfTI-1 holds them as float32, and a qform holds no shear. An unknown TR is
            stored as 0.

        Raises
        ------
        InvalidInputError
            If NIfTI has no such type.
        """
        from nibabel import nifti1, nifti2
        from nibabel.spatialimages import HeaderDataError

        small: Any = nifti1.Nifti1Header
        large: Any = nifti2.Nifti2Header
        too_large = (
            max(self.shape) > _NIFTI1_MAX_LENGTH
            or self.spatial_shape == _FREESURFER_SURFACE
            or max(float(np.abs(self.affine).max()), self.tr or 0.0) > _NIFTI1_MAX_NUMBER
        )
        header: Any = (large if too_large else small)()
        try:
            header.set_data_dtype(np.dtype(dtype))
        except HeaderDataError as error:
            raise InvalidInputError(f"NIfTI cannot hold values of type {dtype}") from error
        header.set_data_shape(self.shape)
        header.set_zooms(self.spacing + (() if self.time_points is None else (self.tr or 0.0,)))
        code = transform_code(self.space_name)
        header.set_sform(self.affine, code)
        header.set_qform(self.affine, code)
        in_mm = 2 if self.space_unit == "mm" else 0
        header["xyzt_units"] = in_mm + _TIME_CODES.get(self.time_unit, 0)
        header["toffset"] = self.time_offset
        made: nibabel.Nifti1Header = header
        return made


def fold_shape(shape: Sequence[int]) -> FoldedShape:
    """Read a shape of one to seven dimensions as a volume or a run of volumes.

    Missing spatial dimensions have length 1. Of dimensions 4 to 7 at most one may be longer than
    1, and it numbers the volumes; if none is, the fourth does.

    Raises
    ------
    MetadataError
        If there are no or more than seven dimensions, or one has a length below 1.
    LayoutNotSupportedError
        If several dimensions beyond the third are longer than 1.

    Examples
    --------
    >>> fold_shape((4, 5, 6, 1, 2))
    FoldedShape(spatial=(4, 5, 6), time_points=2, volume_axis=4)
    """
    lengths = [int(length) for length in shape]
    if not 1 <= len(lengths) <= 7 or min(lengths) < 1:
        msg = f"shape {tuple(lengths)}: expected one to seven dimensions of length 1 or more"
        raise MetadataError(msg)
    x, y, z = [*lengths, 1, 1][:3]
    extra = lengths[3:]
    if not extra:
        return FoldedShape((x, y, z), None, None)
    longer = [axis for axis, length in enumerate(extra) if length > 1]
    if len(longer) > 1:
        msg = (
            f"shape {tuple(lengths)}: dimensions {', '.join(str(axis + 4) for axis in longer)} are "
            "all longer than 1; a run has one dimension beyond space. Split the image, or merge "
            "those dimensions into one, first"
        )
        raise LayoutNotSupportedError(msg)
    axis = longer[0] if longer else 0
    return FoldedShape((x, y, z), extra[axis], axis + 3)


def _doubts_on_tr(tr: float, unit: str) -> list[str]:
    """Sentences on a repetition time that is most likely another one."""
    if tr > IMPLAUSIBLE_TR_S and unit in ("unknown", "s"):
        known = "s" if unit == "s" else "in an unknown unit, taken as seconds"
        return [
            f"the time between volumes is {tr:g} {known}; milliseconds are more likely. Correct "
            "xyzt_units or pixdim[4] of the header, or give the right one as tr="
        ]
    if 0 < tr < _IMPLAUSIBLY_SHORT_TR_S and unit == "s":
        return [
            f"the time between volumes is {tr:g} s; most likely the header names the wrong unit of "
            "time. Correct xyzt_units or pixdim[4], or give the right one as tr="
        ]
    if tr == 1.0 and unit == "unknown":
        return [
            "the TR is 1 in an unknown unit, which nilearn and others write when they do not know "
            "it; taken as 1 s. Give the right one as tr="
        ]
    return []


def read_space(source: Any) -> tuple[NeuroSpace, tuple[str, ...]]:
    """Space of a nibabel image or header, and what is doubtful about it.

    As `NeuroSpace.from_nibabel`, which warns of them.
    """
    from nibabel.spatialimages import HeaderDataError

    header = getattr(source, "header", source)
    try:
        shape = source.shape if header is not source else header.get_data_shape()
    except HeaderDataError as error:
        raise MetadataError(f"the dimensions are not valid: {error}") from error
    folded = fold_shape(shape)
    raw_units = int(header["xyzt_units"]) if _is_nifti(header) else 2
    space_unit, to_mm = _SPACE_UNITS.get(raw_units & 0x07, ("unknown", 1.0))
    header_warnings: list[str] = []
    affine = _best_affine(header, getattr(source, "affine", None), to_mm, header_warnings)
    tr, time_unit = _repetition_time(header, folded, raw_units & 0x38)
    if tr is not None and folded.time_points != 1:
        header_warnings += _doubts_on_tr(tr, time_unit)
    space = NeuroSpace(
        spatial_shape=folded.spatial,
        affine=affine,
        time_points=folded.time_points,
        tr=tr,
        space_unit=space_unit,
        time_unit=time_unit,
        time_offset=_time_offset(header, folded, raw_units & 0x38, header_warnings),
    )
    return space, tuple(header_warnings)


def _rebuild(cls: type[NeuroSpace], fields: tuple[Any, ...]) -> NeuroSpace:
    return cls(**dict(zip(cls.__slots__, fields, strict=True)))


def _checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    lengths = tuple(map(int, shape))
    if len(lengths) != 3 or min(lengths) < 1:
        raise InvalidInputError(f"spatial shape {lengths}: expected three lengths of 1 or more")
    x, y, z = lengths
    return x, y, z


def _points(values: npt.ArrayLike) -> FloatArray:
    points = np.asarray(values, dtype=np.float64)
    if points.ndim == 0 or points.shape[-1] != 3:
        raise InvalidInputError(f"coordinates of shape {points.shape}: expected (..., 3)")
    return points


def _affine_problem(affine: FloatArray) -> str | None:
    """Say why a matrix cannot be an affine, None if it can."""
    if affine.shape != (4, 4):
        return f"has shape {affine.shape}: expected (4, 4)"
    *rows, last = affine.tolist()
    if not all(map(math.isfinite, [*rows[0], *rows[1], *rows[2], *last])):
        return "has entries that are not finite"
    if last != [0, 0, 0, 1]:
        return f"has last row {last}: expected 0 0 0 1"
    (a, b, c, _), (d, e, f, _), (g, h, i, _) = rows
    lengths = [math.sqrt(x * x + y * y + z * z) for x, y, z in ((a, d, g), (b, e, h), (c, f, i))]
    if not (min(lengths) > 0 and max(lengths) < math.inf):
        return f"has columns of length {lengths}"
    j, k, m = lengths
    a, b, c, d, e, f, g, h, i = a / j, b / k, c / m, d / j, e / k, f / m, g / j, h / k, i / m
    if abs(a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)) < 1e-6:
        return "cannot be inverted: its columns lie in a plane"
    return None


def _is_nifti(header: Any) -> bool:
    import nibabel

    return isinstance(header, nibabel.Nifti1Header)


def _best_affine(
    header: Any, of_image: FloatArray | None, to_mm: float, header_warnings: list[str]
) -> FloatArray:
    """Nibabel's choice of affine, or the next one that can be inverted, with a warning."""
    from nibabel.spatialimages import HeaderDataError

    choices: list[tuple[str, Any]] = []
    if of_image is not None:
        choices.append(("the image's affine", lambda: of_image))
    if _is_nifti(header):
        if int(header["sform_code"]) > 0:
            choices.append(("the sform", header.get_sform))
        if int(header["qform_code"]) > 0:
            choices.append(("the qform", lambda: _qform(header, header_warnings)))
        choices.append(("the affine made from voxel sizes", header.get_base_affine))
    else:
        choices.append(("the header's affine", header.get_best_affine))
    problems = []
    for name, choice in choices:
        try:
            with np.errstate(all="ignore"):
                affine = np.array(choice(), dtype=np.float64)
                affine[:3] *= to_mm
        except (HeaderDataError, MetadataError, ValueError) as error:
            problems.append(f"{name} cannot be made ({error})")
            continue
        problem = _affine_problem(affine)
        if problem is None:
            if problems:
                header_warnings.append(f"{'; '.join(problems)}; using {name} instead")
            return affine
        problems.append(f"{name} {problem}")
    raise MetadataError("; ".join(problems))


def _qform(header: Any, header_warnings: list[str]) -> FloatArray:
    """Affine of the quaternion, as niftilib makes it: one that is too long is normalised.

    Raises
    ------
    MetadataError
        If the quaternion is not finite.
    """
    b, c, d = (float(header[f"quatern_{axis}"]) for axis in "bcd")
    length = b * b + c * c + d * d
    if not math.isfinite(length):
        raise MetadataError("its quaternion is not finite")
    if length <= 1.0 - _SMALLEST_REAL_PART:
        return np.asarray(header.get_qform(), dtype=np.float64)
    if length > 1.0 + _QUATERNION_ROUNDING:
        header_warnings.append(
            f"the qform's quaternion has the squared length {length:g}, more than 1: it is "
            "normalised, as niftilib does"
        )
    b, c, d = (value / math.sqrt(length) for value in (b, c, d))
    # The real part is 0: half a turn about the axis (b, c, d).
    rotation = 2.0 * np.outer((b, c, d), (b, c, d)) - np.eye(3)
    sizes = [float(size) for size in header["pixdim"][1:4]]
    if float(header["pixdim"][0]) < 0:
        sizes[2] = -sizes[2]
    affine = np.eye(4)
    affine[:3, :3] = rotation * sizes
    affine[:3, 3] = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    return affine


_AFNI_MILLISECONDS, _AFNI_HERTZ = 77001, 77003
"""Units of the time axis in AFNI's headers, the third of ``TAXIS_NUMS``; 77002 is seconds."""


def _foreign_tr(header: Any) -> tuple[float | None, str]:
    """Seconds between volumes of FreeSurfer's and AFNI's headers, and the unit."""
    from nibabel.brikhead import AFNIHeader
    from nibabel.freesurfer.mghformat import MGHHeader

    kinds: tuple[tuple[Any, float], ...] = ((MGHHeader, 1e-3), (AFNIHeader, 1.0))
    to_seconds = next((factor for kind, factor in kinds if isinstance(header, kind)), None)
    if to_seconds is None:
        return None, "unknown"
    zooms = header.get_zooms()
    if isinstance(header, AFNIHeader):
        info = getattr(header, "info", {})
        units = list(info.get("TAXIS_NUMS") or [])[2:3]
        if not info.get("TAXIS_FLOATS") or units == [_AFNI_HERTZ]:
            return None, "unknown"
        to_seconds = 1e-3 if units == [_AFNI_MILLISECONDS] else 1.0
    stored = float(str(zooms[3])) if len(zooms) > 3 else 0.0
    if not math.isfinite(stored) or stored <= 0:
        return None, "s"
    return _in_seconds(stored, to_seconds), "s"


def _in_seconds(stored: float, to_seconds: float) -> float | None:
    return (stored if to_seconds == 1.0 else stored / round(1 / to_seconds)) or None


def _repetition_time(header: Any, folded: FoldedShape, time_code: int) -> tuple[float | None, str]:
    """Seconds between volumes if the header knows them, and the unit of the volume axis."""
    if folded.volume_axis is None:
        return None, "s"
    if folded.volume_axis != 3:
        return None, "unknown"
    if not _is_nifti(header):
        return _foreign_tr(header)
    if time_code in _OTHER_UNITS:
        return None, _OTHER_UNITS[time_code]
    unit, to_seconds = _TIME_UNITS.get(time_code, ("unknown", 1.0))
    stored = float(header["pixdim"][4])
    if not math.isfinite(stored) or stored <= 0:
        return None, unit
    # The shortest decimal that the header's float stands for: 0.8 s, not 0.800000011920929.
    return float(str(header["pixdim"][4])) * to_seconds or None, unit


def _time_offset(
    header: Any, folded: FoldedShape, time_code: int, header_warnings: list[str]
) -> float:
    """Time of the first volume in seconds; with a warning where the header has none that can be."""
    if folded.volume_axis != 3 or not _is_nifti(header) or time_code in _OTHER_UNITS:
        return 0.0
    _, to_seconds = _TIME_UNITS.get(time_code, ("unknown", 1.0))
    stored = float(str(header["toffset"]))  # as for the repetition time
    if not math.isfinite(stored):
        header_warnings.append(f"toffset is {stored}, taken as 0")
        return 0.0
    return stored if to_seconds == 1.0 else stored / round(1 / to_seconds)


_SPACES = {1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI152", 5: "template"}
"""Names of spaces of which a user gives NIfTI's code."""


def name_of_space(given: str | int | None) -> str | None:
    """Name of a space that a user gives by its name or by NIfTI's code; None where none is given.

    Raises
    ------
    InvalidInputError
        If it is neither.
    """
    if given is None:
        return None
    code = int(given) if isinstance(given, str) and given.strip().isdecimal() else given
    if isinstance(code, int | np.integer) and not isinstance(code, bool):
        if int(code) in (0, *_SPACES):
            return _SPACES.get(int(code))
    elif isinstance(given, str) and given.strip():
        return given
    known = ", ".join(f"{code} ({name})" for code, name in _SPACES.items())
    raise InvalidInputError(f"space_name {given!r:.80}: expected text, or one of NIfTI's {known}")


def transform_code(space_name: str | None) -> int:
    """NIfTI's code for what a space is aligned to."""
    name = (space_name or "aligned").lower()
    if name in ("scanner", "aligned"):
        return 1 if name == "scanner" else 2
    if name.startswith("mni"):
        return 4
    return 3 if name.startswith("talairach") else 5
