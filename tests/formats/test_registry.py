"""Which class reads which format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore.formats import registry
from fmristore.formats.registry import FORMAT, VERSION, WRITER, find_format, formats, register
from fmristore_stores import open_store
from fmristore_stores.errors import (
    InvalidInputError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from tests.images import SHAPE, STORES, make_values, store

RUN = {FORMAT: "neurovec", VERSION: "1.0"}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry whose changes are undone."""
    formats()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


class TestRegister:
    def test_built_in_formats(self) -> None:
        assert formats()["neurovec"] is fs.NeuroVec
        assert formats()["neurovol"] is fs.NeuroVol
        for name, cls in formats().items():
            assert cls.format_name == name

    def test_the_table_is_read_only(self) -> None:
        with pytest.raises(TypeError):
            formats()["mine"] = int  # type: ignore[index]

    @pytest.mark.usefixtures("fresh")
    def test_a_format_of_ones_own(self, tmp_path: Path) -> None:
        @register("mine")
        class Mine:
            format_version = (2, 3)

            def __init__(self, handle: Any) -> None:
                self.handle = handle

        assert formats()["mine"] is Mine
        assert find_format({FORMAT: "mine", VERSION: "2.9"}, url="a.h5") is Mine
        with pytest.raises(UnsupportedVersionError, match=r"3\.0 is newer than 2\.3"):
            find_format({FORMAT: "mine", VERSION: "3.0"}, url="a.h5")

    @pytest.mark.usefixtures("fresh")
    def test_a_name_is_given_once(self) -> None:
        with pytest.raises(InvalidInputError, match="'neurovec' is registered already"):
            register("neurovec")(type("Other", (), {}))
        assert formats()["neurovec"] is fs.NeuroVec
        register("neurovec")(fs.NeuroVec)


class TestFind:
    def test_found(self) -> None:
        assert find_format(RUN, url="a.h5") is fs.NeuroVec
        assert find_format(RUN, url="a.h5", expected_format="neurovec") is fs.NeuroVec

    @pytest.mark.parametrize("version", ["1.0", "1.7", "1", "0.9", 1.0, 1])
    def test_versions_that_are_read(self, version: Any) -> None:
        assert find_format(RUN | {VERSION: version}, url="a.h5") is fs.NeuroVec

    @pytest.mark.parametrize("version", ["2.0", "10.1", "2", 3.5])
    def test_newer_versions(self, version: Any) -> None:
        with pytest.raises(UnsupportedVersionError, match=r"a\.h5.*newer than 1\.2.*update"):
            find_format(RUN | {VERSION: version}, url="a.h5")

    @pytest.mark.parametrize(
        "version", ["", "one", "-1.0", "v1.0", None, [1, 0], True, "9" * 5000, " 1.0", {"a": 1}]
    )
    def test_versions_that_are_none(self, version: Any) -> None:
        with pytest.raises(UnknownFormatError, match=r"expected major\.minor") as caught:
            find_format(RUN | {VERSION: version}, url="a.h5")
        assert len(str(caught.value)) < 1000

    def test_no_version(self) -> None:
        with pytest.raises(UnknownFormatError):
            find_format({FORMAT: "neurovec"}, url="a.h5")

    @pytest.mark.parametrize("name", ["other", "", "NeuroVec", 1, ["neurovec"], {"a": 1}, True])
    def test_unknown_formats(self, name: Any) -> None:
        with pytest.raises(UnknownFormatError, match=r"a\.h5.*neurovec, .*neurovol"):
            find_format({FORMAT: name, VERSION: "1.0"}, url="a.h5")

    def test_no_format(self) -> None:
        with pytest.raises(UnknownFormatError, match="fmristore_format"):
            find_format({}, url="a.h5")

    def test_another_format_than_expected(self) -> None:
        with pytest.raises(UnknownFormatError, match="expected format 'neurovol' and found"):
            find_format(RUN, url="a.h5", expected_format="neurovol")
        with pytest.raises(UnknownFormatError, match="expected format 'nothing'"):
            find_format(RUN, url="a.h5", expected_format="nothing")


@pytest.mark.parametrize("kind", STORES)
class TestStored:
    def test_opening_finds_the_class(self, kind: str, tmp_path: Path) -> None:
        for shape, cls in ((SHAPE, fs.NeuroVec), (SHAPE[:3], fs.NeuroVol)):
            url = tmp_path / f"{len(shape)}.{kind}"
            store(url, make_values(shape)).close()
            with fs.open(url) as image:
                assert image.format_name == cls.format_name
            with fs.open(url, format=cls.format_name) as named:
                assert type(named) is cls
            with fs.open(url, kind="hdf5" if kind == "h5" else "zarr") as image:
                np.testing.assert_array_equal(np.asarray(image), make_values(shape))

    def test_what_is_written(self, kind: str, tmp_path: Path) -> None:
        store(tmp_path / f"a.{kind}", make_values()).close()
        with open_store(tmp_path / f"a.{kind}") as opened:
            attributes = opened.root.read_attributes()
        assert attributes[FORMAT] == "neurovec"
        assert attributes[VERSION] == "1.2"
        assert fs.__version__ in attributes[WRITER]

    def test_unknown_attributes_and_nodes_are_ignored(self, kind: str, tmp_path: Path) -> None:
        url = tmp_path / f"a.{kind}"
        store(url, make_values()).close()
        with open_store(url, "r+") as opened:
            root = opened.root
            root.write_attributes(
                root.read_attributes() | {"mine": [1, 2], VERSION: "1.99", "later": {"a": None}}
            )
            root.create_group("other", {"x": 1})
        with fs.open(url) as image:
            np.testing.assert_array_equal(np.asarray(image), make_values())
