"""Writing NIfTI: the bytes of the source come back, whole or not at all."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmristore.model.space import NeuroSpace
from fmristore.nifti import (
    NiftiHeader,
    NiftiWriter,
    make_header,
    parse_header,
    read_header,
    stream_volumes,
    write_nifti,
)
from fmristore_stores.errors import (
    AlreadyExistsError,
    ClosedError,
    FormatError,
    InvalidInputError,
    LossyError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from fmristore_stores.protocol import AnyArray
from tests.images import call_after_rename
from tests.nifti_images import (
    Recipe,
    collect,
    content,
    nibabel,
    real_images,
    recipes,
    same_bits,
)


def copy(header: NiftiHeader, target: Any, *, max_bytes: int = 8 << 20, **options: Any) -> None:
    with stream_volumes(header, max_bytes=max_bytes) as stream:
        write_nifti(
            target,
            header.raw,
            (block.values for block in stream),
            trailer=lambda: stream.trailer,
            **options,
        )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(header: NiftiHeader) -> list[bytes]:
    assert header.files is not None
    return [content(url) for url in dict.fromkeys((header.files.header_url, header.files.data_url))]


def test_real_images_come_back_byte_for_byte(shared_data: Path, tmp_path: Path) -> None:
    paths = real_images(shared_data)
    assert len(paths) > 60
    for path in paths:
        header = read_header(path)
        target = tmp_path / f"copy{'.nii' if header.single else '.hdr'}"
        copy(header, target)
        assert contents(read_header(target)) == contents(header), path
        for written in tmp_path.iterdir():
            written.unlink()


@given(recipes(), st.integers(1, 2000), st.integers(0, 9))
@settings(max_examples=100)
def test_made_images_come_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, max_bytes: int, level: int
) -> None:
    folder = tmp_path_factory.mktemp("image")
    header = read_header(recipe.write(folder))
    for ending in ("", ".gz"):
        target = folder / f"copy{'.nii' if recipe.single else '.img'}{ending}"
        copy(header, target, max_bytes=max(max_bytes, header.plane_nbytes), level=level)
        again = read_header(target)
        assert again.raw == header.raw
        assert contents(again) == contents(header)
        assert same_bits(collect(again)[0], collect(header)[0])
    shutil.rmtree(folder)


@given(recipes())
def test_single_and_pair(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    folder = tmp_path_factory.mktemp("image")
    header = read_header(recipe.write(folder))
    values, trailer = collect(header)
    other, back = (".hdr", ".nii") if recipe.single else (".nii", ".hdr")
    copy(header, folder / f"other{other}")
    turned = read_header(folder / f"other{other}")
    assert turned.single is not header.single
    assert (turned.space, turned.slope, turned.inter) == (header.space, header.slope, header.inter)
    assert same_bits(collect(turned)[0], values)
    assert collect(turned)[1] == trailer
    image: Any = nibabel.load(folder / f"other{other}")
    assert image.shape == header.stored_shape
    assert image.header.extensions == header.to_nibabel().extensions
    copy(turned, folder / f"back{back}")
    again = read_header(folder / f"back{back}")
    if not recipe.gap:
        assert again.raw.rstrip(b"\0") == header.raw.rstrip(b"\0")
    assert same_bits(collect(again)[0], values)
    shutil.rmtree(folder)


def test_pair_refuses_to_lose_bytes(tmp_path: Path) -> None:
    recipe = Recipe(gap=32, extensions=(b"note",))
    raw = bytearray(recipe.header())
    raw[-1] = 7
    with pytest.raises(LossyError, match="extensions"):
        NiftiWriter(tmp_path / "a.hdr", bytes(raw))
    assert names(tmp_path) == []
    (tmp_path / "a.nii").write_bytes(bytes(raw) + recipe.data)
    header = read_header(tmp_path / "a.nii")
    assert [e.text for e in header.to_nibabel().extensions] == ["note"]
    copy(header, tmp_path / "b.nii")
    assert content(tmp_path / "b.nii") == content(tmp_path / "a.nii")


def test_gzip_is_deterministic_and_anonymous(tmp_path: Path) -> None:
    header = read_header(Recipe(shape=(30, 30, 30, 4)).write(tmp_path))
    for level in (0, 2, 3, 4, 9):
        first, second = tmp_path / f"a{level}.nii.gz", tmp_path / f"b{level}.nii.gz"
        copy(header, first, level=level, max_bytes=60000)
        copy(header, second, level=level)
        assert first.read_bytes() == second.read_bytes()
        assert first.read_bytes()[3:8] == bytes(5)  # no flags, so no name; no time
        assert gzip.decompress(first.read_bytes()) == content(tmp_path / "image.nii")


def test_progress(tmp_path: Path) -> None:
    header = read_header(Recipe().write(tmp_path))
    seen: list[int] = []
    copy(header, tmp_path / "copy.nii.gz", max_bytes=500, progress=seen.append)
    assert seen == [480, 960, 1440, 1680]


def test_any_shape_and_byte_order_of_whole_planes(tmp_path: Path) -> None:
    header = read_header(Recipe(endianness=">").write(tmp_path))
    values, _ = collect(header)
    with NiftiWriter(tmp_path / "copy.nii", header.raw) as writer:
        assert writer.header.raw == header.raw
        writer.write(values[0, 0])
        writer.write(values[0, 1:4])
        writer.write(values[0, 4:].astype(">i2"))
        writer.write(np.asfortranarray(values[1:3]))
        writer.write(values[6:2:-1][::-1])
        writer.finish()
    assert content(tmp_path / "copy.nii") == content(tmp_path / "image.nii")


def test_colours_and_masks(tmp_path: Path) -> None:
    space = NeuroSpace(spatial_shape=(4, 5, 6), affine=np.diag([2.0, 2, 2, 1]))
    mask = np.random.default_rng(0).random((6, 5, 4)) > 0.5
    write_nifti(tmp_path / "mask.nii.gz", make_header(space, bool), [mask])
    image: Any = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj).T, mask)
    colors = np.random.default_rng(0).integers(0, 255, (6, 5, 4, 3)).astype(np.uint8)
    write_nifti(tmp_path / "rgb.nii", make_header(space, "u1", colors=3), [colors])
    image = nibabel.load(tmp_path / "rgb.nii")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj)["G"].T, colors[..., 1])


def test_existing_destinations(tmp_path: Path) -> None:
    header = read_header(Recipe().write(tmp_path))
    target = tmp_path / "copy.nii"
    target.write_bytes(b"precious")
    with pytest.raises(AlreadyExistsError, match="overwrite=True"):
        copy(header, target)
    assert target.read_bytes() == b"precious"
    copy(header, target, overwrite=True)
    assert content(target) == content(tmp_path / "image.nii")
    (tmp_path / "pair.img").write_bytes(b"precious")
    with pytest.raises(AlreadyExistsError, match=r"pair\.img"):
        copy(header, tmp_path / "pair.hdr")
    copy(header, tmp_path / "pair.hdr", overwrite=True)
    assert names(tmp_path) == ["copy.nii", "image.nii", "pair.hdr", "pair.img"]


def test_destination_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    header = read_header(Recipe().write(tmp_path))
    with NiftiWriter(tmp_path / "copy.nii", header.raw) as writer:
        writer.write(collect(header)[0])
        (tmp_path / "copy.nii").write_bytes(b"precious")
        with pytest.raises(AlreadyExistsError):
            writer.finish()
    assert (tmp_path / "copy.nii").read_bytes() == b"precious"
    assert names(tmp_path) == ["copy.nii", "image.nii"]


class UnexpectedError(Exception):
    """Raised by a source of blocks."""


@pytest.mark.parametrize("name", ["copy.nii", "copy.nii.gz", "copy.hdr", "copy.img.gz"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_failure_leaves_things_as_they_were(tmp_path: Path, name: str, overwrite: bool) -> None:
    header = read_header(Recipe().write(tmp_path))
    values, _ = collect(header)
    if overwrite:
        (tmp_path / name).write_bytes(b"precious")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing() -> Iterator[AnyArray]:
        yield values[:3]
        raise UnexpectedError

    with pytest.raises(UnexpectedError):
        write_nifti(tmp_path / name, header.raw, failing(), overwrite=overwrite)
    bad: list[list[AnyArray]] = [
        [values[:6]],
        [values, values[:1]],
        [values.astype("i4")],
        [values[..., :3]],
        [values[0, 0, 0]],
    ]
    for blocks in bad:
        with pytest.raises(InvalidInputError):
            write_nifti(tmp_path / name, header.raw, blocks, overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_failing_rename_puts_the_old_pair_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = read_header(Recipe().write(tmp_path))
    copy(header, tmp_path / "pair.hdr")
    changed = read_header(Recipe(seed=1, slope=2.0).write(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    rename, link = os.replace, os.link

    def refuse(source: str, target: str) -> None:
        if Path(target).name == "pair.hdr" and "pair" in Path(source).name and not tried:
            tried.append(source)
            raise OSError(28, "No space left on device")
        rename(source, target)

    def refuse_link(source: str, target: str) -> None:
        if Path(target).name == "pair.hdr":
            raise OSError(28, "No space left on device")
        link(source, target)

    tried: list[str] = []
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match="No space"):
        copy(changed, tmp_path / "pair.hdr", overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    for path in tmp_path.glob("pair.*"):
        path.unlink()
    tried.clear()
    monkeypatch.setattr(os, "link", refuse_link)
    with pytest.raises(StorageError):
        copy(changed, tmp_path / "pair.hdr")
    assert names(tmp_path) == ["image.nii"]


def test_bad_arguments(tmp_path: Path) -> None:
    raw = Recipe().header()
    for name in ("copy.h5", "copy", "copy.nii.bz2"):
        with pytest.raises(InvalidInputError, match=r"\.nii\.gz"):
            NiftiWriter(tmp_path / name, raw)
    for level in (-1, 10):
        with pytest.raises(InvalidInputError, match="level"):
            NiftiWriter(tmp_path / "copy.nii.gz", raw, level=level)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotFoundError, match="folder"):
        NiftiWriter(tmp_path / "file" / "copy.nii", raw)
    (tmp_path / "file").unlink()
    for bad in (b"", raw[:300], raw[:348], raw + bytes(16)):
        with pytest.raises(FormatError):
            NiftiWriter(tmp_path / "copy.nii", bad)
    assert names(tmp_path) == []


def test_after_the_end(tmp_path: Path) -> None:
    header = read_header(Recipe().write(tmp_path))
    values, _ = collect(header)
    with NiftiWriter(tmp_path / "copy.nii", header.raw) as writer:
        writer.write(values)
        writer.finish(trailer=b"end")
        with pytest.raises(ClosedError):
            writer.write(values)
        with pytest.raises(ClosedError):
            writer.finish()
    assert collect(read_header(tmp_path / "copy.nii"))[1] == b"end"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="POSIX permissions, not for root"
)
def test_no_permission(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with pytest.raises(StorageError):
        NiftiWriter(folder / "copy.nii", Recipe().header())


@pytest.mark.parametrize("name", ["copy.nii.gz", "copy.hdr"])
def test_remote(s3: Any, tmp_path: Path, name: str) -> None:
    header = read_header(Recipe(endianness=">").write(tmp_path))
    url = s3.url(name)
    copy(header, url, storage_options=s3.options)
    again = read_header(url, storage_options=s3.options)
    assert same_bits(collect(again)[0], collect(header)[0])
    if header.single == again.single:
        assert again.raw == header.raw
    with pytest.raises(AlreadyExistsError):
        copy(header, url, storage_options=s3.options)
    copy(header, url, storage_options=s3.options, overwrite=True)


def test_memory_filesystem_and_read_only_protocols(tmp_path: Path) -> None:
    header = read_header(Recipe().write(tmp_path))
    copy(header, "memory://folder/copy.nii.gz")
    assert same_bits(collect(read_header("memory://folder/copy.nii.gz"))[0], collect(header)[0])
    archive = tmp_path / "archive.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", tmp_path, "image.nii")
    inside = f"zip://image.nii::{archive}"
    assert same_bits(collect(read_header(inside))[0], collect(header)[0])
    with pytest.raises((ReadOnlyError, StorageError)):
        copy(header, f"zip://copy.nii::{archive}")


def test_headers_pickle(tmp_path: Path) -> None:
    header = read_header(Recipe().write(tmp_path))
    again = pickle.loads(pickle.dumps(header))
    assert again == header
    assert hash(again) == hash(header)
    assert parse_header(header.raw).raw == header.raw


@pytest.mark.parametrize("place", ["local", "memory"])
@pytest.mark.parametrize("suffix", [".nii", ".hdr"])
def test_of_two_writers_that_may_replace_nothing_one_wins(
    tmp_path: Path, place: str, suffix: str
) -> None:
    """Also where both looked when there was nothing."""
    folder = str(tmp_path) if place == "local" else f"memory://{uuid.uuid4().hex}"
    url = f"{folder}/x{suffix}"
    space = NeuroSpace(spatial_shape=(4, 4, 4), affine=np.eye(4))
    header = make_header(space, "i2")
    writers = [NiftiWriter(url, header) for _ in range(2)]
    for value, writer in enumerate(writers, 1):
        writer.write(np.full((1, 4, 4, 4), value, "i2"))
    writers[1].finish()
    with pytest.raises(AlreadyExistsError, match="overwrite"):
        writers[0].finish()
    writers[0].close()
    with stream_volumes(read_header(url)) as stream:
        assert all((block.values == 2).all() for block in stream)


@pytest.mark.parametrize("first", ["x.img", "x.hdr"])
def test_two_writers_of_one_pair_do_not_mix(
    tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one comes while the image of the first is there, and its header not yet."""
    space = NeuroSpace(spatial_shape=(4, 4, 4), affine=np.eye(4))
    target, errors = tmp_path / "x.hdr", []

    def write(value: int, name: str = "x.hdr") -> None:
        header = make_header(space, "i2", slope=float(value))
        with NiftiWriter(tmp_path / name, header, overwrite=True) as writer:
            writer.write(np.full((1, 4, 4, 4), value, "i2"))
            writer.finish()

    def other() -> None:
        try:
            write(3, first)
        except StorageError as error:
            errors.append(error)

    write(1)
    call_after_rename(monkeypatch, other)
    write(2)
    assert "is writing this store" in str(errors[0])
    assert read_header(target).slope == 2
    with stream_volumes(read_header(target)) as stream:
        assert all((block.values == 2).all() for block in stream)
    assert names(tmp_path) == ["x.hdr", "x.img"]


def test_a_pair_is_replaced_header_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that at no moment an image lies under the header of another one."""
    space = NeuroSpace(spatial_shape=(4, 4, 4), affine=np.eye(4))
    target = tmp_path / "x.hdr"
    header = make_header(space, "i2")

    def write(value: int) -> None:
        with NiftiWriter(target, header, overwrite=True) as writer:
            writer.write(np.full((1, 4, 4, 4), value, "i2"))
            writer.finish()

    write(1)
    seen: list[tuple[str, bool]] = []
    replace = os.replace

    def rename(source: str, name: str) -> None:
        seen.append((Path(name).name, target.exists()))
        replace(source, name)

    monkeypatch.setattr(os, "replace", rename)
    write(2)
    assert seen == [("x.img", False), ("x.hdr", False)]
    monkeypatch.undo()

    def fail(source: str, name: str) -> None:
        if Path(name).name == "x.img" and not failed:
            failed.append(source)
            raise OSError(5, "Input/output error", str(source))
        replace(source, name)

    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    failed: list[str] = []
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError):
        write(3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
