"""Products of experts with their rows: one parallel region over (block, panel), in which every thread has an equal share.

>>> blocks = block_kernels("bf16", "float", "1+2")      # for blocks of one row and of two
>>> blocks.gather, blocks.multiply, blocks.activate

A thread's share is a range of panels that may begin within an expert and end within another, so that no thread
idles however few experts there are, and each streams as many bytes as the others.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.activations import make_prepare
from membound.kernels.cpu.matmul.linear import panel_share
from membound.kernels.cpu.matmul.mixed_panels import by_number, pick_share
from membound.kernels.cpu.matmul.recipe import Recipe, choose
from membound.kernels.cpu.step.elementwise import activate


class BlockKernels(NamedTuple):
    """Compiled functions; blocks as `routes.Blocks`, `of` of them, scratch and results `…_stride` apart.

    gather(x, width, chosen, blocks, of, rows, row_stride, scratch, scratch_stride): each block's rows of x, prepared.
    multiply(w, starts, column, blocks, of, n, k, scratch, scratch_stride, y, y_stride, threads): of matrices [n, k] at starts[expert, column].
    activate(y, y_stride, line, width, blocks, of, rows, row_stride, scratch, scratch_stride): silu(gate) · up of y, prepared.
    """

    gather: Any
    multiply: Any
    activate: Any


def sizes_of(text: str) -> list[int]:
    """``1+2+8`` as [1, 2, 8]: rows of blocks, rising."""
    return sorted({int(size) for size in text.split("+")})


@cache
def block_recipes(fmt: str, act: str, sizes: str) -> tuple[Recipe, ...]:
    """A recipe for each size, all of one layout: where one of them takes matrix tiles, the others do, too."""
    rows = sizes_of(sizes)
    chosen = [choose(fmt, act, m) for m in rows]
    if any(recipe.method == "tile" for recipe in chosen):
        if any(m > 4 and recipe.method != "tile" for m, recipe in zip(rows, chosen, strict=True)):
            raise AssertionError("blocks of more rows than matrix tiles take")
        chosen = [replace(choose(fmt, act, max(m, 5)), m=m) for m in rows]
    return tuple(chosen)


@cache
def block_kernels(fmt: str, act: str, sizes: str) -> BlockKernels:
    """The kernels for blocks of these sizes (``1+2``)."""
    recipes = block_recipes(fmt, act, sizes)
    prepare = by_number([(r.m, make_prepare(r, shared=False)) for r in recipes], _pick_prepare)
    share = by_number([(r.m, panel_share(r)) for r in recipes], pick_share)
    return BlockKernels(_gather(prepare), _multiply(recipes[0].panel_rows, share), _activate(prepare))


def _pick_prepare(SIZE: int, this: Any, others: Any) -> Any:
    if others is None:

        @linked
        def only(size: Any, x: Any, at: Any, stride: Any, k: Any, scratch: Any) -> None:
            this(x, at, stride, k, scratch)

        return only

    @linked
    def prepare(size: Any, x: Any, at: Any, stride: Any, k: Any, scratch: Any) -> None:
        if size == SIZE:
            this(x, at, stride, k, scratch)
        else:
            others(size, x, at, stride, k, scratch)

    return prepare


def _gather(prepare: Any) -> Any:
    @linked(parallel=True)
    def gather(
        x: Any, width: Any, chosen: Any, blocks: Any, of: Any,
        rows: Any, row_stride: Any, scratch: Any, scratch_stride: Any,
    ) -> None:  # fmt: skip
        firsts, used, sizes, pairs = (
            blocks.first,
            blocks.used,
            blocks.size,
            blocks.pairs,
        )  # no tuple enters a thread
        for t in prange(of):
            i = np.intp(t)
            held = rows[i * row_stride :]
            for j in range(
                sizes[i]
            ):  # a block that is not full repeats its last row, of which the result is dropped
                row = pairs[firsts[i] + min(j, used[i] - 1)] // chosen
                held[j * width : (j + 1) * width] = x[row * width : (row + 1) * width]
            prepare(sizes[i], held, 0, width, width, scratch[i * scratch_stride : (i + 1) * scratch_stride])

    return gather


def _activate(prepare: Any) -> Any:
    @linked(parallel=True)
    def activate_blocks(
        y: Any, y_stride: Any, line: Any, width: Any, blocks: Any, of: Any,
        rows: Any, row_stride: Any, scratch: Any, scratch_stride: Any,
    ) -> None:  # fmt: skip
        sizes = blocks.size
        for t in prange(of):
            i = np.intp(t)
            held = rows[i * row_stride :]
            for j in range(sizes[i]):
                activate(True, False, y, i * y_stride + j * line, width, held[j * width : (j + 1) * width])
            prepare(sizes[i], held, 0, width, width, scratch[i * scratch_stride : (i + 1) * scratch_stride])

    return activate_blocks


def _multiply(panel_rows: int, share: Any) -> Any:
    PANEL_ROWS = panel_rows

    @linked(parallel=True)
    def multiply(
        w: Any, starts: Any, column: Any, blocks: Any, of: Any, n: Any, k: Any,
        scratch: Any, scratch_stride: Any, y: Any, y_stride: Any, threads: Any,
    ) -> None:  # fmt: skip
        experts, sizes = blocks.expert, blocks.size
        panels = (n + PANEL_ROWS - 1) // PANEL_ROWS
        total = of * panels
        for t in prange(threads):
            at, last = np.intp(t) * total // threads, (np.intp(t) + 1) * total // threads
            while at < last:
                i = at // panels
                first = at - i * panels
                end = min(panels, first + last - at)
                share(
                    sizes[i], w, starts[experts[i], column], panels, first, end, k,
                    scratch[i * scratch_stride :], y[i * y_stride :], panels * PANEL_ROWS,
                )  # fmt: skip
                at += end - first

    return multiply
