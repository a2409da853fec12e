"""NeuroSpace: geometry, units, headers in and out; nibabel is the judge."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import nibabel as untyped_nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmristore.model.space import HeaderWarning, NeuroSpace, fold_shape
from fmristore_stores.errors import InvalidInputError, LayoutNotSupportedError, MetadataError

nibabel: Any = untyped_nibabel

OBLIQUE = np.array(
    [
        [-2.999, 0.044, 0.043, 116.119],
        [0.034, 2.921, -0.75, -87.936],
        [0.048, 0.681, 3.213, -54.291],
        [0, 0, 0, 1],
    ]
)


def make(**changes: Any) -> NeuroSpace:
    fields: dict[str, Any] = {
        "spatial_shape": (80, 80, 35),
        "affine": OBLIQUE,
        "time_points": 156,
        "tr": 1.8,
    }
    return NeuroSpace(**(fields | changes))


def test_facts() -> None:
    space = make()
    assert space.shape == (80, 80, 35, 156)
    assert space.spacing == pytest.approx((3.0, 3.0, 3.3), abs=1e-3)
    assert space.origin == (116.119, -87.936, -54.291)
    assert space.orientation == "".join(nibabel.aff2axcodes(OBLIQUE)) == "LAS"
    assert space.without_time().shape == (80, 80, 35)
    assert space.without_time().with_time(156, tr=1.8) == space
    for fact in ("80 x 80 x 35 x 156", "LAS", "TR 1.8 s", "116.1"):
        assert fact in repr(space)
    assert "MNI" in repr(make(space_name="MNI152NLin6Asym"))
    assert "TR" not in repr(space.without_time())


def test_is_a_value() -> None:
    source = OBLIQUE.copy()
    space = make(affine=source)
    source[0, 0] = 5
    assert space.affine[0, 0] == -2.999
    assert space == make()
    assert hash(space) == hash(make())
    negative = np.eye(4)
    negative[0, 1] = -0.0
    assert make(affine=negative) == make(affine=np.eye(4))
    different: list[dict[str, Any]] = [
        {"tr": 2.0},
        {"time_points": 155},
        {"spatial_shape": (80, 80, 36)},
        {"affine": OBLIQUE + np.eye(4, k=3)},
        {"space_name": "x"},
        {"space_unit": "unknown"},
        {"time_unit": "unknown"},
    ]
    for change in different:
        assert make(**change) != space
    assert space != "space"
    with pytest.raises(FrozenInstanceError):
        space.tr = 3.0  # type: ignore[misc]
    for twin in (space, pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
        assert twin == space
        with pytest.raises(ValueError, match="read-only"):
            twin.affine[0, 0] = 1


@pytest.mark.parametrize(
    "change",
    [
        {"spatial_shape": (80, 80)},
        {"spatial_shape": (80, 0, 35)},
        {"spatial_shape": (80, -1, 35)},
        {"affine": np.eye(3)},
        {"affine": OBLIQUE * np.nan},
        {"affine": np.full((4, 4), np.inf)},
        {"affine": np.diag([1.0, 1, 0, 1])},
        {"affine": np.diag([1.0, 1, 1e300, 1])},
        {"affine": np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])},
        {"affine": OBLIQUE * 2},
        {"time_points": 0, "tr": None},
        {"time_points": None},
        {"tr": 0.0},
        {"tr": -2.0},
        {"tr": float("nan")},
        {"tr": float("inf")},
    ],
)
def test_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        make(**change)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
    st.integers(0, 2**31),
)
def test_coordinates(ijk: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.3, 6, 3)
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    space = make(affine=affine)
    world = space.voxel_to_world(ijk)
    np.testing.assert_allclose(world, nibabel.affines.apply_affine(affine, ijk), atol=1e-9)
    np.testing.assert_allclose(space.world_to_voxel(world), ijk, atol=1e-6)
    np.testing.assert_allclose(space.spacing, nibabel.affines.voxel_sizes(affine))


def test_coordinates_of_many() -> None:
    space = make()
    points = np.arange(24.0).reshape(2, 4, 3)
    assert space.voxel_to_world(points).shape == (2, 4, 3)
    np.testing.assert_allclose(space.world_to_voxel(space.voxel_to_world(points)), points)
    for bad in (1.0, [1, 2], np.zeros((3, 2))):
        with pytest.raises(InvalidInputError):
            space.voxel_to_world(bad)
        with pytest.raises(InvalidInputError):
            space.world_to_voxel(bad)


def test_same_grid() -> None:
    space = make()
    assert space.same_grid(space.without_time())
    assert space.same_grid(make(affine=OBLIQUE.astype(np.float32)))
    assert not space.same_grid(make(spatial_shape=(80, 80, 34)))
    shifted = OBLIQUE.copy()
    shifted[2, 3] += 0.5
    assert not space.same_grid(make(affine=shifted))
    assert space.same_grid(make(affine=shifted), tolerance_mm=0.51)
    # A tiny rotation moves only far voxels: the distance is that of the far corner.
    rotated = OBLIQUE.copy()
    rotated[0, 1] += 0.01
    assert space.grid_distance(make(affine=rotated)) == pytest.approx(0.79)
    assert space.grid_distance(make(spatial_shape=(1, 1, 1))) == float("inf")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5,), ((5, 1, 1), None, None)),
        ((5, 6), ((5, 6, 1), None, None)),
        ((5, 6, 7), ((5, 6, 7), None, None)),
        ((5, 6, 7, 8), ((5, 6, 7), 8, 3)),
        ((5, 6, 7, 1), ((5, 6, 7), 1, 3)),
        ((5, 6, 7, 1, 1), ((5, 6, 7), 1, 3)),
        ((5, 6, 7, 8, 1, 1, 1), ((5, 6, 7), 8, 3)),
        ((5, 6, 7, 1, 8), ((5, 6, 7), 8, 4)),
        ((5, 6, 7, 1, 1, 1, 8), ((5, 6, 7), 8, 6)),
    ],
)
def test_fold_shape(shape: tuple[int, ...], expected: tuple[Any, ...]) -> None:
    assert fold_shape(shape) == expected


def test_fold_shape_refuses() -> None:
    for shape in ((), (0,), (4, 4, 0), (4, 4, 4, -1), (1,) * 8):
        with pytest.raises(MetadataError):
            fold_shape(shape)
    with pytest.raises(LayoutNotSupportedError, match="dimensions 4, 6"):
        fold_shape((4, 4, 4, 2, 1, 3))


def header_of(shape: tuple[int, ...] = (4, 5, 6, 7), *, version: int = 1, **fields: Any) -> Any:
    header: Any = nibabel.Nifti1Header() if version == 1 else nibabel.Nifti2Header()
    header.set_data_shape(shape)
    header.set_zooms((2.0, 3.0, 4.0, 2.5, 1, 1, 1)[: len(shape)])
    for name, value in fields.items():
        header[name] = value
    return header


@pytest.mark.parametrize(
    ("code", "stored", "tr", "unit"),
    [
        (8, 2.5, 2.5, "s"),
        (16, 2500, 2.5, "s"),
        (24, 2.5e6, 2.5, "s"),
        (8, 0.8, 0.8, "s"),
        (8, 2000, 2000.0, "s"),
        (0, 2.5, 2.5, "unknown"),
        (56, 2.5, 2.5, "unknown"),
        (32, 2.5, None, "hz"),
        (40, 2.5, None, "ppm"),
        (48, 2.5, None, "rads"),
        (8, 0, None, "s"),
        (8, -1, None, "s"),
        (8, np.nan, None, "s"),
        (8, np.inf, None, "s"),
    ],
)
def test_time_units(code: int, stored: float, tr: float | None, unit: str) -> None:
    header = header_of(xyzt_units=2 + code)
    header["pixdim"][4] = stored
    space = NeuroSpace.from_nibabel(header)
    assert space.tr == (tr if tr is None else pytest.approx(tr, rel=1e-12))
    assert space.time_unit == unit
    assert space.space_unit == "mm"


@pytest.mark.parametrize(
    ("unit", "stored", "tr", "text"),
    [
        (0, 2000, 2000, "in an unknown unit, taken as seconds; milliseconds"),
        (8, 2000, 2000, "2000 s; milliseconds"),
        (16, 2, 0.002, "wrong unit"),
    ],
)
def test_implausible_tr_is_warned_of(unit: int, stored: float, tr: float, text: str) -> None:
    header = header_of(xyzt_units=2 + unit)
    header["pixdim"][4] = stored
    with pytest.warns(HeaderWarning, match=text):
        assert NeuroSpace.from_nibabel(header).tr == tr


@pytest.mark.parametrize(
    ("code", "factor", "unit"), [(1, 1e3, "mm"), (2, 1, "mm"), (3, 1e-3, "mm"), (0, 1, "unknown")]
)
def test_space_units(code: int, factor: float, unit: str) -> None:
    header = header_of(xyzt_units=code + 8)
    space = NeuroSpace.from_nibabel(header)
    assert space.spacing == pytest.approx((2 * factor, 3 * factor, 4 * factor))
    np.testing.assert_allclose(space.affine[:3], header.get_best_affine()[:3] * factor)
    assert space.space_unit == unit


def test_affine_is_the_one_nibabel_chooses() -> None:
    sform, qform = np.diag([2.0, 3, 4, 1]), np.diag([-2.0, 3, 4, 1])
    for sform_code in (0, 1):
        for qform_code in (0, 2):
            header = header_of()
            header.set_sform(sform, sform_code)
            header.set_qform(qform, qform_code)
            space = NeuroSpace.from_nibabel(header)
            np.testing.assert_array_equal(space.affine, header.get_best_affine())


def test_unusable_affines_are_passed_over() -> None:
    qform = np.diag([-2.0, 3, 4, 1])
    header = header_of(sform_code=1)
    header.set_qform(qform, 1)
    with pytest.warns(HeaderWarning, match="the sform .* using the qform"):
        np.testing.assert_allclose(NeuroSpace.from_nibabel(header).affine, qform)
    header["qoffset_x"] = np.nan
    with pytest.warns(HeaderWarning, match="using the affine made from voxel sizes"):
        space = NeuroSpace.from_nibabel(header)
    np.testing.assert_array_equal(space.affine, header.get_base_affine())
    header["pixdim"][1] = np.nan
    with pytest.raises(MetadataError, match="voxel sizes"):
        NeuroSpace.from_nibabel(header)


def test_numbers_without_meaning_are_no_errors_of_numpy() -> None:
    header = header_of(version=2, xyzt_units=1 + 24)
    header.set_sform(np.diag([1e307, 1, 1, 1]), 1)
    with pytest.warns(HeaderWarning, match="not finite"):
        assert NeuroSpace.from_nibabel(header).spacing == (2000, 3000, 4000)
    header.set_sform(None, 0)
    header["pixdim"][4] = 5e-324
    assert NeuroSpace.from_nibabel(header).tr is None


def test_images() -> None:
    data = np.zeros((4, 5, 6), np.int16)
    space = NeuroSpace.from_nibabel(nibabel.Nifti1Image(data, OBLIQUE), space_name="T1w")
    np.testing.assert_array_equal(space.affine, OBLIQUE)
    assert (space.shape, space.space_name, space.tr) == ((4, 5, 6), "T1w", None)
    other = NeuroSpace.from_nibabel(nibabel.MGHImage(data, OBLIQUE))
    assert other.same_grid(space)
    bare = NeuroSpace.from_nibabel(nibabel.Nifti1Image(data, None))
    np.testing.assert_array_equal(
        bare.affine, nibabel.Nifti1Image(data, None).header.get_best_affine()
    )
    five = NeuroSpace.from_nibabel(nibabel.Nifti1Image(np.zeros((4, 5, 6, 1, 3)), OBLIQUE))
    assert (five.shape, five.tr, five.time_unit) == ((4, 5, 6, 3), None, "unknown")


@given(
    st.tuples(*[st.integers(1, 400)] * 3),
    st.none() | st.integers(1, 500),
    st.none() | st.floats(0.125, 90, width=32),
    st.sampled_from([None, "MNI152NLin2009cAsym", "Talairach", "study"]),
    st.sampled_from(["s", "unknown"]),
)
def test_header_round_trip(
    shape: tuple[int, int, int],
    time_points: int | None,
    tr: float | None,
    name: str | None,
    unit: str,
) -> None:
    if time_points is None:
        tr, unit = None, "s"
    space = NeuroSpace(
        spatial_shape=shape,
        affine=OBLIQUE.astype(np.float32),
        time_points=time_points,
        tr=None if tr is None else float(str(np.float32(tr))),
        space_name=name,
        time_unit=unit,
    )
    header = space.to_header(np.int16)
    assert isinstance(header, nibabel.Nifti1Header)
    assert NeuroSpace.from_nibabel(header, space_name=name) == space
    np.testing.assert_allclose(header.get_qform(), space.affine, atol=1e-2)
    expected = {None: 2, "M": 4, "T": 3, "s": 5}[name and name[0]]
    assert header["sform_code"] == header["qform_code"] == expected


def test_header_is_nifti2_only_if_needed() -> None:
    for shape in ((40000, 1, 1), (163842, 1, 1), (27307, 1, 6)):
        header = make(spatial_shape=shape).to_header()
        assert isinstance(header, nibabel.Nifti2Header)
        assert NeuroSpace.from_nibabel(header) == make(spatial_shape=shape)
    large = make(affine=np.diag([1e50, 1e50, 1e50, 1]))
    assert isinstance(large.to_header(), nibabel.Nifti2Header)
    assert NeuroSpace.from_nibabel(large.to_header()) == large
    assert isinstance(make(time_points=32768).to_header(), nibabel.Nifti2Header)
    assert not isinstance(make(time_points=32767).to_header(), nibabel.Nifti2Header)
    for dtype in (np.float16, bool, "U3"):
        with pytest.raises(InvalidInputError):
            make().to_header(dtype)


def test_real_headers(shared_data: Path) -> None:
    runs = sorted((shared_data / "data" / "real" / "bold" / "haxby2001_25mm").glob("*.nii.gz"))
    spaces = [NeuroSpace.from_nibabel(nibabel.load(path)) for path in runs]
    assert len(spaces) > 10
    for path, space in zip(runs, spaces, strict=True):
        image: Any = nibabel.load(path)
        np.testing.assert_array_equal(space.affine, image.affine)
        assert space.shape == image.shape
        assert space.orientation == "".join(nibabel.aff2axcodes(image.affine))
        assert space.same_grid(spaces[0])
        assert replace(space, tr=None, time_points=None) == space.without_time()
