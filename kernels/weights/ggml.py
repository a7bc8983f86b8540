"""ggml's types as GGUF files hold them: Q8_0 and Q4_0, blocks of 32 numbers with a float16 scale, and Q4_K and Q6_K.

>>> values, scales = quantize_q8_0(np.ones((2, 64), np.float32))
>>> values.shape, scales.shape, blocks(values, scales).shape
((2, 64), (2, 2), (2, 68))

A block of Q8_0 is its scale and 32 int8, 34 bytes. One of Q4_0 is its scale and 16 bytes, 18 in all: byte i holds number i in
its low and number 16 + i in its high half, each stored as q + 8. Source: ggml-org/llama.cpp, ggml/src/ggml-common.h
(block_q8_0 and so on) and ggml-quants.c (quantize_row_q8_0_ref, quantize_row_q4_0_ref, dequantize_row_q4_K, …_q6_K).
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


QUANTIZERS: dict[str, Callable[[F32], Arrays]] = {"q8_0": quantize_q8_0, "q4_0": quantize_q4_0}


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
    parts = rows.reshape(-1, 144)
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
