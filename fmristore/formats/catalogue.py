"""List of the formats, and of when to use which."""

from __future__ import annotations

import html
import inspect
from dataclasses import dataclass
from typing import Any

from fmristore.formats import registry

__all__ = ["FormatInfo", "FormatList", "formats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatInfo:
    """A registered format.

    Parameters
    ----------
    name : str
        As stores and ``fs.open(url, format=...)`` call it.
    cls : type
        Class that reads it.
    version : (int, int)
        Newest version that the class reads.
    holds : str
        What it holds.
    use_when : str
        When it is the right choice.
    """

    name: str
    cls: type[Any]
    version: tuple[int, int]
    holds: str
    use_when: str

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "name": self.name,
            "class": self.cls.__name__,
            "version": ".".join(map(str, self.version)),
            "holds": self.holds,
            "use_when": self.use_when,
        }


class FormatList(tuple[FormatInfo, ...]):
    """Registered formats in order of their names; shown as a list for people."""

    __slots__ = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the formats."""
        return tuple(info.name for info in self)

    def __repr__(self) -> str:
        width = max((len(info.cls.__name__) for info in self), default=0)
        lines = []
        for info in self:
            lines.append(f"{info.cls.__name__:{width}}  {info.holds or info.name}")
            if info.use_when:
                lines.append(f"{'':{width}}  use it when {info.use_when}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>"
            + "".join(
                f"<td style='text-align:left'>{html.escape(text)}</td>"
                for text in (info.cls.__name__, info.holds, info.use_when)
            )
            + "</tr>"
            for info in self
        )
        return f"<table><tr><th>class</th><th>holds</th><th>use it when</th></tr>{rows}</table>"


def formats() -> FormatList:
    """List every registered format: what it is for and when to use it.

    Returns
    -------
    FormatList
        Of `FormatInfo`, in order of the names; prints as a list for people. What is not said by
        the attributes ``holds`` and ``use_when`` of a class is the first line of its docstring,
        or empty.

    Examples
    --------
    >>> import fmristore as fs
    >>> "neurovec" in fs.formats().names
    True
    """
    return FormatList(_info(name, cls) for name, cls in sorted(registry.formats().items()))


def _info(name: str, cls: type[Any]) -> FormatInfo:
    holds = getattr(cls, "holds", "") or (inspect.getdoc(cls) or "").partition("\n")[0]
    return FormatInfo(
        name=name,
        cls=cls,
        version=cls.format_version,
        holds=holds,
        use_when=getattr(cls, "use_when", ""),
    )
