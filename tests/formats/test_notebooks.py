"""What notebooks show of stored objects, plans and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fmristore as fs
from tests.every_format import LABELS, MASK, RUN, SPACE, WRITERS

HOSTILE = "<script>alert(1)</script>"


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("suffix", ["h5", "zarr"])
def test_every_format_has_its_pictures(name: str, suffix: str, tmp_path: Path) -> None:
    with WRITERS[name](tmp_path / f"a.{suffix}") as stored:
        shown = stored._repr_html_()
        assert type(stored).__name__ in shown
        assert shown.count("<img") == shown.count("<svg") == 1
        assert "on disk" in shown
        assert "codecs" in shown
    assert "url" in stored._repr_html_()  # closed: what can be said without reading


def test_little_is_read_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WRITERS["neurovec"](tmp_path / "a.h5") as bold:
        monkeypatch.setattr("fmristore.formats.grid._THUMBNAIL_BYTES", 100)
        with bold.stats.watch() as read:
            assert "<img" not in bold._repr_html_()
        assert read.chunks == 0
        monkeypatch.undo()
        with bold.stats.watch() as read:
            bold._repr_html_()
        assert read.chunks == bold.plan[:, :, 2, 0].chunks


def test_nothing_is_asked_of_a_server(tmp_path: Path, s3: Any) -> None:
    url = s3.url("bold.zarr")
    with WRITERS["neurovec"](tmp_path / "a.h5") as bold:
        bold.save(url, storage_options=s3.options).close()
    with fs.open(url, storage_options=s3.options) as bold:
        with bold.stats.watch() as read:
            shown = bold._repr_html_()
        assert read.requests == 0
        assert "<img" not in shown
        assert "<svg" in shown


def test_names_are_escaped(tmp_path: Path) -> None:
    maps = {HOSTILE: RUN[..., 0] / 4}
    with fs.LabeledVolumeSet.create(maps, tmp_path / "a.h5", mask=MASK, space=SPACE) as stored:
        texts = [stored._repr_html_()]
    parcels = fs.Parcellation.from_labels(LABELS, names={1: HOSTILE}, space=SPACE)
    texts += [parcels._repr_html_(), parcels.table._repr_html_()]
    for text in texts:
        assert "<script" not in text
        assert "&lt;script&gt;" in text


def test_plans_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = tmp_path / f"{HOSTILE[:8]}.h5"
    with WRITERS["neurovec"](url) as bold:
        plan = bold.plan[1, 2, 3]
        assert "<svg" in plan._repr_html_()
        assert "  x  #  1 of 1 x 6" in plan.explain(draw=True)
        assert "  x  #" not in plan.explain()
        assert "orientation" in bold.space._repr_html_()
    with WRITERS["maskedneurovec"](tmp_path / "b.h5") as masked:
        assert "<svg" not in masked.plan[1, 2, 3]._repr_html_()
        assert "not blocks" in masked.plan[1, 2, 3].explain(draw=True)
    shown: list[Any] = [fs.verify(url), fs.transcode(url, tmp_path / "c.zarr"), fs.virtualize(url)]
    for report in shown:
        text = report._repr_html_()
        assert type(report).__name__ in text
        assert "<script" not in text
    capsys.readouterr()


def test_plan_of_two_layouts_draws_the_one_that_is_read(tmp_path: Path) -> None:
    with fs.NeuroVec.create(RUN, tmp_path / "a.zarr", space=SPACE, access="both") as bold:
        voxel, volume = bold.plan[1, 2, 3], bold.plan[..., 3]
    assert voxel.copy != volume.copy
    assert voxel.axes[3].chunk > volume.axes[3].chunk
    assert voxel.axes[3].touched == (True,)
    assert sum(volume.axes[3].touched) == 1
