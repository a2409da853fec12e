"""NIfTI headers: kept byte for byte, and read for what they say."""

from __future__ import annotations

import io
import logging
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from fmristore_stores.errors import (
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    LayoutNotSupportedError,
    MetadataError,
    UnknownFormatError,
)

from fmristore.nifti.files import NiftiFiles, file_size, locate, open_decoded
from fmristore.space import NeuroSpace, fold_shape

__all__ = ["MAX_TRAILER_BYTES", "NiftiHeader", "make_header", "parse_header", "read_header"]

MAX_TRAILER_BYTES = 1 << 20
"""Bytes that may follow the numbers of an image; more are taken for a wrong header."""

MAX_HEADER_BYTES = 64 << 20
"""Bytes that a header with its extensions may have."""

_DEFLATE_MAX_RATIO = 1032
"""A deflate stream cannot hold more bytes per byte than this."""

_HEADER_SIZE = {1: 348, 2: 540}
_SINGLE_MIN_OFFSET = {1: 352, 2: 544}
_DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    32: "c8",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
    1792: "c16",
}
_COLORS = {128: 3, 2304: 4}
_REFUSED = {
    1: "binary data (1 bit per voxel) are not supported; convert them to uint8",
    1536: "float128 has no portable stored form; convert the image to float64",
    2048: "complex256 has no portable stored form; convert the image to complex128",
}
_SILENT = logging.Logger("fmristore.nifti", level=logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiHeader:
    """What a NIfTI header says, and its bytes.

    Parameters
    ----------
    raw : bytes
        Single file: all bytes before the numbers. Pair: all bytes of the header file.
        Header, extension flag, extensions and any gap, exactly as they are stored.
    version : int
        1 or 2.
    single : bool
        Whether header and numbers share a file.
    endianness : str
        ``"<"`` or ``">"``, of header and numbers.
    dtype : dtype
        Of the numbers in a stream: little-endian, uint8 for colours.
    colors : int
        Length of the trailing colour axis: 3 for RGB24, 4 for RGBA32, else 0.
    stored_shape : tuple of int
        As in the header, x first, one to seven lengths.
    volume_axis : int or None
        Dimension of `stored_shape` that numbers the volumes: 3 is time; 4 to 6 are something
        else, and there is no TR; None for a single volume.
    slope, inter : float or None
        The number meant is ``stored * slope + inter``; None if the header asks for no scaling
        (slope 0 or not finite, or colours).
    space : NeuroSpace
        Grid, units and TR.
    data_offset : int
        Bytes before the numbers in the file that holds them.
    intent_code : int
        NIfTI's code for what the numbers mean.
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
    files: NiftiFiles | None = None

    @property
    def kind(self) -> str:
        """``"nifti1"`` or ``"nifti2"``."""
        return f"nifti{self.version}"

    @property
    def disk_dtype(self) -> np.dtype[Any]:
        """Type of the numbers as they lie in the file, with their byte order."""
        return self.dtype.newbyteorder(self.endianness)

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds, None if unknown."""
        return self.space.tr

    @property
    def stream_shape(self) -> tuple[int, ...]:
        """Shape of the numbers in stored order, ``(t, z, y, x)`` or ``(t, z, y, x, c)``.

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
        """Bytes of all numbers."""
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
        from nibabel.spatialimages import HeaderDataError

        header_class = _nibabel_class(self.version, single=self.single)
        try:
            header = header_class.from_fileobj(io.BytesIO(self.raw), check=False)
        except HeaderDataError as error:
            raise MetadataError(f"the extensions cannot be read: {error}") from error
        header.check_fix(logger=_SILENT)
        return header


def read_header(
    url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> NiftiHeader:
    """Read the header of a NIfTI image and check that its file can hold what it promises.

    Costs the header and its extensions, not the numbers; a size that is wrong is noticed here
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
        If the numbers are of a kind, or have dimensions, that cannot be stored.
    CorruptDataError
        If the file is truncated or its compression damaged.
    StorageError
        If it cannot be read.
    """
    files = locate(url, storage_options)
    with (
        _naming(files.header_url),
        open_decoded(files.header_url, storage_options) as (file, compressed),
    ):
        raw = _read_raw(file)
        header = parse_header(raw, files=files)
    if files.is_pair:
        with open_decoded(files.data_url, storage_options) as (_, compressed):
            pass
    _check_size(header, files, compressed=compressed)
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
        If the numbers are of a kind, or have dimensions, that cannot be stored.
    CorruptDataError
        If bytes are missing.
    """
    version, single = _identify(raw)
    if files is not None and files.is_pair == single:
        forms = ("two files (.hdr and .img)", "one file (.nii)")
        msg = f"the header's magic is that of {forms[single]}, the name that of {forms[not single]}"
        raise MetadataError(msg)
    fields = _structure(raw, version, single=single)
    data_offset = _data_offset(float(fields["vox_offset"]), version, single=single)
    if single and len(raw) != data_offset:
        msg = f"{len(raw)} bytes before the numbers: the header says {data_offset}"
        raise CorruptDataError(msg)
    intent_code = int(fields["intent_code"])
    if 3000 <= intent_code <= 3099:
        msg = (
            f"a CIFTI file (intent code {intent_code}), not an image of voxels; "
            "extract its volume part first, for example with wb_command -cifti-separate"
        )
        raise UnknownFormatError(msg)
    dtype, colors = _data_type(int(fields["datatype"]))
    shape = _shape(fields)
    space = NeuroSpace.from_nibabel(fields)
    slope, inter = (None, None) if colors else _scaling(fields)
    header = NiftiHeader(
        raw=bytes(raw),
        version=version,
        single=single,
        endianness=str(fields.endianness),
        dtype=dtype,
        colors=colors,
        stored_shape=shape,
        volume_axis=fold_shape(shape).volume_axis,
        slope=slope,
        inter=inter,
        space=space,
        data_offset=data_offset,
        intent_code=intent_code,
        files=files,
    )
    if header.data_offset + header.data_nbytes >= 2**63:
        msg = f"shape {shape} of {dtype} makes {header.data_nbytes} bytes: no file is so large"
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
    """Make header bytes for numbers that did not come from NIfTI.

    Parameters
    ----------
    space : NeuroSpace
        Grid, TR and units.
    dtype : dtype_like
        Of the stored numbers; bool is stored as uint8.
    colors : int, optional
        3 or 4 for uint8 numbers with a trailing colour axis, else 0.
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
        if stored != np.dtype("u1") or colors not in _COLORS.values():
            raise InvalidInputError(f"{colors} colours of type {stored}: expected 3 or 4 of uint8")
        stored = np.dtype([(name, "u1") for name in "RGBA"[:colors]])
    header = space.to_header(stored)
    if header.endianness != "<":
        header = header.as_byteswapped("<")
    slope, inter = (1.0 if slope is None else slope), (0.0 if inter is None else inter)
    if not (math.isfinite(slope) and math.isfinite(inter)) or slope == 0:
        raise InvalidInputError(f"slope {slope} and intercept {inter}: expected finite, slope not 0")
    header.set_slope_inter(slope, inter)
    header["descrip"] = description.encode("utf-8", "replace")[:79]
    header["vox_offset"] = header.single_vox_offset
    return bytes(header.binaryblock) + bytes(4)


class _naming:
    """Adds the name of the file to errors that were raised without one."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FmristoreError) and error.url is None:
            error.url = self._url


def _read_raw(file: BinaryIO) -> bytes:
    """Read everything before the numbers, or the whole header file of a pair."""
    head = file.read(_HEADER_SIZE[2])
    version, single = _identify(head)
    if not single:
        rest = file.read(MAX_HEADER_BYTES + 1)
        if len(rest) > MAX_HEADER_BYTES:
            raise MetadataError(f"the header file has more than {MAX_HEADER_BYTES} bytes")
        return head + rest
    fields = _structure(head, version, single=single)
    offset = _data_offset(float(fields["vox_offset"]), version, single=single)
    raw = head[:offset] + file.read(max(offset - len(head), 0))
    if len(raw) < offset:
        msg = f"the file ends after {len(raw)} bytes, before the numbers begin at byte {offset}"
        raise CorruptDataError(msg)
    return raw


def _identify(head: bytes) -> tuple[int, bool]:
    """Find NIfTI version, and whether header and data share a file, from the first 540 bytes."""
    if not head:
        raise UnknownFormatError("the file is empty: expected a NIfTI image")
    size = {struct.unpack(order, head[:4])[0] for order in ("<i", ">i") if len(head) >= 4}
    if 540 in size and head[4:8] in (b"n+2\0", b"ni2\0"):
        version, magic = 2, head[4:8]
    elif head[344:348] in (b"n+1\0", b"ni1\0"):
        version, magic = 1, head[344:348]
    elif 348 in size and len(head) >= 348:
        msg = "an ANALYZE or SPM header without the NIfTI magic; convert the image to NIfTI first"
        raise UnknownFormatError(msg)
    else:
        msg = "not a NIfTI image: neither the magic of NIfTI-1 nor that of NIfTI-2 was found"
        raise UnknownFormatError(msg)
    if len(head) < _HEADER_SIZE[version]:
        msg = f"the header ends after {len(head)} of {_HEADER_SIZE[version]} bytes"
        raise CorruptDataError(msg)
    return version, magic.startswith(b"n+")


def _nibabel_class(version: int, *, single: bool) -> Any:
    from nibabel import nifti1, nifti2

    if version == 1:
        return nifti1.Nifti1Header if single else nifti1.Nifti1PairHeader
    return nifti2.Nifti2Header if single else nifti2.Nifti2PairHeader


def _structure(raw: bytes, version: int, *, single: bool) -> Any:
    """Nibabel header of the fixed part, small mistakes mended as nibabel does."""
    from nibabel.spatialimages import HeaderDataError

    header = _nibabel_class(version, single=single)(raw[: _HEADER_SIZE[version]], check=False)
    _data_offset(float(header["vox_offset"]), version, single=single)
    code = int(header["datatype"])
    if code in _REFUSED:
        raise LayoutNotSupportedError(_REFUSED[code])
    try:
        header.check_fix(logger=_SILENT, error_level=40)
    except HeaderDataError as error:
        raise MetadataError(f"the header is not valid: {error}") from error
    return header


def _data_offset(stored: float, version: int, *, single: bool) -> int:
    """Check where the header says that the numbers begin."""
    least = _SINGLE_MIN_OFFSET[version] if single else 0
    if not (math.isfinite(stored) and stored == int(stored) and stored >= least):
        msg = f"vox_offset is {stored:g}: expected a whole number of at least {least}"
        raise MetadataError(msg)
    if stored > MAX_HEADER_BYTES:
        msg = f"vox_offset is {stored:.0f}: headers above {MAX_HEADER_BYTES} bytes are not read"
        raise MetadataError(msg)
    return int(stored)


def _shape(fields: Any) -> tuple[int, ...]:
    from nibabel.spatialimages import HeaderDataError

    rank = int(fields["dim"][0])
    if not 1 <= rank <= 7:
        raise MetadataError(f"dim[0] is {rank}: expected 1 to 7 dimensions")
    try:
        return tuple(int(length) for length in fields.get_data_shape())
    except HeaderDataError as error:
        raise MetadataError(f"the dimensions are not valid: {error}") from error


def _data_type(code: int) -> tuple[np.dtype[Any], int]:
    """Little-endian type of a stream, and its number of colours."""
    if code in _COLORS:
        return np.dtype("u1"), _COLORS[code]
    if code not in _DTYPES:
        raise MetadataError(f"datatype code {code} is not one of NIfTI's")
    return np.dtype(_DTYPES[code]).newbyteorder("<"), 0


def _scaling(fields: Any) -> tuple[float | None, float | None]:
    from nibabel.spatialimages import HeaderDataError

    try:
        slope, inter = fields.get_slope_inter()
    except HeaderDataError as error:
        raise MetadataError(f"the scaling is not valid: {error}") from error
    return slope, inter


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
