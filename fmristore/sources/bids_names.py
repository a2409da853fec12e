"""Names of files as BIDS makes them: entities, a suffix, an extension."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

__all__ = ["ENTITIES", "BidsName", "long_name", "parse_name"]

ENTITIES: Mapping[str, str] = MappingProxyType(
    {
        "sub": "subject",
        "tpl": "template",
        "ses": "session",
        "cohort": "cohort",
        "sample": "sample",
        "task": "task",
        "tracksys": "tracksys",
        "acq": "acquisition",
        "nuc": "nucleus",
        "voi": "volume",
        "ce": "ceagent",
        "trc": "tracer",
        "stain": "stain",
        "rec": "reconstruction",
        "dir": "direction",
        "run": "run",
        "mod": "modality",
        "echo": "echo",
        "flip": "flip",
        "inv": "inversion",
        "mt": "mtransfer",
        "part": "part",
        "proc": "processing",
        "hemi": "hemisphere",
        "space": "space",
        "split": "split",
        "recording": "recording",
        "chunk": "chunk",
        "atlas": "atlas",
        "seg": "segmentation",
        "scale": "scale",
        "res": "resolution",
        "den": "density",
        "label": "label",
        "desc": "description",
        "contrast": "contrast",
        "stat": "stat",
    }
)
"""Keys of entities in names, in the order of the specification, and what they are called."""

_NAME = re.compile(r"((?:[A-Za-z]+-[A-Za-z0-9+]+_)+)([A-Za-z0-9]+)(\.[A-Za-z0-9.]+)", re.ASCII)
_ABOVE = re.compile(r"((?:[A-Za-z]+-[A-Za-z0-9+]+_)*)([A-Za-z0-9]+)(\.[A-Za-z0-9.]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class BidsName:
    """Name of a file.

    Parameters
    ----------
    entities : mapping of str to str
        By their keys in names (``sub``, ``task``), in the order of the name.
    suffix : str
        Such as ``bold``.
    extension : str
        From the first dot on.
    """

    entities: Mapping[str, str]
    suffix: str
    extension: str

    @property
    def stem(self) -> str:
        """Name without its extension."""
        return "_".join([*(f"{key}-{value}" for key, value in self.entities.items()), self.suffix])

    def __str__(self) -> str:
        return self.stem + self.extension

    def with_extension(self, extension: str) -> BidsName:
        """The same with another extension."""
        return replace(self, extension=extension)

    def applies_to(self, other: BidsName, *, besides: frozenset[str] = frozenset()) -> bool:
        """Return whether all its entities, but for some, are those of another name."""
        return all(
            other.entities.get(key) == value
            for key, value in self.entities.items()
            if key not in besides
        )


def parse_name(name: str, *, above: bool = False) -> BidsName | None:
    """Entities, suffix and extension of the name of a file; None for a name that has none.

    Parameters
    ----------
    name : str
        Without folders. Entities that the specification does not know are kept.
    above : bool
        Whether there may be no entities, as in ``bold.json`` at the top of a dataset.

    Examples
    --------
    >>> parse_name("sub-01_task-rest_bold.nii.gz").suffix
    'bold'
    """
    found = (_ABOVE if above else _NAME).fullmatch(name)
    if found is None:
        return None
    pairs = [one.partition("-") for one in found[1].split("_") if one]
    entities = {key: value for key, _, value in pairs}
    if len(entities) != len(pairs):
        return None
    return BidsName(entities, found[2], found[3])


def long_name(key: str) -> str:
    """Long name of an entity: ``subject`` for ``sub``."""
    return ENTITIES.get(key, key)
