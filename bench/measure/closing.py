"""The end of a backend: whatever goes wrong in it, what was measured or found before is kept.

>>> closed(backend)
"""

from __future__ import annotations

from contextlib import suppress

from membound.backends.api import Backend


def closed(backend: Backend) -> None:
    """Have it give back what it holds. One that hangs here is ended by the harness, with its process."""
    with suppress(Exception):  # the boundary around a runtime: nothing is measured any more
        backend.close()
