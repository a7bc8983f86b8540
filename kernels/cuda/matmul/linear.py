"""y[m, n] = x[m, k] · W[n, k]ᵀ on a GPU: which kernel, its grid and its arguments.

>>> plan = plan_linear("int4g32", n=4096, k=4096, m=1, multiprocessors=gpu.multiprocessors)
>>> matrix = upload(gpu, [weight])                                  # packed once
>>> launches = bind_linear(gpu, plan, matrix, x, y, scratch)        # in order, each `.start()`ed every time

x is float32 [m, plan.padded_k], zeros behind column k; y float32 [m, stride], of which n columns are written.
`scratch` is memory of plan.scratch_words uint32 that may be shared by all products of a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from membound.kernels.cuda.compile import WARP, Kernel, cuda
from membound.kernels.cuda.device.gpu import Array, Gpu, Launch
from membound.kernels.cuda.matmul.dot import FORMATS as DOT_FORMATS
from membound.kernels.cuda.matmul.dot import Dot, dot_kernel
from membound.kernels.cuda.matmul.operands import WIDE_COLUMNS, is_half, operands
from membound.kernels.cuda.matmul.pack import ROWS, pack, padded_columns, padded_rows
from membound.kernels.cuda.matmul.tensor import MOST_SHARED_BYTES, Tensor, tensor_kernel
from membound.kernels.cuda.ptx import MOST_STAGES, as_f32, load4, pack_bf16, pack_f16, store4
from membound.kernels.weights.formats import FORMATS, Weight

WEIGHT_FORMATS = ("f32", "bf16", "f16", "int8", "int4g32", "int4g128")
"""What the kernels take."""
DOT_ROWS = 4
"""Up to as many rows of x ordinary arithmetic keeps up with the memory (dot.py)."""
ROWS_SHARE_X = 3
"""With one row of W a warp, a row of x takes 38 wavefronts of the first-level cache for each KB of 16-bit W, three 64 and four 80;
with two 27, 40 and 48, with four 22, 28 and 32. An H100 has 79 cycles for a KB, an H200 55 and a B200 43."""
TILES_SHARE_X = 3
"""From so many tiles of x on a warp takes two of W: 64 rows of x take 48 wavefronts of the first-level cache for each KB of
bfloat16 W with one, 80 of int8 and 144 of int4; 32, 48 and 80 with two."""
LEAST_STAGES = 3
"""With fewer, a warp that takes two tiles has less under way than memory needs."""
WIDE_TILES, LEAST_TURNS = 2, 4
"""Integers take twice the columns a turn with up to 16 rows of x, where that leaves a warp LEAST_TURNS of them. With more rows they are
more operands than fit the registers beside the sums."""
MOST_TILES = 8
"""Tiles of eight rows of x at a time: their sums must stay in registers."""
WARPS_PER_MULTIPROCESSOR = 16
"""Enough bytes in flight: 16 warps · RING_BYTES is four times what a latency of 0.8 µs needs at 3.35 TB/s."""
RING_BYTES = 6 << 10
"""Of each warp; twice as much where many rows of x leave registers for few warps."""
BLOCK_WARPS = 4
MOST_COLUMN_WARPS = 8
_ROUND_THREADS = 256


@dataclass(frozen=True, slots=True)
class Plan:
    """How one product is computed; depends on nothing but shapes and the number of multiprocessors."""

    format: str
    n: int
    k: int
    m: int
    variant: Tensor | Dot

    @property
    def padded_k(self) -> int:
        """Elements from row to row of x."""
        return padded_columns(self.k, self.format)

    @property
    def rounds(self) -> bool:
        """Whether a separate launch rounds x to 16 bits first."""
        return isinstance(self.variant, Tensor) and self.variant.packed

    @property
    def scratch_words(self) -> int:
        """uint32 that the rounded x takes; 0 where none is."""
        return self.m * self.padded_k // 2 if self.rounds else 0

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """What is launched, in order."""
        variant = self.variant
        product = tensor_kernel(variant) if isinstance(variant, Tensor) else dot_kernel(variant)
        return (round_kernel(is_half(self.format)), product) if self.rounds else (product,)


@dataclass(frozen=True, slots=True)
class Matrix:
    """W on a GPU: one matrix, or several set below each other."""

    format: str
    n: int
    k: int
    values: Array
    scales: Array

    @property
    def stored_bytes(self) -> int:
        """What one product streams, padding included."""
        return self.values.size_bytes + (self.scales.size_bytes if self.format not in DOT_FORMATS else 0)


def unsupported(weight: str, act: str) -> str | None:
    """Why a product with these weights and this arithmetic cannot be computed, or None."""
    if weight not in WEIGHT_FORMATS:
        return f"there is no CUDA kernel over {weight} weights"
    return "the CUDA kernels have no int8 × int8 products" if act == "int8" else None


def is_dot(fmt: str, m: int) -> bool:
    """Whether ordinary arithmetic multiplies m rows of x by such weights; norms and activations can go with it."""
    return fmt == "f32" or (m <= DOT_ROWS and fmt in DOT_FORMATS)


@cache
def plan_linear(
    fmt: str,
    n: int,
    k: int,
    m: int,
    multiprocessors: int,
    accumulate: bool = False,
    normed: bool = False,
    finish: str = "",
) -> Plan:
    """The plan of a product. Any n, k and m are right; m up to 64 reads W once.

    `normed` and `finish` as in Dot. Raises ValueError where `is_dot` says that they cannot go with it.
    """
    if is_dot(fmt, m):
        dot = _plan_dot(fmt, n, m, multiprocessors, accumulate, normed, finish)
        return Plan(fmt, n, k, m, dot)
    if normed or finish:
        raise ValueError(
            f"{m} rows of x and {fmt} weights are for tensor cores: norms and activations stand alone"
        )
    tiles = min(MOST_TILES, -(-m // 8))
    one, two = (_tensor(fmt, n, k, tiles, multiprocessors, accumulate, row_tiles) for row_tiles in (1, 2))
    wanted = WARPS_PER_MULTIPROCESSOR * multiprocessors
    warps = padded_rows(n) // ROWS // 2 * two.column_warps
    whole = padded_rows(n) // ROWS % 2 == 0
    ready = two.fits and two.stages >= LEAST_STAGES
    shared = tiles >= TILES_SHARE_X and whole and warps >= wanted and ready
    return Plan(fmt, n, k, m, two if shared else one)


def _tensor(
    fmt: str, n: int, k: int, tiles: int, multiprocessors: int, accumulate: bool, row_tiles: int
) -> Tensor:
    """Warps that share columns of W until there are enough, and a ring as long as they leave room for."""
    count = max(1, padded_rows(n) // ROWS // row_tiles)
    column_warps = 1
    while (
        column_warps < MOST_COLUMN_WARPS and count * column_warps < WARPS_PER_MULTIPROCESSOR * multiprocessors
    ):
        column_warps *= 2
    row_warps = max(1, BLOCK_WARPS // column_warps)
    while count % row_warps:
        row_warps //= 2
    ring = min(RING_BYTES if tiles <= 2 else 2 * RING_BYTES, MOST_SHARED_BYTES // (row_warps * column_warps))
    units, rest = divmod(padded_columns(k, fmt), WIDE_COLUMNS)
    long = not rest and units >= LEAST_TURNS * column_warps
    wide = FORMATS[fmt].bits < 16 and tiles <= WIDE_TILES and long
    stages = min(MOST_STAGES, ring // (operands(fmt, wide).words * 4 * WARP * row_tiles))
    return Tensor(fmt, tiles, row_warps, column_warps, stages, tiles > 1, accumulate, row_tiles, wide)


def _plan_dot(
    fmt: str, n: int, m: int, multiprocessors: int, accumulate: bool, normed: bool, finish: str
) -> Dot:
    """Four rows of 16 bits a warp, two of float32, where that leaves enough warps, even if several share the columns of a row; else
    one, and more warps on the same row.

    Each row of W reads x again, from the first-level cache, and a gain like a row of x: ROWS_SHARE_X of them are worth fewer warps.
    """
    wanted = WARPS_PER_MULTIPROCESSOR * multiprocessors
    most, enough = (2, 2 * wanted) if fmt == "f32" else (4, wanted)
    rows = most if n >= enough or m + normed >= ROWS_SHARE_X or finish == "silu" else 1
    column_warps = 1
    while column_warps < BLOCK_WARPS and n // rows * column_warps < wanted:
        column_warps *= 2
    stages = min(MOST_STAGES, RING_BYTES // (rows * 16 * WARP))
    row_warps, x_rows = BLOCK_WARPS // column_warps, min(m, DOT_ROWS)
    return Dot(fmt, x_rows, rows, row_warps, column_warps, stages, accumulate, normed=normed, finish=finish)


def upload(gpu: Gpu, weights: Sequence[Weight]) -> Matrix:
    """Pack matrices of one format and k, set below each other, into the GPU's memory."""
    values, scales = pack(weights)
    return Matrix(
        weights[0].format,
        sum(weight.n for weight in weights),
        weights[0].k,
        gpu.array(values),
        gpu.array(np.zeros(4, np.uint32) if scales is None else scales),
    )


def bind_linear(
    gpu: Gpu, plan: Plan, matrix: Matrix, x: Any, y: Any, scratch: Any = None, stride: int = 0
) -> list[Launch]:
    """The launches of a product, in order. `stride`: elements from row to row of y; 0 for n."""
    if (matrix.format, matrix.n, matrix.k) != (plan.format, plan.n, plan.k):
        raise ValueError(f"a plan for {plan} does not fit W [{matrix.n}, {matrix.k}] in {matrix.format}")
    launches, kernels = [], plan.kernels
    if plan.rounds:
        groups = plan.m * plan.padded_k // 8
        launches.append(gpu.bind(kernels[0], -(-groups // _ROUND_THREADS), (x, scratch, groups)))
        x = scratch
    grid = plan.variant.grid(padded_rows(plan.n), plan.m)
    arguments = (matrix.values, matrix.scales, x, y, plan.n, plan.padded_k, plan.m, stride or plan.n)
    return [*launches, gpu.bind(kernels[-1], grid, arguments)]


@cache
def round_kernel(half: bool) -> Kernel:
    """float32 to pairs of float16 (`half`) or bfloat16, eight elements a thread."""
    pair = pack_f16 if half else pack_bf16

    def round_x(x: Any, packed: Any, groups: Any) -> None:
        i = cuda.grid(1)
        if i < groups:
            a, b, c, d = load4(x, 8 * i)
            e, f, g, h = load4(x, 8 * i + 4)
            store4(
                packed,
                4 * i,
                pair(as_f32(a), as_f32(b)),
                pair(as_f32(c), as_f32(d)),
                pair(as_f32(e), as_f32(f)),
                pair(as_f32(g), as_f32(h)),
            )

    return Kernel(f"round_{'f16' if half else 'bf16'}", round_x, ("u32*", "u32*", "i32"), _ROUND_THREADS)
