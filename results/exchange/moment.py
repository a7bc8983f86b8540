"""When another tool measured, as rows say it.

>>> moment_of("20261128-151137"), moment_of("2026-11-28T17:11:37+02:00"), moment_of(1795878785.3)
('2026-11-28T15:11:37', '2026-11-28T15:11:37+00:00', '2026-11-28T15:13:05.300+00:00')

Runs are put in order by it, so dates of all tools are written alike: a date that each writes its own way sorts anywhere.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def moment_of(value: Any) -> str:
    """ISO 8601, in UTC where the file names a zone, else without one; empty for what is no date.

    A number is seconds since 1970, as Unix counts them; 0 and less is none.
    """
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            found = datetime.fromtimestamp(value, UTC) if value > 0 else None
        else:
            found = datetime.fromisoformat(value) if isinstance(value, str) else None
        if found is None:
            return ""
        found = found.astimezone(UTC) if found.tzinfo else found
    except (OSError, OverflowError, ValueError):
        return ""
    return found.isoformat(timespec="milliseconds" if found.microsecond else "seconds")
