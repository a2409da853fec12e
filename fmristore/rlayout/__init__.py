"""The HDF5 layouts of the R package fmristore: reading its files, and writing files for it.

Nothing is converted on opening: the classes of `fmristore.formats` read R's files through parts
that say where in them the numbers are.
"""

from __future__ import annotations

from fmristore.rlayout.detect import detect, open_r

__all__ = ["detect", "open_r"]
