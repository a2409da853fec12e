"""Small pictures: chunks as bars, slices as PNG, tables with escaped text, which way round."""

from __future__ import annotations

import io
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from fmristore.planning.anatomy import display_axes, display_plane, obliqueness
from fmristore.planning.pictures import (
    axis_chunks,
    chunk_svg,
    chunk_text,
    facts_html,
    gray_levels,
    image_html,
    label_colors,
    png,
    report_html,
)

LPS = np.diag([-2.0, -2.0, 3.0, 1.0])
TURNED = np.array([[0, -2.0, 0, 9], [0, 0, 3.0, -5], [2.5, 0, 0, 1], [0, 0, 0, 1]])


def test_axes_of_the_body() -> None:
    assert display_axes(np.eye(4)) == ((0, False), (1, False), (2, False))
    assert display_axes(LPS) == ((0, True), (1, True), (2, False))
    assert display_axes(TURNED) == ((1, True), (2, False), (0, False))
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    assert obliqueness(oblique) == pytest.approx(np.degrees(0.2))
    assert obliqueness(LPS) == 0


@pytest.mark.parametrize("affine", [np.eye(4), LPS, TURNED], ids=["RAS", "LPS", "turned"])
@pytest.mark.parametrize("world", [0, 1, 2])
def test_left_is_left_and_top_is_top(affine: np.ndarray, world: int) -> None:
    """In pictures of coordinates, those to the right grow, and those upwards."""
    grid = np.stack(np.meshgrid(*map(np.arange, (3, 4, 5)), indexing="ij"), axis=-1)
    place = grid @ affine[:3, :3].T
    through = display_axes(affine)[world].axis
    across, up = (w for w in range(3) if w != world)
    for direction, axis, sign in ((across, 1, 1), (up, 0, -1)):
        drawn = display_plane(np.take(place[..., direction], 1, axis=through), affine, world)
        assert (np.sign(np.diff(drawn, axis=axis)) == sign).all()
        assert (np.diff(drawn, axis=1 - axis) == 0).all()


def test_png_is_read_by_others() -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    colors = np.stack([gray, gray[::-1], 255 - gray], axis=-1)
    for pixels in (gray, colors):
        with Image.open(io.BytesIO(png(pixels))) as picture:
            assert np.array_equal(np.asarray(picture), pixels)


def test_gray_levels() -> None:
    assert gray_levels(np.array([[0.0, 1], [np.nan, np.inf]])).tolist() == [[0, 255], [0, 255]]
    assert gray_levels(np.full((2, 2), 7)).tolist() == [[0, 0], [0, 0]]
    colours = np.zeros((2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"][0] = 200
    assert gray_levels(colours)[0, 0] == 255
    assert not np.any(gray_levels(np.full((2, 2), np.nan)))


def test_colours_of_labels() -> None:
    found = label_colors(np.array([[0, 1, 2, 10]]))
    assert found.shape == (1, 4, 3)
    assert found[0, 0].tolist() == [0, 0, 0]
    assert (found[0, 1] != found[0, 2]).any()


def test_large_pictures_are_thinned_out() -> None:
    text = image_html(np.zeros((5000, 1000), np.uint8), (1000, 5000), "<b>")
    assert len(text) < 2000
    assert 'width="32" height="160"' in text
    assert 'alt="&lt;b&gt;"' in text


def test_chunks_that_are_touched() -> None:
    region = (slice(0, 6, 1), slice(3, 4, 1), slice(0, 9, 5), np.array([8, 0, 8]))
    axes = axis_chunks("xyzt", (6, 5, 9, 10), (4, 5, 2, 3), region)
    assert [axis.touched for axis in axes] == [
        (True, True),
        (True,),
        (True, False, True, False, False),
        (True, False, True, False),
    ]
    assert chunk_text(axes).splitlines() == [
        "  x  ##  2 of 2 x 4",
        "  y  #  1 of 1 x 5",
        "  z  #.#..  2 of 5 x 2",
        "  t  #.#.  2 of 4 x 3",
    ]


def test_bars_of_chunks() -> None:
    axes = axis_chunks(("<x>", "t"), (10, 4000), (4, 1), (slice(4, 5, 1), slice(0, 0, 1)))
    drawn = ET.fromstring(chunk_svg(axes))
    assert len(drawn.findall("rect")) == 3 + 60 - 1 + len(range(0, 4000, 67)) - 59
    assert [text.text for text in drawn.findall("text")] == [
        "<x>",
        "1 of 3 x 4",
        "t",
        "0 of 4000 x 1",
    ]
    fills = [rect.get("fill") for rect in drawn.findall("rect")]
    assert fills[1] != fills[0]
    assert len(set(fills[2:])) == 1
    assert "touched" not in chunk_svg(axis_chunks("x", (3,), (3,)))


def test_text_is_escaped() -> None:
    hostile = "<script>alert(1)</script>\x1b[0m"
    for shown in (facts_html(hostile, {hostile: hostile}), report_html(hostile, hostile)):
        assert "<script" not in shown
        assert "&lt;script&gt;" in shown
        assert "\x1b" not in shown
