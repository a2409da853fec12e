"""What was measured, as JSON with every number and as Markdown tables of ratios."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cells import Result
from benchmarks.timing import Ratio, best, ratio

__all__ = ["Report", "best_peer", "markdown", "over_limit", "write_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that one run of the benchmarks found.

    Parameters
    ----------
    results : list of Result
        In the order of measuring.
    sizes : dict
        For each run the bytes on disk.
    machine, versions : dict
        What the numbers depend on.
    missing : dict
        Engines that could not be measured, and why.
    settings : dict
        How it was run.
    """

    results: list[Result]
    sizes: dict[str, dict[str, int]]
    machine: dict[str, str | int]
    versions: dict[str, str]
    missing: dict[str, str]
    settings: dict[str, Any]


def write_json(report: Report, path: Path) -> None:
    """Write all numbers: seconds of each repetition."""
    path.write_text(json.dumps(asdict(report), indent=1) + "\n")


def markdown(report: Report) -> str:
    """Tables of ratios and medians, with what a reader has to know."""
    return "\n".join(_lines(report)) + "\n"


def best_peer(result: Result) -> tuple[str, Ratio] | None:
    """The fastest of the others on the same store, and its time over that of fmristore."""
    if not result.peers:
        return None
    name = best(result.peers)
    return name, ratio(result.peers[name], result.ours)


def over_limit(result: Result) -> Ratio | None:
    """Time of fmristore over the least possible."""
    return None if result.limit is None else ratio(result.ours, result.limit)


# Markdown ------------------------------------------------------------------------------------

_INTRODUCTION = """# fmristore beside its peers

Written by `python -m benchmarks`. All engines of a cell took turns in one process, on the same
random selection within a repetition and a new one for each repetition, and returned equal arrays
in an untimed turn before. Files are in the cache of the operating system.

- **peer / fmristore**: time of the best peer on the same store, as a multiple of the time of
  fmristore. Median and quartiles of the ratios within each repetition. Above 1 fmristore is faster.
- **fmristore / limit**: time of fmristore as a multiple of the least that has to be done. For
  reading that is one `pread` for each chunk, decoding with the codec's C function on all cores, and
  one copy; for writing, encoding on all cores (and decompressing the source); for verbatim
  transcoding, `cp` and `fsync`. Decoding only a part of a chunk gets below 1.
- **ms**: medians. fmristore starts with an empty cache of decoded chunks and has read nothing from
  the image before, but where its chunks lie; *again* is the same read at once repeated. Peers stay
  as they are, with whatever they keep. All writers end with `fsync`.
- Stored numbers are read and written, without slope and intercept."""


def _lines(report: Report) -> Iterator[str]:
    yield _INTRODUCTION
    yield ""
    yield from _facts(report)
    reads = [r for r in report.results if r.name.startswith("read/")]
    if reads:
        yield from _summary(reads)
    for heading, chosen in _sections(report.results):
        yield f"\n## {heading}\n"
        yield from (_read_table if chosen[0].name.startswith("read/") else _table)(chosen)
    if report.sizes:
        yield from _size_tables(report.sizes)


def _facts(report: Report) -> Iterator[str]:
    facts = report.machine
    yield (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gb']} GB, "
        f"{facts['system']}, Python {facts['python']}."
    )
    yield ", ".join(f"{name} {text}" for name, text in report.versions.items()) + "."
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    yield f"Settings: {settings}."
    for label, reason in report.missing.items():
        yield f"Not measured: {label} ({reason})."


def _summary(reads: Sequence[Result]) -> Iterator[str]:
    yield "\n## In short\n"
    yield (
        "| reads | cells | median peer / fmristore | cells slower than a peer "
        "| median fmristore / limit |"
    )
    yield "|---|---:|---:|---:|---:|"
    for store in dict.fromkeys(r.name.split("/")[2] for r in reads):
        chosen = [r for r in reads if r.name.split("/")[2] == store]
        peers = [peer[1].median for r in chosen if (peer := best_peer(r))]
        limits = [limit.median for r in chosen if (limit := over_limit(r))]
        faster = f"{statistics.median(peers):.2f}" if peers else "-"
        slower = str(sum(p < 1 for p in peers)) if peers else "-"
        yield (
            f"| {store} | {len(chosen)} | {faster} | {slower} | {statistics.median(limits):.2f} |"
        )


def _sections(results: Iterable[Result]) -> Iterator[tuple[str, list[Result]]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        parts = result.name.split("/")
        heading = " · ".join(parts[: 3 if parts[0] == "read" else 2])
        found.setdefault(heading, []).append(result)
    yield from found.items()


def _read_table(results: Sequence[Result]) -> Iterator[str]:
    beside = list(dict.fromkeys(label for r in results for label in r.beside))
    peers = list(dict.fromkeys(label for r in results for label in r.peers))
    columns = ["layout", "read", "peer / fmristore", "best peer", "fmristore / limit"]
    columns += ["ms: fmristore", "again"]
    columns += [*peers, "limit", *beside]
    yield "| " + " | ".join(columns) + " |"
    yield "|---|---|---:|---|" + "---:|" * (len(columns) - 4)
    order = list(dict.fromkeys(r.name.split("/")[3] for r in results))
    for result in sorted(results, key=lambda r: order.index(r.name.split("/")[3])):
        _, _, _, layout, kind = result.name.split("/", 4)
        cells = [layout, kind, *_ratios(result), _ms(result.ours.median)]
        cells.append(_ms(statistics.median(result.ours.again)) if result.ours.again else "")
        cells += [_ms(result.peers[p].median) if p in result.peers else "" for p in peers]
        cells.append(_ms(result.limit.median) if result.limit else "")
        cells += [_ms(result.beside[b].median) if b in result.beside else "" for b in beside]
        yield "| " + " | ".join(cells) + " |"


def _table(results: Sequence[Result]) -> Iterator[str]:
    yield "| cell | peer / fmristore | best peer | fmristore / limit | ms: all | peak MB |"
    yield "|---|---:|---|---:|---|---|"
    for result in results:
        times = {**result.engines, **({"limit": result.limit} if result.limit else {})}
        every = ", ".join(f"{label} {_ms(timing.median)}" for label, timing in times.items())
        peaks = ", ".join(
            f"{label} {statistics.median(timing.peak_bytes) / 1e6:.0f}"
            for label, timing in result.engines.items()
            if timing.peak_bytes
        )
        name = result.name.split("/", 2)[2] + (f" ({result.note})" if result.note else "")
        yield "| " + " | ".join([name, *_ratios(result), every, peaks]) + " |"


def _ratios(result: Result) -> list[str]:
    peer, limit = best_peer(result), over_limit(result)
    return [
        _with_quartiles(peer[1]) if peer else "-",
        peer[0] if peer else "none",
        _with_quartiles(limit) if limit else "-",
    ]


def _with_quartiles(value: Ratio) -> str:
    middle = f"**{value.median:.2f}**" if value.median < 1 else f"{value.median:.2f}"
    return f"{middle} ({value.low:.2f} to {value.high:.2f})"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def _size_tables(sizes: dict[str, dict[str, int]]) -> Iterator[str]:
    for run, found in sizes.items():
        whole = found["nii.gz"]
        yield f"\n## sizes · {run}\n"
        yield f".nii {found['nii'] / 1e6:.1f} MB, .nii.gz (level 6) {whole / 1e6:.1f} MB.\n"
        stores = {name: size for name, size in found.items() if "/" in name}
        layouts = list(dict.fromkeys(name.split("/")[2] for name in stores))
        columns = [f"{layout}: MB (of .nii.gz)" for layout in layouts]
        yield "| store, preset | " + " | ".join(columns) + " |"
        yield "|---|" + "---:|" * len(layouts)
        for row in dict.fromkeys(name.rpartition("/")[0] for name in stores):
            cells = [stores[f"{row}/{layout}"] for layout in layouts]
            texts = [f"{size / 1e6:.1f} ({size / whole:.2f})" for size in cells]
            yield f"| {row.replace('/', ', ')} | " + " | ".join(texts) + " |"
