"""Label images and their tables: what is understood, and what is refused."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import nibabel as nibabel_package
import numpy as np
import pytest

from fmristore import NeuroSpace, Parcellation
from fmristore.sources.labels import as_column, read_table
from fmristore.sources.parcellation import ParcellationWarning
from fmristore_stores.errors import InvalidInputError, NotFoundError, SelectionError

nibabel: Any = nibabel_package
SHAPE = (5, 4, 3)
SPACE = NeuroSpace(spatial_shape=SHAPE, affine=np.diag([2.0, 2, 3, 1]))


def labels(ids: tuple[int, ...] = (3, 7, 12), dtype: Any = np.int32, seed: int = 0) -> Any:
    """Some of each id, and background."""
    rng = np.random.default_rng(seed)
    values = rng.choice([0, *ids], SHAPE).astype(dtype)
    values.flat[: len(ids)] = ids
    return values


def test_parcels_are_ranges_of_voxels_with_x_fastest() -> None:
    image = labels()
    parcels = Parcellation.from_labels(image, space=SPACE)
    assert parcels.ids.tolist() == [3, 7, 12]
    assert parcels.names == ("Parcel 3", "Parcel 7", "Parcel 12")
    assert len(parcels) == 3
    assert len(parcels.voxels) == (image != 0).sum() == parcels.indptr[-1]
    for k, number in enumerate(parcels.ids):
        inside = parcels.voxels[parcels.rows(int(number))]
        expected = np.argwhere((image == number).transpose(2, 1, 0))[:, ::-1]
        np.testing.assert_array_equal(inside, expected)
        assert parcels.sizes[k] == len(expected)
        assert (parcels.parcel_of[parcels.rows(int(number))] == k).all()
    np.testing.assert_array_equal(parcels.mask, image != 0)
    assert "3 parcels" in repr(parcels)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "i8", "f4", "f8"])
def test_any_type_of_whole_numbers(dtype: str) -> None:
    parcels = Parcellation.from_labels(labels(dtype=dtype), space=SPACE)
    np.testing.assert_array_equal(parcels.labels, labels())


def test_a_binary_mask_is_one_parcel() -> None:
    parcels = Parcellation.from_labels(labels() > 0, space=SPACE)
    assert parcels.ids.tolist() == [1]


def test_nibabel_path_and_trailing_axis(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(labels(dtype=np.int16)[..., None], SPACE.affine)
    path = tmp_path / "dseg.nii.gz"
    nibabel.save(image, path)
    for given in (image, path, str(path)):
        parcels = Parcellation.from_labels(given, space=SPACE)
        np.testing.assert_array_equal(parcels.labels, labels())
        assert parcels.same_as(Parcellation.from_labels(labels(), space=SPACE))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(labels() == 3, np.inf, labels()), "infinite"),
        (labels() + 0.5, "whole numbers"),
        (np.where(labels() == 3, -1, labels()), "from -1"),
        (labels().astype("i8") << 30, "labels from"),
        (labels()[0], r"\(X, Y, Z\)"),
        (np.stack([labels()] * 2, -1), r"\(X, Y, Z\)"),
        (np.zeros(SHAPE, int), "no voxel has a label"),
        (labels().astype(complex), "whole numbers"),
        (labels().astype(str), "whole numbers"),
        (labels()[:-1], "shape"),
    ],
)
def test_what_is_no_label_image(values: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Parcellation.from_labels(values, space=SPACE)


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        (np.full((*SHAPE, 3), 0.3), "probabilities take the largest"),
        (np.full(SHAPE, -1), r"numpy\.where\(labels > 0"),
        (np.full(SHAPE, 2**40), r"numpy\.unique"),
        (np.full(SHAPE, "1"), r"\.astype\(int\)"),
        (np.full(SHAPE, 1.3), "nearest neighbour"),
        (np.ones((9, 9, 9), int), "resample_to_img"),
    ],
)
def test_what_is_no_label_image_says_what_to_do(values: Any, cure: str) -> None:
    with pytest.raises(InvalidInputError, match=cure):
        Parcellation.from_labels(values, space=SPACE)


def test_other_orientations_are_named() -> None:
    turned = nibabel.Nifti1Image(labels(dtype=np.int16), np.diag([-1.0, 1, 1, 1]) @ SPACE.affine)
    with pytest.raises(InvalidInputError, match=r"axes run differently.*as_closest_canonical"):
        Parcellation.from_labels(turned, space=SPACE)


def test_grids_must_agree() -> None:
    moved = nibabel.Nifti1Image(labels(dtype=np.int16), np.diag([2.0, 2, 3.5, 1]))
    with pytest.raises(InvalidInputError, match="mm apart"):
        Parcellation.from_labels(moved, space=SPACE)
    with pytest.raises(InvalidInputError, match="space="):
        Parcellation.from_labels(labels())
    with pytest.raises(InvalidInputError, match="affine is for arrays"):
        Parcellation.from_labels(moved, space=np.eye(4))
    made = Parcellation.from_labels(moved)
    with pytest.raises(InvalidInputError, match="mm apart"):
        Parcellation.from_labels(made, space=SPACE)
    with pytest.raises(NotFoundError):
        Parcellation.from_labels("nowhere.nii.gz")


def test_labels_outside_the_mask_are_dropped_and_told() -> None:
    image = labels()
    mask = image != 7
    with pytest.warns(ParcellationWarning) as caught:
        parcels = Parcellation.from_labels(image, mask=mask, space=SPACE, names={7: "Gone"})
    texts = [str(w.message) for w in caught]
    assert any("lie outside the mask" in text for text in texts)
    assert any("1 of 3 parcels have no voxels: Gone" in text for text in texts)
    assert parcels.ids.tolist() == [3, 7, 12]
    assert parcels.sizes[1] == 0
    np.testing.assert_array_equal(parcels.mask, mask)
    with pytest.raises(InvalidInputError, match="in the mask"), pytest.warns(ParcellationWarning):
        Parcellation.from_labels(image, mask=image == 0, space=SPACE)
    with pytest.raises(InvalidInputError, match="no voxel is in the mask"):
        Parcellation.from_labels(image, mask=np.zeros(SHAPE), space=SPACE)


def test_parcels_of_the_table_without_voxels_are_kept() -> None:
    with pytest.warns(ParcellationWarning) as told:
        parcels = Parcellation.from_labels(
            labels(), space=SPACE, names={1: "A", 3: "B", 5: "C", 12: ""}
        )
    assert ["no name" in str(one.message) for one in told] == [True, False]
    assert "2 of 5 parcels" in str(told[1].message)
    assert parcels.ids.tolist() == [1, 3, 5, 7, 12]
    assert parcels.names == ("A", "B", "C", "Parcel 7", "Parcel 12")
    assert (parcels.sizes == 0).tolist() == [True, False, True, False, False]


def test_access_by_id_and_name() -> None:
    parcels = Parcellation.from_labels(
        labels(), space=SPACE, names={3: "V1", 7: "twice", 12: "twice"}
    )
    assert parcels.index("V1") == parcels.index(3) == parcels.index(np.int16(3)) == 0
    with pytest.raises(SelectionError, match=r"2 parcels are called 'twice'.*7, 12"):
        parcels.index("twice")
    with pytest.raises(SelectionError, match="did you mean 'V1'"):
        parcels.index("V11")
    for key in (4, 0, -1, 10**12, True, 1.0, None):
        with pytest.raises(SelectionError):
            parcels.index(key)


def test_pickles() -> None:
    parcels = Parcellation.from_labels(labels(), space=SPACE, names=["a", "b", "c"])
    assert pickle.loads(pickle.dumps(parcels)).same_as(parcels)


# Tables --------------------------------------------------------------------------------------

PRESENT = np.array([3, 7, 12], np.int32)


def write(folder: Path, text: str | bytes, name: str = "table.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


BIDS = (
    "index\tname\tabbreviation\tcolor\tweight\n"
    "3\tLeft V1\tLV1\t#ff0000\t0.5\n7\tR, \u03b2\tn/a\t#00ff00\tn/a\n"
)
CSV = '\ufeffIndex,Name,hemi,order\n0,Background,n/a,0\n7,"Right, V1",R,2\n3,Left V1,L,1\n'
LUT = (
    "# FreeSurfer\n#No. Label Name: R G B A\n\n0 Unknown 0 0 0 0\n"
    "3  Left-Cortex 205 62 78 0\n7  Left-WM  1 2 3 0\n"
)


def test_bids_table(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, BIDS), PRESENT)
    assert table.ids.tolist() == [3, 7]
    assert table.names == ("Left V1", "R, \u03b2")
    assert list(table.columns) == ["abbreviation", "color", "weight"]
    assert table.columns["abbreviation"].tolist() == ["LV1", "n/a"]
    np.testing.assert_array_equal(table.columns["weight"], [0.5, np.nan])


def test_csv_table_with_quotes_any_order_and_background(tmp_path: Path) -> None:
    table = read_table(str(write(tmp_path, CSV)), PRESENT)
    assert table.ids.tolist() == [3, 7]
    assert table.names == ("Left V1", "Right, V1")
    assert table.columns["hemi"].tolist() == ["L", "R"]
    assert table.columns["order"].dtype == np.int64
    wider = table.with_ids(np.array([3, 5, 7], np.int32))
    assert wider.names == ("Left V1", "Parcel 5", "Right, V1")
    np.testing.assert_array_equal(wider.columns["order"], [1, np.nan, 2])
    assert wider.columns["hemi"].tolist() == ["L", "", "R"]


def test_freesurfer_table(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, LUT), PRESENT)
    assert table.names == ("Left-Cortex", "Left-WM")
    assert table.columns["red"].tolist() == [205, 1]


@pytest.mark.parametrize(
    "names",
    [
        {3: "a", 7: "b", 12: "c"},
        {"3": "a", "7": "b", "12": "c"},
        {0: "Background", 3: "a", 7: "b", 12: "c"},
        ["a", "b", "c"],
        ("Background", "a", "b", "c"),
        {"index": [3, 7, 12], "name": ["a", "b", "c"]},
        {"ID": ["12", "3.0", 7.0], "Label": ["c", "a", "b"]},
    ],
)
def test_names_in_memory(names: Any) -> None:
    table = read_table(names, PRESENT)
    assert table.ids.tolist() == [3, 7, 12]
    assert table.names == ("a", "b", "c")


def test_names_by_position_when_there_are_more_than_ids() -> None:
    table = read_table([f"n{i}" for i in range(1, 13)], PRESENT)
    assert len(table) == 12
    assert table.names[6] == "n7"
    with pytest.raises(InvalidInputError, match="14 names for 3 labels"):
        read_table([f"n{i}" for i in range(1, 15)], PRESENT)


def test_data_frame() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"index": [7, 3], "name": ["b", "a"], "size": [2.5, 1.5]})
    table = read_table(frame, PRESENT)
    assert table.names == ("a", "b")
    np.testing.assert_array_equal(table.columns["size"], [1.5, 2.5])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({3: "a", "3": "b"}, "twice"),
        ({"index": [3, 3], "name": ["a", "b"]}, "twice"),
        ({"index": [3, 7], "name": ["a"]}, "length"),
        ({"index": 3, "name": "a"}, "columns"),
        ({"colour": ["red"]}, "columns colour"),
        ({"name": ["red"]}, "expected one of the ids"),
        ({3: 5}, "text"),
        ({-3: "a"}, "no id"),
        ({2.5: "a"}, "no id"),
        ({2**31: "a"}, "no id"),
        ({True: "a"}, "no id"),
        (["a", "b"], "2 names for 3 labels"),
        (["a", "b", 3], "text"),
        ({3: "nul\x00"}, "NUL"),
        ({3: "\ud800"}, "surrogate"),
        (5, "names must be"),
    ],
)
def test_what_is_no_table(names: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_table(names, PRESENT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# only comments\n", "empty"),
        (b"index\tname\n3\t\xff\x81\n", "UTF-8"),
        (b"index\tname\n3\t\x00\n", "not text"),
        ("index,name\n3,a,b\n", "3 values for 2 columns"),
        ("name,name,index\na,b,3\n", "same name"),
        ("index,name\nthree,a\n", "no id"),
        ("index,name\n3,a\n3,b\n", "id 3 occurs twice"),
        ("x,y\n3,a\n", "columns x, y"),
        ("3 a 1 2 3 4 5 6\n", "without a header"),
        ('index,name\n3,"' + "a" * 200_000 + '"\n', "cannot be read"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidInputError, match=message) as caught:
        read_table(path, PRESENT)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_table(tmp_path / "none.tsv", PRESENT)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2"], "i"),
        ([1, np.int8(2)], "i"),
        (["1", "2.5"], "f"),
        (["1e3", "n/a"], "f"),
        (["007", "1"], "T"),
        (["n/a", "n/a"], "T"),
        ([True, False], "T"),
        (["99999999999999999999", "1"], "f"),
        ([], "i"),
    ],
)
def test_types_of_columns(values: list[Any], kind: str) -> None:
    column = as_column(values)
    assert column.dtype.kind == kind


def test_real_atlases(shared_data: Path) -> None:
    atlases = shared_data / "data" / "real" / "atlases"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aal = Parcellation.from_labels(atlases / "aal2.nii.gz", names=atlases / "aal2_labels.csv")
    assert len(aal) == 120
    assert aal.names[0] == "Precentral_L"
    assert aal.ids[0] == 2001
    oneback = "sub-02_task-oneback_desc-schaefer200notregistered_dseg.nii.gz"
    with pytest.warns(ParcellationWarning, match="3 of 200 parcels have no voxels"):
        schaefer = Parcellation.from_labels(
            atlases / oneback, names=atlases / "schaefer_200_labels.csv"
        )
    assert len(schaefer) == 200
    assert schaefer.index("7Networks_LH_Vis_1") == 0
