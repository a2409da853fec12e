"""Drawings with matplotlib: what is drawn is what is stored, which way round, and by few reads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import DependencyError, InvalidInputError, SelectionError
from tests.every_format import (
    AFFINE,
    BASES,
    GRID,
    LABELS,
    LOADINGS,
    MASK,
    NAMES,
    RUN,
    SHAPE,
    SPACE,
    WRITERS,
)

VIEWS = ["sagittal", "coronal", "axial"]


@pytest.fixture(autouse=True)
def no_windows() -> Iterator[None]:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context():
        plt.switch_backend("Agg")
        yield
        plt.close("all")


def drawn(axes: Any) -> Any:
    """Values of the picture that is drawn in axes."""
    return np.asarray(axes.images[0].get_array())


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_can_be_drawn(name: str, tmp_path: Path) -> None:
    with WRITERS[name](tmp_path / "a.h5") as stored:
        axes = stored.plot()
        next(iter(axes.values())).figure.canvas.draw()


def test_slices_and_series_are_those_of_the_image(tmp_path: Path) -> None:
    with WRITERS["neurovec"](tmp_path / "a.h5") as bold:
        with bold.stats.watch() as read:
            axes = bold.plot(voxel=(1, 2, -1), volume=-2)
        assert read.chunks <= 4
        assert list(axes) == [*VIEWS, "series"]
        values = RUN * 0.5 + 1
        assert np.array_equal(drawn(axes["axial"]), values[:, ::-1, 3, 18].T)
        assert np.array_equal(drawn(axes["coronal"]), values[:, 2, ::-1, 18].T)
        assert np.array_equal(drawn(axes["sagittal"]), values[1, :, ::-1, 18].T)
        line = axes["series"].lines[0]
        assert np.array_equal(line.get_ydata(), values[1, 2, 3])
        assert np.array_equal(line.get_xdata(), bold.space.times)
        assert axes["sagittal"].get_title() == "x = 2 mm"


def test_left_is_on_the_left(tmp_path: Path) -> None:
    """The same brain, stored the other way round, is drawn the same."""
    flipped = AFFINE.copy()
    flipped[0] = (-2, 0, 0, 2 * (SHAPE[0] - 1))
    other = fs.NeuroSpace(spatial_shape=SHAPE[:3], affine=flipped)
    with (
        fs.NeuroVol.create(RUN[..., 0], tmp_path / "a.h5", space=GRID) as one,
        fs.NeuroVol.create(RUN[::-1, ..., 0], tmp_path / "b.h5", space=other) as two,
    ):
        left, right = one.plot(voxel=(2, 2, 2)), two.plot(voxel=(3, 2, 2))
    for view in VIEWS:
        assert np.array_equal(drawn(left[view]), drawn(right[view]))
        cross = [line.get_xdata() for line in left[view].lines]
        assert np.array_equal(cross, [line.get_xdata() for line in right[view].lines])
        assert [t.get_text() for t in left[view].texts][:1] == ["P" if view == "sagittal" else "L"]


def test_carpet(tmp_path: Path) -> None:
    with WRITERS["neurovec"](tmp_path / "a.h5") as bold:
        found = drawn(bold.plot("carpet")["carpet"])
    assert found.shape == (120, 20)
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-9)
    with WRITERS["maskedneurovec"](tmp_path / "b.h5") as masked:
        assert drawn(masked.plot("carpet")["carpet"]).shape == (MASK.sum(), 20)


def test_voxels_of_a_carpet() -> None:
    values = np.zeros((4, 4, 4, 6), "f4")
    values[1:3, 1:3, 1:3] = np.arange(6)
    values[3] = 7  # does not vary
    with fs.NeuroVec.create(values, "memory://carpet.zarr", space=np.eye(4)) as bold:
        assert np.array_equal(bold.sample_series(), np.tile(np.arange(6), (8, 1)))
        assert np.array_equal(bold.sample_series(voxels=30, volumes=2), [[0, 3]] * 8)


def test_maps(tmp_path: Path) -> None:
    signed = {"a": RUN[..., 0] / 4 - 100, "b": RUN[..., 1] / 4}
    with fs.LabeledVolumeSet.create(signed, tmp_path / "a.h5", mask=MASK, space=GRID) as maps:
        axes = maps.plot(volume="b", voxel=(2, 2, 2))
        np.testing.assert_allclose(drawn(axes["axial"]), maps["b"][:, ::-1, 2].T)
        low, high = maps.plot(volume=0)["axial"].images[0].get_clim()
        assert low == -high
        labels = maps.plot("series")["series"].get_xticklabels()
        assert [label.get_text() for label in labels] == ["a", "b"]
        with pytest.raises(SelectionError):
            maps.plot(volume="c")
        with pytest.raises(InvalidInputError, match="'slices', 'series'"):
            maps.plot("carpet")


def test_components(tmp_path: Path) -> None:
    with WRITERS["latentneurovec"](tmp_path / "a.h5") as latent:
        axes = latent.plot("components", components=[2, 0], voxel=(2, 2, 2))
        grid = np.zeros(SHAPE[:3])
        grid[tuple(latent.voxels.T)] = LOADINGS[:, 2]
        np.testing.assert_allclose(drawn(axes["component 2 axial"]), grid[:, ::-1, 2].T)
        courses = np.vstack(list(BASES.values()))
        np.testing.assert_allclose(axes["component 0"].lines[0].get_ydata(), courses[:, 0])
        with pytest.raises(SelectionError):
            latent.plot("components", components=[3])


def test_summaries(tmp_path: Path) -> None:
    with WRITERS["parcellatedscansummary"](tmp_path / "a.h5") as summary:
        series = np.asarray(summary)
        found = drawn(summary.plot("correlation")["correlation"])
        np.testing.assert_allclose(found, np.corrcoef(series.T))
        axes = summary.plot("series", parcels=["Insula", 1])["series"]
        assert [line.get_label() for line in axes.lines] == ["Insula", "Left V1"]
        assert np.array_equal(axes.lines[0].get_ydata(), series[:, 2])
        axes = summary.plot("parcels", volume=3, voxel=(2, 2, 2))
        expected = summary.parcellation.to_volume(series[3], fill=np.nan)
        np.testing.assert_array_equal(
            np.ma.filled(axes["axial"].images[0].get_array(), np.nan), expected[:, ::-1, 2].T
        )
        assert drawn(summary.plot()["carpet"]).shape == (3, 20)
        with pytest.raises(InvalidInputError, match="'correlation'"):
            summary.plot("slices")


def test_parcels() -> None:
    parcels = fs.Parcellation.from_labels(LABELS, names=NAMES, space=SPACE)
    pixels = drawn(parcels.plot(voxel=(2, 2, 2))["axial"])
    labels = LABELS[:, ::-1, 2].T
    assert len({tuple(p) for p in pixels[labels == 2].tolist()}) == 1
    assert (pixels[labels == 0] == 0).all()
    low, high = parcels.plot([-1, 0, 3])["axial"].images[0].get_clim()
    assert (low, high) == (-3, 3)
    with pytest.raises(InvalidInputError):
        parcels.plot([1, 2])


def test_scans_by_name(tmp_path: Path) -> None:
    with WRITERS["parcellatedmultiscan"](tmp_path / "a.h5") as multi:
        assert "series" in multi.plot()
        assert "correlation" in multi.plot("correlation", scan="task")
        with pytest.raises(SelectionError):
            multi.plot(scan="absent")


def test_figures_and_windows_of_others(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure: Any = Figure()
    with WRITERS["neurovol"](tmp_path / "a.h5") as volume:
        axes = volume.plot(figure=figure, window=(2, 5), colors="viridis")
        assert axes["axial"].figure is figure
        assert axes["axial"].images[0].get_clim() == (2, 5)
        for voxel in ((1, 2), (6, 0, 0), "abc"):
            with pytest.raises(InvalidInputError, match="voxel"):
                volume.plot(voxel=voxel)
        with pytest.raises(InvalidInputError, match="'slices'"):
            volume.plot("series")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with (
        WRITERS["neurovol"](tmp_path / "a.h5") as volume,
        pytest.raises(DependencyError, match=r"fmristore\[plot\]"),
    ):
        volume.plot()
