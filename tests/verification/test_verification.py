"""Verification finds every kind of damage, in both stores, and nothing in sound ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
import zarr

import fmristore as fs
from fmristore.formats.image import layout as image_writer
from fmristore.verification import Problem, VerifyReport
from fmristore.verification.report import MOST_LISTED
from fmristore_stores.errors import CorruptDataError, NotFoundError, UnknownFormatError
from fmristore_stores.io.owners import hidden_name, own_mark
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import ByteRange, ChunkRefs
from fmristore_stores.spec import ArraySpec, ChunkLayout
from tests.conftest import S3Server
from tests.old_affine import with_affine_array

NAMES = ("run.h5", "run.ome.zarr")
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SHAPE = (10, 9, 8, 20)

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a run of 16 chunks; in Zarr, of 8 shards."""
    laid_out = ChunkLayout(chunks=(10, 4, 5, 5), shards=(10, 4, 5, 10), order=(1, 2, 3, 0))
    monkeypatch.setattr(image_writer, "plan_layout", lambda *_, **__: laid_out)

    def create(name: str, *, url: str = "", **options: Any) -> Path:
        values = np.random.default_rng(5).integers(0, 900, SHAPE, np.int16)
        space = fs.NeuroSpace(spatial_shape=SHAPE[:3], affine=AFFINE, time_points=SHAPE[3], tr=1.5)
        fs.NeuroVec.create(values, url or tmp_path / name, space=space, **options).close()
        return tmp_path / name

    return create


def kinds(report: VerifyReport) -> set[str]:
    return {problem.kind for problem in report.problems}


def ranges(url: Path, node: str = "0") -> list[ByteRange]:
    """Where the chunks of an array lie."""
    with open_store(url) as store:
        array = cast("ChunkRefs", store.root.array(node))
        spec = array.spec
        grid = [-(-n // c) for n, c in zip(spec.shape, spec.layout.chunks, strict=True)]
        refs = array.refs([tuple(map(int, key)) for key in np.ndindex(*grid)])
    return [ref.range for ref in refs if ref is not None]


def overwrite(where: ByteRange, data: bytes | None = None, *, at: int = 0) -> None:
    """Replace bytes of a chunk, all of them by 0xFF if not told otherwise."""
    with Path(where.source).open("r+b") as file:
        file.seek(where.offset + at)
        file.write(b"\xff" * where.length if data is None else data)


def flip(where: ByteRange) -> None:
    """Flip one bit in the middle of a chunk."""
    at = where.length // 2
    with Path(where.source).open("rb") as file:
        file.seek(where.offset + at)
        byte = file.read(1)[0]
    overwrite(where, bytes([byte ^ 0x10]), at=at)


def change_attributes(url: Path, node: str, **attributes: Any) -> None:
    with open_store(url, "r+") as store:
        found: Any = store.root.array(node) if node else store.root
        found.write_attributes(found.read_attributes() | attributes)


def change_values(url: Path, node: str, values: Any) -> None:
    with open_store(url, "r+") as store:
        store.root.array(node).write(None, values)


def replace_array(url: Path, node: str, values: Any) -> None:
    with open_store(url, "r+") as store:
        store.root.remove(node)
        numbers = np.asarray(values)
        chunks = ChunkLayout(chunks=tuple(max(1, n) for n in numbers.shape))
        spec = ArraySpec(shape=numbers.shape, dtype=numbers.dtype, layout=chunks)
        store.root.create_array(node, spec).write(None, numbers)


# Sound stores --------------------------------------------------------------------------------


NODES = ("0", "nifti", "t", "x", "y", "z")
"""Arrays of a run."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("codec", ["portable", "dual", "none"])
def test_sound(make: Make, name: str, codec: str) -> None:
    url = make(name, codec=codec)
    for deep in (False, True):
        report = fs.verify(url, deep=deep)
        assert report.ok, report
        assert not report.notes
        assert report.deep is deep
        assert report.format == "neurovec"
        assert report.arrays == len(NODES)
        found = [where for node in NODES for where in ranges(url, node)]
        assert report.chunks == len(found) >= 21
        assert report.nbytes == sum(where.length for where in found)
        assert ": ok (neurovec, 6 arrays," in str(report)


@pytest.mark.parametrize("name", NAMES)
def test_sound_in_little_memory(make: Make, name: str) -> None:
    assert fs.verify(make(name), deep=True, max_memory=16 * 1024).ok


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [
        {"slope": 0.1, "inter": -3.0},
        {"slope": np.linspace(0.1, 2, SHAPE[3]), "inter": np.zeros(SHAPE[3])},
    ],
    ids=["one slope", "slope for each volume"],
)
def test_sound_with_scaling(make: Make, name: str, options: dict[str, Any]) -> None:
    report = fs.verify(make(name, **options), deep=True)
    assert report.ok, report


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", "c8", "?"])
def test_sound_volumes(tmp_path: Path, name: str, dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 2, (5, 6, 7)).astype(dtype)
    fs.NeuroVol.create(values, tmp_path / name, space=AFFINE).close()
    report = fs.verify(tmp_path / name, deep=True)
    assert report.ok, report
    assert report.format == "neurovol"


@pytest.mark.parametrize("name", NAMES)
def test_real_run(shared_data: Path, tmp_path: Path, name: str) -> None:
    run = shared_data / "data" / "real" / "bold" / "haxby2001_25mm" / "sub-1_run-01_bold.nii.gz"
    fs.convert(run, tmp_path / name)
    report = fs.verify(tmp_path / name, deep=True)
    assert report.ok, report
    assert not report.notes


def test_files_of_the_r_package(shared_data: Path) -> None:
    files = sorted((shared_data / "golden" / "r-fmristore").glob("*.h5"))
    assert files
    for file in files:
        report = fs.verify(file, deep=True)
        assert report, report
        with fs.open(file) as stored:
            assert report.format == stored.format_name


def test_on_object_storage(make: Make, s3: S3Server) -> None:
    url = s3.url("run.ome.zarr")
    make("run.ome.zarr", url=url, storage_options=s3.options)
    report = fs.verify(url, deep=True, storage_options=s3.options)
    assert report.ok, report
    import s3fs

    filesystem = s3fs.S3FileSystem(**s3.options)
    shards = sorted(filesystem.find(f"{s3.bucket}/run.ome.zarr/0/c"))
    filesystem.rm(shards[0])
    data = filesystem.cat_file(shards[-1])
    filesystem.pipe_file(shards[-1], b"\xff" * 40 + data[40:])
    report = fs.verify(url, deep=True, storage_options=s3.options)
    assert kinds(report) == {"missing-chunk", "corrupt-chunk"}


@pytest.mark.parametrize("deep", [False, True])
def test_progress_reaches_the_end(make: Make, deep: bool) -> None:
    calls: list[tuple[int, int]] = []
    fs.verify(make("run.h5"), deep=deep, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] >= 2 * np.prod(SHAPE)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


# Damaged chunks ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("codec", ["portable", "dual", "none"])
def test_one_flipped_bit(make: Make, name: str, codec: str) -> None:
    url = make(name, codec=codec)
    flip(ranges(url)[3])
    assert fs.verify(url).ok
    report = fs.verify(url, deep=True)
    assert len(report.problems) == 1
    assert kinds(report) <= {"corrupt-chunk", "digest"}
    assert report.problems[0].node == "0"
    assert not report.ok


@pytest.mark.parametrize("name", NAMES)
def test_every_damaged_chunk_is_listed(make: Make, name: str) -> None:
    url = make(name)
    found = ranges(url)
    for number in (0, 5, len(found) - 1):
        overwrite(found[number])
    report = fs.verify(url, deep=True)
    assert kinds(report) == {"corrupt-chunk"}
    assert len(report.problems) == 3
    assert "chunk (0, 0, 0, 0) cannot be read" in report.problems[0].message


def test_the_list_is_bounded(tmp_path: Path) -> None:
    url = tmp_path / "many.h5"
    with h5py.File(url, "w") as file:
        file.create_dataset("x", data=np.arange(1000), chunks=(4,), compression="gzip")
    for where in ranges(url, "x"):
        overwrite(where)
    report = fs.verify(url, deep=True)
    assert len(report.problems) == MOST_LISTED + 1
    assert report.problems[-1].message == f"{250 - MOST_LISTED} more of the same kind"


@pytest.mark.parametrize("name", NAMES)
def test_other_arrays_are_checked_after_a_damaged_one(tmp_path: Path, name: str) -> None:
    url = tmp_path / name
    numbers = np.arange(4000.0)
    if name.endswith(".h5"):
        with h5py.File(url, "w") as file:
            for path in ("a", "b/c", "d"):
                file.create_dataset(path, data=numbers, chunks=(1000,), compression="gzip")
    else:
        group = zarr.open_group(url, mode="w")
        for path in ("a", "b/c", "d"):
            group.create_array(path, data=numbers, chunks=(1000,))
    overwrite(ranges(url, "a")[1])
    overwrite(ranges(url, "d")[2])
    report = fs.verify(url, deep=True)
    assert [(p.kind, p.node) for p in report.problems] == [
        ("corrupt-chunk", "a"),
        ("corrupt-chunk", "d"),
    ]
    assert report.arrays == 3


def test_swapped_chunk_files(make: Make, tmp_path: Path) -> None:
    url = make("run.ome.zarr")
    first, second = sorted(p for p in (url / "0" / "c").rglob("*") if p.is_file())[:2]
    first.rename(tmp_path / "other")
    second.rename(first)
    (tmp_path / "other").rename(second)
    assert fs.verify(url).ok
    report = fs.verify(url, deep=True)
    assert [p.kind for p in report.problems] == ["digest"]
    assert "not those that were written" in report.problems[0].message


def test_truncated_hdf5_file(make: Make) -> None:
    url = make("run.h5")
    size = url.stat().st_size
    with url.open("r+b") as file:
        file.truncate(size - 1000)
    with pytest.raises(CorruptDataError, match="truncated"):
        fs.verify(url)


def test_hdf5_chunk_beyond_the_end(make: Make) -> None:
    """A superblock that tells the shortened size lets HDF5 open the file."""
    url = make("run.h5")
    data = bytearray(url.read_bytes())
    last = max(ranges(url), key=lambda where: where.offset)
    size = len(data).to_bytes(8, "little")
    for found in (data.find(size), data.find(size, data.find(size) + 1)):
        if found >= 0:
            data[found : found + 8] = (last.offset + 1).to_bytes(8, "little")
    url.write_bytes(data[: last.offset + 1])
    try:
        report = fs.verify(url)
    except CorruptDataError:
        return
    assert not report.ok


@pytest.mark.parametrize("keep", [0, 3, -1])
def test_truncated_shard(make: Make, keep: int) -> None:
    url = make("run.ome.zarr")
    shard = next(p for p in (url / "0" / "c").rglob("*") if p.is_file())
    shard.write_bytes(shard.read_bytes()[:keep])
    for deep in (False, True):
        report = fs.verify(url, deep=deep)
        assert kinds(report) == {"chunk-index"}
        assert "shard (" in report.problems[0].message


def test_damaged_shard_indexes(make: Make) -> None:
    url = make("run.ome.zarr")
    shards = sorted(p for p in (url / "0" / "c").rglob("*") if p.is_file())
    for shard in (shards[0], shards[2]):
        data = shard.read_bytes()
        shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for deep in (False, True):
        report = fs.verify(url, deep=deep)
        assert [p.kind for p in report.problems] == ["chunk-index"] * 2
        assert "checksum" in report.problems[0].message


def test_every_shard_index_is_damaged(make: Make) -> None:
    url = make("run.ome.zarr")
    shards = [p for p in (url / "0" / "c").rglob("*") if p.is_file()]
    for shard in shards:
        shard.write_bytes(b"?" * 100)
    report = fs.verify(url, deep=True)
    assert len(report.problems) == len(shards)


def test_deleted_shard(make: Make) -> None:
    url = make("run.ome.zarr")
    before = fs.verify(url).chunks
    shard = next(p for p in (url / "0" / "c").rglob("*") if p.is_file())
    shard.unlink()
    for deep in (False, True):
        report = fs.verify(url, deep=deep)
        assert kinds(report) == {"missing-chunk"}
        assert report.chunks == before - len(report.problems)


def test_an_open_image_does_not_hide_damage(make: Make) -> None:
    url = make("run.ome.zarr")
    with fs.open(url) as image:
        image[0, 0, 0]
        shutil.rmtree(url / "0" / "c")
        report = fs.verify(url, deep=True)
        assert kinds(report) == {"missing-chunk"}
        assert report.problems[0].node == "0"
        assert not image.closed


def test_chunks_of_a_wrong_size(tmp_path: Path) -> None:
    url = tmp_path / "plain.zarr"
    group = zarr.open_group(url, mode="w")
    group.create_array("x", data=np.arange(30), chunks=(10,), compressors=None)
    (url / "x" / "c" / "1").write_bytes(b"")
    (url / "x" / "c" / "2").write_bytes(bytes(79))
    report = fs.verify(url)
    assert [p.message for p in report.problems] == [
        "chunk (1,) has 0 bytes where 80 are expected",
        "chunk (2,) has 79 bytes where 80 are expected",
    ]


# Wrong metadata ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_wrong_digest(make: Make, name: str) -> None:
    url = make(name)
    change_attributes(url, "0", digest="sha256-planes:" + "0" * 64)
    assert fs.verify(url).ok
    assert kinds(fs.verify(url, deep=True)) == {"digest"}


@pytest.mark.parametrize("name", NAMES)
def test_digest_of_an_unknown_kind(make: Make, name: str) -> None:
    url = make(name)
    change_attributes(url, "0", digest="md5:1")
    report = fs.verify(url, deep=True)
    assert kinds(report) == {"digest"}
    overwrite(ranges(url)[0])
    assert kinds(fs.verify(url, deep=True)) == {"digest", "corrupt-chunk"}


@pytest.mark.parametrize("name", NAMES)
def test_no_digest(make: Make, name: str) -> None:
    url = make(name)
    with open_store(url, "r+") as store:
        array = store.root.array("0")
        attributes = array.read_attributes()
        del attributes["digest"]
        array.write_attributes(attributes)
    report = fs.verify(url, deep=True)
    assert report.ok
    assert [note.kind for note in report.notes] == ["no-digest"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"spatial_shape": (10, 9, 7)}, "shape"),
        ({"time_points": 21}, "shape"),
        ({"affine": np.diag([2.0, 2.0, 4.0, 1.0])}, "affine"),
        ({"tr": 2.0}, "TR"),
        ({"dtype": "f4"}, "type"),
        ({"slope": 2.0}, "slope"),
    ],
)
def test_header_that_contradicts(make: Make, name: str, changes: dict[str, Any], told: str) -> None:
    from fmristore.nifti import make_header

    url = make(name)
    changes = dict(changes)
    dtype, slope = changes.pop("dtype", "i2"), changes.pop("slope", None)
    facts: dict[str, Any] = {
        "spatial_shape": SHAPE[:3],
        "affine": AFFINE,
        "time_points": SHAPE[3],
        "tr": 1.5,
    }
    header = make_header(fs.NeuroSpace(**(facts | changes)), dtype, slope=slope)
    change_values(url, "nifti", np.frombuffer(header, np.uint8))
    report = fs.verify(url)
    assert kinds(report) == {"header"}
    assert f"header's {told}" in report.problems[0].message


@pytest.mark.parametrize("name", NAMES)
def test_header_that_is_none(make: Make, name: str) -> None:
    url = make(name)
    change_values(url, "nifti", np.arange(352).astype(np.uint8))
    assert kinds(fs.verify(url)) == {"header"}
    replace_array(url, "nifti", np.zeros(3, np.uint8))
    assert kinds(fs.verify(url)) == {"header"}


@pytest.mark.parametrize("name", NAMES)
def test_times_that_contradict(make: Make, name: str) -> None:
    url = make(name)
    change_values(url, "t", np.arange(SHAPE[3]) * 1.6)
    assert kinds(fs.verify(url)) == {"times"}
    replace_array(url, "t", np.arange(3.0))
    assert kinds(fs.verify(url)) == {"times"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("node", ["0", "affine", "nifti"])
def test_missing_nodes(make: Make, name: str, node: str) -> None:
    url = make(name)
    if node == "affine":
        with_affine_array(url)
    with open_store(url, "r+") as store:
        store.root.remove(node)
    report = fs.verify(url, deep=True)
    assert len(report.problems) == 1
    assert report.problems[0].node == (node if node != "affine" else "")
    assert kinds(report) <= {"not-found", "metadata", "header"}


@pytest.mark.parametrize("name", NAMES)
def test_affine_that_is_none(make: Make, name: str) -> None:
    url = make(name)
    change_attributes(url, "", affine=[0.0] * 16)
    flip(ranges(url)[0])
    report = fs.verify(url, deep=True)
    assert "metadata" in kinds(report)
    assert any("affine" in problem.message for problem in report.problems)


@pytest.mark.parametrize("name", NAMES)
def test_affine_that_would_fill_the_memory(make: Make, name: str) -> None:
    url = make(name)
    with_affine_array(url)
    with open_store(url, "r+") as store:
        store.root.remove("affine")
        chunks = ChunkLayout(chunks=(8, 8))
        spec = ArraySpec(shape=(2**24, 2**24), dtype=np.dtype("f8"), layout=chunks)
        store.root.create_array("affine", spec)
    report = fs.verify(url, deep=True)
    assert kinds(report) == {"metadata"}
    assert f"{2**42} of {2**42} chunks" in next(
        note.message for note in report.notes if note.kind == "missing-chunk"
    )


def test_damaged_metadata_of_one_node(make: Make) -> None:
    url = make("run.ome.zarr")
    (url / "t" / "zarr.json").write_text("{")
    overwrite(ranges(url)[0])
    report = fs.verify(url, deep=True)
    assert {("array", "t"), ("corrupt-chunk", "0")} <= {(p.kind, p.node) for p in report.problems}
    assert not {p.node for p in report.problems} & {"x", "nifti"}
    assert report.arrays == len(NODES) - 1


@pytest.mark.parametrize("name", NAMES)
def test_formats_that_are_not_known(make: Make, name: str) -> None:
    url = make(name)
    change_attributes(url, "", fmristore_format_version="2.0")
    report = fs.verify(url, deep=True)
    assert report.ok
    assert "newer" in report.notes[0].message
    change_attributes(url, "", fmristore_format_version="x")
    assert kinds(fs.verify(url)) == {"unknown-format"}
    change_attributes(url, "", fmristore_format=["neurovec"])
    report = fs.verify(url)
    assert report.ok
    assert "not known" in report.notes[0].message


# Other stores --------------------------------------------------------------------------------


def test_hdf5_of_other_software(tmp_path: Path) -> None:
    url = tmp_path / "other.h5"
    with h5py.File(url, "w") as file:
        sparse = file.create_dataset("sparse", (100,), "f4", chunks=(10,))
        sparse[25:35] = 1
        file["text"] = ["a", "b", "ä"]
        file["number"] = 5
        file["record"] = np.zeros(3, [("a", "i4"), ("b", "f8")])
        file["empty"] = np.zeros((0, 3))
        file["group/itself"] = file["/"]
        file["broken"] = h5py.SoftLink("/nowhere")
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/x")
        file["alias"] = h5py.SoftLink("/sparse")
    report = fs.verify(url, deep=True)
    assert report.ok, report
    assert {(note.kind, note.node) for note in report.notes} == {
        ("missing-chunk", "sparse"),
        ("array", "record"),
        ("link", "broken"),
        ("external-link", "elsewhere"),
    }
    assert report.arrays == 4
    assert "of another writer" in str(report)


def test_large_plain_chunks_are_read_in_pieces(tmp_path: Path) -> None:
    url = tmp_path / "plain.h5"
    with h5py.File(url, "w") as file:
        file["x"] = np.arange(100_000)
        file.create_dataset("y", data=np.arange(100_000), chunks=(100_000,), compression="gzip")
    report = fs.verify(url, deep=True, max_memory=100_000)
    assert report.ok
    assert report.notes == (
        Problem(
            "not-checked", "y", "not decoded: chunks of 800000 bytes need more than max_memory"
        ),
    )
    assert not fs.verify(url, deep=True).notes


@pytest.mark.parametrize("deep", [False, True])
def test_absurd_number_of_chunks(tmp_path: Path, deep: bool) -> None:
    url = tmp_path / "absurd.zarr"
    group = zarr.open_group(url, mode="w")
    group.create_array("x", data=np.ones((4, 4)), chunks=(1, 1))
    path = url / "x" / "zarr.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"shape": [2**10, 2**10]}))
    report = fs.verify(url, deep=deep)
    assert report.ok
    assert [note.kind for note in report.notes] == ["missing-chunk"]
    assert f"{2**20 - 16} of {2**20} chunks" in report.notes[0].message


def test_stores_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        fs.verify(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no store")
    with pytest.raises(UnknownFormatError):
        fs.verify(tmp_path / "text.h5")


def test_report(make: Make) -> None:
    url = make("run.h5")
    overwrite(ranges(url)[0])
    report = fs.verify(url, deep=True)
    document = json.loads(json.dumps(report.to_json()))
    assert document["ok"] is False
    assert document["url"] == str(url)
    assert document["problems"][0]["kind"] == "corrupt-chunk"
    assert str(report).startswith(f"{url}: 1 problem (neurovec")
    assert "corrupt-chunk /0: chunk (0, 0, 0, 0)" in str(report)


@pytest.mark.parametrize("ending", ["h5", "zarr"])
def test_what_a_killed_writer_left_is_mentioned(tmp_path: Path, ending: str) -> None:
    url = tmp_path / f"a.{ending}"
    fs.NeuroVol.create(np.ones((3, 4, 5), "i2"), url, space=np.eye(4)).close()
    with own_mark() as mark:
        pass
    left = tmp_path / hidden_name(url.name, mark, "partial")
    left.write_bytes(b"half")
    report = fs.verify(url)
    assert report.ok
    (note,) = [note for note in report.notes if note.kind == "leftover"]
    assert str(left) in str(note)
    fs.NeuroVol.create(np.ones((3, 4, 5), "i2"), url, space=np.eye(4), overwrite=True).close()
    assert not left.exists()
    assert not [note for note in fs.verify(url).notes if note.kind == "leftover"]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("how", ["external link", "view", "external storage", "unknown codec"])
def test_data_that_cannot_be_read_are_not_ok(tmp_path: Path, how: str, *, deep: bool) -> None:
    """Nobody knows whether they are sound; a store without them is of no use."""
    suffix = "zarr" if how == "unknown codec" else "h5"
    path, data = tmp_path / f"a.{suffix}", np.arange(48, dtype="i2").reshape(4, 3, 2, 2)
    fs.NeuroVec.create(data, path, space=np.eye(4), tr=1.0).close()
    if suffix == "zarr":
        document = path / "0" / "zarr.json"
        found = json.loads(document.read_text())
        found["codecs"][-1] = {"name": "numcodecs.pickle", "configuration": {}}
        document.write_text(json.dumps(found))
    else:
        with h5py.File(tmp_path / "b.h5", "w") as other:
            other["0"] = data.T
        (tmp_path / "raw").write_bytes(data.tobytes())
        with h5py.File(path, "r+") as file:
            attributes = dict(file["0"].attrs)
            shape = file["0"].shape
            del file["0"]
            if how == "external link":
                file["0"] = h5py.ExternalLink(str(tmp_path / "b.h5"), "/0")
            elif how == "view":
                layout = h5py.VirtualLayout(shape, "i2")
                layout[...] = h5py.VirtualSource(str(tmp_path / "b.h5"), "0", shape)
                file.create_virtual_dataset("0", layout)
            else:
                file.create_dataset("0", shape, "i2", external=[(str(tmp_path / "raw"), 0, 96)])
            if how != "external link":
                file["0"].attrs.update(
                    {k: v for k, v in attributes.items() if k != "DIMENSION_LIST"}
                )
                for axis, name in enumerate("tzyx"):
                    file["0"].dims[axis].label = name
    report = fs.verify(path, deep=deep)
    assert not report.ok, str(report)


@pytest.mark.parametrize("kind", ["h5", "ome.zarr"])
def test_a_copy_of_a_run_that_is_none(tmp_path: Path, kind: str) -> None:
    values = np.arange(6 * 5 * 4 * 7, dtype="i2").reshape(6, 5, 4, 7)
    url = tmp_path / f"runs.{kind}"
    run = fs.NeuroVec.create(values, tmp_path / "run.h5", space=np.eye(4), access="both")
    with run:
        fs.NeuroVecSeq.create({"a": run, "b": run}, url, access="both").close()
    assert fs.verify(url).ok
    with open_store(url, "r+") as store:
        store.root.array("runs/b/volume/0").write_attributes({"digest": "sha256-planes:00"})
    (problem,) = fs.verify(url).problems
    assert (problem.kind, problem.node) == ("metadata", "runs/b/volume/0")
