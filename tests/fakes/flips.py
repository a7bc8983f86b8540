"""Bits that change on a disk or on the way.

>>> unnoticed(path, RowError, lambda: load_rows(path))
[]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def unnoticed(
    path: Path,
    refusal: type[Exception],
    read: Callable[[], object],
    lines: range | None = None,
    step: int = 1,
) -> list[tuple[int, int]]:
    """(byte, bit) of every flip after which `read` gives something else than before, and does not refuse it by name.

    `lines`: those whose bits are flipped, from 0; default all. `step`: every so many bytes.
    """
    content, whole, found = path.read_bytes(), read(), []
    number = 0
    for at, byte in enumerate(content):
        if (lines is None or number in lines) and at % step == number % step:
            for bit in range(8):
                path.write_bytes(content[:at] + bytes([byte ^ 1 << bit]) + content[at + 1 :])
                try:
                    if read() != whole:
                        found.append((at, bit))
                except refusal as error:
                    if str(path) not in str(error):
                        found.append((at, bit))
        number += byte == 10
    path.write_bytes(content)
    return found
