"""Headers of images that come from another one: what stays true of its header is kept."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fmristore.model.space import NeuroSpace, transform_code
from fmristore.nifti.header import NiftiHeader, make_header, parse_header

__all__ = ["common_header", "fit_header", "form_codes", "grid_header", "header_in_space"]

_FACTS: tuple[tuple[str, ...], ...] = (
    ("descrip",),
    ("aux_file",),
    ("intent_code", "intent_p1", "intent_p2", "intent_p3", "intent_name"),
    ("cal_min", "cal_max"),
    ("dim_info",),
    ("slice_start", "slice_end", "slice_code", "slice_duration"),
)
"""Fields that say something of the data, in groups that belong together."""

_FORMS = (
    "qform_code",
    "sform_code",
    *(f"quatern_{axis}" for axis in "bcd"),
    *(f"qoffset_{axis}" for axis in "xyz"),
    *(f"srow_{axis}" for axis in "xyz"),
)

_SAME_GRID_MM = 1e-3


def fit_header(
    raw: bytes,
    space: NeuroSpace,
    dtype: npt.DTypeLike,
    *,
    colors: int = 0,
    slope: float | None = None,
    inter: float | None = None,
) -> bytes:
    """Header of other data on the grid of an image, with what stays true of that image's header.

    These are the codes of its sform and qform, intent, description, display window, order of
    slices and extensions.

    Parameters
    ----------
    raw : bytes
        Header of the image that the data come from, as in `NiftiHeader`; empty if there is none.
    space : NeuroSpace
        Grid, TR and units of the data.
    dtype, colors, slope, inter : object, optional
        As of `make_header`.

    Returns
    -------
    bytes
        A little-endian single-file header; as `make_header` makes it if there is no other one.

    Raises
    ------
    InvalidInputError
        If NIfTI has no such type, or no such scaling.
    FormatError
        If `raw` is damaged.
    """
    made = make_header(space, dtype, colors=colors, slope=slope, inter=inter)
    if not raw:
        return made
    given = parse_header(raw)
    source, header = given.to_nibabel(), parse_header(made).to_nibabel()
    for name in (name for group in _FACTS for name in group):
        header[name] = source[name]
    header["slice_duration"] = source["slice_duration"] * _seconds_in(source)
    _copy_forms(source, header, given, space)
    if (given.volume_axis or 0) > 3 and given.space.time_points == space.time_points:
        header.set_data_shape((*space.spatial_shape, *given.stored_shape[3:]))
    header.extensions = source.extensions
    return _to_bytes(header)


def _copy_forms(source: Any, header: Any, given: NiftiHeader, space: NeuroSpace) -> None:
    """Let a header say where the voxels are in the same way as another one, if they are there."""
    in_mm = int(source["xyzt_units"]) & 0x07 in (0, 2)
    if in_mm and given.space.same_grid(space, tolerance_mm=_SAME_GRID_MM):
        for name in _FORMS:
            header[name] = source[name]
        header["pixdim"][:4] = source["pixdim"][:4]
        return
    sform, qform = int(source["sform_code"]), int(source["qform_code"])
    if sform or qform:
        header["sform_code"], header["qform_code"] = sform or qform, qform


def form_codes(raw: bytes) -> tuple[int, int] | None:
    """Codes of sform and qform of header bytes; of a grid that only one gives, with its code.

    Parameters
    ----------
    raw : bytes
        As in `NiftiHeader`; empty if there is none.

    Returns
    -------
    tuple of int, or None
        None if it says neither.
    """
    if not raw:
        return None
    header = parse_header(raw).to_nibabel()
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    return (sform or qform, qform) if sform or qform else None


def common_header(headers: Sequence[bytes]) -> bytes:
    """Header that says of several images what all of their headers say.

    Parameters
    ----------
    headers : sequence of bytes
        As in `NiftiHeader`; those that are empty say nothing.

    Returns
    -------
    bytes
        The header of the first image without what other ones say otherwise; empty if one says
        nothing at all, or there are none.

    Raises
    ------
    FormatError
        If one is damaged.
    """
    different = list(dict.fromkeys(headers))
    if len(different) <= 1 or not all(different):
        return different[0] if len(different) == 1 else b""
    first, *others = (parse_header(raw).to_nibabel() for raw in different)
    for group in _FACTS:
        if any(not np.array_equal(first[name], other[name]) for name in group for other in others):
            for name in group:
                first[name] = np.zeros_like(first[name])
    kept = [(extension.get_code(), extension.content) for extension in first.extensions]
    for other in others:
        if kept != [(extension.get_code(), extension.content) for extension in other.extensions]:
            first.extensions.clear()
    return _to_bytes(first)


def grid_header(raw: bytes) -> bytes:
    """The header without what it says of the data: what is left is true of all on its grid."""
    if not raw:
        return b""
    header = parse_header(raw).to_nibabel()
    for name in (name for group in _FACTS for name in group):
        header[name] = np.zeros_like(header[name])
    header.extensions.clear()
    return _to_bytes(header)


def header_in_space(raw: bytes, space_name: str) -> bytes:
    """Header bytes whose codes say which space the image is in, and all else as before.

    Parameters
    ----------
    raw : bytes
        As in `NiftiHeader`.
    space_name : str
        Such as ``"MNI152NLin2009cAsym"``.
    """
    parsed = parse_header(raw)
    header = parsed.to_nibabel()
    code = transform_code(space_name)
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        header.set_sform(header.get_base_affine())
    header["sform_code"] = code if sform or not qform else 0
    header["qform_code"] = code if qform else 0
    fields = bytes(header.binaryblock)
    return fields + raw[len(fields) :]


def _seconds_in(header: Any) -> float:
    return {16: 1e-3, 24: 1e-6}.get(int(header["xyzt_units"]) & 0x38, 1.0)


def _to_bytes(header: Any) -> bytes:
    """Bytes of a single-file header with its extensions, as they precede the data."""
    from nibabel import nifti1, nifti2

    library: Any = nifti2 if isinstance(header, nifti2.Nifti2Header) else nifti1
    cls = library.Nifti2Header if library is nifti2 else library.Nifti1Header
    given = header if header.endianness == "<" else header.as_byteswapped("<")
    single = cls(given.binaryblock, "<", check=False)
    single["magic"], single["vox_offset"] = single.single_magic, 0
    single.extensions = cls.exts_klass(header.extensions)
    file = io.BytesIO()
    single.write_to(file)
    return file.getvalue()
