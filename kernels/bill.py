"""The bill of a model at work, an operation a line: what a decode step and a prompt read, write and compute.

>>> from membound.kernels.steps import Step
>>> [(one.name, one.count) for one in step_operations(Step("tiny", layers=1), context=1024)][:2]
[('q', 1), ('k', 1)]

Lines are those of distinct operations, with how often each occurs. Formulas: docs/works.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from membound.kernels.layer_tensors import matrices_of
from membound.kernels.mixers import GatedDelta, Mamba2, state_bytes
from membound.kernels.model import Model
from membound.kernels.operations import ACTIVATION_BYTES, Linear, Traffic, kv_token_bytes
from membound.kernels.parts import Attention, Experts, Latent, Mixer
from membound.kernels.routed_experts import RoutedExperts
from membound.kernels.weights.formats import FORMATS, KV_FORMATS
from membound.kernels.weights.stored.matrices import Stored, StoredExperts, StoredMatrix

VECTOR_BYTES = 4


class ModelWork(Protocol):
    """A step or a prompt, as far as its bill goes by it."""

    @property
    def batch(self) -> int:
        """Sequences."""
        ...

    @property
    def weight(self) -> str:
        """Format of the matrices."""
        ...

    @property
    def kv(self) -> str:
        """Format of the cache."""
        ...

    @property
    def act(self) -> str:
        """What matrices are multiplied by."""
        ...

    @property
    def distinct(self) -> int:
        """Experts that are read in a layer."""
        ...

    @property
    def shape(self) -> Model:
        """The model."""
        ...

    @property
    def stored(self) -> Stored | None:
        """What its files hold, if matrices are as stored."""
        ...


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of a bill: `count` times an operation with this traffic and these FLOPs each."""

    name: str
    count: int
    traffic: Traffic
    flops: int


def step_operations(work: ModelWork, context: int, queries: int = 1) -> tuple[Operation, ...]:
    """The bill of a decode step of `queries` tokens a sequence at `context`."""
    rows = work.batch * queries
    return (
        *_products(work, rows, rows),
        *_decode_attention(work, context, queries),
        *_appends(work, queries),
        *_indexes(work, context),
        *_states(work),
    )


def prompt_operations(work: ModelWork, tokens: int) -> tuple[Operation, ...]:
    """The bill of a prompt of `tokens` tokens a sequence."""
    return (
        *_products(work, work.batch * tokens, work.batch),
        *_causal_attention(work, tokens),
        *_prompt_states(work, tokens),
        *_prompt_indexes(work, tokens),
    )


def total(operations: tuple[Operation, ...]) -> Traffic:
    """The traffic of all of them."""
    added = Traffic()
    for one in operations:
        added = added + one.traffic * one.count
    return added


def routed_experts(work: ModelWork, experts: Experts, rows: int) -> RoutedExperts:
    """A layer's experts and router as a work, for `rows` rows."""
    width = experts.expert.width
    return RoutedExperts(
        work.shape.hidden, width, experts.count, experts.chosen, rows, work.weight, work.act, work.distinct
    )


# Products


def _products(work: ModelWork, rows: int, head_rows: int) -> Iterator[Operation]:
    """Matrices, experts and norms; the LM head sees `head_rows`, of a prompt one a sequence."""
    if work.stored is None:
        yield from _layer_products(work, rows)
    else:
        yield from _stored_products(work, work.stored, rows)
    yield from _experts(work, rows)
    yield from _vectors(work)
    model, stored = work.shape, work.stored
    if stored is None:
        head = Linear(model.vocab, model.hidden, head_rows, work.weight, work.act)
        yield _product("lm_head", 1, head, None)
    else:
        yield _product("lm_head", 1, Linear(model.vocab, model.hidden, head_rows, "f32"), stored.head)


def _layer_products(work: ModelWork, rows: int) -> Iterator[Operation]:
    counts = Counter[tuple[str, tuple[int, int]]]()
    for layer, count in work.shape.decoder.kinds.items():
        for matrix in matrices_of(layer, work.shape.hidden).items():
            counts[matrix] += count
    for (name, (n, k)), count in counts.items():
        yield _product(name, count, Linear(n, k, rows, work.weight, work.act), None)


def _stored_products(work: ModelWork, stored: Stored, rows: int) -> Iterator[Operation]:
    counts = Counter[tuple[str, tuple[int, int], StoredMatrix]]()
    for layer, held in zip(work.shape.decoder.layers, stored.layers, strict=True):
        counts.update(
            (name, shape, held[name]) for name, shape in matrices_of(layer, work.shape.hidden).items()
        )
    for (name, (n, k), matrix), count in counts.items():
        yield _product(name, count, Linear(n, k, rows, "f32"), matrix)


def _product(name: str, count: int, linear: Linear, matrix: StoredMatrix | None) -> Operation:
    """A line for a matrix; of one that lies in a file the bytes are the file's."""
    traffic = linear.traffic
    if matrix is not None:
        traffic = replace(traffic, weights_bytes=matrix.values_bytes, scales_bytes=matrix.scales_bytes)
    return Operation(name, count, traffic, linear.flops)


def _experts(work: ModelWork, rows: int) -> Iterator[Operation]:
    """A router and the experts that it chooses, with their biases; those without a gate have two matrices of an `experts` work's three."""
    layers = work.shape.decoder.layers
    held = work.stored.experts if work.stored is not None else (None,) * len(layers)
    counts = Counter[tuple[Experts, StoredExperts | None]](
        (layer.mlp, own) for layer, own in zip(layers, held, strict=True) if isinstance(layer.mlp, Experts)
    )
    for (experts, own), count in counts.items():
        if own is not None:
            yield _stored_experts(work, experts, own, count, rows)
            continue
        one = routed_experts(work, experts, rows)
        biases = VECTOR_BYTES * work.distinct * experts.expert.vectors(work.shape.hidden)
        traffic, flops = one.traffic + Traffic(weights_bytes=biases), one.flops
        if not experts.expert.gated:
            values, scales = FORMATS[work.weight].matrix_bytes(one.width, one.hidden)
            traffic = replace(
                traffic,
                weights_bytes=traffic.weights_bytes - work.distinct * values,
                scales_bytes=traffic.scales_bytes - work.distinct * scales,
            )
            flops -= 2 * one.batch * one.chosen * one.width * one.hidden
        yield Operation("experts", count, traffic, flops)


def _stored_experts(
    work: ModelWork, experts: Experts, own: StoredExperts, count: int, rows: int
) -> Operation:
    """A line for a router and the experts that it chooses as they lie in a file; their biases are float32."""
    width, biases = experts.expert.width, experts.expert.vectors(work.shape.hidden)
    values, scales = own.expert_bytes
    one = RoutedExperts(
        work.shape.hidden, width, experts.count, experts.chosen, rows, "f32", distinct=work.distinct
    )
    traffic = replace(
        one.traffic,
        weights_bytes=work.distinct * (values + VECTOR_BYTES * biases) + own.router.values_bytes,
        scales_bytes=work.distinct * scales + own.router.scales_bytes,
    )
    flops = one.flops - (3 - len(own.one)) * 2 * rows * experts.chosen * width * work.shape.hidden
    return Operation("experts", count, traffic, flops)


def _vectors(work: ModelWork) -> Iterator[Operation]:
    """Norms, biases and sinks, float32."""
    decoder, small = work.shape.decoder, Counter[int]()
    for layer, count in decoder.kinds.items():
        small[VECTOR_BYTES * sum(decoder.vector_widths(layer).values())] += count
    for size, count in small.items():
        yield Operation("norms and biases", count, Traffic(weights_bytes=size), 0)
    final = VECTOR_BYTES * decoder.norm_vectors * decoder.hidden
    yield Operation("final norm", 1, Traffic(weights_bytes=final), 0)


# Attention and its cache


def token_bytes(mixer: Mixer, kv: str) -> tuple[int, int]:
    """Bytes of one token in the cache of a layer: (values, scales); none where it has a state."""
    if isinstance(mixer, Latent):
        return KV_FORMATS[kv].matrix_bytes(1, mixer.token_numbers)
    return kv_token_bytes(kv, mixer.kv_heads, mixer.head_dim) if isinstance(mixer, Attention) else (0, 0)


class _Heads(NamedTuple):
    """Of a layer's attention: bytes of a cached token, columns of q and of what comes out, FLOPs of a query and a token that it sees."""

    values: int
    scales: int
    columns: int
    out: int
    pair_flops: int

    @property
    def token(self) -> int:
        """Bytes of a cached token."""
        return self.values + self.scales


def _attentions(work: ModelWork) -> Iterator[tuple[Attention | Latent, _Heads, int]]:
    """Each kind of layer with a cache, and how many there are. All heads of latent attention read one row a token."""
    for layer, count in work.shape.decoder.kinds.items():
        mixer = layer.mixer
        if isinstance(mixer, Attention | Latent):
            q, out = (
                (mixer.token_numbers, mixer.kv_rank) if isinstance(mixer, Latent) else (mixer.head_dim,) * 2
            )
            values, scales = token_bytes(mixer, work.kv)
            yield (
                mixer,
                _Heads(values, scales, mixer.q_heads * q, mixer.q_heads * out, mixer.pair_flops),
                count,
            )


def _decode_attention(work: ModelWork, context: int, queries: int) -> Iterator[Operation]:
    """A line for each number of cached tokens that layers see, and each width; a window holds one less than itself, for the new token.

    The first of several queries sees the most cached tokens, which are read once for all of them.
    """
    lines, rows = Counter[tuple[int, int, _Heads]](), work.batch * queries * ACTIVATION_BYTES
    for mixer, heads, count in _attentions(work):
        pairs = mixer.pairs(context + queries) - mixer.pairs(context)
        lines[mixer.seen(context), pairs, heads] += count
    for (tokens, pairs, heads), count in lines.items():
        traffic = Traffic(
            scales_bytes=work.batch * tokens * heads.scales,
            kv_read_bytes=work.batch * tokens * heads.values,
            activations_read_bytes=rows * heads.columns,
            activations_written_bytes=rows * heads.out,
        )
        name = "attention" if tokens == context else f"attention to {tokens} tokens"
        yield Operation(name, count, traffic, work.batch * pairs * heads.pair_flops)


def _appends(work: ModelWork, queries: int) -> Iterator[Operation]:
    lines = Counter[int]()
    for _, heads, count in _attentions(work):
        lines[heads.token] += count
    for token, count in lines.items():
        yield Operation("cache append", count, Traffic(kv_written_bytes=work.batch * queries * token), 0)


def _states(work: ModelWork) -> Iterator[Operation]:
    """States that do not grow, read and written anew, with the convolution before them."""
    for layer, count in work.shape.decoder.kinds.items():
        if isinstance(layer.mixer, GatedDelta | Mamba2):
            read, written = state_bytes(layer.mixer)
            traffic = Traffic(kv_read_bytes=work.batch * read, kv_written_bytes=work.batch * written)
            yield Operation("state", count, traffic, work.batch * layer.mixer.token_flops)


def _prompt_states(work: ModelWork, tokens: int) -> Iterator[Operation]:
    """States that a prompt leaves behind, with the tokens that the convolution goes over next; none is read."""
    for layer, count in work.shape.decoder.kinds.items():
        if isinstance(layer.mixer, GatedDelta | Mamba2):
            traffic = Traffic(kv_written_bytes=work.batch * state_bytes(layer.mixer)[0])
            yield Operation("state", count, traffic, work.batch * tokens * layer.mixer.token_flops)


def _indexes(work: ModelWork, context: int) -> Iterator[Operation]:
    """Scores of all cached tokens by their keys, of which the new token adds one. Layers that take another's choice have none."""
    for layer, count in work.shape.decoder.kinds.items():
        index = layer.mixer.index if isinstance(layer.mixer, Latent) else None
        if index is not None and not index.shared:
            values, scales = KV_FORMATS[work.kv].matrix_bytes(1, index.head_dim)
            traffic = Traffic(
                scales_bytes=work.batch * context * scales,
                kv_read_bytes=work.batch * context * values,
                kv_written_bytes=work.batch * (values + scales),
            )
            yield Operation("index", count, traffic, work.batch * (context + 1) * index.pair_flops)


def _prompt_indexes(work: ModelWork, tokens: int) -> Iterator[Operation]:
    """Scores of each token for those before it and itself; keys are written and read once, as a cache is."""
    for layer, count in work.shape.decoder.kinds.items():
        index = layer.mixer.index if isinstance(layer.mixer, Latent) else None
        if index is not None and not index.shared:
            keys = work.batch * tokens * sum(KV_FORMATS[work.kv].matrix_bytes(1, index.head_dim))
            pairs = work.batch * tokens * (tokens + 1) // 2
            traffic = Traffic(kv_written_bytes=keys, kv_read_bytes=keys)
            yield Operation("index", count, traffic, pairs * index.pair_flops)


def _causal_attention(work: ModelWork, tokens: int) -> Iterator[Operation]:
    """A line for each number of pairs of a token and one that it sees, in one sequence, and each width.

    A layer's cache is written and read once, q read, the output written.
    """
    lines, every = Counter[tuple[int, _Heads]](), tokens * (tokens + 1) // 2
    for mixer, heads, count in _attentions(work):
        lines[mixer.pairs(tokens), heads] += count
    rows = work.batch * tokens
    for (seen, heads), count in lines.items():
        traffic = Traffic(
            kv_written_bytes=rows * heads.token,
            kv_read_bytes=rows * heads.token,
            activations_read_bytes=rows * heads.columns * ACTIVATION_BYTES,
            activations_written_bytes=rows * heads.out * ACTIVATION_BYTES,
        )
        name = "attention" if seen == every else f"attention of {seen} pairs"
        yield Operation(name, count, traffic, work.batch * seen * heads.pair_flops)
