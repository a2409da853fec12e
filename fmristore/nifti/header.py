"""NIfTI headers: kept byte for byte, and read for what they say."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fmristore.model.space import HeaderWarning, NeuroSpace, fold_shape, read_space
from fmristore.nifti.fields import (
    COLORS,
    HEADER_SIZE,
    MAX_HEADER_BYTES,
    PORTABLE_DTYPES,
    read_extensions,
    read_fields,
)
from fmristore.nifti.files import NiftiFiles, file_size, locate, open_decoded
from fmristore_stores.causes import naming
from fmristore_stores.errors import (
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    MetadataError,
    UnknownFormatError,
)
from fmristore_stores.shown import shown_url

__all__ = [
    "MAX_TRAILER_BYTES",
    "NiftiHeader",
    "header_of_image",
    "header_with_start",
    "header_with_tr",
    "make_header",
    "parse_header",
    "read_header",
]

MAX_TRAILER_BYTES = 1 << 20
"""Bytes that may follow the data of an image; more are taken for a wrong header."""

_DEFLATE_MAX_RATIO = 1032
"""A deflate stream cannot hold more bytes per byte than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiHeader:
    """Facts of a NIfTI header, and its bytes.

    Parameters
    ----------
    raw : bytes
        Single file: all bytes before the data. Pair: all bytes of the header file.
        Header, extension flag, extensions and any gap, exactly as they are stored.
    version : int
        1 or 2.
    single : bool
        Whether header and values share a file.
    endianness : str
        ``"<"`` or ``">"``, of header and values.
    dtype : dtype
        Of the data in a stream: little-endian, uint8 for colours.
    colors : int
        Length of the trailing colour axis: 3 for RGB24, 4 for RGBA32, else 0.
    stored_shape : tuple of int
        As in the header, x first, one to seven lengths.
    volume_axis : int or None
        Dimension of `stored_shape` that numbers the volumes: 3 is time; 4 to 6 are something
        else, and there is no TR; None for a single volume.
    slope, inter : float or None
        The scaled value is ``stored * slope + inter``; None if the header asks for no scaling
        (slope 0 or not finite, or colours).
    space : NeuroSpace
        Grid, units and TR.
    data_offset : int
        Bytes before the data in the file that holds them.
    intent_code : int
        NIfTI's code for what the data mean.
    header_warnings : tuple of str
        What is possible but most likely wrong; `read_header` warns of it.
    files : NiftiFiles or None
        Where the image was read from; None for bytes that came without a file.
    """

    raw: bytes = field(repr=False)
    version: int
    single: bool
    endianness: str
    dtype: np.dtype[Any]
    colors: int
    stored_shape: tuple[int, ...]
    volume_axis: int | None
    slope: float | None
    inter: float | None
    space: NeuroSpace
    data_offset: int
    intent_code: int
    header_warnings: tuple[str, ...] = ()
    files: NiftiFiles | None = None

    @property
    def kind(self) -> str:
        """``"nifti1"`` or ``"nifti2"``."""
        return f"nifti{self.version}"

    @property
    def disk_dtype(self) -> np.dtype[Any]:
        """Type of the data as they lie in the file, with their byte order."""
        return self.dtype.newbyteorder(">" if self.endianness == ">" else "<")

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds, None if unknown."""
        return self.space.tr

    @property
    def stream_shape(self) -> tuple[int, ...]:
        """Shape of the data in stored order, ``(t, z, y, x)`` or ``(t, z, y, x, c)``.

        A single volume has t = 1.
        """
        x, y, z = self.space.spatial_shape
        color = (self.colors,) if self.colors else ()
        return (self.space.time_points or 1, z, y, x, *color)

    @property
    def plane_nbytes(self) -> int:
        """Bytes of one plane of constant z."""
        return math.prod(self.stream_shape[2:]) * self.dtype.itemsize

    @property
    def volume_nbytes(self) -> int:
        """Bytes of one volume."""
        return self.plane_nbytes * self.stream_shape[1]

    @property
    def data_nbytes(self) -> int:
        """Bytes of all data."""
        return self.volume_nbytes * self.stream_shape[0]

    def to_nibabel(self) -> Any:
        """Parse the bytes into a fresh nibabel header, extensions included.

        Returns
        -------
        nibabel.Nifti1Header, Nifti1PairHeader, Nifti2Header or Nifti2PairHeader

        Raises
        ------
        MetadataError
            If nibabel cannot read the extensions.
        """
        fields = read_fields(self.raw)
        fields.header.extensions = read_extensions(self.raw, fields)
        return fields.header


def read_header(
    url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> NiftiHeader:
    """Read the header of a NIfTI image and check that its file can hold what it promises.

    Costs the header and its extensions, not the data; a size that is wrong is noticed here
    for uncompressed files, and otherwise by `stream_volumes`.

    Parameters
    ----------
    url : str or path
        A ``.nii`` file, or either file of a ``.hdr``/``.img`` pair; compressed or not, which is
        seen from the first bytes; local or any URL that fsspec knows.
    storage_options : mapping, optional
        Passed to fsspec.

    Raises
    ------
    NotFoundError
        If a file, or the other file of a pair, is missing.
    UnknownFormatError
        If this is not NIfTI, or is CIFTI or ANALYZE.
    MetadataError
        If the header contradicts itself or the size of the file.
    LayoutNotSupportedError
        If the data are of a kind, or have dimensions, that cannot be stored.
    CorruptDataError
        If the file is truncated or its compression damaged.
    StorageError
        If it cannot be read.

    Warns
    -----
    HeaderWarning
        If the affine or the TR is most likely wrong.
    """
    files = locate(url, storage_options)
    with (
        naming(files.header_url),
        open_decoded(files.header_url, storage_options) as (file, compressed),
    ):
        raw = _read_raw(file)
        header = parse_header(raw, files=files)
    if files.is_pair:
        with open_decoded(files.data_url, storage_options) as (_, compressed):
            pass
    _check_size(header, files, compressed=compressed)
    for warning in header.header_warnings:
        warnings.warn(f"{shown_url(files.header_url)}: {warning}", HeaderWarning, stacklevel=2)
    return header


def parse_header(raw: bytes, *, files: NiftiFiles | None = None) -> NiftiHeader:
    """Read header bytes, with nibabel's tolerance for small mistakes.

    Parameters
    ----------
    raw : bytes
        As in `NiftiHeader`.
    files : NiftiFiles, optional
        Where they came from.

    Raises
    ------
    UnknownFormatError
        If this is not NIfTI, or is CIFTI or ANALYZE.
    MetadataError
        If the header contradicts itself.
    LayoutNotSupportedError
        If the data are of a kind, or have dimensions, that cannot be stored.
    CorruptDataError
        If bytes are missing.
    """
    fields = read_fields(raw)
    if files is not None and files.is_pair == fields.single:
        forms = ("two files (.hdr and .img)", "one file (.nii)")
        stated, named = forms[fields.single], forms[not fields.single]
        raise MetadataError(f"the header's magic is that of {stated}, the name that of {named}")
    if fields.single and len(raw) != fields.data_offset:
        msg = f"{len(raw)} bytes before the data: the header says {fields.data_offset}"
        raise CorruptDataError(msg)
    if 3000 <= fields.intent_code <= 3099:
        msg = (
            f"a CIFTI file (intent code {fields.intent_code}), not an image of voxels; "
            "extract its volume part first, for example with wb_command -cifti-separate"
        )
        raise UnknownFormatError(msg)
    dtype, colors = fields.data_type
    space, header_warnings = read_space(fields.header)
    slope, inter = (None, None) if colors else fields.scaling
    header = NiftiHeader(
        raw=bytes(raw),
        version=fields.version,
        single=fields.single,
        endianness=fields.endianness,
        dtype=dtype,
        colors=colors,
        stored_shape=fields.shape,
        volume_axis=fold_shape(fields.shape).volume_axis,
        slope=slope,
        inter=inter,
        space=space,
        data_offset=fields.data_offset,
        intent_code=fields.intent_code,
        header_warnings=header_warnings,
        files=files,
    )
    if header.data_offset + header.data_nbytes >= 2**63:
        msg = (
            f"shape {fields.shape} of {dtype} makes {header.data_nbytes} bytes: no file is so large"
        )
        raise MetadataError(msg)
    return header


def make_header(
    space: NeuroSpace,
    dtype: npt.DTypeLike,
    *,
    colors: int = 0,
    slope: float | None = None,
    inter: float | None = None,
    description: str = "fmristore",
) -> bytes:
    """Make header bytes for values that did not come from NIfTI.

    Parameters
    ----------
    space : NeuroSpace
        Grid, TR and units.
    dtype : dtype_like
        Of the stored values; bool is stored as uint8.
    colors : int, optional
        3 or 4 for uint8 values with a trailing colour axis, else 0.
    slope, inter : float, optional
        Scaling; NIfTI-1 holds them as float32.
    description : str, optional
        Free text, cut after 79 bytes.

    Returns
    -------
    bytes
        A little-endian single-file header, 352 bytes (NIfTI-1) or, if a length needs it, 544.

    Raises
    ------
    InvalidInputError
        If NIfTI has no such type, or a scaling that is not finite or has slope 0.
    """
    stored: Any = np.dtype(dtype).newbyteorder("<")
    if stored == np.bool_:
        stored = np.dtype("u1")
    if colors:
        if stored != np.dtype("u1") or colors not in COLORS.values():
            raise InvalidInputError(f"{colors} colours of type {stored}: expected 3 or 4 of uint8")
        stored = np.dtype([(name, "u1") for name in "RGBA"[:colors]])
    elif stored.str[1:] not in PORTABLE_DTYPES.values():
        raise InvalidInputError(
            f"values of type {stored} have no portable form in NIfTI: convert them first, such as "
            "with .astype(numpy.float32)"
        )
    header: Any = space.to_header(stored)
    if header.endianness != "<":
        header = header.as_byteswapped("<")
    slope, inter = (1.0 if slope is None else slope), (0.0 if inter is None else inter)
    limit = float(np.finfo(header["scl_slope"].dtype).max)
    if not (0 < abs(slope) <= limit and abs(inter) <= limit):
        msg = f"slope {slope} and intercept {inter}: expected finite numbers, slope not 0"
        raise InvalidInputError(msg)
    header["scl_slope"], header["scl_inter"] = slope, inter
    header["descrip"] = description.encode("utf-8", "replace")[:79]
    header["vox_offset"] = header.single_vox_offset
    return bytes(header.binaryblock) + bytes(4)


def header_of_image(
    image: Any, space: NeuroSpace, dtype: np.dtype[Any], *, colors: int = 0
) -> bytes | None:
    """Header bytes that keep what the header of a nibabel image in memory says.

    Parameters
    ----------
    image : nibabel image
        Of NIfTI; as on saving by nibabel, its own affine comes before that of its header.
    space : NeuroSpace
        Of the image.
    dtype : dtype
        Of the data, which are not scaled.
    colors : int, optional
        3 or 4 for uint8 values with a trailing colour axis, else 0.

    Returns
    -------
    bytes or None
        A little-endian single-file header with the image's extensions; None if the image is of
        another kind, or its header cannot be that of these data, of which a `HeaderWarning`
        tells.
    """
    import nibabel
    from nibabel.spatialimages import HeaderDataError

    library: Any = nibabel
    if not isinstance(image.header, library.Nifti1Header):
        return None
    second = isinstance(image.header, library.Nifti2Header)
    cls = library.Nifti2Header if second else library.Nifti1Header
    given = image.header if image.header.endianness == "<" else image.header.as_byteswapped("<")
    header = cls(given.binaryblock, "<", check=False)
    stored: Any = np.dtype([(name, "u1") for name in "RGBA"[:colors]]) if colors else dtype
    try:
        header.set_data_dtype(stored)
        header.set_data_shape(image.shape)
        if image.affine is not None and not _says_affine(header, image.affine):
            header.set_sform(image.affine, code="aligned")
            header.set_qform(image.affine, code="unknown")
        header["scl_slope"], header["scl_inter"] = 1.0, 0.0
        header["magic"], header["vox_offset"] = header.single_magic, 0
        header.extensions = image.header.extensions
        file = io.BytesIO()
        header.write_to(file)
        parsed = parse_header(file.getvalue())
    except (HeaderDataError, FmristoreError, ValueError) as error:
        problem = str(error)
    else:
        if (parsed.space.shape, parsed.dtype) == (space.shape, dtype):
            return parsed.raw
        problem = f"it is that of shape {parsed.space.shape} and type {parsed.dtype}"
    warnings.warn(
        f"the header of the image in memory cannot be kept, only grid and TR: {problem:.300}",
        HeaderWarning,
        stacklevel=2,
    )
    return None


def header_with_tr(raw: bytes, tr: float) -> bytes:
    """Header bytes that say another repetition time, and everything else as before.

    Parameters
    ----------
    raw : bytes
        As in `NiftiHeader`, of a run.
    tr : float
        In seconds; stored in the unit of time that the header has, in seconds if it has none.

    Returns
    -------
    bytes
        As many as before. Volumes along a dimension after the fourth are then along the fourth.

    Raises
    ------
    InvalidInputError
        If the header's numbers cannot hold the time.
    """
    parsed = parse_header(raw)
    size = HEADER_SIZE[parsed.version]
    fields = read_fields(raw).header
    units = int(fields["xyzt_units"])
    to_unit = {8: 1.0, 16: 1e3, 24: 1e6}.get(units & 0x38)
    if to_unit is None:
        fields["xyzt_units"] = (units & 0x07) + 8
    if parsed.volume_axis != 3:
        fields.set_data_shape(parsed.space.shape)
    stored = tr * (to_unit or 1.0)
    limits = np.finfo(fields["pixdim"].dtype)
    if not float(limits.tiny) <= stored <= float(limits.max):
        raise InvalidInputError(f"a TR of {tr:g} s is beyond what the NIfTI header can hold")
    fields["pixdim"][4] = stored
    if parsed.volume_axis != 3:  # it was not in seconds before
        fields["toffset"] = 0.0
    return bytes(fields.binaryblock) + raw[size:]


def header_with_start(raw: bytes, start: float) -> bytes:
    """Header bytes that say another time of the first volume, and everything else as before.

    Parameters
    ----------
    raw : bytes
        As in `NiftiHeader`, of a run.
    start : float
        In seconds; stored in the unit of time that the header has.

    Returns
    -------
    bytes
        As many as before.

    Raises
    ------
    InvalidInputError
        If the header's numbers cannot hold the time.
    """
    parsed = parse_header(raw)
    fields = read_fields(raw).header
    stored = start * {16: 1e3, 24: 1e6}.get(int(fields["xyzt_units"]) & 0x38, 1.0)
    if abs(stored) > float(np.finfo(fields["toffset"].dtype).max):
        raise InvalidInputError(f"a start at {start:g} s is beyond what the NIfTI header can hold")
    fields["toffset"] = stored
    return bytes(fields.binaryblock) + raw[HEADER_SIZE[parsed.version] :]


def _says_affine(header: Any, affine: Any) -> bool:
    """Return whether a nibabel header has this affine already."""
    from nibabel.spatialimages import HeaderDataError

    try:
        return bool(np.allclose(affine, header.get_best_affine()))
    except HeaderDataError:
        return False


def _read_raw(file: BinaryIO) -> bytes:
    """Read everything before the data, or the whole header file of a pair."""
    head = file.read(HEADER_SIZE[2])
    fields = read_fields(head)
    if not fields.single:
        rest = file.read(MAX_HEADER_BYTES + 1)
        if len(rest) > MAX_HEADER_BYTES:
            raise MetadataError(f"the header file has more than {MAX_HEADER_BYTES} bytes")
        return head + rest
    offset = fields.data_offset
    raw = head[:offset] + file.read(max(offset - len(head), 0))
    if len(raw) < offset:
        msg = f"the file ends after {len(raw)} bytes, before the data begin at byte {offset}"
        raise CorruptDataError(msg)
    return raw


def _check_size(header: NiftiHeader, files: NiftiFiles, *, compressed: bool) -> None:
    """Compare what the header promises with what the data file can hold."""
    size = file_size(files.data_url, files.storage_options)
    if size is None:
        return
    needed = header.data_offset + header.data_nbytes
    if compressed:
        if size * _DEFLATE_MAX_RATIO < needed:
            msg = (
                f"the header promises {needed} bytes, more than a gzip file of {size} bytes "
                "can hold: the file is truncated or its header wrong"
            )
            raise CorruptDataError(msg, url=files.data_url)
        return
    if size < needed:
        msg = f"truncated: expected {needed} bytes, found {size}"
        raise CorruptDataError(msg, url=files.data_url)
    if size - needed > MAX_TRAILER_BYTES:
        msg = (
            f"the file has {size - needed} unexpected bytes after the {header.data_nbytes} bytes "
            f"that shape {header.stored_shape} of {header.disk_dtype} takes"
        )
        raise MetadataError(msg, url=files.data_url)
