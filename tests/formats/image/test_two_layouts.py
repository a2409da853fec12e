"""Runs with two copies: one logical array, every read from the copy with less to decode."""

from __future__ import annotations

import copy
import json
import math
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import fmristore as fs
from fmristore.cli import app
from fmristore.formats.image import replicas as copies
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import CorruptDataError, InvalidInputError, MetadataError
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import AnyArray
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.testing.wrappers import CountingStore
from tests.images import (
    AFFINE,
    PEAK,
    SCALED,
    STORES,
    from_proc,
    make_values,
    run_python,
    store,
    write_nifti,
)

SHAPE = (24, 20, 18, 60)
VALUES = make_values(SHAPE)
PATHS = ("0", "volume/0")
OTHER = {"h5": "ome.zarr", "ome.zarr": "h5"}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks in a small run."""
    sizes = {"time": 16 * 1024, "balanced": 16 * 1024, "volume": 8 * 1024}
    monkeypatch.setattr("fmristore.planning.layout._CHUNK_BYTES", sizes)
    monkeypatch.setattr("fmristore.planning.layout._PORTABLE_BYTES", 16 * 1024)
    monkeypatch.setattr("fmristore.planning.chunking._SHARD_BYTES", (64 * 1024, 64 * 1024))


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for runs that tests copy."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def both(made: Path, tmp_path: Path, kind: str, small_chunks: None) -> Path:
    """A run with two copies."""
    return copied(made, tmp_path / f"both.{kind}", codec="dual")


def copied(made: Path, url: Path, **options: Any) -> Path:
    """A run with two copies and small chunks, written once and copied after that."""
    first = made / f"{options['codec']}{url.suffix}"
    if not first.exists():
        store(first, VALUES, access="both", **options).close()
    (shutil.copytree if first.is_dir() else shutil.copy)(first, url)
    return url


def arrays(url: Path) -> dict[str, AnyArray]:
    """Numbers of both copies by path, axes as users index them."""
    found = {}
    with open_store(url) as opened_:
        for path in PATHS:
            array = opened_.root.array(path)
            found[path] = array.read().transpose([array.spec.dims.index(d) for d in "xyzt"])
    return found


def encoded(url: Path, path: str) -> list[bytes]:
    """Encoded chunks of an array, sorted: the same in every store that holds the same."""
    with open_store(url) as opened_:
        array: Any = opened_.root.array(path)
        spec = array.spec
        keys = list(
            np.ndindex(*(-(-n // c) for n, c in zip(spec.shape, spec.layout.chunks, strict=True)))
        )
        return sorted(bytes(array.fetch([ref.range])[0]) for ref in array.refs(keys))


def chunk_size(spec: Any) -> dict[str, int]:
    return dict(zip(spec.dims, spec.layout.chunks, strict=True))


def touched(spec: Any, parts: dict[str, slice]) -> int:
    """Chunks that a region touches, counted one by one."""
    size = chunk_size(spec)
    return math.prod(
        len({i // size[d] for i in range(*part.indices(SHAPE["xyzt".index(d)]))})
        for d, part in parts.items()
    )


# Storing -----------------------------------------------------------------------------------------


def test_two_copies_of_the_same_numbers(both: Path, kind: str) -> None:
    for values in arrays(both).values():
        np.testing.assert_array_equal(values, VALUES)
    with fs.open(both) as image, open_store(both) as opened_:
        first, second = (opened_.root.array(path) for path in PATHS)
        assert image.access == "both"
        assert image.spec == first.spec
        assert [array.path for array in image.primary_arrays] == list(PATHS)
        one, two = first.read_attributes(), second.read_attributes()
        assert (one["access"], one["copies"], two["access"]) == ("both", ["volume/0"], "volume")
        assert one["digest"] == two["digest"] == image.digest == image.compute_digest()
        assert first.spec.memory.dims[-1] == "t"
        assert second.spec.memory.dims[-1] == "x"
        assert chunk_size(first.spec)["t"] == SHAPE[3]
        assert chunk_size(second.spec)["t"] == 1
        datasets = opened_.root.read_attributes()["ome"]["multiscales"][0]["datasets"]
        assert [dataset["path"] for dataset in datasets] == ["volume/0"]
        assert "for time and for volumes" in repr(image)


@pytest.mark.parametrize("codec", ["portable", "dual", "fast", "none"])
@pytest.mark.parametrize("alone", ["time", "volume"])
def test_each_copy_is_what_it_would_be_alone(
    tmp_path: Path, kind: str, codec: str, alone: Any, small_chunks: None
) -> None:
    store(tmp_path / f"both.{kind}", VALUES, access="both", codec=codec).close()
    with store(tmp_path / f"one.{kind}", VALUES, access=alone, codec=codec) as one:
        path = PATHS[alone == "volume"]
        with open_store(tmp_path / f"both.{kind}") as opened_:
            assert opened_.root.array(path).spec == one.spec
    assert encoded(tmp_path / f"both.{kind}", path) == encoded(tmp_path / f"one.{kind}", "0")


@pytest.mark.parametrize("kind", STORES)
def test_the_source_is_read_once(tmp_path: Path, kind: str, monkeypatch: Any) -> None:
    from fmristore.sources.images import NiftiSource

    source = write_nifti(tmp_path / "run.nii.gz", make_values())
    plainly, passes = NiftiSource.blocks, []

    def blocks(self: Any, max_bytes: int) -> Iterator[Any]:
        passes.append(max_bytes)
        return plainly(self, max_bytes)

    monkeypatch.setattr(NiftiSource, "blocks", blocks)
    told: list[tuple[int, int]] = []
    fs.convert(
        source, tmp_path / f"a.{kind}", access="both", progress=lambda *done: told.append(done)
    )
    assert len(passes) == 1
    assert told[-1] == (make_values().nbytes, make_values().nbytes)


def test_volumes_are_stored_once(tmp_path: Path, kind: str) -> None:
    with store(tmp_path / f"a.{kind}", VALUES[..., 0], access="both") as image:
        assert len(image.primary_arrays) == 1
        assert image.access == "time"
        assert image.plan[...].copy is None


@pytest.mark.parametrize("colours", [3, 4])
def test_colours(tmp_path: Path, kind: str, colours: int) -> None:
    dtype = [(name, "u1") for name in "RGBA"[:colours]]
    values = make_values((7, 6, 5, 9), dtype)
    with store(tmp_path / f"a.{kind}", values, access="both") as image:
        np.testing.assert_array_equal(np.asarray(image), values)
        np.testing.assert_array_equal(image[..., 3], values[..., 3])
        np.testing.assert_array_equal(image.series([(1, 2, 3)])[:, 0], values[1, 2, 3])
        assert image.plan[..., 3].copy == "volume/0"
    assert fs.verify(tmp_path / f"a.{kind}", deep=True).ok


def test_scaling_holds_for_both(tmp_path: Path, kind: str) -> None:
    values = make_values()
    slopes = np.linspace(0.5, 2, values.shape[3])
    for name, slope, inter in (("one", 0.25, -3.5), ("each", slopes, slopes - 1)):
        with store(
            tmp_path / f"{name}.{kind}", values, access="both", slope=slope, inter=inter
        ) as image:
            wanted = values * slope + inter
            np.testing.assert_allclose(image[2, 3, 4], wanted[2, 3, 4], rtol=1e-5)
            np.testing.assert_allclose(image[..., 5], wanted[..., 5], rtol=1e-5)
            assert {image.plan[2, 3, 4].copy, image.plan[..., 5].copy} == set(PATHS)
    if kind != "h5":
        with xarray.open_zarr(tmp_path / f"one.{kind}", group="volume", chunks=None) as dataset:
            np.testing.assert_allclose(dataset["0"].T, values * 0.25 - 3.5, rtol=1e-5)


def test_a_run_of_r_has_one_copy(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no second copy"):
        store(tmp_path / "a.h5", VALUES, access="both", profile="r")
    assert not (tmp_path / "a.h5").exists()
    store(tmp_path / "both.zarr", VALUES, access="both").close()
    fs.convert(tmp_path / "both.zarr", tmp_path / "r.h5", profile="r")
    with fs.open(tmp_path / "r.h5") as image:
        np.testing.assert_array_equal(np.asarray(image), VALUES)


@pytest.mark.parametrize(("codec", "linked"), [("portable", "0"), ("dual", "volume/0")])
def test_r_finds_the_copy_whose_axes_it_understands(
    tmp_path: Path, codec: str, linked: str
) -> None:
    store(tmp_path / "a.h5", VALUES, access="both", codec=codec).close()
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["data"] == file[linked]
        assert file["data"].shape == SHAPE[::-1]
        assert file.attrs["rtype"] == b"DenseNeuroVec"
    fs.transcode(tmp_path / "a.h5", tmp_path / "b.zarr")
    fs.transcode(tmp_path / "b.zarr", tmp_path / "c.h5", access="volume")
    fs.transcode(tmp_path / "a.h5", tmp_path / "d.h5", access="both", codec="dual")
    with h5py.File(tmp_path / "c.h5") as one, h5py.File(tmp_path / "d.h5") as two:
        assert one["data"] == one["0"]
        assert two["data"] == two["volume/0"]


def test_stored_anew(tmp_path: Path, both: Path, kind: str) -> None:
    with fs.open(both) as image, image.save(tmp_path / f"b.{OTHER[kind]}") as again:
        assert again.access == "both"
        np.testing.assert_array_equal(np.asarray(again), VALUES)
        assert again.digest == image.digest
    fs.convert(both, tmp_path / "c.h5", access="volume")
    with fs.open(tmp_path / "c.h5") as one:
        assert (one.access, len(one.primary_arrays)) == ("volume", 1)


def test_runs_of_a_sequence(tmp_path: Path, kind: str) -> None:
    url = tmp_path / f"seq.{kind}"
    runs = {"a": VALUES[..., :25], "b": VALUES[..., 25:]}
    with fs.NeuroVecSeq.create(runs, url, space=AFFINE, tr=1.5, access="both") as sequence:
        np.testing.assert_array_equal(np.asarray(sequence), VALUES)
        assert sequence["b"].plan[..., 3].copy == "runs/b/volume/0"
        assert sequence["b"].plan[1, 2, 3].copy == "runs/b/0"
        assert len(sequence.primary_arrays) == 4
        sizes = sequence.describe()["sizes"]
        assert sizes["raw_bytes"] == VALUES.nbytes
        assert 0 < sizes["copies_encoded_bytes"] < sizes["encoded_bytes"]
    assert fs.verify(url, deep=True).ok
    fs.transcode(url, tmp_path / f"b.{OTHER[kind]}")
    with fs.open(tmp_path / f"b.{OTHER[kind]}") as moved:
        np.testing.assert_array_equal(np.asarray(moved), VALUES)
        assert moved["a"].access == "both"


# Reading -----------------------------------------------------------------------------------------


@st.composite
def slices(draw: st.DrawFn, length: int) -> slice:
    start = draw(st.integers(0, length))
    return slice(start, draw(st.integers(start, length)), draw(st.integers(1, 9)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(region=st.tuples(*map(slices, SHAPE)))
def test_every_region_comes_from_the_cheaper_copy(
    both: Path, opened: list[CountingStore], region: tuple[slice, ...]
) -> None:
    with fs.open(both) as image:
        counting = opened[-1]
        chunks = {
            array.path: touched(array.reader.spec, dict(zip("xyzt", region, strict=True)))
            for array in image.primary_arrays
        }
        nbytes = {
            array.path: chunks[array.path] * array.reader.spec.chunk_nbytes
            for array in image.primary_arrays
        }
        counting.reset()
        plan = image.plan[region]
        assert plan.copy is not None
        np.testing.assert_array_equal(image[region], VALUES[region])
        counts = {path: counting.counts[path].chunks_fetched for path in PATHS}
        other = next(path for path in PATHS if path != plan.copy)
        assert counts == {plan.copy: chunks[plan.copy], other: 0}
        series = region[3] == slice(0, SHAPE[3], 1)
        assert nbytes[plan.copy] <= nbytes[other] or (
            series and (plan.copy, plan.chunks) == ("0", 1)
        )
        assert (plan.chunks, plan.decoded_bytes) == (chunks[plan.copy], nbytes[plan.copy])
        assert plan.chunks <= plan.chunks_in_all


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    count=st.integers(1, 3000),
    times=slices(SHAPE[3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_scattered_voxels_come_from_the_cheaper_copy(
    both: Path, opened: list[CountingStore], count: int, times: slice, seed: int
) -> None:
    voxels = np.random.default_rng(seed).integers(0, SHAPE[:3], (count, 3))
    with fs.open(both) as image:
        counting = opened[-1]
        chunks, nbytes = {}, {}
        for array in image.primary_arrays:
            spec = array.reader.spec
            size = chunk_size(spec)
            cells = {
                tuple(v // size[d] for v, d in zip(voxel, "xyz", strict=True)) for voxel in voxels
            }
            chunks[array.path] = len(cells) * touched(spec, {"t": times})
            nbytes[array.path] = chunks[array.path] * spec.chunk_nbytes
        counting.reset()
        np.testing.assert_array_equal(
            image.series(voxels, times=times), VALUES[tuple(voxels.T)][:, times].T
        )
        counts = {path: counting.counts[path].chunks_fetched for path in PATHS}
        assert sum(count > 0 for count in counts.values()) <= 1
        for path, other in (PATHS, PATHS[::-1]):
            if nbytes[path] < nbytes[other]:
                assert counts == {path: chunks[path], other: 0}


def test_each_copy_is_read_for_what_it_is_for(both: Path, capsys: Any) -> None:
    with fs.open(both) as image:
        assert image.plan[3, 4, 5].copy == "0"
        assert image.plan[..., 7].copy == "volume/0"
        assert image.plan[3, 4, 5].chunks == 1
        text = image.plan[..., 7].explain()
        assert "/volume/0" in text
        capsys.readouterr()
        line = next(line for line in text.splitlines() if line.split()[0] == "copy")
        assert line.split()[1] == "/volume/0,"


def test_equal_costs_take_fewer_chunks(tmp_path: Path, kind: str) -> None:
    values = make_values((16, 16, 16, 64))
    with store(tmp_path / f"a.{kind}", values, access="both", codec="dual") as image:
        costs = [array.reader.cost() for array in image.primary_arrays]
        assert costs[0].decoded_bytes == costs[1].decoded_bytes
        fewest = min(zip(costs, PATHS, strict=True), key=lambda found: found[0].chunks)[1]
        assert image.plan[...].copy == fewest


def test_volumes_go_elsewhere_from_their_copy(
    tmp_path: Path, both: Path, opened: list[CountingStore]
) -> None:
    """Neither NIfTI nor another store needs a scratch file or decodes a chunk twice."""
    volumes = SHAPE[3] * math.ceil(math.prod(SHAPE[:3]) * 2 / 8192)
    for go in (
        lambda image: image.to_nifti(tmp_path / "back.nii", max_memory=1 << 17),
        lambda image: list(image.as_source().blocks(1 << 15)),
    ):
        with fs.open(both) as image:
            opened[-1].reset()
            go(image)
            counts = opened[-1].counts
            assert counts["0"].chunks_fetched == 0
            assert counts["volume/0"].chunks_fetched >= SHAPE[3]
            assert counts["volume/0"].chunks_fetched <= 2 * volumes


def test_nifti_comes_back_byte_for_byte(tmp_path: Path, kind: str) -> None:
    source = write_nifti(tmp_path / "run.nii", make_values(), scales=SCALED)
    fs.convert(source, tmp_path / f"a.{kind}", access="both")
    with fs.open(tmp_path / f"a.{kind}") as image:
        image.to_nifti(tmp_path / "back.nii")
    assert (tmp_path / "back.nii").read_bytes() == source.read_bytes()


def test_pickles_and_copies(both: Path) -> None:
    with fs.open(both) as image:
        for other in (pickle.loads(pickle.dumps(image)), copy.deepcopy(image)):
            assert other.plan[..., 3].copy == "volume/0"
            np.testing.assert_array_equal(other[..., 3], VALUES[..., 3])
            np.testing.assert_array_equal(other[1, 2, 3], VALUES[1, 2, 3])
            assert other.describe() == image.describe()
            other.close()


# Other readers -----------------------------------------------------------------------------------


def test_others_read_the_array_0(both: Path, kind: str) -> None:
    import hdf5plugin  # noqa: F401 - registers the filter with h5py

    if kind == "h5":
        with h5py.File(both) as file:
            labels = [dim.label for dim in file["0"].dims]
            np.testing.assert_array_equal(
                file["0"][...].transpose([labels.index(d) for d in "xyzt"]), VALUES
            )
        dataset = xarray.open_dataset(both, engine="h5netcdf")
    else:
        plain = np.asarray(zarr.open_array(both / "0", mode="r")[...])
        np.testing.assert_array_equal(plain.T, VALUES)
        dataset = xarray.open_zarr(both, chunks=None)
    with dataset:
        np.testing.assert_array_equal(dataset["0"].transpose(*"xyzt"), VALUES)
        assert dict(dataset.sizes) | dict(zip("xyzt", SHAPE, strict=True)) == dict(dataset.sizes)
        assert not any("volume" in str(name) for name in dataset.variables)


def test_ome_zarr_is_valid(tmp_path: Path) -> None:
    from ome_zarr_models.v05 import Image

    store(tmp_path / "a.ome.zarr", VALUES, access="both").close()
    image = Image.from_zarr(zarr.open_group(tmp_path / "a.ome.zarr", mode="r"))
    assert [d.path for d in image.attributes.ome.multiscales[0].datasets] == ["volume/0"]
    fs.transcode(tmp_path / "a.ome.zarr", tmp_path / "one.zarr", access="time")
    fs.transcode(tmp_path / "one.zarr", tmp_path / "two.zarr", access="both")
    for name, path in (("one.zarr", "0"), ("two.zarr", "volume/0")):
        image = Image.from_zarr(zarr.open_group(tmp_path / name, mode="r"))
        assert [d.path for d in image.attributes.ome.multiscales[0].datasets] == [path]


def test_a_reader_that_does_not_know_copies(both: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(copies, "find_replicas", lambda *_: ())
    with fs.open(both) as image:
        assert len(image.primary_arrays) == 1
        np.testing.assert_array_equal(image[..., 3], VALUES[..., 3])


# Damage ------------------------------------------------------------------------------------------


def change(url: Path, path: str, **attributes: Any) -> None:
    with open_store(url, "r+") as opened_:
        opened_.root.array(path).write_attributes(attributes)


def flip(url: Path, path: str) -> None:
    """Change a byte in the middle of a chunk."""
    with open_store(url) as opened_:
        array: Any = opened_.root.array(path)
        (ref,) = array.refs([(0,) * len(array.spec.shape)])
        name, offset, length = ref.range
    with Path(str(name).removeprefix("file://")).open("r+b") as file:
        file.seek(offset + length // 2)
        byte = file.read(1)[0]
        file.seek(offset + length // 2)
        file.write(bytes([byte ^ 0xFF]))


@pytest.mark.parametrize("path", PATHS)
def test_verify_finds_other_numbers_in_one_copy(both: Path, path: str) -> None:
    assert fs.verify(both, deep=True).ok
    with open_store(both, "r+") as opened_:
        array = opened_.root.array(path)
        first = tuple(slice(0, n, 1) for n in array.spec.layout.units)
        first = tuple(
            slice(0, min(s.stop, n), 1) for s, n in zip(first, array.spec.shape, strict=True)
        )
        array.write(first, array.read(first) + 1)
    assert fs.verify(both).ok
    report = fs.verify(both, deep=True)
    assert [(problem.kind, problem.node) for problem in report.problems] == [("digest", path)]


@pytest.mark.parametrize("path", PATHS)
def test_verify_finds_damage_in_one_copy_and_the_other_is_read(
    tmp_path: Path, kind: str, path: str
) -> None:
    both = tmp_path / f"a.{kind}"
    store(both, VALUES, access="both", codec="portable").close()
    flip(both, path)
    report = fs.verify(both, deep=True)
    assert {problem.node for problem in report.problems} == {path}
    assert {problem.kind for problem in report.problems} <= {"corrupt-chunk", "digest"}
    with fs.open(both) as image:
        index = (Ellipsis, 0) if path == "0" else (0, 0, 0)
        np.testing.assert_array_equal(image[index], VALUES[index])
        with pytest.raises(CorruptDataError, match="chunk"):
            image[(0, 0, 0) if path == "0" else (Ellipsis, 0)]
    fs.transcode(both, tmp_path / "saved.h5", access="volume" if path == "0" else "time")
    with fs.open(tmp_path / "saved.h5") as image:
        np.testing.assert_array_equal(np.asarray(image), VALUES)


@pytest.mark.parametrize("path", PATHS)
def test_verify_asks_for_every_chunk_of_both(tmp_path: Path, path: str) -> None:
    store(tmp_path / "a.zarr", VALUES, access="both").close()
    shutil.rmtree(tmp_path / "a.zarr" / path / "c")
    report = fs.verify(tmp_path / "a.zarr")
    assert {(problem.kind, problem.node) for problem in report.problems} == {
        ("missing-chunk", path)
    }


def replace(url: Path, **changes: Any) -> None:
    """Put something else in the place of the copy, its digest included."""
    with open_store(url, "r+") as opened_:
        group = opened_.root.group("volume")
        old = group.array("0")
        spec, attributes = old.spec, old.read_attributes()
        group.remove("0")
        values = changes["make"](old_values(spec))
        layout = type(spec.layout)(chunks=values.shape)
        new = type(spec)(
            shape=values.shape,
            dtype=values.dtype,
            dims=changes.get("dims", spec.dims),
            layout=layout,
        )
        group.create_array("0", new, attributes).write(None, values)


def old_values(spec: Any) -> AnyArray:
    return VALUES.transpose(["xyzt".index(d) for d in spec.dims])


def remove(url: Path) -> None:
    with open_store(url, "r+") as opened_:
        opened_.root.group("volume").remove("0")


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "shape": (lambda url: replace(url, make=lambda v: v[..., :-1].copy()), "not those of"),
    "axes": (
        lambda url: replace(url, make=lambda v: v.copy(), dims=("t", "z", "x", "y")),
        "not those of",
    ),
    "rank": (
        lambda url: replace(url, make=lambda v: v[0].copy(), dims=("z", "y", "x")),
        "not those of",
    ),
    "type": (lambda url: replace(url, make=lambda v: v.astype("i4")), "holds int32"),
    "digest": (lambda url: change(url, "volume/0", digest="sha256-planes:00"), "another digest"),
    "missing": (remove, "volume/0"),
    "no list": (lambda url: change(url, "0", copies=5), "not the array 0 of a child group"),
    "itself": (lambda url: change(url, "0", copies=["0"]), "not the array 0 of a child group"),
    "elsewhere": (lambda url: change(url, "0", copies=["../0"]), "name"),
    "deep": (lambda url: change(url, "0", copies=["a/b/0"]), "not the array 0 of a child group"),
    "twice": (lambda url: change(url, "0", copies=["volume/0"] * 2), "named twice"),
}


OF_THE_COPY = {"shape", "axes", "rank", "type", "digest", "missing"}
"""Damage that is seen where a copy is read."""


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_a_copy_is_damage(
    made: Path, tmp_path: Path, kind: str, name: str, small_chunks: None
) -> None:
    url = copied(made, tmp_path / f"a.{kind}", codec="none", order="canonical")
    work, told = DAMAGED[name]
    work(url)
    with pytest.raises(MetadataError, match=told), fs.open(url) as image:
        image[..., 3]
    if name in OF_THE_COPY:
        with fs.open(url) as image:
            for _ in range(3):  # needs no copy
                np.testing.assert_array_equal(image[4, 5, 6], VALUES[4, 5, 6])
    report = fs.verify(url, deep=True)
    assert any(problem.kind == "metadata" for problem in report.problems)
    assert not any(problem.node == "0" and problem.kind == "digest" for problem in report.problems)
    fs.transcode(url, tmp_path / "saved.h5", access="volume")
    with fs.open(tmp_path / "saved.h5") as saved:
        np.testing.assert_array_equal(np.asarray(saved), VALUES)
        assert len(saved.primary_arrays) == 1


# Transcoding -------------------------------------------------------------------------------------


@pytest.fixture
def no_codec(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A context in which nothing may be decoded or encoded."""

    def never(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
        assert not pipeline, "a chunk was decoded or encoded"
        return args[0] if isinstance(args[0], bytes) else args[0].tobytes()

    def context() -> Any:
        patch = pytest.MonkeyPatch.context()
        entered = patch.__enter__()
        for name in ("decode", "encode"):
            entered.setattr(codecs, name, never)
        return patch

    return context


@pytest.mark.parametrize("target", STORES)
@pytest.mark.parametrize("access", [None, "both"])
def test_both_copies_are_kept_verbatim(
    tmp_path: Path, both: Path, target: str, access: Any, no_codec: Any
) -> None:
    patch = no_codec()
    report = fs.transcode(both, tmp_path / f"b.{target}", access=access)
    patch.__exit__(None, None, None)
    assert set(PATHS) <= set(report.kept)
    assert not report.dropped
    for path in PATHS:
        assert encoded(both, path) == encoded(tmp_path / f"b.{target}", path)
    for values in arrays(tmp_path / f"b.{target}").values():
        np.testing.assert_array_equal(values, VALUES)
    assert fs.verify(tmp_path / f"b.{target}", deep=True).ok
    with fs.open(tmp_path / f"b.{target}") as image:
        assert image.access == "both"
        assert image.plan[..., 3].copy == "volume/0"


@pytest.mark.parametrize("target", STORES)
@pytest.mark.parametrize(("access", "path"), [("time", "0"), ("volume", "volume/0")])
def test_a_copy_is_dropped_and_the_other_kept_verbatim(
    tmp_path: Path, both: Path, target: str, access: Any, path: str, no_codec: Any
) -> None:
    patch = no_codec()
    report = fs.transcode(both, tmp_path / f"b.{target}", access=access)
    patch.__exit__(None, None, None)
    assert "0" in report.kept
    assert not report.dropped
    assert encoded(both, path) == encoded(tmp_path / f"b.{target}", "0")
    with fs.open(both) as before, fs.open(tmp_path / f"b.{target}") as after:
        assert after.access == access
        assert after.digest == before.digest == after.compute_digest()
        np.testing.assert_array_equal(np.asarray(after), VALUES)
        assert len(after.primary_arrays) == 1
    with open_store(tmp_path / f"b.{target}") as opened_:
        assert "volume" not in opened_.root.children()
        assert "copies" not in opened_.root.array("0").read_attributes()
    assert fs.verify(tmp_path / f"b.{target}", deep=True).ok


@pytest.mark.parametrize("target", STORES)
@pytest.mark.parametrize(
    ("access", "kept"), [("time", "0"), ("volume", "volume/0"), ("balanced", "")]
)
def test_a_copy_is_added(
    tmp_path: Path, kind: str, target: str, access: Any, kept: str, small_chunks: None
) -> None:
    store(tmp_path / f"a.{kind}", VALUES, access=access, codec="dual").close()
    report = fs.transcode(
        tmp_path / f"a.{kind}", tmp_path / f"b.{target}", access="both", max_memory=1 << 20
    )
    store(tmp_path / f"c.{target}", VALUES, access="both", codec="dual").close()
    assert set(PATHS) & set(report.kept) == ({kept} if kept else set())
    assert not report.dropped
    if kept:
        assert encoded(tmp_path / f"a.{kind}", "0") == encoded(tmp_path / f"b.{target}", kept)
    for path in PATHS:
        with (
            open_store(tmp_path / f"b.{target}") as new,
            open_store(tmp_path / f"c.{target}") as made,
        ):
            one, two = (opened_.root.array(path) for opened_ in (new, made))
            assert one.spec.layout == two.spec.layout
            assert codecs.equivalent(one.spec.codecs, two.spec.codecs)
            assert one.read_attributes() == two.read_attributes()
    with fs.open(tmp_path / f"b.{target}") as image:
        np.testing.assert_array_equal(image[..., 3], VALUES[..., 3])
        np.testing.assert_array_equal(image[1, 2, 3], VALUES[1, 2, 3])
    assert fs.verify(tmp_path / f"b.{target}", deep=True).ok


def test_balanced_drops_a_copy_too(tmp_path: Path, both: Path) -> None:
    report = fs.transcode(both, tmp_path / "b.zarr", access="balanced")
    assert "balanced" in report.converted["0"]
    with fs.open(tmp_path / "b.zarr") as image:
        np.testing.assert_array_equal(np.asarray(image), VALUES)
        assert (image.access, len(image.primary_arrays)) == ("balanced", 1)


def test_a_codec_that_is_not_kept_lays_both_out_anew(tmp_path: Path) -> None:
    values = make_values((40, 40, 20, 60))
    store(tmp_path / "a.h5", values, access="both").close()
    store(tmp_path / "direct.zarr", values, access="both").close()
    report = fs.transcode(tmp_path / "a.h5", tmp_path / "b.zarr")
    assert set(PATHS) <= set(report.converted)
    with open_store(tmp_path / "b.zarr") as moved, open_store(tmp_path / "direct.zarr") as direct:
        for path in PATHS:
            assert moved.root.array(path).spec == direct.root.array(path).spec
    assert fs.verify(tmp_path / "b.zarr", deep=True).ok


def test_the_group_of_the_copy_may_hold_more(tmp_path: Path, both: Path) -> None:
    with open_store(both, "r+") as opened_:
        opened_.root.group("volume").create_group("mine", {"a": 1})
    fs.transcode(both, tmp_path / "b.h5", access="time")
    with open_store(tmp_path / "b.h5") as opened_:
        assert opened_.root.group("volume/mine").read_attributes() == {"a": 1}
        assert "0" not in opened_.root.group("volume").children()


def test_a_name_that_is_taken(tmp_path: Path, kind: str) -> None:
    store(tmp_path / f"a.{kind}", VALUES, access="time").close()
    with open_store(tmp_path / f"a.{kind}", "r+") as opened_:
        opened_.root.create_group("volume", {"mine": True})
    fs.transcode(tmp_path / f"a.{kind}", tmp_path / "b.h5", access="both")
    with fs.open(tmp_path / "b.h5") as image:
        assert image.plan[..., 3].copy == "volume-2/0"
        np.testing.assert_array_equal(image[..., 3], VALUES[..., 3])
    with open_store(tmp_path / "b.h5") as opened_:
        assert opened_.root.group("volume").read_attributes() == {"mine": True}


def test_only_runs_of_ours_get_a_copy(tmp_path: Path) -> None:
    with create_store(tmp_path / "a.zarr") as new:
        with fs.NeuroVec.create(VALUES, tmp_path / "run.zarr", space=AFFINE) as run:
            spec = run.spec
        new.root.create_array("0", spec).write(None, old_values(spec))
    with pytest.raises(InvalidInputError, match="neurovec"):
        fs.transcode(tmp_path / "a.zarr", tmp_path / "b.zarr", access="both")
    assert not (tmp_path / "b.zarr").exists()
    store(tmp_path / "volume.h5", VALUES[..., 0]).close()
    fs.transcode(tmp_path / "volume.h5", tmp_path / "other.zarr", access="both")
    with fs.open(tmp_path / "other.zarr") as image:
        assert len(image.primary_arrays) == 1


# The command line --------------------------------------------------------------------------------


def done(*args: str | Path) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_command_line(tmp_path: Path) -> None:
    source, url = write_nifti(tmp_path / "run.nii.gz", VALUES), tmp_path / "a.h5"
    done("convert", source, url, "--access", "both")
    document = json.loads(done("info", url, "--json"))["content"]
    assert (document["layout"]["array"], document["copy"]["array"]) == PATHS
    sizes = document["sizes"]
    assert sizes["raw_bytes"] == VALUES.nbytes
    with h5py.File(url) as file:
        one, two = (file[path].id.get_storage_size() for path in PATHS)
    assert (sizes["encoded_bytes"], sizes["copies_encoded_bytes"]) == (one + two, two)
    lines = [line.split(maxsplit=2) for line in done("info", url).splitlines()]
    (second,) = (line for line in lines if line[0] == "second")
    assert f"({two / one:.0%} on top)" in second[2]
    assert "/volume/0" in second[2]
    assert json.loads(done("plan", url, "[..., 3]", "--json"))["copy"] == "volume/0"
    text = done("transcode", url, tmp_path / "b.h5", "--access", "volume", "--dry-run")
    assert "verbatim /0 from /volume/0" in text
    done("transcode", url, tmp_path / "b.h5", "--access", "volume")
    done("export", url, tmp_path / "back.nii.gz")
    done("verify", url, "--deep")


# Memory ------------------------------------------------------------------------------------------

LIMIT = 48 << 20
MARGIN = 48 << 20
"""For chunks being decoded and encoded on each worker, and for what malloc keeps in between."""

CODE = (
    PEAK
    + """
import sys
from pathlib import Path
import numpy as np
import fmristore as fs
from fmristore.nifti import make_header

kind, limit, what, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])


def make(place, shape):
    place.mkdir()
    space = fs.NeuroSpace(spatial_shape=shape[:3], affine=np.eye(4), time_points=shape[3])
    volume = np.random.default_rng(0).integers(0, 2000, shape[2::-1]).astype("<i2")
    with open(place / "run.nii", "wb") as file:
        file.write(make_header(space, "i2"))
        for t in range(shape[3]):
            file.write((volume + t).tobytes())
    fs.convert(place / "run.nii", place / f"time.{kind}", codec="fast", max_memory=limit)


def work(place):
    both = place / f"both.{kind}"
    if what == "convert":
        fs.convert(place / "run.nii", both, access="both", codec="fast", max_memory=limit)
    elif what == "transcode":
        fs.transcode(place / f"time.{kind}", place / f"b.{kind}", access="both", max_memory=limit)
    elif what == "verify":
        assert fs.verify(both, deep=True, max_memory=limit).ok
    else:
        with fs.open(both) as image:
            image.to_nifti(place / "back.nii", max_memory=limit)


if what == "make":
    make(folder / "small", (16, 16, 10, 8))
    make(folder / "large", (96, 96, 52, 108))
else:
    work(folder / "small")
    before = peak()
    work(folder / "large")
    print(peak() - before)
"""
)


@pytest.mark.once
@from_proc
def test_memory(tmp_path: Path, kind: str) -> None:
    taken = {}
    for what in ("make", "convert", "transcode", "verify", "export"):
        result = run_python(CODE, kind, LIMIT, what, tmp_path)
        assert result.returncode == 0, result.stderr
        taken[what] = int(result.stdout or 0)
    assert {what: n >> 20 for what, n in taken.items() if n > LIMIT + MARGIN} == {}
    source, back = (tmp_path / "large" / name for name in ("run.nii", "back.nii"))
    assert source.stat().st_size > LIMIT + MARGIN
    assert back.read_bytes() == source.read_bytes()
