"""Matrix tiles (AMX): bfloat16 weights with bfloat16 activations, int8 with int8, from five rows of x on.

A panel is 16 rows of W; 64 bytes of its columns make one register. Up to 16 rows of x: four panels stream
past at once, far apart. Up to 64 rows: x no longer fits the first-level cache, so a block of its columns
that does meets several panels before the next block is touched, with the sums kept beside it. Measured
without that, x from the second-level cache took twice the time of the weights from memory.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from membound.kernels.cpu.matmul.panels import make_share
from membound.kernels.cpu.matmul.recipe import PANEL_PADDING, TILE_ROWS, Recipe
from membound.kernels.cpu.simd.amx import (
    clear_sums,
    configure_tiles,
    load_sums,
    multiply_panels,
    multiply_tiles,
    release_tiles,
    store_sums,
    tile_configuration,
)
from membound.kernels.cpu.simd.streams import far_starts, prefetch
from membound.kernels.weights.formats import FORMATS

STEPS = 8
"""64-byte steps of k in a block of x: 8 × 64 rows × 64 bytes = 32 KiB."""

GROUP = 8
"""Panels that meet a block of x before the next."""

TILE = TILE_ROWS * 16
"""Numbers in a sum."""

_CONFIGURATION = tile_configuration()


def make_tile(recipe: Recipe) -> Any:
    """A thread's share of a product on matrix tiles: see `make_share`."""
    return _configured(_blocked(recipe) if recipe.tiles > 1 else make_share(recipe, _stream))


def _configured(inner: Any) -> Any:
    @numba.njit
    def panel_range(
        w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any
    ) -> None:
        configure_tiles(_CONFIGURATION)
        inner(w, at, panels, first, last, k, scratch, y)
        release_tiles()

    return panel_range


def _stream(recipe: Recipe, panels_at_once: int) -> Any:
    """All of k for several panels and one tile of x."""
    FMT, PANELS = recipe.format, panels_at_once
    SIZE = FORMATS[FMT].bits // 8
    STEP = 64 // SIZE
    finish = _finish(recipe)

    @numba.njit
    def run(w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any) -> None:
        padded = (k + STEP - 1) // STEP * STEP
        panel_bytes = padded * TILE_ROWS * SIZE + PANEL_PADDING
        stride = padded * SIZE + 64
        sums = np.empty(PANELS * TILE, np.int32)
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            clear_sums()
            for j in range(padded // STEP):
                multiply_panels(w, starts, j * 1024, scratch, j * 64, stride, FMT)
            store_sums(sums, 0, TILE, 64, PANELS)
            for v in range(PANELS):
                finish(w, at, panels, i + v * far, padded, scratch, sums[v * TILE :], y)

    return run


def _blocked(recipe: Recipe) -> Any:
    """Blocks of k: several panels by up to four tiles of x."""
    FMT, TILES = recipe.format, recipe.tiles
    SIZE = FORMATS[FMT].bits // 8
    STEP = 64 // SIZE
    SUMS = TILES * TILE
    finish = _finish(recipe)

    @numba.njit
    def run(w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any) -> None:
        padded = (k + STEP - 1) // STEP * STEP
        panel_bytes = padded * TILE_ROWS * SIZE + PANEL_PADDING
        stride = padded * SIZE + 64
        steps = padded // STEP
        sums = np.empty(GROUP * SUMS, np.int32)
        for i in range(first, last, GROUP):
            group = min(GROUP, last - i)
            for j0 in range(0, steps, STEPS):
                for p in range(group):
                    start = at + (i + p) * panel_bytes
                    if j0 > 0:
                        load_sums(sums, p * SUMS, TILE, 64, TILES)
                    else:
                        clear_sums()
                    for j in range(j0, min(steps, j0 + STEPS)):
                        for line in range(16):
                            prefetch(w, start + (j + STEPS) * 1024 + 64 * line)
                        multiply_tiles(w, start + j * 1024, scratch, j * 64, stride, TILES, FMT)
                    store_sums(sums, p * SUMS, TILE, 64, TILES)
            for p in range(group):
                finish(w, at, panels, i + p, padded, scratch, sums[p * SUMS :], y)

    return run


def _finish(recipe: Recipe) -> Any:
    """One panel's sums to y: int8 sums times the scales of their row of W and row of x."""
    TILES, ROWS, INT8 = recipe.tiles, recipe.rows, recipe.format == "int8"
    SIZE = FORMATS[recipe.format].bits // 8

    @numba.njit
    def finish(
        w: Any, at: Any, panels: Any, panel: Any, padded: Any, scratch: Any, sums: Any, y: Any
    ) -> None:
        width = panels * TILE_ROWS
        n0 = panel * TILE_ROWS
        by_row = scratch[ROWS * (4 * padded + 64) :][: 4 * ROWS].view(np.float32)
        scales = w[at + panels * (padded * TILE_ROWS * SIZE + PANEL_PADDING) :][: 4 * width].view(np.float32)
        floats = sums.view(np.float32)
        for row in range(16 * TILES):
            out = y[row * width + n0 :][:TILE_ROWS]
            for c in range(TILE_ROWS):
                if INT8:
                    out[c] = np.float32(sums[row * TILE_ROWS + c]) * scales[n0 + c] * by_row[row]
                else:
                    out[c] = floats[row * TILE_ROWS + c]

    return finish
