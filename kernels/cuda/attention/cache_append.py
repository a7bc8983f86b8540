"""From the projections of a new token to rotated queries and a longer cache, in one kernel: a warp a head.

    kernel = append_kernel(Append("bf16", head_dim=128, bias=False, norm=False))
    launch(kernel, batch * (q_heads + 2 * kv_heads), (heads, bias, gains, turns, q, k, v, k_scales, v_scales, …))

Bias, norm of each head, RoPE and the rounding to the cache's format, as membound.kernels.reference does them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from membound.kernels.cuda import ptx
from membound.kernels.cuda.compile import WARP, Kernel, cuda, device
from membound.kernels.cuda.step.elementwise import warp_max, warp_sum

_INTEGERS = np.float32(12582912)
"""1.5 · 2^23: added to a number within ±2^22 it leaves that number, rounded to nearest even, in the low bits."""
_BYTE = np.uint32(0xFF)
_HALF = np.uint32(0xFFFF)


@dataclass(frozen=True, slots=True)
class Append:
    """One variant: the cache's format out of cache_formats.BITS, and what a model has besides RoPE."""

    kv: str
    head_dim: int
    bias: bool
    norm: bool

    @property
    def name(self) -> str:
        """What compiled code is found by."""
        return (
            f"append_{self.kv}_d{self.head_dim}{'_bias' if self.bias else ''}{'_norm' if self.norm else ''}"
        )

    @property
    def element(self) -> str:
        """The kernel's type of a number in the cache."""
        return "u8" if self.kv in ("int8", "fp8") else "u16"


@cache
def append_kernel(variant: Append) -> Kernel:
    """q rotated; k rotated and v written behind the cache's `position` tokens.

    Arguments: heads float32 [B, Hq + 2·Hkv, D], q, k, v as the matrices give them; bias [Hq + 2·Hkv, D];
    gains [2, D] of q's and k's norm; turns [2, D / 2], cos and sin of the position's angles; q float32
    [B, Hq, D]; k and v in the cache's format, [B, Hkv, room, D]; their scales [B, Hkv, room] for int8, any
    array else; q_heads, kv_heads, position, room, eps. Grid: B · (Hq + 2·Hkv).
    """
    D, HALF, SCALED = variant.head_dim, variant.head_dim // 2, variant.kv == "int8"
    EACH = -(-HALF // WARP)
    load, normalise, rotate, keep = _loader(variant), _normer(variant), _rotator(variant), _keeper(variant)

    def append(
        heads: Any,
        bias: Any,
        gains: Any,
        turns: Any,
        q: Any,
        k: Any,
        v: Any,
        k_scales: Any,
        v_scales: Any,
        q_heads: Any,
        kv_heads: Any,
        position: Any,
        room: Any,
        eps: Any,
    ) -> None:
        first, second = cuda.local.array(EACH, np.float32), cuda.local.array(EACH, np.float32)
        all_heads = q_heads + 2 * kv_heads
        row, head = np.int64(cuda.blockIdx.x // all_heads), cuda.blockIdx.x % all_heads
        load(heads, bias, head, first, second)
        if head < q_heads + kv_heads:
            normalise(gains, D if head >= q_heads else 0, eps, first, second)
            rotate(turns, first, second)
        largest = np.float32(0)
        if SCALED:
            for j in range(EACH):
                largest = max(largest, max(abs(first[j]), abs(second[j])))
            largest = warp_max(largest)
        if head < q_heads:
            to = (row * q_heads + head) * D + cuda.threadIdx.x
            for j in range(EACH):
                if cuda.threadIdx.x + WARP * j < HALF:
                    q[to + WARP * j], q[to + WARP * j + HALF] = first[j], second[j]
        elif head < q_heads + kv_heads:
            token = (row * kv_heads + head - q_heads) * room + position
            keep(k, k_scales, token, first, second, largest / np.float32(127))
        else:
            token = (row * kv_heads + head - q_heads - kv_heads) * room + position
            keep(v, v_scales, token, first, second, largest / np.float32(127))

    floats, numbers = ("f32*",) * 5, ("i32", "i32", "i32", "i32", "f32")
    cached = (f"{variant.element}*",) * 2 + ("f32*", "f32*")
    return Kernel(variant.name, append, floats + cached + numbers, WARP)


def _loader(variant: Append) -> Callable[..., None]:
    """load(heads, bias, head, first, second): a lane's numbers of both halves of the block's head; 0 beyond."""
    D, HALF, BIAS = variant.head_dim, variant.head_dim // 2, variant.bias
    EACH = -(-HALF // WARP)

    @device
    def load(heads: Any, bias: Any, head: Any, first: Any, second: Any) -> None:
        start = np.int64(cuda.blockIdx.x) * D
        for j in range(EACH):
            i = cuda.threadIdx.x + WARP * j
            first[j] = second[j] = np.float32(0)
            if i < HALF:
                first[j], second[j] = heads[start + i], heads[start + HALF + i]
                if BIAS:
                    first[j] += bias[head * D + i]
                    second[j] += bias[head * D + HALF + i]

    return load  # type: ignore[no-any-return]


def _normer(variant: Append) -> Callable[..., None]:
    """normalise(gains, at, eps, first, second): RMSNorm of a head, where the model has one."""
    D, HALF, NORM = variant.head_dim, variant.head_dim // 2, variant.norm
    EACH = -(-HALF // WARP)

    @device
    def normalise(gains: Any, at: Any, eps: Any, first: Any, second: Any) -> None:
        if NORM:
            squares = np.float32(0)
            for j in range(EACH):
                squares += first[j] * first[j] + second[j] * second[j]
            scale = ptx.rsqrt_fast(warp_sum(squares) / np.float32(D) + eps)
            for j in range(EACH):
                i = cuda.threadIdx.x + WARP * j
                if i < HALF:
                    first[j] *= scale * gains[at + i]
                    second[j] *= scale * gains[at + HALF + i]

    return normalise  # type: ignore[no-any-return]


def _rotator(variant: Append) -> Callable[..., None]:
    """rotate(turns, first, second): RoPE; number i of a head pairs with i + D/2 (the NeoX layout)."""
    HALF = variant.head_dim // 2
    EACH = -(-HALF // WARP)

    @device
    def rotate(turns: Any, first: Any, second: Any) -> None:
        for j in range(EACH):
            i = cuda.threadIdx.x + WARP * j
            if i < HALF:
                cos, sin = turns[i], turns[HALF + i]
                a, b = first[j], second[j]
                first[j], second[j] = a * cos - b * sin, b * cos + a * sin

    return rotate  # type: ignore[no-any-return]


def _keeper(variant: Append) -> Callable[..., None]:
    """keep(cache, scales, token, first, second, scale): a head in the cache's format, as row `token` of the cache."""
    D, HALF, SCALED, code = (
        variant.head_dim,
        variant.head_dim // 2,
        variant.kv == "int8",
        _encoder(variant.kv),
    )
    EACH = -(-HALF // WARP)

    @device
    def keep(cache: Any, scales: Any, token: Any, first: Any, second: Any, scale: Any) -> None:
        if SCALED and cuda.threadIdx.x == 0:
            scales[token] = scale
        for j in range(EACH):
            i = cuda.threadIdx.x + WARP * j
            if i < HALF:
                cache[token * D + i] = code(first[j], scale)
                cache[token * D + HALF + i] = code(second[j], scale)

    return keep  # type: ignore[no-any-return]


def _encoder(kv: str) -> Callable[..., Any]:
    """code(value, scale): a number as the cache stores it."""

    @device
    def as_bf16(value: Any, scale: Any) -> Any:
        return np.uint16(ptx.pack_bf16(value, value) & _HALF)

    @device
    def as_f16(value: Any, scale: Any) -> Any:
        return np.uint16(ptx.pack_f16(value, value) & _HALF)

    @device
    def as_fp8(value: Any, scale: Any) -> Any:
        return np.uint8(ptx.pack_e4m3(value, value) & _BYTE)

    @device
    def as_int8(value: Any, scale: Any) -> Any:
        quotient = value / scale if scale > np.float32(0) else np.float32(0)
        return np.uint8(ptx.as_u32(quotient + _INTEGERS) & _BYTE)

    codes: dict[str, Callable[..., Any]] = {"bf16": as_bf16, "f16": as_f16, "fp8": as_fp8, "int8": as_int8}
    return codes[kv]
