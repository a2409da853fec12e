"""Promises of every format, whichever container it is stored in."""

from __future__ import annotations

import abc
import copy
import json
import pickle
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest

from fmristore.api import convert
from fmristore.api import open as open_format
from fmristore.formats.base import StoredObject
from fmristore.formats.catalogue import formats
from fmristore.formats.registry import FORMAT, VERSION
from fmristore.transcoding import transcode
from fmristore.verification import verify
from fmristore_stores.errors import (
    AlreadyExistsError,
    ClosedError,
    FmristoreError,
    UnsupportedVersionError,
)
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import AnyArray, Capability, Group

__all__ = ["FormatTests", "copy_store"]

_SUFFIXES = (".h5", ".zarr")
_OTHER = dict(zip(_SUFFIXES, _SUFFIXES[::-1], strict=True))


class FormatTests(abc.ABC):
    """Everything that a format must do, as one class to subclass.

    A subclass defines `create` and `expected`.
    """

    tolerance: ClassVar[float] = 0.0
    """Difference that values may have from those expected, as a fraction of them."""

    optional: ClassVar[frozenset[str]] = frozenset()
    """Paths of primary arrays whose absence has a meaning of its own."""

    _made: ClassVar[dict[tuple[type, str], Path]] = {}

    @abc.abstractmethod
    def create(self, url: Path | str) -> StoredObject:
        """Store a small object in the format's own layout, always the same, and open it.

        Parameters
        ----------
        url : Path or str
            Ends in ``.h5`` or ``.zarr``; a path, or a URL of fsspec.
        """

    @abc.abstractmethod
    def expected(self) -> AnyArray | Mapping[str, AnyArray]:
        """All values that the object gives when it is read.

        Returns
        -------
        ndarray or mapping of str to ndarray
            What ``np.asarray`` or ``to_numpy()`` makes of it; where it has `part_names`, of each
            part by name.
        """

    @pytest.fixture(params=_SUFFIXES)
    def suffix(self, request: pytest.FixtureRequest) -> str:
        """End of the names of stores, for each container."""
        found: str = request.param
        return found

    @pytest.fixture
    def url(self, tmp_path: Path, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A store of the format, closed: a copy of one that is made once for each container."""
        url = tmp_path / f"made{suffix}"
        made = self._made.get((type(self), suffix))
        if made is None:
            made = tmp_path_factory.mktemp("first") / url.name
            self.create(made).close()
            self._made[type(self), suffix] = made
        return copy_store(made, url)

    @pytest.fixture
    def stored(self, url: Path) -> Iterator[StoredObject]:
        """A store of the format, opened again; closed after the test."""
        with _opened(url) as found:
            yield found

    def assert_expected(self, stored: StoredObject) -> None:
        """Fail unless an object gives all values that are expected."""
        expected = self.expected()
        if isinstance(expected, Mapping):
            assert list(stored.part_names) == list(expected)
            for name, values in expected.items():
                self._assert_same(_values(stored.part(name)), values)
        else:
            self._assert_same(_values(stored), expected)

    def _assert_same(self, actual: AnyArray, expected: AnyArray) -> None:
        assert actual.shape == expected.shape
        if self.tolerance:
            np.testing.assert_allclose(actual, expected, rtol=self.tolerance)
        else:
            np.testing.assert_array_equal(actual, expected)

    # Opening ----------------------------------------------------------------------------------

    def test_values(self, url: Path) -> None:
        """Stored values are read, from the object that was made and from a new one."""
        with self.create(url.with_stem("again")) as made, _opened(url) as opened:
            assert type(made) is type(opened)
            self.assert_expected(made)
            self.assert_expected(opened)
        with _opened(url, format=made.format_name) as named:
            assert type(named) is type(made)

    def test_registered(self, stored: StoredObject) -> None:
        """The format is in the list of formats, with its class and what it is for."""
        (info,) = [info for info in formats() if info.name == stored.format_name]
        assert info.cls is type(stored)
        assert info.holds
        assert info.use_when
        assert info.version == stored.format_version
        assert stored.root_attributes[FORMAT] == info.name
        assert stored.root_attributes[VERSION] == ".".join(map(str, info.version))

    def test_versions(self, url: Path) -> None:
        """Newer minor versions are read, whatever they add; newer major versions are refused."""
        with _opened(url) as stored:
            major, minor = stored.format_version
        _set_attributes(url, {VERSION: f"{major}.{minor + 1}", "added_later": {"x": 1}})
        with _opened(url) as stored:
            self.assert_expected(stored)
        _set_attributes(url, {VERSION: f"{major + 1}.0"})
        with pytest.raises(UnsupportedVersionError, match=rf"{major + 1}\.0"):
            open_format(url)

    def test_on_a_filesystem_of_fsspec(self, suffix: str) -> None:
        """URLs work as paths do."""
        root = f"memory://{uuid.uuid4().hex}"
        try:
            with self.create(f"{root}/made{suffix}") as made:
                self.assert_expected(made)
            with _opened(f"{root}/made{suffix}") as stored:
                self.assert_expected(stored)
        finally:
            fsspec.filesystem("memory").rm(root, recursive=True)

    # Handles ----------------------------------------------------------------------------------

    def test_copies(self, url: Path) -> None:
        """Pickles and copies read the same, and outlive what they were made of."""
        stored = _opened(url)
        unpickled = pickle.loads(pickle.dumps(stored))  # noqa: S301 - made here
        copies = [unpickled, copy.copy(stored), copy.deepcopy(stored)]
        stored.close()
        for other in copies:
            with other:
                assert type(other) is type(stored)
                self.assert_expected(other)

    def test_closed(self, url: Path) -> None:
        """A closed object says so, and closing it again does nothing."""
        stored = _opened(url)
        before = stored.closed
        with stored:
            pass
        assert (before, stored.closed) == (False, True)
        with pytest.raises(ClosedError):
            self.assert_expected(stored)
        with pytest.raises(ClosedError):
            pickle.dumps(stored)
        stored.close()

    def test_shown(self, stored: StoredObject) -> None:
        """Repr, notebooks and ``fmristore info`` show the object."""
        name = type(stored).__name__
        assert repr(stored).startswith(f"{name}(")
        assert stored.url in repr(stored)
        assert name in stored._repr_html_()
        facts = stored.describe()
        assert facts["class"] == name
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
        assert facts["sizes"]["chunks_missing"] == 0
        stored.check()

    # Export ----------------------------------------------------------------------------------

    def test_transcoded(self, url: Path, suffix: str) -> None:
        """Copies in the other container, and back, are the same and verified."""
        there, back = url.with_name(f"there{_OTHER[suffix]}"), url.with_name(f"back{suffix}")
        transcode(url, there)
        transcode(there, back)
        for copied in (there, back):
            with _opened(copied) as stored:
                self.assert_expected(stored)
            assert verify(copied, deep=True)

    def test_saved(self, stored: StoredObject, url: Path, suffix: str) -> None:
        """It is stored again in the other container; what exists is replaced only if asked."""
        there = url.with_name(f"there{_OTHER[suffix]}")
        with stored.save(there) as saved:
            assert type(saved) is type(stored)
            self.assert_expected(saved)
        assert verify(there, deep=True)
        with pytest.raises(AlreadyExistsError):
            stored.save(there)
        stored.save(there, overwrite=True).close()
        with _opened(there) as again:
            self.assert_expected(again)
        convert(there, url.with_name(f"converted{suffix}"))
        with _opened(url.with_name(f"converted{suffix}")) as converted:
            self.assert_expected(converted)

    # Damage -----------------------------------------------------------------------------------

    def test_sound(self, stored: StoredObject, url: Path) -> None:
        """A sound store is found to be one."""
        assert stored.primary_arrays
        for deep in (False, True):
            report = verify(url, deep=deep)
            assert report, report
            assert not report.notes
            assert report.format == stored.format_name

    def test_arrays_that_are_gone(self, url: Path) -> None:
        """Without one of its arrays nothing is read as if it were whole."""
        for path in sorted({*_primary(url)} - self.optional):
            lacking = copy_store(url, url.with_stem("lacking"))
            with open_store(lacking, "r+") as store:
                group, name = _parent(store.root, path)
                group.remove(name)
            assert not verify(lacking)
            with pytest.raises(FmristoreError), _opened(lacking) as stored:
                self.assert_expected(stored)

    def test_chunks_that_are_gone(self, url: Path) -> None:
        """Values that were never written are damage for every operation, and nothing is left."""
        for path in _primary(url):
            lacking = copy_store(url, url.with_stem("lacking"))
            with open_store(lacking, "r+") as store:
                group, name = _parent(store.root, path)
                array = group.array(name)
                spec, attributes = array.spec, array.read_attributes()
                group.remove(name)
                group.create_array(name, spec, attributes)
            assert not verify(lacking)
            out = url.with_name("out")
            out.mkdir(exist_ok=True)
            for suffix in _SUFFIXES:
                with pytest.raises(FmristoreError):
                    transcode(lacking, out / f"a{suffix}")
                with pytest.raises(FmristoreError), _opened(lacking) as stored:
                    stored.save(out / f"b{suffix}").close()
            with _opened(lacking) as stored:
                with pytest.raises(FmristoreError):
                    self.assert_expected(stored)
                if hasattr(stored, "to_nifti"):
                    with pytest.raises(FmristoreError):
                        stored.to_nifti(out / "c.nii")
            assert list(out.iterdir()) == []

    def test_chunks_that_are_damaged(self, url: Path) -> None:
        """Bytes that changed are found where something can tell: a codec or a digest."""
        assert verify(url, deep=True)
        for path in _primary(url):
            damaged = copy_store(url, url.with_stem("damaged"))
            with open_store(damaged) as store:
                array: Any = store.root.array(path)
                if Capability.CHUNK_REFS not in array.capabilities:
                    continue
                source, offset, length = array.refs([(0,) * len(array.spec.shape)])[0].range
            with Path(source).open("r+b") as file:
                file.seek(offset)
                bits = bytes(byte ^ 0xFF for byte in file.read(length))
                file.seek(offset)
                file.write(bits)
            assert not verify(damaged, deep=True)


def copy_store(source: Path, target: Path) -> Path:
    """Copy the bytes of a store, in place of what was there."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return target


def _opened(url: Path | str, **options: Any) -> StoredObject:
    stored: StoredObject = open_format(url, **options)
    return stored


def _values(stored: Any) -> AnyArray:
    """All values of an object or of a part of one."""
    return np.asarray(stored.to_numpy() if hasattr(stored, "to_numpy") else stored[...])


def _primary(url: Path) -> list[str]:
    """Paths of the arrays that hold the values of a store."""
    with _opened(url) as stored:
        return [array.path for array in stored.primary_arrays]


def _parent(root: Group, path: str) -> tuple[Group, str]:
    """Group in which a node lies, and its name there."""
    folder, _, name = path.rpartition("/")
    return (root.group(folder) if folder else root), name


def _set_attributes(url: Path, changes: Mapping[str, Any]) -> None:
    """Change some attributes of the root of a closed store."""
    with open_store(url, "r+") as store:
        store.root.write_attributes({**store.root.read_attributes(), **changes})
