"""Finding out whether a store was written by the R package, and which of its layouts it has."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from fmristore.formats.base import StoredObject
from fmristore_stores.errors import UnknownFormatError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import Child, Group

__all__ = ["detect", "open_r", "r_writer"]

_MODULES = {
    "dense": "fmristore.formats.image.r",
    "labeledvolumeset": "fmristore.formats.maps.r",
    "latent": "fmristore.formats.latent.r",
    "neurovecseq": "fmristore.formats.sequence.r",
    "parcellated": "fmristore.formats.parcellated.r",
}
"""Module for each layout; it has a function ``open_r(handle)``."""

_CLASSES = {
    "H5NeuroVec": "dense",
    "H5NeuroVol": "dense",
    "H5NeuroVecSeq": "neurovecseq",
    "H5ParcellatedMultiScan": "parcellated",
    "H5ParcellatedScan": "parcellated",
    "H5ParcellatedScanSummary": "parcellated",
    "LabeledVolumeSet": "labeledvolumeset",
    "LatentNeuroVec": "latent",
}
"""Layouts by the attribute ``fmristore_class``."""

_TYPES = {
    "DenseNeuroVec": "dense",
    "DenseNeuroVol": "dense",
    "LabeledVolumeSet": "labeledvolumeset",
    "LatentNeuroVec": "latent",
    "NeuroVecSeq": "neurovecseq",
}
"""Layouts by the attribute ``rtype``."""


def detect(root: Group) -> str | None:
    """Which layout of the R package a store has.

    Looks where the R package looks, in its order, but for nodes that only this layout has: a file
    of other software that happens to have ``/data`` or ``/labels`` is not taken for R's.

    Parameters
    ----------
    root : Group
        Root of the store.

    Returns
    -------
    str or None
        ``"dense"``, ``"neurovecseq"``, ``"parcellated"``, ``"labeledvolumeset"`` or ``"latent"``;
        None if it is none of them.

    Notes
    -----
    Reads the attributes and names of the root group and at most two others, no numbers.
    """
    attributes, children = root.read_attributes(), root.children(tolerant=True)
    for name, known in (("fmristore_class", _CLASSES), ("rtype", _TYPES)):
        kind = known.get(_text(attributes, name))
        if kind is not None:
            return kind
    return _by_nodes(root, children)


def _by_nodes(root: Group, children: Mapping[str, Child]) -> str | None:
    names = set(children)
    if {"scans", "cluster_map"} <= names:
        return "parcellated"
    # Before the runs, although R looks here later: latent files have /scans and /header too.
    basis = set(_names(root, children, "basis")) & {"basis_matrix", "basis_matrix_sparse"}
    if basis and "scans" in names:
        return "latent"
    space = _names(root, children, "space")
    if "scans" in names and {"dim", "trans"} <= set(space):
        return "neurovecseq"
    if {"labels", "mask", "header", "data"} <= names:
        return "labeledvolumeset"
    if "data" in names and {"dim", "trans"} <= set(space):
        return "dense"
    return None


def _names(root: Group, children: Mapping[str, Child], group: str) -> list[str]:
    """Names of the children of a group, none if there is no such group."""
    child = children.get(group)
    return list(root.group(group).children()) if child and child.kind == "group" else []


def _text(attributes: Mapping[str, Any], name: str) -> str:
    """Text of an attribute; R writes lists of one."""
    value = attributes.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else ""


def r_writer(root: Group) -> str:
    """Name and, where it is recorded, version of the software that wrote a file of R's."""
    version = _text(root.read_attributes(), "fmristore_version")
    return f"R package fmristore {version}".rstrip()


def open_r(handle: Handle) -> StoredObject:
    """Open a store that the R package wrote.

    Parameters
    ----------
    handle : Handle
        The store; closing it is up to the caller if this raises.

    Returns
    -------
    StoredObject
        Of the class that reads the same format when fmristore itself wrote it.

    Raises
    ------
    UnknownFormatError
        If the store has none of R's layouts.
    MetadataError
        If it has one, and something in it is missing or damaged.
    """
    kind = detect(handle.store.root)
    if kind is None:
        raise UnknownFormatError(
            "the store is readable but holds no format of fmristore, neither this one nor that "
            "of the R package",
            url=handle.locator.url,
        )
    opened: StoredObject = importlib.import_module(_MODULES[kind]).open_r(handle)
    return opened
