"""A whole decoder as an ONNX graph of torch's making: its layer exported once, then written out for every layer.

>>> graph = exported_graph(inputs)
>>> graph.serialize(), graph.weights()

`torch.onnx.export` exports one layer of `membound.backends.pytorch.model`, with its linears as placeholder operators and
GroupQueryAttention as the attention (`torch.onnx.ops.symbolic_multi_out`), and the final norm with the LM head. The nodes
are then repeated for each layer, and every placeholder is replaced by the nodes of that matrix's format. An export
therefore takes seconds and needs no weights, however deep the model is.

Imports torch and onnx; imported only in a worker.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.onnx import ops

from membound.backends.onnx_runtime.caches import SHARED, add_tables, cache_shapes, shared_arrays
from membound.backends.onnx_runtime.decoder import declare_decoder
from membound.backends.onnx_runtime.graph import CONTRIB, OPSET, Graph, stack
from membound.backends.pytorch.linear import FormatLinear
from membound.backends.pytorch.model import DecoderLayer, Head, RmsNorm
from membound.kernels.inputs import LayerWeights, ModelInputs, Weight
from membound.kernels.model import Model
from membound.kernels.weights.formats import F32

PLACEHOLDER = "membound"


def exported_graph(inputs: ModelInputs) -> Graph:
    """As `decoder_graph` of `membound.backends.onnx_runtime.decoder`, of torch's nodes; the cache is float32."""
    model, work = inputs.model, inputs.work
    graph = declare_decoder(inputs)
    tokens = len(inputs.x) // work.batch
    add_tables(graph, inputs)
    places = cache_shapes(inputs)["k.0"][2]
    template = _layer_template(model, work.batch, tokens, places)
    x = "x"
    for index in range(model.layers):
        names = {"x": x, "past_k": f"past_k.{index}", "past_v": f"past_v.{index}"}
        names |= {f"present_{n}": f"present_{n}.{index}" for n in "kv"} | {n: n for n in SHARED}
        x = f"layer{index}.y"
        layer = _layer(model, inputs.layer(index), len(inputs.x))
        _write(graph, template, f"layer{index}.", names, layer, work.act)
    head = _head(model, inputs.final_norm(), inputs.lm_head(), tokens)
    _write(graph, _head_template(model, work.batch, tokens), "head.", {"x": x, "y": "y"}, head, work.act)
    return graph


class Placeholder(FormatLinear):
    """Takes the place of a linear while the module is exported, and keeps the matrix for `Graph.linear`."""

    def __init__(self, name: str, weights: Sequence[Weight], bias: F32 | None) -> None:
        super().__init__(sum(w.n for w in weights), weights[0].k, None)
        self.activation = torch.float32
        self.name, self.weights, self.linear_bias = name, weights, bias

    def forward(self, x: Tensor) -> Tensor:
        """X [rows, k] -> y [rows, n], an operator that only `_write` knows."""
        shape = (x.shape[0], self.n)
        name = f"{PLACEHOLDER}::Linear"
        return ops.symbolic(name, [x], attrs={"linear": self.name}, dtype=x.dtype, shape=shape)


def _layer(model: Model, weights: LayerWeights, rows: int) -> DecoderLayer:
    """A layer of torch's decoder whose linears are placeholders, named by the order they are made in."""
    made: list[Placeholder] = []

    def make_linear(matrices: Sequence[Weight], bias: F32 | None, rows: int) -> FormatLinear:
        made.append(Placeholder(f"linear{len(made)}", matrices, bias))
        return made[-1]

    return DecoderLayer(model, model.decoder.layers[0], weights, make_linear, rows)


def _head(model: Model, gain: F32, lm_head: Weight, tokens: int) -> Head:
    return Head(RmsNorm(gain, model.norm_eps), Placeholder("lm_head", [lm_head], None), tokens)


class _LayerCall(nn.Module):
    """A layer as a function of x, its cache, `SHARED` and its gains, so that all of them are inputs."""

    def __init__(self, layer: DecoderLayer, model: Model) -> None:
        super().__init__()
        self.layer, self.model = layer, model

    def forward(self, x: Tensor, past: list[Tensor], shared: list[Tensor], gains: list[Tensor]) -> Any:
        """[y, present_k, present_v]."""
        present: list[Tensor] = []
        batch = past[0].shape[0]
        q_dim = self.model.q_dim

        def attend(heads: Tensor) -> Tensor:
            packed = heads.reshape(batch, -1, q_dim + 2 * self.model.kv_dim)
            out, *caches = ops.symbolic_multi_out(
                f"{CONTRIB}::GroupQueryAttention",
                [packed, None, None, *past, *shared],
                attrs={
                    "num_heads": self.model.q_heads,
                    "kv_num_heads": self.model.kv_heads,
                    "do_rotary": 1,
                },
                dtypes=[x.dtype] * 3,
                shapes=[(batch, packed.shape[1], q_dim), past[0].shape, past[1].shape],
                version=1,
            )
            present.extend(caches)
            return out.reshape(-1, q_dim)

        return [_call(self.layer, gains, (x, attend)), *present]


class _HeadCall(nn.Module):
    """The final norm and LM head as a function of x and the norm's gain."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor, gains: list[Tensor]) -> Any:
        """Logits."""
        return _call(self.head, gains, (x,))


def _call(module: nn.Module, gains: list[Tensor], args: tuple[Any, ...]) -> Any:
    """The module with `gains` in place of its own, in the order of its buffers."""
    names = [name for name, _ in module.named_buffers()]
    return torch.func.functional_call(module, dict(zip(names, gains, strict=True)), args)


@cache
def _layer_template(model: Model, batch: int, tokens: int, places: int) -> onnx.GraphProto:
    """The exported graph of a layer, made from shapes alone, so that all formats and layers share it."""
    ones = np.ones(max(model.hidden, model.q_dim), np.float32)
    decoder = model.decoder
    matrices = {name: _no_weight(n, k) for name, (n, k) in model.layer_matrices.items()}
    vectors = {name: ones[:n] for name, n in decoder.vector_widths(decoder.layers[0]).items()}
    layer = _layer(model, LayerWeights(matrices, vectors), batch * tokens)
    gains = dict(layer.named_buffers())
    past = [torch.empty(1).expand(batch, model.kv_heads, places, model.head_dim) for _ in "kv"]
    shared = [
        torch.from_numpy(a)
        for a in shared_arrays(decoder.layers[0].attention, batch, places, places).values()
    ]
    args = (torch.empty(batch * tokens, model.hidden), past, shared, list(gains.values()))
    names = ["x", "past_k", "past_v", *SHARED, *gains]
    return _export(_LayerCall(layer, model), args, names, ["y", "present_k", "present_v"])


@cache
def _head_template(model: Model, batch: int, tokens: int) -> onnx.GraphProto:
    """The exported graph of the final norm and the LM head."""
    gain = np.ones(model.hidden, np.float32)
    head = _head(model, gain, _no_weight(model.vocab, model.hidden), tokens)
    gains = dict(head.named_buffers())
    args = (torch.empty(batch * tokens, model.hidden), list(gains.values()))
    return _export(_HeadCall(head), args, ["x", *gains], ["y"])


def _no_weight(n: int, k: int) -> Weight:
    """A matrix that takes no memory."""
    return Weight("f32", n, k, np.broadcast_to(np.float32(0), (n, k)))


def _export(
    module: nn.Module, args: tuple[Any, ...], input_names: list[str], output_names: list[str]
) -> onnx.GraphProto:
    """Nodes and constants of a module, from torch's exporter."""
    # It reports optional packages (torchvision) that nothing here uses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own use of what torch and Python deprecate
        program = torch.onnx.export(
            module.eval(),
            args,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=input_names,
            output_names=output_names,
        )
    if program is None:
        raise AssertionError("no program")
    graph: onnx.GraphProto = program.model_proto.graph
    return graph


def _write(
    graph: Graph,
    template: onnx.GraphProto,
    prefix: str,
    names: Mapping[str, str],
    module: nn.Module,
    act: str,
) -> None:
    """Copy an exported graph. Names are as in `names`, or else prefixed; gains and matrices are those of `module`."""
    linears = {m.name: m for m in module.modules() if isinstance(m, Placeholder)}

    def rename(name: str) -> str:
        return names.get(name, prefix + name) if name else ""

    for name, gain in module.named_buffers():
        graph.array(rename(name), gain.numpy())
    for constant in template.initializer:
        graph.array(rename(constant.name), onnx.numpy_helper.to_array(constant))
    for node in template.node:
        inputs, outputs = [[rename(n) for n in side] for side in (node.input, node.output)]
        if node.domain == PLACEHOLDER:
            linear = linears[_linear_name(node)]
            graph.linear(inputs[0], outputs[0], stack(linear.weights), act, linear.linear_bias)
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        copy.input[:], copy.output[:] = inputs, outputs
        graph.copy_node(copy)


def _linear_name(node: onnx.NodeProto) -> str:
    values: Iterator[bytes] = (a.s for a in node.attribute if a.name == "linear")
    return next(values).decode()
