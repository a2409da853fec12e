"""Bad input: an error of our own tree that names the file, and nothing written or lost."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fmristore as fs
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ChangedError,
    ClosedError,
    CodecError,
    CorruptDataError,
    FmristoreError,
    FormatError,
    InvalidInputError,
    LayoutNotSupportedError,
    MemoryLimitError,
    MetadataError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from tests.images import (
    AFFINE,
    SCALED,
    SHAPE,
    STORES,
    files_below,
    make_values,
    nibabel,
    run_python,
    snapshot,
    store,
    write_nifti,
)
from tests.old_affine import with_affine_array

VALUES = make_values()


@contextmanager
def refused(
    folder: Path, error: type[FmristoreError], *, names: str = "", match: str | None = None
) -> Iterator[None]:
    """Expect an error that names a file, and that everything in a folder stays as it is."""
    before = snapshot(folder)
    with pytest.raises(error, match=match) as caught:
        yield
    assert type(caught.value) is error
    assert names in str(caught.value)
    assert snapshot(folder) == before


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["nothing", "something"])
def target(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Path:
    """Where a conversion goes to: nothing is there, or a store that must survive."""
    url = tmp_path / f"target.{kind}"
    if request.param == "something":
        store(url, VALUES).close()
    return url


def convert(source: Any, target: Path, **options: Any) -> None:
    fs.convert(source, target, overwrite=True, **options)


class TestSources:
    """Sources that cannot be converted."""

    def test_missing(self, tmp_path: Path, target: Path) -> None:
        for name in ("none.nii.gz", "none.nii", "none.hdr", "folder/none.nii"):
            with refused(tmp_path, NotFoundError, names=name):
                convert(tmp_path / name, target)

    def test_wrong_kind(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "text.nii").write_text("x" * 1000)
        (tmp_path / "empty.nii").write_bytes(b"")
        (tmp_path / "empty.nii.gz").write_bytes(gzip.compress(b""))
        (tmp_path / "table.csv").write_text("a,b\n" * 200)
        for name in ("text.nii", "empty.nii", "empty.nii.gz", "table.csv"):
            with refused(tmp_path, UnknownFormatError, names=name):
                convert(tmp_path / name, target)
        for name in ("folder", ""):
            with refused(tmp_path, UnknownFormatError, names=name, match="a folder"):
                convert(tmp_path / name, target)

    @pytest.mark.parametrize("keep", [0.999, 0.5, 0.01])
    def test_truncated(self, tmp_path: Path, target: Path, keep: float) -> None:
        values = make_values((20, 20, 20, 10))
        for name in ("a.nii.gz", "a.nii"):
            source = write_nifti(tmp_path / name, values)
            content = source.read_bytes()
            source.write_bytes(content[: int(len(content) * keep)])
            with refused(tmp_path, CorruptDataError, names=name):
                convert(source, target)

    def test_truncated_header(self, tmp_path: Path, target: Path) -> None:
        source = write_nifti(tmp_path / "a.nii", VALUES)
        for size in (350, 348, 300, 10):
            source.write_bytes(write_nifti(tmp_path / "whole.nii", VALUES).read_bytes()[:size])
            with refused(tmp_path, CorruptDataError if size >= 348 else UnknownFormatError):
                convert(source, target)

    def test_damaged_compression(self, tmp_path: Path, target: Path) -> None:
        source = write_nifti(tmp_path / "a.nii.gz", make_values((20, 20, 20, 10)))
        content = bytearray(source.read_bytes())
        content[len(content) // 2] ^= 0xFF
        source.write_bytes(content)
        with refused(tmp_path, CorruptDataError, names="a.nii.gz"):
            convert(source, target)

    @pytest.mark.parametrize(
        ("offset", "data", "error"),
        [
            (40, b"\x09\x00", MetadataError),  # dim[0] of 9
            (40, b"\x04\x00\x00\x00", MetadataError),  # a length of 0
            (42, b"\xff\xff", MetadataError),  # a negative length
            (42, b"\xff\x7f", CorruptDataError),  # longer than the file
            (70, b"\x63\x00", MetadataError),  # no such type
            (70, b"\x01\x00", LayoutNotSupportedError),  # one bit for each voxel
            (108, b"\x00\x00\xc0\x7f", MetadataError),  # numbers begin at NaN
            (108, b"\x00\x00\x80\xbf", MetadataError),  # at -1
            (108, b"\x00\x00\x80\x7e", MetadataError),  # far beyond
            (344, b"abc\0", UnknownFormatError),
            (112, b"\x00\x00\x80\x3f\x00\x00\xc0\x7f", MetadataError),  # intercept of NaN
        ],
    )
    def test_corrupt_header(
        self, tmp_path: Path, target: Path, offset: int, data: bytes, error: Any
    ) -> None:
        source = write_nifti(tmp_path / "a.nii", VALUES)
        content = bytearray(source.read_bytes())
        content[offset : offset + len(data)] = data
        source.write_bytes(content)
        with refused(tmp_path, error, names="a.nii"):
            convert(source, target)

    def test_a_pair_without_its_other_half(self, tmp_path: Path, target: Path) -> None:
        nibabel.save(nibabel.Nifti1Pair(VALUES, AFFINE), tmp_path / "a.hdr")
        (tmp_path / "a.img").unlink()
        with refused(tmp_path, NotFoundError, names="a.img"):
            convert(tmp_path / "a.hdr", target)

    @pytest.mark.parametrize(
        ("data", "options"),
        [
            (VALUES[:0], {"space": AFFINE}),
            (VALUES[..., :0], {"space": AFFINE}),
            (VALUES[0, 0], {"space": AFFINE}),
            (VALUES[..., None], {"space": AFFINE}),
            (VALUES, {}),
            (VALUES, {"space": np.eye(3)}),
            (VALUES, {"space": np.zeros((4, 4))}),
            (VALUES, {"space": np.full((4, 4), np.nan)}),
            (VALUES, {"space": "MNI"}),
            (VALUES, {"space": AFFINE, "tr": -1}),
            (VALUES, {"space": AFFINE, "tr": "slow"}),
            (VALUES, {"space": AFFINE, "slope": 0}),
            (VALUES, {"space": AFFINE, "slope": [1, 2]}),
            (VALUES, {"space": AFFINE, "slope": "steep"}),
            (VALUES, {"space": AFFINE, "inter": 3.0}),
            (VALUES, {"space": fs.NeuroSpace(spatial_shape=(1, 2, 3), affine=AFFINE)}),
            (VALUES.astype(object), {"space": AFFINE}),
            (VALUES.astype("U5"), {"space": AFFINE}),
            (VALUES.astype("f2"), {"space": AFFINE}),
            (VALUES.astype("M8[s]"), {"space": AFFINE}),
            ([[1, 2], [3]], {"space": AFFINE}),
            (None, {"space": AFFINE}),
            (3, {"space": AFFINE}),
        ],
    )
    def test_arrays(self, tmp_path: Path, target: Path, data: Any, options: dict[str, Any]) -> None:
        with refused(tmp_path, InvalidInputError):
            fs.NeuroVec.create(data, target, overwrite=True, **options)

    def test_an_image_has_its_own_space(self, tmp_path: Path, target: Path) -> None:
        source = write_nifti(tmp_path / "a.nii", VALUES)
        for options in ({"space": AFFINE}, {"slope": 1.0}, {"inter": 1.0}):
            for data in (source, nibabel.load(source)):
                with refused(tmp_path, InvalidInputError, match="are for arrays"):
                    fs.NeuroVec.create(data, target, overwrite=True, **options)
        space = fs.NeuroSpace(spatial_shape=SHAPE[:3], affine=AFFINE, time_points=SHAPE[3])
        with refused(tmp_path, InvalidInputError, match="has its own"):
            fs.NeuroVec.create(VALUES, target, space=space, tr=2.0, overwrite=True)

    def test_the_wrong_class(self, tmp_path: Path, target: Path) -> None:
        for cls, values in ((fs.NeuroVol, VALUES), (fs.NeuroVec, VALUES[..., 0])):
            with refused(tmp_path, InvalidInputError, match=cls.__name__):
                cls.create(values, target, space=AFFINE, overwrite=True)

    @pytest.mark.parametrize(
        "options",
        [{"codec": "best"}, {"access": "all"}, {"order": "random"}, {"access": ""}],
        ids=str,
    )
    def test_options(self, tmp_path: Path, target: Path, options: dict[str, Any]) -> None:
        source = write_nifti(tmp_path / "a.nii", VALUES)
        with refused(tmp_path, InvalidInputError, match="there are"):
            convert(source, target, **options)

    @pytest.mark.parametrize("limit", [0, -5, 100])
    def test_memory(self, tmp_path: Path, target: Path, limit: int) -> None:
        source = write_nifti(tmp_path / "a.nii", VALUES)
        with refused(tmp_path, MemoryLimitError):
            convert(source, target, max_memory=limit)

    def test_a_source_that_fails_while_it_is_read(self, tmp_path: Path, target: Path) -> None:
        class Failing:
            shape, dtype = SHAPE, np.dtype("i2")

            def __getitem__(self, index: Any) -> Any:
                raise OSError(errno.EIO, "the disk is on fire")

        with refused(tmp_path, StorageError, match="on fire"):
            fs.NeuroVec.create(Failing(), target, space=AFFINE, overwrite=True)


class TestDestinations:
    """Places that cannot be written to."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return write_nifti(tmp_path / "a.nii", VALUES)

    def test_exists(self, tmp_path: Path, kind: str, source: Path) -> None:
        url = tmp_path / f"a.{kind}"
        fs.convert(source, url)
        with refused(tmp_path, AlreadyExistsError, names=url.name, match="overwrite=True"):
            fs.convert(source, url)
        with refused(tmp_path, AlreadyExistsError):
            store(url, VALUES)
        with fs.open(url) as image:
            image.to_nifti(tmp_path / "b.nii")
            with refused(tmp_path, AlreadyExistsError, names="b.nii"):
                image.to_nifti(tmp_path / "b.nii")

    def test_overwriting_something_else(self, tmp_path: Path, kind: str, source: Path) -> None:
        (tmp_path / "folder.h5").mkdir()
        (tmp_path / "folder.h5/precious").write_text("x")
        (tmp_path / "file.zarr").write_text("x")
        (tmp_path / "folder.zarr").mkdir()
        (tmp_path / "folder.zarr/precious").write_text("x")
        for name in ("folder.h5", "file.zarr", "folder.zarr"):
            with refused(tmp_path, AlreadyExistsError, names=name, match="not replaced"):
                fs.convert(source, tmp_path / name, overwrite=True)

    def test_no_folder(self, tmp_path: Path, kind: str, source: Path) -> None:
        with refused(tmp_path, NotFoundError, names="a.nii"):
            fs.convert(source, tmp_path / f"a.nii/a.{kind}")

    def test_names_without_a_meaning(self, tmp_path: Path, source: Path) -> None:
        for name in ("a", "a.nii.gz", "a.mat", "h5", ".zarr.gz"):
            with refused(tmp_path, InvalidInputError, match=r"must end in"):
                fs.convert(source, tmp_path / name)
        for url in ("", "a\x00b.h5"):
            with refused(tmp_path, InvalidInputError, match="not a path or URL"):
                fs.convert(source, url)
        with refused(tmp_path, InvalidInputError, match="unknown protocol"):
            fs.convert(source, "nowhere://a/b.h5")
        with refused(tmp_path, ReadOnlyError, match="http"):
            fs.convert(source, "http://127.0.0.1:9/a.h5")

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
    def test_no_permission(self, tmp_path: Path, kind: str, source: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("root may do everything")
        folder = tmp_path / "locked"
        folder.mkdir()
        store(folder / f"a.{kind}", VALUES).close()
        folder.chmod(0o500)
        try:
            with refused(tmp_path, AccessDeniedError, names=f"a.{kind}"):
                fs.convert(source, folder / f"a.{kind}", overwrite=True)
        finally:
            folder.chmod(0o700)
        unreadable = tmp_path / "b.nii"
        shutil.copy(source, unreadable)
        unreadable.chmod(0)
        with pytest.raises(AccessDeniedError, match=r"b\.nii"):
            fs.convert(unreadable, tmp_path / f"b.{kind}")

    @pytest.mark.once
    @pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
    @pytest.mark.parametrize("existing", [False, True])
    def test_disk_full(self, tmp_path: Path, kind: str, existing: bool) -> None:
        """A limit on the size of files stands for a full disk: writing fails half-way."""
        values = make_values((40, 40, 20, 20), "f4")
        source = write_nifti(tmp_path / "a.nii", values)
        url = tmp_path / f"a.{kind}"
        if existing:
            store(url, VALUES).close()
        before = snapshot(tmp_path)
        code = (
            "import resource, signal, sys\n"
            "import fmristore as fs\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
            "try:\n"
            "    fs.convert(sys.argv[1], sys.argv[2], overwrite=True, access='volume')\n"
            "except fs.errors.StorageError as error:\n"
            "    print(type(error).__name__, error)\n"
        )
        done = run_python(code, source, url)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("StorageError"), done.stdout + done.stderr
        assert f"a.{kind}" in done.stdout
        assert snapshot(tmp_path) == before

    @pytest.mark.once
    @pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
    def test_disk_full_while_exporting(self, tmp_path: Path, kind: str) -> None:
        values = make_values((40, 40, 20, 20), "f4")
        store(tmp_path / f"a.{kind}", values).close()
        (tmp_path / "b.nii").write_text("precious")
        before = snapshot(tmp_path)
        code = (
            "import resource, signal, sys\n"
            "import fmristore as fs\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
            "try:\n"
            "    fs.open(sys.argv[1]).to_nifti(sys.argv[2], overwrite=True)\n"
            "except fs.errors.StorageError as error:\n"
            "    print(type(error).__name__, error)\n"
        )
        done = run_python(code, tmp_path / f"a.{kind}", tmp_path / "b.nii")
        assert done.stdout.startswith("StorageError"), done.stdout + done.stderr
        assert "b.nii" in done.stdout
        assert snapshot(tmp_path) == before

    def test_temporary_folder_full(
        self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = make_values((24, 22, 20, 40))
        source = write_nifti(tmp_path / "a.nii", values)
        monkeypatch.setattr("fmristore.planning.chunking._SHARD_BYTES", (16 * 1024, 16 * 1024))
        for name in ("_CHUNK_BYTES", "_PORTABLE_BYTES"):
            small: Any = {"time": 4096} if name == "_CHUNK_BYTES" else 4096
            monkeypatch.setattr(f"fmristore.planning.layout.{name}", small)

        def full(**_: object) -> Any:
            return Path("/dev/full").open("w+b", buffering=0)

        monkeypatch.setattr("tempfile.TemporaryFile", full)
        with refused(tmp_path, StorageError, match="set TMPDIR"):
            fs.convert(source, tmp_path / f"a.{kind}", max_memory=values.nbytes // 8)

        def none(**_: object) -> Any:
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

        monkeypatch.setattr("tempfile.TemporaryFile", none)
        with refused(tmp_path, StorageError, match="set TMPDIR"):
            fs.convert(source, tmp_path / f"a.{kind}", max_memory=values.nbytes // 8)

    def test_interrupted(self, tmp_path: Path, target: Path, source: Path) -> None:
        def stop(done: int, whole: int) -> None:
            raise KeyboardInterrupt

        before = snapshot(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            convert(source, target, progress=stop)
        assert snapshot(tmp_path) == before
        if target.exists():
            with fs.open(target) as image:
                assert_array_equal(np.asarray(image), VALUES)
                with pytest.raises(KeyboardInterrupt):
                    image.to_nifti(tmp_path / "b.nii", progress=stop)
            assert snapshot(tmp_path) == before

    def test_object_storage_keeps_what_was_there(self, tmp_path: Path, kind: str) -> None:
        memory = fsspec.filesystem("memory")
        url = f"memory://bad-{os.getpid()}/a.{kind}"
        store(url, VALUES).close()
        source = write_nifti(tmp_path / "a.nii.gz", make_values((20, 20, 20, 10)))
        source.write_bytes(source.read_bytes()[:-50])

        def stored() -> dict[str, bytes]:
            return {name: memory.cat_file(name) for name in memory.find(f"/bad-{os.getpid()}")}

        before = stored()
        with pytest.raises(CorruptDataError):
            fs.convert(source, url, overwrite=True)
        with pytest.raises(AlreadyExistsError):
            fs.convert(source, url)
        assert stored() == before
        with fs.open(url) as image:
            assert_array_equal(np.asarray(image), VALUES)
        memory.rm(f"/bad-{os.getpid()}", recursive=True)


class TestOpening:
    """What cannot be opened."""

    def test_missing(self, tmp_path: Path, kind: str) -> None:
        for name in (f"none.{kind}", f"folder/none.{kind}", "none"):
            with refused(tmp_path, NotFoundError, names=name):
                fs.open(tmp_path / name)
        with pytest.raises(NotFoundError, match="nothing"):
            fs.open(f"memory://nothing/a.{kind}")
        with pytest.raises(FileNotFoundError):
            fs.open(tmp_path / f"none.{kind}")

    def test_wrong_kind(self, tmp_path: Path, kind: str) -> None:
        write_nifti(tmp_path / "a.nii", VALUES)
        (tmp_path / f"text.{kind}").write_text("not a store")
        (tmp_path / f"empty.{kind}").write_bytes(b"")
        (tmp_path / "folder").mkdir()
        for name in ("a.nii", f"text.{kind}", f"empty.{kind}", "folder"):
            with refused(tmp_path, UnknownFormatError, names=name):
                fs.open(tmp_path / name)
        store(tmp_path / f"a.{kind}", VALUES).close()
        with refused(tmp_path, UnknownFormatError, names=f"a.{kind}"):
            fs.open(tmp_path / f"a.{kind}", kind="zarr" if kind == "h5" else "hdf5")
        with refused(tmp_path, UnknownFormatError, match="expected format 'neurovol'"):
            fs.open(tmp_path / f"a.{kind}", format="neurovol")

    def test_a_store_of_something_else(self, tmp_path: Path) -> None:
        import zarr

        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["data"] = VALUES
        zarr.open_group(str(tmp_path / "a.zarr"), mode="w").create_array("data", data=VALUES)
        zarr.create_array(str(tmp_path / "b.zarr"), data=VALUES)
        for name in ("a.h5", "a.zarr"):
            with refused(tmp_path, UnknownFormatError, names=name, match="no format of fmristore"):
                fs.open(tmp_path / name)
        with refused(tmp_path, UnknownFormatError, names="b.zarr"):
            fs.open(tmp_path / "b.zarr")

    @pytest.mark.parametrize("keep", [0.99, 0.5, 0.1])
    def test_truncated_hdf5(self, tmp_path: Path, keep: float) -> None:
        store(tmp_path / "a.h5", VALUES).close()
        content = (tmp_path / "a.h5").read_bytes()
        (tmp_path / "a.h5").write_bytes(content[: int(len(content) * keep)])
        with refused(tmp_path, CorruptDataError, names="a.h5"):
            fs.open(tmp_path / "a.h5")

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ud800", "[" * 100_000, "3"])
    @pytest.mark.parametrize("node", ["", "0", "affine"])
    def test_damaged_zarr_metadata(self, tmp_path: Path, text: str, node: str) -> None:
        url = tmp_path / "a.zarr"
        store(url, VALUES).close()
        if node == "affine":
            with_affine_array(url)
        drop_consolidated(url)
        (url / node / "zarr.json").write_bytes(text.encode(errors="surrogatepass"))
        with refused(tmp_path, MetadataError, names="a.zarr"):
            fs.open(url)

    def test_after_close(self, tmp_path: Path, kind: str) -> None:
        image = store(tmp_path / f"a.{kind}", VALUES, scales=SCALED)
        raw = image.raw
        image.close()
        image.close()
        assert image.closed
        uses: list[Callable[[], Any]] = [
            lambda: image[0, 0, 0],
            lambda: raw[0, 0, 0],
            lambda: np.asarray(image),
            lambda: image.series((0, 0, 0)),
            lambda: image.plan[0],
            lambda: image.header,
            lambda: image.to_nifti(tmp_path / "b.nii"),
            image.compute_digest,
        ]
        for use in uses:
            with refused(tmp_path, ClosedError, names=f"a.{kind}"):
                use()
        assert image.shape == SHAPE
        assert image.dtype == np.float32
        assert f"a.{kind}" in repr(image)
        assert image.digest


def drop_consolidated(url: Path) -> None:
    """Leave the metadata of each node as the only one."""
    path = url / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata.pop("consolidated_metadata", None)
    path.write_text(json.dumps(metadata))


def damage_chunks(url: Path, how: str) -> None:
    """Damage all chunks of the data of a store that holds several."""
    if url.is_dir():
        for path in files_below(url / "0" / "c"):
            content = path.read_bytes()
            if how == "gone":
                path.unlink()
            elif how == "cut":
                path.write_bytes(content[: len(content) // 2])
            else:
                path.write_bytes(bytes(b ^ 0x5A for b in content))
        return
    with h5py.File(url, "r") as file:
        data = file["0"].id
        places = [data.get_chunk_info(i) for i in range(data.get_num_chunks())]
    with url.open("r+b") as raw:
        for place in places:
            raw.seek(place.byte_offset)
            content = raw.read(place.size)
            raw.seek(place.byte_offset)
            half = len(content) // 2
            damaged = bytes(b ^ 0x5A for b in content)
            raw.write(content[:half] + bytes(len(content) - half) if how == "cut" else damaged)
    if how == "gone":
        with h5py.File(url, "r+") as file:
            old = file["0"]
            file.move("0", "old")
            like = old.id.get_type(), old.id.get_space(), old.id.get_create_plist()
            new = h5py.Dataset(h5py.h5d.create(file.id, b"0", *like))
            for name in ("DIMENSION_LABELS", "DIMENSION_LIST", "scale_factor", "add_offset"):
                if name in old.attrs:
                    new.attrs[name] = old.attrs[name]
            del file["old"]


class TestChunks:
    @pytest.mark.parametrize("how", ["gone", "cut", "garbled"])
    @pytest.mark.parametrize("codec", ["portable", "dual", "fast"])
    def test_damage_is_noticed(self, tmp_path: Path, kind: str, how: str, codec: str) -> None:
        if kind != "h5" and codec == "portable":
            pytest.skip("this preset is meant for HDF5")
        url = tmp_path / f"a.{kind}"
        store(url, VALUES // 4096, codec=codec).close()
        damage_chunks(url, how)
        with fs.open(url) as image:
            uses: list[Callable[[], Any]] = [
                image.compute_digest,
                lambda: image.to_nifti(tmp_path / "b.nii"),
            ]
            if how != "cut":  # else what was asked for may lie in the other half
                uses += [
                    lambda: image[3, 2, 1],
                    lambda: image[..., 4],
                    lambda: image.series([(3, 2, 1)]),
                ]
            for use in uses:
                with refused(tmp_path, CorruptDataError, names=f"a.{kind}", match="chunk"):
                    use()

    def test_a_damaged_chunk_does_not_spoil_the_others(self, tmp_path: Path, kind: str) -> None:
        url = tmp_path / f"a.{kind}"
        values = make_values((64, 64, 36, 3))
        store(url, values, access="volume").close()
        with fs.open(url) as image:
            assert image.plan[..., 0].chunks == 1
            array: Any = image._data.reader.array
            key = tuple(int(d == "t") for d in image.spec.dims)
            (ref,) = array.refs([key])
        place = ref.range
        with open(place.source if url.is_dir() else url, "r+b") as file:  # noqa: PTH123
            file.seek(place.offset)
            file.write(b"\xff" * place.length)
        with fs.open(url) as image:
            assert_array_equal(image[..., 0], values[..., 0])
            assert_array_equal(image[..., 2], values[..., 2])
            with pytest.raises(CorruptDataError):
                image[..., 1]
            assert_array_equal(image[..., 0], values[..., 0])


class TestChanged:
    """A store that is replaced while it is open."""

    def test_replaced(self, tmp_path: Path, kind: str) -> None:
        url = tmp_path / f"a.{kind}"
        store(url, VALUES).close()
        image = fs.open(url)
        store(url, VALUES + 1, overwrite=True).close()
        CHUNK_CACHE.clear()
        # Either the data that were opened, or a refusal; never others.
        if kind == "h5":
            assert_array_equal(np.asarray(image), VALUES)
        else:
            with pytest.raises(ChangedError, match=url.name):
                image[0]
        image.close()
        with fs.open(url) as again:
            assert_array_equal(np.asarray(again), VALUES + 1)

    def test_replaced_or_removed_before_it_is_unpickled(self, tmp_path: Path, kind: str) -> None:
        import pickle

        url = tmp_path / f"a.{kind}"
        with store(url, VALUES) as image:
            pickled = pickle.dumps(image)
        store(url, VALUES + 1, overwrite=True).close()
        with refused(tmp_path, ChangedError, names=url.name, match="open it again"):
            pickle.loads(pickled)
        if url.is_dir():
            shutil.rmtree(url)
        else:
            url.unlink()
        with refused(tmp_path, NotFoundError, names=url.name):
            pickle.loads(pickled)


# Files that lie ------------------------------------------------------------------------------


def edit_hdf5(url: Path, change: Callable[[h5py.File], object]) -> None:
    with h5py.File(url, "r+") as file:
        change(file)


def edit_zarr(url: Path, node: str, change: Callable[[dict[str, Any]], object]) -> None:
    drop_consolidated(url)
    path = url / node / "zarr.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def set_attribute(url: Path, node: str, name: str, value: Any) -> None:
    """Set an attribute, or remove it where the value is None, behind the package's back."""
    if url.is_dir():

        def change(metadata: dict[str, Any]) -> None:
            metadata["attributes"].pop(name, None)
            if value is not None:
                metadata["attributes"][name] = value

        edit_zarr(url, node, change)
        return

    def change_file(file: h5py.File) -> None:
        holder = file[node] if node else file
        holder.attrs.pop(name, None)
        if value is not None:
            holder.attrs[name] = value

    edit_hdf5(url, change_file)


class TestAttributes:
    @pytest.mark.parametrize(
        ("node", "name", "value", "error"),
        [
            ("", "fmristore_format", None, UnknownFormatError),
            ("", "fmristore_format", "other", UnknownFormatError),
            ("", "fmristore_format", ["neurovec"], UnknownFormatError),
            ("", "fmristore_format", "neurovol", MetadataError),
            ("", "fmristore_format_version", None, UnknownFormatError),
            ("", "fmristore_format_version", "2.0", UnsupportedVersionError),
            ("", "fmristore_format_version", "one", UnknownFormatError),
            ("", "fmristore_format_version", "9" * 5000, UnknownFormatError),
            ("", "repetition_time", "slow", MetadataError),
            ("", "repetition_time", -1.0, MetadataError),
            ("", "repetition_time", [1.0, 2.0], MetadataError),
            ("0", "scale_factor", "9" * 5000, MetadataError),
            ("0", "scale_factor", "steep", MetadataError),
            ("0", "scale_factor", 0.0, MetadataError),
            ("0", "scale_factor", [1.0, 2.0], MetadataError),
            ("0", "scale_factor", None, MetadataError),
            ("0", "add_offset", [1.0] * 3, MetadataError),
            ("0", "scaling", "per-volume", MetadataError),
        ],
    )
    def test_refused(
        self, tmp_path: Path, kind: str, node: str, name: str, value: Any, error: Any
    ) -> None:
        url = tmp_path / f"a.{kind}"
        store(url, VALUES, scales=SCALED).close()
        set_attribute(url, node, name, value)
        with refused(tmp_path, error, names=url.name):
            fs.open(url)

    @pytest.mark.parametrize(
        ("node", "name", "value"),
        [
            ("", "space_name", ["a", "b"]),
            ("", "space_name", 3),
            ("", "ome", None),
            ("", "value_range", "nonsense"),
            ("0", "access", ["a"]),
            ("0", "digest", 3),
            ("0", "scale_factor", 1e300),
            ("0", "scale_factor", 1e-300),
        ],
    )
    def test_read_all_the_same(
        self, tmp_path: Path, kind: str, node: str, name: str, value: Any
    ) -> None:
        url = tmp_path / f"a.{kind}"
        store(url, VALUES, scales=SCALED).close()
        set_attribute(url, node, name, value)
        with fs.open(url) as image:
            assert_array_equal(image.raw[...], VALUES)
            assert image[3, 2, 1].shape == (SHAPE[3],)
            assert repr(image)
            assert hash(image.space)


def replace_data(shape: Any, chunks: Any = None, dtype: Any = "i2", names: str = "tzyx") -> Any:
    """Put another array in the place of the data."""

    def change(file: h5py.File) -> None:
        del file["0"]
        data = file.create_dataset("0", shape=shape, chunks=chunks, dtype=dtype)
        for dim, name in zip(data.dims, names, strict=False):
            dim.label = name

    return change


def replace_node(name: str, **options: Any) -> Any:
    def change(file: h5py.File) -> None:
        del file[name]
        if options:
            file.create_dataset(name, **options)

    return change


def replace_affine(**options: Any) -> Any:
    """Put an array, as of format 1.1, in the place of the affine; nothing without options."""

    def change(file: h5py.File) -> None:
        del file.attrs["affine"]
        if options:
            file.create_dataset("affine", **options)

    return change


HUGE = (10**9, 10**5, 10**3, 10**3)
TEXT = h5py.string_dtype()


class TestLyingHDF5:
    @pytest.mark.parametrize(
        ("change", "error"),
        [
            (replace_node("0"), MetadataError),
            (replace_affine(), MetadataError),
            (replace_affine(data=np.eye(3)), MetadataError),
            (replace_affine(data=np.full((4, 4), np.nan)), MetadataError),
            (replace_affine(data=np.zeros((4, 4))), MetadataError),
            (replace_affine(data=np.arange(16.0)), MetadataError),
            (
                replace_affine(shape=(10**7, 10**7), dtype="f8", chunks=(10, 10)),
                MetadataError,
            ),
            (
                replace_affine(data=np.full((4, 4), b"x"), dtype=TEXT),
                MetadataError,
            ),
            (replace_data((9, 5, 6, 7), names=""), MetadataError),
            (replace_data((9, 5, 6, 7), names="abcd"), MetadataError),
            (replace_data((9, 5, 6), names="tzy"), MetadataError),
            (replace_data((9, 5, 6, 7, 3), names="tzyxc"), MetadataError),
            (replace_data((0, 5, 6, 7)), MetadataError),
            (replace_data((9, 5, 6, 7), dtype=TEXT), MetadataError),
            (replace_data((9, 5, 6, 7), dtype=[("a", "f4")]), LayoutNotSupportedError),
        ],
    )
    def test_refused_on_opening(
        self, tmp_path: Path, change: Callable[[h5py.File], None], error: Any
    ) -> None:
        store(tmp_path / "a.h5", VALUES).close()
        edit_hdf5(tmp_path / "a.h5", change)
        with refused(tmp_path, error, names="a.h5"):
            fs.open(tmp_path / "a.h5")

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"shape": (10**13,), "dtype": "u1", "chunks": (10**6,)},
            {"data": np.zeros(352, "u1")},
            {"data": np.linspace(0, 1, 352)},
            {"data": np.zeros((20, 20), "u1")},
            {"data": np.zeros(3, "u1")},
        ],
        ids=["missing", "huge", "zeros", "floats", "table", "short"],
    )
    def test_header(self, tmp_path: Path, options: dict[str, Any]) -> None:
        store(tmp_path / "a.h5", VALUES).close()
        edit_hdf5(tmp_path / "a.h5", replace_node("nifti", **options))
        with fs.open(tmp_path / "a.h5") as image:
            assert_array_equal(np.asarray(image), VALUES)
            for use in (
                lambda: image.header,
                image.to_nibabel,
                lambda: image.to_nifti(tmp_path / "b.nii"),
            ):
                with refused(tmp_path, MetadataError, names="a.h5", match="nifti"):
                    use()

    @pytest.mark.parametrize(
        ("shape", "chunks"),
        [
            (HUGE, (1, 1, 10, 10)),
            ((10**9, 5, 6, 7), (1, 5, 6, 7)),
            ((10**4, 10**3, 10**3, 10**3), (1, 1000, 1000, 1000)),
            ((2**62, 1, 1, 1), (1, 1, 1, 1)),
        ],
    )
    def test_sizes(self, tmp_path: Path, shape: Any, chunks: Any) -> None:
        """Absurd shapes cost neither memory nor time, whatever is asked for."""
        store(tmp_path / "a.h5", VALUES).close()
        edit_hdf5(tmp_path / "a.h5", replace_data(shape, chunks))
        with fs.open(tmp_path / "a.h5") as image:
            uses: list[Callable[[], Any]] = [
                lambda: image[0, 0, 0, 0],
                lambda: image[0, 0, 0],
                lambda: image[..., 0],
                lambda: np.asarray(image),
                lambda: image.series((0, 0, 0)),
                image.compute_digest,
                lambda: image.to_nifti(tmp_path / "b.nii"),
            ]
            for use in uses:
                with pytest.raises((CorruptDataError, MemoryLimitError, MetadataError)) as caught:
                    use()
                assert "a.h5" in str(caught.value)

    def test_a_link_to_another_file_is_not_followed(self, tmp_path: Path) -> None:
        store(tmp_path / "a.h5", VALUES).close()
        store(tmp_path / "secret.h5", VALUES).close()

        def change(file: h5py.File) -> None:
            del file["0"]
            file["0"] = h5py.ExternalLink("secret.h5", "/0")

        edit_hdf5(tmp_path / "a.h5", change)
        with refused(tmp_path, LayoutNotSupportedError, names="a.h5", match="not followed"):
            fs.open(tmp_path / "a.h5")


class TestLyingZarr:
    @pytest.mark.parametrize(
        ("node", "name", "value", "error"),
        [
            ("0", "shape", [10**9, 10**6, 10**6, 10**6], MetadataError),
            ("0", "shape", [-1, 5, 6, 7], MetadataError),
            ("0", "shape", [9.5, 5, 6, 7], MetadataError),
            ("0", "shape", [9], MetadataError),
            ("0", "shape", "9", MetadataError),
            ("0", "data_type", "nothing", LayoutNotSupportedError),
            ("0", "dimension_names", None, MetadataError),
            ("0", "dimension_names", ["a", "b", "c", "d"], MetadataError),
            ("0", "dimension_names", ["t", "t", "z", "y"], MetadataError),
            ("0", "zarr_format", 9, UnsupportedVersionError),
            ("0", "node_type", "group", MetadataError),
            ("0", "codecs", [], MetadataError),
            ("0", "codecs", [{"name": "bytes"}, {"name": "nothing"}], CodecError),
            ("affine", "shape", [10**7, 10**7], MetadataError),
            ("affine", "shape", [3, 3], MetadataError),
            ("affine", "data_type", "string", MetadataError),
        ],
    )
    def test_refused_on_opening(
        self, tmp_path: Path, node: str, name: str, value: Any, error: Any
    ) -> None:
        url = tmp_path / "a.zarr"
        store(url, VALUES).close()
        if node == "affine":
            with_affine_array(url)
        edit_zarr(url, node, lambda metadata: metadata.update({name: value}))
        before = snapshot(tmp_path)
        with pytest.raises((error, MetadataError)) as caught:
            fs.open(url)
        assert "a.zarr" in str(caught.value)
        assert snapshot(tmp_path) == before

    @pytest.mark.parametrize("chunk", [[10**9] * 4, [0] * 4, [-1] * 4, [1.5] * 4, [1]])
    def test_chunks(self, tmp_path: Path, chunk: list[Any]) -> None:
        url = tmp_path / "a.zarr"
        store(url, VALUES).close()
        grid = {"name": "regular", "configuration": {"chunk_shape": chunk}}
        edit_zarr(url, "0", lambda metadata: metadata.update(chunk_grid=grid))
        with pytest.raises(FormatError, match=r"a\.zarr"), fs.open(url) as image:
            image[0, 0, 0]

    def test_missing_nodes(self, tmp_path: Path) -> None:
        for node in ("0", "affine"):
            url = tmp_path / f"{node}.zarr"
            store(url, VALUES).close()
            if node == "affine":
                with_affine_array(url)
            drop_consolidated(url)
            shutil.rmtree(url / node)
            with refused(tmp_path, MetadataError, names=url.name, match="asks for th"):
                fs.open(url)
