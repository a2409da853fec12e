"""What the page shows of each format, and the page as one file."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import fmristore as fs
from fmristore.cli import app
from fmristore.viewer.content import Content, standardised
from fmristore.viewer.document import make_document
from fmristore.viewer.layers import find_part, layer_names, open_layer
from fmristore_stores.errors import AlreadyExistsError, SelectionError
from tests.every_format import BASES, LABELS, LOADINGS, MASK, R_WRITERS, RUN, SHAPE, SPACE, WRITERS

NAMES = {
    "labeledvolumeset": ["LabeledVolumeSet"],
    "latentneurovec": ["all scans", "components", "scan one", "scan two"],
    "neurovecseq": ["all runs", "run rest", "run task"],
    "parcellatedmultiscan": ["rest", "task"],
    "parcellatedscan": ["rest"],
    "parcellatedscansummary": ["rest"],
}
WRITE: dict[str, Callable[[Any], Any]] = {**WRITERS, **R_WRITERS}


@pytest.mark.parametrize("name", WRITE)
def test_every_layer_has_slices_and_series(name: str, tmp_path: Path) -> None:
    with WRITE[name](tmp_path / "a.h5") as stored:
        content = Content(stored)
        about = content.answer("about", {}).value
        json.dumps(about, allow_nan=False)
        assert about["class"] == type(stored).__name__
        if name in NAMES:
            assert about["layers"] == NAMES[name]
        for number in range(len(about["layers"])):
            facts = content.answer("layer", {"layer": number}).value
            json.dumps(facts, allow_nan=False)
            assert facts["shape"] == list(SHAPE[:3])
            last = facts["length"] - 1
            found = [
                content.answer("plane", {"layer": number, "axis": a, "index": 2, "step": last})
                for a in range(3)
            ]
            voxel = {"layer": number, "x": 2, "y": 2, "z": 2}
            series = content.answer("series", voxel).value
            assert series.shape == (facts["length"],)
            for axis, answer in enumerate(found):
                assert answer.cost is not None
                assert answer.value.shape == tuple(np.delete(SHAPE[:3], axis))
                np.testing.assert_array_equal(
                    answer.value[2, 2], np.float32(series[last]), err_msg=f"{name} {number} {axis}"
                )
            content.answer("costs", {**voxel, "step": last})
            if facts["carpet"]:
                assert content.answer("carpet", {"layer": number}).value.shape[1] <= facts["length"]


def test_parcels_of_voxels_and_of_summaries(tmp_path: Path) -> None:
    with (
        WRITERS["parcellatedscan"](tmp_path / "a.h5") as scan,
        WRITERS["parcellatedscansummary"](tmp_path / "b.h5") as summary,
    ):
        for stored in (scan, summary):
            layer = open_layer(stored, 0)
            for axis in range(3):
                expected = np.take(LABELS, 1, axis=axis)
                assert np.array_equal(layer.labels(axis, 1), expected)
            found = layer.parcel_series(1)
            np.testing.assert_allclose(found, RUN[LABELS == 2].mean(axis=0), rtol=1e-6)
            facts = layer.describe()["parcels"]
            assert facts["names"] == ["Left V1", "Right V1", "Insula"]
            assert all(LABELS[tuple(place)] == k for k, place in enumerate(facts["places"], 1))


def test_labels_that_have_gaps_between_them(tmp_path: Path) -> None:
    labels = np.where(LABELS == 2, 70, LABELS)
    with fs.parcellate(RUN, labels, tmp_path / "a.h5", space=SPACE) as summary:
        found = open_layer(summary, 0).labels(2, 0)
    assert np.array_equal(found, np.array([0, 1, 3, 2])[LABELS[..., 0]])


def test_components(tmp_path: Path) -> None:
    with WRITERS["latentneurovec"](tmp_path / "a.h5") as latent:
        layer = open_layer(latent, 1)
        grid = np.zeros(SHAPE[:3])
        grid[MASK] = LOADINGS[:, 2]
        voxels = latent.voxel_set.voxels
        grid[tuple(voxels.T)] = np.asarray(latent.loadings)[:, 2]
        np.testing.assert_allclose(layer.plane(0, 3, 2), grid[3], rtol=1e-6)
        np.testing.assert_allclose(layer.course(2), np.vstack(list(BASES.values()))[:, 2])


def test_parts_by_name(tmp_path: Path) -> None:
    wanted = {"neurovecseq": "task", "latentneurovec": "two", "parcellatedmultiscan": "task"}
    for name, part in wanted.items():
        with WRITERS[name](tmp_path / f"{name}.h5") as stored:
            assert layer_names(stored)[find_part(stored, part).layer].endswith(part)
            with pytest.raises(SelectionError):
                find_part(stored, "absent")
    with WRITERS["labeledvolumeset"](tmp_path / "maps.h5") as maps:
        assert find_part(maps, "rest/..") == (0, 1)


def test_layers_that_are_not_there(tmp_path: Path) -> None:
    with WRITERS["neurovol"](tmp_path / "a.h5") as volume, pytest.raises(SelectionError):
        open_layer(volume, 1)


def test_standardised_rows() -> None:
    found = standardised(np.array([[1.0, 2, 3], [5, 5, 5], [np.nan, 0, 0]]))
    assert found.tolist() == [[-52, 0, 52], [0, 0, 0], [0, 0, 0]]


# One file -------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Data, scripts and elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.data = ""
        self.kinds: list[str] = []
        self.tags: list[str] = []
        self.policy = ""
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "script":
            self.kinds.append(str(given.get("type")))
            assert "src" not in given
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        self._inside = given.get("id") == "data"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        self.data += data if self._inside else ""


def unpack(packed: Any) -> Any:
    dtype = np.dtype(packed["type"]).newbyteorder("<")
    parts = np.frombuffer(zlib.decompress(base64.b64decode(packed["bytes"])), "u1")
    values = np.ascontiguousarray(parts.reshape(dtype.itemsize, -1).T).view(dtype)
    return values.reshape(packed["shape"]) * packed.get("slope", 1) + packed.get("inter", 0)


@pytest.mark.parametrize("name", WRITERS)
def test_file_of_every_format(name: str, tmp_path: Path) -> None:
    with WRITERS[name](tmp_path / "a.h5") as stored:
        page = Page(make_document(stored, 1 << 20).decode())
        assert page.kinds == ["application/json", "None", "None", "None"]
        assert "link" in page.tags  # the icon, which is empty
        assert "default-src 'none'" in page.policy
        document = json.loads(page.data)
        assert document["about"]["layers"] == layer_names(stored)
        for number, facts in enumerate(document["layers"]):
            assert (facts["step"], facts["every"]) == (1, 1)
            values = unpack(facts["values"])
            series = open_layer(stored, number).series((2, 2, 2))
            if values.ndim == 4:
                np.testing.assert_allclose(values[2, 2, 2], series, rtol=1e-6)


def test_file_that_is_thinned_out(tmp_path: Path) -> None:
    with WRITERS["neurovec"](tmp_path / "a.h5") as bold:
        document = json.loads(Page(make_document(bold, 700).decode()).data)
    (facts,) = document["layers"]
    step, every = facts["step"], facts["every"]
    assert step > 1
    expected = (RUN * 0.5 + 1)[::step, ::step, ::step, ::every]
    assert 2 * expected.size <= 700
    assert np.array_equal(unpack(facts["values"]), expected)
    assert facts["shape"] == list(SHAPE[:3])


def test_one_run_of_several(tmp_path: Path) -> None:
    with WRITERS["neurovecseq"](tmp_path / "a.h5") as runs:
        start = find_part(runs, "task")
        document = json.loads(Page(make_document(runs, 1 << 20, start).decode()).data)
    assert document["about"]["layers"] == ["run task"]
    assert document["about"]["left_out"] == 2


def test_names_stay_text(tmp_path: Path) -> None:
    name = "</script><script>alert(1)</script><!--"
    maps = {name: RUN[..., 0].astype("f4")}
    with fs.LabeledVolumeSet.create(maps, tmp_path / "a.h5", mask=MASK, space=SPACE) as stored:
        text = make_document(stored, 1 << 20).decode()
    page = Page(text)
    assert len(page.kinds) == 4
    assert json.loads(page.data)["layers"][0]["names"] == [name]
    assert "alert(1)" not in re.sub(r'(?s)<script type="application/json".*?</script>', "", text)


def test_command_writes_a_file(tmp_path: Path) -> None:
    WRITERS["neurovol"](tmp_path / "a.h5").close()
    out = tmp_path / "a.html"
    run = CliRunner().invoke(app, ["view", str(tmp_path / "a.h5"), "-o", str(out), "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["target"] == str(out)
    with pytest.raises(AlreadyExistsError):
        fs.view(tmp_path / "a.h5", out)
    fs.view(tmp_path / "a.h5", out, overwrite=True)
    assert Page(out.read_text()).data


def test_command_serves_until_it_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fmristore.cli.view.wait", interrupt)
    WRITERS["neurovol"](tmp_path / "a.h5").close()
    run = CliRunner().invoke(app, ["view", str(tmp_path / "a.h5"), "--no-open"])
    assert run.exit_code == 0, run.output
    assert run.stdout.startswith("http://127.0.0.1:")


def test_values_that_are_no_number_or_too_large(tmp_path: Path) -> None:
    values = np.full((3, 3, 3, 4), 1e300)
    values[0, 0, 0] = (np.nan, np.inf, -np.inf, 1e308)
    values[1] = -1e300
    with fs.NeuroVec.create(values, tmp_path / "a.h5", space=np.eye(4)) as bold:
        content = Content(bold)
        place = {"layer": 0, "x": 0, "y": 0, "z": 0}
        assert np.array_equal(
            content.answer("series", place).value, values[0, 0, 0], equal_nan=True
        )
        assert content.answer("carpet", {"layer": 0}).value.dtype == np.int8
        assert np.isinf(
            content.answer("plane", {"layer": 0, "axis": 0, "index": 1, "step": 0}).value
        ).all()
        json.loads(Page(make_document(bold, 1 << 20).decode()).data)
        assert "<img" in bold._repr_html_()
