"""Pages that are made from the code: the API by its docstrings, and the command line."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import fmristore
import fmristore.nilearn
import fmristore.sampling

__all__ = ["write_pages"]

_RETURNED = [
    "fmristore.planning.read_plan.ReadPlan",
    "fmristore.transcoding.report.TranscodeReport",
    "fmristore.verification.report.VerifyReport",
    "fmristore.references.virtual.VirtualReport",
    "fmristore.viewer.Viewer",
    "fmristore.sources.labels.LabelTable",
    "fmristore.formats.catalogue.FormatList",
    "fmristore.formats.catalogue.FormatInfo",
    "fmristore.many.Outcome",
    "fmristore.bids.Member",
    "fmristore.bids.GroupArray",
]
"""Classes that users meet without making them."""


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
            *_summary(
                [f"fmristore.{name}" for name in functions]
                + ["fmristore.formats.catalogue.formats"],
                "",
            ),
            "The last one is called as `fmristore.formats()`.",
            "",
            "## Classes",
            "",
            *_summary([f"fmristore.{name}" for name in classes], "   :nosignatures:"),
            "## What calls return",
            "",
            *_summary(_RETURNED, "   :nosignatures:"),
            "## nilearn's classes, streamed",
            "",
            "`import fmristore.nilearn`: [how to use them](../how-to/nilearn.md). Methods that are "
            "not listed are those of nilearn's classes of the same name.",
            "",
            *_summary(
                [f"fmristore.nilearn.{name}" for name in fmristore.nilearn.__all__],
                "   :nosignatures:\n   :template: autosummary/own.rst",
            ),
            "## Windows for training",
            "",
            "`import fmristore.sampling`: [how to use it](../how-to/training.md).",
            "",
            *_summary(
                [f"fmristore.sampling.{name}" for name in fmristore.sampling.__all__],
                "   :nosignatures:",
            ),
            "## xarray",
            "",
            "Datasets of `to_xarray()` and `xarray.open_dataset(url)` have an accessor, `.fmri`.",
            "",
            *_summary(["fmristore.interop.xarray.FmriAccessor"], "   :nosignatures:"),
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
