"""A model packed for whole decode steps: matrices, caches and buffers for step.py.

>>> packed = PackedModel(inputs, threads=2)
>>> packed.run()
>>> packed.logits.shape        # [batch·queries, vocab]

Matrices that share their input are packed as one: q, k, v; gate, up. All of a model's matrices lie in one
byte arena, so that one compilation serves every layer of every model with heads of the same shape.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.cpu.attention.decode import flat_cache
from membound.kernels.cpu.attention.several import new_method
from membound.kernels.cpu.matmul.grouping import grouping
from membound.kernels.cpu.matmul.pack import aligned_bytes, pack_rows, packed_bytes
from membound.kernels.cpu.matmul.recipe import Recipe, choose, mixed_format
from membound.kernels.cpu.step.packed import Packed
from membound.kernels.cpu.step.step import Buffers, Caches, Gains, Norms, Sizes, step_kernel
from membound.kernels.features import bounded, tokens_of
from membound.kernels.forward import temperatures
from membound.kernels.inputs import ModelInputs
from membound.kernels.model import Model
from membound.kernels.parts import Attention, Latent, Mixer, Mlp
from membound.kernels.weights.formats import EVERY_INTEGER_FORMAT, F32, KVCache, Weight, common_order
from membound.kernels.work import Prefill, Step

NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Weights of one input that are packed as one matrix."""

    n: int
    k: int
    names: tuple[str, ...]


def _layer_matrices(model: Model) -> tuple[_Matrix, ...]:
    gate_up = ("gate", "up") if model.gated else ("up",)
    return (
        _Matrix(model.q_dim + 2 * model.kv_dim, model.hidden, ("q", "k", "v")),
        _Matrix(model.hidden, model.q_dim, ("o",)),
        _Matrix(len(gate_up) * model.intermediate, model.hidden, gate_up),
        _Matrix(model.hidden, model.intermediate, ("down",)),
    )


class PackedModel(Packed):
    """A model's weights, caches and buffers, ready to run."""

    def __init__(self, inputs: ModelInputs, threads: int) -> None:
        work, model = inputs.work, inputs.model
        if not isinstance(work, Step):
            raise AssertionError(f"{type(work).__name__} is no Step")
        recipe, last = recipes_of(work, work.rows, work.rows)
        matrices = PackedMatrices(inputs, recipe, last, positions_of(work))
        buffers = _buffers(work.rows, model, recipe, last, matrices.shapes)
        heads, method = attention_of(work)
        kernel = step_kernel(
            recipe.format, recipe.act, work.rows, work.kv, heads, method, last.format, last.act
        )
        arguments = (
            np.ascontiguousarray(inputs.x.reshape(-1)), matrices.arena, matrices.starts, matrices.gains,
            caches_of(inputs), buffers, sizes_of(model, work.batch, positions_of(work), threads),
        )  # fmt: skip
        logits = buffers.logits.reshape(last.rows, -1)[: work.rows, : model.vocab]
        self._ready(kernel, arguments, logits, matrices.size_bytes)


class PackedMatrices:
    """All matrices of a model in one arena, the LM head by a recipe of its own, and the norms, biases and angles beside them.

    `positions`: the places of the tokens whose angles they are.
    """

    def __init__(self, inputs: ModelInputs, recipe: Recipe, head: Recipe, positions: range) -> None:
        model = inputs.model
        self.shapes = _layer_matrices(model)
        rows = {name: n for name, (n, _) in model.layer_matrices.items()}
        sizes = [
            stored_bytes(inputs.work, recipe, index, [(name, rows[name]) for name in m.names], m.k)
            for index in range(model.layers)
            for m in self.shapes
        ]
        sizes.append(head.matrix_bytes(model.vocab, model.hidden))
        aligned = [-(-size // 64) * 64 for size in sizes]
        self.starts = np.concatenate([[0], np.cumsum(aligned)]).astype(np.int64)
        self.arena = aligned_bytes(self.size_bytes)
        small: list[Mapping[str, F32]] = []
        orders = Orders(max(m.k for m in self.shapes))
        for place, weights in enumerate(self._groups(inputs, small)):
            start, end = self.starts[place], self.starts[place + 1]
            last = place == len(sizes) - 1
            pack_rows(weights, head if last else recipe, self.arena[start:end])
            if not last:
                orders.add(weights)
        self.gains = gains_of(inputs, small, orders.rows(), positions)

    @property
    def size_bytes(self) -> int:
        """Packed bytes of all matrices."""
        return int(self.starts[-1])

    def _groups(self, inputs: ModelInputs, small: list[Mapping[str, F32]]) -> Iterator[list[Weight]]:
        """Matrices in the order of the arena; a layer's weights are dropped when it is done."""
        for index in range(inputs.model.layers):
            layer = inputs.layer(index)
            small.append(layer.vectors)
            for matrix in self.shapes:
                yield [layer.matrices[name] for name in matrix.names]
        yield [inputs.lm_head()]


def positions_of(work: Step) -> range:
    """The places of a step's new tokens."""
    return range(work.context, work.context + work.queries)


def attention_of(work: Step, mixer: Attention | None = None) -> tuple[int, str]:
    """HEADS and METHOD of `attend_new` for a model without latent attention, or for its layers that have this mixer."""
    model = work.shape
    q_heads, kv_heads, dim = (
        (model.q_heads, model.kv_heads, model.head_dim)
        if mixer is None
        else (mixer.q_heads, mixer.kv_heads, mixer.head_dim)
    )
    if work.queries > 1:
        return 0, new_method(work.kv, dim, bounded(work))
    shape = grouping(work.kv, q_heads // kv_heads, dim)
    return shape.heads, shape.method


def sizes_of(model: Model, batch: int, positions: range, threads: int) -> Sizes:
    """The model's shape as numbers, its heads those of the first attention, and new tokens at these places of each sequence."""
    decoder, queries, context = model.decoder, len(positions), positions.start
    first = decoder.layers[0]
    mixer, rope = first.mixer, next((one.mixer.rope for one in decoder.layers if one.mixer.rope), None)
    return Sizes(
        hidden=model.hidden,
        layers=model.layers,
        kv_heads=model.kv_heads,
        group=model.q_heads // model.kv_heads,
        dim=model.head_dim,
        keys_are_values=False,
        value_norm=False,
        intermediate=model.intermediate,
        vocab=model.vocab,
        gated=model.gated,
        smooth=(first.mlp if isinstance(first.mlp, Mlp) else first.mlp.expert).activation == "gelu_tanh",
        centred=decoder.norm == "layer",
        neighbours=rope is not None and rope.neighbours,
        queries=queries,
        sequences=batch,
        sequence=0,
        turns=queries,
        turn=0,
        context=context,
        capacity=positions.stop,
        seen=np.array([layer.mixer.seen(p) for layer in decoder.layers for p in positions], np.int64),
        turned_norm=np.array([_norms_turned(layer.mixer) for layer in decoder.layers]),
        eps=decoder.eps,
        softcap=mixer.softcap if isinstance(mixer, Attention) else 0.0,
        residual=first.residual,
        logit_gain=decoder.logit_gain,
        logit_softcap=decoder.logit_softcap,
        threads=threads,
    )


def gains_of(
    inputs: ModelInputs,
    layers: list[Mapping[str, F32]],
    orders: npt.NDArray[np.int32],
    positions: range,
    of: Collection[int] | None = None,
) -> Gains:
    """Vectors of all layers, a row each, and what positions and scales make of a step: a row for each layer and position.

    `of`: the layers whose heads are meant, where others have heads of another width; rows of others are zeros.
    """
    decoder = inputs.model.decoder
    there = range(len(layers)) if of is None else of

    def rows(*names: str) -> F32:
        parts = [[layer[name] for name in names if name in layer] for layer in layers]
        return _stack([np.concatenate([NOTHING, *row]) for row in parts])

    def norms(name: str) -> Norms:
        return Norms(rows(name), rows(f"{name}_bias"))

    bias = inputs.source.final_bias()
    final = Norms(_stack([inputs.final_norm()]), _stack([NOTHING if bias is None else bias]))
    cosines, sines = _turns(inputs.model, positions, tokens_of(inputs.work), there)

    def heads(*names: str) -> F32:
        parts = [[layer[n] for n in names if n in layer and i in there] for i, layer in enumerate(layers)]
        return _stack([np.concatenate([NOTHING, *row]) for row in parts])

    return Gains(
        norms("attention_norm"),
        norms("attention_out_norm"),
        norms("mlp_norm"),
        norms("mlp_out_norm"),
        final,
        heads("q_bias", "k_bias", "v_bias"),
        rows("o_bias"),
        rows("gate_bias", "up_bias", "shared.gate_bias", "shared.up_bias"),
        rows("down_bias", "shared.down_bias"),
        heads("q_norm"),
        heads("k_norm"),
        cosines,
        sines,
        np.array([_scale(layer.mixer, p) for layer in decoder.layers for p in positions], np.float32),
        rows("sinks").reshape(-1),
        orders,
    )


def _scale(mixer: Mixer, position: int) -> float:
    """What queries at that position are multiplied by so that the kernel's 1/sqrt(dim) makes the model's scores."""
    if not isinstance(mixer, Attention):
        return 1.0
    warmth = float(temperatures(mixer, np.array([position]))[0]) if mixer.temperature else 1.0
    return warmth * (mixer.scale * sqrt(mixer.head_dim) if mixer.scale else 1.0)


def _norms_turned(mixer: Mixer) -> bool:
    """Whether heads have norms behind RoPE."""
    return isinstance(mixer, Attention) and mixer.head_norm == "l2"


def _turns(model: Model, positions: range, length: int, of: Collection[int]) -> tuple[F32, F32]:
    """Cos and sin of the RoPE of these layers, [layers · positions, pairs], in sequences of that length; others turn by nothing."""
    mixers, places = [layer.mixer for layer in model.decoder.layers], np.array(positions)
    tables = [
        mixer.rope.table(places, _turning_width(mixer), length) if mixer.rope and index in of else None
        for index, mixer in enumerate(mixers)
    ]
    pairs = max((table[0].shape[-1] for table in tables if table), default=0)
    still = np.ones((len(places), pairs)), np.zeros((len(places), pairs))
    cosines, sines = zip(*(table or still for table in tables), strict=True)
    return _stack([row for cos in cosines for row in cos]), _stack([row for sin in sines for row in sin])


def _turning_width(mixer: Mixer) -> int:
    """Of what RoPE turns, a head or the part of it that turns."""
    if isinstance(mixer, Latent):
        return mixer.rope_dim
    return mixer.head_dim if isinstance(mixer, Attention) else 0


class Orders:
    """Collects the orders in which columns lie, a row for each packed matrix of layers."""

    def __init__(self, widest: int) -> None:
        self._widest = widest
        self._rows: list[npt.NDArray[np.int32]] = []
        self._any = False

    def add(self, weights: Sequence[Weight]) -> None:
        """The order of matrices with the same input; no matrices have a row too. Raises Unsupported where orders differ."""
        row = np.arange(self._widest, dtype=np.int32)
        if (order := common_order(weights)) is not None:
            self._any = True
            row[: len(order)] = order
        self._rows.append(row)

    def rows(self) -> npt.NDArray[np.int32]:
        """[matrices, widest]; no rows where every column lies in its place."""
        return np.stack(self._rows) if self._any else np.zeros((0, self._widest), np.int32)


def recipes_of(work: Step | Prefill, rows: int, head_rows: int) -> tuple[Recipe, Recipe]:
    """How what every token meets in layers is multiplied by `rows`, and how the LM head is by `head_rows`."""
    if work.stored is None:
        return choose(work.weight, work.act, rows), choose(work.weight, work.act, head_rows)
    head = work.stored.head.format
    act = work.act if head in EVERY_INTEGER_FORMAT else "float"
    return choose(mixed_format(work.stored.formats), work.act, rows), choose(head, act, head_rows)


def stored_bytes(
    work: Step | Prefill, recipe: Recipe, index: int, shapes: Sequence[tuple[str, int]], k: int
) -> int:
    """Packed bytes of matrices of layer `index` that share an input, of which `shapes` has names and rows."""
    held = None if work.stored is None else work.stored.layers[index]
    formats = [recipe.format if held is None else held[name].format for name, _ in shapes]
    return packed_bytes(recipe, [(fmt, n) for fmt, (_, n) in zip(formats, shapes, strict=True)], k)


def _stack(rows: Sequence[npt.NDArray[Any]]) -> F32:
    """One under the other; zeros, which nobody reads, where layers have nothing there or less than the widest."""
    width = max(row.shape[-1] for row in rows)
    filled = [np.pad(row, (0, width - row.shape[-1])) for row in rows]
    return np.ascontiguousarray(np.stack(filled), np.float32)


def caches_of(inputs: ModelInputs) -> Caches:
    """Keys and values of all layers with room for the new tokens; of latent attention, values within keys, as one array."""
    work, model = inputs.work, inputs.model
    if not isinstance(work, Step):
        raise AssertionError(f"{type(work).__name__} is no Step")
    rows = (model.layers, work.batch, model.kv_heads, work.context + work.queries)
    first = inputs.cache(next(i for i, one in enumerate(model.decoder.layers) if one.mixer.token_numbers))
    k = np.zeros((*rows, model.head_dim), first.k.dtype)
    latent = isinstance(model.decoder.layers[0].mixer, Latent)
    v = k if latent else np.zeros_like(k)
    k_scales, v_scales = (np.ones(rows, np.float32) if work.kv == "int8" else None for _ in range(2))
    if latent:
        v_scales = k_scales
    for index in range(model.layers):
        if not model.decoder.layers[index].mixer.token_numbers:
            continue  # its place is never touched, and takes no memory
        cache = inputs.cache(index)
        k[index, :, :, : work.context] = cache.k
        v[index, :, :, : work.context, : cache.v.shape[-1]] = cache.v
        for held, scales in ((k_scales, cache.k_scales), (v_scales, cache.v_scales)):
            if held is not None and scales is not None:
                held[index, :, :, : work.context] = scales
    return Caches(*flat_cache(KVCache(work.kv, k, v, k_scales, v_scales)))


def _buffers(
    tokens: int, model: Model, recipe: Recipe, last: Recipe, matrices: tuple[_Matrix, ...]
) -> Buffers:
    def out(n: int, of: Recipe = recipe) -> F32:
        return np.zeros(of.rows * of.padded_n(n), np.float32)

    def rows(width: int) -> F32:
        return np.zeros(tokens * width, np.float32)

    qkv, o, wide, _down = matrices
    widest = max(last.scratch_bytes(model.hidden), *(recipe.scratch_bytes(m.k) for m in matrices))
    return Buffers(
        rows(model.hidden), rows(model.hidden), out(qkv.n), rows(model.q_dim), out(wide.n),
        rows(model.intermediate), out(o.n), out(model.vocab, last), rows(max(m.k for m in matrices)), aligned_bytes(widest),
    )  # fmt: skip
