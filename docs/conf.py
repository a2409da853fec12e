"""How the site is built: ``.ci/step docs``, which takes every warning as an error."""

from __future__ import annotations

import html
import inspect
import posixpath
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from generate import write_pages  # noqa: E402 - a neighbour

import fmristore  # noqa: E402

write_pages(HERE / "generated")

project = "fmristore"
author = "The fmristore developers"
copyright = "2026, the fmristore developers"  # noqa: A001 - Sphinx calls it so
version = release = fmristore.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**/README.md"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Pages that are notebooks are run where nothing lies, and what they print to stderr is a warning.
nb_execution_mode = "auto"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = "remove-warn"
nb_merge_streams = True

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"  # else the names of methods are cut at the right edge
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = "fmristore"
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "install": [], "tutorial": [], "examples": []}
smartquotes = False

_AT_THE_TOP = {
    "ARCHITECTURE.md": "/project/architecture.md",
    "CHANGELOG.md": "/project/changelog.md",
    "CODE_OF_CONDUCT.md": "/project/conduct.md",
    "CONTRIBUTING.md": "/project/contributing.md",
    "README.md": "/index.md",
    "examples/README.md": "/examples.md",
    "docs/design/": "/design/index.md",
    "docs/design": "/design/index.md",
}
"""Files outside of this folder, and the pages that show them."""


def _mend_links(app: Any, page: str, source: list[str]) -> None:
    """Let relative links, which are right in the repository, lead to pages of the site."""
    folder = posixpath.dirname(_SHOWN.get(page, f"docs/{page}"))

    def mend(found: re.Match[str]) -> str:
        target, anchor = found[2], found[3] or ""
        place = posixpath.normpath(posixpath.join(folder, target))
        if place in _AT_THE_TOP:
            return f"{found[1]}({_AT_THE_TOP[place]}{anchor})"
        if place.startswith("docs/"):
            return f"{found[1]}(/{place.removeprefix('docs/')}{anchor})"
        if not (HERE.parent / place).exists():
            return found[0]
        if found[1].startswith("!"):
            up = posixpath.relpath(".", posixpath.dirname(f"docs/{page}"))
            return f"{found[1]}({up}/{place})"
        return found[1][1:-1]  # a file of the repository, which is no page

    if page in _SHOWN:
        source[0] = (HERE.parent / _SHOWN[page]).read_text(encoding="utf-8")
    # GitHub draws these pictures, Sphinx does not; the text says the same.
    source[0] = re.sub(r"```mermaid\n.*?```\n", "", source[0], flags=re.DOTALL)
    if source[0].startswith("---\njupytext:"):
        link = (
            "\n\n{nb-download}`Download as a notebook <" + posixpath.basename(page) + ".ipynb>`\n"
        )
        source[0] = re.sub(
            r"^# .*$", lambda title: title[0] + link, source[0], count=1, flags=re.MULTILINE
        )
    source[0] = re.sub(
        r"<!-- output[^>]* -->\n+```text\n", "```{code-block} text\n:class: output\n\n", source[0]
    )
    source[0] = re.sub(r'^<a id="(\w+)"></a>$', r"(\1)=", source[0], flags=re.MULTILINE)
    source[0] = re.sub(r"(!?\[[^\]\n]+\])\((?!https?:|#|/)([^)#\s]+)(#[^)\s]*)?\)", mend, source[0])


_SHOWN = {
    "project/architecture": "ARCHITECTURE.md",
    "project/changelog": "CHANGELOG.md",
    "project/conduct": "CODE_OF_CONDUCT.md",
    "project/contributing": "CONTRIBUTING.md",
    "examples": "examples/README.md",
}
"""Pages whose text lies elsewhere in the repository."""


def _inherit(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put the docstring of the base class where a method says that it has the same."""
    if lines[:1] != ["Docstring inherited."]:
        return
    rest = name.partition(".")[2]
    cls: Any = getattr(fmristore, rest.partition(".")[0], None)
    method = rest.rpartition(".")[2]
    for base in getattr(cls, "__mro__", ())[1:]:
        text = inspect.getdoc(base.__dict__.get(method)) if method in base.__dict__ else None
        if text and not text.startswith("Docstring inherited"):
            lines[:] = text.splitlines()
            return


def _skip(app: Any, what: str, name: str, thing: Any, skip: Any, options: Any) -> bool | None:
    """Leave out what scikit-learn, nilearn, dict, tuple and sequences put into a class."""
    text = getattr(thing, "__doc__", None) or ""
    of_tuples = "Alias for field number" in text or "number of occurrences of value" in text
    of_dicts = text and text == getattr(getattr(dict, name, None), "__doc__", None)
    foreign = of_tuples or of_dicts or "return first index of value" in text.lower()
    foreign = foreign or str(getattr(thing, "__module__", "")).startswith("nilearn.")
    return True if foreign or re.fullmatch(r"set_\w+_request", name) else None


def _describe(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Say in the head of a page what it is about, with its first sentences."""
    paragraphs = tree.findall(nodes.paragraph) if tree else ()
    texts = (
        " ".join(p.astext().split()) for p in paragraphs if isinstance(p.parent, nodes.section)
    )
    text = next((text for text in texts if len(text) > 30), "")
    text = text or f"{context.get('title') or project}: fMRI in HDF5 files and Zarr stores."
    text = textwrap.shorten(text, 200, placeholder=" ...")
    tag = f'<meta name="description" content="{html.escape(text)}">\n'
    context["metatags"] = context.get("metatags", "") + tag


def setup(app: Any) -> None:
    """Take part in the build."""
    # Before numpydoc, which reads the sections of what is there then.
    app.connect("autodoc-process-docstring", _inherit, priority=100)
    app.connect("autodoc-skip-member", _skip)
    app.connect("source-read", _mend_links)
    app.connect("html-page-context", _describe)
