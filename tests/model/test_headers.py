"""What headers say survives: in memory, in files, and where other programs write them oddly."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore.model.scaling import make_scaling
from fmristore.model.space import HeaderWarning, NeuroSpace
from fmristore_stores.errors import InvalidInputError

MNI = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


def image_of(shape: tuple[int, ...], *, pair: bool = False, second: bool = False) -> Any:
    library: Any = nibabel
    values = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    cls = library.Nifti2Image if second else library.Nifti1Pair if pair else library.Nifti1Image
    header = cls.header_class()
    header.set_data_shape(shape)
    header.set_data_dtype("f4")
    header.set_sform(MNI, 4)
    header.set_qform(MNI, 4)
    header.set_intent("t test", (17,), name="faces")
    header["descrip"], header["cal_max"], header["aux_file"] = b"smoothed", 300, b"other"
    header.set_xyzt_units("mm", "sec")
    header["pixdim"][4] = 2.0
    header.extensions.append(library.nifti1.Nifti1Extension("comment", b"a word"))
    return cls(values, MNI, header)


@pytest.mark.parametrize("ending", ["h5", "zarr"])
@pytest.mark.parametrize("form", [{}, {"pair": True}, {"second": True}])
def test_header_of_an_image_in_memory(tmp_path: Path, ending: str, form: dict[str, bool]) -> None:
    image = image_of((6, 5, 4, 3), **form)
    with fs.convert(image, tmp_path / f"a.{ending}") as stored:
        stored.to_nifti(tmp_path / "b.nii")
        assert stored.tr == 2.0
    loaded: Any = nibabel.load(tmp_path / "b.nii")
    for name in ("sform_code", "qform_code", "descrip", "cal_max", "aux_file", "intent_name"):
        assert loaded.header[name] == image.header[name], name
    assert loaded.header.get_intent() == image.header.get_intent()
    assert [e.get_content() for e in loaded.header.extensions] == [b"a word"]
    np.testing.assert_array_equal(np.asarray(loaded.dataobj), np.asarray(image.dataobj))
    np.testing.assert_array_equal(loaded.affine, MNI)


def test_affine_of_an_image_comes_before_its_header(tmp_path: Path) -> None:
    library: Any = nibabel
    image = image_of((6, 5, 4, 3))
    moved = MNI.copy()
    moved[0, 3] = 17
    with fs.convert(
        library.Nifti1Image(image.dataobj, moved, image.header), tmp_path / "a.h5"
    ) as a:
        a.to_nifti(tmp_path / "b.nii")
    header: Any = nibabel.load(tmp_path / "b.nii").header
    np.testing.assert_array_equal(header.get_best_affine(), moved)
    assert header["descrip"] == image.header["descrip"]


@pytest.mark.parametrize(
    "shape", [(6,), (6, 5), (6, 5, 4, 1, 3), (6, 5, 4, 1, 1, 2), (6, 5, 4, 1, 1)]
)
def test_other_numbers_of_axes_in_memory(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = image_of(shape)
    nibabel.save(image, tmp_path / "a.nii")
    with fs.convert(tmp_path / "a.nii", tmp_path / "a.h5") as file:
        of_file, space = file[...], file.space
    with fs.convert(image, tmp_path / "b.h5") as stored:
        np.testing.assert_array_equal(stored[...], of_file)
        assert stored.space == space
        stored.to_nifti(tmp_path / "b.nii")
    loaded: Any = nibabel.load(tmp_path / "b.nii")
    assert loaded.shape == shape


@pytest.mark.parametrize("length", [0.9999999, 1.0000002, 1.5])
@pytest.mark.filterwarnings("ignore:.*squared length 2.25")
def test_quaternion_of_half_a_turn_is_normalised(length: float) -> None:
    library: Any = nibabel
    header = library.Nifti1Header()
    header.set_data_shape((6, 5, 4))
    header["pixdim"][:4] = [-1, 3, 3, 4]
    header["qform_code"] = 1
    header["quatern_c"], header["quatern_d"] = 0.6 * length, 0.8 * length
    header["qoffset_x"], header["qoffset_y"] = -91, -110
    rotation = library.quaternions.quat2mat([0, 0, 0.6, 0.8])
    want = np.eye(4)
    want[:3, :3] = rotation * [3, 3, -4]
    want[:3, 3] = -91, -110, 0
    found = NeuroSpace.from_nibabel(header).affine
    np.testing.assert_allclose(found, want, atol=3e-3 if length < 1 else 1e-5)


def test_values_with_a_large_intercept_stay_different() -> None:
    stored = np.arange(-3000, 3000, dtype="i2")
    for slope, inter in ((0.001, 20000.0), (np.full(2, 0.001), np.array([0.0, 20000.0]))):
        scaling = make_scaling(slope, inter, volumes=2)
        assert scaling is not None
        scaled = scaling.apply(stored[:, None].repeat(2, axis=1))
        assert scaled.dtype == np.float64
        assert len(np.unique(scaled[:, 1])) == len(stored)
    usual = make_scaling(0.5, 100.0, volumes=2)
    assert usual is not None
    assert usual.dtype(stored.dtype) == np.float32


def test_tr_of_freesurfer(tmp_path: Path) -> None:
    library: Any = nibabel
    image = library.MGHImage(np.zeros((6, 5, 4, 3), "i2"), np.eye(4))
    for stored, tr in ((2500.0, 2.5), (720.0, 0.72), (0.0, None)):
        image.header.set_zooms((1, 1, 1, stored))
        assert NeuroSpace.from_nibabel(image).tr == tr


def undefined() -> Any:
    """As nilearn makes images: 1 between volumes, in no unit."""
    library: Any = nibabel
    return library.Nifti1Image(np.ones((4, 4, 4, 5), "i2"), np.eye(4))


def test_an_undefined_tr_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(HeaderWarning, match="TR is 1 in an unknown unit"):
        assert NeuroSpace.from_nibabel(undefined()).tr == 1.0


@pytest.mark.parametrize("unit", ["unknown", "sec", "msec"])
@pytest.mark.parametrize("second", [False, True])
def test_tr_given_for_files_images_and_stores(tmp_path: Path, unit: str, *, second: bool) -> None:
    image = image_of((6, 5, 4, 3), second=second)
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = 2000 if unit == "msec" else 2
    nibabel.save(image, tmp_path / "a.nii")
    with fs.convert(tmp_path / "a.nii", tmp_path / "a.h5") as plain:
        for number, source in enumerate((tmp_path / "a.nii", image, plain, plain.url)):
            with fs.convert(source, tmp_path / f"{number}.zarr", tr=2.5) as stored:
                assert stored.tr == 2.5
                assert fs.verify(stored.url).ok
                stored.to_nifti(tmp_path / f"{number}.nii")
            assert NeuroSpace.from_nibabel(nibabel.load(tmp_path / f"{number}.nii")).tr == 2.5
            labels = np.ones((6, 5, 4), "i2")
            url = tmp_path / f"m{number}.h5"
            with fs.MaskedNeuroVec.create(source, url, mask=labels, tr=2.5) as masked:
                assert masked.tr == 2.5
            with fs.parcellate(source, labels, tmp_path / f"p{number}.h5", tr=2.5) as series:
                assert series.tr == 2.5


@pytest.mark.parametrize("tr", [0.0, -1.0, float("nan"), float("inf"), 1e300, 1e-300])
def test_a_tr_that_no_header_holds_is_refused(tmp_path: Path, tr: float) -> None:
    with pytest.raises(InvalidInputError, match="TR"):
        fs.convert(image_of((6, 5, 4, 3)), tmp_path / "a.h5", tr=tr)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(("unit", "tr"), [(77001, 2.5), (77002, 2500.0), (77003, None)])
def test_times_of_afni_are_in_the_unit_that_they_say(unit: int, tr: float | None) -> None:
    from nibabel import brikhead

    library: Any = brikhead
    facts: dict[str, Any] = {
        "DATASET_RANK": [3, 2],
        "DATASET_DIMENSIONS": [2, 2, 2],
        "BRICK_TYPES": [1, 1],
        "BRICK_FLOAT_FACS": [0, 0],
        "BYTEORDER_STRING": "LSB_FIRST",
        "DELTA": [1.0, 1.0, 1.0],
        "ORIENT_SPECIFIC": [0, 3, 4],
        "IJK_TO_DICOM_REAL": [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "TAXIS_NUMS": [2, 0, unit],
        "TAXIS_FLOATS": [0.0, 2500.0, 0, 0, 0],
        "SCENE_DATA": [0, 2, 0],
        "TYPESTRING": "3DIM_HEAD_FUNC",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error" if unit != 77002 else "ignore", HeaderWarning)
        space = NeuroSpace.from_nibabel(library.AFNIHeader(facts))
    assert space.tr == tr
