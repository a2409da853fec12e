"""Windows as datasets of torch, with its real data loaders."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore.sampling import Batches, Windows
from fmristore_stores.errors import DependencyError, InvalidInputError
from tests.every_format import RUN, SPACE

torch: Any = None
with contextlib.suppress(ImportError):
    torch = importlib.import_module("torch")
needs_torch = pytest.mark.skipif(
    torch is None, reason='torch is large and no part of the extra test: pip install "torch"'
)
METHODS = [None, "fork", "spawn"] if sys.platform == "linux" else [None, "spawn"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("torch")
    found = [folder / "a.h5", folder / "b.ome.zarr"]
    for number, path in enumerate(found):
        fs.NeuroVec.create(RUN + number, path, space=SPACE, access="volume").close()
    return found


def _workers(method: str | None) -> dict[str, Any]:
    if method is None:
        return {"num_workers": 0}
    return {"num_workers": 2, "multiprocessing_context": method}


def _first_volume(values: Any) -> Any:
    return values[..., 0]


@needs_torch
def test_windows_are_collated_as_they_lie_in_memory(paths: list[Path]) -> None:
    from fmristore.sampling.torch import WindowDataset

    with Windows(paths, length=6) as windows:
        dataset = WindowDataset(windows)
        items = dataset.__getitems__([1, 0])
        loader = torch.utils.data.DataLoader(dataset, batch_size=2, collate_fn=dataset.collate)
        batch = next(iter(loader))
    both = dataset.collate(items)
    assert torch.equal(both, torch.stack(items))
    assert both[0].stride() == items[0].stride()
    assert torch.equal(batch, both.flip(0))


@needs_torch
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_windows_are_a_dataset(paths: list[Path], method: str | None) -> None:
    from fmristore.sampling.torch import WindowDataset

    with Windows(paths, length=6) as windows:
        dataset = WindowDataset(windows, transform=_first_volume)
        assert isinstance(dataset, torch.utils.data.Dataset)
        loader = torch.utils.data.DataLoader(dataset, batch_size=4, **_workers(method))
        found = torch.cat(list(loader)).numpy()
        expected = np.stack([values[..., 0] for values in windows])
    np.testing.assert_array_equal(found, expected)


@needs_torch
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_batches_are_an_iterable_dataset(
    paths: list[Path], method: str | None, *, shuffle: bool
) -> None:
    from fmristore.sampling.torch import BatchStream

    with Windows(paths, length=4, stride=2, patch=(3, 5, 4)) as windows:
        expected = [windows[number] for number in range(len(windows))]

        def stream() -> Any:
            return BatchStream(Batches(windows, batch_size=3, shuffle=shuffle))

        def load(dataset: Any) -> list[Any]:
            loader = torch.utils.data.DataLoader(dataset, batch_size=None, **_workers(method))
            return list(loader)

        batches = load(stream())
        numbers = torch.cat([batch[1] for batch in batches]).tolist()
        assert sorted(numbers) == list(range(len(windows)))
        if not shuffle:
            assert numbers == list(range(len(windows)))
        values = np.concatenate([batch[0].numpy() for batch in batches])
        np.testing.assert_array_equal(values, np.stack([expected[n] for n in numbers]))
        if method is None:
            return
        resumed = stream()
        resumed.resume(epoch=0, batches=5, workers=2)
        rest = [batch[1].tolist() for batch in load(resumed)]
        assert rest == [batch[1].tolist() for batch in batches[5:]]
        later = stream()
        later.set_epoch(1)
        other = torch.cat([batch[1] for batch in load(later)]).tolist()
        assert (other == numbers) is (not shuffle)


@needs_torch
def test_the_state_of_a_stream(paths: list[Path]) -> None:
    from fmristore.sampling.torch import BatchStream

    with Windows(paths, length=4) as windows:
        whole = [numbers.tolist() for _, numbers in BatchStream(Batches(windows))]
        begun = BatchStream(Batches(windows))
        first = [numbers.tolist() for _, numbers in itertools.islice(begun, 3)]
        rest = BatchStream(Batches(windows))
        rest.load_state_dict(begun.state_dict())
        assert first + [numbers.tolist() for _, numbers in rest] == whole
        with pytest.raises(InvalidInputError, match="not fixed"):
            rest.resume(epoch=0, batches=10, workers=3)


@pytest.mark.skipif(torch is not None, reason="torch is installed")
def test_without_torch_the_message_names_the_cure(paths: list[Path]) -> None:
    from fmristore.sampling.torch import BatchStream, WindowDataset

    with Windows(paths, length=4) as windows:
        for make in (lambda: WindowDataset(windows), lambda: BatchStream(Batches(windows))):
            with pytest.raises(DependencyError, match=r"fmristore\[torch\]"):
                make()
