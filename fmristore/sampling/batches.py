"""All windows, batch by batch: shuffled or in order, to be taken up again where they were left."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fmristore.planning.memory import too_little
from fmristore.planning.text import parse_size
from fmristore.sampling.buffers import Buffer, Group, Groups, gather
from fmristore.sampling.windows import Windows, whole_number
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["Batch", "Batches"]


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
        Bytes that this may take in a process: chunks that were decoded, and two batches. No chunk
        is decoded twice for one buffer, which takes half of it.
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
        values: AnyArray | None = None
        whole: AnyArray | None = None
        numbers = np.empty(self._batch_size, np.int64)
        filled = 0
        windows = self.windows
        for buffer, wanted in self._buffers():
            chosen = wanted[skipped:]
            skipped = max(0, skipped - len(wanted))
            if not len(chosen):
                continue
            buffer.load()
            for number in chosen.tolist():
                if values is None:
                    values, whole = self._empty(buffer)
                numbers[filled] = number
                if whole is None:
                    buffer.place(number, values[filled])
                else:
                    buffer.place(number, whole[0])
                    values[filled] = windows.finish(windows.where(number).run, whole[0])
                filled += 1
                if filled == self._batch_size:
                    yield Batch(values, numbers.copy())
                    values, filled = None, 0
        if filled and not self._drop_last and values is not None:
            yield Batch(values[:filled], numbers[:filled].copy())

    def _empty(self, buffer: Buffer) -> tuple[AnyArray, AnyArray | None]:
        """Memory for a batch; and for one region, where windows are only a part of one."""
        if not self.windows.selects:
            return buffer.empty(self._batch_size), None
        shape = (self._batch_size, *self.windows.shape)
        return np.empty(shape, self.windows.dtype), buffer.empty(1)

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
