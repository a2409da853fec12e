"""True if what became visible was on disk before: the calls of one run, looked at in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.shim import Call

__all__ = ["unflushed"]


@dataclass
class _File:
    """A file through all its names."""

    written: int = -1
    flushed: int = -1


def unflushed(calls: Sequence[Call], target: Path) -> list[str]:
    """What a power cut could take, though the new names are on disk.

    A step that gives a visible name (the target's own, or one inside of it that was taken before by
    a file that is on disk) must come after the flush of the file; the last such step after the
    flushes of all files, and before that of the folder.
    """
    files: dict[str, _File] = {}
    named: list[tuple[int, str, _File | None]] = []
    seen: set[str] = set()
    folders: dict[str, int] = {}
    for number, call in enumerate(calls):
        match call.what:
            case "open" | "write" | "ftruncate":
                files.setdefault(call.path, _File()).written = number
            case "fsync":
                files.setdefault(call.path, _File()).flushed = number
                folders[call.path] = number
            case "unlink":
                files.pop(call.path, None)
            case "rename" | "exchange" | "link":
                held = files.get(call.other)
                kept = held is None or held.written < held.flushed  # else nothing is lost
                replaces = (call.other in seen and kept) or call.what == "exchange"
                inside = call.other == str(target) or _below(call.other, target)
                if inside and (
                    call.other == str(target) or replaces or _existed(call.other, target)
                ):
                    named.append((number, call.other, files.get(call.path)))
                _move(files, call)
                seen.add(call.other)
    return _faults(files, named, folders, target)


def _below(path: str, target: Path) -> bool:
    return path.startswith(f"{target}/")


def _existed(path: str, target: Path) -> bool:
    """The metadata of the root: there before whenever a store is changed where it is."""
    return path == f"{target}/zarr.json"


def _move(files: dict[str, _File], call: Call) -> None:
    for path in list(files):
        if path == call.path or path.startswith(f"{call.path}/"):
            found = files[path] if call.what == "link" else files.pop(path)
            files[call.other + path[len(call.path) :]] = found


def _faults(
    files: dict[str, _File],
    named: list[tuple[int, str, _File | None]],
    folders: dict[str, int],
    target: Path,
) -> list[str]:
    faults = [
        f"{name} got its name before it was flushed"
        for number, name, file in named
        if file is not None and file.written >= 0 and not file.written < file.flushed < number
    ]
    if not named:
        return faults
    last, name, _ = named[-1]
    for path, file in files.items():
        visible = path == str(target) or _below(path, target)
        if visible and 0 <= file.written < last and not file.written < file.flushed:
            faults.append(f"{path} was not flushed after it was written")
    if folders.get(str(Path(name).parent), -1) < last:
        faults.append(f"the folder of {name} was not flushed after the last step")
    return faults
