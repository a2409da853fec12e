"""A page in the browser that shows a store: slices, series, parcels, and what reading them costs.

`view` serves it on this machine, or writes it as one file.
"""

from __future__ import annotations

from fmristore.viewer.open import Viewer, view

__all__ = ["Viewer", "view"]
