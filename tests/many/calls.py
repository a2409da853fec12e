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
