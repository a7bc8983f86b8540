"""States that do not grow, as a step finds them: random, the same for the same stream.

>>> random_state(GatedDelta(2, 4, 8, 16), batch=3, stream=1).matrices.shape
(3, 4, 8, 16)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.mixers import GatedDelta, Recurrent

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class State:
    """What B sequences leave behind: tail [B, kernel − 1, channels], the newest token last, and matrices [B, heads, rows, columns]."""

    tail: Floats
    matrices: Floats


def matrix_shape(mixer: Recurrent) -> tuple[int, int, int]:
    """Heads, rows and columns of a state: keys by values, or a head's columns by those of B and C."""
    if isinstance(mixer, GatedDelta):
        return mixer.value_heads, mixer.key_dim, mixer.value_dim
    return mixer.heads, mixer.head_dim, mixer.state_dim


def empty_state(mixer: Recurrent, batch: int) -> State:
    """That of sequences that have not begun."""
    return State(np.zeros((batch, mixer.kernel - 1, mixer.channels)), np.zeros((batch, *matrix_shape(mixer))))


def random_state(mixer: Recurrent, batch: int, stream: int) -> State:
    """Float32: a tail of unit variance, as what the convolution goes over has, and matrices within ±1."""
    rng = np.random.default_rng(stream)
    tail = rng.standard_normal((batch, mixer.kernel - 1, mixer.channels), np.float32)
    return State(tail, 2 * rng.random((batch, *matrix_shape(mixer)), np.float32) - 1)
