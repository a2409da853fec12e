"""Indexing answers exactly as numpy does, whatever the store, layout and scaling."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fmristore as fs
from fmristore.planning.indexing import parse_index, parse_selection
from fmristore_stores.errors import SelectionError
from fmristore_stores.protocol import AnyArray
from tests.images import AFFINE, LAYOUTS, RAW, SCALED, SHAPE, STORES, make_values, store

ENTRIES = st.one_of(
    st.integers(-12, 12),
    st.slices(12),
    st.builds(slice, *[st.none() | st.integers(-15, 15)] * 2, st.integers(-4, 4)),
    st.just(Ellipsis),
    st.none(),
)
ANY_INDEX = ENTRIES | st.lists(ENTRIES, max_size=6).map(tuple)
"""Indices that basic indexing knows, most of which do not fit."""

REFUSED: dict[str, Any] = {
    "list of values": [0.0, 1.0],
    "list beyond the end": (slice(None), [0, SHAPE[1]]),
    "ragged list": [[0], [1, 2]],
    "two lists": ([0, 1], [0, 1]),
    "table": (slice(None), [[0, 1]]),
    "mask of all axes": np.ones(SHAPE, bool),
    "mask of another length": np.ones(SHAPE[0] + 1, bool),
    "True": True,
    "numpy's False": np.False_,
    "float": 1.0,
    "text": "x",
    "float in a slice": slice(0.0, 2.0),
    "text in a slice": slice("a", None),
    "list in a slice": slice(np.array([0, 1]), None),
    "step 0": slice(None, None, 0),
    "two ellipses": (Ellipsis, 0, Ellipsis),
    "too many": (0, 0, 0, 0, 0),
    "too many with new axes": (None, 0, 0, 0, 0, slice(None)),
    "beyond the end": SHAPE[0],
    "before the start": -SHAPE[0] - 1,
    "far beyond": 10**30,
    "beyond the last axis": (0, 0, 0, SHAPE[3]),
}

VALID: dict[str, Any] = {
    "one voxel": (3, 2, 1),
    "one number": (3, 2, 1, 4),
    "one number, counted from the end": (-1, -2, -3, -4),
    "numpy's integers": (np.int64(3), np.uint8(2)),
    "one volume": (Ellipsis, 4),
    "a volume backwards": (slice(None, None, -1), slice(None, None, -2), Ellipsis, -1),
    "reversed in time": (Ellipsis, slice(None, None, -3)),
    "steps": (slice(1, None, 2), slice(None, None, 3), slice(None, None, 4), slice(None, None, 5)),
    "nothing": (slice(5, 2), Ellipsis),
    "nothing of one axis": (0, slice(0, 0)),
    "no axes": (),
    "everything": Ellipsis,
    "new axes": (None, 0, None, Ellipsis, None),
    "a number with an axis": (0, 0, 0, 0, None),
    "volumes to keep": (Ellipsis, np.arange(SHAPE[3]) % 2 == 0),
    "a list of volumes": (slice(1, 3), slice(None), 2, [4, 0, -1, 4]),
    "a list of planes": (slice(None), slice(None), [3, 1]),
    "an empty list": [],
    "a list behind a slice and an integer": (2, slice(None), [3, 0, 1], slice(None)),
    "a list between slices, and an integer": (slice(None), [1, 0], slice(None), 3),
    "an integer between slices, and a list": (slice(1, 4), 2, slice(None), [3, 0]),
    "a list and new axes": (None, [2, 0], None, 1),
    "scattered voxels": ([1, -2, 1], [0, 2, 0], [3, 1, 3]),
    "scattered voxels of a volume": ([1, -2], [0, 2], [3, 1], 2),
    "a table of voxels": ([[1, 0]], [[0, 2]], [[3, 1]], slice(None, None, -2)),
    "a mask": np.arange(np.prod(SHAPE[:3])).reshape(SHAPE[:3]) % 5 == 0,
    "a mask and volumes": (
        np.arange(np.prod(SHAPE[:3])).reshape(SHAPE[:3]) % 7 == 0,
        slice(1, 3),
    ),
    "an empty mask": np.zeros(SHAPE[:3], bool),
    "bounds beyond the ends": (slice(-100, 100), slice(2, 10**30), slice(-(10**30), None)),
}


def by_numpy(values: AnyArray, index: Any) -> Any:
    """numpy's answer, or None where it raises."""
    try:
        return values[index]
    except (IndexError, ValueError, TypeError):
        return None


def check(image: Any, expected: AnyArray, index: Any) -> None:
    """Compare an image with an array at one index: values, shape, type; or the refusal."""
    wanted = by_numpy(expected, index)
    if wanted is None:
        with pytest.raises(SelectionError):
            image[index]
        return
    found = image[index]
    assert type(found) is type(wanted)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@dataclass(frozen=True)
class Stored:
    """An image with the data that it must give."""

    image: Any
    scaled: AnyArray
    raw: AnyArray


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Stored]]:
    """The same run in every store and layout, scaled and not; and colours, and a volume."""
    folder = tmp_path_factory.mktemp("images")
    values = make_values()
    with ExitStack() as stack:
        found = []
        for number, (kind, access, scales) in enumerate(
            itertools.product(STORES, LAYOUTS, (RAW, SCALED))
        ):
            url = folder / f"{number}.{kind}"
            image = stack.enter_context(store(url, values, scales=scales, access=access))
            found.append(Stored(image, scales.apply(values), values))
        yield found


class TestParsing:
    @given(st.data())
    def test_region_and_finish_give_what_numpy_gives(self, data: st.DataObject) -> None:
        shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=5, min_side=1, max_side=9))
        index = data.draw(
            hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True) | ANY_INDEX
        )
        values = np.arange(np.prod(shape)).reshape(shape)
        wanted = by_numpy(values, index)
        if wanted is None:
            with pytest.raises(SelectionError):
                parse_selection(index, shape)
            return
        selection = parse_selection(index, shape)
        for part, length in zip(selection.region, shape, strict=True):
            assert 0 <= part.start <= part.stop <= length
            assert part.step >= 1
        found = selection.apply(values[selection.region])
        assert type(found) is type(wanted)
        np.testing.assert_array_equal(found, wanted)
        assert selection.shape == np.shape(wanted)

    @given(hnp.basic_indices((20,), allow_newaxis=False))
    def test_nothing_is_read_that_is_not_wanted(self, index: Any) -> None:
        selection = parse_selection(index, (20,))
        (part,) = selection.region
        assert len(range(part.start, part.stop, part.step)) == np.arange(20)[index].size

    @pytest.mark.parametrize("index", REFUSED.values(), ids=REFUSED)
    def test_refused(self, index: Any) -> None:
        with pytest.raises(SelectionError):
            parse_selection(index, SHAPE)

    def test_a_refusal_says_where_and_what_to_do(self) -> None:
        with pytest.raises(SelectionError, match=r"lists along several axes.*one axis after.*ix_"):
            parse_selection(([0, 1], [1, 2]), SHAPE)
        with pytest.raises(SelectionError, match=r"times=.*numpy\.ix_.*one axis after"):
            parse_index(np.ix_([0, 1], [1], [0], [0, 1]), SHAPE)
        with pytest.raises(SelectionError, match=r"shape \(1, 2\).*array\.ravel"):
            parse_selection(np.array([[0, 1]]), SHAPE)
        with pytest.raises(SelectionError, match="axis 2: index 5 is out of bounds for length 5"):
            parse_selection((0, 0, 5), SHAPE)
        with pytest.raises(SelectionError, match="4 axes, 5 were indexed"):
            parse_selection((0,) * 5, SHAPE)

    def test_a_refusal_is_an_index_error_too(self) -> None:
        with pytest.raises(IndexError):
            parse_selection(100, SHAPE)

    def test_an_object_with_an_index_is_an_integer(self) -> None:
        class Two:
            def __index__(self) -> int:
                return 2

        assert operator.index(Two()) == 2
        assert parse_selection(Two(), (5,)).region == (slice(2, 3, 1),)


class TestStored:
    @pytest.mark.parametrize("index", VALID.values(), ids=VALID)
    def test_every_store_layout_and_scaling(self, images: list[Stored], index: Any) -> None:
        for stored in images:
            check(stored.image, stored.scaled, index)
            check(stored.image.raw, stored.raw, index)

    @settings(max_examples=60)
    @given(number=st.integers(0, 11), index=ANY_INDEX)
    def test_any_index(self, images: list[Stored], number: int, index: Any) -> None:
        check(images[number].image, images[number].scaled, index)
        check(images[number].image.raw, images[number].raw, index)

    @pytest.mark.parametrize("index", REFUSED.values(), ids=REFUSED)
    def test_refused(self, images: list[Stored], index: Any) -> None:
        for stored in images[::5]:
            for view in (stored.image, stored.image.raw, stored.image.plan):
                with pytest.raises(SelectionError):
                    view[index]

    def test_one_number_is_a_numpy_scalar(self, images: list[Stored]) -> None:
        for stored in images:
            number = stored.image[1, 2, 3, 4]
            assert isinstance(number, np.generic)
            assert number.dtype == stored.image.dtype
            assert isinstance(stored.image.raw[1, 2, 3, 4], np.int16)

    def test_the_result_belongs_to_the_caller(self, images: list[Stored]) -> None:
        for stored in images:
            for index in ((3, 2, 1), (Ellipsis, 4), Ellipsis):
                first = stored.image[index]
                first[...] = 0
                np.testing.assert_array_equal(stored.image[index], stored.scaled[index])

    def test_as_an_array(self, images: list[Stored]) -> None:
        for stored in images:
            np.testing.assert_array_equal(np.asarray(stored.image), stored.scaled)
            np.testing.assert_array_equal(np.asarray(stored.image.raw), stored.raw)
            assert np.asarray(stored.image, dtype="f8").dtype == np.float64
            assert np.asarray(stored.image.raw, dtype="f8").dtype == np.float64
            for view in (stored.image, stored.image.raw):
                with pytest.raises(ValueError, match="copy"):
                    np.array(view, copy=False)

    def test_types_on_demand(self, images: list[Stored]) -> None:
        for stored in images:
            found = stored.image.read((3, 2, 1), dtype="f8")
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, stored.scaled[3, 2, 1], rtol=1e-6)
            found = stored.image.read((3, 2, 1), raw=True, dtype="i8")
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, stored.raw[3, 2, 1])

    def test_facts(self, images: list[Stored]) -> None:
        for stored in images:
            image = stored.image
            assert (image.shape, image.ndim, image.size) == (SHAPE, 4, np.prod(SHAPE))
            assert (image.dtype, image.stored_dtype) == (stored.scaled.dtype, stored.raw.dtype)
            assert image.raw.shape == SHAPE
            assert image.raw.dtype == stored.raw.dtype
            assert len(image) == SHAPE[0]
            np.testing.assert_array_equal(image.affine, AFFINE)
            assert image.tr == 1.5
            np.testing.assert_allclose(image.origin, AFFINE[:3, 3])
            np.testing.assert_allclose(image.spacing, np.linalg.norm(AFFINE[:3, :3], axis=0))

    def test_iterating_is_refused(self, images: list[Stored]) -> None:
        with pytest.raises(ValueError, match="plane by plane"):
            list(images[0].image)
        with pytest.raises(ValueError, match="plane by plane"):
            operator.contains(images[0].image, 3)


@settings(max_examples=12)
@given(data=st.data())
def test_random_shapes_types_and_layouts(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=4, min_side=1, max_side=12))
    dtype = data.draw(st.sampled_from(["u1", "i1", "u2", "i4", "u8", "f4", "f8", "c8", ">i2"]))
    access, kind = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.sampled_from(STORES))
    codec = data.draw(st.sampled_from(["portable", "dual", "fast", "none"]))
    values = make_values(shape, dtype)
    folder = tmp_path_factory.mktemp("random")
    with store(folder / f"image.{kind}", values, access=access, codec=codec) as image:
        expected = values.astype(values.dtype.newbyteorder("<"))
        np.testing.assert_array_equal(np.asarray(image), expected)
        for _ in range(5):
            check(image, expected, data.draw(hnp.basic_indices(shape, allow_newaxis=True)))


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("names", ["RGB", "RGBA"])
@pytest.mark.parametrize("shape", [SHAPE[:3], SHAPE])
def test_colours(tmp_path: Path, kind: str, names: str, shape: tuple[int, ...]) -> None:
    values = make_values(shape, [(name, "u1") for name in names])
    with store(tmp_path / f"colours.{kind}", values) as image:
        assert image.dtype == image.stored_dtype == values.dtype
        for index in ((1, 2, 3), (0,), (Ellipsis, slice(None, None, -1)), Ellipsis):
            check(image, values, index)
        check(image, values, (1,) * len(shape))


def test_a_volume(tmp_path: Path) -> None:
    values = make_values(SHAPE[:3], "f4")
    for kind, access in itertools.product(STORES, LAYOUTS):
        with store(tmp_path / f"{access}.{kind}", values, access=access) as image:
            assert isinstance(image, fs.NeuroVol)
            for index in ((1, 2, 3), (0, 0), (slice(None, None, -1), 3), Ellipsis, (None, 0)):
                check(image, values, index)
            with pytest.raises(SelectionError, match="3 axes"):
                image[0, 0, 0, 0]
