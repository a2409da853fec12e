"""Functions that workers import."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fmristore_stores.errors import InvalidInputError


def twice(number: int) -> int:
    """Or an error, of ours or not."""
    if number == 3:
        raise InvalidInputError("three is refused", url="three.h5")
    if number == 4:
        raise ZeroDivisionError("an accident")
    return 2 * number


def die(number: int) -> str:
    """Take the process along, or say how many threads it is to use."""
    if number == 1:
        os._exit(1)
    return f"{os.environ['FMRISTORE_WORKERS']} threads"


def mean_of(stored: Any, offset: float = 0.0) -> float:
    """Mean of a stored object."""
    return float(np.asarray(stored).mean()) + offset


def ramp(region: tuple[slice, ...]) -> Any:
    """Values of a region of a made-up run: they say where they lie."""
    x, y, z, t = np.ogrid[region]
    return (1000 * t + 100 * z + 10 * y + x).astype(np.int16)


def ramp_but_one(region: tuple[slice, ...]) -> Any:
    """As `ramp`, and an error for one region."""
    if region[3].start == 5:
        raise InvalidInputError("this one is refused")
    return ramp(region)
