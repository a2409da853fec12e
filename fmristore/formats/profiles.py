"""Layouts of other software that a format can be written in.

A profile is a package with one module for each format. The formats know its name and nothing of
what is in it, so that it may build upon them.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any, Literal

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.io.location import kind_of_name, normalise
from fmristore_stores.opening import Handle

__all__ = ["Profile", "find_profile", "open_layout"]

Profile = Literal["r"]
"""``"r"``: as the R package fmristore writes it, in HDF5 only."""

_PACKAGES = {"r": "fmristore.formats.r_detect"}
_MODULES = {
    "dense": "fmristore.formats.image.r",
    "neurovecseq": "fmristore.formats.sequence.r",
    "labeledvolumeset": "fmristore.formats.maps.r",
    "latent": "fmristore.formats.latent.r",
    "parcellated": "fmristore.formats.parcellated.r",
    "parcellated_write": "fmristore.formats.parcellated.r_write",
}
"""Module that writes a format, by its name."""


def find_profile(profile: str, module: str, url: str | os.PathLike[str]) -> ModuleType:
    """Module that writes a format in the layout of other software.

    Parameters
    ----------
    profile : str
        Name of the profile.
    module : str
        Of its package.
    url : str or path
        New store; its name must end as that of an HDF5 file does.

    Raises
    ------
    InvalidInputError
        If there is no such profile, or it does not exist for that kind of store.
    """
    package = _PACKAGES.get(profile)
    if package is None:
        raise InvalidInputError(f"unknown profile {profile!r}; there is {', '.join(_PACKAGES)}")
    target = normalise(url)
    if kind_of_name(target) != "hdf5":
        raise InvalidInputError("R reads HDF5 files: the name must end in .h5", url=target)
    return importlib.import_module(_MODULES[module])


def open_layout(profile: Profile, handle: Handle) -> Any:
    """Open what other software has stored.

    Parameters
    ----------
    profile : str
        Name of the profile.
    handle : Handle
        The store.

    Raises
    ------
    UnknownFormatError
        If it is no layout of that software.
    """
    return importlib.import_module(_PACKAGES[profile]).open_r(handle)
