"""The page in a real browser: what is clicked is what is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from tests.browser import Browser, running_browser
from tests.every_format import GRID, LABELS, MASK, RUN, SPACE, WRITERS

pytestmark = pytest.mark.once

SETTLED = "(async () => { await fmristore.ready; await fmristore.page.running; })()"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as found:
        yield found


def show(browser: Browser, url: str) -> None:
    browser.open("about:blank")
    browser.problems.clear()
    browser.open(url)
    browser.run(SETTLED)


def click(browser: Browser, view: int, voxel: tuple[int, int, int]) -> None:
    """Click the middle of a voxel in one of the slices."""
    browser.run(f"document.getElementById('view-{view}').scrollIntoView()")
    box = browser.run(
        f"""(() => {{
        const canvas = document.getElementById('view-{view}').getBoundingClientRect();
        const geometry = fmristore.page.geometries[{view}];
        const [column, row] = geometry.cell({list(voxel)});
        return [canvas.left + (column + .5) * canvas.width / geometry.cells[0],
                canvas.top + (row + .5) * canvas.height / geometry.cells[1]];
        }})()"""
    )
    browser.click(*box)
    browser.run(SETTLED)


def plotted(browser: Browser) -> Any:
    """Series as the table under the plot has them."""
    browser.run("document.getElementById('values').open = true")
    browser.run("fmristore.page.showValues()")
    rows = browser.run(
        "[...document.querySelectorAll('#values-table tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return np.array(rows, float)[:, 1:]


@pytest.fixture(scope="module")
def bold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A run that goes to the left, with its axes in another order than those of the body."""
    affine = np.array([[0, -2.0, 0, 9], [0, 0, 3.0, -5], [2.5, 0, 0, 1], [0, 0, 0, 1]])
    space = fs.NeuroSpace(spatial_shape=RUN.shape[:3], affine=affine, time_points=20, tr=1.5)
    url = tmp_path_factory.mktemp("page") / "bold.h5"
    with fs.NeuroVec.create(RUN, url, space=space, slope=0.5, inter=1.0) as found:
        yield found


@pytest.mark.parametrize("embedded", [False, True])
def test_clicked_voxel_is_plotted(
    browser: Browser, bold: Any, embedded: bool, tmp_path: Path
) -> None:
    browser.show_as(1200, 900)
    if embedded:
        fs.view(bold, tmp_path / "page.html")
        show(browser, (tmp_path / "page.html").as_uri())
        clicks(browser, bold)
    else:
        with fs.view(bold, open_browser=False) as viewer:
            show(browser, viewer.url)
            clicks(browser, bold)
    assert browser.problems == []


def clicks(browser: Browser, bold: Any) -> None:
    state = "fmristore.page.state.voxel"
    for view, axis, voxel in ((2, 0, (3, 4, 1)), (0, 1, (5, 2, 3)), (1, 2, (0, 4, 2))):
        kept = browser.run(state)[axis]
        click(browser, view, voxel)
        found = browser.run(state)
        assert found[axis] == kept
        assert [n for a, n in enumerate(found) if a != axis] == [
            n for a, n in enumerate(voxel) if a != axis
        ]
        assert np.array_equal(plotted(browser)[:, 0], bold[tuple(found)])


def test_left_is_on_the_left(browser: Browser, bold: Any) -> None:
    with fs.view(bold, open_browser=False) as viewer:
        show(browser, viewer.url)
        cells = browser.run(
            "[0, 1, 2].map(view => { const g = fmristore.page.geometries[view];"
            " return [g.cell([0, 0, 0]), g.cell([1, 1, 1]), g.cells]; })"
        )
    # y of the grid runs to the left, z to the front, x to the top.
    (x, y, z) = RUN.shape[:3]
    assert cells == [
        [[0, x - 1], [1, x - 2], [z, x]],
        [[y - 1, x - 1], [y - 2, x - 2], [y, x]],
        [[y - 1, z - 1], [y - 2, z - 2], [y, z]],
    ]


def test_keys_move_and_what_is_drawn_follows(browser: Browser, bold: Any) -> None:
    with fs.view(bold, open_browser=False) as viewer:
        show(browser, f"{viewer.url}#layer=0&x=2&y=2&z=2&step=3")
        browser.run("document.getElementById('view-2').focus()")
        for key in ("ArrowRight", "ArrowUp", "PageUp", "."):
            browser.press(key)
            browser.run(SETTLED)
        assert browser.run("fmristore.page.state.voxel") == [3, 1, 3]
        assert browser.run("fmristore.page.state.step") == 4
        assert browser.run("fmristore.page.value()") == bold[3, 1, 3, 4]
        drawn = browser.run(
            """(() => {
            const canvas = document.getElementById('view-0');
            const [r, g, b] = canvas.getContext('2d').getImageData(
                canvas.width / 20, canvas.height / 20, 1, 1).data;
            return [r, g, b, fmristore.page.state.low, fmristore.page.state.high];
            })()"""
        )
    # The upper left of a sagittal slice is at the back and the top: the end of x, the start of z.
    red, green, blue, low, high = drawn
    value = bold[5, 1, 0, 4]
    assert red == green == blue
    assert abs(red - 255 * np.clip((value - low) / (high - low), 0, 1)) < 2


def test_parcels_are_chosen_by_name(browser: Browser, tmp_path: Path) -> None:
    names = {1: "<img src=x onerror=document.title=1>", 2: "<script>alert(1)</script>", 3: "c"}
    with fs.ParcellatedScan.create(
        RUN, tmp_path / "a.h5", parcellation=LABELS, names=names, space=SPACE
    ) as scan:
        with fs.view(scan, open_browser=False) as viewer:
            show(browser, viewer.url)
            browser.run(
                "(() => { const list = document.getElementById('parcels');"
                " list.value = 1; list.dispatchEvent(new Event('change')); })()"
            )
            browser.run(SETTLED)
            texts = browser.run(
                "[...document.querySelectorAll('#parcels option')].map(o => o.textContent)"
            )
            voxel = tuple(browser.run("fmristore.page.state.voxel"))
            series = plotted(browser)
            assert browser.run("document.images.length") == 0
            assert browser.run("document.scripts.length") == 3
        assert texts == [f"{k} {name}" for k, name in names.items()]
        assert LABELS[voxel] == 2
        assert np.array_equal(series[:, 0], scan[voxel])
        np.testing.assert_allclose(series[:, 1], scan.parcel(2).mean(axis=1))
    assert browser.problems == []


def test_maps_are_listed(browser: Browser, tmp_path: Path) -> None:
    label = "<b onclick=alert(1)>Faces > Houses"
    maps = {"rest": RUN[..., 0] / 4, label: RUN[..., 1] / 4 - 90}
    with (
        fs.LabeledVolumeSet.create(maps, tmp_path / "a.h5", mask=MASK, space=GRID) as stored,
        fs.view(stored, part=label, open_browser=False) as viewer,
    ):
        show(browser, viewer.url)
        assert browser.run("document.getElementById('names').selectedOptions[0].text") == label
        assert label in browser.run("document.getElementById('place').textContent")
        voxel = tuple(browser.run("fmristore.page.state.voxel"))
        assert np.array_equal(plotted(browser)[:, 0], stored[voxel])


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_format_on_a_small_screen(browser: Browser, name: str, tmp_path: Path) -> None:
    browser.show_as(360, 640, dark=True)
    with (
        WRITERS[name](tmp_path / "a.h5") as stored,
        fs.view(stored, open_browser=False) as viewer,
    ):
        show(browser, viewer.url)
        for number in range(browser.run("fmristore.page.about.layers.length")):
            browser.run(f"fmristore.page.openLayer({number})")
            browser.run(SETTLED)
            assert browser.run("document.getElementById('problem').textContent") == ""
            assert browser.run("fmristore.page.shown.planes.length") == 3
            if browser.run("fmristore.page.facts.carpet"):
                browser.run("fmristore.page.showCarpet()")
                text = browser.run("document.getElementById('carpet-text').textContent")
                assert "z-scores" in text
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.problems == []


def test_formats_that_cannot_be_drawn(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmristore.viewer.content.layer_names", lambda _: [])
    with (
        WRITERS["neurovol"](tmp_path / "a.h5") as stored,
        fs.view(stored, open_browser=False) as viewer,
    ):
        show(browser, viewer.url)
        assert "no way to draw" in browser.run("document.getElementById('note').textContent")
        assert "NeuroVol" in browser.run("document.getElementById('summary').textContent")
        assert "6 x 5 x 4" in browser.run("document.getElementById('facts').textContent")
    assert browser.problems == []


def test_errors_are_shown(browser: Browser, tmp_path: Path) -> None:
    with (
        WRITERS["neurovec"](tmp_path / "a.h5") as stored,
        fs.view(stored, open_browser=False) as viewer,
    ):
        show(browser, viewer.url)
        viewer._stored.close()
        browser.run("fmristore.page.change({ voxel: [1, 1, 1] })")
        browser.run(SETTLED)
        assert "closed" in browser.run("document.getElementById('problem').textContent")


def test_large_slices_of_a_remote_store_are_asked_for(
    browser: Browser, tmp_path: Path, s3: Any
) -> None:
    url = s3.url("bold.zarr")
    with WRITERS["neurovec"](tmp_path / "a.h5") as bold:
        bold.save(url, storage_options=s3.options).close()
    browser.show_as(1200, 900)
    with fs.view(url, open_browser=False, storage_options=s3.options) as viewer:
        show(browser, viewer.url)
        hidden = "document.getElementById('large').hidden"
        read = (
            "performance.getEntriesByType('resource').filter(({ name }) => "
            "name.includes('/plane?')).length"
        )
        assert browser.run("fmristore.page.asksAbove") == 32 * 2**20
        assert browser.run(hidden)
        assert browser.run("fmristore.page.shown.planes.length") == 3

        browser.run(
            "(() => { const { page } = fmristore; page.asksAbove = 1; page.allowed.clear(); })()"
        )
        before = browser.run(read)
        browser.run("fmristore.page.openLayer(0)")
        browser.run(SETTLED)
        assert not browser.run(hidden)
        text = browser.run("document.getElementById('large-text').textContent")
        assert text.startswith("In this layout the first three slices take ")
        assert text.endswith("B from the server.")
        assert browser.run(read) == before

        place = "document.getElementById('read-large').getBoundingClientRect()"
        left, top = browser.run(f"(({{ x, y }}) => [x + 5, y + 5])({place})")
        browser.click(left, top)
        browser.run(SETTLED)
        assert browser.run(hidden)
        assert browser.run(read) == before + 3
        assert browser.run("fmristore.page.shown.planes.length") == 3
    assert browser.problems == []
