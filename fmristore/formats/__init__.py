"""Format classes: what a store holds, and how it is read by voxel, region, volume and name.

Called, as ``fmristore.formats()``, this package lists them: see `fmristore.formats.catalogue`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fmristore.formats.catalogue import FormatList

__all__: list[str] = []


class _Callable(ModuleType):
    """A package that is also a function: both are ``fmristore.formats``."""

    def __call__(self) -> FormatList:
        from fmristore.formats.catalogue import formats

        return formats()


sys.modules[__name__].__class__ = _Callable
