"""Tables of objects that are still alive, which run nothing of Python when one of them goes.

`weakref.WeakSet` and its kin remove what is gone in callbacks written in Python: a Ctrl-C that
arrives while one of them runs is printed and lost. Here only the dead reference is put aside, by a
method of `collections.deque`, and the tables are tidied when they are used next.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["AliveKeys", "AliveSet", "AliveValues"]

Thing = TypeVar("Thing")
Key = TypeVar("Key", bound=Hashable)


class _Ref(weakref.ref[Any]):
    """A reference that knows where it stands in a table, and what is kept with it."""

    __slots__ = ("key", "value")

    key: Any
    value: Any


class _Table:
    def __init__(self) -> None:
        self._refs: dict[Any, _Ref] = {}
        self._gone: deque[_Ref] = deque()

    def _put(self, key: Any, thing: object, value: Any = None) -> None:
        self._tidy()
        ref = _Ref(thing, self._gone.append)
        ref.key, ref.value = key, value
        self._refs[key] = ref

    def _tidy(self) -> None:
        while self._gone:
            try:
                ref = self._gone.popleft()
            except IndexError:  # another thread was faster
                return
            if self._refs.get(ref.key) is ref:
                self._refs.pop(ref.key, None)

    def _alive(self) -> Iterator[Any]:
        for ref in list(self._refs.values()):
            thing = ref()
            if thing is not None:
                yield thing

    def clear(self) -> None:
        """Forget everything."""
        self._refs.clear()

    def __len__(self) -> int:
        """Number of objects that are alive."""
        return sum(1 for _ in self._alive())


class AliveSet(_Table, Generic[Thing]):
    """Objects that are alive."""

    def add(self, thing: Thing) -> None:
        """Take one in."""
        self._put(id(thing), thing)

    def discard(self, thing: Thing) -> None:
        """Take one out, if it is in."""
        self._refs.pop(id(thing), None)

    def __iter__(self) -> Iterator[Thing]:
        return self._alive()

    def __bool__(self) -> bool:
        return next(self._alive(), None) is not None


class AliveValues(_Table, Generic[Key, Thing]):
    """Objects that are alive, by key."""

    def get(self, key: Key) -> Thing | None:
        """The object of that key, None if there is none."""
        ref = self._refs.get(key)
        found: Thing | None = None if ref is None else ref()
        return found

    def put(self, key: Key, thing: Thing) -> Thing:
        """Put one in the place of that key."""
        self._put(key, thing)
        return thing

    def values(self) -> Iterator[Thing]:
        """All of them."""
        return self._alive()


class AliveKeys(_Table, Generic[Thing]):
    """Entries of objects that are alive, which go soon after them."""

    def get(self, thing: object) -> Thing | None:
        """Entry of an object, None if there is nothing."""
        if self._gone:
            self._tidy()
        ref = self._refs.get(id(thing))
        found: Thing | None = None if ref is None or ref() is not thing else ref.value
        return found

    def put(self, thing: object, value: Thing) -> Thing:
        """Keep something for an object."""
        self._put(id(thing), thing, value)
        return value
