"""Many stores as one collection."""

from __future__ import annotations

import pickle
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fmristore as fs
from fmristore.bids import index
from fmristore.bids.index import INDEX, build_index, read_index
from fmristore_stores.errors import (
    AccessDeniedError,
    ChangedError,
    FmristoreError,
    InvalidInputError,
    MemoryLimitError,
    MetadataError,
    NotFoundError,
    SelectionError,
    StorageError,
)
from fmristore_stores.testing.wrappers import CountingStore
from tests.bids.trees import GRID, make_dataset, mean_of
from tests.conftest import S3Server
from tests.images import AFFINE, make_values, snapshot, store

RAW = "sub-01/func/sub-01_task-rest_bold.ome.zarr"
AWAY = ("../a.h5", "/a.h5", "s3://a", "a//b.h5", "a/./b.h5")
"""Paths that do not lie below the folder of an index."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of two subjects; tests only read them."""
    folder = tmp_path_factory.mktemp("collection")
    source = make_dataset(folder / "source")
    fs.convert_bids(source, folder / "new", derivatives=True).check()
    return folder / "new"


class TestSelecting:
    def test_table_and_entities(self, stores: Path) -> None:
        collection = fs.Collection(stores)
        assert len(collection) == 6
        assert collection.entities["subject"] == ["01", "02"]
        table = collection.table
        assert set(table["suffix"]) == {"bold", "mask"}
        row = table[table["path"] == RAW].iloc[0]
        assert (row["subject"], row["task"], row["format"]) == ("01", "rest", "neurovec")
        assert row["shape"] == (*GRID, 6)
        assert (row["dtype"], row["tr"]) == ("int16", 1.5)
        assert "6 members, 2 subjects, 1 task" in repr(collection)

    def test_sel(self, stores: Path) -> None:
        collection = fs.Collection(stores)

        def paths(**entities: Any) -> list[str]:
            return [member.path for member in collection.sel(**entities)]

        assert paths(subject="01", suffix="bold", description=None) == [RAW]
        assert paths(sub=1, suffix="bold", desc=None) == [RAW]
        assert len(paths(subject=["01", "02"], space="MNI")) == 4
        assert paths(subject="03") == []
        assert len(collection.sel(format="neurovol").sel(subject="02")) == 1
        with pytest.raises(InvalidInputError, match="no member has an entity 'sbj'"):
            collection.sel(sbj="01")

    def test_members_open_on_demand(self, stores: Path, opened: list[CountingStore]) -> None:
        collection = fs.Collection(stores)
        assert not opened
        member = collection[RAW]
        assert member.entities == {"subject": "01", "task": "rest"}
        with member.open() as bold:
            assert bold.shape == member.shape
        assert len(opened) == 1
        with pytest.raises(NotFoundError):
            collection["nothing"]
        with pytest.raises(SelectionError):
            collection[6]
        assert pickle.loads(pickle.dumps(collection)).table.equals(collection.table)


class TestIndex:
    def make(self, folder: Path) -> Path:
        for number in (1, 2):
            url = folder / f"sub-{number}_bold.h5"
            store(url, make_values((2, 3, 2, 4), seed=number)).close()
        return folder

    def test_an_index_that_is_right_opens_nothing_and_is_not_written(
        self, tmp_path: Path, opened: list[CountingStore]
    ) -> None:
        self.make(tmp_path)
        assert len(fs.Collection(tmp_path)) == 2
        count = len(opened)
        before = snapshot(tmp_path)
        assert len(fs.Collection(tmp_path)) == 2
        assert len(opened) == count
        assert snapshot(tmp_path) == before

    def test_what_is_new_gone_or_changed_is_seen(
        self, tmp_path: Path, opened: list[CountingStore]
    ) -> None:
        self.make(tmp_path)
        first = fs.Collection(tmp_path)
        store(tmp_path / "sub-1_bold.h5", make_values((2, 3, 2, 9)), overwrite=True).close()
        (tmp_path / "sub-2_bold.h5").unlink()
        store(tmp_path / "deep" / "sub-3_bold.ome.zarr", make_values((2, 3, 2, 4))).close()
        del opened[:]
        second = first.refresh()
        assert [member.path for member in second] == ["deep/sub-3_bold.ome.zarr", "sub-1_bold.h5"]
        assert second["sub-1_bold.h5"].shape == (2, 3, 2, 9)
        assert len(opened) == 2
        for path in ("sub-1_bold.h5", "sub-2_bold.h5"):
            with pytest.raises(ChangedError, match="refresh"):
                first[path].open()

    def test_a_store_of_equal_shape_that_took_its_place_is_seen(self, tmp_path: Path) -> None:
        self.make(tmp_path)
        first = fs.Collection(tmp_path)
        store(tmp_path / "sub-1_bold.h5", make_values((2, 3, 2, 4)), overwrite=True).close()
        for collection in (first, fs.Collection(tmp_path, check=False)):
            with pytest.raises(ChangedError, match="since the index was made: refresh"):
                collection["sub-1_bold.h5"].open()
            collection["sub-2_bold.h5"].open().close()
        first.refresh()["sub-1_bold.h5"].open().close()
        shutil.copytree(tmp_path, tmp_path / "copy")
        copied = fs.Collection(tmp_path / "copy", check=False)  # other files, and an older index
        copied["sub-1_bold.h5"].open().close()

    def test_files_of_others_are_named_and_left_out(self, tmp_path: Path) -> None:
        self.make(tmp_path)
        (tmp_path / "sub-1_xfm.h5").write_bytes(b"no store")
        for _ in range(2):
            collection = fs.Collection(tmp_path)
            assert len(collection) == 2
            assert "UnknownFormatError" in collection.unreadable["sub-1_xfm.h5"]

    def test_a_folder_that_cannot_be_written_needs_no_index(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.make(tmp_path)

        def refuse(*_: Any, **__: Any) -> None:
            raise StorageError("read-only file system")

        monkeypatch.setattr("fmristore.bids.index.publish_file", refuse)
        assert len(fs.Collection(tmp_path, check=True)) == 2

    @pytest.mark.parametrize(
        "text",
        [
            *("[", "[]", '{"version": 1}'),
            *(f'{{"version": 1, "stores": [{{"path": "{path}", "stamp": ""}}]}}' for path in AWAY),
        ],
    )
    def test_a_damaged_index(self, tmp_path: Path, text: str) -> None:
        self.make(tmp_path)
        index = tmp_path / INDEX
        index.parent.mkdir()
        index.write_text(text)
        with pytest.raises(MetadataError, match="index"):
            fs.Collection(tmp_path, check=False)
        assert len(fs.Collection(tmp_path)) == 2  # looked through, and made again
        assert len(fs.Collection(tmp_path, check=False)) == 2

    def test_one_request_on_object_storage(
        self, stores: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import s3fs

        remote = s3fs.S3FileSystem(**s3.options)
        for path in stores.rglob("*"):
            if path.is_file() and ".fmristore" not in str(path):
                remote.pipe_file(f"{s3.bucket}/new/{path.relative_to(stores)}", path.read_bytes())
        assert len(fs.Collection(s3.url("new"), storage_options=s3.options)) == 6
        calls: list[str] = []
        plainly, blocking = s3fs.S3FileSystem._call_s3, s3fs.S3FileSystem.call_s3

        async def call(self: Any, method: str, *args: Any, **options: Any) -> Any:
            calls.append(method)
            return await plainly(self, method, *args, **options)

        def wait(self: Any, method: str, *args: Any, **options: Any) -> Any:
            calls.append(method)
            return blocking(self, method, *args, **options)

        monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)
        monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", wait)
        s3fs.S3FileSystem.clear_instance_cache()
        collection = fs.Collection(s3.url("new"), storage_options=s3.options)
        assert calls == ["get_object"]
        assert collection.table.equals(fs.Collection(stores).table)
        with collection[RAW].open() as bold, fs.open(stores / RAW) as local:
            assert_array_equal(np.asarray(bold), np.asarray(local))
            options: Any = {"overwrite": True, "storage_options": s3.options}
            local.save(collection[RAW].url, codec="none", **options).close()
        with pytest.raises(ChangedError, match="since the index was made"):
            collection[RAW].open()
        remote.rm(f"{s3.bucket}/new/{RAW}", recursive=True)
        assert len(fs.Collection(s3.url("new"), storage_options=s3.options)) == 6
        assert len(collection.refresh()) == 5

    @pytest.mark.parametrize("begun", [False, True])
    @pytest.mark.parametrize("remote", [False, True])
    def test_of_two_that_look_at_once_the_later_index_stays(
        self, tmp_path: Path, begun: bool, remote: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One looks, the other sees a new store and writes its index, then the first one writes."""
        folder = f"memory://{uuid.uuid4().hex}/d" if remote else str(tmp_path)

        def add(number: int) -> None:
            store(f"{folder}/sub-{number}_bold.h5", make_values((2, 3, 2, 4))).close()

        add(1)
        if begun:
            build_index(folder)
            add(2)
        module: Any = index
        plainly, calls = module.publish_file, []

        def publish(*args: Any, **options: Any) -> Any:
            calls.append(args)
            if len(calls) == 1:
                add(3)
                assert len(build_index(folder)) == 2 + begun
            return plainly(*args, **options)

        monkeypatch.setattr(index, "publish_file", publish)
        found = build_index(folder)
        assert len(found) == 2 + begun
        assert read_index(folder) == found
        assert len(calls) == 2  # what the first one found out was in the later index already

    def test_an_error_that_passes_is_not_kept_in_the_index(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.make(tmp_path)
        (tmp_path / "sub-3_bold.h5").write_bytes(b"none")

        def fail(*_: Any, **__: Any) -> Any:
            raise StorageError("too many files are open")

        with monkeypatch.context() as patch:
            patch.setattr(index, "open_store", fail)
            assert len(fs.Collection(tmp_path).unreadable) == 3
        collection = fs.Collection(tmp_path)
        assert len(collection) == 2
        assert list(collection.unreadable) == ["sub-3_bold.h5"]
        with monkeypatch.context() as patch:  # what is damaged is not looked at again
            patch.setattr(index, "open_store", fail)
            assert len(fs.Collection(tmp_path)) == 2

    def test_an_index_that_cannot_be_written_where_it_is_believed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = f"memory://{uuid.uuid4().hex}/d"
        store(f"{folder}/sub-1_bold.h5", make_values((2, 3, 2, 4))).close()

        def refuse(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(index, "publish_file", refuse)
        error: FmristoreError = AccessDeniedError("read only")
        assert len(fs.Collection(folder)) == 1
        error = StorageError("the service failed")
        with pytest.raises(StorageError, match="the service failed"):
            fs.Collection(folder)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            fs.Collection(tmp_path / "nothing")
        with pytest.raises(NotFoundError):
            fs.Collection("memory://nothing")


class TestMap:
    def test_a_function_over_members(self, stores: Path) -> None:
        runs = fs.Collection(stores).sel(suffix="bold", space=None)
        with ThreadPoolExecutor(2) as pool:
            report = runs.map(mean_of, executor=pool, offset=1.0)
        expected = {}
        for member in runs:
            with member.open() as bold:
                expected[member.path] = float(np.asarray(bold, "f8").mean()) + 1
        assert report.results == expected

    def test_a_failure_is_reported(self, stores: Path, tmp_path: Path) -> None:
        store(tmp_path / "sub-1_bold.h5", make_values((2, 3, 2, 4))).close()
        collection = fs.Collection(tmp_path)
        (tmp_path / "sub-1_bold.h5").unlink()
        assert "ChangedError" in str(collection.map(mean_of).failed[0].error)


class TestGroups:
    @pytest.fixture
    def parcels(self, tmp_path: Path) -> Path:
        labels = np.arange(np.prod(GRID)).reshape(GRID) % 4
        for number, times in ((1, 5), (2, 5), (3, 7)):
            values = make_values((*GRID, times), "f4", seed=number, nan=False)
            url = tmp_path / f"sub-{number}_task-rest_timeseries.h5"
            fs.parcellate(values, labels, url, space=AFFINE, tr=2.0).close()
        return tmp_path

    def test_series_keep_their_lengths(self, parcels: Path) -> None:
        found = fs.Collection(parcels).series()
        assert [values.shape for values in found.values()] == [(5, 3), (5, 3), (7, 3)]

    def test_equal_runs_are_stacked(self, parcels: Path) -> None:
        part = fs.Collection(parcels).sel(subject=[1, 2])
        group = part.stack()
        assert group.subjects == ("1", "2")
        assert len(group.parcels) == 3
        assert_array_equal(np.asarray(group), np.stack(list(part.series().values())))

    def test_unequal_runs_are_an_error(self, parcels: Path) -> None:
        with pytest.raises(InvalidInputError, match=r"not padded or cut: \(5, 3\): 2, .*\(7, 3\)"):
            fs.Collection(parcels).stack()
        with pytest.raises(MemoryLimitError):
            fs.Collection(parcels).sel(subject=1).stack(max_memory=10)
        with pytest.raises(InvalidInputError, match="empty"):
            fs.Collection(parcels).sel(subject="9").stack()

    def test_other_parcels_and_other_formats_are_errors(self, parcels: Path) -> None:
        labels = np.arange(np.prod(GRID)).reshape(GRID) % 4 * 2
        values = make_values((*GRID, 5), "f4", nan=False)
        fs.parcellate(values, labels, parcels / "sub-4_timeseries.h5", space=AFFINE).close()
        with pytest.raises(InvalidInputError, match="other parcels"):
            fs.Collection(parcels).sel(subject=[1, 4]).stack()
        store(parcels / "sub-5_bold.h5", make_values()).close()
        with pytest.raises(InvalidInputError, match="a NeuroVec: expected one series"):
            fs.Collection(parcels).sel(subject=5).series()


class TestAcross:
    @pytest.fixture
    def maps(self, tmp_path: Path) -> Path:
        for number in range(12):
            values = make_values((6, 7, 5), "f4", seed=number, nan=False)
            store(tmp_path / "in" / f"sub-{number:02}_statmap.h5", values).close()
        return tmp_path / "in"

    @pytest.mark.parametrize("ending", ["h5", "ome.zarr"])
    def test_a_voxel_of_all_subjects_is_one_chunk(
        self, maps: Path, tmp_path: Path, ending: str, opened: list[CountingStore]
    ) -> None:
        collection = fs.Collection(maps)
        values = np.stack([np.asarray(m.open()) for m in collection], axis=3)
        url = tmp_path / f"group.{ending}"
        with collection.across(url, max_memory="1MB") as group:
            assert_array_equal(np.asarray(group), values)
            assert group.metadata["members"]["subject"] == [f"{n:02}" for n in range(12)]
            assert_allclose(group.affine, AFFINE)
        del opened[:]
        with fs.open(url) as group:
            assert group.plan[2, 3, 1].chunks == 1
            assert_array_equal(group[2, 3, 1], values[2, 3, 1])
        [counted] = opened
        assert counted.counts["0"].chunks_fetched == 1

    def test_runs_become_volumes(self, stores: Path, tmp_path: Path) -> None:
        runs = fs.Collection(stores).sel(suffix="bold", space=None)
        expected = np.stack([np.asarray(m.open(), "f4").mean(axis=3) for m in runs], axis=3)
        with runs.across(tmp_path / "mean.h5") as group:
            assert_allclose(np.asarray(group), expected, rtol=1e-5)
        with runs.across(tmp_path / "first.h5", statistic=_first) as group:
            assert group.metadata["statistic"] == "_first"
            assert_array_equal(np.asarray(group)[..., 1], np.asarray(runs[1].open())[..., 0])

    def test_time_is_kept(self, stores: Path, tmp_path: Path) -> None:
        """Volumes of runs of other lengths, one run after the other, and whose each is."""
        for number, (times, offset) in enumerate([(4, 0.0), (6, 2.5)]):
            space = fs.NeuroSpace(
                spatial_shape=GRID, affine=AFFINE, time_points=times, tr=1.5, time_offset=offset
            )
            values = make_values((*GRID, times), "i2", seed=number)
            url = tmp_path / "in" / f"sub-{number}_bold.h5"
            fs.NeuroVec.create(values, url, space=space, slope=0.5 + number, inter=1.0).close()
        runs = fs.Collection(tmp_path / "in")
        expected = np.concatenate([np.asarray(one.open()) for one in runs], axis=3)
        with runs.across(tmp_path / "all.h5", statistic=None) as group:
            assert_allclose(np.asarray(group), expected, rtol=1e-6)
            members = group.metadata["members"]
            assert (members["first"], members["volumes"]) == ([0, 4], [4, 6])
            assert (members["tr"], members["start"]) == ([1.5, 1.5], [0.0, 2.5])
            assert group.plan[1, 2, 1].chunks == 1

    def test_masks_keep_their_type(self, stores: Path, tmp_path: Path) -> None:
        masks = fs.Collection(stores).sel(suffix="mask")
        with masks.across(tmp_path / "masks.h5") as group:
            assert group.dtype == np.uint8

    def test_other_grids_are_an_error_and_leave_nothing(self, maps: Path, tmp_path: Path) -> None:
        moved = AFFINE + np.array([[0, 0, 0, 1.0]] + [[0.0] * 4] * 3)
        store(maps / "sub-99_statmap.h5", make_values((6, 7, 5), "f4"), space=moved).close()
        with pytest.raises(InvalidInputError, match="another grid"):
            fs.Collection(maps).across(tmp_path / "group.h5")
        assert not (tmp_path / "group.h5").exists()
        with pytest.raises(InvalidInputError, match="unknown statistic"):
            fs.Collection(maps).across(tmp_path / "group.h5", statistic="mode")
        with pytest.raises(InvalidInputError, match="empty"):
            fs.Collection(maps).sel(subject="x").across(tmp_path / "group.h5")


def _first(stored: Any) -> Any:
    return stored[..., 0]
