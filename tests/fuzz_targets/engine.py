"""How a target is run: with the coverage of the project, by atheris."""

from __future__ import annotations

import atexit
import importlib
import os
import pkgutil
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["FOLDER", "fuzz"]

FOLDER = Path(tempfile.gettempdir(), f"fmristore-fuzz-{os.getpid()}")
"""Where targets put the files that they read."""


def fuzz(target: Callable[[bytes], None], examples: Callable[[], Iterable[bytes]]) -> None:
    """Feed a target until the time is over or something is found.

    Parameters
    ----------
    target : callable
        Takes bytes.
    examples : callable
        Makes valid inputs to begin with.
    """
    import atheris

    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["fmristore", "fmristore_stores"]):
        for name in ("fmristore", "fmristore_stores"):
            package = importlib.import_module(name)
            for module in pkgutil.walk_packages(package.__path__, f"{name}."):
                if not module.name.endswith(("__main__", ".testing")):
                    importlib.import_module(module.name)
    atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
    corpus = FOLDER / "examples"
    corpus.mkdir(parents=True)
    for number, example in enumerate(examples()):
        (corpus / str(number)).write_bytes(example)
    atheris.Setup([*sys.argv, str(corpus)], target)
    atheris.Fuzz()
