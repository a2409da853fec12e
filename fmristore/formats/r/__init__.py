"""Common ground of the layouts of the R package; each format has its own in its ``r.py``."""
