"""fmristore beside its peers: ``python -m benchmarks`` measures reading, writing, transcoding."""

from __future__ import annotations

__all__: list[str] = []
