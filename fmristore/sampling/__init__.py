"""Windows of stored runs for training: random or in order, from any number of runs.

`Windows` says which windows there are and reads any of them. `Batches` goes through all of them as
arrays of numpy, shuffled or in order, so that no chunk is decoded twice within a buffer; where it
stands can be saved and restored. `fmristore.sampling.torch` has both as datasets of torch.
"""

from __future__ import annotations

from fmristore.sampling.batches import Batch, Batches
from fmristore.sampling.windows import Window, Windows

__all__ = ["Batch", "Batches", "Window", "Windows"]
