"""Labelled maps: by label, by index, in R's layout, and changed safely."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import nibabel as untyped_nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fmristore as fs
from fmristore.formats.maps.maps import LabeledVolumeSet
from fmristore.formats.maps.r import sanitise
from fmristore.model.space import NeuroSpace
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    FmristoreError,
    InvalidInputError,
    MetadataError,
    SelectionError,
    StorageError,
)
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import AnyArray
from tests.images import load_npz
from tests.old_affine import with_affine_array

nibabel: Any = untyped_nibabel

SHAPE = (7, 5, 4)
AFFINE = np.array([[-2.0, 0.5, 0, 10], [0.3, 2.5, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
SPACE = NeuroSpace(spatial_shape=SHAPE, affine=AFFINE)
RNG = np.random.default_rng(5)
MASK = RNG.random(SHAPE) < 0.5
LABELS = ("Faces > Houses", "../../etc/passwd", "a/b\\c", "  näïve 中文 🧠", "..", "L" * 10_000)
MAPS = {label: RNG.normal(size=SHAPE).astype("f4") for label in LABELS}
FULL = np.stack([np.where(MASK, values, np.float32(0)) for values in MAPS.values()], axis=-1)
STORES = ["h5", "zarr"]


def make(folder: Path, kind: str, maps: Any = None, **options: Any) -> LabeledVolumeSet:
    options = {"mask": MASK, "space": SPACE, **options}
    given = MAPS if maps is None else maps
    return LabeledVolumeSet.create(given, folder / f"maps.{kind}", **options)


@pytest.fixture(scope="module", params=STORES)
def maps(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LabeledVolumeSet:
    return make(tmp_path_factory.mktemp("maps"), request.param)


def entries(length: int) -> st.SearchStrategy[Any]:
    return st.one_of(st.integers(-length, length - 1), st.slices(length))


# Reading -------------------------------------------------------------------------------------


def test_facts(maps: LabeledVolumeSet) -> None:
    assert maps.shape == (*SHAPE, 6)
    assert maps.labels == LABELS
    assert len(maps) == maps.shape[0]
    with pytest.raises(InvalidInputError, match="plane by plane"):
        list(maps)
    assert "a/b\\c" in maps
    assert "missing" not in maps
    assert maps.dtype == np.float32
    assert maps.space == SPACE
    np.testing.assert_array_equal(maps.mask, MASK)
    assert "6 maps" in repr(maps)
    assert "6 maps" in maps._repr_html_()


def test_by_label(maps: LabeledVolumeSet) -> None:
    for number, label in enumerate(LABELS):
        np.testing.assert_array_equal(maps[label], FULL[..., number])
        np.testing.assert_array_equal(maps.volume(number - 6), FULL[..., number])
    assert maps.volume("..", dtype="f8").dtype == np.float64
    np.testing.assert_array_equal(maps[2:4, 1, ..., "a/b\\c"], FULL[2:4, 1, ..., 2])


@given(index=st.tuples(*map(entries, (*SHAPE, 6))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_indexing(maps: LabeledVolumeSet, index: Any) -> None:
    found, expected = maps[index], FULL[index]
    assert np.shape(found) == expected.shape
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("index", [..., 2, (..., slice(0, 3)), (None, ..., -1), np.s_[::-2, 1:1]])
def test_other_indexes(maps: LabeledVolumeSet, index: Any) -> None:
    np.testing.assert_array_equal(maps[index], FULL[index])


def test_whole_and_one_voxel(maps: LabeledVolumeSet) -> None:
    np.testing.assert_array_equal(np.asarray(maps), FULL)
    np.testing.assert_array_equal(maps.matrix[...].T, FULL[tuple(maps.voxels.T)].T)
    for x, y, z in ((0, 0, 0), (-1, 2, -3), tuple(np.argwhere(MASK)[4])):
        np.testing.assert_array_equal(maps.voxel(x, y, z), FULL[x, y, z])
    np.testing.assert_array_equal(
        maps.with_fill(float("nan"))[LABELS[0]], np.where(MASK, FULL[..., 0], np.nan)
    )


def test_bad_selections(maps: LabeledVolumeSet) -> None:
    for index in ("missing", (0, 0, 0, "missing"), 7, (0, 0, 0, 6), (0,) * 5, [0.5, 1], 1.5):
        with pytest.raises(SelectionError):
            maps[index]
    for label in (6, -7, 1.0, None, slice(2)):
        with pytest.raises(SelectionError):
            maps.volume(label)  # type: ignore[arg-type]
    for voxel in ((7, 0, 0), (0, 0, 0.5), (slice(2), 0, 0)):
        with pytest.raises(SelectionError):
            maps.voxel(*voxel)


def test_going_to_nifti_and_nibabel(maps: LabeledVolumeSet, tmp_path: Path) -> None:
    image = maps.to_nibabel("a/b\\c")
    np.testing.assert_array_equal(image.get_fdata(), FULL[..., 2])
    np.testing.assert_allclose(image.affine, AFFINE)
    maps.to_nifti(tmp_path / "one.nii.gz", label="..")
    back = nibabel.load(tmp_path / "one.nii.gz")
    np.testing.assert_array_equal(back.get_fdata(), FULL[..., 4])
    np.testing.assert_allclose(back.affine, AFFINE, atol=1e-6)
    with pytest.raises(AlreadyExistsError):
        maps.to_nifti(tmp_path / "one.nii.gz", label=0)
    with pytest.raises(SelectionError):
        maps.to_nifti(tmp_path / "two.nii", label="missing")


def test_pickling(maps: LabeledVolumeSet) -> None:
    before = pickle.dumps(maps)
    again = pickle.loads(before)
    np.testing.assert_array_equal(np.asarray(again), FULL)
    assert again.labels == LABELS
    assert pickle.dumps(again) == before


@pytest.mark.parametrize(("kind", "other"), [("h5", "zarr"), ("zarr", "h5")])
def test_transcoding_there_and_back(tmp_path: Path, kind: str, other: str) -> None:
    maps = make(tmp_path, kind, fill=-1)
    fs.transcode(maps.url, tmp_path / f"there.{other}")
    fs.transcode(tmp_path / f"there.{other}", tmp_path / f"back.{kind}")
    for name in (f"there.{other}", f"back.{kind}"):
        with fs.open(tmp_path / name) as again:
            assert isinstance(again, LabeledVolumeSet)
            assert again.labels == LABELS
            assert again.space == SPACE
            np.testing.assert_array_equal(np.asarray(again), np.asarray(maps))
        assert fs.verify(tmp_path / name, deep=True).ok


# Creating ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES)
def test_sources_of_every_kind(tmp_path: Path, kind: str) -> None:
    names = list("abcde")
    arrays = [RNG.integers(-9, 9, SHAPE).astype("i2") for _ in names]
    image = nibabel.Nifti1Image(arrays[0], AFFINE)
    nibabel.save(image, tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(MASK.astype("u1"), AFFINE), tmp_path / "mask.nii")
    volume = fs.NeuroVol.create(arrays[3], tmp_path / f"d.{kind}", space=SPACE)
    sources = [tmp_path / "a.nii.gz", nibabel.Nifti1Image(arrays[1], AFFINE), arrays[2], volume]
    sources.append(nibabel.Nifti1Image(arrays[4][..., None], AFFINE))
    names, arrays, sources = [*names, "f"], [*arrays, arrays[3]], [*sources, volume.url]
    expected = np.where(MASK[..., None], np.stack(arrays, axis=-1), 0)
    given = dict(zip(names, sources, strict=True))
    maps = LabeledVolumeSet.create(given, tmp_path / f"1.{kind}", mask=tmp_path / "mask.nii")
    np.testing.assert_array_equal(np.asarray(maps), expected)
    assert maps.space.same_grid(SPACE)
    listed = LabeledVolumeSet.create(
        sources, tmp_path / f"2.{kind}", labels=names, mask=MASK, space=AFFINE
    )
    np.testing.assert_array_equal(np.asarray(listed), expected)
    for source in (listed, listed.url):
        again = LabeledVolumeSet.create(source, tmp_path / f"3.{kind}", overwrite=True)
        np.testing.assert_array_equal(np.asarray(again), expected)
        np.testing.assert_array_equal(again.mask, MASK)
        assert again.labels == tuple(names)


@pytest.mark.parametrize("kind", STORES)
def test_one_image_of_all_maps(tmp_path: Path, kind: str) -> None:
    data = RNG.integers(-9, 9, (*SHAPE, 3)).astype("i2")
    image = nibabel.Nifti1Image(data, AFFINE)
    nibabel.save(image, tmp_path / "all.nii.gz")
    run = fs.NeuroVec.create(image, tmp_path / f"run.{kind}")
    sources = (tmp_path / "all.nii.gz", nibabel.Nifti1Image(data, AFFINE), run, data, run.url)
    for number, source in enumerate(sources):
        maps = LabeledVolumeSet.create(
            source, tmp_path / f"{number}.{kind}", labels=["x", "y", "z"], space=SPACE
        )
        np.testing.assert_array_equal(np.asarray(maps), data)
        assert maps.mask.all()


def test_types(tmp_path: Path) -> None:
    values = np.arange(140).reshape(SHAPE)
    cases = [
        (("i2", "i2"), None, "i2"),
        (("u1", "i2"), None, "i2"),
        (("f4", "f4"), None, "f4"),
        (("f4", "f8"), None, "f8"),
        (("i2", "f4"), None, "f4"),
        (("f8", "f8"), "f4", "f4"),
        (("?", "u1"), None, "u1"),
    ]
    for number, (types, wanted, expected) in enumerate(cases):
        maps = LabeledVolumeSet.create(
            {str(n): values.astype(t) for n, t in enumerate(types)},
            tmp_path / f"{number}.h5",
            space=SPACE,
            dtype=wanted,
        )
        assert maps.dtype == np.dtype(expected)
        np.testing.assert_array_equal(maps["1"], values.astype(types[1]))


def test_what_is_not_a_number_is_kept_inside_and_dropped_outside(tmp_path: Path) -> None:
    values = np.where(MASK, FULL[..., 0], np.nan).astype("f4")
    inside = tuple(np.argwhere(MASK)[2])
    values[inside] = np.nan
    maps = make(tmp_path, "zarr", {"a": values})
    expected = np.where(MASK, values, 0)
    np.testing.assert_array_equal(maps["a"], expected)
    assert np.isnan(maps["a"][inside])


def test_maps_are_chunked_whole(tmp_path: Path) -> None:
    small = {str(n): np.full((10, 10, 10), n, "f4") for n in range(300)}
    maps = LabeledVolumeSet.create(small, tmp_path / "small.zarr", space=np.eye(4))
    with open_store(maps.url) as store:
        chunks = store.root.array("0").spec.layout.chunks
    assert chunks[1] == 1000
    assert 100 < chunks[0] < 300
    np.testing.assert_array_equal(maps["277"], np.full((10, 10, 10), 277))
    large = {str(n): np.full((70, 70, 70), n, "f4") for n in range(3)}
    maps = LabeledVolumeSet.create(large, tmp_path / "large.zarr", space=np.eye(4))
    with open_store(maps.url) as store:
        assert store.root.array("0").spec.layout.chunks == (1, 70**3)
    np.testing.assert_array_equal(maps["2"], np.full((70, 70, 70), 2))


@pytest.mark.once
def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CHUNK_CACHE, "limit", 0)
    values = np.random.default_rng(1).normal(size=(30, 30, 30)).astype("f4")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "map.nii")
    given = {f"map {n}": tmp_path / "map.nii" for n in range(120)}
    limit = 3 << 20
    assert values.nbytes * 120 > 4 * limit
    tracemalloc.start()
    maps = LabeledVolumeSet.create(given, tmp_path / "a.h5", max_memory=limit)
    maps.add("more", tmp_path / "map.nii", max_memory=limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit + (1 << 22)  # headers, encoded chunks, one map besides
    np.testing.assert_array_equal(maps["more"], values)


SHIFTED = AFFINE + np.array([[0, 0, 0, 1.0], *np.zeros((3, 4))])
A = MAPS[LABELS[0]]
BAD: dict[str, dict[str, Any]] = {
    "nothing": {"maps": {}},
    "no maps at all": {"maps": [], "labels": []},
    "nothing as map": {"maps": [None], "labels": ["a"]},
    "labels and names": {"maps": MAPS, "labels": ["a"]},
    "empty label": {"maps": {"": A}},
    "blank label": {"maps": {" \t": A}},
    "NaN label": {"maps": {float("nan"): A}},
    "number as label": {"labels": [1], "maps": [A]},
    "duplicate label": {"labels": ["a", "b", "a"], "maps": [A, A, A]},
    "NUL in a label": {"maps": {"a\0b": A}},
    "lone surrogate": {"maps": {"a\ud800": A}},
    "too few labels": {"labels": ["a"], "maps": [A, A]},
    "too many labels": {"labels": ["a", "b", "c"], "maps": np.zeros((*SHAPE, 2))},
    "labels that are none": {"labels": 3, "maps": [A]},
    "shapes differ": {"maps": {"a": A, "b": A[:3]}},
    "a run as map": {"maps": {"a": np.zeros((*SHAPE, 2))}},
    "grids differ": {
        "maps": {"a": nibabel.Nifti1Image(A, AFFINE), "b": nibabel.Nifti1Image(A, SHIFTED)},
        "space": None,
    },
    "not on the space": {"maps": {"a": nibabel.Nifti1Image(A, SHIFTED)}},
    "mask of another shape": {"mask": MASK[:2]},
    "mask off the grid": {"mask": nibabel.Nifti1Image(MASK.astype("u1"), SHIFTED)},
    "empty mask": {"mask": np.zeros(SHAPE)},
    "no space": {"space": None},
    "text as map": {"maps": {"a": np.full(SHAPE, "x")}},
    "ragged": {"maps": {"a": [[1], [2, 3]]}},
    "colours": {"maps": {"a": np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])}},
    "floats as integers": {"dtype": "i2"},
    "fill that is no number": {"fill": "none"},
    "unknown codec": {"codec": "best"},
    "unknown profile": {"profile": "matlab"},
    "not a mapping": {"maps": [A]},
}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_leaves_nothing(tmp_path: Path, kind: str, case: str) -> None:
    with pytest.raises(InvalidInputError):
        make(tmp_path, kind, **BAD[case])
    assert not list(tmp_path.iterdir())


def test_a_damaged_map_leaves_the_old_store(tmp_path: Path) -> None:
    make(tmp_path, "zarr")
    path = tmp_path / "cut.nii.gz"
    nibabel.save(nibabel.Nifti1Image(RNG.normal(size=SHAPE), AFFINE), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FmristoreError):
        make(tmp_path, "zarr", {"a": A, "cut": path}, overwrite=True)
    with pytest.raises(AlreadyExistsError):
        make(tmp_path, "zarr")
    assert fs.open(tmp_path / "maps.zarr").labels == LABELS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.nii.gz", "maps.zarr"]


def test_hostile_labels_reach_no_path(tmp_path: Path) -> None:
    maps = make(tmp_path, "zarr")
    names = {p.name for p in Path(maps.url).rglob("*")}
    assert not any("etc" in name or "LLL" in name for name in names)
    assert [p.name for p in tmp_path.iterdir()] == ["maps.zarr"]


@pytest.mark.parametrize("kind", STORES)
def test_voxels_that_are_finite_in_all_maps(tmp_path: Path, kind: str) -> None:
    values = RNG.normal(size=(*SHAPE, 3)).astype("f4")
    values[1, 2, 3, 0] = np.nan
    values[4, 0, 0, 2] = np.inf
    finite = np.isfinite(values).all(axis=-1)
    named = {str(n): values[..., n] for n in range(3)}
    contents: list[dict[str, Any]] = [{"source": named}, {"source": values, "labels": list(named)}]
    for number, content in enumerate(contents):
        maps = LabeledVolumeSet.create(
            url=tmp_path / f"{number}.{kind}", **content, mask="finite", space=SPACE
        )
        np.testing.assert_array_equal(maps.mask, finite)
        np.testing.assert_array_equal(maps, np.where(finite[..., None], values, 0))
    inner = make(tmp_path, kind, named)
    again = LabeledVolumeSet.create(inner, tmp_path / f"again.{kind}", mask="finite")
    np.testing.assert_array_equal(again.mask, finite & MASK)
    with pytest.raises(InvalidInputError, match="no voxel"):
        make(tmp_path, "h5", {"a": np.full(SHAPE, np.nan)}, mask="finite", overwrite=True)


# Changing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES)
def test_adding_numbers_of_the_stored_voxels(tmp_path: Path, kind: str) -> None:
    maps = make(tmp_path, kind, fill=-1)
    mean = np.asarray(maps)[maps.mask].mean(axis=1)
    maps.add("mean", mean)
    np.testing.assert_array_equal(np.asarray(maps)[maps.mask, -1], mean)
    np.testing.assert_array_equal(maps["mean"][~MASK], -1)
    for wrong in (mean[1:], mean.astype("c8"), mean.astype(str)):
        with pytest.raises(InvalidInputError):
            maps.add("wrong", wrong)
    maps.add("store", fs.NeuroVol.create(A, tmp_path / "vol.h5", space=SPACE).url)
    np.testing.assert_array_equal(maps["store"], np.where(MASK, A.astype("f4"), -1))


@pytest.mark.parametrize("kind", STORES)
def test_adding_renaming_removing(tmp_path: Path, kind: str) -> None:
    maps = make(tmp_path, kind, fill=-1)
    expected = {k: np.where(MASK, v, np.float32(-1)) for k, v in MAPS.items()}
    maps.add("new", AFFINE[0, 0] * A.astype("f8"))
    expected["new"] = np.where(MASK, (-2 * A).astype("f4"), np.float32(-1))
    maps.rename("..", "dots")
    expected = {("dots" if k == ".." else k): v for k, v in expected.items()}
    maps.remove("a/b\\c")
    del expected["a/b\\c"]
    for one in (maps, fs.open(maps.url)):
        assert one.labels == tuple(expected)
        assert one.shape == (*SHAPE, 6)
        assert one.space == SPACE
        for label, values in expected.items():
            np.testing.assert_array_equal(one[label], values)
    assert fs.verify(maps.url, deep=True).ok
    assert [p.name for p in tmp_path.iterdir()] == [f"maps.{kind}"]


@pytest.mark.parametrize("kind", STORES)
def test_large_maps_are_copied_as_they_are(tmp_path: Path, kind: str) -> None:
    values = RNG.integers(0, 99, (52, 52, 52, 5)).astype("f8")
    maps = LabeledVolumeSet.create(
        values, tmp_path / f"a.{kind}", labels=list("abcde"), space=np.eye(4)
    )
    before = encoded(maps.url)
    maps.remove("b")
    maps.add("f", values[..., 1])
    maps.rename("c", "cc")
    after = encoded(maps.url)
    assert after == [before[n] for n in (0, 2, 3, 4, 1)]
    np.testing.assert_array_equal(np.asarray(maps), values[..., [0, 2, 3, 4, 1]])


def encoded(url: str) -> list[bytes]:
    """Encoded chunks of maps that are one chunk each."""
    with open_store(url) as store:
        array: Any = store.root.array("0")
        assert array.spec.layout.chunks[0] == 1
        refs = array.refs([(n, 0) for n in range(array.spec.shape[0])])
        return [bytes(chunk) for chunk in array.fetch([ref.range for ref in refs])]


@pytest.mark.parametrize("kind", STORES)
def test_what_is_not_known_survives_a_change(tmp_path: Path, kind: str) -> None:
    maps = make(tmp_path, kind)
    maps.close()
    with open_store(maps.url, "r+") as store:
        root = store.root
        root.write_attributes({**root.read_attributes(), "study": "me"})
        extra = root.create_group("extra", {"by": "others"})
        spec = root.array("voxels").spec
        extra.create_array("again", spec, {"unit": "1"}).write(None, maps_voxels())
    maps = fs.LabeledVolumeSet.open(maps.url)
    maps.add("new", A)
    with open_store(maps.url) as store:
        assert store.root.read_attributes()["study"] == "me"
        assert store.root.group("extra").read_attributes() == {"by": "others"}
        array = store.root.array("extra/again")
        np.testing.assert_array_equal(array.read(), maps_voxels())


def maps_voxels() -> AnyArray:
    return np.argwhere(MASK.T)[:, ::-1].astype("i4")


@pytest.mark.parametrize("kind", STORES)
def test_bad_changes_leave_everything(tmp_path: Path, kind: str) -> None:
    maps = make(tmp_path, kind, {"a": A.astype("i2"), "b": A.astype("i2")})
    stamp = snapshot(Path(maps.url))
    for label, values in [
        ("a", A.astype("i2")),
        ("", A.astype("i2")),
        ("c", A),
        ("c", A[:3].astype("i2")),
        ("c", nibabel.Nifti1Image(A.astype("i2"), SHIFTED)),
        ("c", np.zeros((*SHAPE, 2), "i2")),
        (3, A),
    ]:
        with pytest.raises(InvalidInputError):
            maps.add(label, values)  # type: ignore[arg-type]
    with pytest.raises(SelectionError):
        maps.rename("missing", "c")
    with pytest.raises(InvalidInputError):
        maps.rename("a", "b")
    with pytest.raises(SelectionError):
        maps.remove("missing")
    assert snapshot(Path(maps.url)) == stamp
    maps.remove("a")
    with pytest.raises(InvalidInputError):
        maps.remove("b")


def snapshot(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p): p.read_bytes() for p in files}


@pytest.mark.parametrize("kind", STORES)
def test_a_change_that_fails_leaves_the_old_maps(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = make(tmp_path, kind)

    def full(*_: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr("fmristore.formats.maps.layout._copy_maps", full)
    with pytest.raises(StorageError):
        maps.add("new", A)
    assert maps.labels == fs.open(maps.url).labels == LABELS
    np.testing.assert_array_equal(np.asarray(maps), FULL)
    assert [p.name for p in tmp_path.iterdir()] == [f"maps.{kind}"]


@pytest.mark.parametrize("kind", STORES)
def test_two_who_change_the_same_maps(tmp_path: Path, kind: str) -> None:
    first = make(tmp_path, kind)
    second = fs.open(first.url)
    assert second.labels == LABELS
    first.add("new", A)
    second.add("other", A)
    assert second.labels == fs.open(first.url).labels == (*LABELS, "new", "other")
    first.remove("other")
    assert first.labels == (*LABELS, "new")
    second.rename("new", "old")
    assert second.labels == fs.open(first.url).labels == (*LABELS, "old")


@pytest.mark.parametrize("kind", STORES)
def test_maps_of_other_voxels_are_not_changed(tmp_path: Path, kind: str) -> None:
    """Values given by voxel would be those of other ones."""
    first = make(tmp_path, kind)
    values = np.arange(len(first.voxels), dtype=first.dtype)
    other = first.mask.copy()
    other[tuple(first.voxels[0])] = False
    LabeledVolumeSet.create(
        {"a": np.ones(SHAPE, first.dtype)}, first.url, mask=other, space=first.space, overwrite=True
    ).close()
    with pytest.raises(ChangedError, match="open it again"):
        first.add("new", values)
    assert fs.open(first.url).labels == ("a",)


# Damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES)
def test_damage_is_found(tmp_path: Path, kind: str) -> None:
    twice = np.array(["a", "a"], np.dtypes.StringDType())
    blank = np.array(["a", ""], np.dtypes.StringDType())
    cases: list[tuple[str, Any]] = [
        ("labels", twice),
        ("labels", blank),
        ("mask", np.ones(SHAPE[::-1], "u1")),
        ("affine", np.full((4, 4), np.nan)),
    ]
    for number, (node, values) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        maps = make(folder, kind, {"a": A, "b": A})
        maps.close()
        if node == "affine":
            with_affine_array(maps.url)
        with open_store(maps.url, "r+") as store:
            store.root.array(node).write(None, values)
        with pytest.raises(MetadataError), fs.open(maps.url) as again:
            again["a"]


def test_labels_that_are_too_few(tmp_path: Path) -> None:
    maps = make(tmp_path, "h5", {"a": A, "b": A})
    maps.close()
    with h5py.File(maps.url, "r+") as file:
        del file["labels"]
        file["labels"] = ["a"]
    with fs.open(maps.url) as again:
        np.testing.assert_array_equal(again.volume(1), np.where(MASK, A, 0))
        with pytest.raises(MetadataError, match="one for each of 2 maps"):
            again["a"]


# R -------------------------------------------------------------------------------------------

GOLDEN = [
    "dots",
    "double_c4",
    "float_c9",
    "header_overrides",
    "int_c0",
    "one_volume",
    "shear",
    "unicode",
]


@pytest.mark.parametrize("name", GOLDEN)
def test_files_of_the_r_package(shared_data: Path, name: str) -> None:
    folder = shared_data / "golden" / "r-fmristore"
    facts = json.loads((folder / f"labeled_{name}.expected.json").read_text())
    expected = load_npz(folder / f"labeled_{name}.expected.npz")
    with fs.open(folder / f"labeled_{name}.h5") as maps:
        assert isinstance(maps, LabeledVolumeSet)
        labels = facts["meta"]["labels_as_written"]
        assert maps.labels == tuple([labels] if isinstance(labels, str) else labels)
        np.testing.assert_allclose(maps.affine, expected["input_space_trans"], rtol=1e-6, atol=1e-6)
        mask = expected["input_mask"].astype(bool)
        np.testing.assert_array_equal(maps.mask, mask)
        for number in range(len(maps.labels)):
            stored = expected[f"hdf5r_data_{number + 1}"]
            np.testing.assert_array_equal(maps.matrix[...].T[number], stored)
            np.testing.assert_array_equal(
                maps.volume(number)[mask], maps[maps.labels[number]][mask]
            )
        if "full" in expected:
            np.testing.assert_array_equal(np.asarray(maps), expected["full"])
            np.testing.assert_array_equal(
                maps[1:6:2, ::-1, 2, -1], expected["full"][1:6:2, ::-1, 2, -1]
            )
        again = pickle.loads(pickle.dumps(maps))
        np.testing.assert_array_equal(np.asarray(again), np.asarray(maps))


def test_maps_of_r_become_ours_and_go_back(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "golden" / "r-fmristore" / "labeled_double_c4.h5"
    with fs.open(path) as maps:
        with pytest.raises(InvalidInputError, match="other software"):
            maps.add("new", np.zeros(SHAPE))
        ours = LabeledVolumeSet.create(maps, tmp_path / "ours.zarr")
        theirs = LabeledVolumeSet.create(ours, tmp_path / "theirs.h5", profile="r")
        for one in (ours, theirs, fs.open(theirs.url)):
            assert one.labels == maps.labels
            np.testing.assert_array_equal(np.asarray(one), np.asarray(maps))
            np.testing.assert_allclose(one.affine, maps.affine)
    with h5py.File(path) as old, h5py.File(theirs.url) as new:
        assert tree(old) == tree(new)
        for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qfac", "pixdim", "dim"):
            np.testing.assert_allclose(
                new[f"header/{name}"][()], old[f"header/{name}"][()], atol=1e-6
            )


def tree(file: Any) -> dict[str, Any]:
    """Nodes with shape and kind of type; texts may differ in what they are declared as."""
    found: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        assert set(node.attrs) <= {"digest"}
        if isinstance(node, h5py.Dataset):
            text = h5py.check_string_dtype(node.dtype) is not None
            found[name] = (node.shape, "text" if text else node.dtype)

    file.visititems(visit)
    assert not dict(file.attrs)
    return found


def test_the_affine_of_r_by_its_quaternion(tmp_path: Path) -> None:
    rigid = NeuroSpace(spatial_shape=SHAPE, affine=_rigid())
    maps = make(tmp_path, "h5", {"a": A}, space=rigid, profile="r")
    maps.close()
    with h5py.File(maps.url, "r+") as file:
        for axis in "xyz":
            file[f"header/srow_{axis}"][...] = 0
    with fs.open(maps.url) as again:
        np.testing.assert_allclose(again.affine, rigid.affine, atol=1e-12)


def _rigid() -> AnyArray:
    affine = np.eye(4)
    rotation = nibabel.quaternions.quat2mat([0.9, 0.3, -0.2, 0.25])
    affine[:3, :3] = rotation @ np.diag([2, 2.5, -3])
    affine[:3, 3] = (1, 2, 3)
    return affine


def test_labels_are_utf8_for_r(tmp_path: Path) -> None:
    maps = make(tmp_path, "h5", {"café αβ": A, "plain": A}, profile="r")
    with h5py.File(maps.url) as file:
        assert h5py.check_string_dtype(file["labels"].dtype).encoding == "utf-8"
        assert sorted(file["data"]) == ["caf____", "plain"]
    assert sanitise("中文/x") == "___x"


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"a b": A, "a_b": A}, {}, "both become"),
        ({"..": A}, {}, "name"),
        ({"中文": A}, {}, "name"),
        ({"n" * 256: A}, {}, "name"),
        ({"a": A}, {"fill": 1}, "fill"),
        ({"a": A}, {"codec": "dual"}, "codec"),
        ({"a": A.astype("c8")}, {}, "type"),
    ],
)
def test_what_r_could_not_read_is_refused(
    tmp_path: Path, given: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make(tmp_path, "h5", given, profile="r", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["u4", "i8", "u8"])
def test_integers_that_r_lacks_become_exact_floats(tmp_path: Path, dtype: str) -> None:
    most = 2**32 - 1 if dtype == "u4" else 2**53 - 1
    values = np.full(SHAPE, most, dtype)
    values[:, 1] -= 1
    with make(tmp_path, "h5", {"a": values, "b": values // 2}, profile="r") as maps:
        assert maps.dtype == np.float64
        np.testing.assert_array_equal(maps["a"][MASK].astype(dtype), values[MASK])
        np.testing.assert_array_equal(maps["b"][MASK].astype(dtype), values[MASK] // 2)
    with h5py.File(maps.url) as file:
        assert file["header/datatype"][()] == 64
        assert file["header/bitpix"][()] == 64


@pytest.mark.parametrize(
    ("dtype", "value"), [("i8", 2**53), ("i8", -(2**60)), ("u8", 2**64 - 1), ("i4", -(2**31))]
)
def test_integers_that_r_does_not_have_are_refused(tmp_path: Path, dtype: str, value: int) -> None:
    values = np.zeros(SHAPE, dtype)
    values[tuple(np.argwhere(MASK)[-1])] = value
    with pytest.raises(InvalidInputError, match=f"no whole number {value} in"):
        make(tmp_path, "h5", {"a": values * 0, "b": values}, profile="r")
    assert not list(tmp_path.iterdir())


def test_the_r_profile_is_for_hdf5(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        make(tmp_path, "zarr", profile="r")
    assert not list(tmp_path.iterdir())


def damaged(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        match name:
            case "collision":
                del file["labels"]
                file["labels"] = ["a b", "a_b"]
            case "missing map":
                del file["data/a"]
            case "shorter map":
                del file["data/a"]
                file["data/a"] = np.zeros(3)
            case "other mask":
                file["mask"][...] = 1
            case "other dim":
                file["header/dim"][1] = 70
            case "affine":
                for node in ("srow_x", "pixdim"):
                    file[f"header/{node}"][...] = np.nan
            case "no pixdim":
                del file["header/srow_x"]
                del file["header/pixdim"]
            case "no labels":
                del file["labels"]
                file["labels"] = np.zeros(2)


@pytest.mark.parametrize(
    "name",
    [
        "collision",
        "missing map",
        "shorter map",
        "other mask",
        "other dim",
        "affine",
        "no pixdim",
        "no labels",
    ],
)
def test_damaged_files_of_r(tmp_path: Path, name: str) -> None:
    maps = make(tmp_path, "h5", {"b": A, "a": A}, profile="r")
    maps.close()
    damaged(Path(maps.url), name)
    with pytest.raises(MetadataError), fs.open(maps.url) as again:
        np.asarray(again)
