"""ggml's types as GGUF files hold them: Q8_0 and Q4_0, blocks of 32 numbers with a float16 scale, and Q4_K and Q6_K.

>>> values, scales = quantize_q8_0(np.ones((2, 64), np.float32))
>>> values.shape, scales.shape, blocks(values, scales).shape
((2, 64), (2, 2), (2, 68))

A block of Q8_0 is its scale and 32 int8, 34 bytes. One of Q4_0 is its scale and 16 bytes, 18 in all: byte i holds number i in
its low and number 16 + i in its high half, each stored as q + 8. Source: ggml-org/llama.cpp, ggml/src/ggml-common.h
(block_q8_0 and so on) and ggml-quants.c (quantize_row_q8_0_ref, …_q4_0_ref, …_q4_K_ref, dequantize_row_q4_K, …_q6_K).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Arrays = tuple[npt.NDArray[np.generic], ...]

BLOCK = 32
"""Numbers of a block."""
SUPER, SUPER_BYTES = 256, 144
"""Numbers of a super-block, and bytes of one of Q4_K."""
LARGEST_SMALL, LARGEST_HALF = 63, np.float32(65504)
"""The largest scale of six bits, and of float16."""
LEAST_SPREAD = 2.0**-80
"""Groups whose numbers lie nearer to each other are taken as one number: float16 scales end at 2⁻²⁴."""
SEARCHED = 1 << 12
"""Groups of 32 that are searched together: an array of them is half a megabyte."""


def quantize_q8_0(w: F32) -> Arrays:
    """int8 values [n, k] and float16 scales [n, k/32] of float32 [n, k], rounded as ggml does: halves away from zero."""
    grouped = _grouped(w)
    scales = np.abs(grouped).max(2, keepdims=True) / np.float32(127)
    scaled = grouped * _inverse(scales)
    size = np.abs(scaled)
    floor = np.floor(size)
    away = np.sign(scaled) * (floor + np.floor(np.float32(2) * (size - floor)))
    return away.astype(np.int8).reshape(w.shape), scales[:, :, 0].astype(np.float16)


def quantize_q4_0(w: F32) -> Arrays:
    """Nibbles uint8 [n, k/2] in the order of ggml's blocks and float16 scales [n, k/32] of float32 [n, k].

    The number of the largest magnitude becomes −8, whatever its sign: the scale may be negative.
    """
    grouped = _grouped(w)
    largest = np.take_along_axis(grouped, np.abs(grouped).argmax(2)[:, :, None], axis=2)
    scales = largest / np.float32(-8)
    scaled = grouped.astype(np.float64) * _inverse(scales).astype(np.float64)
    q = np.minimum(np.trunc(scaled + 8.5), 15).astype(np.uint8)
    half = BLOCK // 2
    packed = q[:, :, :half] | (q[:, :, half:] << 4)
    return packed.reshape(len(w), -1), scales[:, :, 0].astype(np.float16)


def quantize_q4_k(w: F32) -> Arrays:
    """Super-blocks of Q4_K uint8 [n, k/256 · 144] of float32 [n, k], as `parts_of_q4_k` reads them.

    Scales and least values are ggml's, found by weighted least squares over 21 ranges of each group of 32, in float32 and the
    order of its sums. Where a group's scale rounds to 0, its numbers mean nothing and are 0.
    """
    columns = w.reshape(-1, BLOCK).T
    found = [_search(columns[:, at : at + SEARCHED]) for at in range(0, columns.shape[1], SEARCHED)]
    scales, leasts = (np.concatenate(each).reshape(-1, SUPER // BLOCK) for each in zip(*found, strict=True))
    heads, small = zip(*(_six_bits(one) for one in (scales, leasts)), strict=True)
    steps, lows = (head.astype(np.float32) * six for head, six in zip(heads, small, strict=True))
    numbers = w.reshape(*steps.shape, BLOCK) + lows[:, :, None]
    np.divide(numbers, steps[:, :, None], out=numbers, where=steps[:, :, None] != 0)
    numbers[steps == 0] = 0
    q = np.clip(np.rint(numbers), 0, 15).astype(np.uint8).reshape(-1, 4, 2, BLOCK)
    out = np.empty((len(scales), SUPER_BYTES), np.uint8)
    out[:, :4] = np.concatenate(heads, axis=1).view(np.uint8)
    first, last = zip(*((six[:, :4], six[:, 4:]) for six in small), strict=True)
    for part in (0, 1):
        out[:, 4 + 4 * part : 8 + 4 * part] = first[part] | (last[part] >> 4 << 6)
    out[:, 12:16] = (last[0] & 15) | (last[1] << 4)
    out[:, 16:] = (q[:, :, 0] | (q[:, :, 1] << 4)).reshape(-1, SUPER // 2)
    return (out.reshape(len(w), -1),)


def _six_bits(values: F32) -> tuple[npt.NDArray[np.float16], Bytes]:
    """float16 [blocks, 1] and numbers up to 63 [blocks, 8] whose products are near the values, none of them negative."""
    largest = values.max(1, keepdims=True)
    scaled = values * np.divide(LARGEST_SMALL, largest, out=np.zeros_like(largest), where=largest > 0)
    six = np.minimum(np.rint(scaled), LARGEST_SMALL).astype(np.uint8)
    return np.minimum(largest / np.float32(LARGEST_SMALL), LARGEST_HALF).astype(np.float16), six


def _search(x: F32) -> tuple[F32, F32]:
    """The scale and minus the least value of each column of x [32, groups]: ggml's make_qkx2_quants with 0..15.

    Each range starts from the best least value so far.
    """
    x = np.ascontiguousarray(x)
    weights = np.sqrt((x * x).sum(0) / np.float32(BLOCK)) + np.abs(x)
    total, sum_x = weights.sum(0), (weights * x).sum(0)
    low, largest = np.minimum(x.min(0), 0), x.max(0)
    flat, flat_low = largest - low < LEAST_SPREAD, low
    largest = np.where(flat, low + np.maximum(-low, 1), largest)
    inverse = np.float32(15) / (largest - low)
    scale = np.float32(1) / inverse
    error = _error(x, weights, _numbers(x, inverse, low), scale, low)
    for step in range(21):
        top = np.float32(-1) + np.float32(0.1) * np.float32(step) + np.float32(15)
        q = _numbers(x, top / (largest - low), low)
        weighted = weights * q
        sum_q, sum_q2, sum_xq = weighted.sum(0), (weighted * q).sum(0), (weighted * x).sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            size = total * sum_q2 - sum_q * sum_q
            its_scale = (total * sum_xq - sum_x * sum_q) / size
            its_low = (sum_q2 * sum_x - sum_q * sum_xq) / size
            above = its_low > 0
            its_scale = np.where(above, sum_xq / sum_q2, its_scale)
            its_low = np.where(above, np.float32(0), its_low)
            its_error = _error(x, weights, q, its_scale, its_low)
        better = (size > 0) & (its_error < error)
        scale, low = np.where(better, its_scale, scale), np.where(better, its_low, low)
        error = np.where(better, its_error, error)
    return np.where(flat, np.float32(0), scale), -np.where(flat, flat_low, low)


def _numbers(x: F32, inverse: F32, low: F32) -> F32:
    """Whole numbers from 0 to 15 that stand for x."""
    q: F32 = np.clip(np.rint(inverse * (x - low)), 0, 15)
    return q


def _error(x: F32, weights: F32, q: F32, scale: F32, low: F32) -> F32:
    """Weighted squares of what scale · q + low differs from x by, of each column."""
    off = scale * q + low - x
    total: F32 = (weights * (off * off)).sum(0)
    return total


QUANTIZERS: dict[str, Callable[[F32], Arrays]] = {
    "q8_0": quantize_q8_0,
    "q4_0": quantize_q4_0,
    "q4_k": quantize_q4_k,
}


def neighbours(packed: Bytes) -> Bytes:
    """Nibbles [n, k/2] in the order of ggml's blocks to ones in which columns 2i and 2i + 1 share byte i, low half first."""
    halves = packed.reshape(len(packed), -1, BLOCK // 2)
    q = np.concatenate([halves & 15, halves >> 4], axis=2)
    pairs: Bytes = q[:, :, 0::2] | (q[:, :, 1::2] << 4)
    return pairs.reshape(packed.shape)


def blocks(values: npt.NDArray[Any], scales: npt.NDArray[Any]) -> Bytes:
    """Rows of blocks [n, bytes of a row], as a file holds them, of the arrays of a `Weight`."""
    n, count = scales.shape
    heads = np.ascontiguousarray(scales).view(np.uint8).reshape(n, count, 2)
    bodies = np.ascontiguousarray(values).view(np.uint8).reshape(n, count, -1)
    return np.concatenate([heads, bodies], axis=2).reshape(n, -1)


def from_blocks(rows: Bytes, kind: str) -> Arrays:
    """Values and scales of rows of blocks, as `QUANTIZERS[kind]` gives them."""
    size = {"q8_0": 34, "q4_0": 18}[kind]
    parts = rows.reshape(len(rows), -1, size)
    scales = np.ascontiguousarray(parts[:, :, :2]).view(np.float16)[:, :, 0]
    values = np.ascontiguousarray(parts[:, :, 2:]).reshape(len(rows), -1)
    return (values.view(np.int8) if kind == "q8_0" else values), np.ascontiguousarray(scales)


def _grouped(w: F32) -> F32:
    return w.reshape(len(w), -1, BLOCK)


def _inverse(scales: F32) -> F32:
    """1 / scale, 0 where it is 0."""
    return np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)


def parts_of_q4_k(rows: Bytes) -> tuple[npt.NDArray[np.float16], Bytes, Bytes]:
    """Of rows of Q4_K, 256 numbers in 144 bytes, eight groups of 32 with a scale and a least value of six bits each.

    float16 [n, blocks, 2], the scale of a block and minus that of its least values; its scales, then its least values [n, blocks, 16];
    its numbers from 0 to 15 [n, k].
    """
    parts = rows.reshape(-1, SUPER_BYTES)
    heads = np.ascontiguousarray(parts[:, :4]).view(np.float16) * np.array([1, -1], np.float16)
    first, second, high = (parts[:, at : at + 4] for at in (4, 8, 12))
    scales = np.concatenate([first & 63, (high & 15) | ((first >> 2) & 48)], axis=1)
    leasts = np.concatenate([second & 63, (high >> 4) | ((second >> 2) & 48)], axis=1)
    halves = parts[:, 16:].reshape(-1, 4, 1, BLOCK)
    q = np.concatenate([halves & 15, halves >> 4], axis=2)
    small = np.concatenate([scales, leasts], axis=1)
    return heads.reshape(len(rows), -1, 2), small.reshape(len(rows), -1, 16), q.reshape(len(rows), -1)


def parts_of_q6_k(rows: Bytes) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """Of rows of Q6_K, 256 numbers in 210 bytes, sixteen groups of 16 with an int8 scale.

    float16 [n, blocks, 1], the scale of a block; those of its groups [n, blocks, 16]; its numbers from −32 to 31 [n, k].
    """
    parts = rows.reshape(-1, 210)
    low = parts[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8)[:, None]
    high = parts[:, 128:192].reshape(-1, 2, 1, BLOCK) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    q = (low & 15).reshape(-1, 8, BLOCK) | ((high & 3) << 4).reshape(-1, 8, BLOCK)
    scales = np.ascontiguousarray(parts[:, 192:208]).view(np.int8)
    d = np.ascontiguousarray(parts[:, 208:]).view(np.float16)
    numbers = q.astype(np.int8) - np.int8(32)
    return d.reshape(len(rows), -1, 1), scales.reshape(len(rows), -1, 16), numbers.reshape(len(rows), -1)


PARTED: dict[str, Callable[[Bytes], Arrays]] = {"q4_k": parts_of_q4_k, "q6_k": parts_of_q6_k}


def widen_q4_k(rows: Bytes) -> F32:
    """float32 [n, k] of rows of Q4_K."""
    heads, small, q = parts_of_q4_k(rows)
    d, least = (heads[..., i : i + 1].astype(np.float32) for i in (0, 1))
    groups = q.reshape(*small.shape[:2], 8, BLOCK).astype(np.float32)
    widened: F32 = (d * small[..., :8])[..., None] * groups + (least * small[..., 8:])[..., None]
    return widened.reshape(len(rows), -1)


def widen_q6_k(rows: Bytes) -> F32:
    """float32 [n, k] of rows of Q6_K."""
    d, scales, q = parts_of_q6_k(rows)
    groups = q.reshape(*scales.shape, 16).astype(np.float32)
    widened: F32 = (d.astype(np.float32) * scales)[..., None] * groups
    return widened.reshape(len(rows), -1)


WIDENED: dict[str, Callable[[Bytes], F32]] = {"q4_k": widen_q4_k, "q6_k": widen_q6_k}
