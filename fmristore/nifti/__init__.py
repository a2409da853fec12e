"""NIfTI in and out, streaming: headers kept byte for byte, data read once in bounded memory."""

from __future__ import annotations

from fmristore.nifti.derived import (
    common_header,
    fit_header,
    form_codes,
    grid_header,
    header_in_space,
)
from fmristore.nifti.files import NIFTI_SUFFIXES, NiftiFiles, is_nifti_name
from fmristore.nifti.header import (
    NiftiHeader,
    header_of_image,
    header_with_start,
    header_with_tr,
    make_header,
    parse_header,
    read_header,
)
from fmristore.nifti.stream import VolumeBlock, VolumeStream, stream_volumes
from fmristore.nifti.writer import NiftiWriter, WriteOptions, write_nifti

__all__ = [
    "NIFTI_SUFFIXES",
    "NiftiFiles",
    "NiftiHeader",
    "NiftiWriter",
    "VolumeBlock",
    "VolumeStream",
    "WriteOptions",
    "common_header",
    "fit_header",
    "form_codes",
    "grid_header",
    "header_in_space",
    "header_of_image",
    "header_with_start",
    "header_with_tr",
    "is_nifti_name",
    "make_header",
    "parse_header",
    "read_header",
    "stream_volumes",
    "write_nifti",
]
