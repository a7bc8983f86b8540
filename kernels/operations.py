"""One operation on its own: its shapes, formats, bytes and FLOPs.

>>> Linear(n=4096, k=4096, weight="int8").traffic.scales_bytes
16384
>>> DecodeAttention(context=1000).flops
16384000

Activations are float32 at the interface (4 bytes an element); intermediates are counted where an operation
reads or writes them. `membound.kernels.work` turns text into these, `membound.kernels.steps` adds them up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from membound.errors import MemboundError
from membound.kernels.weights.formats import FORMATS, INTEGER_FORMATS, KV_FORMATS, STORED
from membound.spec_text import quoted

ACTIVATION_BYTES = 4
MAX_DIMENSION = 1 << 31
ACTS = ("float", "int8")
PAGE_ENTRY_BYTES = 4
"""An entry of a page table: the number of a page, int32."""
LATENT_DIM, LATENT_VALUE_DIM = 576, 512
"""Widths of a token in DeepSeek-V2's latent cache: 512 that serve as key and value, 64 of RoPE keys (arXiv 2405.04434)."""
LATENT_HEAD_DIM = 192
"""Width of a head before the up-projections are absorbed into q, by whose root scores are divided: 128 and 64 of RoPE keys."""


class SpecError(MemboundError, ValueError):
    """A work's text or one of its values is wrong. The message names the part and what is allowed."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """The bytes an operation must move, by what they are. All fields are bytes."""

    weights_bytes: int = 0
    scales_bytes: int = 0
    kv_read_bytes: int = 0
    kv_written_bytes: int = 0
    activations_read_bytes: int = 0
    activations_written_bytes: int = 0

    @property
    def read_bytes(self) -> int:
        """Bytes read: weights, scales, cache and activations."""
        return self.weights_bytes + self.scales_bytes + self.kv_read_bytes + self.activations_read_bytes

    @property
    def written_bytes(self) -> int:
        """Bytes written: cache and activations."""
        return self.kv_written_bytes + self.activations_written_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.written_bytes

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, count: int) -> Traffic:
        return Traffic(*(getattr(self, f.name) * count for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Linear:
    """y[m, n] = x[m, k] · W[n, k]ᵀ with W in `weight` format and x float32, or quantised to int8 a row first.

    FLOPs 2·m·n·k. Bytes: weights with their scales, activations in and out.
    """

    n: int
    k: int
    m: int = 1
    weight: str = "bf16"
    act: str = "float"
    kind: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        check_positive(self, "m", "n", "k")
        check_weight_and_act(self)
        group = FORMATS[self.weight].group
        if group and self.k % group:
            raise SpecError(f"linear: k={self.k} must be a multiple of {group} for weight={self.weight}")

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return spec_of(self)

    @property
    def flops(self) -> int:
        """2·m·n·k."""
        return 2 * self.m * self.n * self.k

    @property
    def traffic(self) -> Traffic:
        """Weights, scales, x and y."""
        weights, scales = FORMATS[self.weight].matrix_bytes(self.n, self.k)
        return Traffic(
            weights_bytes=weights,
            scales_bytes=scales,
            activations_read_bytes=self.m * self.k * ACTIVATION_BYTES,
            activations_written_bytes=self.m * self.n * ACTIVATION_BYTES,
        )

    @property
    def footprint_bytes(self) -> int:
        """Memory one input set takes."""
        return self.traffic.total_bytes


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """One query token a sequence against its cache of `context` tokens; MHA, GQA and MQA.

    Bytes B·[Hq·d·4 + S·Hkv·2d·b_kv + Hq·d·4] plus a float32 scale a token and head for int8.
    FLOPs 4·B·S·Hq·d. With `page`, the cache lies in pages of that many tokens in any order: S is rounded
    up to whole pages and the page table is read.

    With `queries` = s > 1, s new tokens stand behind the `context` cached ones, as when drafted tokens are verified: their
    keys and values are written to the cache, and each sees the cached tokens, those before it and itself. Bytes
    B·[s·(2·Hq + 2·Hkv)·d·4 + (S + s)·Hkv·2d·b_kv], S tokens of the cache being read and s written; FLOPs
    4·B·Hq·d·(s·S + s·(s + 1)/2).
    """

    context: int
    q_heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    batch: int = 1
    kv: str = "bf16"
    page: int = 0
    queries: int = 1
    kind: ClassVar[str] = "attention"

    def __post_init__(self) -> None:
        check_positive(self, "context", "q_heads", "kv_heads", "head_dim", "batch", "queries")
        check_one_of(self, "kv", KV_FORMATS)
        _check_page(self)
        if self.q_heads % self.kv_heads:
            raise SpecError(
                f"attention: q_heads={self.q_heads} must be a multiple of kv_heads={self.kv_heads}"
            )
        if self.queries > 1 and self.page:
            raise SpecError(
                f"attention: queries={self.queries} goes without pages, not with page={self.page}"
            )

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return spec_of(self)

    @property
    def pairs(self) -> int:
        """Pairs of a query token and a token that it sees, in one sequence."""
        if self.queries == 1:
            return self.context
        return self.queries * self.context + self.queries * (self.queries + 1) // 2

    @property
    def flops(self) -> int:
        """4·B·Hq·d for each pair of tokens: the products with K and with V."""
        return 4 * self.batch * self.pairs * self.q_heads * self.head_dim

    @property
    def traffic(self) -> Traffic:
        """K, V and their scales, the page table, q and the output; with several queries their K and V, in and written."""
        values, scales = kv_token_bytes(self.kv, self.kv_heads, self.head_dim)
        tokens = self.batch * self.queries
        q_bytes = tokens * self.q_heads * self.head_dim * ACTIVATION_BYTES
        traffic = _cache_traffic(self, values, scales, q_bytes, q_bytes)
        if self.queries == 1:
            return traffic
        new_bytes = 2 * tokens * self.kv_heads * self.head_dim * ACTIVATION_BYTES
        return traffic + Traffic(
            kv_written_bytes=tokens * (values + scales), activations_read_bytes=new_bytes
        )

    @property
    def footprint_bytes(self) -> int:
        """Memory one input set takes."""
        return self.traffic.total_bytes


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (MLA) of one query token a sequence, weights absorbed: DeepSeek-V2, V3, R1.

    All heads share one cached row of 576 numbers a token; its first 512 are the value too and count
    once. Bytes B·[Hq·576·4 + S·576·b_kv + Hq·512·4], for int8 plus a float32 scale a token; FLOPs
    2·B·Hq·S·(576 + 512). `page` as in `DecodeAttention`. Source: arXiv 2405.04434, section 2.1.
    """

    context: int
    q_heads: int = 128
    batch: int = 1
    kv: str = "bf16"
    page: int = 0
    kind: ClassVar[str] = "mla"

    def __post_init__(self) -> None:
        check_positive(self, "context", "q_heads", "batch")
        check_one_of(self, "kv", KV_FORMATS)
        _check_page(self)

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return spec_of(self)

    @property
    def flops(self) -> int:
        """2·B·Hq·S·(576 + 512): the products with the keys and with the values."""
        return 2 * self.batch * self.q_heads * self.context * (LATENT_DIM + LATENT_VALUE_DIM)

    @property
    def traffic(self) -> Traffic:
        """The latent rows and their scales, the page table, q and the output."""
        values, scales = KV_FORMATS[self.kv].matrix_bytes(1, LATENT_DIM)
        heads = self.batch * self.q_heads * ACTIVATION_BYTES
        return _cache_traffic(self, values, scales, heads * LATENT_DIM, heads * LATENT_VALUE_DIM)

    @property
    def footprint_bytes(self) -> int:
        """Memory one input set takes."""
        return self.traffic.total_bytes


def kv_token_bytes(kv: str, kv_heads: int, head_dim: int) -> tuple[int, int]:
    """Bytes of one token's K and V in one layer: (values, scales)."""
    values, scales = KV_FORMATS[kv].matrix_bytes(kv_heads, head_dim)
    return 2 * values, 2 * scales


def pages_of(work: DecodeAttention | LatentAttention) -> int:
    """Pages of one sequence; 0 for a contiguous cache."""
    return -(-work.context // work.page) if work.page else 0


def _check_page(work: DecodeAttention | LatentAttention) -> None:
    if work.page != 0:
        check_positive(work, "page")


def _cache_traffic(
    work: DecodeAttention | LatentAttention, values: int, scales: int, q_bytes: int, out_bytes: int
) -> Traffic:
    """Traffic of a cache of `values` and `scales` bytes a token: whole pages and their table where it has pages."""
    pages = pages_of(work)
    tokens = work.batch * (pages * work.page or work.context)
    return Traffic(
        scales_bytes=tokens * scales,
        kv_read_bytes=tokens * values + work.batch * pages * PAGE_ENTRY_BYTES,
        activations_read_bytes=q_bytes,
        activations_written_bytes=out_bytes,
    )


def check_positive(work: Any, *names: str) -> None:
    """Raises SpecError unless each of these values is a whole number from 1 to MAX_DIMENSION."""
    for name in names:
        value = getattr(work, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_DIMENSION:
            raise SpecError(f"{work.kind}: {name}={value!r} must be a whole number from 1 to {MAX_DIMENSION}")


def check_one_of(work: Any, name: str, allowed: Iterable[str]) -> None:
    """Raises SpecError that lists what is allowed unless the value is among it."""
    value = getattr(work, name)
    if value not in allowed:
        raise SpecError(f"{work.kind}: {name}={value!r} is unknown; allowed: {', '.join(allowed)}")


def check_weight_and_act(work: Any) -> None:
    """Raises SpecError unless the format of weights is known and goes with that of activations.

    A whole model may have `STORED` weights; which activations go with them its folder says.
    """
    check_one_of(work, "weight", (*FORMATS, STORED) if hasattr(work, "model") else FORMATS)
    check_one_of(work, "act", ACTS)
    if work.act == "int8" and work.weight not in (*INTEGER_FORMATS, STORED):
        *others, last = INTEGER_FORMATS
        raise SpecError(
            f"{work.kind}: act=int8 goes with weight={', '.join(others)} or {last}, not {work.weight}"
        )


def spec_of(work: Any) -> str:
    """Canonical text: every field but those that are at a default of 0 or empty, cache=random and queries=1."""
    values = {f.name: getattr(work, f.name) for f in fields(work) if f.init}
    parts = [
        f"{n}={quoted(v) if isinstance(v, str) else v}"
        for n, v in values.items()
        if v not in (0, "") and (n, v) not in (("cache", "random"), ("queries", 1))
    ]
    return f"{work.kind}:{','.join(parts)}"
