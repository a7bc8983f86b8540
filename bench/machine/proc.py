"""Texts of /proc and /sys as they are in a sandbox, too: what is not there, or is no number, is not known.

>>> real(text_of(Path("/proc/loadavg")).partition(" ")[0])
0.42
"""

from __future__ import annotations

import re
from pathlib import Path

COUNT = re.compile("[0-9]{1,20}")
REAL = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")


def text_of(path: Path) -> str | None:
    """A small file's text without the white space around it; None if it cannot be read, as is common in guests and containers."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def count(text: str | None) -> int | None:
    """A whole number as the kernel writes it; None for anything else."""
    return int(text) if text and COUNT.fullmatch(text) else None


def real(text: str | None) -> float | None:
    """A number as the kernel writes it; None for anything else."""
    return float(text) if text and REAL.fullmatch(text) else None
