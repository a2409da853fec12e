"""The conformance suite over every format of the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmristore.testing import FormatTests
from fmristore_stores.protocol import AnyArray
from tests.every_format import BASES, LABELS, LOADINGS, MASK, NAMES, OFFSET, RUN, WRITERS

MEANS = np.column_stack([RUN[label == LABELS].mean(axis=0) for label in NAMES])


class TestNeuroVec(FormatTests):
    def create(self, url: Path | str) -> Any:
        return WRITERS["neurovec"](url)

    def expected(self) -> AnyArray:
        return RUN * np.float32(0.5) + 1


class TestNeuroVol(FormatTests):
    def create(self, url: Path | str) -> Any:
        return WRITERS["neurovol"](url)

    def expected(self) -> AnyArray:
        return RUN[..., 0]


class TestNeuroVecSeq(FormatTests):
    def create(self, url: Path | str) -> Any:
        return WRITERS["neurovecseq"](url)

    def expected(self) -> Mapping[str, AnyArray]:
        return {"rest": RUN, "task": RUN[..., :8]}


class TestMaskedNeuroVec(FormatTests):
    def create(self, url: Path | str) -> Any:
        return WRITERS["maskedneurovec"](url)

    def expected(self) -> AnyArray:
        return np.where(MASK[..., None], RUN, 0)


class TestLabeledVolumeSet(FormatTests):
    def create(self, url: Path | str) -> Any:
        return WRITERS["labeledvolumeset"](url)

    def expected(self) -> Mapping[str, AnyArray]:
        maps = {"Faces > Houses": RUN[..., 0] / 4, "rest/..": RUN[..., 1] / 4}
        return {name: np.where(MASK, values, 0) for name, values in maps.items()}


class TestLatentNeuroVec(FormatTests):
    tolerance = 1e-5
    optional = frozenset({"offset"})  # without one it is 0

    def create(self, url: Path | str) -> Any:
        return WRITERS["latentneurovec"](url)

    def expected(self) -> Mapping[str, AnyArray]:
        found = {}
        for name, basis in BASES.items():
            found[name] = np.zeros((*MASK.shape, len(basis)))
            found[name][MASK] = LOADINGS @ basis.T + OFFSET[:, None]
        return found


class TestParcellatedScan(FormatTests):
    def create(self, url: Path | str) -> Any:
        return WRITERS["parcellatedscan"](url)

    def expected(self) -> AnyArray:
        return np.where(MASK[..., None], RUN, 0)


class TestParcellatedScanSummary(FormatTests):
    tolerance = 1e-6

    def create(self, url: Path | str) -> Any:
        return WRITERS["parcellatedscansummary"](url)

    def expected(self) -> AnyArray:
        return MEANS


class TestParcellatedMultiScan(FormatTests):
    tolerance = 1e-6

    def create(self, url: Path | str) -> Any:
        return WRITERS["parcellatedmultiscan"](url)

    def expected(self) -> Mapping[str, AnyArray]:
        return {"rest": np.where(MASK[..., None], RUN, 0), "task": MEANS[:8]}
