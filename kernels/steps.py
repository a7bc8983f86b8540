"""A whole model at work: a decode step and a prompt, with the bill of their operations.

>>> [(one.name, one.count) for one in Step("tiny", layers=1).operations][:2]
[('q', 1), ('k', 1)]

Bytes and FLOPs are the sums over the bill.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

from membound.kernels.model import Model, ModelError
from membound.kernels.models import get_model
from membound.kernels.operations import (
    ACTIVATION_BYTES,
    MAX_DIMENSION,
    DecodeAttention,
    Linear,
    SpecError,
    Traffic,
    check_one_of,
    check_positive,
    check_weight_and_act,
    kv_token_bytes,
    spec_of,
)
from membound.kernels.weights.formats import FORMATS, INTEGER_FORMATS, KV_FORMATS, STORED
from membound.kernels.weights.stored.matrices import Stored, StoredMatrix

CACHES = ("random", "prompt")


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of a step's bill: `count` times an operation with this traffic and these FLOPs each."""

    name: str
    count: int
    traffic: Traffic
    flops: int


@dataclass(frozen=True, slots=True)
class Step:
    """A whole decode step: one token for each of `batch` sequences that hold `context` tokens.

    Norms, QKV, RoPE, cache append at position `context`, attention over context+1 tokens, output
    projection, MLP, final norm, LM head. Input: hidden states [batch, hidden]; output: logits
    [batch, vocab]. The cache read counts `context` tokens (the new one is still in registers or
    cache), the append one. FLOPs of norms, RoPE and activation functions are left out.
    cache=random holds random keys and values and starts from random hidden states; cache=prompt holds
    those of a prompt of seeded tokens and starts from the embedding of the next one, as an engine does.
    weight=stored takes each matrix as the model's folder holds it. Of a folder, `content` is what it is known by (`Model.content`): filled in, or checked if it is given.
    """

    model: str
    batch: int = 1
    context: int = 1024
    weight: str = "bf16"
    kv: str = "bf16"
    act: str = "float"
    layers: int = 0
    cache: str = "random"
    content: str = ""
    _model: Model = field(init=False, repr=False, compare=False)
    _stored: Stored | None = field(init=False, repr=False, compare=False)
    kind: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        check_positive(self, "batch", "context")
        check_weight_and_act(self)
        check_one_of(self, "kv", KV_FORMATS)
        check_one_of(self, "cache", CACHES)
        _check_model(self)

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return spec_of(self)

    @property
    def shape(self) -> Model:
        """The model as it was when the work was made, with as many layers as are run."""
        return self._model

    @property
    def stored(self) -> Stored | None:
        """With weight=stored, what the model's files hold; else None."""
        return self._stored

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The step's bill, an operation a line."""
        model = self.shape
        values, scales = kv_token_bytes(self.kv, model.kv_heads, model.head_dim)
        append = Traffic(kv_written_bytes=self.batch * (values + scales))
        return (
            *_linears(self, self.batch),
            *self._attention(),
            Operation("cache append", model.layers, append, 0),
        )

    def _attention(self) -> Iterator[Operation]:
        """A line for each number of cached tokens that layers see; a window holds one less than itself, for the new token."""
        model, seen = self.shape, Counter[int]()
        for layer, count in model.decoder.kinds.items():
            seen[layer.mixer.seen(self.context)] += count
        for tokens, count in seen.items():
            name = "attention" if tokens == self.context else f"attention to {tokens} tokens"
            one = DecodeAttention(
                max(tokens, 1), model.q_heads, model.kv_heads, model.head_dim, self.batch, self.kv
            )
            new_token_flops = 4 * self.batch * model.q_heads * model.head_dim
            traffic = one.traffic if tokens else replace(one.traffic, kv_read_bytes=0, scales_bytes=0)
            yield Operation(name, count, traffic, (one.flops if tokens else 0) + new_token_flops)

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
        """Memory one input set takes: also the part of a cache that lies before a window."""
        kinds = self.shape.decoder.kinds.items()
        unread = sum(count * (self.context - layer.mixer.seen(self.context)) for layer, count in kinds)
        token = sum(kv_token_bytes(self.kv, self.shape.kv_heads, self.shape.head_dim))
        return self.traffic.total_bytes + self.batch * unread * token


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
    content: str = ""
    _model: Model = field(init=False, repr=False, compare=False)
    _stored: Stored | None = field(init=False, repr=False, compare=False)
    kind: ClassVar[str] = "prefill"

    def __post_init__(self) -> None:
        check_positive(self, "batch", "tokens")
        if self.batch * self.tokens > MAX_DIMENSION:
            raise SpecError(
                f"prefill: batch={self.batch} times tokens={self.tokens} must be at most {MAX_DIMENSION}"
            )
        check_weight_and_act(self)
        check_one_of(self, "kv", KV_FORMATS)
        _check_model(self)

    @property
    def spec(self) -> str:
        """The text that `parse` turns back into this work."""
        return spec_of(self)

    @property
    def shape(self) -> Model:
        """The model as it was when the work was made, with as many layers as are run."""
        return self._model

    @property
    def stored(self) -> Stored | None:
        """With weight=stored, what the model's files hold; else None."""
        return self._stored

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
        pair_flops = 4 * self.batch * model.q_heads * model.head_dim
        pairs = Counter[int]()
        for layer, count in model.decoder.kinds.items():
            pairs[layer.mixer.pairs(self.tokens)] += count
        every = self.tokens * (self.tokens + 1) // 2
        return (
            *_linears(self, tokens),
            *(
                Operation(
                    "attention" if seen == every else f"attention of {seen} pairs",
                    count,
                    attention,
                    seen * pair_flops,
                )
                for seen, count in pairs.items()
            ),
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


def _check_model(work: Step | Prefill) -> None:
    """Look the model up, once, and check the work against it. Raises SpecError."""
    try:
        model = get_model(work.model)
    except ModelError as error:
        raise SpecError(f"{work.kind}: {error}") from None
    if not isinstance(work.layers, int) or not 0 <= work.layers <= model.layers:
        raise SpecError(
            f"{work.kind}: layers={work.layers!r} must be from 1 to {model.layers} for {work.model} (0: all)"
        )
    least = model.decoder.least_layers
    if 0 < work.layers < least:
        raise SpecError(
            f"{work.kind}: {work.model} has {len(model.decoder.kinds)} kinds of layers; layers={work.layers} must be {least} at "
            "least, so that each occurs"
        )
    if work.content and work.content != model.content:
        now = f"is {model.content} now: it changed since" if model.folder else "is built in and has none"
        raise SpecError(f"{work.kind}: content={work.content} was asked for, and {work.model} {now}")
    model = model.with_layers(work.layers)
    object.__setattr__(work, "content", model.content)
    object.__setattr__(work, "_model", model)
    object.__setattr__(work, "_stored", _stored_of(work, model) if work.weight == STORED else None)
    group = 0 if work.weight == STORED else FORMATS[work.weight].group
    for name in ("hidden", "intermediate", "q_dim"):
        if group and getattr(model, name) % group:
            raise SpecError(
                f"{work.kind}: {work.model} has {name} {getattr(model, name)}, "
                f"not a multiple of {group} as weight={work.weight} needs"
            )


def _stored_of(work: Step | Prefill, model: Model) -> Stored:
    """What the model's files hold. Raises SpecError."""
    if not model.folder:
        raise SpecError(f"{work.kind}: weight={STORED} goes with a folder; {work.model} is built in")
    from membound.kernels.weights.checkpoint import Checkpoint

    try:
        stored = Checkpoint(model, STORED, seed=0).stored()
    except ModelError as error:
        raise SpecError(f"{work.kind}: {error}") from None
    floats = [name for name in stored.formats if name not in INTEGER_FORMATS]
    if work.act == "int8" and floats:
        raise SpecError(
            f"{work.kind}: act=int8 goes with integer weights, and {work.model} stores {', '.join(floats)}"
        )
    return stored


def _linears(work: Step | Prefill, rows: int) -> Iterator[Operation]:
    """The matmuls and norms shared by a step and a prompt; the LM head sees one row a sequence."""
    model = work.shape
    stored = work.stored
    for name, (n, k) in model.layer_matrices.items():
        if stored is None:
            yield _product(name, model.layers, Linear(n, k, rows, work.weight, work.act), None)
            continue
        for matrix, count in Counter(layer[name] for layer in stored.layers).items():
            yield _product(name, count, Linear(n, k, rows, "f32"), matrix)
    decoder, small = model.decoder, Counter[int]()
    for layer, count in decoder.kinds.items():
        small[4 * sum(decoder.vector_widths(layer).values())] += count
    for size, count in small.items():
        yield Operation("norms and biases", count, Traffic(weights_bytes=size), 0)
    final = 4 * decoder.norm_vectors * model.hidden
    yield Operation("final norm", 1, Traffic(weights_bytes=final), 0)
    if stored is None:
        head = Linear(model.vocab, model.hidden, work.batch, work.weight, work.act)
        yield _product("lm_head", 1, head, None)
    else:
        yield _product("lm_head", 1, Linear(model.vocab, model.hidden, work.batch, "f32"), stored.head)


def _product(name: str, count: int, linear: Linear, matrix: StoredMatrix | None) -> Operation:
    """A line of the bill for a matrix; of one that lies in a file the bytes are the file's."""
    traffic = linear.traffic
    if matrix is not None:
        traffic = replace(traffic, weights_bytes=matrix.values_bytes, scales_bytes=matrix.scales_bytes)
    return Operation(name, count, traffic, linear.flops)


def _total(operations: tuple[Operation, ...]) -> Traffic:
    total = Traffic()
    for op in operations:
        total = total + op.traffic * op.count
    return total
