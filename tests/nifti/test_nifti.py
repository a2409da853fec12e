"""Reading NIfTI: headers and streams, good and bad files; nibabel is the judge."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmristore.model.space import HeaderWarning, NeuroSpace
from fmristore.nifti import (
    NiftiHeader,
    is_nifti_name,
    make_header,
    parse_header,
    read_header,
    stream_volumes,
)
from fmristore.nifti import stream as streaming
from fmristore_stores import errors
from fmristore_stores.errors import (
    ChangedError,
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    LayoutNotSupportedError,
    MemoryLimitError,
    MetadataError,
    NotFoundError,
    UnknownFormatError,
)
from tests.images import PEAK, from_proc
from tests.nifti_images import (
    DTYPES,
    NUMBERS,
    REFUSED,
    Recipe,
    by_nibabel,
    collect,
    nibabel,
    real_images,
    recipes,
    same_bits,
)

ONEBACK = "data/real/bold/sub-02_task-oneback_run-1_bold.nii.gz"


def check_against_nibabel(path: Path) -> NiftiHeader:
    header = read_header(path)
    image: Any = nibabel.load(path)
    proxy = image.dataobj
    assert header.stored_shape == image.shape
    assert header.version == (2 if isinstance(image.header, nibabel.Nifti2Header) else 1)
    assert header.single == isinstance(image, nibabel.Nifti1Image)
    assert header.endianness == image.header.endianness
    assert header.data_offset == proxy.offset
    if not header.colors:
        scaling = (1.0, 0.0) if header.slope is None else (header.slope, header.inter)
        assert scaling == (proxy.slope, proxy.inter)
    np.testing.assert_allclose(header.space.affine, image.affine, rtol=1e-12)
    values, _ = collect(header, max_bytes=8 << 20)
    assert same_bits(values, by_nibabel(path, header))
    assert header.to_nibabel().extensions == image.header.extensions
    return header


def test_real_images_read_as_nibabel_does(shared_data: Path) -> None:
    paths = real_images(shared_data)
    assert len(paths) > 60
    for path in paths:
        check_against_nibabel(path)


@pytest.mark.parametrize(("name", "error"), REFUSED.items())
def test_real_files_that_are_refused(shared_data: Path, name: str, error: str) -> None:
    with pytest.raises(getattr(errors, error)) as caught:
        read_header(shared_data / "data" / "real" / "odd" / name)
    assert Path(str(caught.value.url)).stem == Path(name).stem


def test_facts_of_a_real_run(shared_data: Path) -> None:
    header = read_header(shared_data / ONEBACK)
    assert header.kind == "nifti1"
    assert header.stream_shape == (156, 35, 80, 80)
    assert (header.dtype, header.disk_dtype, header.colors) == (np.dtype("<i2"), np.dtype("<i2"), 0)
    assert header.volume_axis == 3
    assert header.tr == pytest.approx(1.79355, abs=1e-4)
    assert header.data_nbytes == 156 * 35 * 80 * 80 * 2
    assert header.slope == pytest.approx(75.5384, abs=1e-3)
    assert header.header_warnings == ()
    odd = shared_data / "data" / "real" / "odd"
    atlas = read_header(odd / "neurovault_TTatlas_5d.nii.gz")
    assert (atlas.volume_axis, atlas.space.time_points, atlas.tr) == (4, 2, None)
    assert collect(atlas)[1] == b"\n"
    colored = read_header(odd / "niivue_rgb_ct_perfusion.nii.gz")
    assert colored.stream_shape == (1, 15, 286, 256, 3)
    assert colored.space.time_points is None


@given(recipes(), st.integers(1, 2000))
@settings(max_examples=120)
def test_made_images_read_as_nibabel_does(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, max_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("image")
    path = recipe.write(folder)
    header = check_against_nibabel(path)
    assert header.raw == recipe.header()
    values, trailer = collect(header, max_bytes=max(max_bytes, header.plane_nbytes))
    assert same_bits(values, by_nibabel(path, header))
    assert trailer == recipe.trailer
    shutil.rmtree(folder)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("endianness", "<>")
def test_every_type(tmp_path: Path, dtype: np.dtype[Any], endianness: str) -> None:
    header = check_against_nibabel(Recipe(dtype=dtype, endianness=endianness).write(tmp_path))
    assert header.colors == len(dtype.names or ())
    assert header.disk_dtype.newbyteorder("<") == header.dtype


def test_blocks(tmp_path: Path) -> None:
    header = read_header(Recipe(shape=(4, 5, 6, 7)).write(tmp_path))
    assert (header.plane_nbytes, header.volume_nbytes, header.data_nbytes) == (40, 240, 1680)

    def places(max_bytes: int) -> list[tuple[int, int, int, int]]:
        with stream_volumes(header, max_bytes=max_bytes) as stream:
            return [(b.t0, b.z0, *b.values.shape[:2]) for b in stream]

    assert places(10**6) == [(0, 0, 7, 6)]
    assert places(3 * 240) == [(0, 0, 3, 6), (3, 0, 3, 6), (6, 0, 1, 6)]
    assert places(240) == [(t, 0, 1, 6) for t in range(7)]
    assert places(239)[:3] == [(0, 0, 1, 5), (0, 5, 1, 1), (1, 0, 1, 5)]
    assert len(places(40)) == 42
    with pytest.raises(MemoryLimitError, match="40 bytes"):
        stream_volumes(header, max_bytes=39)


def test_blocks_are_the_callers_own(tmp_path: Path) -> None:
    header = read_header(Recipe().write(tmp_path))
    whole, _ = collect(header)
    with stream_volumes(header, max_bytes=240) as stream:
        kept = [block.values for block in stream]
        for number, values in enumerate(kept):
            assert same_bits(values[0], whole[number])
            values[...] = 0


def test_progress_and_trailer(tmp_path: Path) -> None:
    header = read_header(Recipe(trailer=b"tail", compressed=True).write(tmp_path))
    seen: list[int] = []
    stream = stream_volumes(header, max_bytes=500, progress=seen.append)
    with pytest.raises(InvalidInputError, match="trailer"):
        _ = stream.trailer
    for _ in stream:
        pass
    assert stream.trailer == b"tail"
    assert seen == [480, 960, 1440, 1680]
    assert list(stream) == []
    assert stream.trailer == b"tail"


def test_a_stream_can_be_left_early(tmp_path: Path) -> None:
    header = read_header(Recipe(compressed=True).write(tmp_path))
    before = threading.active_count()
    with stream_volumes(header, max_bytes=240) as stream:
        next(stream)
    assert list(stream) == []
    dropped = stream_volumes(header, max_bytes=240)
    next(dropped)
    del dropped
    assert threading.active_count() == before
    with pytest.raises(InvalidInputError, match="trailer"):
        _ = stream.trailer


def test_reading_runs_one_block_ahead_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = threading.Semaphore(0)
    plainly = streaming._Reader.block

    def block(self: streaming._Reader, *place: Any) -> streaming.VolumeBlock:
        found = plainly(self, *place)
        read.release()
        return found

    monkeypatch.setattr(streaming._Reader, "block", block)
    header = read_header(Recipe(compressed=True).write(tmp_path))
    with stream_volumes(header, max_bytes=240) as blocks:
        for _ in range(2):
            next(blocks)
            assert read.acquire(timeout=300)  # the one that was asked for
            assert read.acquire(timeout=300)  # the next one, while the caller is busy
            assert not read.acquire(blocking=False)
            read.release()


@pytest.mark.parametrize(
    "name",
    ["image.HDR", "image.IMG", "image.Hdr", "image.img", "image.hdr.gz", "image.IMG.GZ"],
)
def test_pairs_by_either_name(tmp_path: Path, name: str) -> None:
    recipe = Recipe(single=False, gap=32)
    compress = name.lower().endswith(".gz")
    for suffix, data in recipe.files().items():
        spelled = suffix.upper() if name.split(".")[1].isupper() else suffix
        if name == "image.Hdr" and suffix == ".hdr":
            spelled = ".Hdr"
        path = tmp_path / f"image{spelled}{name[len('image.hdr') :]}"
        path.write_bytes(gzip.compress(data) if compress else data)
    header = read_header(tmp_path / name)
    assert header.files is not None
    assert header.files.is_pair
    assert collect(header)[0].tobytes() == recipe.data


def test_compression_is_seen_from_the_bytes(tmp_path: Path) -> None:
    recipe = Recipe()
    (tmp_path / "plain.nii.gz").write_bytes(recipe.files()[".nii"])
    (tmp_path / "packed.nii").write_bytes(gzip.compress(recipe.files()[".nii"]))
    for path in tmp_path.iterdir():
        assert collect(read_header(path))[0].tobytes() == recipe.data


def test_gzip_of_several_members(tmp_path: Path) -> None:
    recipe = Recipe()
    whole = recipe.files()[".nii"]
    parts = [whole[i : i + 300] for i in range(0, len(whole), 300)]
    path = tmp_path / "image.nii.gz"
    path.write_bytes(b"".join(gzip.compress(part) for part in parts) + bytes(512))
    assert collect(read_header(path), max_bytes=240)[0].tobytes() == recipe.data


def damage_crc(data: bytes) -> bytes:
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


def damage_middle(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(32) + data[len(data) // 2 + 32 :]


@pytest.mark.parametrize("damage", [damage_crc, damage_middle, lambda d: d[: len(d) // 2]])
def test_damaged_gzip(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = Recipe(shape=(20, 20, 20, 7), compressed=True).write(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptDataError, match=r"image\.nii\.gz"):
        collect(read_header(path), max_bytes=16000)


def test_truncated(tmp_path: Path) -> None:
    recipe = Recipe()
    whole = recipe.files()[".nii"]
    plain = tmp_path / "image.nii"
    plain.write_bytes(whole[:-7])
    with pytest.raises(
        CorruptDataError, match=f"expected {len(whole)} bytes, found {len(whole) - 7}"
    ):
        read_header(plain)
    packed = tmp_path / "image.nii.gz"
    packed.write_bytes(gzip.compress(whole[:-7]))
    with pytest.raises(CorruptDataError, match="expected 1680 bytes of values, found 1673"):
        collect(read_header(packed), max_bytes=500)
    for length in (4, 100, 347, 348, 351):
        plain.write_bytes(whole[:length])
        with pytest.raises((CorruptDataError, UnknownFormatError)):
            read_header(plain)
    second = Recipe(version=2).header()
    plain.write_bytes(second[:539])
    with pytest.raises(CorruptDataError, match="539 of 540"):
        read_header(plain)
    pair = Recipe(single=False).write(tmp_path)
    pair.with_suffix(".img").write_bytes(recipe.data[:-1])
    with pytest.raises(CorruptDataError, match=r"image\.img"):
        read_header(pair)
    pair.with_suffix(".img").write_bytes(b"")
    with pytest.raises(CorruptDataError, match="found 0"):
        read_header(pair)


def test_too_many_bytes(tmp_path: Path) -> None:
    recipe = Recipe(trailer=bytes(2 << 20))
    with pytest.raises(MetadataError, match=f"{2 << 20} unexpected bytes"):
        read_header(recipe.write(tmp_path))
    packed = tmp_path / "image.nii.gz"
    packed.write_bytes(gzip.compress(recipe.files()[".nii"]))
    with pytest.raises(MetadataError, match="unexpected bytes"):
        collect(read_header(packed))


def changed(recipe: Recipe, offset: int, code: str, *values: Any) -> bytes:
    data = bytearray(recipe.files()[".nii"])
    struct.pack_into(recipe.endianness + code, data, offset, *values)
    return bytes(data)


FIRST, SECOND = Recipe(), Recipe(version=2)
BAD_HEADERS: list[tuple[str, bytes, type[FmristoreError], str]] = [
    ("empty", b"", UnknownFormatError, "empty"),
    ("text", b"subject\tage\n" * 100, UnknownFormatError, "not a NIfTI"),
    ("zeros", bytes(4096), UnknownFormatError, "not a NIfTI"),
    ("hdf5", b"\x89HDF\r\n\x1a\n" + bytes(2000), UnknownFormatError, "not a NIfTI"),
    ("magic 1", changed(FIRST, 344, "4s", b"n+9\0"), UnknownFormatError, "ANALYZE"),
    ("magic 2", changed(SECOND, 4, "4s", b"n+3\0"), UnknownFormatError, "not a NIfTI"),
    ("pair magic in one file", changed(FIRST, 344, "4s", b"ni1\0"), MetadataError, "magic"),
    ("cifti", changed(SECOND, 504, "i", 3006), UnknownFormatError, "CIFTI"),
    ("binary", changed(FIRST, 70, "h", 1), LayoutNotSupportedError, "uint8"),
    ("float128", changed(FIRST, 70, "h", 1536), LayoutNotSupportedError, "float64"),
    ("complex256", changed(FIRST, 70, "h", 2048), LayoutNotSupportedError, "complex128"),
    ("no datatype", changed(FIRST, 70, "h", 0), MetadataError, "data"),
    ("unknown datatype", changed(FIRST, 70, "h", 7777), MetadataError, "data"),
    ("no dimensions", changed(FIRST, 40, "h", 0), MetadataError, "dim"),
    ("too many dimensions", changed(FIRST, 40, "h", 8), MetadataError, "dim"),
    ("empty dimension", changed(FIRST, 42, "h", 0), MetadataError, "shape"),
    ("negative dimension", changed(FIRST, 46, "h", -5), MetadataError, "shape"),
    ("no volumes", changed(FIRST, 48, "h", 0), MetadataError, "shape"),
    ("freesurfer without glmin", changed(FIRST, 42, "3h", -1, 1, 1), MetadataError, "dimensions"),
    ("promises too much", changed(FIRST, 42, "4h", *[32767] * 4), CorruptDataError, "truncated"),
    ("overflow", changed(SECOND, 24, "4q", *[2**40] * 4), MetadataError, "no file is so large"),
    ("offset 0", changed(FIRST, 108, "f", 0), MetadataError, "vox_offset"),
    ("offset 348", changed(FIRST, 108, "f", 348), MetadataError, "vox_offset"),
    ("offset nan", changed(FIRST, 108, "f", np.nan), MetadataError, "vox_offset"),
    ("offset inf", changed(FIRST, 108, "f", -np.inf), MetadataError, "vox_offset"),
    ("offset 352.5", changed(FIRST, 108, "f", 352.5), MetadataError, "vox_offset"),
    ("offset huge", changed(FIRST, 108, "f", 1e30), MetadataError, "vox_offset"),
    ("offset huge 2", changed(SECOND, 168, "q", 2**62), MetadataError, "vox_offset"),
    ("offset negative 2", changed(SECOND, 168, "q", -(2**62)), MetadataError, "vox_offset"),
    ("offset past the end", changed(FIRST, 108, "f", 9600), CorruptDataError, "ends after"),
    ("offset too large", changed(FIRST, 108, "f", 368), CorruptDataError, "truncated"),
    ("scaling", changed(FIRST, 112, "2f", 1, np.inf), MetadataError, "scaling"),
    ("end of line", changed(SECOND, 8, "4s", b"\n\x1a\n\n"), MetadataError, "EOL"),
    ("voxel sizes", changed(FIRST, 252, "2h", 0, 0)[:80] + b"\0\0\xc0\x7f" * 3
     + changed(FIRST, 252, "2h", 0, 0)[92:], MetadataError, "affine"),
    ("two axes", Recipe(shape=(3, 3, 3, 2, 2)).files()[".nii"], LayoutNotSupportedError, "4, 5"),
]  # fmt: skip


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("data", "error", "text"), [case[1:] for case in BAD_HEADERS], ids=[c[0] for c in BAD_HEADERS]
)
def test_bad_headers(
    tmp_path: Path, data: bytes, error: type[FmristoreError], text: str, compressed: bool
) -> None:
    path = tmp_path / ("bad.nii.gz" if compressed else "bad.nii")
    path.write_bytes(gzip.compress(data) if compressed and data else data)
    with pytest.raises(error) as caught:
        collect(read_header(path), max_bytes=1 << 20)
    assert caught.value.url == str(path)
    if not (compressed and error is CorruptDataError):
        assert text in caught.value.message


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.nii"):
        read_header(tmp_path / "none.nii")
    pair = Recipe(single=False).write(tmp_path)
    for kept, lost in ((".hdr", ".img"), (".img", ".hdr")):
        moved = pair.with_suffix(lost).rename(tmp_path / "elsewhere")
        with pytest.raises(NotFoundError, match=rf"expected .*image\{lost}"):
            read_header(pair.with_suffix(kept))
        moved.rename(pair.with_suffix(lost))
    with pytest.raises(UnknownFormatError, match="folder"):
        read_header(tmp_path)


def test_form_and_name_must_agree(tmp_path: Path) -> None:
    recipe = Recipe()
    (tmp_path / "image.hdr").write_bytes(recipe.header())
    (tmp_path / "image.img").write_bytes(recipe.data)
    with pytest.raises(MetadataError, match="magic is that of one file"):
        read_header(tmp_path / "image.hdr")


def test_pair_with_something_before_the_numbers(tmp_path: Path) -> None:
    path = Recipe(single=False, gap=32).write(tmp_path)
    image = path.with_suffix(".img")
    image.write_bytes(b"x" + image.read_bytes()[1:])
    with pytest.raises(MetadataError, match="not all zero"):
        collect(read_header(path))


def test_the_file_changed(tmp_path: Path) -> None:
    path = Recipe().write(tmp_path)
    header = read_header(path)
    Recipe(slope=2.0).write(tmp_path)
    with pytest.raises(ChangedError):
        collect(header)
    path.unlink()
    with pytest.raises(NotFoundError):
        collect(header)


def test_doubts_are_warnings_of_reading_only(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    data = bytearray(changed(FIRST, 92, "f", 2500.0))
    data[123] = 2  # mm, time unit unknown
    path.write_bytes(data)
    with pytest.warns(HeaderWarning, match=r"image\.nii: .*milliseconds"):
        header = read_header(path)
    assert header.tr == 2500
    assert parse_header(header.raw).header_warnings == header.header_warnings
    with pytest.raises(InvalidInputError, match="no file"):
        stream_volumes(parse_header(header.raw))


@given(
    st.sampled_from([1, 2]),
    st.lists(st.tuples(st.integers(0, 543), st.integers(0, 255)), min_size=1, max_size=12),
    st.booleans(),
)
@settings(max_examples=400)
@pytest.mark.filterwarnings("ignore:Extension size is not a multiple of 16:UserWarning")
def test_any_damage_to_a_header_is_an_error_of_ours(
    version: int, changes: list[tuple[int, int]], compressed: bool
) -> None:
    raw = bytearray(Recipe(version=version, extensions=(b"note",) * 8).header())
    for position, value in changes:
        raw[position % len(raw)] = value
    try:
        header = parse_header(bytes(raw))
    except FmristoreError:
        return
    assert header.data_nbytes > 0
    assert np.isfinite(header.space.affine).all()
    assert header.tr is None or header.tr > 0
    try:
        header.to_nibabel()
    except FmristoreError:
        return


def test_remote(s3: Any, tmp_path: Path) -> None:
    import s3fs

    for recipe in (Recipe(compressed=True, trailer=b"!"), Recipe(single=False, gap=16)):
        path = recipe.write(tmp_path)
        filesystem = s3fs.S3FileSystem(**s3.options)
        for file in tmp_path.iterdir():
            filesystem.put_file(str(file), f"{s3.bucket}/{file.name}")
        header = read_header(s3.url(path.name), storage_options=s3.options)
        assert header.raw == recipe.header()
        values, trailer = collect(header, max_bytes=500)
        assert (values.tobytes(), trailer) == (recipe.data, recipe.trailer)
        assert "secret" not in repr(header)
    with pytest.raises(NotFoundError):
        read_header(s3.url("none.nii.gz"), storage_options=s3.options)


@pytest.mark.once
@from_proc
def test_memory_is_bounded(shared_data: Path, tmp_path: Path) -> None:
    """Peak of streaming the run: two blocks of 4 MiB, and at most 12 MiB for all the rest."""
    script = tmp_path / "stream.py"
    script.write_text(
        f"{PEAK}\n"
        "import sys\n"
        "import numpy as np\n"
        "from fmristore.nifti import read_header, stream_volumes\n"
        "header = read_header(sys.argv[1])\n"
        "before = peak()\n"
        "for block in stream_volumes(header, max_bytes=4 << 20):\n"
        "    block.values.sum()\n"
        "print(peak() - before, header.data_nbytes)\n"
    )
    result = subprocess.run(
        [sys.executable, str(script), str(shared_data / ONEBACK)],
        capture_output=True,
        text=True,
        check=True,
    )
    grown, size = map(int, result.stdout.split())
    assert size > 64 << 20
    assert grown < (2 * 4 + 12) << 20


def test_names() -> None:
    for name in (
        "a.nii",
        "a.NII.GZ",
        "s3://b/a.hdr",
        "x.Img",
        "x.img.gz",
        "a.b.nii.gz",
        "zip://a.nii::b.zip",
    ):
        assert is_nifti_name(name)
    for name in ("a.h5", "nii", "a.nii.zip", "a.nii.gz/zarr.json", "a.gz"):
        assert not is_nifti_name(name)


@pytest.mark.parametrize("dtype", [*NUMBERS, "?", ">i2"])
def test_made_headers(tmp_path: Path, dtype: str) -> None:
    affine = np.diag([-2.0, 3, 4, 1])
    space = NeuroSpace(spatial_shape=(4, 5, 6), affine=affine, time_points=7, tr=0.8)
    raw = make_header(space, dtype, slope=0.5, inter=3.0, description="é" * 100)
    header = parse_header(raw)
    assert (header.space, header.slope, header.inter) == (space, 0.5, 3.0)
    assert header.dtype == ("u1" if dtype == "?" else np.dtype(dtype).newbyteorder("<"))
    path = tmp_path / "image.nii"
    path.write_bytes(raw + bytes(header.data_nbytes))
    image: Any = nibabel.load(path)
    assert image.shape == (4, 5, 6, 7)
    assert image.header["pixdim"][4] == np.float32(0.8)
    np.testing.assert_array_equal(image.affine, affine)
    assert np.asanyarray(image.dataobj)[0, 0, 0, 0] == 3.0


def test_made_headers_of_other_kinds() -> None:
    space = NeuroSpace(spatial_shape=(40000, 2, 2), affine=np.eye(4))
    large = make_header(space, "f4")
    assert (len(large), parse_header(large).version) == (544, 2)
    small = NeuroSpace(spatial_shape=(4, 2, 2), affine=np.eye(4))
    assert len(make_header(small, "f4")) == 352
    plain = parse_header(make_header(small, "f4"))
    assert (plain.slope, plain.inter) == (1.0, 0.0)
    for colors in (3, 4):
        assert parse_header(make_header(small, "u1", colors=colors)).colors == colors
    with pytest.raises(InvalidInputError):
        make_header(small, "u1", colors=2)
    with pytest.raises(InvalidInputError):
        make_header(small, "i2", colors=3)
    for dtype in ("f2", np.longdouble, "U4"):
        with pytest.raises(InvalidInputError):
            make_header(small, dtype)
    for slope in (0.0, np.nan, np.inf):
        with pytest.raises(InvalidInputError):
            make_header(small, "i2", slope=slope)
