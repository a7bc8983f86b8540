"""The definition of every operation in NumPy float64: what a backend's output is compared with.

>>> from membound.kernels.seeded import make_inputs
>>> from membound.kernels.work import parse
>>> inputs = make_inputs(parse("linear:n=8,k=32,m=2,weight=int8"), seed=1)
>>> y = compute(inputs, slot=0)
>>> relative_error(y.astype(np.float32), y) < tolerance(inputs.work)
True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import inf, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.attention_reference import causal_attention as causal_attention
from membound.kernels.attention_reference import decode_attention as decode_attention
from membound.kernels.attention_reference import latent_attention as latent_attention
from membound.kernels.features import tokens_of
from membound.kernels.forward import (
    beside,
    feed_forward,
    latent_heads,
    latent_output,
    layer_norm,
    mixture,
    rms_norm,
    sigmoid,
    silu,
    softcapped,
    temperatures,
)
from membound.kernels.indexing import I64, Flags, Packed, index_heads, left_out, rows_of, selected
from membound.kernels.inputs import (
    AttentionInputs,
    ExpertInputs,
    Inputs,
    LinearInputs,
    ModelInputs,
    OnnxInputs,
)
from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.model import Model
from membound.kernels.parts import Attention, Decoder, Experts, Latent, Layer
from membound.kernels.products import linear as linear
from membound.kernels.products import quantize_rows as quantize_rows
from membound.kernels.recurrence import mix
from membound.kernels.rope import Rope, rope
from membound.kernels.routing import mixed, route
from membound.kernels.stored_cache import append, last_tokens, store_cache, store_rows
from membound.kernels.tolerances import tolerance as tolerance
from membound.kernels.weights.formats import KVCache
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.weights.states import State, empty_state
from membound.kernels.work import DecodeAttention, LatentAttention, Step

F64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Hold = Callable[[int, KVCache], KVCache]
"""(layer, keys and values of the tokens at hand) -> all that these tokens may see."""

FEW_OUTPUTS = 64


def compute(inputs: Inputs, slot: int) -> F64:
    """The output of `inputs.work` on input set `slot`, in the shape of `Backend.output`."""
    if isinstance(inputs, LinearInputs):
        return linear(inputs.x, inputs.weight(slot), inputs.work.act)
    if isinstance(inputs, AttentionInputs):
        if isinstance(inputs.work, LatentAttention):
            return latent_attention(inputs.q, inputs.cache(slot))
        if inputs.q.ndim == 4:
            return several_queries(inputs, slot)
        return decode_attention(inputs.q, inputs.cache(slot))
    if isinstance(inputs, ExpertInputs):
        return experts(inputs, slot)
    if isinstance(inputs, OnnxInputs):
        from membound.kernels.onnx_reference import onnx_step

        return onnx_step(inputs)
    return step(inputs) if isinstance(inputs.work, Step) else prefill(inputs)


def typical_size(inputs: Inputs, slot: int) -> float:
    """The norm that outputs would have if the terms of each sum had random signs; 0 for whole models.

    One output, or a few, can come out near zero by chance: rounding of its terms is then no smaller, but many times
    the output. Of `FEW_OUTPUTS` together the norm is this one's within a third.
    """
    if isinstance(inputs, LinearInputs):
        squares = linear(inputs.x, inputs.weight(slot), inputs.work.act, 2)
    elif isinstance(inputs, AttentionInputs) and isinstance(inputs.work, DecodeAttention):
        if inputs.q.ndim == 4:
            squares = several_queries(inputs, slot, 2)
        else:
            squares = decode_attention(inputs.q, inputs.cache(slot), 2)
    elif isinstance(inputs, ExpertInputs):
        squares = experts(inputs, slot, 2)
    else:
        return 0.0
    return sqrt(float(squares.sum()))


def several_queries(inputs: AttentionInputs, slot: int, power: int = 1) -> F64:
    """Attention of q [B, s, Hq, D] of tokens that stand behind the cache, and are part of it then. Power as in `linear`."""
    cache = inputs.cache(slot)
    k, v = inputs.new_tokens(slot)
    whole = append(cache, store_cache(k.astype(np.float64), v.astype(np.float64), cache.format))
    q = inputs.q.astype(np.float64).transpose(0, 2, 1, 3)
    return causal_attention(q, whole, cache.k.shape[2], power=power).transpose(0, 2, 1, 3)


def relative_error(y: npt.NDArray[Any], reference: F64, least: float = 0.0) -> float:
    """rms(y - reference) / rms(reference); inf if `y` has another shape, or either a value that is not finite.

    `least` is the norm that the reference counts for at least: `typical_size` of few outputs.
    """
    if y.shape != reference.shape or not (np.isfinite(y).all() and np.isfinite(reference).all()):
        return inf
    error = float(np.linalg.norm(y.astype(np.float64) - reference))
    size = max(float(np.linalg.norm(reference)), least)
    if size == 0:
        return inf if error else 0.0
    return error / size


def experts(inputs: ExpertInputs, slot: int, power: int = 1) -> F64:
    """y [batch, hidden]: the router's choice, and the shares of its experts' outputs. Power as in `linear`, in the last products."""
    act, weight_set = inputs.work.act, inputs.set_of(slot)
    logits = inputs.x.astype(np.float64) @ inputs.router(slot).astype(np.float64).T
    ids, shares = route(logits, inputs.work.chosen)

    def expert(number: int, x: Floats) -> F64:
        gate, up, down = inputs.expert(weight_set, number)
        return linear(silu(linear(x, gate, act)) * linear(x, up, act), down, act, power)

    return mixed(inputs.x, ids, shares**power, expert)


def rope_frequencies(model: Model) -> F64:
    """Angle per position of each pair, [head_dim / 2], of a model as Llama is; scaled as Llama 3 does where set."""
    mixer = model.decoder.layers[0].mixer
    if not isinstance(mixer, Attention) or mixer.rope is None:
        raise AssertionError("no RoPE")
    return mixer.rope.frequencies(mixer.head_dim, 1)


def step(inputs: ModelInputs, routes: list[I64] | None = None, selections: list[I64] | None = None) -> F64:
    """Logits [batch·queries, vocab] of a decode step, whose new tokens stand from position `context` on.

    Each choice of experts is added to `routes`, the tokens that each layer's attention with an index sees to `selections`.
    """
    work, x = inputs.work, inputs.x.astype(np.float64)
    if not isinstance(work, Step):
        raise AssertionError(f"{type(work).__name__} is no Step")
    positions, ids = work.context + np.arange(work.queries), None
    for index, kind in enumerate(inputs.model.decoder.layers):
        layer = inputs.layer(index)
        if isinstance(kind.mixer, GatedDelta | Mamba2):
            x, _ = _stateful(inputs, kind, layer, x, inputs.state(index), routes)
            continue
        mixer = kind.attention
        ids = _selected(inputs, index, kind, layer, x, ids)
        if ids is not None and selections is not None:
            selections.append(ids)
        q, new = project(inputs, kind, layer, x, positions)
        cache = append(inputs.cache(index), new)
        if work.queries > 1:
            attended = causal_attention(q, cache, work.context, mixer, layer.vectors.get("sinks"))
        elif ids is not None:
            attended = decode_attention(q[:, :, 0], rows_of(cache, ids))[:, :, None]
        else:
            seen = last_tokens(cache, mixer.seen(work.context) + 1)
            attended = decode_attention(q[:, :, 0], seen, **_bends(mixer, layer))[:, :, None]
        x = finish_layer(inputs, kind, layer, x, attended, routes)
    return logits(inputs, x)


def _selected(
    inputs: ModelInputs, index: int, kind: Layer, layer: LayerWeights, x: F64, before: I64 | None
) -> I64 | None:
    """The cached tokens that a layer with an index sees; those of the last one before where it has none of its own. None without."""
    if not isinstance(kind.mixer, Latent) or kind.mixer.index is None:
        return None
    if kind.mixer.index.shared:
        return before
    product = partial(_product, layer, inputs.work.act)
    normed = norm(inputs.model.decoder, layer, "attention_norm", x)
    keys, place = inputs.index_keys(index), np.array([inputs.index_keys(index).k.shape[2]])
    made = index_heads(normed, kind.mixer, place, length_of(inputs), product, layer.vectors)
    new = store_rows(made.k, inputs.work.kv, made.k.shape[-1])
    return selected(made, append(keys, new), kind.mixer)


def _bends(mixer: Attention | Latent, layer: LayerWeights) -> dict[str, Any]:
    """What bends the scores of a decode step, where a model has it."""
    if isinstance(mixer, Latent):
        return {}
    cap = {"softcap": mixer.softcap} if mixer.softcap else {}
    return cap | ({"sinks": layer.vectors["sinks"]} if mixer.sinks else {})


def prefill(inputs: ModelInputs, selections: list[Packed] | None = None) -> F64:
    """Logits [batch, vocab] of each sequence's last token; x is [batch·tokens, hidden], sequence by sequence. `selections`: as in `run_tokens`."""
    work, x = inputs.work, inputs.x.astype(np.float64)
    if isinstance(work, Step):
        raise AssertionError("a Step is no prompt")
    x = run_tokens(inputs, x, np.arange(work.tokens), lambda index, new: new, selections=selections)
    return logits(inputs, x[work.tokens - 1 :: work.tokens])


def run_tokens(
    inputs: ModelInputs,
    x: F64,
    positions: npt.NDArray[Any],
    hold: Hold,
    before: Mapping[int, State] | None = None,
    left: dict[int, State] | None = None,
    selections: list[Packed] | None = None,
    hold_keys: Hold = lambda index, new: new,
) -> F64:
    """x [B·T, hidden] at `positions` [T], which follow each other, through all layers. `hold_keys`: as `hold`, of indexes.

    `before`: states by layer, or empty ones; `left` takes those behind the last token, `selections` what an index lets see, packed bits [B, T, T].
    """
    unseen = None
    for index, kind in enumerate(inputs.model.decoder.layers):
        layer = inputs.layer(index)
        if isinstance(kind.mixer, GatedDelta | Mamba2):
            state = before[index] if before else empty_state(kind.mixer, len(x) // len(positions))
            x, after = _stateful(inputs, kind, layer, x, state)
            if left is not None:
                left[index] = after
            continue
        q, new = project(inputs, kind, layer, x, positions)
        cache, sinks = hold(index, new), layer.vectors.get("sinks")
        unseen = _unseen(inputs, kind, layer, x, positions, unseen, partial(hold_keys, index))
        if unseen is not None and selections is not None:
            selections.append(np.packbits(~unseen, -1))
        attended = causal_attention(q, cache, int(positions[0]), kind.attention, sinks, unseen=unseen)
        x = finish_layer(inputs, kind, layer, x, attended)
    return x


def _unseen(
    inputs: ModelInputs,
    kind: Layer,
    layer: LayerWeights,
    x: F64,
    positions: npt.NDArray[Any],
    before: Flags | None,
    hold: Callable[[KVCache], KVCache],
) -> Flags | None:
    """Which tokens an index leaves out: those of the last layer before where this one has none of its own. None without."""
    if not isinstance(kind.mixer, Latent) or kind.mixer.index is None:
        return None
    if kind.mixer.index.shared:
        return before
    product, length = partial(_product, layer, inputs.work.act), length_of(inputs)
    normed = norm(inputs.model.decoder, layer, "attention_norm", x)
    return left_out(normed, kind.mixer, positions, length, product, layer.vectors, inputs.work.kv, hold)


def length_of(inputs: ModelInputs) -> int:
    """Tokens of a sequence in all, which some kinds of RoPE go by."""
    return tokens_of(inputs.work)


def project(
    inputs: ModelInputs, kind: Layer, layer: LayerWeights, x: F64, positions: npt.NDArray[Any]
) -> tuple[F64, KVCache]:
    """q [B, Hq, T, D] of x [B·T, hidden] and what the cache keeps of it: norm, matmul, bias, head norm, RoPE.

    Queries are longer where the scale of their scores is not 1/√D. For latent attention keys are the rows that are cached,
    values their beginnings.
    """
    decoder, act, mixer, length = inputs.model.decoder, inputs.work.act, kind.attention, length_of(inputs)
    normed = norm(decoder, layer, "attention_norm", x)
    if isinstance(mixer, Latent):
        product = partial(_product, layer, act)
        q, rows = latent_heads(normed, mixer, positions, length, product, layer.vectors)
        return q, store_rows(rows, inputs.work.kv, mixer.kv_rank)

    def heads(name: str, turning: Rope | None) -> F64:
        made = "k" if name == "v" and mixer.keys_are_values else name
        y = linear(normed, layer.matrices[made], act)
        if made in mixer.biases:
            y += layer.vectors[f"{made}_bias"]
        gain = layer.vectors.get(f"{name}_norm")
        if gain is not None and mixer.head_norm == "all":
            y = rms_norm(y, gain, decoder.eps)
        y = y.reshape(-1, len(positions), y.shape[1] // mixer.head_dim, mixer.head_dim)
        if gain is not None and mixer.head_norm == "head":
            y = rms_norm(y, gain, decoder.eps)
        y = y.transpose(0, 2, 1, 3)
        if turning is not None:
            y = rope(y, positions, turning, length)
        return rms_norm(y, 1.0, decoder.eps) if name in mixer.gainless_norms else y

    q = heads("q", mixer.rope)
    if mixer.scale:
        q = q * (mixer.scale * sqrt(mixer.head_dim))
    if mixer.temperature:
        q = q * temperatures(mixer, positions)[:, None]
    return q, store_cache(heads("k", mixer.rope), heads("v", None), inputs.work.kv)


def finish_layer(
    inputs: ModelInputs,
    kind: Layer,
    layer: LayerWeights,
    x: F64,
    attention: F64,
    routes: list[I64] | None = None,
) -> F64:
    """Output projection, residual, norm, MLP or experts, residual; attention is [B, Hq, T, D]. `routes` as in `step`."""
    decoder, product, vectors = inputs.model.decoder, partial(_product, layer, inputs.work.act), layer.vectors
    mixer = kind.attention
    if isinstance(mixer, Latent):
        y = latent_output(attention, mixer, product, vectors)
    else:
        heads = attention.transpose(0, 2, 1, 3).reshape(len(x), -1)
        if mixer.gated:
            heads = heads * sigmoid(product("out_gate", norm(decoder, layer, "attention_norm", x)))
        y = product("o", heads)
        y = y + vectors["o_bias"] if "o" in mixer.biases else y
    return _second_half(
        inputs, kind, layer, _add(x, kind, norm(decoder, layer, "attention_out_norm", y)), routes
    )


def _stateful(
    inputs: ModelInputs,
    kind: Layer,
    layer: LayerWeights,
    x: F64,
    before: State,
    routes: list[I64] | None = None,
) -> tuple[F64, State]:
    """A layer whose mixer has a state, x [B·T, hidden], and the state behind its last token."""
    if not isinstance(kind.mixer, GatedDelta | Mamba2):
        raise AssertionError("no state")
    decoder, product = inputs.model.decoder, partial(_product, layer, inputs.work.act)
    normed = norm(decoder, layer, "attention_norm", x)
    y, after = mix(normed, kind.mixer, before, product, layer.vectors, decoder.eps)
    return _second_half(inputs, kind, layer, _add(x, kind, y), routes), after


def _second_half(
    inputs: ModelInputs, kind: Layer, layer: LayerWeights, x: F64, routes: list[I64] | None
) -> F64:
    """Norm, MLP or experts, residual; x itself where the layer has none."""
    if kind.norms == "half":
        return x
    decoder, product, vectors = inputs.model.decoder, partial(_product, layer, inputs.work.act), layer.vectors
    normed = norm(decoder, layer, "mlp_norm", x)
    if isinstance(kind.mlp, Experts) and kind.norms == "both_beside":
        y = beside(x, normed, kind.mlp, product, vectors, decoder.eps, routes)
    elif isinstance(kind.mlp, Experts):
        y = mixture(normed, kind.mlp, product, vectors, routes)
    else:
        y = feed_forward(normed, kind.mlp, product, vectors)
    x = _add(x, kind, norm(decoder, layer, "mlp_out_norm", y))
    return x * float(vectors["layer_gain"][0]) if kind.gain else x


def _product(layer: LayerWeights, act: str, name: str, x: F64) -> F64:
    return linear(x, layer.matrices[name], act)


def _add(x: F64, kind: Layer, y: F64) -> F64:
    return x + y if kind.residual == 1 else x + kind.residual * y


def norm(decoder: Decoder, layer: LayerWeights, name: str, x: F64) -> F64:
    """x under the norm of that name; x itself in a layer without one."""
    if name not in layer.vectors:
        return x
    return _normed(decoder, x, layer.vectors[name], layer.vectors.get(f"{name}_bias"))


def _normed(decoder: Decoder, x: F64, gain: Floats, bias: Floats | None) -> F64:
    if decoder.norm == "layer":
        return layer_norm(x, gain, bias, decoder.eps)
    return rms_norm(x, gain, decoder.eps)


def logits(inputs: ModelInputs, x: F64) -> F64:
    """[rows, vocab] of hidden states [rows, hidden]: the final norm and the LM head."""
    decoder = inputs.model.decoder
    normed = _normed(
        decoder, x, inputs.final_norm(), inputs.source.final_bias() if decoder.norm_vectors > 1 else None
    )
    y = linear(normed, inputs.lm_head(), inputs.work.act)
    return softcapped(y if decoder.logit_gain == 1 else y * decoder.logit_gain, decoder.logit_softcap)
