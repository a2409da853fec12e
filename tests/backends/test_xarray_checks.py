"""What xarray's own suite asks of a backend that reads, asked of ours.

After ``DatasetIOBase`` and the tests of chunks in ``xarray/tests/test_backends.py``, whose classes
write what they read, and so cannot be inherited.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from xarray.testing import assert_equal, assert_identical

import fmristore as fs
from fmristore.backends.xarray import FmristoreBackend
from fmristore_stores.errors import ClosedError
from tests.every_format import RUN, SPACE, write

library: Any = xr
ENGINE: Any = "fmristore" if "fmristore" in xr.backends.list_engines() else FmristoreBackend
"""By name where the package is installed."""
FORMATS = ["neurovec", "neurovecseq", "labeledvolumeset"]
SERIES = "parcellatedscansummary"


def along(dims: str, *index: Any) -> Any:
    """Indices as an array of xarray with named axes."""
    return xr.DataArray(np.array(index[0] if len(index) == 1 else index), dims=tuple(dims))


NEWER = pytest.mark.skipif(
    tuple(map(int, xr.__version__.split(".")[:2])) < (2026, 9),
    reason="some xarray before 2026.9 cannot index lazily by empty lists, or lists and steps",
)
STEPS: list[list[dict[str, Any]]] = [
    [{}],
    [{"x": [1, 2, 0], "y": [3, 2, 0, 3], "z": np.arange(3)}],
    [{"x": along("a", [0, 2, 0]), "y": along("a", [0, 2, 3])}],
    [{"x": along("a", [0, 2, 0]), "y": slice(None, None, -1)}],
    [{"x": along("ab", [[0, 5], [2, 4], [3, 1]]), "z": slice(-1, 1, -1)}],
    [{"x": along("ab", [[0, 5], [2, 4]]), "y": along("b", [1, 3])}],
    [{"x": along("a", [0, 2, 4, 3]), "z": slice(3, 0, -1), "y": 2}],
    [{"x": slice(5, 1, -1)}, {"x": slice(None, None, -1)}],
    [{"x": slice(1, 5)}, {"x": along("a", [0, 2, 3])}, {"a": slice(None, None, -1)}],
    [{"x": [4, 2, 1]}, {"x": along("a", [0, 2, 2])}, {"a": [1, 0]}],
    [{"x": along("ab", [[0, 5], [2, 4]]), "y": [1, 0]}, {"a": 1}, {"y": slice(1, None)}],
    [{"y": slice(None, None, 2)}, {"y": slice(1, None)}, {"y": -1}],
    [{"x": np.array([True, False] * 3)}, {"x": [True, False, True]}],
    [{"x": np.int64(-1), "y": np.array(2), "z": slice(-3, -1)}],
    [{"x": slice(3, 3)}, {"y": [0]}],
    [{"x": []}, {"y": [1, 0]}],
    [{n: along("p", [0, 3, 1]) for n in "xyz"}, {"p": [2, 2, 0]}],
    [{n: along("p", [0, 3, 1]) for n in "xyz"}, {"p": 1}],
]
"""Indexers that are applied one after the other, before anything is read."""


@pytest.fixture(scope="module", params=FORMATS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = "zarr" if request.param in ("neurovecseq", "labeledvolumeset") else "h5"
    return write(request.param, tmp_path_factory.mktemp("checks") / f"a.{kind}")


@pytest.fixture
def lazy(url: Path) -> Iterator[Any]:
    with library.open_dataset(url, engine=ENGINE) as found:
        yield found


@pytest.fixture(scope="module")
def loaded(url: Path) -> Any:
    """The same in memory, with values that did not pass through xarray."""
    with library.open_dataset(url, engine=ENGINE) as found, fs.open(url) as stored:
        return found.load().assign(data=found["data"].copy(data=np.asarray(stored)))


class TestIndexing:
    @pytest.mark.parametrize(
        "steps", [pytest.param(s, marks=NEWER if n in (3, 15) else ()) for n, s in enumerate(STEPS)]
    )
    def test_lazy_indexing_is_that_of_memory(self, lazy: Any, loaded: Any, steps: Any) -> None:
        found, wanted = lazy, loaded
        for step in steps:
            found, wanted = found.isel(step), wanted.isel(step)
        for _ in range(2):  # the second one has the values already
            close(found, wanted)

    def test_by_coordinates(self, lazy: Any, loaded: Any) -> None:
        selections: list[Any] = [
            lambda d: d.sel(x=[2.1, 7.9], method="nearest"),
            lambda d: d.sel(x=slice(2, 6), y=4.0),
            lambda d: d.head(x=2).thin(y=2).tail(z=1),
            lambda d: d.where(d.x > 4, drop=True),
            lambda d: d.roll(x=2).transpose(..., "x"),
            lambda d: d.stack(v=("x", "y")).isel(v=[3, 1]),
            lambda d: d.sortby("x", ascending=False),
        ]
        for select in selections:
            close(select(lazy), select(loaded))

    def test_indexing_reads_nothing(self, url: Path, lazy: Any) -> None:
        with fs.open(url) as stored, stored.stats.watch() as read:
            for steps in STEPS:
                found = lazy
                for step in steps:
                    found = found.isel(step)
            repr(found)
        assert read.chunks == 0


def close(found: Any, wanted: Any) -> None:
    """Same values (to rounding, where they are computed), names, coordinates and attributes."""
    found = found.load()
    assert_identical(found.drop_vars("data"), wanted.drop_vars("data"))
    assert found["data"].attrs == wanted["data"].attrs
    assert found["data"].dims == wanted["data"].dims
    np.testing.assert_allclose(found["data"], wanted["data"], rtol=1e-5, atol=1e-5)
    assert found["data"].dtype == wanted["data"].dtype


class TestCopies:
    def test_pickle_and_copies(self, lazy: Any, loaded: Any) -> None:
        for again in (
            pickle.loads(pickle.dumps(lazy)),
            copy.copy(lazy),
            copy.deepcopy(lazy),
            lazy.copy(deep=True),
            pickle.loads(pickle.dumps(lazy.isel(x=[2, 0], y=slice(None, None, -1)))),
        ):
            part = {"x": [2, 0], "y": slice(None, None, -1)}
            wanted = loaded if again.sizes == loaded.sizes else loaded.isel(part)
            close(again, wanted)
        array = pickle.loads(pickle.dumps(lazy["data"]))
        close(array.to_dataset(promote_attrs=False).assign_attrs(loaded.attrs), loaded)

    def test_an_unpickled_dataset_outlives_the_first_one(self, url: Path, loaded: Any) -> None:
        with library.open_dataset(url, engine=ENGINE) as first:
            again = pickle.loads(pickle.dumps(first))
        close(again, loaded)
        with pytest.raises(ClosedError):
            first["data"].load()

    def test_two_of_one_file_and_caching(self, url: Path, loaded: Any) -> None:
        first = library.open_dataset(url, engine=ENGINE)
        with library.open_dataset(url, engine=ENGINE, cache=False) as second:
            first.close()
            for _ in range(2):
                close(second.copy(), loaded)
            second["data"].values  # noqa: B018 - not kept
            with fs.open(url) as stored:
                assert type(stored).__name__ == second.attrs["class"]

    def test_concatenated_and_merged(self, lazy: Any, loaded: Any) -> None:
        close(xr.concat([lazy, lazy], "x"), xr.concat([loaded, loaded], "x"))
        halves = [lazy.isel(x=slice(0, 3)), lazy.isel(x=slice(3, 6))]
        close(xr.concat(halves, "x"), loaded)
        close(xr.combine_by_coords(halves, combine_attrs="override"), loaded)


class TestVariables:
    def test_variables_are_dropped(self, url: Path, lazy: Any) -> None:
        for dropped in ("data", ["x"], ("x", "y"), iter(["z"]), []):
            names = [dropped] if isinstance(dropped, str) else list(copy.copy(dropped))
            with library.open_dataset(url, engine=ENGINE, drop_variables=dropped) as found:
                assert set(found.variables) == set(lazy.variables) - set(names)

    def test_a_path_in_every_form(
        self, url: Path, lazy: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(url.parent)
        for given in (url, str(url), url.name):
            with library.open_dataset(given, engine=ENGINE) as found:
                assert_identical(found, lazy)
        with pytest.raises(FileNotFoundError):
            library.open_dataset("missing.h5", engine=ENGINE)


class TestDask:
    @pytest.mark.parametrize("chunks", [{}, "auto", -1, {"x": 4}, {"x": 3, "y": 2}])
    def test_chunks(self, url: Path, loaded: Any, chunks: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # some separate stored chunks
            with library.open_dataset(url, engine=ENGINE, chunks=chunks) as blocks:
                assert blocks["data"].chunks is not None
                for scheduler in ("synchronous", "threads"):
                    close(blocks.compute(scheduler=scheduler), loaded)
                close(
                    blocks.isel(x=[3, 0], y=slice(None, None, -2)),
                    loaded.isel(x=[3, 0], y=slice(None, None, -2)),
                )
                close(pickle.loads(pickle.dumps(blocks)), loaded)
                mean = blocks["data"].mean("x").compute(scheduler="threads")
                np.testing.assert_allclose(mean, loaded["data"].mean("x"), rtol=1e-5, atol=1e-5)

    def test_preferred_chunks_are_those_of_the_store(self, url: Path) -> None:
        with fs.open(url) as stored, library.open_dataset(url, engine=ENGINE, chunks={}) as blocks:
            assert set(blocks.chunksizes) == set(blocks["data"].dims)
            preferred = blocks["data"].encoding["preferred_chunks"]
            assert tuple(preferred.values()) == stored.chunks
            for dim, sizes in blocks["data"].chunksizes.items():
                assert set(sizes[:-1]) <= {preferred[dim]}
                assert sizes[-1] <= preferred[dim]

    def test_chunks_that_separate_stored_ones_are_warned_of(self, tmp_path: Path) -> None:
        fs.NeuroVec.create(RUN, tmp_path / "a.zarr", space=SPACE, access="volume").close()
        with pytest.warns(UserWarning, match="separate the stored chunks"):
            library.open_dataset(tmp_path / "a.zarr", engine=ENGINE, chunks={"x": 4}).close()

    @pytest.mark.filterwarnings("ignore:The specified chunks:UserWarning")
    def test_in_other_processes(self, tmp_path: Path) -> None:
        url = write("neurovec", tmp_path / "a.h5")
        with library.open_dataset(url, engine=ENGINE, chunks={"x": 3}) as blocks:
            found = blocks["data"].sum("time").compute(scheduler="processes", num_workers=2)
            np.testing.assert_allclose(found, blocks["data"].values.sum(-1), rtol=1e-5)


@pytest.mark.parametrize("chunks", [None, {}])
def test_many_files_are_one_dataset(tmp_path: Path, chunks: Any) -> None:
    urls = [write("neurovec", tmp_path / name) for name in ("a.h5", "b.zarr")]
    options = {"engine": ENGINE, "combine": "nested", "chunks": chunks}
    with library.open_mfdataset(urls, concat_dim="time", **options) as both:
        np.testing.assert_allclose(both["data"], np.concatenate([RUN, RUN], 3) * 0.5 + 1)
        assert both.sizes["time"] == 2 * RUN.shape[3]
    new = xr.DataArray(["01", "02"], dims="subject", name="subject")
    with library.open_mfdataset(
        urls, concat_dim=new, preprocess=lambda d: d.isel(time=slice(0, 3)), **options
    ) as both:
        assert both["data"].sel(subject="02").shape == (*RUN.shape[:3], 3)
    with library.open_mfdataset(
        str(tmp_path / "*.h5"), concat_dim="time", parallel=True, **options
    ) as one:
        assert one["data"].shape == RUN.shape


def test_series_of_parcels(tmp_path: Path) -> None:
    url = write(SERIES, tmp_path / "a.h5")
    with library.open_dataset(url, engine=ENGINE) as lazy, fs.open(url) as stored:
        loaded = lazy.copy().load().assign(data=lazy["data"].copy(data=stored.to_numpy()))
        for steps in (
            [{"time": [3, 1], "parcel": slice(None, None, -1)}],
            [{"time": along("a", [0, 2, 5]), "parcel": along("a", [2, 0, 1])}],
            [{"time": slice(10, 2, -3)}, {"parcel": [2, 0]}, {"time": -1}],
        ):
            found, wanted = library.open_dataset(url, engine=ENGINE), loaded
            for step in steps:
                found, wanted = found.isel(step), wanted.isel(step)
            close(found, wanted)


def test_to_zarr_and_back(tmp_path: Path) -> None:
    url = write("neurovec", tmp_path / "a.h5")
    with library.open_dataset(url, engine=ENGINE, chunks={}) as lazy:
        lazy.to_zarr(tmp_path / "b.zarr", consolidated=False)
        with library.open_zarr(tmp_path / "b.zarr", consolidated=False) as again:
            assert_equal(again, lazy)
