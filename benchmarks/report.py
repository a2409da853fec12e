"""What was measured, as JSON with every number and as Markdown tables of ratios."""

from __future__ import annotations

import csv
import itertools
import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cells import Result
from benchmarks.timing import Ratio, Timing, best, ratio

__all__ = [
    "Report",
    "best_peer",
    "cpu_over_limit",
    "facts",
    "markdown",
    "over_limit",
    "read_json",
    "short_table",
    "write_csv",
    "write_json",
]

NOISE = 0.05
"""Ratios that differ by less are not called faster or slower."""
TWICE, NEAR, LEAN, LONG = 2.0, 1.3, 1.15, 0.010
"""The bars: so much faster than the best peer in the median cell of HDF5 reads; within so much of
the limit in time, and in CPU seconds, in cells that take longer than so many seconds."""


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
        What the data depend on.
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
    """Write all data: seconds of each repetition, one result per line."""
    found = _rounded(asdict(report))
    results = ",\n".join(json.dumps(result) for result in found.pop("results"))
    head = json.dumps(found, indent=1).removesuffix("\n}")
    path.write_text(f'{head},\n "results": [\n{results}\n]}}\n', encoding="utf-8")


def write_csv(report: Report, path: Path) -> None:
    """Write every sample on a line of its own: cell, engine, repetition, seconds, CPU seconds."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["cell", "engine", "repetition", "seconds", "cpu_seconds"])
        for result in report.results:
            limit = {} if result.limit is None else {"limit": result.limit}
            for label, timing in {**result.engines, **limit}.items():
                pairs = itertools.zip_longest(timing.seconds, timing.cpu)
                for number, (seconds, cpu) in enumerate(pairs, 1):
                    spent = "" if cpu is None else round(cpu, 7)
                    table.writerow([result.name, label, number, round(seconds, 7), spent])


def read_json(path: Path) -> Report:
    """Read what `write_json` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    results = [
        Result(
            name=item["name"],
            engines={label: Timing(**timing) for label, timing in item["engines"].items()},
            limit=None if item["limit"] is None else Timing(**item["limit"]),
            note=item["note"],
        )
        for item in found.pop("results")
    ]
    return Report(results=results, **found)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 7)
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return value


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


def cpu_over_limit(result: Result) -> float | None:
    """CPU seconds of all threads of fmristore over those of the limit; medians."""
    ours, limit = result.ours.cpu, result.limit.cpu if result.limit else []
    least = statistics.median(limit) if limit else 0.0
    return statistics.median(ours) / least if ours and least else None


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
- **CPU / limit's**: CPU seconds of all threads of fmristore, as a multiple of those of the limit:
  what Python adds to decoding, which is what counts on many cores.
- **ms**: medians. All keep their files open between repetitions, except where opening is measured;
  fmristore forgets all decoded chunks before each read. *again* is the same read at once repeated.
  All writers end with `fsync`.
- Stored values are read and written, without slope and intercept."""


def _lines(report: Report) -> Iterator[str]:
    yield _INTRODUCTION
    yield ""
    yield facts(report)
    reads = [r for r in report.results if r.name.startswith("read/")]
    if reads:
        yield "\n## In short\n"
        yield short_table(report)
        yield from _missed(report.results)
    for heading, chosen in _sections(report.results):
        yield f"\n## {heading}\n"
        yield from (_read_table if chosen[0].name.startswith("read/") else _table)(chosen)
    if report.sizes:
        yield from _size_tables(report.sizes)


def facts(report: Report) -> str:
    """Machine, versions and settings."""
    known = report.machine
    lines = [
        f"{known['processor']}, {known['cores']} cores, {known['memory_gb']} GB, "
        f"{known['system']}, Python {known['python']}.",
        ", ".join(f"{name} {text}" for name, text in report.versions.items()) + ".",
    ]
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    lines.append(f"Settings: {settings}.")
    lines += [f"Not measured: {label} ({reason})." for label, reason in report.missing.items()]
    return "\n".join(lines)


def short_table(report: Report) -> str:
    """One row for each kind of store and of work, with how many cells miss their bar."""
    lines = [
        "| cells | | best peer / fmristore: median | least | slower than a peer "
        "| fmristore / limit: median | above 1.3 | CPU / limit's: median | above 1.15 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    groups: dict[str, list[Result]] = {}
    for result in report.results:
        if result.peers:
            groups.setdefault(_kind(result), []).append(result)
    for kind, chosen in groups.items():
        peers = [peer[1].median for r in chosen if (peer := best_peer(r))]
        long = [r for r in chosen if r.ours.median > LONG]
        limits = [limit.median for r in long if (limit := over_limit(r))]
        cells = [kind, str(len(chosen)), f"{statistics.median(peers):.2f}", f"{min(peers):.2f}"]
        cells.append(str(sum(p < 1 - NOISE for p in peers)))
        cells.append(f"{statistics.median(limits):.2f}" if limits else "-")
        cells.append(f"{sum(x > NEAR for x in limits)} of {len(limits)}" if limits else "-")
        spent = [share for r in long if (share := cpu_over_limit(r))]
        cells.append(f"{statistics.median(spent):.2f}" if spent else "-")
        cells.append(f"{sum(x > LEAN for x in spent)} of {len(spent)}" if spent else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _kind(result: Result) -> str:
    parts = result.name.split("/")
    return f"{parts[0]} {parts[2]}" if parts[0] in {"read", "write", "transcode"} else parts[0]


def _missed(results: Sequence[Result]) -> Iterator[str]:
    """The cells that miss a bar, by name."""
    hdf5 = [
        peer[1].median
        for r in results
        if _kind(r).startswith("read hdf5") and (peer := best_peer(r))
    ]
    if hdf5:
        yield f"\nAll HDF5 reads: median {statistics.median(hdf5):.2f}, wanted {TWICE:.0f}."
    slower, far = [], []
    for result in results:
        peer, limit = best_peer(result), over_limit(result)
        if peer and peer[1].median < 1 - NOISE:
            slower.append((peer[1].median, f"{result.name} {peer[1].median:.2f} ({peer[0]})"))
        if limit and limit.median > NEAR and result.ours.median > LONG:
            far.append((-limit.median, f"{result.name} {limit.median:.2f}"))
    for title, found in (
        (f"Slower than the best peer, by more than {NOISE:.0%}", slower),
        (f"More than {NEAR} times the limit, and above {1e3 * LONG:.0f} ms", far),
    ):
        yield f"\n{title}:\n"
        yield "\n".join(f"- {text}" for _, text in sorted(found)) or "- none"


def _sections(results: Iterable[Result]) -> Iterator[tuple[str, list[Result]]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        parts = result.name.split("/")
        heading = " · ".join(parts[: 3 if parts[0] == "read" else 2])
        found.setdefault(heading, []).append(result)
    yield from found.items()


def _read_table(results: Sequence[Result]) -> Iterator[str]:
    peers = list(dict.fromkeys(label for r in results for label in r.peers))
    columns = ["layout", "read", "peer / fmristore", "best peer", "fmristore / limit"]
    columns += ["CPU / limit's", "ms: fmristore", "again"]
    columns += [*peers, "limit"]
    yield "| " + " | ".join(columns) + " |"
    yield "|---|---|---:|---|" + "---:|" * (len(columns) - 4)
    order = list(dict.fromkeys(r.name.split("/")[3] for r in results))
    for result in sorted(results, key=lambda r: order.index(r.name.split("/")[3])):
        _, _, _, layout, kind = result.name.split("/", 4)
        cells = [layout, kind, *_ratios(result), _cpu(result), _ms(result.ours.median)]
        cells.append(_ms(statistics.median(result.ours.again)) if result.ours.again else "")
        cells += [_ms(result.peers[p].median) if p in result.peers else "" for p in peers]
        cells.append(_ms(result.limit.median) if result.limit else "")
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


def _cpu(result: Result) -> str:
    share = cpu_over_limit(result)
    return "" if share is None else f"{share:.2f}"


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
