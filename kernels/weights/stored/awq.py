"""AWQ's checkpoints (version "gemm"): numbers packed along the rows of W in an order of their own, with zero points.

>>> Awq(group=128).format(4096)
'int4g128z'

Of W [n, k]: qweight int32 [k, n/8], qzeros int32 [k/group, n/8], scales [k/group, n]. Nibble i of a word is row `ORDER[i]` of
eight. W = (q − z) · scale. Source: casper-hansen/AutoAWQ, awq/modules/linear/gemm.py (from_linear); arXiv 2306.00978.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from membound.kernels.weights.formats import Weight
from membound.kernels.weights.stored.scheme import (
    FLOATS,
    Arrays,
    Part,
    grouped_int4,
    is_named,
    kernel_group,
    unpacked,
    whole_words,
)

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True, slots=True)
class Awq:
    """int4 in groups of `group` columns; 0: a row is a group. `kept`: parts of the names of modules that stay float."""

    group: int
    kept: tuple[str, ...] = ()
    mark: str = "qweight"
    values: str = "qweight"

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return "AWQ, 4 bits, " + (f"groups of {self.group}" if self.group else "a group a row")

    def covers(self, module: str) -> bool | None:
        """All matrices of layers but those that are kept; where a kept name is only a piece of one, the file alone says it."""
        if is_named(module, ("lm_head", *self.kept)):
            return False
        return None if any(piece in module for piece in self.kept) else True

    def format(self, k: int) -> str:
        """int4 with zero points."""
        return f"int4g{kernel_group(self.group or k, k)}z"

    def parts(self, n: int, k: int) -> dict[str, Part]:
        """qweight, qzeros, scales."""
        groups = k // (self.group or k)
        return {
            "qweight": Part((k, whole_words(n, 8)), ("I32",)),
            "qzeros": Part((groups, whole_words(n, 8)), ("I32",)),
            "scales": Part((groups, n), FLOATS),
        }

    def more(self, n: int, k: int) -> dict[str, Part]:
        """Nothing."""
        return {}

    def read(self, arrays: Arrays, n: int, k: int) -> Weight:
        """The rows of W in their order."""
        q, zeros = (_rows(arrays[name]) for name in ("qweight", "qzeros"))
        return grouped_int4(np.ascontiguousarray(q.T), arrays["scales"].T, zeros.T)


def _rows(words: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Numbers [rows, 8 · words] of words [rows, words]."""
    stored = unpacked(words, 4, 1).reshape(len(words), -1, 8)
    return stored[:, :, np.argsort(ORDER)].reshape(len(words), -1)
