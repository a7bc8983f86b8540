"""Matrix tiles (AMX): bfloat16 weights with bfloat16 activations, int8 with int8, from five rows of x on.

A panel is 16 rows of W; 64 bytes of its columns make one register. Four panels stream past at once, far apart. One tile of x,
up to 16 rows, meets all of k. More tiles meet a block of the panels that stays in the first-level cache, one tile after the
other, while the next block is asked for: each tile of x, from the second-level cache, serves four products. (With one panel
at a time and x in the first-level cache each sum was loaded and stored twice as often for its products: 64 rows, 14336 x 4096,
44 ns a product and thread; as it is 32.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.panels import make_share
from membound.kernels.cpu.matmul.recipe import PANEL_PADDING, PREFETCH_BYTES, TILE_ROWS, Recipe
from membound.kernels.cpu.simd.amx import (
    clear_sums,
    configure_tiles,
    load_sums,
    multiply_panels,
    release_tiles,
    store_sums,
    tile_configuration,
)
from membound.kernels.cpu.simd.lines import aligned_floats
from membound.kernels.cpu.simd.streams import far_starts, prefetch_each
from membound.kernels.weights.formats import FORMATS

STEPS = 16
"""64-byte steps of k in a block of W. 8 take 2 to 10 % longer."""

TILE = TILE_ROWS * 16
"""Numbers in a sum."""

TILE_BYTES = 1024
"""Bytes of a register."""

_CONFIGURATION = tile_configuration()


def make_tile(recipe: Recipe) -> Any:
    """A thread's share of a product on matrix tiles: see `make_share`."""
    share = make_share(recipe, _blocked if recipe.tiles > 1 else _stream)

    @linked
    def panel_range(
        w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        configure_tiles(_CONFIGURATION)
        share(w, at, panels, first, last, k, scratch, y, stride)
        release_tiles()

    return panel_range


def _stream(recipe: Recipe, panels_at_once: int) -> Any:
    """All of k for several panels and one tile of x."""
    FMT, PANELS = recipe.format, panels_at_once
    SIZE = FORMATS[FMT].bits // 8
    STEP = 64 // SIZE
    finish = _finish(recipe)

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        padded = (k + STEP - 1) // STEP * STEP
        panel_bytes = padded * TILE_ROWS * SIZE + PANEL_PADDING
        sums = aligned_floats(PANELS * TILE).view(np.int32)
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            clear_sums()
            for j in range(padded // STEP):
                for line in range(16):
                    prefetch_each(w, starts, j * TILE_BYTES + PREFETCH_BYTES + 64 * line)
                multiply_panels(w, starts, j * TILE_BYTES, scratch, j * TILE_BYTES, 64, FMT)
            store_sums(sums, 0, TILE, 64, PANELS)
            for v in range(PANELS):
                finish(w, at, panels, i + v * far, padded, scratch, sums, v * TILE, 0, y, stride)

    return run


def _blocked(recipe: Recipe, panels_at_once: int) -> Any:
    """Blocks of k of several panels, each with all tiles of x."""
    FMT, PANELS, TILES = recipe.format, panels_at_once, recipe.tiles
    SIZE = FORMATS[FMT].bits // 8
    STEP = 64 // SIZE
    SUMS = PANELS * TILE
    LINES = -(-16 // TILES)
    finish = _finish(recipe)

    @linked
    def run(
        w: Any, at: Any, panels: Any, first: Any, far: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        padded = (k + STEP - 1) // STEP * STEP
        panel_bytes = padded * TILE_ROWS * SIZE + PANEL_PADDING
        steps = padded // STEP
        sums = aligned_floats(TILES * SUMS).view(np.int32)
        for i in range(first, first + far):
            starts = far_starts(at + i * panel_bytes, far * panel_bytes, PANELS)
            for j0 in range(0, steps, STEPS):
                for t in range(TILES):
                    if j0 > 0:
                        load_sums(sums, t * SUMS, TILE, 64, PANELS)
                    else:
                        clear_sums()
                    for j in range(j0, min(steps, j0 + STEPS)):
                        ahead = (j + STEPS) * TILE_BYTES + t * LINES * 64
                        for line in range(LINES):
                            prefetch_each(w, starts, ahead + 64 * line)
                        x_at = (j * TILES + t) * TILE_BYTES
                        multiply_panels(w, starts, j * TILE_BYTES, scratch, x_at, 64, FMT)
                    store_sums(sums, t * SUMS, TILE, 64, PANELS)
            for v in range(PANELS):
                finish(w, at, panels, i + v * far, padded, scratch, sums, v * TILE, SUMS, y, stride)

    return run


def _finish(recipe: Recipe) -> Any:
    """One panel's sums to y, tile t of x from sums[at_sums + t·apart] on; int8 times the scales of W's row and x's row."""
    TILES, ROWS, INT8 = recipe.tiles, recipe.rows, recipe.format == "int8"
    SIZE = FORMATS[recipe.format].bits // 8

    @linked
    def finish(
        w: Any, at: Any, panels: Any, panel: Any, padded: Any, scratch: Any,
        sums: Any, at_sums: Any, apart: Any, y: Any, stride: Any,
    ) -> None:  # fmt: skip
        width = panels * TILE_ROWS
        n0 = panel * TILE_ROWS
        by_row = scratch[ROWS * (4 * padded + 64) :][: 4 * ROWS].view(np.float32)
        scales = w[at + panels * (padded * TILE_ROWS * SIZE + PANEL_PADDING) :][: 4 * width].view(np.float32)
        floats = sums.view(np.float32)
        for row in range(16 * TILES):
            out = y[row * stride + n0 :][:TILE_ROWS]
            from_ = at_sums + row // 16 * apart + row % 16 * TILE_ROWS
            for c in range(TILE_ROWS):
                if INT8:
                    out[c] = np.float32(sums[from_ + c]) * scales[n0 + c] * by_row[row]
                else:
                    out[c] = floats[from_ + c]

    return finish
