"""Damaged and hostile stores of every format, and hostile names, in both kinds of store."""

from __future__ import annotations

import json
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal

import fmristore as fs
from fmristore.testing.formats import copy_store
from fmristore_stores.errors import (
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    MetadataError,
)
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import AnyArray, Group
from fmristore_stores.spec import ArraySpec, ChunkLayout
from tests.every_format import GRID, LABELS, MASK, NAMES, RUN, SPACE, WRITERS, write
from tests.images import STORES, run_python, snapshot
from tests.old_affine import with_affine_array

LONG = "x" * 10_240
BEYOND = 10**400
"""A whole number that JSON can hold and float64 cannot."""


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A store of each format and kind, written once; copies of it are to be damaged."""
    folder = tmp_path_factory.mktemp("whole")

    def find(name: str, kind: str) -> Path:
        url = folder / f"{name}.{kind}"
        return url if url.exists() else write(name, url)

    return find


# Damage -------------------------------------------------------------------------------------


def put(url: Path, node: str, values: AnyArray | None, dims: tuple[str, ...] | None = None) -> None:
    """Put another array in the place of one, with its attributes; None removes it."""
    folder, _, name = node.rpartition("/")
    with open_store(url, "r+") as store:
        group = store.root.group(folder) if folder else store.root
        array = group.array(name)
        attributes, kept = array.read_attributes(), array.spec.dims
        group.remove(name)
        if values is not None:
            named = kept if dims is None else dims
            spec = ArraySpec(
                shape=values.shape,
                dtype=values.dtype,
                dims=named if len(named) == values.ndim else (),
                layout=ChunkLayout(chunks=tuple(max(1, n) for n in values.shape)),
            )
            group.create_array(name, spec, attributes).write(None, values)


def get(url: Path, node: str) -> AnyArray:
    with open_store(url) as store:
        return store.root.array(node).read()


def set_attribute(url: Path, node: str, name: str, value: Any) -> None:
    """Set an attribute to anything that JSON can say, behind the package's back."""
    if url.is_dir():
        for path in (url / "zarr.json", url / node / "zarr.json"):
            metadata = json.loads(path.read_text())
            metadata.pop("consolidated_metadata", None)
            if path.parent == url / node:
                metadata["attributes"][name] = value
            path.write_text(json.dumps(metadata))
        return
    with h5py.File(url, "r+") as file:
        attributes = file[node or "/"].attrs
        attributes[name] = json.dumps(value)
        names = {n if isinstance(n, str) else n.decode() for n in attributes.get("_json", [])}
        attributes["_json"] = [n.encode() for n in {*names, name}]


def use(url: Path, name: str) -> None:
    """Ask an object for everything, in small."""
    with fs.open(url) as stored:
        repr(stored)
        stored.describe()
        stored.check()
        if name == "parcellatedmultiscan":
            for scan in stored.values():
                np.asarray(scan)
        else:
            np.asarray(stored)


def nodes(group: Group, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every group and array below a group, and it."""
    yield path, group
    for name, child in group.children().items():
        below = f"{path}/{name}".strip("/")
        if child.kind == "group":
            yield from nodes(group.group(name), below)
        else:
            yield below, group.array(name)


INFORMATIVE = {"access", "digest", "fmristore_writer", "long_name", "ome", "units"}


def attacks(url: Path) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Attributes and arrays of a store, each replaced by what it should not be."""
    with open_store(url) as store:
        found = [
            (path, node.read_attributes(), node.read() if hasattr(node, "spec") else None)
            for path, node in nodes(store.root)
        ]
    for path, attributes, values in found:
        for name in sorted(attributes.keys() - INFORMATIVE):
            number = isinstance(attributes[name], int | float)
            value = BEYOND if number else [LONG, {"a": None}]
            yield f"{path}@{name}", partial(set_attribute, node=path, name=name, value=value)
        if values is not None and not path.startswith(("data", "space/")):
            text = np.full(values.shape, "x", np.dtypes.StringDType())
            for what, other in {
                "missing": None,
                "text": text if values.dtype.kind != "T" else np.zeros(values.shape),
                "longer": np.concatenate([np.atleast_1d(values), np.atleast_1d(values)[-1:]]),
            }.items():
                yield f"{path} {what}", partial(put, node=path, values=other)


@pytest.mark.once
@pytest.mark.filterwarnings("error::RuntimeWarning", "error::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize("name", WRITERS)
def test_whatever_is_replaced_ends_in_numbers_or_our_error(
    tmp_path: Path, stores: Callable[[str, str], Path], kind: str, name: str
) -> None:
    """Each attack in one kind of store: formats see the same nodes in both."""
    whole = stores(name, kind)
    url = tmp_path / f"damaged.{kind}"
    told = []
    for what, attack in attacks(whole):
        if STORES[zlib.crc32(what.encode()) % len(STORES)] != kind:
            continue
        attack(copy_store(whole, url))
        try:
            use(url, name)
        except FmristoreError as error:
            told.append((str(error), what))
    assert told
    assert [pair for pair in told if url.name not in pair[0] or len(pair[0]) > 2500] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [url.name]


PARCELS = ("parcellatedmultiscan", "parcellatedscan", "parcellatedscansummary")
MASKED = ("labeledvolumeset", "latentneurovec", "maskedneurovec")


def changed(node: str, change: Callable[[AnyArray], AnyArray]) -> Callable[[Path], None]:
    return lambda url: put(url, node, change(get(url, node)))


def of_before(change: Callable[[AnyArray], AnyArray]) -> Callable[[Path], None]:
    """Change the affine of a store as version 1.1 wrote it."""

    def damage(url: Path) -> None:
        with_affine_array(url)
        changed("affine", change)(url)

    return damage


DAMAGE: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "labels that are right modulo 2**32": (
        PARCELS,
        changed("parcellation/labels", lambda v: v.astype("i8") + (v > 0) * 2**32),
    ),
    "negative labels": (PARCELS, changed("parcellation/labels", lambda v: -v)),
    "complex indptr": (PARCELS, changed("parcellation/indptr", lambda v: v.astype("c16"))),
    "ids beyond 64 bits": (PARCELS, changed("parcellation/ids", lambda v: v.astype("u8") - 9)),
    "ids that fall": (PARCELS, changed("parcellation/ids", lambda v: v[::-1].copy())),
    "complex affine": (tuple(WRITERS), of_before(lambda v: v.astype("c16"))),
    "affine of truths": (tuple(WRITERS), of_before(lambda v: v != 0)),
    "mask with its axes turned round": (
        MASKED,
        lambda url: put(url, "mask", get(url, "mask"), ("x", "y", "z")),
    ),
    "mask and voxels of other grids": (MASKED, changed("mask", lambda v: v[:-1])),
    "voxels outside the grid": (
        ("latentneurovec",),
        changed("voxels", lambda v: v + np.array([0, 0, 2**20], "i4")),
    ),
    "truth as fill": (MASKED[::2], lambda url: set_attribute(url, "0", "fill", value=True)),
    "fill beyond float64": (
        MASKED[::2],
        lambda url: set_attribute(url, "0", "fill", -BEYOND),
    ),
    "two scans of one position": (
        ("latentneurovec",),
        lambda url: set_attribute(url, "scans/two", "position", 0),
    ),
    "truth as position": (
        ("latentneurovec",),
        lambda url: set_attribute(url, "scans/two", "position", value=True),
    ),
    "runs of different grids": (
        ("neurovecseq",),
        changed("runs/task/0", lambda v: v[..., :-1].copy()),
    ),
    "name of a run that is a list": (
        ("neurovecseq",),
        lambda url: set_attribute(url, "runs/task", "name", ["task"]),
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("case", DAMAGE)
def test_contradictions_are_told(
    tmp_path: Path, stores: Callable[[str, str], Path], kind: str, case: str
) -> None:
    names, damage = DAMAGE[case]
    for name in names:
        url = copy_store(stores(name, kind), tmp_path / f"damaged.{kind}")
        damage(url)
        with pytest.raises(MetadataError) as caught:
            use(url, name)
        assert url.name in str(caught.value)


@pytest.mark.parametrize("name", ["maskedneurovec", "neurovecseq", *PARCELS])
def test_times_that_are_no_numbers(
    tmp_path: Path, stores: Callable[[str, str], Path], kind: str, name: str
) -> None:
    """Nobody needs them to read the data, but they are wrong."""
    path = {"neurovecseq": "runs/rest/t", "maskedneurovec": "t"}.get(name, "scans/rest/t")
    for convert in (lambda v: v.astype("c16"), lambda v: np.full(v.shape, "1", "T")):
        url = copy_store(stores(name, kind), tmp_path / f"damaged.{kind}")
        put(url, path, convert(get(url, path)))
        use(url, name)
        assert [problem.kind for problem in fs.verify(url).problems] == ["times"]


def test_sparse_loadings_that_leave_out_entries(tmp_path: Path, kind: str) -> None:
    url = tmp_path / f"sparse.{kind}"
    rng = np.random.default_rng(0)
    loadings = scipy.sparse.csr_array(np.eye(int(MASK.sum()), 3) + rng.normal(size=(1, 3)))
    for where, by in ((0, 1), (-1, -1)):
        fs.LatentNeuroVec.create(
            rng.normal(size=(5, 3)), loadings, url, mask=MASK, space=GRID, overwrite=True
        ).close()
        indptr = get(url, "loadings/indptr")
        indptr[where] += by
        put(url, "loadings/indptr", indptr)
        with fs.open(url) as latent, pytest.raises(CorruptDataError, match="indptr") as caught:
            np.asarray(latent)
        assert url.name in str(caught.value)


# Files of the R package ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "node", "change"),
    [
        ("parcel_multiscan_full.h5", "clusters/cluster_ids", lambda v: v + 0.5),
        ("parcel_multiscan_full.h5", "clusters/cluster_ids", lambda v: v * np.nan),
        ("parcel_multiscan_full.h5", "cluster_map", lambda v: v + 2**32),
        ("latent_sparse_offset.lv.h5", "basis/basis_matrix_sparse/indptr", lambda v: v * 0),
        ("latent_sparse_offset.lv.h5", "basis/basis_matrix_sparse/indices", lambda v: v - 1),
        ("latent_sparse_offset.lv.h5", "voxel_coords", lambda v: v + 1000),
        ("neurovecseq_double_c0.h5", "space/trans", lambda v: v.astype("c16")),
        ("labeled_dots.h5", "mask", lambda v: v[:-1]),
        ("neurovol_float_c4.h5", "space/dim", lambda v: v * 1j),
    ],
)
def test_damaged_files_of_r(
    tmp_path: Path, shared_data: Path, name: str, node: str, change: Callable[[AnyArray], AnyArray]
) -> None:
    url = tmp_path / name
    url.write_bytes((shared_data / "golden/r-fmristore" / name).read_bytes())
    with h5py.File(url, "r+") as file:
        values = np.asarray(file[node])
        del file[node]
        file[node] = change(values.astype("f8" if values.dtype.kind == "f" else "i8"))
    before = snapshot(tmp_path)
    with pytest.raises((CorruptDataError, MetadataError)) as caught:
        use(url, "parcellatedmultiscan" if name.startswith("parcel") else "")
    assert name in str(caught.value)
    assert snapshot(tmp_path) == before


def test_a_complex_repetition_time_of_r_is_none(tmp_path: Path, shared_data: Path) -> None:
    url = tmp_path / "a.lv.h5"
    source = shared_data / "golden/r-fmristore/latent_dense_offset.lv.h5"
    url.write_bytes(source.read_bytes())
    with h5py.File(url, "r+") as file:
        values = file["header/pixdim"][...]
        del file["header/pixdim"], file["scans"][next(iter(file["scans"]))]["metadata/TR"]
        file["header/pixdim"] = values.astype("c16")
    with fs.open(url) as latent:
        assert latent.tr is None


# Arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"names": {BEYOND: "a"}},
        {"names": [f"{n}\0" for n in "abc"]},
        {"space": GRID, "tr": BEYOND},
        {"space": [[BEYOND] * 4] * 4},
        {"slope": BEYOND},
    ],
    ids=["id", "NUL", "tr", "affine", "slope"],
)
def test_arguments(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    url = tmp_path / f"new.{kind}"
    options = {"space": SPACE} | options
    create: Any = fs.NeuroVec.create
    if "names" in options:
        create = partial(fs.ParcellatedScan.create, parcellation=LABELS)
    with pytest.raises(InvalidInputError):
        create(RUN, url, **options)
    assert not list(tmp_path.iterdir())


def test_numbers_beyond_float64(tmp_path: Path, kind: str) -> None:
    url = tmp_path / f"new.{kind}"
    with pytest.raises(InvalidInputError, match="fill"):
        fs.MaskedNeuroVec.create(RUN * 1.0, url, mask=MASK, space=SPACE, fill=BEYOND)
    with pytest.raises(InvalidInputError, match="TR"):
        fs.LatentNeuroVec.create(
            np.ones((5, 3)), np.ones((MASK.sum(), 3)), url, mask=MASK, space=GRID, tr=BEYOND
        )
    assert not list(tmp_path.iterdir())


def test_columns_of_numbers_beyond_float64_are_text(tmp_path: Path, kind: str) -> None:
    table = {"index": [1, 2, 3], "name": list("abc"), "huge": [BEYOND, 1, 2]}
    with fs.ParcellatedScan.create(
        RUN, tmp_path / f"a.{kind}", parcellation=LABELS, names=table, space=SPACE
    ) as scan:
        assert scan.parcellation.columns["huge"].tolist() == [str(BEYOND), "1", "2"]


# Names ---------------------------------------------------------------------------------------

COMPOSED = "\u00e9" * 128
HOSTILE = [
    *("..", "/etc/passwd", "a/b", "a%2Fb", "a\\b", "..\\..", "zarr.json", "__x", "_", "0", "c"),
    *("x ", "x.", " x", "CON", "aux.nii", "NUL", "Rest", "rest", "scans", "name", "metadata"),
    *("%", "~", "%~0", "*?<>|:\"'", "\x7f", "\n", "\u202e", "${HOME}", "file:///x", LONG),
    *("a" * 255, "a" * 256, COMPOSED, unicodedata.normalize("NFD", COMPOSED), "\U0001f9e0" * 100),
]
SMALL = RUN[..., :2]


def _runs(url: Path, names: list[str]) -> list[AnyArray]:
    runs = {name: SMALL + n for n, name in enumerate(names)}
    fs.NeuroVecSeq.create(runs, url, space=GRID).close()
    with fs.open(url) as found:
        assert list(found.runs) == names
        return [np.asarray(found.run(name)) for name in names]


def _scans(url: Path, names: list[str]) -> list[AnyArray]:
    first, *others = names
    with fs.ParcellatedMultiScan.create(
        {first: SMALL}, url, parcellation=np.ones(SMALL.shape[:3], "i4"), space=GRID
    ) as multi:
        multi.add_scans({name: SMALL + n for n, name in enumerate(others, 1)})
    with fs.open(url) as found:
        assert list(found.scan_names) == names
        return [np.asarray(found[name]) for name in names]


def _maps(url: Path, names: list[str]) -> list[AnyArray]:
    names = [name for name in names if name.strip()]
    maps = {name: SMALL[..., 0] + n for n, name in enumerate(names)}
    fs.LabeledVolumeSet.create(maps, url, mask=np.ones(GRID.shape), space=GRID).close()
    with fs.open(url) as found:
        assert list(found.labels) == names
        return [np.stack([found[name], SMALL[..., 1] + n], -1) for n, name in enumerate(names)]


@pytest.mark.parametrize("store", [_runs, _scans, _maps])
def test_hostile_names_come_back_and_reach_no_path(
    tmp_path: Path, kind: str, store: Callable[[Path, list[str]], list[AnyArray]]
) -> None:
    """Twins of Unicode, of case and of encoding among them: all are different names."""
    url = tmp_path / f"names.{kind}"
    for n, values in enumerate(store(url, HOSTILE if store is not _maps else sorted(HOSTILE))):
        assert_array_equal(values, SMALL + n)
    assert [path.name for path in tmp_path.iterdir()] == [url.name]


def test_hostile_columns_parcels_and_metadata(tmp_path: Path, kind: str) -> None:
    columns = [name.strip() for name in HOSTILE if name.strip() not in ("name", "0", "", "x")]
    table = {"index": [1, 2, 3], "name": HOSTILE[:3]}
    table |= {name: [n, n, n] for n, name in enumerate(columns)}
    metadata = {name: name for name in HOSTILE if "/" not in name and len(name.encode()) < 256}
    url = tmp_path / f"table.{kind}"
    options: dict[str, Any] = {"parcellation": LABELS, "names": table, "space": SPACE}
    fs.ParcellatedScan.create(RUN, url, metadata=metadata, **options).close()
    with fs.open(url) as scan:
        assert dict(scan.metadata) == metadata
        assert list(scan.parcellation.names) == HOSTILE[:3]
        found = scan.parcellation.columns
        assert {k: v.tolist() for k, v in found.items()} == {k: table[k] for k in columns}
    for name in ("a/b", LONG, "", "a\0b", "\ud800"):
        with pytest.raises(InvalidInputError):
            fs.ParcellatedScan.create(RUN, tmp_path / f"b.{kind}", metadata={name: 1}, **options)
    assert [path.name for path in tmp_path.iterdir()] == [url.name]


def test_names_that_r_cannot_have(tmp_path: Path) -> None:
    """Refused by R's layouts, or read back as they are; long ones do not fill the screen."""
    told = []
    for n, name in enumerate(HOSTILE):
        url = tmp_path / f"{n}.h5"
        try:
            fs.ParcellatedScan.create(
                SMALL, url, parcellation=LABELS, names=NAMES, space=GRID, name=name, profile="r"
            ).close()
        except InvalidInputError as error:
            told.append(str(error))
            left = url.exists()
        else:
            left = False
            with fs.open(url) as scan:
                assert scan.name == name
        assert not left
    assert 0 < max(map(len, told)) < 500
    assert {path.suffix for path in tmp_path.iterdir()} == {".h5"}


# Interrupted ---------------------------------------------------------------------------------

_ADD = """
import os, resource, signal, sys
import numpy as np
import fmristore as fs
how, url = sys.argv[1:]
def die(*_, **__):
    os._exit(7)
if how == "killed":
    os.replace = os.rename = die
else:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
stored = fs.open(url)
values = np.random.default_rng(0).normal(size=(6, 5, 4, 80))
try:
    if hasattr(stored, "add_scan"):
        stored.add_scan("new", values)
    else:
        stored.add("new", values[..., 0])
except fs.errors.StorageError as error:
    print(error)
    sys.exit(8)
"""


@pytest.mark.once
@pytest.mark.skipif("sys.platform == 'win32'", reason="needs POSIX limits")
@pytest.mark.parametrize("name", ["labeledvolumeset", "parcellatedmultiscan"])
@pytest.mark.parametrize(("how", "code"), [("killed", 7), ("full disk", 8)])
def test_adding_that_ends_in_the_middle(
    tmp_path: Path, stores: Callable[[str, str], Path], kind: str, name: str, how: str, code: int
) -> None:
    if (name, kind, code) == ("labeledvolumeset", "h5", 8):
        pytest.skip("the HDF5 library itself crashes where there is no room for its metadata")
    url = copy_store(stores(name, kind), tmp_path / f"a.{kind}")

    def numbers(stored: Any, key: str) -> AnyArray:
        return np.asarray(stored[key])

    with fs.open(url) as stored:
        keys = stored.part_names
        before = [numbers(stored, key) for key in keys]
    done = run_python(_ADD, how, url)
    assert done.returncode == code, done.stderr
    assert code == 7 or url.name in done.stdout
    with fs.open(url) as stored:
        assert stored.part_names == keys
        for key, values in zip(keys, before, strict=True):
            assert_array_equal(numbers(stored, key), values)
        if name == "labeledvolumeset":
            stored.add("new", RUN[..., 3] / 2)
        else:
            stored.add_scan("new", SMALL)
        assert stored.part_names == (*keys, "new")
