"""The store layer under the name that users import it by: ``from fmristore.stores import ...``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fmristore_stores

if TYPE_CHECKING:
    from fmristore_stores import *  # noqa: F403

__all__ = list(fmristore_stores.__all__)


def __getattr__(name: str) -> Any:
    """Forward what is imported on first use."""
    return getattr(fmristore_stores, name)
