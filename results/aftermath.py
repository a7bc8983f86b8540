"""Whether a contestant leaves something running: a ceiling right after its turns against the same right before them.

>>> ceiling_fall(row.turns, "read")
0.35

Threads that spin on take a core, and bandwidth, from the ceiling that plays next. Nobody counts that as a disturbance if they give way
when asked; but the ceiling is too low then, and every share of it too high by about half as much.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, sqrt

import numpy as np

from membound.results.turns import StoredTurn
from membound.results.verdict import CEILING_SLACK

FEWEST_TURNS = 13
"""Of fewer not even falls alone are beyond Z."""
Z = 3.09
"""One contestant of a thousand without an aftermath is thought to have one (one-sided)."""
LEAST_FALL = CEILING_SLACK
"""No ceiling is known better than that."""


def ceiling_fall(turns: Iterable[StoredTurn], name: str) -> float | None:
    """By which share that ceiling is lower after undisturbed turns than before, the median; None where it may be chance.

    By the signed ranks of the logarithms (F. Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1, 1945).
    """
    sides = [
        (t.before[name], t.after[name]) for t in turns if t.clean and name in t.before and name in t.after
    ]
    count = len(sides)
    if count < FEWEST_TURNS:
        return None
    before, after = np.log(np.array(sides)).T
    falls = before - after
    ranks = np.abs(falls).argsort().argsort() + 1
    expected, spread = count * (count + 1) / 4, sqrt(count * (count + 1) * (2 * count + 1) / 24)
    typical = 1 - exp(-float(np.median(falls)))
    certain = float(ranks[falls > 0].sum()) > expected + Z * spread
    return typical if certain and typical > LEAST_FALL else None
