"""A format from outside of the package, and the list of formats."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore.formats import registry
from fmristore.formats.base import StoredArray, StoredObject
from fmristore.formats.catalogue import FormatInfo, FormatList
from fmristore.formats.new_arrays import write_plain
from fmristore.formats.nodes import format_attributes
from fmristore.formats.registry import register
from fmristore_stores.errors import (
    DependencyError,
    InvalidInputError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from fmristore_stores.opening import Handle
from fmristore_stores.publishing.publish import create_store

NAMES = ("toy.h5", "toy.zarr")


class Toy(StoredObject):
    """Some numbers, and a unit."""

    format_version = (2, 3)
    holds = "some numbers and their unit"
    use_when = "nothing else fits"

    @property
    def numbers(self) -> Any:
        """All of them."""
        return StoredArray(self._handle, "numbers").reader.read()

    def _facts(self) -> dict[str, str]:
        return {"unit": str(self.root_attributes["unit"])}


class Bare:
    """Registered without a common base.

    Not shown.
    """

    format_version = (1, 0)

    def __init__(self, handle: Handle) -> None:
        self.handle = handle


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers the toy format for one test."""
    registry.formats()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register("toy")(Toy)
    register("bare")(Bare)


def write(url: Path, version: tuple[int, int] = (2, 3)) -> None:
    with create_store(url) as store:
        write_plain(store.root, "numbers", ("n",), np.arange(5))
        store.root.write_attributes(format_attributes("toy", version) | {"unit": "V"})


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("name", NAMES)
def test_a_format_from_outside_opens(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    with fs.open(tmp_path / name) as toy:
        assert isinstance(toy, Toy)
        np.testing.assert_array_equal(toy.numbers, range(5))
        assert repr(toy).endswith(", V)")
    with fs.open(tmp_path / name, format="toy") as toy:
        assert toy.format_name == "toy"
    with pytest.raises(UnknownFormatError, match="'neurovec'"):
        fs.open(tmp_path / name, format="neurovec")


def test_an_installed_package_is_imported_when_its_format_is_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.formats()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    (tmp_path / "toys.py").write_text(
        "from fmristore.formats.base import StoredObject\n"
        "from fmristore.formats.registry import register\n"
        "@register('toy')\n"
        "class Toy(StoredObject):\n"
        "    format_version = (2, 3)\n"
        "    def _facts(self): return {}\n"
    )
    installed = tmp_path / "toys-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    points = installed / "entry_points.txt"
    points.write_text(f"[{registry.PLUGINS}]\ntoy = toys\nbroken = nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "a.h5")
    with fs.open(tmp_path / "a.h5") as toy:
        assert type(toy).__module__ == "toys"
    with pytest.raises(DependencyError, match="nowhere_to_be_found"):
        registry.find_format({registry.FORMAT: "broken", registry.VERSION: "1.0"}, url="b.h5")


@pytest.mark.usefixtures("plugin")
def test_its_versions(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", (2, 99))
    fs.open(tmp_path / "a.h5").close()
    write(tmp_path / "b.h5", (3, 0))
    with pytest.raises(UnsupportedVersionError, match=r"toy 3\.0 is newer than 2\.3"):
        fs.open(tmp_path / "b.h5")


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("name", NAMES)
def test_the_rest_of_the_package_takes_it(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    other = tmp_path / ("other.zarr" if name.endswith("h5") else "other.h5")
    fs.transcode(tmp_path / name, other)
    with fs.open(other) as toy:
        np.testing.assert_array_equal(toy.numbers, range(5))
    report = fs.verify(other, deep=True)
    assert report.ok
    assert report.format == "toy"


def test_without_the_plugin_it_is_unknown(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    with pytest.raises(UnknownFormatError, match=r"'toy' is not known here; there are .*neurovec"):
        fs.open(tmp_path / "a.h5")


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("name", ["toy", "neurovec"])
def test_names_are_given_once(name: str) -> None:
    with pytest.raises(InvalidInputError, match="registered already"):
        register(name)(Bare)
    assert register("bare")(Bare) is Bare


@pytest.mark.usefixtures("plugin")
def test_list_of_formats() -> None:
    listed: Any = fs.formats()
    assert isinstance(listed, FormatList)
    assert set(listed.names) == set(registry.formats())
    assert listed.names == tuple(sorted(listed.names))
    by_name = {info.name: info for info in listed}
    assert by_name["toy"] == FormatInfo(
        name="toy", cls=Toy, version=(2, 3), holds=Toy.holds, use_when=Toy.use_when
    )
    assert by_name["bare"].holds == "Registered without a common base."
    assert by_name["bare"].to_json()["use_when"] == ""
    text = str(listed)
    assert "some numbers and their unit" in text
    assert "use it when nothing else fits" in text
    assert "<td" in listed._repr_html_()
    assert Toy.use_when in listed._repr_html_()


def test_every_format_of_the_package_says_what_it_is_for() -> None:
    for info in fs.formats():
        assert info.name == info.cls.format_name
        assert info.cls.__dict__["holds"] == info.holds
        assert info.cls.__dict__["use_when"] == info.use_when
        assert 0 < len(info.holds) < 80
        assert 0 < len(info.use_when) < 90
        assert getattr(fs, info.cls.__name__) is info.cls


@pytest.mark.parametrize(
    "code",
    [
        "import fmristore as fs; assert 'neurovec' in fs.formats().names",
        "import fmristore.formats.image.image as n; import fmristore as fs; assert fs.formats()",
        "import fmristore as fs; fs.formats(); from fmristore.formats.image import image as n; n",
        "from fmristore import formats; assert formats(); from fmristore.formats import registry",
        """
from fmristore.formats.registry import register
from fmristore_stores.errors import InvalidInputError
try:
    register("neurovec")(int)
except InvalidInputError:
    import fmristore as fs
    assert fs.formats()
else:
    raise AssertionError("a name of the package was given away")
""",
    ],
)
def test_the_package_is_a_function_too(code: str) -> None:
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})
