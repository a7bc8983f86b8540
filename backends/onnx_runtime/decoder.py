"""A whole decoder as an ONNX graph, written node by node: nothing but onnx is needed for it.

>>> graph = decoder_graph(inputs)
>>> graph.serialize(), graph.weights()

RMSNormalization, the linears of `Graph.linear`, GroupQueryAttention with RoPE and the cache in it, and the
MLP, for each layer; then the final norm and the LM head. Matrices that share their input are stacked row on
row. `membound.backends.onnx_runtime.export` fills the same frame, `declare_decoder`, with what torch exports.

Imports onnx; imported only in a worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from membound.backends.onnx_runtime.caches import add_tables, declare_caches
from membound.backends.onnx_runtime.graph import CONTRIB, Graph, stack
from membound.backends.onnx_runtime.latent import latent_half
from membound.backends.onnx_runtime.routed import routed_half, silu_gated
from membound.kernels.inputs import ModelInputs
from membound.kernels.layer_tensors import routed_part
from membound.kernels.model import Model
from membound.kernels.parts import Attention, Experts, Latent, Mlp
from membound.kernels.weights.formats import F32
from membound.kernels.weights.layers import LayerWeights
from membound.kernels.work import Prefill, Step

FLAT, HEADS = "flat_shape", "heads_shape"
SINKS = 11
"""The place of sinks among GroupQueryAttention's inputs."""


def decoder_graph(inputs: ModelInputs) -> Graph:
    """x [rows, hidden] and the caches `past_k.i`, `past_v.i` -> y `output_shape` and `present_k.i`, `present_v.i`.

    Caches are those of `caches.cache_shapes`, in the work's format, f32 or f16, to be bound to the same memory as past and present.
    """
    model, work = inputs.model, inputs.work
    graph = declare_decoder(inputs)
    if not isinstance(model.decoder.layers[0].mixer, Latent):
        graph.array(FLAT, np.array([-1, model.q_dim]))
        graph.array(HEADS, np.array([work.batch, -1, model.q_dim + 2 * model.kv_dim]))
    x = "x"
    for index, shared in enumerate(add_tables(graph, inputs)):
        x = _layer(graph, inputs, index, x, shared)
    if isinstance(work, Prefill) and work.tokens > 1:
        x = _last_of_each(graph, x, work.tokens)
    normed = _norm(graph, x, "final_norm", inputs.final_norm(), model.norm_eps)
    bounded = model.decoder.logit_gain != 1 or model.decoder.logit_softcap != 0
    graph.linear(normed, "head" if bounded else "y", inputs.lm_head(), work.act)
    if bounded:
        _bound(graph, "y", model, "head")
    return graph


def router_room(inputs: ModelInputs) -> dict[str, F32]:
    """Room for the logits that each layer's experts are chosen by, by the names of the graph's outputs."""
    layers = enumerate(inputs.model.decoder.layers)
    return {
        f"layer{index}.logits": np.zeros((len(inputs.x), layer.mlp.count), np.float32)
        for index, layer in layers
        if isinstance(layer.mlp, Experts)
    }


def chosen_of(inputs: ModelInputs) -> int:
    """Experts that a row takes in a layer; 0 of a dense model."""
    part = routed_part(inputs.model.decoder)
    return part.chosen if part else 0


def output_shape(inputs: ModelInputs) -> tuple[int, int]:
    """Logits of every row of a step, or of the last token of each sequence of a prompt."""
    work = inputs.work
    return (work.rows if isinstance(work, Step) else work.batch), inputs.model.vocab


def declare_decoder(inputs: ModelInputs) -> Graph:
    """A graph with a decoder's inputs and outputs, as yet without a node."""
    graph = Graph()
    graph.declare_input("x", (len(inputs.x), inputs.model.hidden))
    graph.declare_output("y", output_shape(inputs))
    declare_caches(graph, inputs)
    return graph


def _layer(graph: Graph, inputs: ModelInputs, index: int, x: str, shared: Sequence[str]) -> str:
    """The nodes of one layer on x [rows, hidden]; the name of what it gives."""
    model, act, here = inputs.model, inputs.work.act, f"layer{index}."
    kind, weights = model.decoder.layers[index], inputs.layer(index)
    m, vectors = weights.matrices, weights.vectors
    normed = _named_norm(graph, x, here, "attention_norm", vectors, model.norm_eps)
    if isinstance(kind.mixer, Latent):
        out = latent_half(graph, inputs, index, weights, normed)
    else:
        graph.linear(
            normed, f"{here}qkv", stack([m["q"], m["k"], m["v"]]), act, _biases(vectors, "q", "k", "v")
        )
        heads = _attend(graph, inputs, index, vectors, shared)
        out = f"{here}o"
        graph.linear(heads, out, m["o"], act, _biases(vectors, "o"))
    out = _named_norm(graph, out, here, "attention_out_norm", vectors, model.norm_eps)
    graph.node("Add", [x, _times(graph, out, kind.residual)], [f"{here}x"])
    normed = _named_norm(graph, f"{here}x", here, "mlp_norm", vectors, model.norm_eps)
    if isinstance(kind.mlp, Experts):
        out = routed_half(graph, inputs, index, kind.mlp, weights, normed)
    else:
        out = _mlp(graph, here, kind.mlp, weights, act, normed)
    out = _named_norm(graph, out, here, "mlp_out_norm", vectors, model.norm_eps)
    graph.node("Add", [f"{here}x", _times(graph, out, kind.residual)], [f"{here}y"])
    return f"{here}y"


def _mlp(graph: Graph, here: str, mlp: Mlp, weights: LayerWeights, act: str, normed: str) -> str:
    """The MLP of a layer; the name of what it gives."""
    m, vectors = weights.matrices, weights.vectors
    into = ("gate", "up") if mlp.gated else ("up",)
    graph.linear(normed, f"{here}up", stack([m[name] for name in into]), act, _biases(vectors, *into))
    graph.linear(_activate(graph, here, mlp), f"{here}down", m["down"], act, _biases(vectors, "down"))
    return f"{here}down"


def _norm(graph: Graph, x: str, y: str, gain: F32, eps: float) -> str:
    """RMSNorm over the last axis."""
    graph.node("RMSNormalization", [x, graph.array(f"{y}.gain", gain)], [y], axis=-1, epsilon=eps)
    return y


def _named_norm(graph: Graph, x: str, here: str, name: str, vectors: Mapping[str, F32], eps: float) -> str:
    """The norm of that name, if the layer has it."""
    return _norm(graph, x, f"{here}{name}", vectors[name], eps) if name in vectors else x


def _times(graph: Graph, x: str, factor: float) -> str:
    """X times a number."""
    if factor == 1:
        return x
    graph.node("Mul", [x, graph.array(f"{x}.factor", np.array(factor, np.float32))], [f"{x}.scaled"])
    return f"{x}.scaled"


def _attend(
    graph: Graph, inputs: ModelInputs, index: int, vectors: Mapping[str, F32], shared: Sequence[str]
) -> str:
    """From stacked q, k, v to attention's output [rows, Hq·D]: head norms, RoPE, the append, attention."""
    model, here = inputs.model, f"layer{index}."
    mixer = model.decoder.layers[index].mixer
    if not isinstance(mixer, Attention):
        raise AssertionError("no attention that GroupQueryAttention takes")
    if not mixer.head_norm:
        graph.node("Reshape", [f"{here}qkv", HEADS], [f"{here}heads"])
        heads = [f"{here}heads", "", ""]
    else:
        heads = _normed_heads(graph, inputs, here, vectors)
    half = inputs.work.kv == "f16"
    if half:
        heads = [graph.cast(name, f"{name}16", np.float16) if name else "" for name in heads]
    attended = f"{here}attended"
    wires = [*heads, *(f"past_{n}.{index}" for n in "kv"), *shared]
    if mixer.sinks:
        own = vectors["sinks"].astype(np.float16 if half else np.float32)
        wires += [*[""] * (SINKS - len(wires)), graph.array(f"{here}sinks", own)]
    bends = {"scale": mixer.scale} if mixer.scale else {}
    if mixer.rope is not None:
        bends |= {"do_rotary": 1, "rotary_interleaved": int(mixer.rope.neighbours)}
    bends |= {"softcap": mixer.softcap} if mixer.softcap else {}
    if isinstance(work := inputs.work, Step) and work.queries > 1 and mixer.window:
        bends |= {"local_window_size": mixer.window}  # a later query sees less of what the first one sees
    graph.node(
        "GroupQueryAttention",
        wires,
        [f"{attended}16" if half else attended, *(f"present_{n}.{index}" for n in "kv")],
        CONTRIB,
        num_heads=model.q_heads,
        kv_num_heads=model.kv_heads,
        **bends,
    )
    if half:
        graph.cast(f"{attended}16", attended, np.float32)
    graph.node("Reshape", [attended, FLAT], [f"{here}flat"])
    return f"{here}flat"


def _normed_heads(graph: Graph, inputs: ModelInputs, here: str, vectors: Mapping[str, F32]) -> list[str]:
    """q, k and v apart, [B, T, H·D] each; every head of q and k, or all of them together, under an RMSNorm."""
    model, batch = inputs.model, inputs.work.batch
    sizes = graph.array(f"{here}sizes", np.array([model.q_dim, model.kv_dim, model.kv_dim]))
    graph.node("Split", [f"{here}qkv", sizes], [f"{here}split_{n}" for n in "qkv"], axis=1)
    for name in "qk":
        gain = vectors[f"{name}_norm"]
        each = graph.array(f"{here}each_head_{name}", np.array([-1, len(gain)]))
        graph.node("Reshape", [f"{here}split_{name}", each], [f"{here}each_{name}"])
        _norm(graph, f"{here}each_{name}", f"{here}normed_{name}", gain, model.norm_eps)
    heads = {"q": ("normed_q", model.q_dim), "k": ("normed_k", model.kv_dim), "v": ("split_v", model.kv_dim)}
    for name, (source, width) in heads.items():
        shape = graph.array(f"{here}{name}_shape", np.array([batch, -1, width]))
        graph.node("Reshape", [f"{here}{source}", shape], [f"{here}{name}"])
    return [f"{here}{name}" for name in heads]


def _activate(graph: Graph, here: str, mlp: Mlp) -> str:
    """SwiGLU of stacked gate and up, the same with the tanh approximation of GELU, or that alone."""
    y = f"{here}hidden"
    if not mlp.gated:
        graph.node("Gelu", [f"{here}up"], [y], approximate="tanh")
        return y
    if mlp.activation != "gelu_tanh":
        return silu_gated(graph, here, f"{here}up")
    gate, up, gated = (f"{here}{name}" for name in ("gate_half", "up_half", "gated"))
    graph.node("Split", [f"{here}up"], [gate, up], axis=1, num_outputs=2)
    graph.node("Gelu", [gate], [gated], approximate="tanh")
    graph.node("Mul", [gated, up], [y])
    return y


def _bound(graph: Graph, y: str, model: Model, head: str) -> None:
    """The model's logits y of what its head gives: times their gain, within their cap."""
    decoder = model.decoder
    scaled = _times(graph, head, decoder.logit_gain)
    if not decoder.logit_softcap:
        graph.node("Identity", [scaled], [y])
        return
    inner = _times(graph, scaled, 1 / decoder.logit_softcap)
    graph.node("Tanh", [inner], [f"{inner}.tanh"])
    cap = graph.array("logit_softcap", np.array(decoder.logit_softcap, np.float32))
    graph.node("Mul", [f"{inner}.tanh", cap], [y])


def _last_of_each(graph: Graph, x: str, tokens: int) -> str:
    """The last of each sequence's `tokens` rows of x, [batch, hidden]."""
    bounds = {"starts": tokens - 1, "ends": np.iinfo(np.int64).max, "axes": 0, "steps": tokens}
    names = [graph.array(f"last_{name}", np.array([value])) for name, value in bounds.items()]
    graph.node("Slice", [x, *names], ["last"])
    return "last"


def _biases(vectors: Mapping[str, F32], *names: str) -> F32 | None:
    """Biases of matrices that are stacked; None where there are none."""
    parts = [vectors[f"{name}_bias"] for name in names if f"{name}_bias" in vectors]
    return np.concatenate(parts) if parts else None
