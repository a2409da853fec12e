"""Memory of windows that nobody holds any more, taken again for the next ones.

Pages of fresh memory are cleared by the system when they are touched first, which takes longer than
to copy a window into memory that was used before.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from fmristore_stores.io.memory import aligned
from fmristore_stores.protocol import AnyArray

__all__ = ["Memory"]


class _Lent:
    """Owner of lent memory, which arrays hold on to: goes when the last of them goes."""

    __slots__ = ("__array_interface__", "__weakref__", "memory")

    def __init__(self, memory: AnyArray, nbytes: int) -> None:
        self.memory = memory
        self.__array_interface__ = memory[:nbytes].__array_interface__


class _Loan(weakref.ref[_Lent]):
    """A loan, with the memory that was lent."""

    __slots__ = ("memory",)

    memory: AnyArray


class Memory:
    """Memory to lend: what comes back is lent again.

    It comes back when the array that was made of it is gone, with all of its parts: whoever keeps a
    part keeps it from being overwritten.
    """

    def __init__(self) -> None:
        self._lent: dict[int, _Loan] = {}
        self._back: deque[_Loan] = deque()
        """Loans that are over. A method of theirs is called when that happens, no Python runs."""

    def __reduce__(self) -> tuple[type[Memory], tuple[()]]:
        """Another process begins with no memory."""
        return Memory, ()

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> AnyArray:
        """An array as `numpy.empty` makes it.

        Parameters
        ----------
        shape : sequence of int
        dtype : dtype
            Without objects.
        """
        nbytes = math.prod(shape) * dtype.itemsize
        memory: AnyArray | None = None
        while memory is None and self._back:
            loan = self._back.popleft()
            del self._lent[id(loan)]
            if loan.memory.nbytes >= nbytes:
                memory = loan.memory
        if memory is None:
            memory = aligned(nbytes)
        lent = _Lent(memory, nbytes)
        loan = _Loan(lent, self._back.append)
        loan.memory = memory
        self._lent[id(loan)] = loan
        return np.asarray(lent).view(dtype).reshape(tuple(shape))
