"""The part of the suite about opening, closing and opening again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fmristore_stores.errors import ClosedError, LayoutNotSupportedError, ReadOnlyError
from fmristore_stores.protocol import Capability, Store
from fmristore_stores.testing.base import Mode, StoreSuite
from fmristore_stores.testing.compare import assert_same_spec, assert_same_values, plain
from fmristore_stores.testing.strategies import make_spec, random_values

__all__ = ["ModeTests"]

_VALUES = random_values((5, 4), np.dtype("f4"))
_SPEC = make_spec(codec="dual", fill_value=3.0)
_ATTRIBUTES = {"x": [1.5, 2.0], "name": "größer", "nested": {"a": [None]}}


def _fill(store: Store) -> None:
    """Make the group ``a`` with the array ``a/0``, both with attributes."""
    store.root.write_attributes(_ATTRIBUTES)
    group = store.root.create_group("a", _ATTRIBUTES)
    group.create_array("0", _SPEC, _ATTRIBUTES).write(None, _VALUES)


def _changes(store: Store) -> dict[str, Callable[[], object]]:
    """Every verb that changes a filled store, bound to handles that are open."""
    root, group, array = store.root, store.root.group("a"), store.root.array("a/0")
    changes: dict[str, Callable[[], object]] = {
        "root attributes": lambda: root.write_attributes({}),
        "group attributes": lambda: group.write_attributes({}),
        "array attributes": lambda: array.write_attributes({}),
        "create_group": lambda: root.create_group("b"),
        "create_array": lambda: group.create_array("b", make_spec()),
        "remove": lambda: root.remove("a"),
        "link": lambda: root.link("b", "a/0"),
        "write": lambda: array.write((slice(0, 1), slice(0, 1)), 0),
    }
    if Capability.RAW_WRITE in array.capabilities:
        raw = cast(Any, array)
        changes["write_encoded"] = lambda: raw.write_encoded((0, 0), [b""])
    return changes


def _questions(store: Store) -> dict[str, Callable[[], object]]:
    """Every verb that asks a filled store, bound to handles that are open."""

    def reach_root() -> object:
        return store.root.children()

    root, group, array = store.root, store.root.group("a"), store.root.array("a/0")
    questions: dict[str, Callable[[], object]] = {
        "root": reach_root,
        "children": root.children,
        "group": lambda: root.group("a"),
        "array": lambda: group.array("0"),
        "group attributes": group.read_attributes,
        "array attributes": array.read_attributes,
        "read": array.read,
        "read a part": lambda: array.read((slice(0, 1), slice(0, 1))),
    }
    if Capability.CHUNK_REFS in array.capabilities:
        raw = cast(Any, array)
        ref = raw.refs([(0, 0)])[0]
        questions["refs"] = lambda: raw.refs([(0, 0)])
        questions["fetch"] = lambda: raw.fetch([ref.range])
    return questions


def _assert_filled(store: Store) -> None:
    """Fail unless everything that `_fill` made is there, and nothing else."""
    assert list(store.root.children()) == ["a"]
    group = store.root.group("a")
    array = group.array("0")
    for node in (store.root, group, array):
        assert plain(node.read_attributes()) == plain(_ATTRIBUTES)
    assert list(group.children()) == ["0"]
    assert_same_spec(array.spec, _SPEC)
    assert_same_values(array.read(), _VALUES)


class ModeTests(StoreSuite):
    """Modes, capabilities, closing."""

    def test_kept_after_closing(self, tmp_path: Path) -> None:
        """Everything is there when the store is opened again, for the store and for others."""
        with self.open_store(tmp_path, "w") as store:
            _fill(store)
            _assert_filled(store)
        for mode in ("r", "r+", "r"):
            with self.open_store(tmp_path, mode) as store:
                _assert_filled(store)
        peeked = self.peek(tmp_path, "a/0")
        if peeked is not None:
            assert_same_values(peeked, _VALUES)

    def test_changed_later(self, tmp_path: Path) -> None:
        """A store that is opened for writing again can be changed in every way."""
        with self.open_store(tmp_path, "w") as store:
            _fill(store)
        with self.open_store(tmp_path, "r+") as store:
            store.root.array("a/0").write((slice(1, 2), slice(0, 4)), 7)
            store.root.group("a").write_attributes({"y": 1})
            store.root.create_array("b", _SPEC, {"z": 2}).write(None, 1)
        expected = _VALUES.copy()
        expected[1] = 7
        with self.open_store(tmp_path, "r+") as store:
            assert_same_values(store.root.array("a/0").read(), expected)
            assert store.root.group("a").read_attributes() == {"y": 1}
            assert store.root.array("b").read_attributes() == {"z": 2}
            store.root.remove("a")
        with self.open_store(tmp_path, "r") as store:
            assert list(store.root.children()) == ["b"]
            assert_same_values(store.root.array("b").read(), np.ones((5, 4), np.float32))

    def test_read_only(self, tmp_path: Path) -> None:
        """A store that is open for reading refuses every change, and says so beforehand."""
        with self.open_store(tmp_path, "w") as store:
            _fill(store)
        with self.open_store(tmp_path, "r") as store:
            array = store.root.array("a/0")
            for capabilities in (store.capabilities, array.capabilities):
                assert Capability.WRITE not in capabilities
                assert Capability.RAW_WRITE not in capabilities
            for change in _changes(store).values():
                with pytest.raises(ReadOnlyError):
                    change()
            with pytest.raises((ReadOnlyError, LayoutNotSupportedError, AttributeError)):
                cast(Any, array).write_encoded((0, 0), [b""])
            _assert_filled(store)

    def test_capabilities(self, tmp_path: Path) -> None:
        """No array can do more than its store; reading loses nothing but writing."""
        writing = Capability.WRITE | Capability.RAW_WRITE | Capability.GROWTH
        with self.open_store(tmp_path, "w") as store:
            _fill(store)
            can = store.capabilities
            assert Capability.WRITE in can
            array = store.root.array("a/0")
            assert Capability.WRITE in array.capabilities
            assert array.capabilities & ~can == Capability.NONE
        with self.open_store(tmp_path, "r") as store:
            assert store.capabilities & writing == Capability.NONE
            assert can & ~writing & ~store.capabilities == Capability.NONE
            assert store.root.array("a/0").capabilities & ~store.capabilities == Capability.NONE
        with self.open_store(tmp_path, "r+") as store:
            assert store.capabilities == can

    @pytest.mark.parametrize("mode", ["r", "r+"])
    def test_closed(self, tmp_path: Path, mode: Mode) -> None:
        """After closing, every verb of every handle raises; closing again does nothing."""
        with self.open_store(tmp_path, "w") as store:
            _fill(store)
        store = self.open_store(tmp_path, mode)
        verbs = _questions(store) | _changes(store)
        store.close()
        assert store.closed
        for verb in verbs.values():
            with pytest.raises(ClosedError):
                verb()
        store.close()
        assert store.url
        with self.open_store(tmp_path, "r") as again:
            _assert_filled(again)

    def test_context(self, tmp_path: Path) -> None:
        """Leaving the context closes the store, after an error too."""
        store = self.open_store(tmp_path, "w")
        with store as entered:
            assert entered is store
        assert store.closed
        again = self.open_store(tmp_path, "r+")
        with pytest.raises(LookupError), again:
            raise LookupError
        assert again.closed
