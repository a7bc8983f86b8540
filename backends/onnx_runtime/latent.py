"""Latent attention in a decode step, of plain operators: ONNX Runtime has none that reads one row for all heads.

>>> y = latent_half(graph, inputs, index=0, weights=inputs.layer(0), normed="layer0.attention_norm")

The up-projections are absorbed and never multiplied with each other: of each head one matrix makes its query as wide as a cached
row, another one makes values of the sum of rows. The new row is written into the cache in place, and both products read the rows
as they lie; of their sum the columns of RoPE are dropped behind it. The heads of several new tokens of a sequence stand below each
other, and a mask hides from each token those behind it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from membound.backends.onnx_runtime.graph import CONTRIB, Graph, stack
from membound.kernels.forward import LATENT_EPS
from membound.kernels.inputs import ModelInputs
from membound.kernels.parts import Latent
from membound.kernels.weights.formats import F32, FORMATS, Weight, dequantize
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.work import Step


def latent_half(graph: Graph, inputs: ModelInputs, index: int, weights: LayerWeights, normed: str) -> str:
    """From the normed hidden state to what attention adds to it; the name of that [rows, hidden]."""
    mixer, work, here = inputs.model.decoder.layers[index].mixer, inputs.work, f"layer{index}."
    if not isinstance(mixer, Latent) or not isinstance(work, Step):
        raise AssertionError("no step of latent attention")
    q, row = _project(graph, mixer, weights, work.act, here, normed)
    k_up, v_up = _absorbed(graph, mixer, weights.matrices["kv_up"], here)
    _tables(graph, mixer, work, here)
    query = _query(graph, mixer, work, here, q, k_up)
    _append(graph, mixer, work, index, row, weights.vectors["kv_norm"])
    scale = mixer.scale or (mixer.nope_dim + mixer.rope_dim) ** -0.5
    scores, shares, mixed = (f"{here}{name}" for name in ("scores", "shares", "mixed_rows"))
    rows = f"present_rows.{index}"
    graph.node("FusedMatMul", [query, rows], [scores], CONTRIB, transB=1, alpha=scale)
    graph.node("Softmax", [_masked(graph, mixer, work, here, scores)], [shares], axis=-1)
    graph.node("MatMul", [shares, rows], [mixed])
    values = _values(graph, mixer, work, here, mixed, v_up)
    graph.linear(values, f"{here}o", weights.matrices["o"], work.act, weights.vectors.get("o_bias"))
    return f"{here}o"


def _project(
    graph: Graph, mixer: Latent, weights: LayerWeights, act: str, here: str, normed: str
) -> tuple[str, str]:
    """Names of q [rows, heads · (nope + rope)] and of what goes down to a row of the cache [rows, rank + rope]."""
    matrices, vectors = weights.matrices, weights.vectors
    first = "q_down" if mixer.q_rank else "q"
    pair = [matrices[first], matrices["kv_down"]]
    down = f"{here}down_q_kv"
    graph.linear(normed, down, stack(pair), act, _biases(vectors, {first: pair[0].n, "kv_down": pair[1].n}))
    sizes = graph.array(f"{here}down_sizes", np.array([one.n for one in pair]))
    q, row = f"{here}{first}", f"{here}row"
    graph.node("Split", [down, sizes], [q, row], axis=1)
    if not mixer.q_rank:
        return q, row
    gain = graph.array(f"{here}q_norm.gain", vectors["q_norm"])
    graph.node("RMSNormalization", [q, gain], [f"{here}q_norm"], axis=-1, epsilon=LATENT_EPS)
    graph.linear(f"{here}q_norm", f"{here}q", matrices["q_up"], act)
    return f"{here}q", row


def _biases(vectors: Mapping[str, F32], widths: Mapping[str, int]) -> F32 | None:
    """The biases of matrices that are stacked, zeros for one without; None if none has any."""
    if not any(f"{name}_bias" in vectors for name in widths):
        return None
    parts = [vectors.get(f"{name}_bias", np.zeros(n, np.float32)) for name, n in widths.items()]
    return np.concatenate(parts)


def _absorbed(graph: Graph, mixer: Latent, kv_up: Weight, here: str) -> tuple[str, str]:
    """Of each head the matrix for queries [heads, nope, rank] and the one for values [heads, rank, value], float32."""
    width = mixer.nope_dim + mixer.value_dim
    both = dequantize(kv_up).reshape(mixer.q_heads, width, mixer.kv_rank)
    asked = sum(FORMATS[kv_up.format].matrix_bytes(kv_up.n, kv_up.k))
    graph.extra_bytes += both.nbytes - asked
    k_up = graph.array(f"{here}k_up", np.ascontiguousarray(both[:, : mixer.nope_dim]))
    v_up = np.ascontiguousarray(both[:, mixer.nope_dim :].transpose(0, 2, 1))
    return k_up, graph.array(f"{here}v_up", v_up)


def _tables(graph: Graph, mixer: Latent, work: Step, here: str) -> None:
    """Cos and sin of the new tokens' positions [queries, rope / 2], and the first one's row of them."""
    length = work.context + work.queries
    tables = mixer.rope.table(np.arange(work.context, length), mixer.rope_dim, length)
    for name, values in zip(("cos", "sin"), tables, strict=True):
        graph.array(f"{here}{name}", values.astype(np.float32))
    graph.array(f"{here}position", np.zeros(1, np.int64))


def _turn(graph: Graph, mixer: Latent, here: str, x: str, y: str, heads: int) -> None:
    """Y: x [batch, queries, heads · rope] turned to the new tokens' positions."""
    graph.node(
        "RotaryEmbedding",
        [x, *(f"{here}{name}" for name in ("position", "cos", "sin"))],
        [y],
        CONTRIB,
        interleaved=int(mixer.rope.neighbours),
        num_heads=heads,
        rotary_embedding_dim=mixer.rope_dim,
    )


def _query(graph: Graph, mixer: Latent, work: Step, here: str, q: str, k_up: str) -> str:
    """The absorbed queries [batch, queries · heads, rank + rope]."""
    heads, sizes = f"{here}q_heads", np.array([mixer.nope_dim, mixer.rope_dim])
    shape = np.array([work.rows, mixer.q_heads, mixer.nope_dim + mixer.rope_dim])
    graph.node("Reshape", [q, graph.array(f"{here}q_shape", shape)], [heads])
    nope, moving = f"{here}q_nope", f"{here}q_rope"
    graph.node("Split", [heads, graph.array(f"{here}q_sizes", sizes)], [nope, moving], axis=2)
    by_head, wide, absorbed = (f"{here}{name}" for name in ("q_by_head", "q_wide", "q_absorbed"))
    graph.node("Transpose", [nope], [by_head], perm=[1, 0, 2])
    graph.node("MatMul", [by_head, k_up], [wide])
    graph.node("Transpose", [wide], [absorbed], perm=[1, 0, 2])
    flat, turned, apart = (f"{here}{name}" for name in ("q_flat", "q_turned", "q_apart"))
    each_row = graph.array(f"{here}q_row", np.array([work.batch, work.queries, -1]))
    graph.node("Reshape", [moving, each_row], [flat])
    _turn(graph, mixer, here, flat, turned, mixer.q_heads)
    each = graph.array(f"{here}q_each", np.array([work.rows, mixer.q_heads, mixer.rope_dim]))
    graph.node("Reshape", [turned, each], [apart])
    query = f"{here}query"
    graph.node("Concat", [absorbed, apart], [query], axis=2)
    return (
        _reshaped(graph, query, (work.batch, work.queries * mixer.q_heads, -1)) if work.queries > 1 else query
    )


def _masked(graph: Graph, mixer: Latent, work: Step, here: str, scores: str) -> str:
    """Scores [batch, queries · heads, places], minus infinity where a new token stands behind the query's own."""
    if work.queries == 1:
        return scores
    mask = np.zeros((work.queries, 1, work.context + work.queries), np.float32)
    mask[:, 0, work.context :] = np.triu(np.full((work.queries,) * 2, -np.inf, np.float32), 1)
    apart = _reshaped(graph, scores, (work.batch, work.queries, mixer.q_heads, -1))
    masked = f"{here}scores_masked"
    graph.node("Add", [apart, graph.array(f"{here}mask", mask)], [masked])
    return _reshaped(graph, masked, (work.batch, work.queries * mixer.q_heads, -1))


def _reshaped(graph: Graph, x: str, shape: tuple[int, ...]) -> str:
    """The same numbers in another shape."""
    y = f"{x}.reshaped"
    graph.node("Reshape", [x, graph.array(f"{x}.shape", np.array(shape))], [y])
    return y


def _append(graph: Graph, mixer: Latent, work: Step, index: int, row: str, gain: F32) -> None:
    """The new rows, their content normed and their keys turned, into the last places of each sequence's cache."""
    here = f"layer{index}."
    content, key, normed = (f"{here}{name}" for name in ("content", "key", "content_norm"))
    sizes = graph.array(f"{here}row_sizes", np.array([mixer.kv_rank, mixer.rope_dim]))
    shape = graph.array(f"{here}row_shape", np.array([work.batch, work.queries, -1]))
    graph.node("Reshape", [row, shape], [f"{row}.new"])
    graph.node("Split", [f"{row}.new", sizes], [content, key], axis=2)
    gains = graph.array(f"{here}kv_norm.gain", gain)
    graph.node("RMSNormalization", [content, gains], [normed], axis=-1, epsilon=LATENT_EPS)
    _turn(graph, mixer, here, key, f"{here}key_turned", 1)
    graph.node("Concat", [normed, f"{here}key_turned"], [f"{here}new_row"], axis=2)
    new = np.arange(work.context, work.context + work.queries)
    last = np.stack(np.meshgrid(np.arange(work.batch), new, indexing="ij"), -1)
    places = graph.array(f"{here}places", last.astype(np.int64))
    wires = [f"past_rows.{index}", places, f"{here}new_row"]
    graph.node("ScatterND", wires, [f"present_rows.{index}"])


def _values(graph: Graph, mixer: Latent, work: Step, here: str, mixed: str, v_up: str) -> str:
    """Values [rows, heads · value] of sums of cached rows [batch, queries · heads, rank + rope]."""
    if work.queries > 1:
        mixed = _reshaped(graph, mixed, (work.rows, mixer.q_heads, -1))
    by_head, kept, made, back, flat = (
        f"{here}{name}" for name in ("rows_by_head", "rows_kept", "values_by_head", "values_back", "values")
    )
    graph.node("Transpose", [mixed], [by_head], perm=[1, 0, 2])
    bounds = [
        graph.array(f"{here}kept_{name}", np.array([value]))
        for name, value in (("from", 0), ("to", mixer.kv_rank), ("axis", 2))
    ]
    graph.node("Slice", [by_head, *bounds], [kept])
    graph.node("MatMul", [kept, v_up], [made])
    graph.node("Transpose", [made], [back], perm=[1, 0, 2])
    graph.node("Reshape", [back, graph.array(f"{here}values_shape", np.array([work.rows, -1]))], [flat])
    return flat
