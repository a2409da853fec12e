"""Long random histories of a store, compared step by step with `MemoryStore`."""

from __future__ import annotations

import abc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fmristore_stores.errors import FmristoreError
from fmristore_stores.grid import parse_region, region_shape
from fmristore_stores.protocol import Array, Group, Store
from fmristore_stores.testing.base import Mode
from fmristore_stores.testing.compare import bits, fill_bits, plain
from fmristore_stores.testing.memory import MemoryStore
from fmristore_stores.testing.strategies import attributes, random_values, regions, specs

__all__ = ["StoreMachine"]

_NAMES = ("a", "b", "größer c", "..", "0")
"""Few names, so that a history often meets a node again; one of them is refused."""


def _group(store: Store, path: str) -> Group:
    return store.root.group(path) if path else store.root


def _snapshot(group: Group) -> dict[str, Any]:
    """Everything below a group, in a form that ``==`` compares exactly."""
    found: dict[str, Any] = {"attributes": plain(group.read_attributes())}
    for name, child in group.children().items():
        if child.kind == "group":
            found[f"group {name}"] = _snapshot(group.group(name))
        else:
            found[f"array {name}"] = _array_snapshot(group.array(name))
    return found


def _array_snapshot(array: Array) -> tuple[Any, ...]:
    return (
        array.path,
        array.spec,
        fill_bits(array.spec),
        plain(array.read_attributes()),
        bits(array.read()),
    )


class StoreMachine(RuleBasedStateMachine):
    """Does the same to a store and to `MemoryStore`, and compares results and errors.

    A subclass defines `open_store`, as for `StoreTests`; its ``TestCase`` is what pytest runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._model = MemoryStore()
        self._store = self.open_store(Path(self._folder.name), "w")

    @abc.abstractmethod
    def open_store(self, folder: Path, mode: Mode) -> Store:
        """Open the one store under test that belongs to `folder`, as in `StoreTests`."""

    def teardown(self) -> None:
        """Compare everything once more, after opening again, and clean up."""
        try:
            self.open_again("r")
        finally:
            self._store.close()
            self._folder.cleanup()

    def _both(self, action: Callable[[Store], Any]) -> None:
        """Do something to both stores; results or kinds of errors must agree."""

        def outcome(store: Store) -> Any:
            try:
                return action(store)
            except FmristoreError as error:
                return error.kind

        expected = outcome(self._model)
        actual = outcome(self._store)
        assert actual == expected

    def _paths(self, kind: str) -> list[str]:
        """Paths of all groups or arrays of the model."""

        def below(group: Group) -> list[str]:
            found = []
            for name, child in group.children().items():
                path = f"{group.path}/{name}".lstrip("/")
                if child.kind == kind:
                    found.append(path)
                if child.kind == "group":
                    found += below(group.group(name))
            return found

        return (["", "nowhere"] if kind == "group" else []) + below(self._model.root)

    def _draw(self, data: st.DataObject, kind: str) -> str:
        return data.draw(st.sampled_from(self._paths(kind)), label=kind)

    def has_arrays(self) -> bool:
        """Return whether there is an array to work with."""
        return bool(self._paths("array"))

    @rule(data=st.data(), name=st.sampled_from(_NAMES), values=st.none() | attributes())
    def create_group(self, data: st.DataObject, name: str, values: dict[str, Any] | None) -> None:
        """Make a group, perhaps over an existing node."""
        parent = self._draw(data, "group")
        self._both(lambda store: _group(store, parent).create_group(name, values).path)

    @rule(data=st.data(), name=st.sampled_from(_NAMES), values=st.none() | attributes())
    def create_array(self, data: st.DataObject, name: str, values: dict[str, Any] | None) -> None:
        """Make an array, perhaps over an existing node."""
        parent = self._draw(data, "group")
        spec = data.draw(specs(self._store.capabilities))
        self._both(
            lambda store: _array_snapshot(_group(store, parent).create_array(name, spec, values))
        )

    @precondition(has_arrays)
    @rule(data=st.data(), seed=st.integers(0, 99))
    def write(self, data: st.DataObject, seed: int) -> None:
        """Write a region."""
        path = self._draw(data, "array")
        spec = self._model.root.array(path).spec
        region = data.draw(regions(spec.shape))
        shape = region_shape(parse_region(region, spec.shape))
        values = random_values(shape, spec.dtype, seed)
        self._both(lambda store: store.root.array(path).write(region, values))

    @precondition(has_arrays)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        """Read a region."""
        path = self._draw(data, "array")
        region = data.draw(regions(self._model.root.array(path).spec.shape))
        self._both(lambda store: bits(store.root.array(path).read(region)))

    @rule(data=st.data(), values=attributes())
    def write_group_attributes(self, data: st.DataObject, values: dict[str, Any]) -> None:
        """Replace the attributes of a group."""
        path = self._draw(data, "group")
        self._both(lambda store: _group(store, path).write_attributes(values))

    @precondition(has_arrays)
    @rule(data=st.data(), values=attributes())
    def write_array_attributes(self, data: st.DataObject, values: dict[str, Any]) -> None:
        """Replace the attributes of an array."""
        path = self._draw(data, "array")
        self._both(lambda store: store.root.array(path).write_attributes(values))

    @rule(data=st.data(), name=st.sampled_from(_NAMES[:3]))
    def remove(self, data: st.DataObject, name: str) -> None:
        """Delete a node with everything below it, or nothing."""
        parent = self._draw(data, "group")
        self._both(lambda store: _group(store, parent).remove(name))

    @rule(mode=st.sampled_from(["r", "r+"]))
    def open_again(self, mode: Mode) -> None:
        """Close the store, open it again, compare everything, and go on writing."""
        self._store.close()
        self._store = self.open_store(Path(self._folder.name), mode)
        self._both(lambda store: _snapshot(store.root))
        if mode == "r":
            self._store.close()
            self._store = self.open_store(Path(self._folder.name), "r+")

    @invariant()
    def same_children(self) -> None:
        """The root lists the same names."""
        self._both(lambda store: list(store.root.children()))
        self._both(lambda store: [name for name in _NAMES if store.root.has(name)])
