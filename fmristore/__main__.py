"""Run the command line with ``python -m fmristore``."""

from __future__ import annotations

from fmristore.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
