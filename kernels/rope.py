"""Rotary positions: which columns of a head turn, how fast, and how a model that was made longer slows them.

>>> cos, sin = Rope(theta=5e5).table(np.array([1024]), head_dim=128, length=1025)
>>> cos.shape
(1, 64)

The table is all that a reference or a kernel needs. Sources: arXiv 2104.09864 (RoPE), 2309.00071 (YaRN), 2402.13753
(LongRoPE); the numbers are those of `modeling_rope_utils.py` of Hugging Face Transformers, version 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log, pi

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All positions stand `factor` times as close."""

    factor: float

    def stretched(self, frequencies: F64, rope: Rope, length: int) -> F64:
        """Angles a position."""
        return frequencies / self.factor

    @property
    def gain(self) -> float:
        """What cos and sin are multiplied by."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Wavelengths above original / low are stretched by `factor`, those below original / high kept, others in between."""

    factor: float
    low: float
    high: float
    original: float

    def stretched(self, frequencies: F64, rope: Rope, length: int) -> F64:
        """Angles a position."""
        turns = self.original * frequencies / (2 * pi)
        keep = np.clip((turns - self.low) / (self.high - self.low or 1e-9), 0, 1)
        slower: F64 = frequencies * (keep + (1 - keep) / self.factor)
        return slower

    @property
    def gain(self) -> float:
        """What cos and sin are multiplied by."""
        return 1.0


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """Columns that turn more than `fast` times in `original` positions are kept, fewer than `slow` times stretched.

    truncate: the columns between which that goes over are whole numbers.
    """

    factor: float
    original: float
    fast: float = 32.0
    slow: float = 1.0
    gain: float = 1.0
    truncate: bool = True

    def stretched(self, frequencies: F64, rope: Rope, length: int) -> F64:
        """Angles a position."""
        dim = 2 * len(frequencies)
        first, last = (
            dim * log(self.original / (turns * 2 * pi)) / (2 * log(rope.theta))
            for turns in (self.fast, self.slow)
        )
        if self.truncate:
            first, last = floor(first), ceil(last)
        first, last = max(first, 0), min(last, dim - 1)
        keep = 1 - np.clip((np.arange(len(frequencies)) - first) / max(last - first, 0.001), 0, 1)
        slower: F64 = frequencies * (keep + (1 - keep) / self.factor)
        return slower


@dataclass(frozen=True, slots=True)
class LongRopeScaling:
    """A factor for each pair of columns: `short` up to `original` tokens in all, `long` beyond."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    original: float
    gain: float = 1.0

    def stretched(self, frequencies: F64, rope: Rope, length: int) -> F64:
        """Angles a position, of a sequence that is `length` tokens long."""
        slower: F64 = frequencies / np.array(self.long if length > self.original else self.short)
        return slower


@dataclass(frozen=True, slots=True)
class ProportionalScaling:
    """The slower pairs stand still, all but the first `pairs`; the others turn as in a whole head, over `factor` (Gemma 4)."""

    pairs: int
    factor: float = 1.0

    def stretched(self, frequencies: F64, rope: Rope, length: int) -> F64:
        """Angles a position."""
        slower: F64 = np.where(np.arange(len(frequencies)) < self.pairs, frequencies / self.factor, 0.0)
        return slower

    @property
    def gain(self) -> float:
        """What cos and sin are multiplied by."""
        return 1.0


Scaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling | ProportionalScaling


@dataclass(frozen=True, slots=True)
class Rope:
    """Positions as turns of pairs of columns.

    `dim`: columns of a head that turn, the first ones; 0: all. `neighbours`: column 2i pairs with 2i + 1, else i with i + dim / 2.
    """

    theta: float = 10000.0
    dim: int = 0
    neighbours: bool = False
    scaling: Scaling | None = None

    def frequencies(self, head_dim: int, length: int) -> F64:
        """Angle a position of each pair, [turning columns / 2], in a sequence of `length` tokens."""
        dim = self.dim or head_dim
        plain: F64 = self.theta ** (-np.arange(0, dim, 2) / dim)
        return self.scaling.stretched(plain, self, length) if self.scaling else plain

    def table(self, positions: npt.NDArray[np.int64], head_dim: int, length: int) -> tuple[F64, F64]:
        """Cos and sin, each [positions, turning columns / 2], with the gain of the scaling in them."""
        angles = positions[:, None] * self.frequencies(head_dim, length)
        gain = self.scaling.gain if self.scaling else 1.0
        return np.cos(angles) * gain, np.sin(angles) * gain


def turn(x: F64, cos: F64, sin: F64, neighbours: bool = False) -> F64:
    """x [..., T, D] with its first columns, as many as the tables [T, pairs] have, turned by them."""
    width = 2 * cos.shape[-1]
    moving, still = x[..., :width], x[..., width:]
    if neighbours:
        first, second = moving[..., 0::2], moving[..., 1::2]
    else:
        first, second = np.split(moving, 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    if neighbours:
        joined = np.stack(turned, -1).reshape(moving.shape)
        return np.concatenate([joined, still], -1) if still.shape[-1] else joined
    return np.concatenate([*turned, still] if still.shape[-1] else turned, axis=-1)


def rope(x: F64, positions: npt.NDArray[np.int64], turning: Rope, length: int) -> F64:
    """Rotate x [..., T, D] by its position [T] in a sequence of `length` tokens."""
    return turn(x, *turning.table(positions, x.shape[-1], length), turning.neighbours)
