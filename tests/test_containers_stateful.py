"""Random histories of containers that two processes change, one of which is killed at times."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import fmristore as fs
from fmristore_stores.protocol import AnyArray
from tests.campaigns.children import Limits, in_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

SHAPE = (3, 3, 2)
GRID = fs.NeuroSpace(spatial_shape=SHAPE, affine=np.eye(4))
LABELS = np.arange(1, 19).reshape(SHAPE) % 2 + 1
NAMES = st.sampled_from(["a", "b", "c", "é/..", "*"])
LIMITS = Limits(seconds=250)


def _map(number: int) -> AnyArray:
    return np.full(SHAPE, number, np.float32)


class Containers(RuleBasedStateMachine):
    """A set of maps or a container of scans, and a dictionary that it must be like.

    A rule changes the store in this process, in another one, or in one that is killed while it
    does so: then it must be as before or as after.
    """

    kind: ClassVar[str]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / f"x.{self.kind}"
        self.create()
        self.model: dict[str, int] = {"first": 1}

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def create(self) -> None:
        raise NotImplementedError

    def change(self, what: str, *arguments: Any) -> None:
        raise NotImplementedError

    def found(self) -> dict[str, int]:
        raise NotImplementedError

    def do(self, where: float, after: dict[str, int], what: str, *arguments: Any) -> None:
        """Do it here (0), in another process (1), or in one that is killed (in between)."""
        if where in (0, 1):
            ended = in_child(lambda: self.change(what, *arguments), LIMITS) if where else None
            if ended is None:
                self.change(what, *arguments)
            else:
                assert ended.how == "returned", ended
            self.model = after
            return

        def work() -> None:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, where / 10)
            self.change(what, *arguments)

        ended = in_child(work, LIMITS)
        assert ended.how in ("returned", "signal"), ended
        found = self.found()
        assert found in ([after] if ended.how == "returned" else [after, self.model])
        self.model = found

    @rule(name=NAMES, number=st.integers(2, 99), where=st.sampled_from([0, 1, 0.1, 0.3, 0.7]))
    def add(self, name: str, number: int, where: float) -> None:
        if name in self.model:
            with pytest.raises(fs.errors.FmristoreError):
                self.change("add", name, number)
        elif len(self.model) < 6:
            self.do(where, {**self.model, name: number}, "add", name, number)

    @rule(name=NAMES, where=st.sampled_from([0, 1, 0.1, 0.3, 0.7]))
    def remove(self, name: str, where: float) -> None:
        if name in self.model:
            after = {other: n for other, n in self.model.items() if other != name}
            self.do(where, after, "remove", name)

    @invariant()
    def is_as_the_model_says(self) -> None:
        if hasattr(self, "model"):
            assert self.found() == self.model

    @rule()
    def verify(self) -> None:
        report = fs.verify(self.path, deep=True)
        assert report.ok, str(report)


class Maps(Containers):
    """Labelled maps, which can be renamed too."""

    def create(self) -> None:
        fs.LabeledVolumeSet.create({"first": _map(1)}, self.path, space=GRID).close()

    def change(self, what: str, *arguments: Any) -> None:
        with fs.open(self.path) as maps:
            if what == "add":
                maps.add(arguments[0], _map(arguments[1]))
            else:
                getattr(maps, what)(*arguments)

    def found(self) -> dict[str, int]:
        with fs.open(self.path) as maps:
            values = np.asarray(maps)
            assert all(len(np.unique(values[..., i])) == 1 for i in range(values.shape[3]))
            return {label: int(values[0, 0, 0, i]) for i, label in enumerate(maps.labels)}

    @rule(old=NAMES, new=NAMES, where=st.sampled_from([0, 1, 0.2]))
    def rename(self, old: str, new: str, where: float) -> None:
        if old in self.model and new not in self.model:
            after = {new if name == old else name: n for name, n in self.model.items()}
            self.do(where, after, "rename", old, new)


class Scans(Containers):
    """Scans of parcels."""

    def create(self) -> None:
        fs.ParcellatedMultiScan.create(
            {"first": self.scan(1)}, self.path, parcellation=LABELS, space=GRID, tr=1.0
        ).close()

    def scan(self, number: int) -> AnyArray:
        return np.full((4, 2), number, np.float32)

    def change(self, what: str, *arguments: Any) -> None:
        with fs.open(self.path) as scans:
            if what == "add":
                scans.add_scan(arguments[0], self.scan(arguments[1]), tr=1.0)
            else:
                scans.remove_scan(*arguments)

    def found(self) -> dict[str, int]:
        with fs.open(self.path) as scans:
            values = {name: scans.part(name).to_numpy() for name in scans.scan_names}
            assert all(len(np.unique(v)) == 1 for v in values.values())
            return {name: int(v[0, 0]) for name, v in values.items()}


MODEST = settings(max_examples=4, stateful_step_count=8, deadline=None)


def _case(machine: Any, ending: str) -> Any:
    made: Any = type(f"{machine.__name__}{ending}", (machine,), {"kind": ending})
    case = made.TestCase
    case.settings = MODEST
    return case


TestMapsInHDF5 = _case(Maps, "h5")
TestMapsInZarr = _case(Maps, "zarr")
TestScansInHDF5 = _case(Scans, "h5")
TestScansInZarr = _case(Scans, "zarr")
