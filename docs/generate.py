"""Pages that are made from the code: the API by its docstrings, and the command line."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import fmristore

__all__ = ["write_pages"]


def write_pages(folder: Path) -> None:
    """Write the generated pages into a folder, where they differ from what lies there."""
    folder.mkdir(exist_ok=True)
    pages = {"api.md": api_page(), "cli.md": cli_page()}
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def api_page() -> str:
    """Public names of the package, each with a page of its own."""
    names = [name for name in fmristore.__all__ if not name.startswith("__")]
    functions = [n for n in names if inspect.isroutine(getattr(fmristore, n))]
    classes = [n for n in names if inspect.isclass(getattr(fmristore, n))]
    return "\n".join(
        [
            "# Python",
            "",
            "What `import fmristore as fs` gives; [errors](../reference/errors.md) have a page.",
            "",
            "## Functions",
            "",
            *_summary([f"fmristore.{name}" for name in functions], ""),
            "## Classes",
            "",
            *_summary([f"fmristore.{name}" for name in classes], "   :nosignatures:"),
        ]
    )


def _summary(names: list[str], option: str) -> list[str]:
    lines = ["```{eval-rst}", ".. autosummary::", "   :toctree: api"]
    options = [option] if option else []
    return [*lines, *options, "", *(f"   {name}" for name in names), "```", ""]


def cli_page() -> str:
    """Every command with its arguments, options and example, by typer's own command for that."""
    command = [
        sys.executable,
        "-m",
        "typer",
        "fmristore.cli",
        "utils",
        "docs",
        "--name",
        "fmristore",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    text = re.sub(r"^# .*", "# Command line", done.stdout)
    text = re.sub(r"^Example: (.*)$", r"**Example**:\n\n```sh\n\1\n```", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text)
    text = re.sub(r"^## `(.*)`$", r"## \1", text, flags=re.MULTILINE)
    return re.sub(r"\\\[", "[", text)
