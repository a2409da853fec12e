"""From what a user gives to scans that are to be stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fmristore.formats.parcellated.writer import ScanRequest, given_matrix
from fmristore.model.space import NeuroSpace
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["array_options", "scan_requests"]


def scan_requests(
    scans: Mapping[str, Any],
    statistic: Any,
    metadata: Mapping[str, Mapping[str, Any]] | None,
    space: NeuroSpace | AnyArray | None,
    tr: float | None,
) -> list[ScanRequest]:
    """Scans to be stored together.

    Parameters
    ----------
    scans : mapping
        Sources by name.
    statistic : str or callable, optional
        What parcels are summarised by, in all of them.
    metadata : mapping, optional
        Mappings by name of the scan.
    space : NeuroSpace or ndarray, (4, 4), optional
        For arrays.
    tr : float, optional
        For arrays.

    Raises
    ------
    InvalidInputError
        If there are metadata of a scan that is not there.
    """
    unknown = [name for name in metadata or {} if name not in scans]
    if unknown:
        raise InvalidInputError(f"metadata of {unknown[0]!r}, which is no scan")
    return [
        ScanRequest(
            name=name,
            source=source,
            statistic=statistic,
            metadata=(metadata or {}).get(name, {}),
            array=array_options(source, space, tr),
        )
        for name, source in scans.items()
    ]


def array_options(
    source: Any, space: NeuroSpace | AnyArray | None, tr: float | None
) -> dict[str, Any]:
    """What an array does not say itself; runs in one store differ in length."""
    if not isinstance(source, np.ndarray):
        return {"tr": tr} if given_matrix(source) is not None else {}
    if isinstance(space, NeuroSpace):
        return {"space": space.without_time(), "tr": tr or space.tr}
    return {"space": space, "tr": tr}
