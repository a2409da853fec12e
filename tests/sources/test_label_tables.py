"""Names of parcels go to the right ids, whatever form the table has; or the table is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore import Parcellation
from fmristore.sources.labels import ParcellationWarning, read_table
from fmristore_stores.errors import InvalidInputError

PRESENT = np.array([1, 2], np.int32)
AREAS = ("Area_1", "Area_2")

TABLES = {
    "Schaefer centroids": "ROI Label,ROI Name,R,A,S\n1,Area_1,-32,-42,-20\n2,Area_2,30,-40,-18\n",
    "Schaefer order": "1\tArea_1\t120\t18\t131\t0\n2\tArea_2\t120\t18\t132\t0\n",
    "Schaefer lut": "1 0.47059 0.07059 0.51373 Area_1\n2 0.27451 0.50980 0.70588 Area_2\n",
    "FreeSurfer": "#No. Name: R G B A\n0 Unknown 0 0 0 0\n1 Area_1 7 8 9 0\n2 Area_2 0 8 0 0\n",
    "FreeSurfer, mixed white space": "1  Area_1\t 7 8 9 0\n2\tArea_2\t 0 8 0 0\n",
    "FreeSurfer 8": "0 Unknown 0 0 0 0\n1 Area_1 70 130 180 0\n2 Area_2 0 80 0 0 2\n",
    "FSLeyes": "1 0.1 0.2 0.3 Area_1\n2 0 1 0 Area_2\n",
    "Workbench": "Area_1\n1 171 243 85 255\nArea_2\n2 86 162 74 255\n",
    "ITK-SNAP": (
        '# IDX -R- -G- -B- -A-- VIS MSH LABEL\n  0  0  0  0  0  0  0  "Clear Label"\n'
        '  1  255  0  0  1  1  1  "Area_1"\n  2  0  255  0  0.5  1  1  "Area_2"\n'
    ),
    "AAL text": "FAG\tArea_1\t1\nFAD\tArea_2\t2\n",
    "AAL XML": (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<atlas version="2.0"><data>'
        "<label><index>2</index><name>Area_2</name></label>"
        "<label><index>1</index><name>Area_1</name></label></data></atlas>"
    ),
    "FSL XML, probabilities": (
        '<atlas version="1.0"><header><type>Probabalistic</type></header><data>'
        '<label index="0" x="1" y="2" z="3">Area_1</label>'
        '<label index="1" x="1" y="2" z="3">Area_2</label></data></atlas>'
    ),
    "FSL XML, labels": (
        '<atlas><header><type>Label</type></header><data><label index="0">*.*</label>'
        '<label index="1">Area_1</label><label index="2">Area_2</label></data></atlas>'
    ),
    "BIDS": "index\tname\tcolor\tmapping\n1\tArea_1\t#ff0000\t7\n2\tArea_2\tn/a\t8\n",
    "TemplateFlow": "index\tname\tcolor\n1\tArea_1\t#781283\n2\tArea_2\t#781284\n",
    "MRIcron": "1 Area_1 2001\n2 Area_2 2002\n",
    "names alone": "Area_1\nArea_2\n",
    "ids and names": "1,Area_1\n2,Area_2\n",
    "unknown header": "Code;Gyrus;Volume\n2;Area_2;5.5\n1;Area_1;4.5\n",
    "saved by pandas": ",value,name\n0,1,Area_1\n1,2,Area_2\n",
    "header and blanks": "index name\n1 Area_1\n2 Area_2\n",
    "AAL3": "1 Area_1 1\n2 Area_2 2\n",
    "CAT12": "ROIid;ROIabbr;ROIname;ROIbasename\n1;l;Area_1;A\n2;r;Area_2;A\n",
    "HCP-MMP1": "regionName,LR,region,regionID,Cortex_ID\nArea_1,L,V,1,1\nArea_2,R,V,2,1\n",
    "MRtrix": "# index short full\n1 a Area_1 25 100 40 255\n2 b Area_2 125 100 160 255\n",
    "id, colour of four, name": "1 120 18 131 255 Area_1\n2 120 18 132 255 Area_2\n",
    "JSON": '{"2": "Area_2", "1": "Area_1"}',
    "ids of floating point": "1.0,Area_1\n2.0,Area_2\n",
    "ids behind the names": "Area_2 2\nArea_1 1\n",
    "xcp_d": "index\tlabel\tnetwork_label\n1\tArea_1\tVis\n2\tArea_2\tVis\n",
    "structures": "StructureID;Structure Name;Acronym\n1;Area_1;LA\n2;Area_2;LB\n",
    "DiFuMo": "Component,Difumo_names,Yeo_networks7\n1,Area_1,V\n2,Area_2,V\n",
    "ids with colons": "2: Area_2\n1: Area_1\n",
    "numbered lines": "2. Area_2\n1. Area_1\n",
    "bars": "index|name\n1|Area_1\n2|Area_2\n",
    "JSON, objects": '[{"index": 1, "name": "Area_1"}, {"index": 2, "name": "Area_2"}]',
    "JSON, names": '["Area_1", "Area_2"]',
    "FreeSurfer, statistics": (
        "# Title Segmentation Statistics\n# ColHeaders Index SegId NVoxels StructName normMean\n"
        "  1  2  5772  Area_2  36.7\n  2  1  179  Area_1  51.3\n"
    ),
    "AFNI": (
        '<VALUE_LABEL_DTABLE ni_type="2*String" ni_dimen="2" >\n "2" "Area_2"\n "1" "Area_1"\n'
        "</VALUE_LABEL_DTABLE>"
    ),
    "AFNI, entities": (
        '<VALUE_LABEL_DTABLE >\n "2" "Area&#95;2"\n "1" "Area_1"\n</VALUE_LABEL_DTABLE>'
    ),
    "name: id": "Area_2: 2\nArea_1: 1\n",
    "name = id": "Area_2=2\nArea_1=1\n",
    "MIST": "roi;label;name;size_gm\n1;A;Area_1;7\n2;B;Area_2;8\n",
}


@pytest.mark.parametrize("title", TABLES)
def test_tables_as_their_makers_publish_them(tmp_path: Path, title: str) -> None:
    path = tmp_path / "table"
    path.write_text(TABLES[title])
    table = read_table(path, PRESENT)
    assert table.ids.tolist() == [1, 2]
    assert table.names == AREAS
    again = read_table(f"file://{path}", PRESENT)
    assert again.names == AREAS


def test_names_keep_their_blanks(tmp_path: Path) -> None:
    path = tmp_path / "table"
    for text in ("1 Left Area 4\n2 Left Area 6\n", "1 0 0 1 Left Area 4\n2 0 1 0 Left Area 6\n"):
        path.write_text(text)
        assert read_table(path, PRESENT).names == ("Left Area 4", "Left Area 6")


@pytest.mark.parametrize("title", TABLES)
def test_tables_by_url(title: str) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/label-tables/table", TABLES[title].encode())
    assert read_table("memory://label-tables/table", PRESENT).names == AREAS


def test_words_of_a_name_are_no_short_names(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text("1 Left Area 7 8 9 0\n2 Left Pole 0 8 0 0\n")
    assert read_table(path, PRESENT).names == ("Left Area", "Left Pole")


@pytest.mark.parametrize(
    "names",
    [{1: None, 2: "B"}, ["", "B"], {"index": [1, 2], "name": [float("nan"), "B"]}],
)
def test_names_that_are_missing_are_not_made_without_a_word(names: Any) -> None:
    with pytest.warns(ParcellationWarning, match=r"1 of 2 .* no name \(id 1\).*keep_default_na"):
        assert read_table(names, PRESENT).names == ("Parcel 1", "B")


@pytest.mark.parametrize("content", [b"PK\x03\x04 a workbook", bytes(range(32))])
def test_what_is_no_text_says_how_to_give_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.xlsx"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"not text.*pandas\.read_excel"):
        read_table(path, PRESENT)


def test_commas_in_names_separate_nothing(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("1 Gyrus, left\n2 Gyrus, right\n")
    assert read_table(path, PRESENT).names == ("Gyrus, left", "Gyrus, right")


def test_tables_in_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes("index,name\n1,Région\n2,B\n".encode("latin-1"))
    with pytest.warns(ParcellationWarning, match="read as Windows-1252.*1,Région"):
        assert read_table(path, PRESENT).names == ("Région", "B")
    label = "<label><index>1</index><name>Région</name></label>"
    text = f"<?xml version='1.0' encoding='ISO-8859-1'?><atlas>{label}</atlas>"
    for encoding in ("latin-1", "utf-8"):
        path.write_bytes(text.encode(encoding))
        assert read_table(path, PRESENT).names == ("Région",)
    for wrong in ("index,name\n1,é".encode("utf-16"), b"1,\xe9\x07\n"):
        path.write_bytes(wrong)
        with pytest.raises(InvalidInputError, match="in UTF-8"):
            read_table(path, PRESENT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,label\n1,7\n2,8\n", "are numbers"),
        ("1\n2\n", "cannot be seen|are numbers"),
        ("index,name\n2001,A\n2002,B\n", "another atlas"),
        ("1,L,V1\n2,L,V1\n", "cannot be seen"),
        ("index,value,name\n0,1,A\n1,2,B\n2,3,C\n", "could both be the ids"),
        ("A\nB\nC\n", "3 names for 2 labels"),
        ("1 A\n2 B\nC\n", "cannot be seen"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a><label index="1">&b;</label></a>', "entities"),
        ("<a><label index='1'>A</label>", "damaged XML"),
        ("<a><b/></a>", "XML without labels"),
        ('{"labels": {"A": 1, "B": 2}}', "json.load"),
        ('{"1": "A",', "damaged JSON"),
        ("Area 2\nArea 1\n", "cannot be seen"),
        ("B 2 120\nA 1 130\n", "cannot be seen"),
        ("Label 2: B\nLabel 1: A\n", "cannot be seen"),
        ("# ColHeaders StructName NumVert\nbankssts 1\n", "without the ids .*ColorLUT"),
    ],
)
def test_tables_that_could_name_the_wrong_parcel(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_table(path, PRESENT)


@pytest.mark.parametrize("background", ["Background", "background", b"Background", " BACKGROUND "])
def test_a_list_that_begins_with_background_goes_by_ids(background: Any) -> None:
    names = [background, "a", "b", "c", "d"]
    for given in (names, tuple(names), np.array(names, object)):
        table = read_table(given, np.array([1, 3, 4], np.int32))
        assert dict(zip(table.ids.tolist(), table.names, strict=True)) == {
            1: "a",
            2: "b",
            3: "c",
            4: "d",
        }
    with pytest.raises(InvalidInputError, match="4 names for 2 labels"):
        read_table(names, np.array([1, 3], np.int32))


def test_series_and_frames_go_by_their_ids() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"index": [0, 2, 1], "name": ["Background", "b", "a"]})
    for names in (
        frame,
        frame.set_index("index"),
        frame.set_index("index")["name"],
        pandas.Series(["Background", "a", "b"]),
        pandas.Series({"2": "b", "1": "a"}),
        frame.set_index("index").rename_axis(None),
    ):
        assert read_table(names, PRESENT).names == ("a", "b")
    with pytest.raises(InvalidInputError, match="at 0"):
        read_table(pandas.Series(["a", "b", "c"]), PRESENT)


def test_numbers_of_rows_are_no_ids() -> None:
    pandas = pytest.importorskip("pandas")
    present = np.array([2, 4, 10], np.int32)
    lut = pandas.DataFrame({"index": [0, 2, 4, 10], "name": ["Background", "A", "B", "C"]})
    for names in (lut["name"], lut["name"][1:]):
        with pytest.raises(InvalidInputError, match="its index must be the ids"):
            read_table(names, present)
    for names in (lut, lut[::-1], lut.set_index("name"), lut.set_index("name").rename_axis(None)):
        assert read_table(names, present).names == ("A", "B", "C")
    lut["name"] = lut["name"].astype("string")
    lut.loc[2, "name"] = pandas.NA
    with pytest.warns(ParcellationWarning, match="id 4"):
        assert read_table(lut, present).names == ("A", "Parcel 4", "C")


@pytest.mark.parametrize(
    "names",
    [
        np.array([(0, "Background"), (2, "b"), (1, "a")], [("index", "i4"), ("name", "U10")]),
        [(0, "Background"), (2, "b"), (1, "a")],
        {"1": "a", 2: "b"},
        {"index": [2.0, 1.0], "name": [b"b", b"a"]},
    ],
)
def test_pairs_of_id_and_name(names: Any) -> None:
    assert read_table(names, PRESENT).names == ("a", "b")


def test_names_by_coordinates_of_a_data_array() -> None:
    xarray = pytest.importorskip("xarray")
    names = xarray.DataArray(["b", "a"], dims="parcel", coords={"parcel": [2, 1]})
    assert read_table(names, PRESENT).names == ("a", "b")
    with pytest.raises(InvalidInputError, match="not a set"):
        read_table({"a", "b"}, PRESENT)


def test_labels_that_a_table_does_not_have_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text("index\tname\n1\tA\n")
    with pytest.warns(ParcellationWarning, match="2 of 3 labels of the image are not in the table"):
        found = Parcellation.from_labels(LABELS, names=path, space=np.eye(4))
    assert found.names == ("A", "Parcel 2", "Parcel 3")


def test_tables_that_are_doubtful_are_not_taken_without_a_word() -> None:
    with pytest.warns(ParcellationWarning, match="id 0 is called 'a'"):
        read_table({0: "a", 1: "b", 2: "c"}, PRESENT)
    with pytest.warns(ParcellationWarning, match="no names of parcels"):
        read_table({"index": [1, 2], "size": [5, 6]}, PRESENT)
    with pytest.raises(InvalidInputError, match="another atlas"):
        read_table({8: "a", 9: "b"}, PRESENT)
    with pytest.raises(InvalidInputError, match="are numbers"):
        read_table({"index": [1, 2], "name": [17, 18]}, PRESENT)


# Series, weights and images -------------------------------------------------------------------

SHAPE = (4, 3, 2)
LABELS = np.arange(24).reshape(SHAPE) % 4


def parcels() -> Parcellation:
    return Parcellation.from_labels(LABELS, names=["A", "B", "C"], space=np.eye(4))


def summary(folder: Path, series: Any) -> list[float]:
    path = folder / "s.h5"
    with fs.ParcellatedScanSummary.create(
        series, path, parcellation=parcels(), tr=2.0, overwrite=True
    ) as made:
        return list(made[0])


def test_columns_of_a_frame_go_to_the_parcels_that_they_name(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    series = np.array([[1.0, 2, 3], [4, 5, 6]])
    assert summary(tmp_path, pandas.DataFrame(series)) == [1, 2, 3]
    assert summary(tmp_path, pandas.DataFrame(series, columns=["C", "A", "B"])) == [2, 3, 1]
    assert summary(tmp_path, pandas.DataFrame(series, columns=[3, 1, 2])) == [2, 3, 1]
    with pytest.raises(InvalidInputError, match="columns of the series"):
        summary(tmp_path, pandas.DataFrame(series, columns=["A", "B", "D"]))


def test_axes_of_a_data_array_are_those_that_it_names(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    series = xarray.DataArray(
        [[1.0, 2, 3], [4, 5, 6]], dims=("time", "parcel"), coords={"parcel": ["B", "C", "A"]}
    )
    assert summary(tmp_path, series) == [3, 1, 2]
    with pytest.raises(InvalidInputError, match="time first"):
        summary(tmp_path, series.T)
    run = np.random.default_rng(0).normal(size=(*SHAPE, 5))
    given = xarray.DataArray(run.T, dims=("t", "z", "y", "x"))
    with fs.NeuroVec.create(given, tmp_path / "r.h5", space=np.eye(4), tr=2.0) as made:
        np.testing.assert_array_equal(made[...], run)
    with pytest.raises(InvalidInputError, match="axes are called"):
        fs.NeuroVec.create(given.rename(t="run"), tmp_path / "n.h5", space=np.eye(4))
    for axes in (("z", "y", "x"), ("k", "j", "i")):
        turned = xarray.DataArray(LABELS.T, dims=axes)
        found = Parcellation.from_labels(turned, space=np.eye(4))
        np.testing.assert_array_equal(found.labels, LABELS)


def test_masked_values_are_refused_and_not_taken(tmp_path: Path) -> None:
    hidden = np.ma.array(LABELS, mask=LABELS == 1)
    run = np.ma.array(np.ones((*SHAPE, 5)), mask=False)
    run[0, 0, 0, 0] = np.ma.masked
    path = tmp_path / "m.h5"
    for call in (
        lambda: Parcellation.from_labels(hidden, space=np.eye(4)),
        lambda: parcels().revised(mask=hidden),
        lambda: parcels().to_volume(np.ma.array([1.0, 2, 3], mask=[True, False, False])),
        lambda: fs.NeuroVec.create(run, path, space=np.eye(4)),
        lambda: fs.ParcellatedScanSummary.create(run[0, :, 0], path, parcellation=parcels()),
    ):
        with pytest.raises(InvalidInputError, match="masked array"):
            call()
    again = Parcellation.from_labels(np.ma.array(LABELS), space=np.eye(4))
    np.testing.assert_array_equal(again.labels, LABELS)


def test_weights_are_in_the_order_of_a_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    run, weights = rng.normal(size=(*SHAPE, 5)), rng.uniform(size=SHAPE)
    found = [
        fs.ParcellatedScanSummary.create(
            run, tmp_path / f"{name}.h5", parcellation=parcels(), space=np.eye(4), weights=given
        ).to_numpy()
        for name, given in (("image", weights), ("list", weights[LABELS != 0]))
    ]
    np.testing.assert_array_equal(found[0], found[1])


def test_label_images_of_floating_point() -> None:
    image = np.where(LABELS == 0, np.nan, LABELS)
    found = Parcellation.from_labels(image, space=np.eye(4))
    np.testing.assert_array_equal(found.labels, LABELS)
    with pytest.warns(ParcellationWarning, match="rounded"):
        found = Parcellation.from_labels(image * 0.999, space=np.eye(4))
    np.testing.assert_array_equal(found.labels, LABELS)
    for wrong, message in ((image + 0.02, "nearest neighbour"), (image + np.inf, "infinite")):
        with pytest.raises(InvalidInputError, match=message):
            Parcellation.from_labels(wrong, space=np.eye(4))
    five = LABELS.reshape(*SHAPE, 1, 1)
    np.testing.assert_array_equal(Parcellation.from_labels(five, space=np.eye(4)).labels, LABELS)


def test_values_of_parcels_return_to_the_grid() -> None:
    found = parcels()
    values = np.array([1.5, 2.5, 3.5])
    volume = found.to_volume(values, fill=np.nan)
    wanted = np.array([np.nan, *values])[LABELS]
    np.testing.assert_array_equal(volume, wanted)
    runs = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(found.to_volume(runs)[..., 1], np.array([0, 3, 4, 5])[LABELS])
    for wrong in (values[:2], runs.T, runs[None]):
        with pytest.raises(InvalidInputError, match="one for each parcel"):
            found.to_volume(wrong)
    image: Any = found.to_nibabel(runs, tr=2.0)
    assert image.shape == (*SHAPE, 2)
    assert image.header.get_zooms()[3] == 2
    np.testing.assert_array_equal(found.to_nibabel().get_fdata(), LABELS)


@pytest.mark.parametrize("codes", [(4, 4), (4, 1), (1, 0)])
def test_form_codes_of_a_label_image_return(tmp_path: Path, codes: tuple[int, int]) -> None:
    nibabel: Any = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(LABELS.astype("i2"), np.eye(4))
    image.header["sform_code"], image.header["qform_code"] = codes
    path = tmp_path / "labels.nii"
    nibabel.save(image, path)
    fs.convert(path, tmp_path / "labels.h5")
    for given in (path, image, tmp_path / "labels.h5"):
        made = Parcellation.from_labels(given).revised(names=["A", "B", "C"])
        run = np.ones((*SHAPE, 2))
        with fs.ParcellatedScan.create(
            run, tmp_path / "p.zarr", parcellation=made, space=np.eye(4), overwrite=True
        ) as scan:
            stored = scan.parcellation
        for parcellation in (made, stored):
            header: Any = parcellation.to_nibabel([1.0, 2, 3]).header
            assert (int(header["sform_code"]), int(header["qform_code"])) == codes


def test_labelled_values_return_to_the_parcels_that_they_name() -> None:
    pandas = pytest.importorskip("pandas")
    found = parcels()
    wanted = found.to_volume([1.0, 2, 3])
    for given in (pandas.Series({"C": 3.0, "A": 1, "B": 2}), pandas.Series({2: 2.0, 3: 3, 1: 1})):
        np.testing.assert_array_equal(found.to_volume(given), wanted)


@pytest.mark.filterwarnings("ignore:::nilearn", "ignore:::sklearn")
def test_the_way_back_is_that_of_nilearn() -> None:
    maskers = pytest.importorskip("nilearn.maskers")
    found = parcels()
    values = np.random.default_rng(2).normal(size=(4, 3))
    masker = maskers.NiftiLabelsMasker(found.to_nibabel(), resampling_target=None).fit()
    theirs = masker.inverse_transform(values)
    np.testing.assert_allclose(found.to_volume(values), theirs.get_fdata(), atol=1e-6)


@pytest.mark.filterwarnings("ignore:::nilearn", "ignore:::sklearn")
def test_values_of_a_mask_return_to_the_grid(tmp_path: Path) -> None:
    nibabel: Any = pytest.importorskip("nibabel")
    maskers = pytest.importorskip("nilearn.maskers")
    mask = LABELS > 1
    run = np.random.default_rng(4).normal(size=(*SHAPE, 5)).astype("f4")
    image = nibabel.Nifti1Image(mask.astype("u1"), np.eye(4))
    masker = maskers.NiftiMasker(image, standardize=None).fit()
    with (
        fs.NeuroVec.create(run, tmp_path / "r.h5", space=np.eye(4), tr=2.0) as dense,
        fs.MaskedNeuroVec.create(dense, tmp_path / "m.h5", mask=mask) as masked,
        fs.LabeledVolumeSet.create(
            {"a": run[..., 0]}, tmp_path / "l.h5", mask=mask, space=np.eye(4)
        ) as maps,
    ):
        series = dense.series(mask=mask)
        wanted = run.copy()
        wanted[~mask] = 0
        for view in (dense, masked, maps):
            np.testing.assert_array_equal(view.unmask(series, mask), wanted)
        np.testing.assert_array_equal(masked.unmask(series), wanted)
        np.testing.assert_array_equal(maps.unmask(series[0]), wanted[..., 0])
        theirs = masker.inverse_transform(series).get_fdata()
        np.testing.assert_array_equal(dense.unmask(series, image), theirs)
        volume = np.full(SHAPE, np.nan)
        volume[mask] = series[2]
        np.testing.assert_array_equal(dense.unmask(series[2], mask, fill=np.nan), volume)
        with pytest.raises(InvalidInputError, match="without a mask"):
            dense.unmask(series)
        with pytest.raises(InvalidInputError, match="one for each voxel"):
            masked.unmask(series[:, 1:])


@pytest.mark.parametrize("text", [",", "\t\n\t\t\n", "; ;\n"])
def test_tables_of_separators_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="the table of labels is empty"):
        read_table(path, PRESENT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",".join(map(str, range(9000))) + "\n" + "1,a\n" * 9000, "far longer than others"),
        ('{"1": [' + "[]," * (2 << 20) + "[]]}", "values where"),
        ('[{"1": [' + "[]," * (2 << 20) + "[]]}]", "values where"),
        ("<a>" + "<b/>" * (2 << 20) + "</a>", "values where"),
    ],
    ids=["one long row", "an object of JSON", "a list of JSON", "XML"],
)
def test_small_tables_that_would_take_much_memory(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_table(str(path), np.array([1], np.int32))


@pytest.mark.parametrize("text", ['["a", {"x": 1}]', '[{"x": 1}, "a"]', '[{"index": 1}, {"x": 1}]'])
def test_lists_of_json_that_mix_what_they_hold(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="is JSON, but"):
        read_table(path, PRESENT)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("LH|Area_1\nLH|Area_2\n", ("LH|Area_1", "LH|Area_2")),
        ("LH|Area_1\nArea_2\n", ("LH|Area_1", "Area_2")),
        ("2|Area_2\n1|Area_1\n", AREAS),
        ("roi_name|index\nArea_2|2\nArea_1|1\n", AREAS),
        ("Area_2|2\nArea_1|1\n", AREAS),
    ],
)
def test_bars_separate_columns_or_stand_in_names(
    tmp_path: Path, text: str, names: tuple[str, ...]
) -> None:
    path = tmp_path / "table.txt"
    path.write_text(text)
    assert read_table(path, PRESENT).names == names


def test_keys_of_mappings_are_ids_and_values_of_one_length() -> None:
    found = parcels()
    with pytest.raises(InvalidInputError, match="called 0, 1, 2"):
        found.to_volume({0: 10, 1: 1, 2: 2})
    with pytest.raises(InvalidInputError, match="differ in shape"):
        found.to_volume({1: [1, 2], 2: [1], 3: [1]})
    wanted = found.to_volume([1.0, 2, 3])
    np.testing.assert_array_equal(found.to_volume({3: 3.0, 1: 1.0, 2: 2.0}), wanted)


LONG = 300_000


@pytest.mark.parametrize(
    "text",
    [
        f"1 A {'1' * LONG}x\n2 B 1\n",
        f"1 {'1' * LONG} 1 1 1x\n2 1 1 1 1x\n",
        f"A{' ' * LONG}x\nB 1\n",
        f"A {': ' * LONG}x\nB 1\n",
        f"A {'1' * LONG}\nB 1\n",
        ",".join(map(str, range(1, LONG))),
        ",".join("ab"[k % 2] for k in range(LONG)),
        f"{'9' * 5000},A\n2,B\n",
        f"{'9' * 5000}|A\n2|B\n",
        f"<a><header><type>Prob</type></header><label index='{'9' * 5000}'>A</label></a>",
        f'{{"{"9" * 5000}": "A"}}',
    ],
    ids=range(11),
)
def test_long_lines_take_no_longer_than_they_are(tmp_path: Path, text: str) -> None:
    """Each of them took the square of its length, or was an error of Python's."""
    path = tmp_path / "table"
    path.write_text(text)
    with contextlib.suppress(InvalidInputError):
        assert len(read_table(path, PRESENT)) <= 2


@pytest.mark.parametrize("text", ["Area: 3\nPole : 2\nCusp=1\n", "Area 1 3\nArea 2  2\nA : 3 1\n"])
def test_ids_behind_names(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table"
    path.write_text(text)
    found = read_table(path, PRESENT)
    assert found.ids.tolist() == [1, 2, 3]
    words = [("Cusp", "Pole", "Area"), ("A : 3", "Area 2", "Area 1")]
    assert found.names in words


def test_ids_are_numbers_as_tables_have_them() -> None:
    with pytest.raises(InvalidInputError, match="'1_0' is no id"):
        read_table({"1": "A", "1_0": "B"}, PRESENT)
