"""How many tokens prompts and answers have: fixed, or drawn from a distribution.

>>> parse_lengths("uniform:64..256").draw(3, np.random.default_rng(1))
array([155, 162, 209])

A length is a whole number from 1; what a normal distribution draws below is drawn again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from membound.bench.serving.schedule import LoadError

I64 = npt.NDArray[np.int64]
LONGEST = 10_000_000
HOW = "give a number (128), uniform:64..256, normal:mean=512,sd=128 or lognormal:median=512,sigma=0.6"
_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_FORMS = {
    "fixed": re.compile(rf"{_NUMBER}", re.ASCII),
    "uniform": re.compile(rf"uniform:{_NUMBER}\.\.{_NUMBER}", re.ASCII),
    "normal": re.compile(rf"normal:mean={_NUMBER},sd={_NUMBER}", re.ASCII),
    "lognormal": re.compile(rf"lognormal:median={_NUMBER},sigma={_NUMBER}", re.ASCII),
}


@dataclass(frozen=True, slots=True)
class Lengths:
    """`first` and `second` are the numbers of the form, in its order."""

    kind: str
    first: float
    second: float = 0.0

    def draw(self, count: int, rng: np.random.Generator) -> I64:
        """That many lengths, each from 1 to LONGEST."""
        if self.kind == "fixed":
            return np.full(count, int(self.first), np.int64)
        if self.kind == "uniform":
            return rng.integers(int(self.first), int(self.second), count, endpoint=True)
        found = np.zeros(count, np.int64)
        while (missing := found < 1).any():
            found[missing] = np.rint(self._floats(int(missing.sum()), rng)).astype(np.int64)
        return np.minimum(found, LONGEST)

    @property
    def longest(self) -> int:
        """The most that can be drawn."""
        return {"fixed": int(self.first), "uniform": int(self.second)}.get(self.kind, LONGEST)

    def _floats(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        if self.kind == "normal":
            return np.minimum(rng.normal(self.first, self.second, count), LONGEST)
        return np.minimum(self.first * rng.lognormal(0.0, self.second, count), LONGEST)


def parse_lengths(text: str) -> Lengths:
    """The lengths of that text. Raises LoadError."""
    for kind, form in _FORMS.items():
        if found := form.fullmatch(text.strip()):
            one = Lengths(kind, *map(float, found.groups()))
            if wrong := _wrong(one):
                raise LoadError(f"lengths {text!r}: {wrong}")
            return one
    raise LoadError(f"lengths {text!r}: {HOW}")


def _wrong(one: Lengths) -> str:
    if not 1 <= one.first <= LONGEST:
        return f"from 1 to {LONGEST} tokens"
    if one.kind in ("fixed", "uniform") and not (one.first.is_integer() and one.second.is_integer()):
        return "whole numbers of tokens"
    if one.kind == "uniform" and not one.first <= one.second <= LONGEST:
        return f"an upper end from {one.first:g} to {LONGEST}"
    if one.kind == "normal" and one.second > one.first:
        return "an sd of at most the mean: half of what is drawn would be no length"
    if one.kind == "lognormal" and one.second > 5:
        return "a sigma of at most 5"
    return ""
