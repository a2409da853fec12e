"""The module for xarray, where xarray is installed."""

from __future__ import annotations

from typing import Any

from fmristore_stores.errors import DependencyError

__all__ = ["xarray_module"]


def xarray_module() -> Any:
    """`fmristore.interop.xarray`.

    Raises
    ------
    DependencyError
        If xarray is not installed.
    """
    try:
        import xarray  # noqa: F401
    except ImportError as error:
        raise DependencyError('this needs xarray: pip install "fmristore[xarray]"') from error
    from fmristore.interop import xarray as module

    return module
