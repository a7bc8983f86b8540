"""y[m, n] = x[m, k] · W[n, k]ᵀ, compiled: one row of x to a few dozen, every weight format.

    prepare(FMT, ACT, M, x, at, stride, k, scratch)            # once for all matrices that x meets
    multiply(FMT, ACT, M, w, at, n, k, scratch, y, threads)    # y[row, :n], rows `padded_n` apart

Both are called from compiled code with literal FMT, ACT and M; `recipe.choose` tells which kernel they
become. W is packed (pack.py) in a byte array from byte `at` on, x prepared (activations.py) in a scratch.
The loops read like the product they compute: a tile of weights, a tile of activations, an outer product
in registers. How many streams, columns a block and tokens a round: see recipe.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import prange
from numba.extending import overload

from membound.kernels.cpu.compile import kernel
from membound.kernels.cpu.linked import LINKED, linked
from membound.kernels.cpu.matmul.activations import make_prepare
from membound.kernels.cpu.matmul.float_panels import make_float
from membound.kernels.cpu.matmul.integer_panels import make_integer
from membound.kernels.cpu.matmul.mixed_panels import make_mixed
from membound.kernels.cpu.matmul.pair_panels import make_pairs
from membound.kernels.cpu.matmul.recipe import Recipe, choose
from membound.kernels.cpu.matmul.tile_panels import make_tile
from membound.kernels.cpu.simd.ir import literal_value


def prepare(FMT: str, ACT: str, M: int, x: Any, at: int, stride: int, k: int, scratch: Any) -> None:
    """Put M rows of x (float32, row i from x[at + i·stride] on) into `scratch` for `multiply`."""
    raise TypeError("prepare is for compiled code")


def multiply(
    FMT: str, ACT: str, M: int, w: Any, at: int, n: int, k: int, scratch: Any, y: Any, threads: int
) -> None:
    """y = x · Wᵀ for the x in `scratch` and the packed W from byte `at` of `w` on.

    y: flat float32, `recipe.rows` rows of `recipe.padded_n(n)`.
    """
    raise TypeError("multiply is for compiled code")


_prepare = cache(make_prepare)


@cache
def panel_share(recipe: Recipe) -> Any:
    """A thread's share of a product, compiled: share(w, at, panels, first, last, k, scratch, y, stride) for panels first…last."""
    if recipe.mixed:
        return make_mixed(recipe, [panel_share(one) for one in recipe.members])
    makers = {"float": make_float, "pairs": make_pairs, "integer": make_integer, "tile": make_tile}
    return makers[recipe.method](recipe)


@cache
def _multiply(recipe: Recipe) -> Any:
    """Panels shared out between threads, each a contiguous range."""
    PANEL_ROWS = recipe.panel_rows
    panel_range = panel_share(recipe)

    @linked(parallel=True)
    def run(w: Any, at: Any, n: Any, k: Any, scratch: Any, y: Any, threads: Any) -> None:
        panels = (n + PANEL_ROWS - 1) // PANEL_ROWS
        for t in prange(threads):
            begin, end = t * panels // threads, (t + 1) * panels // threads
            panel_range(w, at, panels, begin, end, k, scratch, y, panels * PANEL_ROWS)

    return run


@overload(prepare, prefer_literal=True, jit_options=LINKED)
def _prepare_in_kernels(
    FMT: Any, ACT: Any, M: Any, x: Any, at: Any, stride: Any, k: Any, scratch: Any
) -> Any:
    recipe = _recipe(FMT, ACT, M)
    if recipe is None:
        return None
    inner = _prepare(recipe)

    def implementation(
        FMT: Any, ACT: Any, M: Any, x: Any, at: Any, stride: Any, k: Any, scratch: Any
    ) -> None:
        inner(x, at, stride, k, scratch)

    return implementation


@overload(multiply, prefer_literal=True, jit_options=LINKED)
def _multiply_in_kernels(
    FMT: Any, ACT: Any, M: Any, w: Any, at: Any, n: Any, k: Any, scratch: Any, y: Any, threads: Any
) -> Any:
    recipe = _recipe(FMT, ACT, M)
    if recipe is None:
        return None
    inner = _multiply(recipe)

    def implementation(
        FMT: Any, ACT: Any, M: Any, w: Any, at: Any, n: Any, k: Any, scratch: Any, y: Any, threads: Any
    ) -> None:
        inner(w, at, n, k, scratch, y, threads)

    return implementation


def _recipe(fmt: Any, act: Any, m: Any) -> Recipe | None:
    values = [literal_value(v) for v in (fmt, act, m)]
    return None if None in values else choose(*values)


@cache
def linear_kernel(FMT: str, ACT: str, M: int) -> Any:
    """One Linear, cached on disk: run(w, at, n, k, x, scratch, y, threads) with x flat float32 [M·k]."""

    @kernel()
    def run(w: Any, at: Any, n: Any, k: Any, x: Any, scratch: Any, y: Any, threads: Any) -> None:
        prepare(FMT, ACT, M, x, 0, k, k, scratch)
        multiply(FMT, ACT, M, w, at, n, k, scratch, y, threads)

    return run
