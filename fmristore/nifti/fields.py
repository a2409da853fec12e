"""Fields of the fixed part of a NIfTI header, with nibabel's tolerance for small mistakes."""

from __future__ import annotations

import io
import logging
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmristore_stores.errors import (
    CorruptDataError,
    LayoutNotSupportedError,
    MetadataError,
    UnknownFormatError,
)

__all__ = [
    "COLORS",
    "HEADER_SIZE",
    "MAX_HEADER_BYTES",
    "PORTABLE_DTYPES",
    "HeaderFields",
    "end_of_extensions",
    "read_extensions",
    "read_fields",
]

MAX_HEADER_BYTES = 64 << 20
"""Bytes that a header with its extensions may have."""

HEADER_SIZE = {1: 348, 2: 540}
"""Bytes of the fixed part; a flag of four bytes follows, and then the extensions."""

PORTABLE_DTYPES = {
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
"""Types by NIfTI's codes, as far as every store and program knows them."""

COLORS = {128: 3, 2304: 4}
"""Number of uint8 per voxel, by NIfTI's codes."""

_REFUSED = {
    1: "binary data (1 bit per voxel) are not supported; convert them to uint8",
    1536: "float128 has no portable stored form; convert the image to float64",
    2048: "complex256 has no portable stored form; convert the image to complex128",
}
_SILENT = logging.Logger("fmristore.nifti", level=logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class HeaderFields:
    """The fixed part of a header, checked and mended as nibabel does.

    Parameters
    ----------
    version : int
        1 or 2.
    single : bool
        Whether header and values share a file, by the magic.
    data_offset : int
        Where the data begin.
    header : nibabel.Nifti1Header or one of its siblings
        The fields, without extensions.
    """

    version: int
    single: bool
    data_offset: int
    header: Any

    @property
    def endianness(self) -> str:
        """``"<"`` or ``">"``."""
        return str(self.header.endianness)

    @property
    def intent_code(self) -> int:
        """NIfTI's code for what the data mean."""
        return int(self.header["intent_code"])

    @property
    def data_type(self) -> tuple[np.dtype[Any], int]:
        """Little-endian type of a stream, and its number of colours."""
        code = int(self.header["datatype"])
        if code in COLORS:
            return np.dtype("u1"), COLORS[code]
        if code not in PORTABLE_DTYPES:
            raise MetadataError(f"datatype code {code} is not one of NIfTI's")
        return np.dtype(PORTABLE_DTYPES[code]).newbyteorder("<"), 0

    @property
    def shape(self) -> tuple[int, ...]:
        """One to seven lengths, x first, as nibabel reads them."""
        return tuple(int(length) for length in self.header.get_data_shape())

    @property
    def scaling(self) -> tuple[float | None, float | None]:
        """Slope and intercept, None and None if the header asks for no scaling."""
        from nibabel.spatialimages import HeaderDataError

        try:
            slope, inter = self.header.get_slope_inter()
        except HeaderDataError as error:
            raise MetadataError(f"the scaling is not valid: {error}") from error
        return slope, inter


def read_fields(head: bytes) -> HeaderFields:
    """Read the fixed part of a header, of which `head` holds at least the bytes there are.

    Raises
    ------
    UnknownFormatError
        If this is not NIfTI.
    CorruptDataError
        If it is cut short.
    MetadataError
        If fields contradict each other.
    LayoutNotSupportedError
        If the data are of a type that cannot be stored.
    """
    from nibabel.spatialimages import HeaderDataError

    version, single = _identify(head)
    header = _nibabel_class(version, single=single)(head[: HEADER_SIZE[version]], check=False)
    rank = int(header["dim"][0])
    if not 1 <= rank <= 7:
        raise MetadataError("dim[0] is not 1 to 7 in either byte order")
    offset = _data_offset(float(header["vox_offset"]), version, single=single)
    code = int(header["datatype"])
    if code in _REFUSED:
        raise LayoutNotSupportedError(_REFUSED[code])
    try:
        header.check_fix(logger=_SILENT, error_level=40)
    except HeaderDataError as error:
        raise MetadataError(f"the header is not valid: {error}") from error
    return HeaderFields(version, single, offset, header)


def _nibabel_class(version: int, *, single: bool) -> Any:
    """Nibabel's class of header."""
    from nibabel import nifti1, nifti2

    if version == 1:
        return nifti1.Nifti1Header if single else nifti1.Nifti1PairHeader
    return nifti2.Nifti2Header if single else nifti2.Nifti2PairHeader


def end_of_extensions(raw: bytes, version: int, endianness: str) -> int:
    """Position after the last well-formed extension, or after the flag that says there are none."""
    end = HEADER_SIZE[version] + 4
    if len(raw) < end or not raw[end - 4]:
        return min(end, len(raw))
    while end + 8 <= len(raw):
        (size,) = struct.unpack_from(f"{endianness}i", raw, end)
        if size < 8 or end + size > len(raw):
            break
        end += size
    return end


def read_extensions(raw: bytes, fields: HeaderFields) -> Any:
    """Nibabel's list of the well-formed extensions.

    Raises
    ------
    MetadataError
        If nibabel cannot read the content of one.
    """
    start = HEADER_SIZE[fields.version] + 4
    part = raw[start : end_of_extensions(raw, fields.version, fields.endianness)]
    swapped = (fields.endianness == "<") != np.little_endian
    try:
        return fields.header.exts_klass.from_fileobj(io.BytesIO(part), len(part), swapped)
    except ValueError as error:
        raise MetadataError(f"the extensions cannot be read: {error}") from error


def _identify(head: bytes) -> tuple[int, bool]:
    """Find NIfTI version, and whether header and data share a file."""
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
        msg = (
            "not a NIfTI image: neither the magic of NIfTI-1 nor that of NIfTI-2 was found; "
            "convert it to NIfTI, or give the image or the array that its own library reads"
        )
        raise UnknownFormatError(msg)
    if len(head) < HEADER_SIZE[version]:
        msg = f"the header ends after {len(head)} of {HEADER_SIZE[version]} bytes"
        raise CorruptDataError(msg)
    return version, magic.startswith(b"n+")


def _data_offset(stored: float, version: int, *, single: bool) -> int:
    """Check where the header says that the data begin."""
    least = HEADER_SIZE[version] + 4 if single else 0
    if not (math.isfinite(stored) and stored == int(stored) and stored >= least):
        msg = (
            f"vox_offset is {stored:g}: expected a whole number of at least {least}; correct the "
            "header, or save the image again with the program that wrote it"
        )
        raise MetadataError(msg)
    if stored > MAX_HEADER_BYTES:
        msg = f"vox_offset is {stored:.0f}: headers above {MAX_HEADER_BYTES} bytes are not read"
        raise MetadataError(msg)
    return int(stored)
