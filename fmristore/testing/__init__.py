"""The conformance suite that any format must pass, in both containers; needs pytest.

Subclass `FormatTests` in a test module, say how a small object is made and what it then holds::

    class TestMyFormat(FormatTests):
        def create(self, url: Path | str) -> StoredObject:
            return MyFormat.create(VALUES, url)

        def expected(self) -> AnyArray:
            return VALUES

Stores have a suite of their own, `fmristore_stores.testing.StoreTests`.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("fmristore.testing.formats")

from fmristore.testing.formats import FormatTests  # noqa: E402  after the registration

__all__ = ["FormatTests"]
