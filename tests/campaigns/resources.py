"""Writing with too little of everything: disk, descriptors, permissions, memory."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaigns.children import Limits, in_child
from tests.campaigns.operations import OPERATIONS, Operation
from tests.campaigns.outcomes import Outcome, Result
from tests.campaigns.workshop import Options, Verdict, disturb, room

__all__ = ["run"]

_LIMITS = Limits(seconds=120)
_NOBODY = 65534


@dataclass(frozen=True)
class Want:
    """Something that there is too little of.

    Parameters
    ----------
    amounts : tuple of int
        Of which one is drawn.
    begin : callable
        Takes the folder and the amount; called in the process that writes, before it writes.
    """

    amounts: tuple[int, ...]
    begin: Callable[[Path, int], None]


def _limit_files(folder: Path, size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the call fails with EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _open_folder(folder: Path) -> int:
    """The number that the next file gets."""
    number = os.open(folder, os.O_RDONLY)
    os.close(number)
    return number


def _limit_descriptors(folder: Path, more: int) -> None:
    taken = {int(path.name) for path in Path("/proc/self/fd").iterdir()} - {_open_folder(folder)}
    unused = [number for number in range(2000) if number not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused[more], unused[more]))


def _forbid(folder: Path, number: int) -> None:
    """Take the permission to write: the folder, what is in it, or all below it."""
    inside = sorted(p for p in folder.rglob("*") if not p.name.startswith("in."))
    places = [[folder], inside[:1] or [folder], inside or [folder]][number % 3]
    for place in places:
        place.chmod((0o555, 0o000)[number // 3] if place != folder else 0o555)
    if os.geteuid() == 0:
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _take_temporary_folder(folder: Path, number: int) -> None:
    tempfile.tempdir = str(folder / "is not there")
    os.environ["TMPDIR"] = tempfile.tempdir


def _nothing(folder: Path, number: int) -> None:
    pass


WANTS: Mapping[str, Want] = {
    "file size": Want((0, 1, 100, 512, 800, 2048, 3000, 4096, 8192, 16384, 40000), _limit_files),
    "descriptors": Want(tuple(range(8)), _limit_descriptors),
    "permission": Want(tuple(range(6)), _forbid),
    "temporary folder": Want((0,), _take_temporary_folder),
    "max_memory": Want((-1, 0, 1, 100, 4096, 1 << 14, 1 << 16, 1 << 18, 1 << 20), _nothing),
    "disk": Want(tuple(range(0, 160, 4)), _nothing),
}


def run(options: Options) -> Iterator[Result]:
    """Trials of one seed: operations and wants by lot."""
    with room() as folder, _small_disk(folder) as disk:
        folder.chmod(0o755)
        wants = [name for name in WANTS if disk is not None or name != "disk"]
        prepared: dict[str, Path] = {}
        for name, want, amount in _chosen(options, wants):
            operation = OPERATIONS[name]
            if want == "max_memory" and not operation.bounded:
                continue
            if name not in prepared:
                prepared[name] = folder / f"{len(prepared)}-before"
                prepared[name].mkdir()
                if in_child(partial(operation.prepare, prepared[name])).how != "returned":
                    raise AssertionError(f"{name} cannot be prepared")
            place = folder if disk is None or want != "disk" else disk
            verdict = _try(operation, want, amount, prepared[name], place)
            yield Result(f"too little: {want}", f"{name}/{want}/{amount}", *verdict)


def _chosen(options: Options, wants: list[str]) -> Iterator[tuple[str, str, int]]:
    if options.only:
        name, want, amount = options.only.rsplit("/", 2)
        yield name, want, int(amount)
        return
    lot = random.Random(options.seed)
    names = list(OPERATIONS)
    if options.quick:
        names = lot.sample(names, 12)
    for i in range(options.trials):
        want = wants[i % len(wants)]
        yield lot.choice(names), want, lot.choice(WANTS[want].amounts)


def _try(operation: Operation, want: str, amount: int, before: Path, place: Path) -> Verdict:
    work = place / "work"
    shutil.copytree(before, work)
    work.chmod(0o777)
    limits: dict[str, Any] = {"max_memory": amount} if want == "max_memory" else {}

    def trouble() -> None:
        WANTS[want].begin(work, amount)

    try:
        if want == "disk":
            _resize(place, amount)
            verdict = disturb(operation, work, trouble, limits=_LIMITS, after=_enough(place))
        else:
            after = partial(_permit, work)
            verdict = disturb(operation, work, trouble, limits=_LIMITS, after=after, **limits)
    finally:
        _permit(work)
        shutil.rmtree(work)
    outcome, detail, left = verdict
    if outcome is Outcome.OLD and "the operation: error" in detail:
        outcome = Outcome.OUR_ERROR
    return outcome, detail, left


def _permit(work: Path) -> None:
    work.chmod(0o777)
    for path in sorted(work.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


# A disk of a few kilobytes -----------------------------------------------------------------------


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system in memory of a size that can be set; None where it cannot be mounted."""
    place = folder / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _resize(disk: Path, free: int) -> None:
    """Leave so many KiB of it free."""
    state = os.statvfs(disk)
    used = (state.f_blocks - state.f_bfree) * state.f_frsize // 1024
    _remount(disk, used + free)


def _enough(disk: Path) -> Callable[[], None]:
    return partial(_remount, disk, 64 << 10)


def _remount(disk: Path, size: int) -> None:
    options = f"remount,size={max(4, size)}k"
    subprocess.run(["mount", "-o", options, str(disk)], check=True, capture_output=True)
