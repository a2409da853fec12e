"""Functions that a forked child calls first, whose parent had threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

__all__ = ["in_forked_child"]

Renew = TypeVar("Renew", bound=Callable[[], object])


def in_forked_child(renew: Renew) -> Renew:
    """Have a function called in every child that is forked, where the system can fork.

    Threads do not survive a fork: a lock that one of the parent's held is never given back in the
    child: it has to be replaced there.

    Parameters
    ----------
    renew : callable
        Without arguments.

    Returns
    -------
    callable
        The same.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
    return renew
