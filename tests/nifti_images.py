"""Small NIfTI images of every kind, made with nibabel, for the tests of reading and writing."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as untyped_nibabel
import numpy as np
from hypothesis import strategies as st

from fmristore.nifti import NiftiHeader, is_nifti_name, stream_volumes
from fmristore_stores.protocol import AnyArray

nibabel: Any = untyped_nibabel

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
RGBA = np.dtype([*RGB.descr, ("A", "u1")])
NUMBERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "c8", "c16")
DTYPES = [*map(np.dtype, NUMBERS), RGB, RGBA]
INT16 = np.dtype("i2")

REFUSED = {
    "nibabel_nifti1.hdr": "NotFoundError",
    "nibabel_row_major.dconn.nii": "UnknownFormatError",
    "niftitest_run.210_7d.nii": "LayoutNotSupportedError",
}
"""Real files that are not images this package can hold, and the class of the refusal."""


@dataclass(frozen=True)
class Recipe:
    """What an image is made of."""

    shape: tuple[int, ...] = (4, 5, 6, 7)
    dtype: np.dtype[Any] = INT16
    endianness: str = "<"
    version: int = 1
    single: bool = True
    compressed: bool = False
    extensions: tuple[bytes, ...] = ()
    gap: int = 0
    slope: float = 1.0
    inter: float = 0.0
    trailer: bytes = b""
    seed: int = 0

    @property
    def name(self) -> str:
        """File name that fits."""
        return ("image.nii" if self.single else "image.hdr") + (".gz" if self.compressed else "")

    @property
    def data(self) -> bytes:
        """Bytes of the data as they lie on the disk: any bits at all, NaN payloads too."""
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        return np.random.default_rng(self.seed).bytes(size)

    def files(self) -> dict[str, bytes]:
        """Uncompressed content of each file."""
        raw = self.header()
        if self.single:
            return {".nii": raw + self.data + self.trailer}
        return {".hdr": raw, ".img": bytes(self.gap) + self.data + self.trailer}

    def header(self) -> bytes:
        """Bytes before the data."""
        module = nibabel.nifti1 if self.version == 1 else nibabel.nifti2
        name = f"Nifti{self.version}{'' if self.single else 'Pair'}Header"
        header = getattr(module, name)(endianness=self.endianness)
        header.set_data_shape(self.shape)
        header.set_data_dtype(self.dtype)
        header.set_zooms((2.0, 2.5, 3.0, 1.5, 1.0, 1.0, 1.0)[: len(self.shape)])
        header.set_xyzt_units("mm", "sec")
        header.set_sform(np.diag([-2.0, 2.5, 3.0, 1]), 1)
        header["scl_slope"], header["scl_inter"] = self.slope, self.inter
        tail = b"" if not self.single else bytes(4)
        if self.extensions:
            parts = [b"\1\0\0\0"]
            for text in self.extensions:
                size = -(-(len(text) + 8) // 16) * 16
                head = struct.pack(f"{self.endianness}2i", size, 6)
                parts.append(head + text.ljust(size - 8, b"\0"))
            tail = b"".join(parts)
        if self.single:
            tail += bytes(self.gap)
            header["vox_offset"] = len(header.binaryblock) + len(tail)
        else:
            header["vox_offset"] = self.gap
        return bytes(header.binaryblock) + tail

    def write(self, folder: Path) -> Path:
        """Write the image; return the path of its (header) file."""
        for suffix, content in self.files().items():
            path = folder / f"image{suffix}{'.gz' if self.compressed else ''}"
            path.write_bytes(gzip.compress(content, 1) if self.compressed else content)
        return folder / self.name


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Images of every kind that can be read."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    if len(shape) == 4:
        ones = draw(st.integers(0, 3))
        at = draw(st.integers(0, ones))
        extra = [1] * ones
        extra.insert(at, shape.pop())
        shape += extra
    extensions = tuple(draw(st.lists(st.binary(max_size=40), max_size=2)))
    # Nibabel cannot read a gap after extensions, so there is none here.
    return Recipe(
        shape=tuple(shape),
        dtype=draw(st.sampled_from(DTYPES)),
        endianness=draw(st.sampled_from("<>")),
        version=draw(st.sampled_from([1, 2])),
        single=draw(st.booleans()),
        compressed=draw(st.booleans()),
        extensions=extensions,
        gap=16 * draw(st.integers(0, 2)) * (not extensions),
        slope=draw(st.sampled_from([1.0, 0.0, 0.25, -3.0, float("nan")])),
        inter=draw(st.sampled_from([0.0, 7.5])),
        trailer=draw(st.binary(max_size=5)),
        seed=draw(st.integers(0, 2**32)),
    )


def real_images(shared_data: Path) -> list[Path]:
    """Every real image of the shared data that can be read; one name for a pair."""
    folder = shared_data / "data" / "real"
    return sorted(
        path
        for path in folder.rglob("*")
        if is_nifti_name(path)
        and ".img" not in path.name
        and not path.name.startswith("analyze_")
        and path.name not in REFUSED
    )


def collect(header: NiftiHeader, **options: Any) -> tuple[AnyArray, bytes]:
    """All numbers of an image, and its trailer, through the stream."""
    result = np.empty(header.stream_shape, header.dtype)
    result.view(np.uint8).fill(0xA5)
    with stream_volumes(header, **options) as stream:
        for block in stream:
            volumes, planes = block.values.shape[:2]
            assert block.values.dtype == header.dtype
            assert block.values.flags.c_contiguous
            assert block.values.nbytes <= options.get("max_bytes", 1 << 60)
            t, z = slice(block.t0, block.t0 + volumes), slice(block.z0, block.z0 + planes)
            result[t, z] = block.values
        return result, stream.trailer


def by_nibabel(path: Path, header: NiftiHeader) -> AnyArray:
    """The same numbers as nibabel reads them, in stored order."""
    values = np.asanyarray(nibabel.load(path).dataobj.get_unscaled())
    if header.colors:
        values = values.copy(order="F")
        flat = values.reshape(-1, order="F").view(np.uint8)
    else:
        flat = values.reshape(-1, order="F").astype(header.dtype)
    result: AnyArray = flat.reshape(header.stream_shape)
    return result


def same_bits(left: AnyArray, right: AnyArray) -> bool:
    """Return whether two arrays agree in shape, type and every bit."""
    return (left.shape, left.dtype, left.tobytes()) == (right.shape, right.dtype, right.tobytes())


def content(path: Path | str) -> bytes:
    """Uncompressed bytes of a file."""
    data = Path(path).read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
