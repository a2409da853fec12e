"""The commands. Everything heavy is imported inside them, so that ``--help`` is quick."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from fmristore.cli.bids import convert_bids
from fmristore.cli.console import (
    echo,
    emit,
    hush,
    naming,
    one_line_warnings,
    report,
    report_error,
)
from fmristore.cli.convert import convert
from fmristore.cli.listing import find_stores, is_folder, list_stores
from fmristore.cli.many import many
from fmristore.cli.options import Json, MaxMemory, Overwrite, Part, StorageOptions, Trusted, Url
from fmristore.cli.parcellate import parcellate
from fmristore.cli.parsing import (
    Access,
    TranscodeCodec,
    parse_options,
    parse_selection_text,
    parse_size,
)
from fmristore.cli.progress import progress_bar
from fmristore.cli.view import view
from fmristore.cli.virtualize import virtualize
from fmristore_stores._version import __version__

__all__ = ["app"]

_INTERRUPTED = 130
_USAGE = 2

# Typer brings a copy of click or depends on it: this is the base in either of them.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)


class _Commands(TyperGroup):
    """Commands whose errors are one line, with exit codes 1 (failed) and 2 (wrong usage)."""

    _as_json = False

    def main(self, *args: Any, **options: Any) -> Any:
        """Parse the arguments, run the command, and exit."""
        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except _UsageError as error:
            place = f"; see {error.ctx.command_path} --help" if error.ctx else ""
            if getattr(error, "option_name", None) in ("--jobs", "--scheduler", "--executor"):
                place += "; many runs at once: fmristore many --help"
            text = error.format_message().rstrip(".").replace("Value error, ", "")
            report("error", text + place, as_json=self._as_json, type="UsageError", kind="usage")
            code = _USAGE
        except typer.Abort:
            code = _INTERRUPTED
        if code == _INTERRUPTED:
            report("error", "interrupted", as_json=self._as_json, kind="interrupted")
        sys.exit(code if isinstance(code, int) else 0)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take ``--debug`` wherever it stands: before the command and after it."""
        end = args.index("--") if "--" in args else len(args)
        self._as_json = "--json" in args[:end]
        if "--debug" in args[:end]:
            args = ["--debug", *(a for a in args[:end] if a != "--debug"), *args[end:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what it raises becomes a line on stderr."""
        debug = bool(ctx.params.get("debug"))
        try:
            with one_line_warnings(debug=debug, as_json=self._as_json):
                return super().invoke(ctx)
        except (KeyboardInterrupt, SystemExit):
            hush()  # once more: what was done to warnings meanwhile is undone
            raise
        except (typer.Exit, typer.Abort, _UsageError, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - the last place where it can be said nicely
            report_error(error, debug=debug, as_json=self._as_json)
        raise typer.Exit(1)


app = typer.Typer(
    cls=_Commands,
    name="fmristore",
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:  # noqa: FBT001 - typer's protocol
    if value:
        typer.echo(f"fmristore {__version__}")
        raise typer.Exit


@app.callback(epilog="Example: fmristore convert bold.nii.gz new.h5")
def root(
    ctx: typer.Context,
    *,
    debug: Annotated[  # noqa: ARG001 - read where errors are reported
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - handled when it is parsed
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say which it is."),
    ] = False,
) -> None:
    """Store fMRI in HDF5 or Zarr, so that the part you need can be read without the rest."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(_USAGE)


app.command(
    epilog="Example: fmristore convert bold.nii.gz new.ome.zarr --access time",
    options_metavar="[OPTIONS]",
)(convert)
app.command(epilog="Example: fmristore parcellate bold.h5 atlas.nii.gz rest.h5 --names atlas.tsv")(
    parcellate
)


app.command(epilog="Example: fmristore view bold.h5 -o bold.html")(view)
app.command(
    name="convert-bids", epilog="Example: fmristore convert-bids bids stores --derivatives"
)(convert_bids)
app.command(epilog="Example: fmristore many convert run-1.nii.gz run-2.nii.gz --into stores")(many)
app.command(epilog="Example: fmristore virtualize bold.h5")(virtualize)


@app.command(name="formats", epilog="Example: fmristore formats")
def list_formats(*, json: Json = False) -> None:
    """List what a store can hold, and when to use which."""
    from fmristore.formats.catalogue import formats

    known = formats()
    if json:
        emit([info.to_json() for info in known])
    else:
        typer.echo(repr(known))


app.command(name="ls", epilog="Example: fmristore ls . --recursive")(list_stores)


@app.command(epilog="Example: fmristore info bold.h5")
def info(
    urls: Annotated[
        list[str], typer.Argument(metavar="URL...", help="HDF5 files, Zarr stores, or folders.")
    ],
    *,
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Say what stores are, where their voxels lie, their layout and their size on disk."""
    options = parse_options(storage_option or ())
    from fmristore.cli.describe import describe_store
    from fmristore.cli.render import store_text
    from fmristore.cli.trust import check_trust

    documents = []
    for place in urls:
        for url in find_stores(place, options):
            with naming(url):
                check_trust(url, options, trusted=trusted)
                documents.append(describe_store(url, options))
            if not json:
                echo(("\n" if len(documents) > 1 else "") + store_text(documents[-1]))
    if json:
        one = len(urls) == len(documents) == 1 and not is_folder(urls[0], options)
        emit(documents[0] if one else documents)


_Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LOSS",
        help="Accept a loss: array, attribute-type, attributes, depth, external-link, link, name, "
        "non-finite-attribute, reference. Can be repeated.",
    ),
]


@app.command(epilog="Example: fmristore transcode bold.h5 s3://lab/bold.ome.zarr --dry-run")
def transcode(  # noqa: PLR0913
    source: Annotated[str, typer.Argument(metavar="SRC", help="HDF5 file or Zarr store.")],
    target: Annotated[
        str, typer.Argument(metavar="DST", help="New store: .h5 for HDF5, .zarr for Zarr.")
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and write nothing.")
    ] = False,
    access: Annotated[
        Access | None,
        typer.Option(help="Rechunk images for this; chunks are kept by default."),
    ] = None,
    codec: Annotated[
        TranscodeCodec | None,
        typer.Option(help="Codec preset; kept by default where common readers know it."),
    ] = None,
    allow: _Allow = None,
    max_memory: MaxMemory = "1GiB",
    overwrite: Overwrite = False,
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Bring everything in a store into a new one of either kind, bit for bit."""
    options = parse_options(storage_option or ())
    wishes: dict[str, Any] = {
        "access": None if access is None else access.value,
        "codec": None if codec is None else codec.value,
        "allow": tuple(allow or ()),
        "max_memory": parse_size(max_memory),
    }
    from fmristore.cli.trust import check_trust
    from fmristore.transcoding import transcode as run
    from fmristore.transcoding.execute import make_plan
    from fmristore_stores.opening import open_store

    with naming(source):
        check_trust(source, options, trusted=trusted)
        if dry_run:
            with open_store(source, storage_options=options) as store:
                outcome: Any = make_plan(store, target, **wishes)
        else:
            with progress_bar("writing", "checking", quiet=json, of=target) as progress:
                outcome = run(
                    source,
                    target,
                    overwrite=overwrite,
                    storage_options=options,
                    progress=progress,
                    **wishes,
                )
    if json:
        emit(outcome.to_json())
    else:
        echo(str(outcome))


@app.command(epilog="Example: fmristore export bold.h5 back.nii.gz")
def export(  # noqa: PLR0913
    url: Url,
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help=".nii, .nii.gz, .hdr/.img; of parcels .tsv, .csv, .parquet."
        ),
    ],
    *,
    part: Part = None,
    max_memory: MaxMemory = "256MiB",
    overwrite: Overwrite = False,
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Write an image as NIfTI, with the header of its source, or series of parcels as a table."""
    options = parse_options(storage_option or ())
    limit = parse_size(max_memory)
    from fmristore import api
    from fmristore.cli.catalogue import able, choose
    from fmristore.cli.trust import check_trust
    from fmristore.interop.pandas import TABLE_SUFFIXES

    started = time.perf_counter()
    with naming(url):
        check_trust(url, options, trusted=trusted)
    with naming(url), api.open(url, storage_options=options) as stored:
        image = choose(stored, part)
        if out.lower().endswith(TABLE_SUFFIXES):
            to_table = able(image, "to_table", "write a table of")
            to_table(out, overwrite=overwrite, storage_options=options)
        else:
            to_nifti = able(image, "to_nifti", "export")
            with progress_bar("exporting", quiet=json, of=url) as progress:
                to_nifti(
                    out,
                    overwrite=overwrite,
                    storage_options=options,
                    max_memory=limit,
                    progress=progress,
                )
        shape = list(getattr(image, "shape", ()))
    seconds = time.perf_counter() - started
    if json:
        emit({"source": url, "part": part, "target": out, "shape": shape, "seconds": seconds})
    else:
        size = f"{' x '.join(map(str, shape))}, " if shape else ""
        echo(f"{url} -> {out}: {size}{seconds:.1f} s")


@app.command(
    epilog=r"Example: fmristore plan bold.h5 '\[32, 40, 20]'",
    context_settings={"ignore_unknown_options": True},
)
def plan(
    url: Url,
    selection: Annotated[
        str,
        typer.Argument(
            metavar="SELECTION",
            help=r"Index along x, y, z\[, t], as in Python: integers, slices and '...'.",
        ),
    ],
    *,
    part: Part = None,
    draw: Annotated[
        bool, typer.Option("--draw", help="Draw the chunks along each axis, # for those read.")
    ] = False,
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Say what reading a part would take: chunks, requests and bytes; reads no data."""
    options = parse_options(storage_option or ())
    index = parse_selection_text(selection)
    from fmristore import api
    from fmristore.cli.catalogue import able, choose
    from fmristore.cli.trust import check_trust

    with naming(url):
        check_trust(url, options, trusted=trusted)
    with naming(url), api.open(url, storage_options=options) as stored:
        found = able(choose(stored, part), "plan", "plan reads of")[index]
    if not json:
        found.explain(draw=draw)
        return
    emit(
        {
            "url": found.url,
            "selection": selection,
            "shape": list(found.shape),
            "dtype": str(found.dtype),
            "chunks": found.chunks,
            "chunks_in_all": found.chunks_in_all,
            "copy": found.copy,
            "chunks_missing": found.cost.missing,
            "requests": found.requests,
            "encoded_bytes": found.encoded_bytes,
            "fetched_bytes": found.fetched_bytes,
            "decoded_bytes": found.decoded_bytes,
            "returned_bytes": found.returned_bytes,
            "amplification": found.amplification,
        }
    )


@app.command(epilog="Example: fmristore verify bold.h5 --deep")
def verify(
    url: Url,
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode every chunk and compare digests.")
    ] = False,
    max_memory: MaxMemory = "256MiB",
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Check that a store is whole; exit code 1 if it is damaged."""
    options = parse_options(storage_option or ())
    limit = parse_size(max_memory)
    from fmristore.cli.trust import check_trust
    from fmristore.verification import verify as run

    with naming(url):
        check_trust(url, options, trusted=trusted)
    with naming(url), progress_bar("verifying", quiet=json, of=url) as progress:
        report = run(url, deep=deep, storage_options=options, max_memory=limit, progress=progress)
    if json:
        emit(report.to_json())
    else:
        echo(str(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: fmristore demo bold.nii.gz --folder try")
def demo(
    source: Annotated[
        Path | None, typer.Argument(help="A NIfTI image; a run is made up otherwise.")
    ] = None,
    *,
    folder: Annotated[Path, typer.Option(help="Where the files go.")] = Path("fmristore-demo"),
) -> None:
    """Do the main job once: convert a run, read parts, move it to the other store, export it."""
    from fmristore.demo import run_demo

    run_demo(folder, source, say=typer.echo)
