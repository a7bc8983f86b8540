"""A whole model at work: a decode step and a prompt, with the bill of their operations.

>>> [(one.name, one.count) for one in Step("tiny", layers=1).operations][:2]
[('q', 1), ('k', 1)]

Bytes and FLOPs are the sums over the bill.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from membound.kernels.bill import Operation, prompt_operations, step_operations, token_bytes, total
from membound.kernels.layer_tensors import matrices_of, routed_part
from membound.kernels.model import Model, ModelError
from membound.kernels.models import get_model
from membound.kernels.operations import (
    ACTIVATION_BYTES,
    MAX_DIMENSION,
    SpecError,
    Traffic,
    check_one_of,
    check_positive,
    check_weight_and_act,
    spec_of,
)
from membound.kernels.parts import Decoder, Experts, Latent
from membound.kernels.route_plan import default_distinct, fits_groups
from membound.kernels.routing import codes_of
from membound.kernels.weights.formats import EVERY_INTEGER_FORMAT, FORMATS, KV_FORMATS, STORED
from membound.kernels.weights.stored.matrices import Stored

__all__ = ["CACHES", "Operation", "Prefill", "Step"]

CACHES = ("random", "prompt")


class _ModelWork(ABC):
    """What a step and a prompt have in common: a model that tokens pass, and the sums over its bill."""

    __slots__ = ()
    _model: Model
    _stored: Stored | None

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
    @abstractmethod
    def operations(self) -> tuple[Operation, ...]:
        """The bill, an operation a line."""

    @property
    def flops(self) -> int:
        """The sum over `operations`."""
        return sum(op.count * op.flops for op in self.operations)

    @property
    def traffic(self) -> Traffic:
        """The sum over `operations`."""
        return total(self.operations)


@dataclass(frozen=True, slots=True)
class Step(_ModelWork):
    """A whole decode step: `queries` new tokens for each of `batch` sequences that hold `context` tokens.

    Norms, QKV, RoPE, cache append from position `context` on, attention over the tokens up to each one's own, output
    projection, MLP, final norm, LM head. Input: hidden states [batch·queries, hidden], sequence by sequence; output: logits
    [batch·queries, vocab]: whoever verifies drafted tokens needs all of them. The cache read counts `context` tokens (the new
    ones are still in registers or cache), the append `queries`. FLOPs of norms, RoPE and activation functions are left out.
    cache=random holds random keys, values and states and starts from random hidden states; cache=prompt holds
    those of a prompt of seeded tokens and starts from the embedding of the next one, as an engine does.
    Of a mixture of experts `distinct` different experts are read in each layer, from those that a row takes to the fewer of all
    and batch·queries times those; 0 fills in what uniform routing has on average. Their router is float32.
    A folder's own router chooses by itself: one row, whose bytes are known.
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
    distinct: int = 0
    queries: int = 1
    content: str = ""
    _model: Model = field(init=False, repr=False, compare=False)
    _stored: Stored | None = field(init=False, repr=False, compare=False)
    kind: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        check_positive(self, "batch", "context", "queries")
        if self.batch * self.queries > MAX_DIMENSION:
            raise SpecError(
                f"step: batch={self.batch} times queries={self.queries} must be at most {MAX_DIMENSION}"
            )
        check_weight_and_act(self)
        check_one_of(self, "kv", KV_FORMATS)
        check_one_of(self, "cache", CACHES)
        _check_model(self)
        if self.queries > 1 and (any(self.shape.decoder.state_bytes) or has_index(self.shape.decoder)):
            raise SpecError(
                f"step: queries={self.queries} goes with caches of which every token is seen; {self.model} has states or an index"
            )

    @property
    def rows(self) -> int:
        """Tokens that pass the matrices of layers at once."""
        return self.batch * self.queries

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The step's bill, an operation a line."""
        return step_operations(self, self.context, self.queries)

    @property
    def footprint_bytes(self) -> int:
        """Memory one input set takes: also the part of a cache that lies before a window, and experts that no row takes."""
        kinds = self.shape.decoder.kinds.items()
        unread = sum(
            count * (self.context - layer.mixer.seen(self.context)) * sum(token_bytes(layer.mixer, self.kv))
            for layer, count in kinds
        )
        return self.traffic.total_bytes + self.batch * unread + _idle_bytes(self)


@dataclass(frozen=True, slots=True)
class Prefill(_ModelWork):
    """The compute-bound counterpart: `tokens` prompt tokens of `batch` sequences through the model at once.

    Causal attention, cache written, logits for the last token of each sequence only. `distinct` as for a step, over all tokens.
    """

    model: str
    batch: int = 1
    tokens: int = 512
    weight: str = "bf16"
    kv: str = "bf16"
    act: str = "float"
    layers: int = 0
    distinct: int = 0
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
    def rows(self) -> int:
        """Tokens that pass the matrices of layers at once."""
        return self.batch * self.tokens

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The prompt's bill, an operation a line."""
        return prompt_operations(self, self.tokens)

    @property
    def footprint_bytes(self) -> int:
        """Memory one input set takes, with the widest intermediate (gate and up) once, and experts that no row takes."""
        wide = 2 * self.batch * self.tokens * self.shape.intermediate * ACTIVATION_BYTES
        return self.traffic.total_bytes + wide + _idle_bytes(self)


def has_index(decoder: Decoder) -> bool:
    """Whether some layers select the tokens that they see."""
    return any(isinstance(one.mixer, Latent) and one.mixer.index is not None for one in decoder.kinds)


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
    _check_group(work, model)
    object.__setattr__(work, "distinct", _distinct_of(work, model.decoder, work.rows))


def _check_group(work: Step | Prefill, model: Model) -> None:
    """Raises SpecError where a matrix has rows that its format does not divide into groups."""
    group = 0 if work.weight == STORED else FORMATS[work.weight].group
    for name, width in _row_widths(model):
        if group and width % group:
            raise SpecError(
                f"{work.kind}: {work.model} has {name} {width}, "
                f"not a multiple of {group} as weight={work.weight} needs"
            )


def _row_widths(model: Model) -> list[tuple[str, int]]:
    """The lengths of the rows of a model's matrices, each with a name."""
    if model.dense:
        return [(name, getattr(model, name)) for name in ("hidden", "intermediate", "q_dim")]
    widths = {"hidden": model.hidden}
    for layer in model.decoder.kinds:
        widths |= {f"rows of {name} of": k for name, (_, k) in matrices_of(layer, model.hidden).items()}
        if isinstance(layer.mlp, Experts):
            widths["an expert's width"] = layer.mlp.expert.width
    return list(widths.items())


def _distinct_of(work: Step | Prefill, decoder: Decoder, rows: int) -> int:
    """Different experts that `rows` rows take in a layer: what is asked for, or what uniform routing takes. Raises SpecError."""
    experts, given = routed_part(decoder), work.distinct
    if given != 0:
        check_positive(work, "distinct")
    if experts is None:
        if given:
            raise SpecError(
                f"{work.kind}: distinct={given} goes with a mixture of experts; {work.model} is dense"
            )
        return 0
    if decoder.folder and rows > 1:
        raise SpecError(
            f"{work.kind}: the router of {work.model} chooses by itself, and which experts {rows} rows take between them is known "
            f"only once they have run: its bytes are known of one row, a step with batch=1 and queries=1"
        )
    distinct = given or default_distinct(experts, rows)
    most = min(experts.count, rows * experts.chosen)
    if not experts.chosen <= distinct <= most:
        raise SpecError(
            f"{work.kind}: distinct={distinct} must be from {experts.chosen}, which a row takes, to {most}, the fewer of all "
            f"{experts.count} experts and {experts.chosen} a row (0: as many as uniform routing takes on average)"
        )
    if not fits_groups(experts, rows, distinct):
        raise SpecError(
            f"{work.kind}: with distinct={distinct} a row would take experts of more than {experts.router.groups_chosen} of "
            f"{experts.router.groups} groups, and the router of {work.model} looks at no more"
        )
    if (codes := codes_of(rows, distinct, experts.chosen)) > decoder.hidden // 2:
        raise SpecError(
            f"{work.kind}: distinct={distinct} makes {codes} different routes, each of which takes a column of the hidden state, and "
            f"{work.model} has {decoder.hidden}, half of which may be taken"
        )
    return distinct


def _idle_bytes(work: Step | Prefill) -> int:
    """Bytes of experts that no row takes."""
    decoder, found = work.shape.decoder, FORMATS.get(work.weight)
    if work.stored is not None:
        experts = routed_part(decoder)
        each = sum(sum(own.expert_bytes) for own in work.stored.experts if own)
        return (experts.count - work.distinct) * each if experts else 0
    idle = 0
    for layer, count in decoder.kinds.items():
        if isinstance(layer.mlp, Experts) and found is not None:
            shapes = layer.mlp.matrices(decoder.hidden).values()
            one = sum(sum(found.matrix_bytes(n, k)) for n, k in shapes)
            idle += count * (layer.mlp.count - work.distinct) * one
    return idle


def _stored_of(work: Step | Prefill, model: Model) -> Stored:
    """What the model's files hold. Raises SpecError."""
    if not model.folder:
        raise SpecError(f"{work.kind}: weight={STORED} goes with a folder; {work.model} is built in")
    from membound.kernels.weights.checkpoint import Checkpoint

    try:
        stored = Checkpoint(model, STORED, seed=0).stored()
    except ModelError as error:
        raise SpecError(f"{work.kind}: {error}") from None
    floats = [name for name in (*stored.formats, *stored.expert_formats) if name not in EVERY_INTEGER_FORMAT]
    if work.act == "int8" and floats:
        raise SpecError(
            f"{work.kind}: act=int8 goes with integer weights, and {work.model} stores {', '.join(floats)}"
        )
    return stored
