"""Checking that the parts of a stored image agree with each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fmristore.formats.dense import DenseImage
from fmristore.nifti import NiftiHeader, parse_header
from fmristore.verification.arrays import DAMAGE, UNABLE
from fmristore.verification.report import Findings
from fmristore_stores.cache import ChunkCache
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.opening import Handle, Locator
from fmristore_stores.protocol import Array, Store
from fmristore_stores.reader import ChunkReader

__all__ = ["FixedHandle", "check_image"]

_TOLERANCE = 1e-5
"""NIfTI-1 holds spacings and slopes as float32."""


class FixedHandle(Handle):
    """A hold on one opened store that shares nothing with other users of the same URL.

    Parameters
    ----------
    locator : Locator
        Where the store is.
    store : Store
        To be closed by the caller.
    """

    def __init__(self, locator: Locator, store: Store) -> None:
        self.locator = locator
        self._opened = store

    @property
    def store(self) -> Store:
        """The opened store."""
        return self._opened

    @property
    def closed(self) -> bool:
        """Whether the store is closed."""
        return self._opened.closed

    def close(self) -> None:
        """Do nothing: the store belongs to the caller."""


def check_image(
    cls: type[DenseImage], handle: Handle, arrays: Mapping[str, Array], findings: Findings
) -> DenseImage | None:
    """Check header, space and coordinates; return the image if it can be opened at all."""
    try:
        image = cls(handle)
    except DAMAGE as error:
        findings.error(error, "")
        return None
    except UNABLE as error:
        findings.note("not-checked", "", error.message)
        return None
    try:
        header = parse_header(image.header_bytes)
    except (*DAMAGE, *UNABLE, InvalidInputError) as error:
        findings.problem("header", "nifti", f"the header cannot be read: {error.message}")
    else:
        for text in _contradictions(image, header):
            findings.problem("header", "nifti", text)
    if "t" in arrays:
        _check_times(image, ChunkReader(arrays["t"], cache=ChunkCache(0)), findings)
    if image.digest is None:
        findings.note("no-digest", "0", "no digest was recorded")
    return image


def _contradictions(image: DenseImage, header: NiftiHeader) -> list[str]:
    """What the header says otherwise than the image."""
    found = []
    if header.space.shape != image.shape:
        found.append(f"the header's shape is {header.space.shape}, the image's {image.shape}")
    elif not image.space.same_grid(header.space):
        distance = image.space.grid_distance(header.space)
        found.append(f"the header's affine differs from the image's, by up to {distance:.3g} mm")
    colors = len(image.stored_dtype.names or ())
    number = np.dtype("u1") if colors else image.stored_dtype
    if (header.dtype, header.colors) != (number, colors):
        theirs = f"{header.colors} colours" if header.colors else header.dtype
        found.append(f"the header's type is {theirs}, the image's {image.stored_dtype}")
    told, kept = header.tr, image.space.tr
    if (told is None) != (kept is None) or not np.isclose(told or 0, kept or 0, rtol=_TOLERANCE):
        found.append(f"the header's TR is {told} s, the image's {kept} s")
    said = (1.0 if header.slope is None else header.slope, header.inter or 0.0)
    slope: Any = 1.0 if image.slope is None else image.slope
    inter: Any = 0.0 if image.inter is None else image.inter
    meant = (slope, inter)
    if np.ndim(slope) == 0 and not np.allclose(said, meant, rtol=_TOLERANCE):
        found.append(f"the header's slope and intercept are {said}, the image's {meant}")
    return found


def _check_times(image: DenseImage, reader: ChunkReader, findings: Findings) -> None:
    """Compare the times of the volumes with the repetition time."""
    volumes, tr = image.space.time_points or 0, image.space.tr
    try:
        right = reader.spec.shape == (volumes,) and tr is not None
        if not right or not np.allclose(reader.read(), np.arange(volumes) * (tr or 0)):
            text = f"the times of the volumes are not those of {volumes} volumes, TR {tr} s"
            findings.problem("times", "t", text)
    except (*DAMAGE, *UNABLE) as error:
        findings.problem("times", "t", error.message)
