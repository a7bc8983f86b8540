"""Numbers that share a scale by groups: how they are rounded, and what their codes mean.

>>> values, scales = quantize_int4(np.ones((2, 64), np.float32), 32)
>>> values.shape, scales.shape
((2, 32), (2, 2))

int4 with and without zero points, e4m3 in blocks of 128 × 128 (DeepSeek-V3, arXiv 2412.19437, section 3.3.2), and MXFP4 (OCP
Microscaling Formats 1.0, section 5.3: e2m1 with a power of two for 32 numbers, as gpt-oss stores its experts).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.weights import fp8

F32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Arrays = tuple[npt.NDArray[np.generic], ...]

BLOCK = 128
"""Columns of a block of e4m3 numbers."""
MX_GROUP = 32
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
"""The numbers of codes 0 to 7; the fourth bit is the sign."""
E2M1_VALUES = np.concatenate([E2M1, -E2M1])
E2M1_TOP = 2
"""The exponent of the largest number, 6 = 1.5 · 2²."""
EXPONENT_BIAS = 127


def quantize_int4(w: F32, group: int) -> Arrays:
    """Nibbles of q + 8 [n, k/2] and float16 scales [n, k/group], symmetric, from the largest magnitude."""
    groups = w.reshape(len(w), -1, group)
    scales = (np.maximum(np.abs(groups).max(2), np.float32(1e-6)) / np.float32(8)).astype(np.float16)
    q = np.clip(np.rint(groups / scales.astype(np.float32)[:, :, None]) + 8, 0, 15)
    return pack_int4(q.astype(np.uint8).reshape(w.shape)), scales


def quantize_int4_zeros(w: F32, group: int) -> Arrays:
    """Nibbles [n, k/2], float16 scales and uint8 zero points [n, k/group]: the range of a group with zero in it, in 15 steps."""
    groups = w.reshape(len(w), -1, group)
    low, high = np.minimum(groups.min(2), 0), np.maximum(groups.max(2), 0)
    scales = (np.maximum(high - low, np.float32(1e-6)) / np.float32(15)).astype(np.float16)
    step = scales.astype(np.float32)
    zeros = np.clip(np.rint(-low / step), 0, 15)
    q = np.clip(np.rint(groups / step[:, :, None]) + zeros[:, :, None], 0, 15)
    return pack_int4(q.astype(np.uint8).reshape(w.shape)), scales, zeros.astype(np.uint8)


def quantize_fp8(w: F32, rows: int) -> Arrays:
    """Codes of e4m3 [n, k] and float32 scales [⌈n/rows⌉, k/128]: the largest number of a block becomes 448."""
    n, k = w.shape
    padded = np.pad(np.abs(w), ((0, -n % rows), (0, 0))).reshape(-1, rows, k // BLOCK, BLOCK)
    scales = np.maximum(padded.max((1, 3)), np.float32(1e-12)) / np.float32(fp8.LARGEST)
    by_row = np.repeat(scales, rows, axis=0)[:n]
    return fp8.encode(w / np.repeat(by_row, BLOCK, axis=1)), scales


def quantize_mxfp4(w: F32) -> Arrays:
    """Codes of e2m1, two a byte [n, k/2], and exponents uint8 [n, k/32]: ⌊log2 of the largest⌋ − 2, as OCP has it."""
    groups = w.reshape(len(w), -1, MX_GROUP)
    largest = np.abs(groups).max(2)
    exponents = np.frexp(largest)[1] - 1 - E2M1_TOP
    stored = np.clip(np.where(largest > 0, exponents + EXPONENT_BIAS, 1), 1, 254).astype(np.uint8)
    numbers = groups / power_of_two(stored)[:, :, None]
    middles = (E2M1[:-1] + E2M1[1:]) / 2
    size = np.abs(numbers)
    below, above = np.searchsorted(middles, size, "left"), np.searchsorted(middles, size, "right")
    codes = np.where(below % 2 == 0, below, above) | np.where(np.signbit(numbers), 8, 0)
    return pack_int4(codes.astype(np.uint8).reshape(w.shape)), stored


def mxfp4_values(packed: Bytes) -> F32:
    """float32 numbers [n, k] of codes [n, k/2], without their scales."""
    return E2M1_VALUES[unpack_int4(packed)]


def power_of_two(exponents: npt.NDArray[Any]) -> F32:
    """2^(e − 127) of stored exponents e."""
    return np.ldexp(np.float32(1), exponents.astype(np.int32) - EXPONENT_BIAS)


def scaled(values: F32, scales: F32) -> F32:
    """Numbers [n, k] times the scale of their group, [n, groups]."""
    grouped: F32 = values.reshape(*scales.shape, -1) * scales[:, :, None]
    return grouped.reshape(values.shape)


def pack_int4(q: Bytes) -> Bytes:
    """Bytes 0..15 [n, k] to nibbles [n, k/2], the even column in the low half."""
    packed: Bytes = q[:, 0::2] | (q[:, 1::2] << np.uint8(4))
    return packed


def unpack_int4(packed: Bytes) -> Bytes:
    """Nibbles [n, k/2] to bytes 0..15 [n, k]."""
    out = np.empty((packed.shape[0], 2 * packed.shape[1]), np.uint8)
    out[:, 0::2] = packed & 15
    out[:, 1::2] = packed >> 4
    return out
