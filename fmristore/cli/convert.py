"""The command that turns NIfTI images into a store."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from fmristore.cli.console import echo, emit
from fmristore.cli.options import (
    CodecOption,
    Json,
    MaxMemory,
    MetadataOption,
    Overwrite,
    ProfileOption,
    SpaceNameOption,
    StorageOptions,
    TrOption,
    Trusted,
)
from fmristore.cli.parsing import Access, parse_options, parse_size
from fmristore.cli.progress import progress_bar
from fmristore.planning.text import size_text

__all__ = ["convert"]


_Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="IN... OUT",
        help="NIfTI images, paths or URLs (several are the runs of a sequence), and the new "
        "store: .h5 for HDF5, .zarr for Zarr.",
    ),
]


def convert(  # noqa: PLR0913
    paths: _Paths,
    *,
    access: Annotated[
        Access | None, typer.Option(help="What is read most; time by default.")
    ] = None,
    mask: Annotated[
        str | None, typer.Option(help="NIfTI mask; voxels outside it are not stored.")
    ] = None,
    tr: TrOption = None,
    space_name: SpaceNameOption = None,
    metadata: MetadataOption = None,
    codec: CodecOption = None,
    profile: ProfileOption = None,
    max_memory: MaxMemory = "1GiB",
    overwrite: Overwrite = False,
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Turn a NIfTI image into a store that can be read in parts."""
    if len(paths) < 2:
        raise typer.BadParameter("the new store is missing", param_hint="'OUT'")
    *sources, target = paths
    layout = {"access": access, "profile": profile}
    chosen = {name: option.value for name, option in layout.items() if option is not None}
    if mask is not None:
        _refuse(len(sources) > 1, "takes one run")
        _refuse(
            "profile" in chosen,
            "does not go with --profile: R has no class for the voxels of a mask alone; leave it "
            "out, or give the mask as labels to fmristore parcellate --profile r",
        )
        _refuse("access" in chosen, "does not go with --access: voxels of a mask have one layout")
    options = parse_options(storage_option or ())
    common: dict[str, Any] = {
        "codec": None if codec is None else codec.value,
        "overwrite": overwrite,
        "storage_options": options,
        "max_memory": parse_size(max_memory),
        "tr": tr,
        "space_name": space_name,
        "metadata": parse_options(metadata) if metadata else None,
    }
    if metadata and len(sources) > 1:
        raise typer.BadParameter("is for one image", param_hint="'--metadata'")
    from fmristore.cli.trust import check_trust

    started = time.perf_counter()
    for source in sources if mask is None else (*sources, mask):
        check_trust(source, options, trusted=trusted)
    with progress_bar("converting", quiet=json, of=sources[0]) as progress:
        _write(sources, target, mask, **chosen, **common, progress=progress)
    seconds = time.perf_counter() - started
    from fmristore import api

    with api.open(target, storage_options=options) as stored:
        content, text, url = stored.describe(), repr(stored), stored.url
    if json:
        given: Any = sources[0] if len(sources) == 1 else sources
        emit({"source": given, "target": url, "seconds": seconds, "content": content})
    else:
        echo(f"{text}: {_size(content['sizes'])}, {seconds:.1f} s")


def _size(sizes: dict[str, Any]) -> str:
    size = f"{size_text(sizes['raw_bytes'])} of data"
    if sizes["encoded_bytes"]:
        size += f" in {size_text(sizes['encoded_bytes'])} (ratio {sizes['ratio']:.2f})"
    return size


def _refuse(wrong: bool, why: str) -> None:  # noqa: FBT001
    if wrong:
        raise typer.BadParameter(why, param_hint="'--mask'")


def _write(sources: list[str], target: str, mask: str | None, **options: Any) -> None:
    """Store one image, the voxels of a mask of one run, or a sequence of runs."""
    if mask is not None:
        from fmristore.formats.masked.run import MaskedNeuroVec

        MaskedNeuroVec.create(sources[0], target, mask=mask, **options).close()
    elif len(sources) > 1:
        from fmristore.formats.sequence.sequence import NeuroVecSeq

        NeuroVecSeq.create(sources, target, **options).close()
    else:
        from fmristore import api

        api.convert(sources[0], target, **options).close()
