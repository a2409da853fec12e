"""The one way in which files of this machine are opened for reading: only ordinary ones.

A named pipe would be waited for, a device may do anything when it is opened, and a path may come
from a reference file that somebody else has written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from fmristore_stores.errors import UnknownFormatError

__all__ = ["all_below", "check_ordinary", "lies_in", "open_ordinary"]

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NONBLOCK", 0)
)
_NAMES = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_ordinary(path: str, url: str | None = None) -> os.stat_result:
    """Refuse what is neither a file nor a folder.

    Parameters
    ----------
    path : str
        Local path; symbolic links are followed.
    url : str, optional
        Its name in messages.

    Returns
    -------
    os.stat_result
        What the operating system says of it.

    Raises
    ------
    UnknownFormatError
        If it is a pipe, a socket or a device.

    Notes
    -----
    If there is nothing, or it may not be looked at, the error is that of the operating system.
    """
    status = os.stat(path)  # noqa: PTH116 - a hot path
    _refuse(status.st_mode, path if url is None else url)
    return status


def open_ordinary(path: str, *, within: int | None = None) -> int:
    """Open an ordinary file for reading, without ever waiting for another program.

    Parameters
    ----------
    path : str
        Local path; symbolic links are followed.
    within : int, optional
        Descriptor of the folder that a relative path begins at.

    Returns
    -------
    int
        Descriptor, to be closed by the caller.

    Raises
    ------
    UnknownFormatError
        If it is a pipe, a socket or a device.

    Notes
    -----
    If it is a folder, is not there, or may not be read, the error is that of the operating system.
    """
    if within is None:  # files of a folder that is open are looked at when they are listed
        _refuse_folder(os.stat(path).st_mode, path)  # noqa: PTH116 - a hot path
    descriptor = os.open(path, _FLAGS, dir_fd=within)
    try:
        # What was opened, whatever the name stands for now.
        _refuse_folder(os.fstat(descriptor).st_mode, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def lies_in(path: str, folder: str) -> bool:
    """Return whether a path is a folder or leads into it, once symbolic links are followed.

    Parameters
    ----------
    path : str
        Local path, of something that need not exist.
    folder : str
        As `os.path.realpath` gave it: what its name stands for later is not looked up again.
    """
    real = os.path.realpath(path)
    return os.path.join(real, "").startswith(os.path.join(folder, ""))  # noqa: PTH118


def _refuse_folder(mode: int, url: str) -> None:
    _refuse(mode, url)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), url)


def _refuse(mode: int, url: str) -> None:
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    kind = next((name for check, name in _NAMES if check(mode)), "no ordinary file")
    raise UnknownFormatError(f"{kind}: only ordinary files are read; copy it to one", url=url)


def all_below(folder: str) -> list[str]:
    """Paths of a folder and of all files and folders in it, but for symbolic links.

    Parameters
    ----------
    folder : str
        Others may remove it, or what is in it, meanwhile.
    """
    paths, folders = [folder], [folder]
    for parent in folders:  # which grow meanwhile
        found: list[os.DirEntry[str]] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(parent) as entries:
            found = [entry for entry in entries if not entry.is_symlink()]
        paths += [entry.path for entry in found]
        folders += [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]
    return paths
