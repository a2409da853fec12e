"""Indexes of shards that are remembered, in a child of a process as well."""

from __future__ import annotations

import os

import pytest

from fmristore_stores.zarr.shards import SHARD_INDEXES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    with SHARD_INDEXES._lock:
        child = os.fork()
        if not child:
            os._exit(0 if SHARD_INDEXES._lock.acquire(blocking=False) else 1)
    assert os.waitpid(child, 0)[1] == 0
