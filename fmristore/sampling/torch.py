"""Windows as datasets of torch, which its data loaders share out among worker processes."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fmristore.sampling.batches import Batches
from fmristore.sampling.windows import Windows
from fmristore_stores.errors import DependencyError, InvalidInputError

__all__ = ["BatchStream", "WindowDataset"]

Transform = Callable[[Any], Any]

_torch: Any = None
"""The library; None where it is not installed, and then datasets cannot be made."""
with contextlib.suppress(ImportError):
    _torch = importlib.import_module("torch")
    importlib.import_module("torch.utils.data")


def _base(name: str) -> Any:
    """Class that a dataset inherits from."""
    return object if _torch is None else getattr(_torch.utils.data, name)


_Dataset: Any = _base("Dataset")
_IterableDataset: Any = _base("IterableDataset")


def _need_torch() -> None:
    if _torch is None:
        raise DependencyError('this needs torch: pip install "fmristore[torch]"')


class WindowDataset(_Dataset):
    """Windows by number, for a `torch.utils.data.DataLoader` that draws and collates them.

    Every window is read on its own; `BatchStream` decodes less. Give the loader
    ``collate_fn=dataset.collate``: its own function turns the elements of every window into
    another order.

    Parameters
    ----------
    windows : Windows
        Each worker opens their stores for itself.
    transform : callable, optional
        Called with each window as a tensor; what it returns is the item.

    Raises
    ------
    DependencyError
        If torch is not installed.
    """

    def __init__(self, windows: Windows, transform: Transform | None = None) -> None:
        _need_torch()
        self.windows = windows
        self._transform = transform

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, number: int) -> Any:
        """Read one window as a tensor."""
        values = _torch.from_numpy(self.windows[number])
        return values if self._transform is None else self._transform(values)

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Read several windows."""
        return [self[number] for number in numbers]

    @staticmethod
    def collate(items: Sequence[Any]) -> Any:
        """Put windows into one tensor, elements in memory as they lie in the windows.

        Parameters
        ----------
        items : sequence of tensor
            Windows, all of one shape.

        Returns
        -------
        tensor
            (B, ...). Equal to ``torch.stack(items)``, which takes several times as long because
            its elements are in numpy's order.
        """
        strides = items[0].stride()
        order = sorted(range(len(strides)), key=lambda axis: -strides[axis])
        stacked = _torch.stack([item.permute(order) for item in items])
        return stacked.permute(0, *(1 + order.index(axis) for axis in range(len(order))))


class BatchStream(_IterableDataset):
    """Whole batches, for a `torch.utils.data.DataLoader` with ``batch_size=None``.

    Parameters
    ----------
    batches : Batches
        What comes, as tensors ``(values, numbers)``. Workers share an epoch out among them.
    transform : callable, optional
        Called with ``(values, numbers)`` of each batch; what it returns is the item.

    Raises
    ------
    DependencyError
        If torch is not installed.

    Notes
    -----
    Workers that a loader starts again for each epoch begin as the dataset is in the main process:
    call `set_epoch` before each. With ``persistent_workers=True`` they go on to the next by
    themselves. A ``StatefulDataLoader`` of torchdata saves and restores where each worker stands.
    """

    def __init__(self, batches: Batches, transform: Transform | None = None) -> None:
        _need_torch()
        self.batches = batches
        self._transform = transform
        self._given: list[int] = []
        self._next = 0

    def __iter__(self) -> Iterator[Any]:
        info = _torch.utils.data.get_worker_info()
        if info is not None:
            self._share(info.id, info.num_workers)
        for values, numbers in self.batches:
            item = _torch.from_numpy(values), _torch.from_numpy(numbers)
            yield item if self._transform is None else self._transform(item)

    def _share(self, worker: int, workers: int) -> None:
        if self._given and len(self._given) != workers:
            raise InvalidInputError(
                f"the epoch is resumed with {len(self._given)} workers, not {workers}"
            )
        share = (worker + self._next) % workers  # a loader begins with its first worker
        self.batches.set_worker(share, workers)
        if self._given:
            state = self.batches.state_dict() | {"batches": self._given[share]}
            self.batches.load_state_dict(state)
            self._given = []

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that comes next: see `Batches.set_epoch`."""
        self.batches.set_epoch(epoch)
        self._given, self._next = [], 0

    def resume(self, epoch: int, batches: int, workers: int) -> None:
        """Go on after some batches of an epoch that a plain `DataLoader` has handed out.

        Parameters
        ----------
        epoch : int
            The epoch.
        batches : int
            Batches that the loader has handed out of it.
        workers : int
            Its ``num_workers``, at least 1, then and now. It takes turns among them.

        Raises
        ------
        InvalidInputError
            If one of more than two workers has given out all of its share, after which the loader
            takes turns in no fixed order.
        """
        self.set_epoch(epoch)
        left = [self.batches.count(worker, workers) for worker in range(workers)]
        if workers > 2 and batches > workers * min(left):
            raise InvalidInputError(
                f"after {workers * min(left)} batches of epoch {epoch} the order of {workers} "
                "workers is not fixed: begin the next epoch, or use a StatefulDataLoader"
            )
        given = [0] * workers
        turn = 0
        for _ in range(min(batches, sum(left))):
            while given[turn] == left[turn]:  # it has no more, and is passed over
                turn = (turn + 1) % workers
            given[turn] += 1
            turn = (turn + 1) % workers
        self._given, self._next = given, turn

    def state_dict(self) -> dict[str, Any]:
        """Place of the stream in this process: see `Batches.state_dict`."""
        return self.batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood: see `Batches.load_state_dict`."""
        self.batches.load_state_dict(state)
