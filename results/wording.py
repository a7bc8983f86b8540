"""Figures and specs for people to read; every number has its unit.

>>> duration(0.0012345), amount(33_554_432, "B"), rate(2e11, "bytes/s")
('1.234 ms', '33.6 MB', '200.0 GB/s')
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, log10

from membound.spec_text import CONTENT, pieces


def short(work: str) -> str:
    """A spec in fewer words: numbers keep their keys, names lose them; act=float and a folder's content are left out."""
    kind, _, rest = work.partition(":")
    words = []
    for part in filter(None, pieces(rest)):
        key, _, value = part.partition("=")
        if part != "act=float" and key != CONTENT:
            words.append(part if value.isdigit() else f"act {value}" if key == "act" else value)
    return " ".join([kind, *words])


def duration(seconds: float | None, digits: int = 4) -> str:
    """At most that many digits with a unit: ``1.234 ms``; ``–`` for None."""
    if seconds is None:
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        text = f"{seconds / scale:.{digits}g}"
        if float(text) >= 1:  # once it is rounded: 999.7 µs in three digits are a millisecond
            return f"{text} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def amount(value: float, unit: str) -> str:
    """A count with a decimal prefix: ``33.6 MB``."""
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def gigabytes_per_s(bytes_per_s: float | None) -> str:
    """A bandwidth below a heading that names the unit: three digits; ``–`` for None."""
    if bytes_per_s is None:
        return "–"
    value = bytes_per_s / 1e9
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def percent(share: float | None) -> str:
    """A share from 0 to 1 in %; ``–`` for None."""
    return "–" if share is None else f"{share:.0%}"


def rate(value: float, unit: str) -> str:
    """The figure of a ceiling: bytes/s in GB/s, FLOP/s with a prefix, seconds as a duration."""
    if unit == "s":
        return duration(value)
    return f"{value / 1e9:.1f} GB/s" if unit == "bytes/s" else amount(value, unit)


SAME = 0.05
"""Two times whose ratio is within this of 1, interval and all, are called the same."""


def ratio_words(ci: tuple[float, float] | None) -> str:
    """What an interval of B's time over A's says of B: ``faster by at least 8 %`` takes at least 8 % less time.

    Ends are rounded so that the words stay true: bounds down, ``within`` up.
    """
    if ci is None:
        return "cannot tell: too few processes"
    low, high = ci
    if high < 1:
        return f"faster by at least {_short_percent(1 - high, floor)}"
    if low > 1:
        return f"slower by at least {_short_percent(low - 1, floor)}"
    if max(1 - low, high - 1) <= SAME * (1 + 1e-9):
        return f"same within {_short_percent(max(1 - low, high - 1), ceil)}"
    faster, slower = _short_percent(1 - low, ceil), _short_percent(high - 1, ceil)
    return f"cannot tell: from {faster} faster to {slower} slower"


def _short_percent(share: float, towards: Callable[[float], int]) -> str:
    """A share in % with two digits, rounded towards the side that keeps a bound true."""
    if share <= 0:
        return "0 %"
    unit = 10.0 ** (floor(log10(share)) - 1)
    return f"{towards(share / unit * (1 + 1e-12 if towards is floor else 1 - 1e-12)) * unit * 100:.4g} %"
