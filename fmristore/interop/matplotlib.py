"""Drawings with matplotlib, which is imported on use.

Slices look as those of nilearn do: three of them through one voxel, left on the left, on black,
with a cross and letters. They are drawn along the axes of the grid, so that three slices are read
and nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmristore.model.space import NeuroSpace
from fmristore.planning.anatomy import display_axes, display_plane
from fmristore.planning.pictures import label_colors
from fmristore_stores.errors import DependencyError, InvalidInputError
from fmristore_stores.shown import shown

__all__ = [
    "Look",
    "middle_voxel",
    "plot_components",
    "plot_image",
    "plot_parcels",
    "plot_summary",
]

Axes = dict[str, Any]

_VIEWS = ("sagittal", "coronal", "axial")
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
_COLD_HOT = ("#78f5ff", "#006eff", "#0a1478", "#000000", "#820f00", "#ff5a00", "#fff06e")
_MOST_NAMES = 40
"""Names that are written along an axis."""


class Look(NamedTuple):
    """Options of drawing values."""

    voxel: Sequence[int] | None = None
    """Through which slices go, and whose series is drawn; the middle by default."""
    colors: Any = None
    """Colour map of matplotlib."""
    window: tuple[float, float] | None = None
    """Values drawn in the first and the last colour."""
    figure: Any = None
    """Figure of matplotlib to draw in; a new one by default."""


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise DependencyError('this needs matplotlib: pip install "fmristore[plot]"') from error
    return plt


def _known(kind: str, kinds: Sequence[str], what: object) -> None:
    if kind not in kinds:
        known = ", ".join(map(repr, kinds))
        raise InvalidInputError(f"a {type(what).__name__} has no plot {kind!r}; it has {known}")


def _mosaic(look: Look, rows: list[list[str]], size: tuple[float, float], **options: Any) -> Axes:
    figure = look.figure
    if figure is None:
        figure = _pyplot().figure(figsize=size, layout="constrained")
    found: Axes = figure.subplot_mosaic(rows, **options)
    return found


# Slices -----------------------------------------------------------------------------------------


def middle_voxel(look: Look, space: NeuroSpace) -> tuple[int, ...]:
    """The voxel of a look, counted from the beginning; the middle of the grid by default.

    Raises
    ------
    InvalidInputError
        If it does not lie in the grid.
    """
    shape = space.spatial_shape
    if look.voxel is None:
        return tuple(n // 2 for n in shape)
    try:
        voxel = tuple(int(n) for n in look.voxel)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"voxel {look.voxel!r:.80}: expected three integers") from error
    if len(voxel) != 3 or any(not -n <= v < n for v, n in zip(voxel, shape, strict=True)):
        raise InvalidInputError(f"voxel {voxel} does not lie in a grid of shape {shape}")
    return tuple(v % n for v, n in zip(voxel, shape, strict=True))


def _window(planes: Sequence[NDArray[Any]], look: Look, *, signed: bool) -> tuple[float, float]:
    """Values drawn in the first and last colour: those of `look`, or most of what there is."""
    if look.window is not None:
        low, high = look.window
        return float(low), float(high)
    values = np.concatenate([plane[np.isfinite(plane)] for plane in planes])
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, (2, 99.5)))
    if signed:
        most = float(np.abs(values).max())
        return (-most, most) if most else (-1.0, 1.0)
    return (low, high) if high > low else (low, low + 1)


def _real(values: Any) -> NDArray[Any]:
    found = np.asarray(values)
    if found.dtype.names:  # colours, as their brightness
        return np.asarray(
            np.stack([found[name].astype("f4") for name in found.dtype.names[:3]]).mean(axis=0)
        )
    return np.abs(found) if found.dtype.kind == "c" else found.astype("f8")


def _slice_sizes(space: NeuroSpace) -> list[float]:
    """Width of each of the slices, in mm."""
    lengths = [space.spatial_shape[a] * space.spacing[a] for a, _ in display_axes(space.affine)]
    return [lengths[1], lengths[0], lengths[0]]


def _draw_slice(
    axes: Any, pixels: NDArray[Any], space: NeuroSpace, world: int, **style: Any
) -> Any:
    """Draw a slice that was taken through a grid along one of its axes."""
    directions = display_axes(space.affine)
    across, up = (w for w in range(3) if w != world)
    turned = display_plane(pixels, space.affine, world)
    ratio = space.spacing[directions[up].axis] / space.spacing[directions[across].axis]
    drawn = axes.imshow(turned, aspect=ratio, interpolation="nearest", **style)
    axes.set_axis_off()
    axes.add_patch(_background(axes))
    (left, right), (bottom, top) = _ENDS[across], _ENDS[up]
    ground = {"facecolor": "k", "edgecolor": "none", "alpha": 0.7, "pad": 1}
    for text, x, y, across_at, up_at in (
        (left, 0.02, 0.5, "left", "center"),
        (right, 0.98, 0.5, "right", "center"),
        (top, 0.5, 0.98, "center", "top"),
        (bottom, 0.5, 0.02, "center", "bottom"),
    ):
        at = {"ha": across_at, "va": up_at, "transform": axes.transAxes}
        axes.text(x, y, text, color="w", fontsize=8, bbox=ground, **at)
    return drawn


def _background(axes: Any) -> Any:
    from matplotlib.patches import Rectangle

    patch: Any = Rectangle
    return patch((0, 0), 1, 1, transform=axes.transAxes, color="k", zorder=-1)


def _draw_cross(axes: Any, space: NeuroSpace, world: int, voxel: Sequence[int]) -> None:
    directions = display_axes(space.affine)
    across, up = (directions[w] for w in range(3) if w != world)
    columns, rows = (space.spatial_shape[d.axis] for d in (across, up))
    x = columns - 1 - voxel[across.axis] if across.flip else voxel[across.axis]
    y = voxel[up.axis] if up.flip else rows - 1 - voxel[up.axis]
    axes.axvline(x, color="#5dd0ff", lw=0.6)
    axes.axhline(y, color="#5dd0ff", lw=0.6)


def _draw_slices(
    axes: Axes, planes: Sequence[NDArray[Any]], space: NeuroSpace, look: Look, *, signed: bool
) -> None:
    """Draw three slices with one window, and what its colours mean."""
    voxel = middle_voxel(look, space)
    low, high = _window(planes, look, signed=signed)
    colors = look.colors if look.colors is not None else _cold_hot() if signed else "gray"
    drawn = None
    for world, name in enumerate(_VIEWS):
        drawn = _draw_slice(
            axes[name], planes[world], space, world, vmin=low, vmax=high, cmap=colors
        )
        _draw_cross(axes[name], space, world, voxel)
        place = space.voxel_to_world(voxel)[world]
        axes[name].set_title(f"{'xyz'[world]} = {place:.0f} mm", fontsize=9)
    figure = axes[_VIEWS[0]].figure
    figure.colorbar(drawn, ax=[axes[name] for name in _VIEWS], shrink=0.7, pad=0.01)


def _cold_hot() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    maps: Any = LinearSegmentedColormap
    return maps.from_list("cold_hot", _COLD_HOT)


def _planes(image: Any, voxel: Sequence[int], volume: int | None) -> list[NDArray[Any]]:
    """Slices through a voxel, at right angles to left-right, back-front and down-up."""
    planes = []
    for axis, _ in display_axes(image.space.affine):
        index: list[Any] = [slice(None)] * 3 + ([] if volume is None else [volume])
        index[axis] = voxel[axis]
        planes.append(_real(image.read(tuple(index))))
    return planes


# Images -----------------------------------------------------------------------------------------


def plot_image(
    image: Any,
    kind: str | None,
    *,
    volume: int,
    look: Look,
    runs: Sequence[tuple[str, int, Any]] | None = None,
    names: Sequence[str] | None = None,
) -> Axes:
    """Draw slices, the series of a voxel, or a carpet plot of an image.

    Parameters
    ----------
    image : GridView
        What is drawn.
    kind : {"slices", "series", "carpet"}, optional
        Slices with the series of the voxel by default.
    volume : int
        Of which slices are drawn.
    look : Look
        How.
    runs : sequence of tuple, optional
        Name, length and times of the runs, if there are several.
    names : sequence of str, optional
        Of the volumes, if they follow each other in no time.

    Returns
    -------
    dict of str to matplotlib.axes.Axes
    """
    timed = image.ndim == 4
    kinds = ("slices", "series", "carpet") if timed and names is None else ("slices", "series")
    _known("slices" if kind is None else kind, kinds if timed else kinds[:1], image)
    space, voxel = image.space, middle_voxel(look, image.space)
    widths = _slice_sizes(space)
    if kind == "carpet":
        axes = _mosaic(look, [["carpet"]], (8, 3.5))
        _draw_carpet(axes["carpet"], image.sample_series(), space.times, image.shape[3], runs)
        axes["carpet"].set_ylabel("voxels")
        return axes
    wanted = kind or ("both" if timed and names is None else "slices")
    rows = {
        "slices": [list(_VIEWS)],
        "series": [["series"] * 3],
        "both": [list(_VIEWS), ["series"] * 3],
    }[wanted]
    options = {} if wanted == "series" else {"width_ratios": widths}
    axes = _mosaic(look, rows, (9, 3 * len(rows) if wanted != "series" else 3), **options)
    if wanted != "series":
        planes = _planes(image, voxel, volume if timed else None)
        signed = names is not None and any((plane < 0).any() for plane in planes)
        _draw_slices(axes, planes, space, look, signed=signed)
        if names is not None:
            axes[_VIEWS[0]].figure.suptitle(shown(names[volume], 80), fontsize=10)
    if wanted != "slices":
        values = _real(image.read((*voxel, slice(None))))
        _draw_series(axes["series"], {f"voxel {voxel}": values}, space.times, runs)
        if names is not None and len(names) <= _MOST_NAMES:
            axes["series"].set_xticks(range(len(names)), [shown(n, 30) for n in names], rotation=30)
            axes["series"].set_xlabel("")
            axes["series"].margins(x=0.05)
            axes["series"].lines[0].set(linestyle="none", marker="o")  # maps have no order
        if wanted == "both":
            at = volume if space.times is None else space.times[volume]
            axes["series"].axvline(at, color="0.5", lw=0.8)
    return axes


def _draw_series(
    axes: Any,
    lines: Mapping[str, NDArray[Any]],
    times: NDArray[Any] | None,
    runs: Sequence[tuple[str, int, Any]] | None = None,
) -> None:
    if 10 < len(lines) <= 20:  # more than the colours of a cycle of matplotlib
        axes.set_prop_cycle(color=[f"C{n % 10}" for n in range(20)], ls=["-"] * 10 + ["--"] * 10)
    for name, values in lines.items():
        axes.plot(
            np.arange(len(values)) if times is None else times, values, lw=1, label=shown(name)
        )
    axes.set_xlabel("volume" if times is None else "time (s)")
    axes.margins(x=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(lines) == 1:
        axes.set_title(shown(next(iter(lines))), fontsize=9, loc="right")
    elif len(lines) <= _MOST_NAMES // 2:
        axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _draw_runs(axes, times, runs)


def _draw_runs(
    axes: Any, times: NDArray[Any] | None, runs: Sequence[tuple[str, int, Any]] | None
) -> None:
    start = 0
    for number, (_, length, _) in enumerate(runs or ()):
        if number:
            axes.axvline(start if times is None else times[start], color="0.4", lw=0.8, ls="--")
        start += length


def _draw_carpet(
    axes: Any,
    values: NDArray[Any],
    times: NDArray[Any] | None,
    length: int,
    runs: Sequence[tuple[str, int, Any]] | None = None,
) -> None:
    """Draw rows as z-scores, gray."""
    found = np.nan_to_num(np.asarray(values, "f8"))
    found -= found.mean(axis=1, keepdims=True)
    spread = found.std(axis=1, keepdims=True)
    found /= np.where(spread > 0, spread, 1)
    last = length if times is None else times[0] + length * (times[-1] - times[0]) / (length - 1)
    extent = (0 if times is None else times[0], last, len(found), 0)
    axes.imshow(
        found, cmap="gray", vmin=-2, vmax=2, aspect="auto", extent=extent, interpolation="nearest"
    )
    axes.set_yticks([])
    axes.set_xlabel("volume" if times is None else "time (s)")
    _draw_runs(axes, times, runs)


# Components -------------------------------------------------------------------------------------


def plot_components(
    space: NeuroSpace,
    maps: Mapping[int, Sequence[NDArray[Any]]],
    courses: Mapping[int, NDArray[Any]],
    look: Look,
) -> Axes:
    """Draw components of a latent representation: slices of the loadings, and time courses.

    Parameters
    ----------
    space : NeuroSpace
        The grid, and the times of the courses.
    maps : mapping
        Sagittal, coronal and axial slice of the loadings, by index of the component.
    courses : mapping
        Time courses, (T,), by index of the component.
    look : Look
        How.

    Returns
    -------
    dict of str to matplotlib.axes.Axes
        ``"component 0"`` is a course, ``"component 0 axial"`` a slice.
    """
    rows = [[*(f"component {k} {view}" for view in _VIEWS), f"component {k}"] for k in maps]
    widths = _slice_sizes(space)
    axes = _mosaic(look, rows, (10, 1.7 * len(rows)), width_ratios=[*widths, sum(widths)])
    for k, planes in maps.items():
        low, high = _window(planes, look, signed=True)
        colors = _cold_hot() if look.colors is None else look.colors
        for world, view in enumerate(_VIEWS):
            style = {"vmin": low, "vmax": high, "cmap": colors}
            _draw_slice(axes[f"component {k} {view}"], planes[world], space, world, **style)
        _draw_series(axes[f"component {k}"], {f"component {k}": courses[k]}, space.times)
    return axes


# Parcels ----------------------------------------------------------------------------------------


def plot_parcels(parcellation: Any, values: NDArray[Any] | None, look: Look) -> Axes:
    """Draw parcels on the grid, or one value for each of them.

    Parameters
    ----------
    parcellation : Parcellation
        What is drawn.
    values : ndarray, (K,), optional
        A colour for each parcel by default.
    look : Look
        How; slices go through the middle of the parcels by default.

    Returns
    -------
    dict of str to matplotlib.axes.Axes
    """
    space = parcellation.space
    if look.voxel is None and len(parcellation.voxels):
        middle = np.median(parcellation.voxels, axis=0).astype(int).tolist()
        look = look._replace(voxel=middle)
    voxel = middle_voxel(look, space)
    axes = _mosaic(look, [list(_VIEWS)], (9, 3.2), width_ratios=_slice_sizes(space))
    grid = parcellation.labels
    if values is not None:
        grid = np.asarray(parcellation.to_volume(np.asarray(values, "f8"), fill=np.nan))
    planes = [np.take(grid, voxel[a], axis=a) for a, _ in display_axes(space.affine)]
    if values is not None:
        signed = bool(np.nanmin(values) < 0)
        colors = look.colors or (None if signed else "viridis")
        _draw_slices(axes, planes, space, look._replace(colors=colors), signed=signed)
        return axes
    for world, view in enumerate(_VIEWS):
        _draw_slice(axes[view], label_colors(planes[world]), space, world)
    return axes


def plot_summary(
    series: NDArray[Any],
    names: Sequence[str],
    kind: str,
    *,
    times: NDArray[Any] | None,
    look: Look,
) -> Axes:
    """Draw series of parcels: as lines, as a carpet, or how they correlate.

    Parameters
    ----------
    series : ndarray, (T, K)
        One column for each parcel.
    names : sequence of str
        Of the parcels.
    kind : {"series", "carpet", "correlation"}
        What is drawn.
    times : ndarray, (T,), optional
        In seconds.
    look : Look
        How.

    Returns
    -------
    dict of str to matplotlib.axes.Axes
    """
    size = {"series": (9, 3.2), "carpet": (8, 3.5), "correlation": (6.5, 5.5)}[kind]
    axes = _mosaic(look, [[kind]], size)
    drawn = axes[kind]
    labels = [shown(name, 30) for name in names]
    if kind == "series":
        _draw_series(drawn, dict(zip(labels, series.T, strict=False)), times)
        return axes
    if kind == "carpet":
        _draw_carpet(drawn, series.T, times, len(series))
        if len(labels) <= _MOST_NAMES:
            drawn.set_yticks(np.arange(len(labels)) + 0.5, labels, fontsize=7)
        return axes
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.corrcoef(np.asarray(series, "f8"), rowvar=False)
    low, high = (-1, 1) if look.window is None else look.window
    image = drawn.imshow(np.atleast_2d(found), cmap=look.colors or "RdBu_r", vmin=low, vmax=high)
    drawn.figure.colorbar(image, ax=drawn, label="correlation")
    if len(labels) <= _MOST_NAMES:
        drawn.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
        drawn.set_yticks(range(len(labels)), labels, fontsize=7)
    return axes
