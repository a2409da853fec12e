"""What only the store in memory does; the rest is in the conformance suite."""

from __future__ import annotations

import numpy as np
import pytest

from fmristore_stores.errors import (
    ClosedError,
    InvalidInputError,
    LayoutNotSupportedError,
    ReadOnlyError,
)
from fmristore_stores.protocol import Capability, Store
from fmristore_stores.testing.memory import MemoryStore
from fmristore_stores.testing.strategies import make_spec


def test_it_is_a_store() -> None:
    store: Store = MemoryStore()
    assert store.capabilities == (
        Capability.WRITE | Capability.CHUNK_ORDER | Capability.SHARDS | Capability.HARD_LINKS
    )


def test_urls_are_different_or_as_given() -> None:
    first, second = MemoryStore(), MemoryStore()
    assert first.url != second.url
    assert first.url.startswith("memory-store:")
    assert MemoryStore("memory-store:mine").url == "memory-store:mine"


def test_stores_share_nothing() -> None:
    first, second = MemoryStore("memory-store:x"), MemoryStore("memory-store:x")
    first.root.create_group("a")
    assert second.root.children() == {}


def test_views_share_the_tree_and_close_alone() -> None:
    store = MemoryStore()
    view = store.view(readonly=True)
    store.root.create_array("0", make_spec()).write(None, 1)
    assert view.url == store.url
    assert Capability.WRITE not in view.capabilities
    assert (view.root.array("0").read() == 1).all()
    with pytest.raises(ReadOnlyError):
        view.root.array("0").write(None, 2)
    store.close()
    assert (view.root.array("0").read() == 1).all()
    with pytest.raises(ClosedError):
        _ = store.root
    store.view().root.array("0").write(None, 2)
    assert (view.root.array("0").read() == 2).all()


def test_links_to_groups_make_no_cycles() -> None:
    root = MemoryStore().root
    inner = root.create_group("a").create_group("b")
    root.link("same", "a/b")
    root.group("same").create_group("c")
    assert list(inner.children()) == ["c"]
    for target in ("a", "a/b", "same"):
        with pytest.raises(InvalidInputError):
            inner.link("loop", target)


@pytest.mark.parametrize("shape", [(2**40, 2**10), (2**62, 2**62)], ids=str)
def test_what_does_not_fit_into_memory_is_refused(shape: tuple[int, ...]) -> None:
    root = MemoryStore().root
    with pytest.raises(LayoutNotSupportedError):
        root.create_array("0", make_spec(shape, np.dtype("f8"), chunks=(1, 1)))
    assert root.children() == {}
