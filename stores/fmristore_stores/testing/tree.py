"""The part of the suite about groups, names and attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from fmristore_stores.errors import (
    AlreadyExistsError,
    InvalidInputError,
    LayoutNotSupportedError,
    NotFoundError,
)
from fmristore_stores.protocol import Array, Capability, Child, Group, Store
from fmristore_stores.spec import MAX_ATTRIBUTE_DEPTH
from fmristore_stores.testing.base import StoreSuite, case, fresh_name, scaled
from fmristore_stores.testing.compare import assert_same_values, plain
from fmristore_stores.testing.strategies import attributes, make_spec, node_names, random_values

__all__ = ["AttributeTests", "TreeTests", "nested"]

_ACCEPTED = [
    "0",
    "c",
    "a.b",
    ".hidden",
    "with space",
    " around ",
    "100%",
    "%2e%2e",
    "a:b",
    "a*b?",
    "~",
    "-x",
    "#",
    "name.",
    "größer",
    "e\u0301",
    "脳",
    "🧠",
    "x" * 255,
    "é" * 127,
]
_REFUSED = [
    "",
    ".",
    "..",
    "a/b",
    "/abs",
    "a/",
    "nul\x00",
    "line\nbreak",
    "back\\slash",
    "x" * 256,
    "é" * 128,
    "__x",
    "\ud800",
    "zarr.json",
]
_LITERAL = {
    "a*": ["aX", "a", "a*b"],
    "a?": ["ab", "a"],
    "[ab]": ["a", "b"],
    "[!a]": ["b"],
    "{a,b}": ["a", "b"],
    "a": ["a*", "a ", "ab", "A"],
    "a%2A": ["a*", "aX"],
    "a#b": ["a"],
}
"""Names to remove, and others that must stay."""
_NOWHERE = [
    "nope",
    "a/nope",
    "nope/b",
    "v/x",
    "v/c/0",
    "..",
    ".",
    "a/..",
    "a/../a",
    "a/../v",
    "./a",
    "./v",
    "/a",
    "/v",
    "a/",
    "a//b",
    "nul\x00",
    "\ud800",
    "zarr.json",
    "x" * 300,
]


def _fill(store: Store) -> None:
    """Make the groups ``a`` and ``a/b`` and the arrays ``v`` and ``a/w``."""
    store.root.create_group("a").create_group("b")
    store.root.create_array("v", make_spec())
    store.root.group("a").create_array("w", make_spec())


def _paths(group: Group) -> list[str]:
    """Paths of everything below a group."""
    found = []
    for name, child in group.children().items():
        found.append(f"{group.path}/{name}".lstrip("/"))
        if child.kind == "group":
            found += _paths(group.group(name))
    return found


class TreeTests(StoreSuite):
    """Groups: creating, opening, listing, removing, linking."""

    def test_has(self, store: Store) -> None:
        """A group has its direct children, by their names alone, and nothing else."""
        _fill(store)
        assert [name for name in ("a", "v", "b", "w", "0") if store.root.has(name)] == ["a", "v"]
        assert [name for name in ("a", "b", "w") if store.root.group("a").has(name)] == ["b", "w"]
        assert [name for name in _NOWHERE if store.root.has(name)] == []
        assert not any(store.root.has(name) for name in ("", "a/b", "a/w"))
        store.root.remove("v")
        assert not store.root.has("v")

    def test_new_store_is_empty(self, store: Store) -> None:
        """The root exists, has the empty path, no children and no attributes."""
        assert store.root.path == ""
        assert store.root.children() == {}
        assert store.root.read_attributes() == {}
        assert store.url
        assert not store.closed

    def test_nodes_are_found_by_path(self, store: Store) -> None:
        """Every group opens what lies below it, by paths of several segments."""
        _fill(store)
        assert _paths(store.root) == ["a", "a/b", "a/w", "v"]
        assert store.root.group("a/b").path == "a/b"
        assert store.root.array("a/w").path == "a/w"
        assert store.root.group("a").group("b").path == "a/b"
        assert store.root.group("a").array("w").path == "a/w"
        assert store.root.children() == {"a": Child("group"), "v": Child("array")}

    def test_created_nodes_know_their_paths(self, store: Store) -> None:
        """The handles that creation returns are those that opening returns."""
        group = store.root.create_group("a")
        assert group.path == "a"
        assert group.create_group("b").path == "a/b"
        assert group.create_array("w", make_spec()).path == "a/w"

    def test_children_are_sorted(self, store: Store) -> None:
        """Children come sorted by name, whatever the order of creation."""
        for name in ("b", "ä", "a", "10", "9", "B"):
            store.root.create_group(name)
        assert list(store.root.children()) == ["10", "9", "B", "a", "b", "ä"]

    def test_nothing_there(self, store: Store) -> None:
        """A path that leads nowhere, or out of the tree, is an error."""
        _fill(store)
        for path in _NOWHERE:
            with case(path):
                with pytest.raises((NotFoundError, InvalidInputError)):
                    store.root.group(path)
                with pytest.raises((NotFoundError, InvalidInputError)):
                    store.root.array(path)
                with pytest.raises((NotFoundError, InvalidInputError)):
                    store.root.group("a").array(path)

    def test_wrong_kind(self, store: Store) -> None:
        """A group is not found as an array, nor an array as a group."""
        _fill(store)
        with pytest.raises(NotFoundError):
            store.root.array("a")
        with pytest.raises(NotFoundError):
            store.root.group("v")

    def test_nothing_is_replaced(self, store: Store) -> None:
        """Creating over an existing node is refused and leaves it alone."""
        _fill(store)
        before = _paths(store.root)
        for name in ("a", "v"):
            with case(name):
                with pytest.raises(AlreadyExistsError):
                    store.root.create_group(name)
                with pytest.raises(AlreadyExistsError):
                    store.root.create_array(name, make_spec())
                assert _paths(store.root) == before

    def test_remove(self, store: Store) -> None:
        """Removing deletes everything below, and the name is free again."""
        _fill(store)
        values = random_values((5, 4), np.dtype("f4"))
        store.root.array("v").write(None, values)
        store.root.remove("v")
        store.root.remove("a")
        assert store.root.children() == {}
        with pytest.raises(NotFoundError):
            store.root.array("a/w")
        with pytest.raises(NotFoundError):
            store.root.remove("v")
        again = store.root.create_array("v", make_spec())
        assert_same_values(again.read(), np.zeros((5, 4), np.float32))
        assert store.root.create_group("a").children() == {}

    def test_remove_takes_names_literally(self, store: Store) -> None:
        """No name stands for others, whatever characters it holds."""
        values = random_values((5, 4), np.dtype("f4"))
        for name, siblings in _LITERAL.items():
            with case(name):
                for child in (name, *siblings):
                    group = store.root.create_group(child)
                    group.create_array("v", make_spec()).write(None, values)
                assert set(store.root.children()) == {name, *siblings}
                store.root.remove(name)
                assert set(store.root.children()) == set(siblings)
                for child in siblings:
                    assert_same_values(store.root.array(f"{child}/v").read(), values)
                    store.root.remove(child)

    def test_remove_takes_direct_children_only(self, store: Store) -> None:
        """Nothing but the name of a child can be removed."""
        _fill(store)
        before = _paths(store.root)
        for name in ("", ".", "..", "/", "/a", "a/b", "a/", "b/../a", "zarr.json"):
            with case(name):
                with pytest.raises((NotFoundError, InvalidInputError)):
                    store.root.remove(name)
                with pytest.raises((NotFoundError, InvalidInputError)):
                    store.root.group("a").remove(name)
                assert _paths(store.root) == before

    def test_accepted_name(self, store: Store) -> None:
        """Any other text can be a name, of groups and of arrays inside them."""
        for name in _ACCEPTED:
            with case(name):
                self._check_name(store, name)

    @scaled(0.5)
    @given(name=node_names())
    def test_any_name(self, store: Store, name: str) -> None:
        """Names come back as they were."""
        if len(name.encode()) <= 255:
            self._check_name(store, name)

    def _check_name(self, store: Store, name: str) -> None:
        group = store.root.create_group(name)
        array = group.create_array(name, make_spec())
        assert array.path == f"{name}/{name}"
        assert store.root.children() == {name: Child("group")}
        assert store.root.group(name).children() == {name: Child("array")}
        assert store.root.array(f"{name}/{name}").spec == make_spec()
        store.root.remove(name)
        assert store.root.children() == {}

    def test_refused_name(self, store: Store) -> None:
        """Names that some store cannot hold are refused by all."""
        for name in _REFUSED:
            with case(name):
                with pytest.raises(InvalidInputError):
                    store.root.create_group(name)
                with pytest.raises(InvalidInputError):
                    store.root.create_array(name, make_spec())
                assert store.root.children() == {}

    def test_link(self, store: Store) -> None:
        """A second name is the same array, and stays when the first one is removed."""
        values = random_values((5, 4), np.dtype("f4"))
        _fill(store)
        if Capability.HARD_LINKS not in store.capabilities:
            with pytest.raises(LayoutNotSupportedError):
                store.root.link("same", "a/w")
            assert "same" not in store.root.children()
            return
        store.root.link("same", "a/w")
        assert store.root.children()["same"] in (Child("array"), Child("link", "a/w"))
        store.root.array("same").write(None, values)
        store.root.array("same").write_attributes({"x": 1})
        assert_same_values(store.root.array("a/w").read(), values)
        assert store.root.array("a/w").read_attributes() == {"x": 1}
        store.root.group("a").remove("w")
        assert_same_values(store.root.array("same").read(), values)

    def test_link_refused(self, store: Store) -> None:
        """A link needs a new name and an existing target."""
        if Capability.HARD_LINKS not in store.capabilities:
            return
        _fill(store)
        with pytest.raises(AlreadyExistsError):
            store.root.link("a", "v")
        with pytest.raises(InvalidInputError):
            store.root.link("..", "v")
        for target in ("nope", "a/nope", "", "..", "/v"):
            with pytest.raises((NotFoundError, InvalidInputError)):
                store.root.link("same", target)
        assert list(store.root.children()) == ["a", "v"]


_KEPT: dict[str, Any] = {
    "none": None,
    "true": True,
    "int": -3,
    "big": 2**64 - 1,
    "small": -(2**63),
    "float": 0.1,
    "whole float": 1.0,
    "negative zero": -0.0,
    "subnormal": 5e-324,
    "largest": 1.7976931348623157e308,
    "empty text": "",
    "text": "größer 🧠\nmore",
    "looks like JSON": '{"a": [1, NaN]}',
    "long text": "é" * 100_000,
    "empty list": [],
    "ints": [1, 2, 3],
    "floats": [1.0, -0.0],
    "bools": [True, False],
    "texts": ["a", "", "ü"],
    "mixed": [1, 1.0, True, "1", None],
    "int and float": [1, 2.5],
    "signed and unsigned": [2**63, -1],
    "nested list": [[1, 2], [3, 4]],
    "ragged": [[1], [], [2, 3]],
    "empty in list": [[]],
    "nested": {"a": {"b": [1, {"c": None}]}, "": [], "x/y": "z"},
    "empty dict": {},
}


def nested(depth: int) -> list[Any]:
    """Lists inside of each other."""
    found: list[Any] = []
    for _ in range(depth - 1):
        found = [found]
    return found


_REFUSED_ATTRIBUTES: dict[str, Any] = {
    "NaN": {"x": float("nan")},
    "infinity": {"x": float("inf")},
    "NaN in a list": {"x": [1.0, float("nan")]},
    "NaN in an array": {"x": np.array([np.nan])},
    "NaN in a nested value": {"x": {"y": float("nan")}},
    "NUL": {"x": "a\x00b"},
    "NUL in a list": {"x": ["a\x00b"]},
    "surrogate": {"x": "\ud800"},
    "too big": {"x": 2**64},
    "too small": {"x": -(2**63) - 1},
    "over 64 KiB": {"x": list(range(9000))},
    "array over 64 KiB": {"x": np.arange(9000.0)},
    "bytes": {"x": b"raw"},
    "set": {"x": {1}},
    "complex": {"x": 1j},
    "object": {"x": object()},
    "key of a nested value": {"x": {1: 2}},
    "deep lists": {"x": nested(MAX_ATTRIBUTE_DEPTH + 1)},
    "very deep lists": {"x": nested(5000)},
    "deep mappings": {"x": {"y": nested(MAX_ATTRIBUTE_DEPTH)}},
    "no name": {"": 1},
    "name with NUL": {"a\x00": 1},
    "name with slash": {"a/b": 1},
    "long name": {"x" * 256: 1},
    "name with a surrogate": {"\ud800": 1},
}


class AttributeTests(StoreSuite):
    """Attributes of the root, of groups and of arrays."""

    @pytest.fixture(params=["root", "group", "array"])
    def node(self, request: pytest.FixtureRequest, store: Store) -> Group | Array:
        """Each kind of node that has attributes."""
        if request.param == "group":
            return store.root.create_group("a")
        if request.param == "array":
            return store.root.create_array("a", make_spec())
        return store.root

    def test_kept(self, node: Group | Array) -> None:
        """Each kind of value comes back with its types."""
        for name, value in _KEPT.items():
            with case(name):
                node.write_attributes({name: value})
                assert plain(node.read_attributes()) == plain({name: value})

    @scaled(1.0)
    @given(values=attributes())
    def test_any(self, node: Group | Array, values: dict[str, Any]) -> None:
        """Writing replaces all attributes by exactly these."""
        node.write_attributes(values)
        assert plain(node.read_attributes()) == plain(values)

    @scaled(0.5)
    @given(values=attributes())
    def test_view(self, store: Store, values: dict[str, Any]) -> None:
        """A view of the attributes of a group has them all, each as it is read."""
        group = store.root.create_group(fresh_name(), values)
        view = group.view_attributes()
        assert plain(dict(view)) == plain(values)
        assert {*view} == {*values}
        assert len(view) == len(values)
        assert all(plain(view[name]) == plain(value) for name, value in values.items())
        assert "no such name" not in view
        assert view.get("no such name", 3) == 3

    def test_deep(self, node: Group | Array) -> None:
        """Lists and mappings may be nested as deep as is said, whichever Python runs."""
        values = {"x": nested(MAX_ATTRIBUTE_DEPTH), "y": {"z": nested(MAX_ATTRIBUTE_DEPTH - 1)}}
        node.write_attributes(values)
        assert node.read_attributes() == values

    def test_many(self, node: Group | Array) -> None:
        """Forty attributes at once, and then none."""
        values = {f"name {i}": [i, f"value {i}"] for i in range(40)}
        node.write_attributes(values)
        assert plain(node.read_attributes()) == plain(values)
        node.write_attributes({})
        assert node.read_attributes() == {}

    def test_numpy_values(self, node: Group | Array) -> None:
        """Numpy scalars and arrays become plain numbers and lists, tuples become lists."""
        node.write_attributes(
            {
                "scalar": np.float32(1.5),
                "flag": np.True_,
                "array": np.arange(6, dtype=np.uint8).reshape(2, 3),
                "none": np.zeros(0),
                "tuple": (1, (2, 3)),
            }
        )
        assert plain(node.read_attributes()) == plain(
            {
                "scalar": 1.5,
                "flag": True,
                "array": [[0, 1, 2], [3, 4, 5]],
                "none": [],
                "tuple": [1, [2, 3]],
            }
        )

    def test_refused(self, store: Store) -> None:
        """Names and values that some store cannot hold are refused by all, and nothing changes."""
        store.root.write_attributes({"kept": 1})
        for name, value in _REFUSED_ATTRIBUTES.items():
            with case(name):
                refused = {"fine": 1} | value
                with pytest.raises(InvalidInputError):
                    store.root.write_attributes(refused)
                with pytest.raises(InvalidInputError):
                    store.root.create_group("a", refused)
                with pytest.raises(InvalidInputError):
                    store.root.create_array("a", make_spec(), refused)
                assert store.root.read_attributes() == {"kept": 1}
                assert store.root.children() == {}

    @scaled(0.5)
    @given(values=attributes())
    def test_given_at_creation(self, store: Store, values: dict[str, Any]) -> None:
        """Attributes may be given when a node is made."""
        group = store.root.create_group(fresh_name(), values)
        array = group.create_array("0", make_spec(), values)
        assert plain(group.read_attributes()) == plain(values)
        assert plain(array.read_attributes()) == plain(values)

    def test_copies(self, node: Group | Array) -> None:
        """Neither what was written nor what was read is shared with the caller."""
        given: dict[str, Any] = {"x": [1, {"y": 2}]}
        node.write_attributes(given)
        given["x"].append(3)
        node.read_attributes()["x"].append(4)
        assert node.read_attributes() == {"x": [1, {"y": 2}]}

    def test_apart_from_values(self, store: Store) -> None:
        """Writing data keeps attributes, and writing attributes keeps data and spec."""
        spec = make_spec(codec="dual", fill_value=2.0)
        array = store.root.create_array("a", spec, {"x": 1})
        values = random_values((5, 4), spec.dtype)
        array.write(None, values)
        assert array.read_attributes() == {"x": 1}
        array.write_attributes({"y": 2})
        again = store.root.array("a")
        assert again.read_attributes() == {"y": 2}
        assert again.spec == spec
        assert_same_values(again.read(), values)
