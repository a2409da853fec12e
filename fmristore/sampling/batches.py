"""All windows, batch by batch: shuffled or in order, to be taken up again where they were left."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fmristore.planning.memory import too_little
from fmristore.planning.text import parse_size
from fmristore.sampling.buffers import Buffer, Group, Groups, gather
from fmristore.sampling.memory import Memory
from fmristore.sampling.windows import Windows, whole_number
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["Batch", "Batches"]

_TOGETHER = 16 * 1024 * 1024
"""Bytes of batches that are allocated at once."""


class Batch(NamedTuple):
    """Some windows.

    Parameters
    ----------
    values : ndarray, (B, ...)
        One window after the other, each of `Windows.shape`.
    numbers : ndarray of int64, (B,)
        Which they are: `Windows.where` tells run and place.
    """

    values: AnyArray
    numbers: AnyArray


class Batches:
    """Batches of all windows: an iteration is an epoch.

    Parameters
    ----------
    windows : Windows
        What they are made of.
    batch_size : int
        Windows of a batch; the last one may have fewer.
    shuffle : bool
        In random order: groups of windows that share chunks are drawn, as many as fit into the
        memory, and their windows shuffled. The more memory, the better they are mixed. Otherwise
        in the order of `windows`.
    seed : int
        Of the random order. The same seed, epoch and arguments give the same batches.
    max_memory : int or str
        Bytes that this may take in a process: a buffer and two batches. Half of it is the buffer's:
        windows, or the chunks of them where these take less. No chunk is decoded twice for one.
    drop_last : bool
        Leave out a last batch with fewer windows.

    Raises
    ------
    InvalidInputError
        If an argument cannot be used.
    MemoryLimitError
        If the chunks of a single window, or two batches, do not fit; the message says how much is
        needed.

    Examples
    --------
    >>> from fmristore.sampling import Batches, Windows
    >>> windows = Windows("bold.h5", length=20, stride=5)                     # doctest: +SKIP
    >>> for values, numbers in Batches(windows, batch_size=8, seed=1):        # doctest: +SKIP
    ...     ...
    """

    def __init__(
        self,
        windows: Windows,
        *,
        batch_size: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        max_memory: int | str = 1 << 28,
        drop_last: bool = False,
    ) -> None:
        self.windows = windows
        self._batch_size = whole_number(batch_size, "batch_size")
        self._shuffle = bool(shuffle)
        self._seed = whole_number(seed, "seed", least=0)
        self._drop_last = bool(drop_last)
        most = parse_size(max_memory)
        needed = 2 * self._batch_size * windows.nbytes
        if needed > most // 2:
            raise too_little(f"two batches of {batch_size} windows", most, 2 * needed)
        self._limit = most // 4
        self._groups = Groups(windows, self._limit)
        self._epoch = 0
        self._done = 0
        self._worker, self._workers = 0, 1
        self._memory_of_batches, self._memory_of_runs = Memory(), Memory()

    # Where it stands ------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next iteration goes through."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through, from its first batch on.

        Parameters
        ----------
        epoch : int
            Each has another random order.
        """
        self._epoch, self._done = int(epoch), 0

    def __len__(self) -> int:
        """Batches of an epoch, where one process takes them all."""
        return self._rounded(len(self.windows))

    def _rounded(self, windows: int) -> int:
        """Batches that so many windows make."""
        return (windows if self._drop_last else windows + self._batch_size - 1) // self._batch_size

    def count(self, worker: int, workers: int) -> int:
        """Batches of the epoch that one of several workers gives out: see `set_worker`."""
        if not self._shuffle:
            return len(range(worker, len(self), workers))
        mine = self._order()[worker::workers].tolist()
        return self._rounded(sum(self._groups[number].size for number in mine))

    def _order(self) -> AnyArray:
        """Groups of windows as they are drawn in the epoch."""
        return np.random.default_rng([self._seed, self._epoch]).permutation(len(self._groups))

    def state_dict(self) -> dict[str, Any]:
        """Place of the iteration, as JSON can hold it.

        Returns
        -------
        dict
            For `load_state_dict` of batches of the same windows and arguments.
        """
        return {
            "epoch": self._epoch,
            "batches": self._done,
            "worker": self._worker,
            "workers": self._workers,
            "of": self._fingerprint(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another iteration stood: the next batch is the one that followed there.

        Parameters
        ----------
        state : mapping
            Of `state_dict`.

        Raises
        ------
        InvalidInputError
            If it is that of other windows, or of other arguments, which have another order.
        """
        try:
            epoch, done = int(state["epoch"]), int(state["batches"])
            worker, workers, of = int(state["worker"]), int(state["workers"]), state["of"]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError("the state is not one of state_dict()") from error
        if of != self._fingerprint():
            raise InvalidInputError(
                "the state is that of other windows, batches, seed or memory: their order differs"
            )
        if min(epoch, done, worker) < 0 or worker >= workers:
            raise InvalidInputError("the state is not one of state_dict()")
        self._epoch, self._done, self._worker, self._workers = epoch, done, worker, workers

    def _fingerprint(self) -> str:
        windows = self.windows
        facts = (
            [(run.shape, run.chunks) for run in windows.sources],
            (windows.shape, windows.size, windows.strides, str(windows.dtype)),
            (self._batch_size, self._shuffle, self._seed, self._limit, self._drop_last),
        )
        return f"{zlib.crc32(repr(facts).encode()):08x}"

    def set_worker(self, worker: int, workers: int) -> None:
        """Give out only the share of one of several workers, which together give all windows.

        Parameters
        ----------
        worker, workers : int
            Number of the worker, from 0, and of all. In order each takes every `workers`-th batch,
            so that taking turns gives the order of `windows`; shuffled, other groups of windows.

        Raises
        ------
        InvalidInputError
            If there is no such worker, or an epoch that was begun was shared among others.
        """
        if not 0 <= worker < workers:
            raise InvalidInputError(f"there is no worker {worker} of {workers}")
        if self._done and (worker, workers) != (self._worker, self._workers):
            raise InvalidInputError(
                f"the epoch was begun as worker {self._worker} of {self._workers}: go on with as "
                "many workers, or set_epoch() to begin another one"
            )
        self._worker, self._workers = worker, workers

    # Going through it -----------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        skipped = self._done * self._batch_size
        for batch in self._batches(skipped):
            self._done += 1
            yield batch
        self.set_epoch(self._epoch + 1)

    def _batches(self, skipped: int) -> Iterator[Batch]:
        rows = _Rows(self._batch_size)
        finishes = self.windows.finishes
        given, held = self._memory_of_batches, self._memory_of_runs
        for buffer, wanted in self._buffers():
            chosen = wanted[skipped:]
            skipped = max(0, skipped - len(wanted))
            if not len(chosen):
                continue
            rows.memory = self._memory(given, buffer, int(chosen[0]))
            at_once = buffer.load(len(chosen))
            while len(chosen):
                count = len(chosen) if at_once else 1 if finishes else rows.left
                part, chosen = chosen[:count], chosen[count:]
                if finishes:
                    yield from self._finished(buffer, part, rows, held)
                else:
                    buffer.fill(part, rows.reserve(part.tolist()))
                    yield from rows.full()
        yield from rows.full(last=not self._drop_last)

    def _finished(
        self, buffer: Buffer, numbers: AnyArray, rows: _Rows, memory: Memory
    ) -> Iterator[Batch]:
        """Batches of windows whose values are scaled, or selected, when they are handed out."""
        windows = self.windows
        held = buffer.rows(memory, numbers)
        buffer.fill(numbers, held)
        for number, values in zip(numbers.tolist(), held, strict=True):
            run, region = windows.where(number)
            (row,) = rows.reserve([number])
            row[...] = windows.finish(run, windows.sources[run].finish(values, region))
            yield from rows.full()

    def _memory(self, memory: Memory, buffer: Buffer, number: int) -> Iterator[AnyArray]:
        """Memory for batches, the first of a given window; elements lie as they are read.

        Small ones are parts of a larger array, whose memory the system gives in larger pages.
        """
        windows, size = self.windows, self._batch_size
        run = windows.where(number).run
        selected = windows.shape != windows.region_shape  # a mask, or some of the parcels
        most = min(_TOGETHER, self._limit // 2)
        each = max(1, most // max(1, size * windows.nbytes))
        while True:
            if selected:
                several = memory.empty((each * size, *windows.shape), windows.dtype)
            else:
                several = buffer.empty(memory, each * size, run, windows.dtype)
            for start in range(0, each * size, size):
                yield several[start : start + size]
            del several  # it may be what is taken next

    def _buffers(self) -> Iterator[tuple[Buffer, AnyArray]]:
        """Buffers, and the numbers of the windows that are taken of each, in their order."""
        if not self._shuffle:
            yield from self._in_order()
            return
        mine = self._order()[self._worker :: self._workers].tolist()
        groups = (self._groups[number] for number in mine)
        for count, buffer in enumerate(gather(self.windows, groups, self._limit)):
            place = [self._seed, self._epoch, 1, self._worker, self._workers, count]
            yield buffer, np.random.default_rng(place).permutation(np.concatenate(buffer.numbers))

    def buffers(self) -> Iterator[AnyArray]:
        """Windows that are read together, by their numbers, in the order of the epoch.

        Yields
        ------
        ndarray of int64, (n,)
            Each chunk that these windows touch is read and decoded once for them. Without those of
            other workers.
        """
        for _, numbers in self._buffers():
            yield numbers

    def _in_order(self) -> Iterator[tuple[Buffer, AnyArray]]:
        singles = (self._single(number) for number in self._share())
        for buffer in gather(self.windows, singles, self._limit):
            yield buffer, np.concatenate(buffer.numbers)

    def _share(self) -> Iterator[int]:
        """Numbers of the windows of this worker's batches."""
        size = self._batch_size
        for start in range(self._worker * size, len(self.windows), self._workers * size):
            yield from range(start, min(start + size, len(self.windows)))

    def _single(self, number: int) -> Group:
        run = self.windows.where(number).run
        inside = number - self.windows.first(run)
        at = np.unravel_index(inside, self.windows.lattice(run))
        return Group(run, tuple(range(int(a), int(a) + 1) for a in at))


class _Rows:
    """Batches in the making: rows are reserved in order, and given out once they are filled."""

    memory: Iterator[AnyArray]
    """Memory for batches."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._begun: deque[Batch] = deque()
        self._reserved = size
        """Rows of the last of them that are reserved."""

    @property
    def left(self) -> int:
        """Rows until a batch is full."""
        return self._size - self._reserved or self._size

    def reserve(self, numbers: Sequence[int]) -> list[AnyArray]:
        """Rows for the next windows."""
        found = []
        for number in numbers:
            if self._reserved == self._size:
                self._begun.append(Batch(next(self.memory), np.empty(self._size, np.int64)))
                self._reserved = 0
            values, places = self._begun[-1]
            places[self._reserved] = number
            found.append(values[self._reserved])
            self._reserved += 1
        return found

    def full(self, *, last: bool = False) -> Iterator[Batch]:
        """Give out full batches, and the last one with fewer windows if that is wanted."""
        while len(self._begun) > 1 or (self._begun and self._reserved == self._size):
            yield self._begun.popleft()
        if last and self._begun:
            values, numbers = self._begun.popleft()
            yield Batch(values[: self._reserved], numbers[: self._reserved])
