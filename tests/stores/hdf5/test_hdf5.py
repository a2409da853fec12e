"""What the HDF5 store writes, judged by plain h5py and by xarray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fmristore_stores.codecs.pipeline import PRESETS, encode, preset
from fmristore_stores.errors import (
    AlreadyExistsError,
    ClosedError,
    CodecError,
    CorruptDataError,
    InvalidInputError,
    LayoutNotSupportedError,
    NotFoundError,
    ReadOnlyError,
    SelectionError,
    StorageError,
    UnknownFormatError,
)
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.protocol import Capability, Child
from fmristore_stores.spec import STRING, ArraySpec, CodecSpec
from tests.stores.hdf5.hdf5_helpers import DEFLATE, by_references, located, run_python, spec

BLOSC = preset("dual", np.dtype("i2"))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "file.h5")


# Arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", list(PRESETS))
@pytest.mark.parametrize("dtype", ["bool", "i1", "u8", "f2", "f8", "c8", "c16"])
def test_every_dtype_and_preset_reads_back_through_h5py_and_chunk_by_chunk(
    path: str, dtype: str, codec: str
) -> None:
    values = (np.arange(35).reshape(5, 7) % 2).astype(dtype)
    wanted = spec((5, 7), dtype, chunks=(2, 3), codecs=preset(codec, np.dtype(dtype)))
    with HDF5Store(path, mode="w") as store:
        array = store.root.create_array("0", wanted)
        assert array.spec == wanted
        array.write(None, values)
    import hdf5plugin  # noqa: F401

    with h5py.File(path) as file:
        assert file["0"].dtype == np.dtype(dtype)
        assert file["0"].chunks == (2, 3)
        np.testing.assert_array_equal(file["0"][...], values)
    with HDF5Store(path, mode="r") as store:
        again = store.root.array("0")
        assert again.spec == wanted
        assert located(again)
        assert by_references(again).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("wanted", "chunked"),
    [
        (spec((5, 7)), False),
        (spec((5, 7), chunks=(5, 1)), True),
        (spec((5, 7), codecs=DEFLATE), True),
        (spec(()), False),
        (spec((0, 3)), False),
        (spec((0, 3), codecs=DEFLATE), True),
        (spec((4, 0), chunks=(2, 1)), True),
    ],
    ids=str,
)
def test_storage_follows_the_layout(path: str, wanted: ArraySpec, *, chunked: bool) -> None:
    with HDF5Store(path, mode="w") as store:
        array = store.root.create_array("0", wanted)
        assert array.spec == wanted
        assert (Capability.RAW_WRITE in array.capabilities) == chunked
        array.write(None, 1)
    with h5py.File(path) as file:
        assert (file["0"].chunks is not None) == chunked
        assert file["0"].shape == wanted.shape
        assert (file["0"][...] == 1).all()
    with HDF5Store(path, mode="r") as store:
        assert store.root.array("0").spec == wanted
        assert store.root.array("0").read().shape == wanted.shape


def test_regions_with_steps_zero_lengths_and_scalars(path: str) -> None:
    values = np.arange(60, dtype="f4").reshape(5, 12)
    with HDF5Store(path, mode="w") as store:
        array = store.root.create_array("0", spec((5, 12), "f4", chunks=(2, 5), codecs=DEFLATE))
        array.write(None, values)
        for region in [
            (slice(0, 5, 2), slice(1, 12, 3)),
            (slice(2, 2), slice(0, 12)),
            (slice(4, 5), slice(11, 12)),
        ]:
            np.testing.assert_array_equal(array.read(region), values[region])
        out = np.zeros((12, 5), "f4").T
        assert array.read(None, out) is out
        np.testing.assert_array_equal(out, values)
        array.write((slice(0, 5, 2), slice(0, 12, 4)), [[1, 2, 3]])
        assert array.read()[::2, ::4].tolist() == [[1, 2, 3]] * 3
        with pytest.raises(SelectionError):
            array.read((slice(0, 6), slice(0, 12)))
        with pytest.raises(InvalidInputError):
            array.read(None, np.zeros((5, 12), "f8"))
        with pytest.raises(InvalidInputError):
            array.write(None, np.zeros(7))
        number = store.root.create_array("n", spec((), "f8", fill=2.5))
        assert number.read() == 2.5
        number.write(None, 4)
        assert number.read().shape == ()
        assert number.read()[()] == 4


def test_fill_values(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        store.root.create_array("nan", spec((2,), "f8", fill=np.nan, codecs=DEFLATE))
        store.root.create_array("word", spec((2,), STRING, fill="né"))
        store.root.create_array("none", spec((2,), "u1"))
        assert store.root.array("none").spec.fill_value is None
    with h5py.File(path) as file:
        assert np.isnan(file["nan"][...]).all()
        assert file["word"].asstr()[0] == "né"
    with HDF5Store(path, mode="r") as store:
        assert store.root.array("word").spec.fill == "né"
        assert store.root.array("word").read().tolist() == ["né", "né"]


@pytest.mark.parametrize(
    "codecs", [(), (CodecSpec.of("shuffle", elementsize=16), *DEFLATE)], ids=len
)
def test_text(path: str, codecs: tuple[CodecSpec, ...]) -> None:
    words = np.array([["a", "", "é"], ["\U0001f9e0", "x" * 5000, " b "]], STRING)
    with HDF5Store(path, mode="w") as store:
        wanted = spec((2, 3), STRING, chunks=(1, 3), codecs=codecs)
        array = store.root.create_array("0", wanted)
        assert array.spec == wanted
        assert array.capabilities & (Capability.RAW_WRITE | Capability.CHUNK_REFS) == (
            Capability.NONE
        )
        array.write(None, words)
        array.write((slice(0, 1), slice(0, 2)), np.array([["b", "c"]]))
        for bad in ["nul\x00", "n\x00l", "\ud800"]:
            with pytest.raises(InvalidInputError):
                array.write(None, [[bad] * 3] * 2)
        assert array.read((slice(0, 2), slice(2, 3))).tolist() == [["é"], [" b "]]
        out = np.empty((2, 3), STRING)
        assert array.read(None, out) is out
        assert out[0].tolist() == ["b", "c", "é"]
    with h5py.File(path) as file:
        assert h5py.check_string_dtype(file["0"].dtype) == ("utf-8", None)
        assert file["0"].asstr()[1].tolist() == words[1].tolist()


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (spec((8, 8), chunks=(2, 2), shards=(4, 4)), "shards"),
        (spec((8, 8), chunks=(2, 2), order=(1, 0)), "permute"),
        (spec((8, 8), chunks=(9, 2)), "clip"),
        (spec((), codecs=DEFLATE), "single number"),
        (spec((2**33,), "u1", chunks=(2**32,)), "4 GiB"),
        (spec((8,), "i4", codecs=(CodecSpec.of("shuffle", elementsize=2),)), "elements of 4"),
    ],
)
def test_layouts_that_hdf5_does_not_have_are_refused(
    path: str, wanted: ArraySpec, text: str
) -> None:
    with HDF5Store(path, mode="w") as store:
        with pytest.raises(LayoutNotSupportedError, match=text):
            store.root.create_array("0", wanted)
        with pytest.raises(CodecError):
            store.root.create_array("0", spec((8,), codecs=(CodecSpec.of("crc32c"),)))
        assert store.root.children() == {}


# Encoded chunks and plugins ------------------------------------------------------------------


def test_many_chunks_are_located_as_one_is(path: str) -> None:
    """Also by the table of a file, which is read once for all handles of an array."""
    with HDF5Store(path, mode="w") as store:
        array = store.root.create_array("0", spec((20, 30), chunks=(2, 3), codecs=BLOSC))
        array.write(None, np.arange(600, dtype="i2").reshape(20, 30))
    keys = [(row, column) for column in range(10) for row in range(10)]
    with HDF5Store(path, mode="r") as store:
        each = [store.root.array("0").refs([key])[0] for key in keys]
        array = store.root.array("0")
        assert array.refs(keys) == each
        again = store.root.array("0")
        assert again._finder._index is array._finder._index is not None
        assert again.refs(keys[::-1]) == each[::-1]
        assert again.refs([]) == []
        for wrong in ((10, 0), (0, -1), (0,), (0, 0, 0)):
            for asked in ([wrong], [(0, 0), wrong], [wrong, (0, 0)]):
                with pytest.raises(SelectionError):
                    again.refs(asked)


def test_encoded_chunks_are_stored_as_given(path: str) -> None:
    values = np.arange(12, dtype="i2").reshape(4, 3)
    with HDF5Store(path, mode="w") as store:
        array = store.root.create_array("0", spec((4, 3), chunks=(2, 3), codecs=BLOSC))
        array.write_encoded((1, 0), [encode(BLOSC, values[2:])])
        array.write_encoded((0, 0), [None])
        with pytest.raises(SelectionError):
            array.write_encoded((2, 0), [b"x"])
        with pytest.raises(InvalidInputError):
            array.write_encoded((0, 0), [b"x", b"y"])
        with pytest.raises(LayoutNotSupportedError):
            array.refs([(0, 0)])
        plain = store.root.create_array("plain", spec((4, 3)))
        with pytest.raises(LayoutNotSupportedError):
            plain.write_encoded((0, 0), [b"x"])
    with HDF5Store(path, mode="r") as store:
        array = store.root.array("0")
        missing, found = array.refs([(0, 0), (1, 0)])
        assert missing is None
        assert found is not None
        assert bytes(array.fetch([found.range])[0]) == bytes(encode(BLOSC, values[2:]))
        np.testing.assert_array_equal(array.read(), np.vstack([np.zeros((2, 3)), values[2:]]))
        with pytest.raises(SelectionError):
            array.refs([(0, 1)])
        with pytest.raises(SelectionError):
            array.refs([(0,)])
        with pytest.raises(ReadOnlyError):
            array.write_encoded((0, 0), [b"x"])


def test_encoded_chunks_replace_chunks_that_lack_filters(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        codecs = preset("dual", np.dtype("f4"))
        wanted_spec = spec((3, 2), "f4", chunks=(2, 2), codecs=codecs, fill=9)
        array = store.root.create_array("0", wanted_spec)
        array.write(None, np.random.default_rng(0).random((3, 2)))  # HDF5 gives up on these
        new = np.arange(4, dtype="f4").reshape(2, 2)
        array.write_encoded((0, 0), [encode(codecs, new)])
        array.write_encoded((1, 0), [encode(codecs, new + 1)])
        wanted = [[0, 1], [2, 3], [1, 2]]
        assert array.read().tolist() == wanted
    with HDF5Store(path, mode="r+") as store:
        assert store.root.array("0").read().tolist() == wanted
        store.root.array("0").write_encoded((1, 0), [None])
        assert store.root.array("0").read().tolist() == [*wanted[:2], [9, 9]]
    with HDF5Store(path, mode="r") as store:
        assert by_references(store.root.array("0")).tolist() == [*wanted[:2], [9, 9]]


def test_contiguous_arrays_are_one_chunk(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        store.root.create_array("0", spec((4, 3))).write(None, np.arange(12).reshape(4, 3))
        store.root.create_array("late", spec((4, 3)))
    with HDF5Store(path, mode="r") as store:
        array = store.root.array("0")
        (ref,) = array.refs([(0, 0)])
        assert ref is not None
        assert np.frombuffer(array.fetch([ref.range])[0], "i2").tolist() == list(range(12))
        assert store.root.array("late").refs([(0, 0)]) == [None]
        with pytest.raises(CorruptDataError, match="truncated"):
            array.fetch([ref.range._replace(offset=10**6)])


def test_a_plugin_that_appears_after_creation_does_not_damage_the_header(path: str) -> None:
    code = """
        import sys
        import numpy as np
        from fmristore_stores.codecs.pipeline import preset
        from fmristore_stores.hdf5.store import HDF5Store
        from fmristore_stores.spec import ArraySpec, ChunkLayout

        with HDF5Store(sys.argv[1], mode="w") as store:
            codecs = preset("dual", np.dtype("i2"))
            layout = ChunkLayout(chunks=(2, 4))
            spec = ArraySpec(
                shape=(5, 4), dtype="i2", dims=("t", "x"), layout=layout, codecs=codecs
            )
            array = store.root.create_array("0", spec)
            assert "hdf5plugin" not in sys.modules
            array.write(None, 3)
            assert "hdf5plugin" in sys.modules
            array.write_attributes({f"a{i}": i for i in range(20)})
    """
    done = run_python(code, path)
    assert done.returncode == 0, done.stderr
    with HDF5Store(path, mode="r") as store:
        assert (store.root.array("0").read() == 3).all()
        assert len(store.root.array("0").read_attributes()) == 20


def test_without_the_plugin_chunks_are_copied_but_not_coded(path: str) -> None:
    code = """
        import sys
        sys.modules["hdf5plugin"] = None
        import numpy as np
        from fmristore_stores.codecs.pipeline import encode, preset
        from fmristore_stores.errors import CodecError
        from fmristore_stores.hdf5.store import HDF5Store
        from fmristore_stores.spec import ArraySpec, ChunkLayout

        codecs = preset("dual", np.dtype("i2"))
        with HDF5Store(sys.argv[1], mode="w") as store:
            layout = ChunkLayout(chunks=(2, 4))
            spec = ArraySpec(shape=(4, 4), dtype="i2", layout=layout, codecs=codecs)
            array = store.root.create_array("0", spec)
            array.write_encoded((1, 0), [encode(codecs, np.full((2, 4), 7, "i2"))])
            for action in (lambda: array.read(), lambda: array.write(None, 3)):
                try:
                    action()
                except CodecError as error:
                    assert "32001 (blosc)" in str(error)
                    assert 'pip install "fmristore[hdf5-filters]"' in str(error)
                else:
                    raise SystemExit("not refused")
    """
    done = run_python(code, path)
    assert done.returncode == 0, done.stderr
    with HDF5Store(path, mode="r") as store:
        assert store.root.array("0").read()[:, 0].tolist() == [0, 0, 7, 7]


# Groups, links, the store --------------------------------------------------------------------


def test_links_and_names(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        root = store.root
        root.create_array("z", spec((2,)))
        group = root.create_group("a", {"n": 1})
        group.create_array("deep", spec((2,))).write(None, [1, 2])
        root.link("data", "a/deep")
        assert root.children() == {
            "a": Child("group"),
            "data": Child("link", "a/deep"),
            "z": Child("array"),
        }
        assert group.children() == {"deep": Child("array")}
        assert root.array("data").read().tolist() == [1, 2]
        with pytest.raises(InvalidInputError):
            group.link("up", "a")
        with pytest.raises(NotFoundError):
            root.link("b", "nowhere")
        for name in ("a", "data"):
            with pytest.raises(AlreadyExistsError):
                root.create_group(name)
        for bad in ("", ".", "..", "a/b", "n\x00l"):
            with pytest.raises(InvalidInputError):
                root.create_group(bad)
        root.remove("a")
        assert root.children()["data"] == Child("array")
        for wrong in ("data/x", "../z", "/z", "z/", "", "nope"):
            with pytest.raises(NotFoundError):
                root.array(wrong)
        with pytest.raises(NotFoundError, match="'data', 'z'"):
            root.array("nope")
        with pytest.raises(NotFoundError, match="array has that name"):
            root.group("z")
    with h5py.File(path) as file:
        assert file["/"].id.get_create_plist().get_link_creation_order()
        assert list(file["/"].id) == [b"z", b"data"]


def test_a_closed_store_refuses_everything(path: str) -> None:
    store = HDF5Store(path, mode="w")
    root = store.root
    array = root.create_array("0", spec((2,), chunks=(1,)))
    store.close()
    store.close()
    assert store.closed
    attempts: list[Callable[[], Any]] = [
        lambda: store.root,
        root.children,
        root.read_attributes,
        lambda: root.write_attributes({}),
        lambda: root.array("0"),
        lambda: root.group("0"),
        lambda: root.create_group("g"),
        lambda: root.remove("0"),
        lambda: root.link("1", "0"),
        array.read,
        lambda: array.write(None, 1),
        array.read_attributes,
        lambda: array.refs([(0,)]),
        lambda: array.fetch([]),
        lambda: array.write_encoded((0,), [b""]),
    ]
    for attempt in attempts:
        with pytest.raises(ClosedError):
            attempt()


def test_opening_what_is_not_there_or_not_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with pytest.raises(NotFoundError):
        HDF5Store(str(path), mode="r")
    with pytest.raises(NotFoundError):
        HDF5Store(str(tmp_path / "no" / "file.h5"), mode="w")
    with pytest.raises(UnknownFormatError):
        HDF5Store(str(tmp_path), mode="r")
    path.write_bytes(b"something else" * 100)
    with pytest.raises(UnknownFormatError, match=r"file\.h5"):
        HDF5Store(str(path), mode="r")
    path.unlink()
    with HDF5Store(str(path), mode="w") as store:
        store.root.create_array("0", spec((1000,))).write(None, 1)
        with pytest.raises(StorageError, match="in use"):
            HDF5Store(str(path), mode="r+")
    with pytest.raises(AlreadyExistsError):
        HDF5Store(str(path), mode="w")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptDataError, match="truncated"):
        HDF5Store(str(path), mode="r", url="s3://bucket/file.h5")


def test_a_file_that_another_process_writes_can_be_read_but_not_changed(path: str) -> None:
    code = """
        import sys
        from fmristore_stores.errors import StorageError
        from fmristore_stores.hdf5.store import HDF5Store

        print(list(HDF5Store(sys.argv[1], mode="r").root.children()))
        try:
            HDF5Store(sys.argv[1], mode="r+")
        except StorageError as error:
            print("in use" in str(error))
    """
    with HDF5Store(path, mode="w") as store:
        store.root.create_group("g")
        store.close()
    with HDF5Store(path, mode="r+"):
        done = run_python(code, path)
    assert done.stdout.split("\n")[:2] == ["['g']", "True"], done.stderr


def test_a_store_open_for_reading_refuses_changes(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        store.root.create_array("0", spec((2,)))
        always = Capability.HARD_LINKS | Capability.TYPED_ATTRIBUTES
        assert store.capabilities == Capability.WRITE | Capability.RAW_WRITE | always
    with HDF5Store(path, mode="r") as store:
        assert store.capabilities == Capability.CHUNK_REFS | always
        root = store.root
        for attempt in (
            lambda: root.create_group("g"),
            lambda: root.create_array("1", spec((2,))),
            lambda: root.remove("0"),
            lambda: root.link("1", "0"),
            lambda: root.write_attributes({}),
            lambda: root.array("0").write(None, 1),
        ):
            with pytest.raises(ReadOnlyError):
                attempt()
