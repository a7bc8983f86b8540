"""Matrix tiles (AMX): bfloat16 weights with bfloat16 activations, int8 with int8, from five rows of x on.

A panel is 16 rows of W; 64 bytes of its columns make one register. Up to four sums of 16 × 16 stay in
registers: four panels of one tile of x, two of two, or one of three or four. More tiles of x take
further passes over the panel, which by then lies in the second-level cache.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from membound.kernels.cpu.amx import (
    clear_sums,
    configure_tiles,
    multiply_step,
    release_tiles,
    store_sums,
    tile_configuration,
)
from membound.kernels.cpu.recipe import PANEL_PADDING, TILE_ROWS, Recipe
from membound.kernels.cpu.simd import far_starts
from membound.kernels.work import FORMATS

_CONFIGURATION = tile_configuration()


def make_tile(recipe: Recipe) -> Any:
    """panel_range(w, at, panels, first, last, k, scratch, y) for a tile recipe."""
    together = _panels(recipe, recipe.panels)
    single = _panels(recipe, 1) if recipe.panels > 1 else together
    PANELS = recipe.panels

    @numba.njit
    def panel_range(
        w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any
    ) -> None:
        configure_tiles(_CONFIGURATION)
        far = (last - first) // PANELS
        together(w, at, panels, first, far, k, scratch, y)
        if PANELS > 1:
            rest = first + far * PANELS
            single(w, at, panels, rest, last - rest, k, scratch, y)
        release_tiles()

    return panel_range


def _panels(recipe: Recipe, panels_at_once: int) -> Any:
    full = _pass(recipe, panels_at_once, min(4, recipe.tiles))
    rest = _pass(recipe, panels_at_once, recipe.tiles % 4 or 4)
    FULL, REST = recipe.tiles // 4, recipe.tiles % 4
    if recipe.tiles < 4:
        return rest

    @numba.njit
    def run(w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any) -> None:
        for i in range(first, first + far):  # a panel at a time, so that later passes find it cached
            for four in range(FULL):
                full(w, at, panels, i, 1, k, scratch, y, 4 * four)
            if REST:
                rest(w, at, panels, i, 1, k, scratch, y, 4 * FULL)

    return run


def _pass(recipe: Recipe, panels_at_once: int, tiles: int) -> Any:
    """All of k for some panels and up to four tiles of x from tile `tile0` on."""
    FMT, PANELS, TILES, ROWS = recipe.format, panels_at_once, tiles, recipe.rows
    SIZE = FORMATS[FMT].bits // 8
    STEP = 64 // SIZE
    INT8 = FMT == "int8"

    @numba.njit
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, tile0: int = 0
    ) -> None:
        padded = (k + STEP - 1) // STEP * STEP
        panel_bytes = padded * TILE_ROWS * SIZE + PANEL_PADDING
        stride = padded * SIZE + 64
        x0 = tile0 * 16 * stride
        width = panels * TILE_ROWS
        sums = np.empty(4 * 256, np.int32)
        row_scales = scratch[ROWS * (4 * padded + 64) :][: 4 * ROWS].view(np.float32)
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            clear_sums()
            for j in range(padded // STEP):
                multiply_step(w, starts, j * 1024, scratch, x0 + j * 64, stride, TILES, FMT)
            if INT8:
                store_sums(sums, 0, TILES * 256, 256, 64, PANELS, TILES)
                scales = w[at + panels * panel_bytes :][: 4 * width].view(np.float32)
                for v in range(PANELS):
                    n0 = (i + v * far) * TILE_ROWS
                    for r in range(16 * TILES):
                        by = row_scales[tile0 * 16 + r]
                        out = y[(tile0 * 16 + r) * width + n0 :][:TILE_ROWS]
                        line = sums[(v * 16 * TILES + r) * 16 :][:TILE_ROWS]
                        for c in range(TILE_ROWS):
                            out[c] = np.float32(line[c]) * scales[n0 + c] * by
            else:
                place = tile0 * 16 * width + i * TILE_ROWS
                store_sums(y, place, far * TILE_ROWS, 16 * width, 4 * width, PANELS, TILES)

    return run
