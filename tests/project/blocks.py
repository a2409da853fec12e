"""Code blocks of the README and of the site, run in the order of their page.

A page's Python blocks share one namespace, its ``sh`` blocks run in the same folder. A comment
stands before a block where something else is meant:

- ``<!-- not run: reason -->``: the block is not run;
- ``<!-- output -->``, before a ``text`` block: what the block before it printed, with ``...`` for
  what varies;
- ``<!-- output, values vary -->``: the same, but numbers and digests may be others.

Cells of pages that are notebooks are run in the same way, without Jupyter; what they show is made
when the site is built. A cell with the tag ``parameters`` says which files the page is about.

``python -m tests.project.blocks PAGE --pictures FOLDER`` runs one page and keeps the pictures that
it drew.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import doctest
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fmristore as fs
from fmristore.cli import app
from fmristore.demo import make_files

__all__ = ["Block", "blocks_of", "makes_its_data", "run_page", "use_bucket"]

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>output|output, values vary|not run: [^\n]+?) -->\n+)?"
    r"^```(?P<cell>\{code-cell\} )?(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_OPTIONS = re.compile(r"\A(?:---\n.*?^---\n|(?::[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
"""Options of a cell, before its code."""

_RUN = ("python", "sh")


@dataclass(frozen=True)
class Block:
    """One block of code: its language, text, first line, and what it prints."""

    kind: str
    text: str
    line: int
    output: str | None = None
    not_run: str | None = None
    values_vary: bool = False
    cell: bool = False
    parameters: bool = False


def blocks_of(page: Path) -> list[Block]:
    """Blocks of a page that are code to be run."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        mark, kind = match["mark"], match["kind"]
        line = text.count("\n", 0, match.start("text")) + 1
        if mark and mark.startswith("output"):
            assert kind == "text", f"{page}:{line}: output in a block of {kind or 'no language'}"
            found[-1] = replace(found[-1], output=match["text"], values_vary="vary" in mark)
        elif kind in _RUN:
            reason = mark.removeprefix("not run: ") if mark else None
            found.append(_block(match, line, reason))
    return found


def _block(match: re.Match[str], line: int, reason: str | None) -> Block:
    """Make a block of code, without the options of a notebook's cell."""
    text, cell = match["text"], bool(match["cell"])
    options = _OPTIONS.match(text) if cell else None
    if options:
        text, line = text[options.end() :], line + options[0].count("\n")
    parameters = options is not None and "[parameters]" in options[0]
    return Block(match["kind"], text, line, not_run=reason, cell=cell, parameters=parameters)


def makes_its_data(page: Path) -> bool:
    """True if a page begins with nothing: the tutorial and notebooks; others need `make_files`."""
    return page.name == "tutorial.md" or any(block.cell for block in blocks_of(page))


def run_page(page: Path, folder: Path, parameters: str | None = None) -> None:
    """Run the blocks of a page in a folder, and compare what they print.

    Parameters
    ----------
    page : Path
        Markdown with blocks of code.
    folder : Path
        Where they run.
    parameters : str, optional
        Code that takes the place of the cell with the tag ``parameters``.

    Raises
    ------
    AssertionError
        With the page and line of the block that failed or printed something else.
    """
    namespace: dict[str, Any] = {"__name__": "__page__"}
    with contextlib.chdir(folder), _plain_surroundings():
        for block in blocks_of(page):
            if block.parameters and parameters is not None:
                exec(parameters, namespace)
            elif block.not_run is None:
                _run_block(block, namespace, f"{page.name}:{block.line}")
        for value in list(namespace.values()):
            if isinstance(value, fs.NeuroVol | fs.NeuroVec):
                value.close()
        namespace.clear()


@contextlib.contextmanager
def _plain_surroundings() -> Iterator[None]:
    """No windows, no colours, and warnings of other packages are no errors."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with warnings.catch_warnings(), mpl.rc_context():
        warnings.simplefilter("ignore")
        mpl.use("Agg")
        yield
    plt.close("all")


def _run_block(block: Block, namespace: dict[str, Any], place: str) -> None:
    printed = io.StringIO()
    try:
        if block.kind == "python":
            tree = ast.parse("\n" * (block.line - 1) + block.text, place)
            shown = tree.body.pop() if block.cell and isinstance(tree.body[-1], ast.Expr) else None
            with contextlib.redirect_stdout(printed):
                exec(compile(tree, place, "exec"), namespace)
                if isinstance(shown, ast.Expr):
                    _show(eval(compile(ast.Expression(shown.value), place, "eval"), namespace))
        else:
            printed.write(_run_shell(block.text))
    except Exception as error:
        raise AssertionError(f"{place}: {type(error).__name__}: {error}") from error
    if block.output is None:
        return
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    texts = [block.output, printed.getvalue()]
    if block.values_vary:
        texts = [re.sub(r"\b[0-9a-f]{64}\b|\d+(\.\d+)*", "#", text) for text in texts]
    same = doctest.OutputChecker().check_output(texts[0], texts[1], flags)
    assert same, f"{place} printed\n{printed.getvalue()}\ninstead of\n{block.output}"


def _show(value: Any) -> None:
    """Print what the last line of a cell gives, and make its HTML, as a notebook does."""
    getattr(value, "_repr_html_", str)()
    sys.stdout.write(f"{value}\n")


def _run_shell(text: str) -> str:
    """Run lines of a shell: commands of fmristore in this process, which is quick."""
    printed = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["fmristore"] and "|" not in words:
            outcome = CliRunner().invoke(app, [p for word in words[1:] for p in _paths(word)])
            assert outcome.exit_code == 0, f"{line}: {outcome.output}"
            printed.append(outcome.stdout)
        elif words:
            done = subprocess.run(
                ["bash", "-euc", line],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            )
            assert done.returncode == 0, f"{line}: {done.stderr}"
            printed.append(done.stdout)
    return "".join(printed)


def _paths(word: str) -> list[str]:
    """Names that a word with ``*`` stands for, as a shell has them."""
    plain = "*" not in word or "://" in word
    return [word] if plain else sorted(map(str, Path().glob(word))) or [word]


def use_bucket(name: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``s3://NAME`` lead to an empty bucket of a server on this machine."""
    import boto3
    import s3fs

    for variable, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(variable, value)
    bucket = boto3.resource("s3").Bucket(name)
    bucket.create()
    bucket.objects.all().delete()
    s3fs.S3FileSystem.clear_instance_cache()


def main() -> None:
    """Run one page and keep its pictures."""
    from moto.server import ThreadedMotoServer

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    page, pictures = arguments.page.resolve(), arguments.pictures and arguments.pictures.resolve()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with tempfile.TemporaryDirectory() as work, pytest.MonkeyPatch.context() as monkeypatch:
        use_bucket("lab", f"http://{host}:{port}", monkeypatch)
        if not makes_its_data(page):
            make_files(Path(work))
        run_page(page, Path(work))
        for path in sorted(Path(work).glob("*.png")) if pictures else ():
            shutil.copy(path, pictures)
    server.stop()


if __name__ == "__main__":
    main()
