"""What is measured: the operations of a decode step, their shapes, formats, bytes and FLOPs.

A work is written as text, the same text on the command line, in result rows and in tests:

>>> work = parse("linear:n=4096,k=4096,m=1,weight=int8")
>>> work.flops, work.traffic.weights_bytes, work.traffic.scales_bytes
(33554432, 16777216, 16384)

Bytes and FLOPs follow from the work alone. A backend never reports its own, so the same count
applies to every backend. Activations are float32 at the interface (4 bytes an element); intermediates
are counted where an operation reads or writes them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from membound.errors import MemboundError
from membound.kernels.models import Model, get_model

ACTIVATION_BYTES = 4
MAX_DIMENSION = 1 << 31


class SpecError(MemboundError, ValueError):
    """A work's text or one of its values is wrong. The message names the part and what is allowed."""


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers are stored. `group` weights share one scale; 0 means one scale a row or none."""

    name: str
    bits: int
    scale_bytes: int = 0
    group: int = 0

    def matrix_bytes(self, n: int, k: int) -> tuple[int, int]:
        """Bytes of an [n, k] matrix: (values, scales)."""
        scales = n * (k // self.group if self.group else 1) * self.scale_bytes
        return n * k * self.bits // 8, scales


FORMATS = {
    f.name: f
    for f in (
        Format("f32", 32),
        Format("bf16", 16),
        Format("f16", 16),
        Format("int8", 8, scale_bytes=4),
        Format("int4g32", 4, scale_bytes=2, group=32),
        Format("int4g128", 4, scale_bytes=2, group=128),
    )
}
KV_FORMATS = {
    f.name: f for f in (FORMATS["f32"], FORMATS["bf16"], FORMATS["f16"], FORMATS["int8"], Format("fp8", 8))
}
"""int8 has a scale a token and head; fp8 is e4m3 (arXiv 2209.05433) as it is: its scale is 1."""
ACTS = ("float", "int8")
CACHES = ("random", "prompt")
PAGE_ENTRY_BYTES = 4
"""An entry of a page table: the number of a page, int32."""
LATENT_DIM, LATENT_VALUE_DIM = 576, 512
"""Widths of a token in DeepSeek-V2's latent cache: 512 that serve as key and value, 64 of RoPE keys (arXiv 2405.04434)."""


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
class Operation:
    """One line of a step's bill: `count` times an operation with this traffic and these FLOPs each."""

    name: str
    count: int
    traffic: Traffic
    flops: int


def _positive(work: Any, *names: str) -> None:
    for name in names:
        value = getattr(work, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_DIMENSION:
            raise SpecError(f"{work.kind}: {name}={value!r} must be a whole number from 1 to {MAX_DIMENSION}")


def _one_of(work: Any, name: str, allowed: Iterable[str]) -> None:
    value = getattr(work, name)
    if value not in allowed:
        raise SpecError(f"{work.kind}: {name}={value!r} is unknown; allowed: {', '.join(allowed)}")


def _weight_and_act(work: Any) -> None:
    _one_of(work, "weight", FORMATS)
    _one_of(work, "act", ACTS)
    if work.act == "int8" and work.weight in ("f32", "bf16", "f16"):
        raise SpecError(
            f"{work.kind}: act=int8 goes with weight=int8, int4g32 or int4g128, not {work.weight}"
        )


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
        _positive(self, "m", "n", "k")
        _weight_and_act(self)
        group = FORMATS[self.weight].group
        if group and self.k % group:
            raise SpecError(f"linear: k={self.k} must be a multiple of {group} for weight={self.weight}")

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return _spec(self)

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
    """

    context: int
    q_heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    batch: int = 1
    kv: str = "bf16"
    page: int = 0
    kind: ClassVar[str] = "attention"

    def __post_init__(self) -> None:
        _positive(self, "context", "q_heads", "kv_heads", "head_dim", "batch")
        _one_of(self, "kv", KV_FORMATS)
        _check_page(self)
        if self.q_heads % self.kv_heads:
            raise SpecError(
                f"attention: q_heads={self.q_heads} must be a multiple of kv_heads={self.kv_heads}"
            )

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return _spec(self)

    @property
    def flops(self) -> int:
        """4·B·S·Hq·d: the products with K and with V."""
        return 4 * self.batch * self.context * self.q_heads * self.head_dim

    @property
    def traffic(self) -> Traffic:
        """K, V and their scales, the page table, q and the output."""
        values, scales = kv_token_bytes(self.kv, self.kv_heads, self.head_dim)
        q_bytes = self.batch * self.q_heads * self.head_dim * ACTIVATION_BYTES
        return _cache_traffic(self, values, scales, q_bytes, q_bytes)

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
        _positive(self, "context", "q_heads", "batch")
        _one_of(self, "kv", KV_FORMATS)
        _check_page(self)

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return _spec(self)

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
        _positive(work, "page")


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


@dataclass(frozen=True, slots=True)
class Step:
    """A whole decode step: one token for each of `batch` sequences that hold `context` tokens.

    Norms, QKV, RoPE, cache append at position `context`, attention over context+1 tokens, output
    projection, MLP, final norm, LM head. Input: hidden states [batch, hidden]; output: logits
    [batch, vocab]. The cache read counts `context` tokens (the new one is still in registers or
    cache), the append one. FLOPs of norms, RoPE and activation functions are left out.
    cache=random holds random keys and values and starts from random hidden states; cache=prompt holds
    those of a prompt of seeded tokens and starts from the embedding of the next one, as an engine does.
    """

    model: str
    batch: int = 1
    context: int = 1024
    weight: str = "bf16"
    kv: str = "bf16"
    act: str = "float"
    layers: int = 0
    cache: str = "random"
    kind: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        _positive(self, "batch", "context")
        _weight_and_act(self)
        _one_of(self, "kv", KV_FORMATS)
        _one_of(self, "cache", CACHES)
        _check_model(self)

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return _spec(self)

    @property
    def shape(self) -> Model:
        """The model, with as many layers as are run."""
        return get_model(self.model).with_layers(self.layers)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The step's bill, an operation a line."""
        model = self.shape
        attention = DecodeAttention(
            self.context, model.q_heads, model.kv_heads, model.head_dim, self.batch, self.kv
        )
        values, scales = kv_token_bytes(self.kv, model.kv_heads, model.head_dim)
        append = Traffic(kv_written_bytes=self.batch * (values + scales))
        new_token_flops = 4 * self.batch * model.q_heads * model.head_dim
        return (
            *_linears(self, self.batch),
            Operation("attention", model.layers, attention.traffic, attention.flops + new_token_flops),
            Operation("cache append", model.layers, append, 0),
        )

    @property
    def flops(self) -> int:
        """The sum over `operations`."""
        return sum(op.count * op.flops for op in self.operations)

    @property
    def traffic(self) -> Traffic:
        """The sum over `operations`."""
        return _total(self.operations)

    @property
    def footprint_bytes(self) -> int:
        """Memory one input set takes."""
        return self.traffic.total_bytes


@dataclass(frozen=True, slots=True)
class Prefill:
    """The compute-bound counterpart: `tokens` prompt tokens of `batch` sequences through the model at once.

    Causal attention, cache written, logits for the last token of each sequence only.
    """

    model: str
    batch: int = 1
    tokens: int = 512
    weight: str = "bf16"
    kv: str = "bf16"
    act: str = "float"
    layers: int = 0
    kind: ClassVar[str] = "prefill"

    def __post_init__(self) -> None:
        _positive(self, "batch", "tokens")
        if self.batch * self.tokens > MAX_DIMENSION:
            raise SpecError(
                f"prefill: batch={self.batch} times tokens={self.tokens} must be at most {MAX_DIMENSION}"
            )
        _weight_and_act(self)
        _one_of(self, "kv", KV_FORMATS)
        _check_model(self)

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return _spec(self)

    @property
    def shape(self) -> Model:
        """The model, with as many layers as are run."""
        return get_model(self.model).with_layers(self.layers)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The prompt's bill, an operation a line."""
        model = self.shape
        values, scales = kv_token_bytes(self.kv, model.kv_heads, model.head_dim)
        tokens = self.batch * self.tokens
        q_bytes = tokens * model.q_heads * model.head_dim * ACTIVATION_BYTES
        attention = Traffic(
            kv_written_bytes=tokens * (values + scales),
            kv_read_bytes=tokens * (values + scales),
            activations_read_bytes=q_bytes,
            activations_written_bytes=q_bytes,
        )
        pairs = self.batch * self.tokens * (self.tokens + 1) // 2
        return (
            *_linears(self, tokens),
            Operation("attention", model.layers, attention, 4 * pairs * model.q_heads * model.head_dim),
        )

    @property
    def flops(self) -> int:
        """The sum over `operations`."""
        return sum(op.count * op.flops for op in self.operations)

    @property
    def traffic(self) -> Traffic:
        """The sum over `operations`."""
        return _total(self.operations)

    @property
    def footprint_bytes(self) -> int:
        """Memory one input set takes, with the widest intermediate (gate and up) once."""
        model = self.shape
        return self.traffic.total_bytes + 2 * self.batch * self.tokens * model.intermediate * ACTIVATION_BYTES


Work = Linear | DecodeAttention | LatentAttention | Step | Prefill
KINDS: dict[str, type[Work]] = {w.kind: w for w in (Linear, DecodeAttention, LatentAttention, Step, Prefill)}


def _check_model(work: Step | Prefill) -> None:
    try:
        model = get_model(work.model)
    except ValueError as error:
        raise SpecError(f"{work.kind}: {error}") from None
    if not isinstance(work.layers, int) or not 0 <= work.layers <= model.layers:
        raise SpecError(
            f"{work.kind}: layers={work.layers!r} must be from 1 to {model.layers} for {work.model} (0: all)"
        )
    tokens = work.context + 1 if isinstance(work, Step) else work.tokens
    if model.window and tokens > model.window:
        raise SpecError(
            f"{work.kind}: {work.model} has layers that see {model.window} tokens only (sliding window), which are "
            f"not implemented; up to there they are like others, and {tokens} tokens were asked for"
        )
    group = FORMATS[work.weight].group
    for name in ("hidden", "intermediate", "q_dim"):
        if group and getattr(model, name) % group:
            raise SpecError(
                f"{work.kind}: {work.model} has {name} {getattr(model, name)}, "
                f"not a multiple of {group} as weight={work.weight} needs"
            )


def _linears(work: Step | Prefill, rows: int) -> Iterator[Operation]:
    """The matmuls and norms shared by a step and a prompt; the LM head sees one row a sequence."""
    model = work.shape
    for name, (n, k) in model.layer_matrices.items():
        linear = Linear(n, k, rows, work.weight, work.act)
        yield Operation(name, model.layers, linear.traffic, linear.flops)
    norms = 2 * model.hidden + (2 * model.head_dim if model.qk_norm else 0)
    bias = model.q_dim + 2 * model.kv_dim if model.qkv_bias else 0
    yield Operation("norms and biases", model.layers, Traffic(weights_bytes=4 * (norms + bias)), 0)
    yield Operation("final norm", 1, Traffic(weights_bytes=4 * model.hidden), 0)
    head = Linear(model.vocab, model.hidden, work.batch, work.weight, work.act)
    yield Operation("lm_head", 1, head.traffic, head.flops)


def _total(operations: tuple[Operation, ...]) -> Traffic:
    total = Traffic()
    for op in operations:
        total = total + op.traffic * op.count
    return total


def _spec(work: Any) -> str:
    """Canonical text: every field but those that are at a default of 0, and cache=random."""
    values = {f.name: getattr(work, f.name) for f in fields(work)}
    parts = [f"{n}={v}" for n, v in values.items() if v != 0 and (n, v) != ("cache", "random")]
    return f"{work.kind}:{','.join(parts)}"


def parse(text: str) -> Work:
    """Turn a spec such as ``linear:n=4096,k=4096,m=1,weight=bf16`` into a work.

    Raises SpecError that names the wrong part and lists what is allowed.
    """
    kind, _, rest = text.strip().partition(":")
    if kind not in KINDS:
        raise SpecError(f"unknown work {kind!r}; allowed: {', '.join(KINDS)} (as in linear:n=4096,k=4096)")
    cls = KINDS[kind]
    known = {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = (s.strip() for s in part.partition("="))
        if not equals or not value:
            raise SpecError(f"{kind}: {part!r} is not key=value")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise SpecError(f"{kind}: unknown key {key!r}{hint}; allowed: {', '.join(known)}")
        if key in values:
            raise SpecError(f"{kind}: {key} is given twice")
        values[key] = _whole(kind, key, value) if known[key].type == "int" else value
    missing = [f.name for f in known.values() if f.default is MISSING and f.name not in values]
    if missing:
        raise SpecError(f"{kind}: {', '.join(missing)} missing; keys: {', '.join(known)}")
    return cls(**values)


def _whole(kind: str, key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise SpecError(f"{kind}: {key}={value!r} is not a whole number (no units, no fractions)") from None
