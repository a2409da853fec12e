"""Report on a transcode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fmristore.planning.pictures import report_html
from fmristore.planning.text import counted
from fmristore.transcoding.plan import TranscodePlan
from fmristore_stores.secrets import masked_url
from fmristore_stores.shown import shown_url

__all__ = ["TranscodeReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscodeReport:
    """Outcome of a transcode; printable.

    Parameters
    ----------
    plan : TranscodePlan
        What was carried out.
    digests : dict of str to str
        SHA-256 of each array: over lengths and CRC32C of the encoded chunks where they were
        copied, over the data otherwise. Each was computed from the source and again from the
        finished store, and was equal.
    seconds : float
        Wall time.
    """

    plan: TranscodePlan
    digests: dict[str, str]
    seconds: float

    @property
    def kept(self) -> tuple[str, ...]:
        """Arrays whose encoded chunks were copied."""
        return tuple(step.path for step in self.plan.arrays if step.method == "verbatim")

    @property
    def converted(self) -> dict[str, str]:
        """Arrays that were decoded and encoded, and why."""
        return {step.path: step.reason for step in self.plan.arrays if step.method != "verbatim"}

    @property
    def dropped(self) -> tuple[str, ...]:
        """Items left out or substituted."""
        return tuple(f"{loss.kind} /{loss.path}: {loss.reason}" for loss in self.plan.losses)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def _repr_html_(self) -> str:
        return report_html(type(self).__name__, str(self))

    def __str__(self) -> str:
        copied = f"{len(self.kept)} copied verbatim, {len(self.converted)} converted"
        lost = f", {len(self.dropped)} lost" if self.dropped else ""
        equal = ", digests equal" if self.digests else ""
        where = f"{shown_url(self.plan.source)} -> {shown_url(self.plan.target)}"
        arrays = counted(len(self.plan.arrays), "array")
        return f"{where}: {arrays} ({copied}){lost}{equal}, {self.seconds:.2f} s"

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "source": masked_url(self.plan.source),
            "target": masked_url(self.plan.target),
            "seconds": self.seconds,
            "bytes": self.plan.nbytes,
            "kept": list(self.kept),
            "converted": self.converted,
            "dropped": list(self.dropped),
            "digests": self.digests,
        }
