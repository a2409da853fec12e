"""The proxy of `tests.servers.proxy`, under the names of older tests."""

from __future__ import annotations

from tests.servers.proxy import Proxy as SlowProxy
from tests.servers.proxy import Request, Rule
from tests.servers.proxy import run_proxy as slow_proxy

__all__ = ["Request", "Rule", "SlowProxy", "slow_proxy"]
