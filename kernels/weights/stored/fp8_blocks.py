"""FP8 as DeepSeek-V3 publishes it: e4m3 with a float32 scale for each block of 128 × 128.

>>> sum(part.nbytes for part in Fp8Blocks().parts(576, 7168).values()) - 576 * 7168     # ⌈576/128⌉ · 56 scales
1120

Of W [n, k]: weight e4m3 [n, k], weight_scale_inv [⌈n/128⌉, ⌈k/128⌉], by which it is multiplied. Which matrices are stored so
the file says: those that have scales. Source: deepseek-ai/DeepSeek-V3, inference/kernel.py (weight_dequant).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from membound.kernels.model import ModelError
from membound.kernels.weights.formats import FORMATS, Weight
from membound.kernels.weights.stored.compressed import refuse_nan
from membound.kernels.weights.stored.scheme import Arrays, Part, is_named

BLOCK = 128


@dataclass(frozen=True, slots=True)
class Fp8Blocks:
    """e4m3 in blocks. `kept`: modules that config.json says stay float."""

    kept: tuple[str, ...] = ()
    mark: str = "weight_scale_inv"
    values: str = "weight"

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return f"FP8, a scale for each block of {BLOCK} × {BLOCK}"

    def covers(self, module: str) -> bool | None:
        """The file says it, but of modules that stay float."""
        return False if is_named(module, self.kept) else None

    def format(self, k: int) -> str:
        """e4m3 in blocks of 128 × 128."""
        if k % FORMATS["fp8b128"].group:
            raise ModelError(f"e4m3 rows of {k} are not supported: they must be multiples of {BLOCK}")
        return "fp8b128"

    def parts(self, n: int, k: int) -> dict[str, Part]:
        """Numbers and scales."""
        grid = (-(-n // BLOCK), -(-k // BLOCK))
        return {
            "weight": Part((n, k), ("F8_E4M3",)),
            "weight_scale_inv": Part(grid, ("F32", "BF16")),
        }

    def more(self, n: int, k: int) -> dict[str, Part]:
        """Nothing."""
        return {}

    def read(self, arrays: Arrays, n: int, k: int) -> Weight:
        """Numbers and scales as they are."""
        codes = np.ascontiguousarray(arrays["weight"])
        refuse_nan(codes)
        scales = np.ascontiguousarray(arrays["weight_scale_inv"], np.float32)
        return Weight(self.format(k), n, k, codes, scales)
