"""Small pictures for notebooks and terminals: chunks as bars, slices as PNG, facts as tables.

Text is escaped here, all of it: what is returned as HTML can be shown as it is.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmristore.planning.indexing import AxisPart
from fmristore_stores.shown import shown

__all__ = [
    "AxisChunks",
    "axis_chunks",
    "chunk_svg",
    "chunk_text",
    "fact_text",
    "facts_html",
    "gray_levels",
    "image_html",
    "label_colors",
    "png",
    "report_html",
]

_MOST_CELLS = 60
"""Chunks of one axis that are drawn one by one."""
_BAR = 240
_ROW = 18
_COLORS = np.array(
    [
        (31, 119, 180),
        (255, 127, 14),
        (44, 160, 44),
        (214, 39, 40),
        (148, 103, 189),
        (140, 86, 75),
        (227, 119, 194),
        (188, 189, 34),
        (23, 190, 207),
    ],
    np.uint8,
)


class AxisChunks(NamedTuple):
    """Chunks of an axis, and those of them that are touched."""

    name: str
    length: int
    chunk: int
    touched: tuple[bool, ...]
    """One for each chunk; empty where nothing is read."""


def axis_chunks(
    names: Sequence[str],
    lengths: Sequence[int],
    chunks: Sequence[int],
    region: Sequence[AxisPart] | None = None,
) -> tuple[AxisChunks, ...]:
    """Chunks along each axis of an array, and those of them that a region touches.

    Parameters
    ----------
    names, lengths, chunks : sequence
        Of the axes.
    region : sequence of slice or ndarray, optional
        One part for each axis, without negative positions.

    Returns
    -------
    tuple of AxisChunks
        A chunk of the array is touched if it is along every axis.
    """
    found = []
    for a, (name, length, chunk) in enumerate(zip(names, lengths, chunks, strict=True)):
        touched: tuple[bool, ...] = ()
        if region is not None:
            part = region[a]
            places = np.arange(length)[part] if isinstance(part, slice) else np.asarray(part)
            inside = np.zeros(-(-length // chunk), bool)
            inside[places // chunk] = True
            touched = tuple(inside.tolist())
        found.append(AxisChunks(str(name), int(length), int(chunk), touched))
    return tuple(found)


def _count_text(axis: AxisChunks) -> str:
    count = -(-axis.length // axis.chunk)
    touched = f"{sum(axis.touched)} of " if axis.touched else ""
    return f"{touched}{count} x {axis.chunk}"


def _cells(axis: AxisChunks) -> list[tuple[int, int, bool]]:
    """Start, end and whether it is touched of what is drawn as one cell, in chunks."""
    count = -(-axis.length // axis.chunk)
    step = -(-count // _MOST_CELLS)
    return [
        (k, min(k + step, count), any(axis.touched[k : k + step])) for k in range(0, count, step)
    ]


def chunk_text(axes: Sequence[AxisChunks]) -> str:
    """One line for each axis: a mark for every chunk, ``#`` for those that are touched."""
    width = max(len(axis.name) for axis in axes)
    return "\n".join(
        f"  {shown(axis.name):<{width}}  "
        f"{''.join('#' if hit else '.' for _, _, hit in _cells(axis))}  {_count_text(axis)}"
        for axis in axes
    )


def chunk_svg(axes: Sequence[AxisChunks]) -> str:
    """One bar for each axis, cut where the chunks end; those that are touched are filled."""
    label = 8 * max((len(axis.name) for axis in axes), default=1) + 8
    rows = []
    for row, axis in enumerate(axes):
        y = row * _ROW
        scale = _BAR / axis.length
        rows.append(f'<text x="0" y="{y + 12}">{html.escape(shown(axis.name))}</text>')
        for start, end, hit in _cells(axis):
            left = start * axis.chunk * scale
            width = min(end * axis.chunk, axis.length) * scale - left
            fill = "#e8743b" if hit else "#9db8d6"
            rows.append(
                f'<rect x="{label + left:.1f}" y="{y + 2}" width="{width:.1f}" height="12" '
                f'fill="{fill}" stroke="#fff" stroke-width=".7"></rect>'
            )
        rows.append(f'<text x="{label + _BAR + 8}" y="{y + 12}">{_count_text(axis)}</text>')
    said = ", ".join(f"{axis.name}: {_count_text(axis)}" for axis in axes)
    return (
        f'<svg width="{label + _BAR + 130}" height="{len(axes) * _ROW}" role="img" '
        f'aria-label="chunks along {html.escape(shown(said))}" fill="currentColor" '
        f'font-size="12" font-family="sans-serif">{"".join(rows)}</svg>'
    )


def gray_levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values as gray levels, the darkest 2 % black and the brightest 1 % white."""
    found = np.asarray(values)
    if found.dtype.names:
        found = np.stack([found[name] for name in found.dtype.names[:3]]).mean(axis=0)
    found = np.abs(found) if found.dtype.kind == "c" else found.astype(np.float64)
    finite = found[np.isfinite(found)]
    if not finite.size:
        return np.zeros(found.shape, np.uint8)
    low, high = np.percentile(finite, (2, 99))
    found = np.nan_to_num(found, nan=low, posinf=high, neginf=low).clip(low, high)
    with np.errstate(over="ignore", invalid="ignore"):  # of the largest floating-point values
        share = (found - low) / (high - low if high > low else 1)
    return np.asarray(np.nan_to_num(share) * 255, np.uint8)


def label_colors(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Labels as colours (..., 3), black where there is none."""
    found = np.asarray(labels)
    return np.where(found[..., None] > 0, _COLORS[found % len(_COLORS)], 0).astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture as PNG.

    Parameters
    ----------
    pixels : ndarray of uint8, (rows, columns) or (rows, columns, 3)
        Gray levels, or red, green and blue.
    """
    rows, columns = pixels.shape[:2]
    flat = np.ascontiguousarray(pixels).reshape(rows, -1)
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), flat], axis=1)
    head = struct.pack(">IIBBBBB", columns, rows, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def image_html(pixels: NDArray[np.uint8], size: tuple[float, float], text: str) -> str:
    """A picture in HTML, its longer side 160 pixels.

    Parameters
    ----------
    pixels : ndarray
        As of `png`; thinned out where it is larger than is shown.
    size : tuple of float
        Width and height, in any unit.
    text : str
        What it shows, for those who do not see it.
    """
    step = max(1, -(-max(pixels.shape[:2]) // 320))
    data = base64.b64encode(png(pixels[::step, ::step])).decode()
    width, height = (round(160 * side / max(size)) for side in size)
    return (
        f'<img src="data:image/png;base64,{data}" width="{max(1, width)}" '
        f'height="{max(1, height)}" alt="{html.escape(shown(text))}" '
        f"style='image-rendering:pixelated'>"
    )


def fact_text(name: str, text: object) -> str:
    """Text about a fact that stands beside its name, which it need not say again."""
    return str(text).removeprefix(f"{name} ")


def facts_html(title: str, facts: Mapping[str, object], *pictures: str) -> str:
    """A title, a table of names and texts, and pictures beside it.

    Parameters
    ----------
    title : str
        Of what it is.
    facts : mapping
        Texts by name.
    *pictures : str
        HTML, as `chunk_svg` and `image_html` make it.
    """
    rows = "".join(
        f"<tr><th style='text-align:left;padding-right:1em'>{html.escape(shown(name))}</th>"
        f"<td style='text-align:left'>{html.escape(shown(fact_text(name, text)))}</td></tr>"
        for name, text in facts.items()
    )
    drawn = "".join(f"<div>{picture}</div>" for picture in pictures if picture)
    return (
        f"<div><b>{html.escape(shown(title))}</b>"
        "<div style='display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start'>"
        f"<table style='margin:0'>{rows}</table>{drawn}</div></div>"
    )


def report_html(title: str, text: str) -> str:
    """A title, and lines of text as they are."""
    lines = "\n".join(html.escape(shown(line)) for line in text.split("\n"))
    return f"<div><b>{html.escape(shown(title))}</b><pre>{lines}</pre></div>"
