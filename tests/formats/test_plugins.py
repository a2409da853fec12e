"""A format of another package with layouts of its own, and a new layout for one of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import fmristore as fs
from fmristore.cli.describe import describe_store
from fmristore.formats import registry
from fmristore.formats.base import StoredArray
from fmristore.formats.image.layout import ImageContent, write_data
from fmristore.formats.image.layout import image_spec as plan_image
from fmristore.formats.registry import Layout, StoreView, register, register_layout
from fmristore.testing import FormatTests
from fmristore_stores.errors import InvalidInputError, SelectionError, UnknownFormatError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import Store
from tests.plugins.fits import FitGrid

registry._registered.pop("fits")  # importing it registered it; it is there within a test only

SHAPE = (5, 4, 3)
MASK = np.arange(60).reshape(SHAPE) % 3 > 0
SPACE = fs.NeuroSpace(spatial_shape=SHAPE, affine=np.diag([2.0, 2, 3, 1]))
VALUES = np.random.default_rng(0).normal(size=(int(MASK.sum()), 2)).astype("f4")
RUN = np.random.default_rng(1).normal(size=(*SHAPE, 6)).astype("f4")


def full() -> Any:
    """The fits on their grid, values in the order in which x varies fastest."""
    grid = np.full((*SHAPE, 2), np.nan, "f4")
    grid[tuple(np.argwhere(MASK.T)[:, ::-1].T)] = VALUES
    return grid


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format and the layout are there for one test."""
    registry.formats()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "_added", {})
    register("fits")(FitGrid)
    register_layout("neurovec", BoldLayout())


class BoldLayout(Layout):
    """A run as an array ``bold`` (t, z, y, x) with its repetition time, without an affine."""

    name = "bold"
    stores = frozenset({"hdf5"})

    def detect(self, view: StoreView) -> bool:
        """Docstring inherited."""
        return set(view.children) == {"bold"} and "seconds" in view.attributes

    def read(self, handle: Handle) -> ImageContent:
        """Docstring inherited."""
        dims = ("t", "z", "y", "x")
        t, z, y, x = StoredArray(handle, "bold").reader.spec.shape
        seconds = float(handle.store.root.read_attributes()["seconds"])
        space = fs.NeuroSpace(spatial_shape=(x, y, z), affine=np.eye(4), time_points=t, tr=seconds)
        return ImageContent(data="bold", space=space, dims=dims)

    def write(self, store: Store, content: Any, options: Any, *, progress: Any = None) -> None:
        """Docstring inherited."""
        spec = plan_image(content, options)
        bare = replace(spec, dims=(), layout=replace(spec.layout, shards=None))
        array = store.root.create_array("bold", bare)
        write_data(array, spec.dims, content, options.max_memory, progress=progress)
        store.root.write_attributes({"seconds": content.space.tr})


@pytest.fixture(params=["fits.h5", "fits.zarr"])
def fits(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FitGrid]:
    """Stored fits, opened."""
    with FitGrid.create(VALUES, tmp_path / request.param, mask=MASK, space=SPACE) as made:
        yield made


def test_what_every_image_has(fits: FitGrid) -> None:
    wanted = full()
    with fs.open(fits.url) as again:
        assert isinstance(again, FitGrid)
        for index in (..., (1, 2), (slice(None), 1, ..., 0), MASK, ([1, 2], [0, 3], [2, 1])):
            np.testing.assert_array_equal(again[index], wanted[index])
        np.testing.assert_array_equal(np.asarray(again), wanted)
        np.testing.assert_array_equal(again.series(mask=MASK), wanted[MASK].T)
        np.testing.assert_array_equal(
            again.unmask(again.series(mask=MASK)[0], fill=np.nan), wanted[..., 0]
        )
        np.testing.assert_allclose(again.max(axis=3), wanted.max(axis=3))
        assert again.plan[..., 0].chunks >= 1
        assert again.to_nibabel().shape == (*SHAPE, 2)
        with pytest.raises(SelectionError):
            again[..., 2]


class TestFitGrid(FormatTests):
    """What every format promises."""

    def create(self, url: Path | str) -> FitGrid:
        return FitGrid.create(VALUES, url, mask=MASK, space=SPACE)

    def expected(self) -> Any:
        return full()


def test_formats_and_layouts_are_added_as_contributing_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "CONTRIBUTING.md"
    if not page.is_file():
        pytest.skip("there is no checkout")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_added", {})
    namespace: dict[str, Any] = {"__name__": "toys"}
    sections = page.read_text(encoding="utf-8").split("\n## ")
    for section in (s for s in sections if s.startswith(("Add a format\n", "Add a layout\n"))):
        for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
            exec(compile(code, str(page), "exec"), namespace)
    with fs.open("toy.h5") as toy:
        np.testing.assert_array_equal(toy.values, range(5))
        assert repr(toy).endswith(", V)")
    assert fs.verify("toy.h5", deep=True).ok
    with h5py.File("bold.h5", "w") as file:
        file["bold"] = RUN.T
        file.attrs["seconds"] = 2.0
    with fs.open("bold.h5") as bold:
        assert isinstance(bold, fs.NeuroVec)
        assert bold.tr == 2.0
        np.testing.assert_array_equal(bold[...], RUN)


def test_the_command_line_describes_it(fits: FitGrid) -> None:
    facts = describe_store(fits.url, {})
    assert (facts["format"], facts["content"]["class"]) == ("fits", "FitGrid")


def test_its_second_layout(fits: FitGrid, tmp_path: Path) -> None:
    path = tmp_path / "flat.h5"
    with fits.save(path, profile="flat") as flat:
        np.testing.assert_array_equal(np.asarray(flat), full())
    with h5py.File(path) as file:
        assert set(file) == {"grid", "where", "amplitude", "delay"}
        assert "fmristore_format" not in file.attrs
    with fs.open(path) as again:
        assert isinstance(again, FitGrid)
        np.testing.assert_array_equal(np.asarray(again), full())
    with pytest.raises(UnknownFormatError, match="layout 'flat'"):
        fs.open(path, format="neurovec")
    with pytest.raises(InvalidInputError, match=r"must end in \.h5"):
        fits.save(tmp_path / "flat.zarr", profile="flat")


def test_a_new_layout_of_a_format_of_ours(tmp_path: Path) -> None:
    space = fs.NeuroSpace(spatial_shape=SHAPE, affine=np.eye(4), time_points=6, tr=2.0)
    path = tmp_path / "bold.h5"
    with fs.NeuroVec.create(RUN, path, space=space, profile="bold") as made:
        assert type(made) is fs.NeuroVec
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["bold"][...], RUN.T)
    with fs.open(path) as bold:
        assert isinstance(bold, fs.NeuroVec)
        assert bold.tr == 2.0
        np.testing.assert_array_equal(bold[...], RUN)
        np.testing.assert_array_equal(bold.series(mask=MASK), RUN[MASK].T)
    with pytest.raises(InvalidInputError, match="unknown profile 'flat' of neurovec"):
        fs.NeuroVec.create(RUN, tmp_path / "a.h5", space=space, profile="flat")
    assert not (tmp_path / "a.h5").exists()
