"""The affine of every format: an attribute, exact to the last bit; before 1.2 an array."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import fmristore as fs
from fmristore.formats.new_arrays import write_plain
from fmristore_stores.edit import edit_store
from fmristore_stores.errors import MetadataError
from fmristore_stores.opening import open_store
from tests.every_format import AFFINE, MASK, RUN, WRITERS, write
from tests.old_affine import with_affine_array

KINDS = ("h5", "zarr")
HARD = np.array(
    [
        [0.1 + 0.2, -0.0, 5e-324, math.pi],
        [-0.0, 1 / 3, 2.2250738585072011e-308, -1e300],
        [1e-17, -0.0, 2.0**0.5, 123456789.123456789],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""Numbers that need every digit, a zero with a sign, and some below the normal ones."""


@pytest.fixture(params=KINDS, name="kind")
def _kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


def set_affine(url: Path, value: Any) -> None:
    """Put anything into the attribute, past all checks of the package."""
    if url.suffix == ".h5":
        with h5py.File(url, "r+") as file:
            del file.attrs["affine"]
            if isinstance(value, list) and np.asarray(value).dtype.kind in "bif":
                file.attrs["affine"] = np.asarray(value)
            elif value is not None:
                names = [*file.attrs.get("_json", [])]
                file.attrs["affine"] = json.dumps(value)
                file.attrs["_json"] = [*names, b"affine"]
        return
    path = url / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["affine"] = value
    if value is None:
        del document["attributes"]["affine"]
    path.write_text(json.dumps(document))


def add_array(url: Path, values: Any) -> None:
    with edit_store(url) as store:
        write_plain(store.root, "affine", ("affine_row", "affine_column"), np.asarray(values))


@pytest.mark.parametrize("name", WRITERS)
def test_it_is_an_attribute_and_no_array(tmp_path: Path, name: str, kind: str) -> None:
    url = write(name, tmp_path / f"a.{kind}")
    with open_store(url) as store:
        assert store.root.read_attributes()["affine"] == AFFINE.ravel().tolist()
        assert store.root.read_attributes()["fmristore_format_version"] == "1.2"
        assert not store.root.has("affine")
        assert "affine" not in store.root.children()


def test_every_bit_is_kept(tmp_path: Path, kind: str) -> None:
    url, other = tmp_path / f"a.{kind}", tmp_path / ("b.zarr" if kind == "h5" else "b.h5")
    fs.NeuroVec.create(RUN, url, space=HARD).close()
    plain = HARD + 0.0  # a grid has no zeros with a sign
    with open_store(url) as store:
        assert np.array(store.root.read_attributes()["affine"]).tobytes() == plain.tobytes()
    with edit_store(url) as store:
        attributes = store.root.read_attributes()
        store.root.write_attributes(attributes | {"affine": HARD.ravel().tolist()})
    fs.transcode(url, other)
    for place in (url, other):
        with open_store(place) as store:
            assert np.array(store.root.read_attributes()["affine"]).tobytes() == HARD.tobytes()
        with fs.open(place) as run:
            assert run.affine.dtype == np.float64
            assert run.affine.tobytes() == plain.tobytes()
    if kind == "h5":
        with h5py.File(url) as file:
            assert file.attrs["affine"].dtype == np.float64
            assert file.attrs["affine"].tobytes() == HARD.tobytes()


@pytest.mark.parametrize("name", WRITERS)
def test_an_array_is_read_where_there_is_no_attribute(tmp_path: Path, name: str, kind: str) -> None:
    url = write(name, tmp_path / f"a.{kind}")
    moved = np.array([[0, 2, 0, -7], [2, 0, 0, 1.5], [0, 0, 3, 0], [0, 0, 0, 1]])
    with_affine_array(url, moved)
    with fs.open(url) as stored:
        np.testing.assert_array_equal(stored.affine, moved)


WRONG: dict[str, Any] = {
    "nothing": None,
    "too few": [1.0] * 12,
    "too many": [1.0] * 17,
    "nested": np.eye(4).tolist(),
    "text": "eye",
    "a number": 1.0,
    "an object": {"affine": 1},
    "zeros": [0.0] * 16,
    "another last row": [*np.eye(4).ravel()[:15].tolist(), 2.0],
    "truths": [bool(n) for n in np.eye(4).ravel()],
    "texts": ["1"] * 16,
    "mixed": [*np.eye(4).ravel()[:15].tolist(), "1"],
    "an integer of many digits": [10**400, *np.eye(4).ravel()[1:].tolist()],
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("name", ["neurovec", "neurovecseq", "parcellatedscan", "latentneurovec"])
def test_what_is_no_affine_is_refused(tmp_path: Path, name: str, kind: str, case: str) -> None:
    url = write(name, tmp_path / f"a.{kind}")
    set_affine(url, WRONG[case])
    with pytest.raises(MetadataError) as caught, fs.open(url) as stored:
        stored.affine  # noqa: B018
    assert url.name in str(caught.value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(tmp_path: Path, kind: str, number: float) -> None:
    url = write("neurovec", tmp_path / f"a.{kind}")
    set_affine(url, [number, *AFFINE.ravel()[1:].tolist()])
    with pytest.raises(MetadataError), fs.open(url):
        pass


def test_integers_are_numbers(tmp_path: Path, kind: str) -> None:
    """JavaScript writes 1.0 as 1."""
    url = write("neurovec", tmp_path / f"a.{kind}")
    set_affine(url, [int(n) for n in AFFINE.ravel()])
    with fs.open(url) as run:
        np.testing.assert_array_equal(run.affine, AFFINE)
        assert run.affine.dtype == np.float64


@pytest.mark.parametrize("name", WRITERS)
def test_two_that_differ_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    url = write(name, tmp_path / f"a.{kind}")
    add_array(url, AFFINE)
    with fs.open(url) as stored:  # the same twice is no contradiction
        np.testing.assert_array_equal(stored.affine, AFFINE)
    with open_store(url, "r+") as store:
        store.root.remove("affine")
    add_array(url, AFFINE + np.eye(4, k=3) * 1e-9)
    with pytest.raises(MetadataError, match="two affines") as caught, fs.open(url) as stored:
        stored.affine  # noqa: B018
    assert url.name in str(caught.value)


@pytest.mark.parametrize("values", [np.eye(3), np.full((4, 4), np.nan), AFFINE.astype("c16")])
def test_an_array_beside_the_attribute_that_is_none(tmp_path: Path, kind: str, values: Any) -> None:
    url = write("neurovec", tmp_path / f"a.{kind}")
    add_array(url, values)
    with pytest.raises(MetadataError), fs.open(url):
        pass


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("other", KINDS)
def test_stores_of_before_are_copied_as_they_are(
    tmp_path: Path, name: str, kind: str, other: str
) -> None:
    url, copy = write(name, tmp_path / f"a.{kind}"), tmp_path / f"b.{other}"
    with_affine_array(url)
    fs.transcode(url, copy)
    with open_store(copy) as store:
        assert store.root.array("affine").read().tobytes() == AFFINE.tobytes()
        assert "affine" not in store.root.read_attributes()
    for place in (url, copy):
        assert fs.verify(place, deep=True)
    with fs.open(copy) as stored:
        np.testing.assert_array_equal(stored.affine, AFFINE)
        again = stored.save(tmp_path / f"c.{kind}")
    with again, open_store(tmp_path / f"c.{kind}") as store:
        assert not store.root.has("affine")
        np.testing.assert_array_equal(again.affine, AFFINE)


# Changing stores of before -----------------------------------------------------------------------


def is_of_before(url: Path) -> bool:
    with open_store(url) as store:
        attributes = store.root.read_attributes()
        return store.root.has("affine") and "affine" not in attributes


def test_a_run_is_added_to_a_sequence_of_before(tmp_path: Path, kind: str) -> None:
    url = write("neurovecseq", tmp_path / f"a.{kind}")
    with_affine_array(url)
    with fs.open(url) as sequence:
        sequence.add_run("more", RUN[..., :3])
    with fs.open(url) as sequence:
        assert list(sequence.runs) == ["rest", "task", "more"]
        np.testing.assert_array_equal(sequence.run("more").to_numpy(), RUN[..., :3])
        np.testing.assert_array_equal(sequence.run("more").affine, AFFINE)
    assert is_of_before(url)
    assert fs.verify(url, deep=True)


def test_maps_are_added_to_those_of_before(tmp_path: Path, kind: str) -> None:
    url = write("labeledvolumeset", tmp_path / f"a.{kind}")
    with_affine_array(url)
    with fs.open(url) as maps:
        maps.add("new", RUN[..., 2] / 4)
    with fs.open(url) as maps:
        np.testing.assert_array_equal(maps["new"][MASK], RUN[MASK, 2] / 4)
        np.testing.assert_array_equal(maps.affine, AFFINE)
    assert is_of_before(url)
    assert fs.verify(url, deep=True)


def test_a_scan_is_added_to_those_of_before(tmp_path: Path, kind: str) -> None:
    url = write("parcellatedmultiscan", tmp_path / f"a.{kind}")
    with_affine_array(url)
    with fs.open(url) as scans:
        scans.add_scan("more", RUN[..., :4], statistic="mean", tr=1.0)
    with fs.open(url) as scans:
        assert list(scans.scan_names) == ["rest", "task", "more"]
        np.testing.assert_array_equal(scans.affine, AFFINE)
    assert is_of_before(url)
    assert fs.verify(url, deep=True)


def test_a_run_of_before_grows(tmp_path: Path) -> None:
    url = tmp_path / "a.zarr"
    fs.append(RUN[..., :2], url, space=AFFINE, tr=1.5)
    with_affine_array(url)
    assert fs.append(RUN[..., 2:5], url) == 5
    with fs.open(url) as run:
        np.testing.assert_array_equal(run.to_numpy(), RUN[..., :5])
        final = run.finish(tmp_path / "b.zarr")
    with final:
        np.testing.assert_array_equal(final.affine, AFFINE)
        assert not is_of_before(tmp_path / "b.zarr")


def test_a_growing_run_that_moved_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmristore.formats.image import growing

    url = tmp_path / "a.zarr"
    fs.append(RUN[..., :2], url, space=AFFINE, tr=1.5)
    opened = growing._open_growing

    def moving(*args: Any) -> Any:
        found = opened(*args)
        found.space  # noqa: B018
        set_affine(url, (AFFINE + np.eye(4, k=3)).ravel().tolist())
        return found

    monkeypatch.setattr(growing, "_open_growing", moving)
    with pytest.raises(fs.errors.ChangedError):
        fs.append(RUN[..., 2], url)
