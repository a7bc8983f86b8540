"""Small decoders as ONNX files, node by node, with the operators and names that exporters use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, HEADS, KV_HEADS, WIDTH, MLP, VOCAB, PLACES = 32, 2, 1, 16, 64, 50, 256
CONTRIB = "com.microsoft"
BLOCK = 32


class Drawing:
    """Nodes and arrays of a file under construction; matrices are random, and each is another."""

    def __init__(self, weight: str = "f32", seed: int = 0) -> None:
        self.weight = weight
        self.kind = np.float16 if weight == "f16" else np.float32
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def array(self, name: str, values: Any) -> str:
        self.arrays.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(
        self, op: str, inputs: list[str], outputs: list[str] | str, domain: str = "", **more: Any
    ) -> str:
        names = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(helper.make_node(op, inputs, names, domain=domain, name=names[0], **more))
        return names[0]

    def gain(self, name: str) -> str:
        return self.array(name, (1 + self.rng.standard_normal(HIDDEN) / 8).astype(self.kind))

    def matrix(self, k: int, n: int) -> np.ndarray[Any, Any]:
        return (self.rng.standard_normal((k, n)) / np.sqrt(k)).astype(self.kind)

    def linear(self, x: str, y: str, n: int, k: int, level: int = 0) -> str:
        """y = x · W for a new matrix: MatMul, or MatMulNBits of four bits."""
        if self.weight != "int4":
            return self.node("MatMul", [x, self.array(f"{y}.w", self.matrix(k, n))], y)
        blocks = k // BLOCK
        q = self.array(f"{y}.q", self.rng.integers(0, 256, (n, blocks, BLOCK // 2), np.uint8))
        scales = (self.rng.random((n, blocks)) + 0.5) / (4 * np.sqrt(k))
        s = self.array(f"{y}.s", scales.astype(np.float32))
        more = {"accuracy_level": level} if level else {}
        return self.node("MatMulNBits", [x, q, s], y, CONTRIB, K=k, N=n, bits=4, block_size=BLOCK, **more)

    def model(self, inputs: list[Any], outputs: list[Any], opset: int = 21) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, self.arrays)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    @property
    def element(self) -> int:
        return TensorProto.FLOAT16 if self.weight == "f16" else TensorProto.FLOAT


def _declared(name: str, element: int, dims: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, dims)


def _ends(
    drawing: Drawing, layers: int, past: str = "past_sequence_length", cache: list[Any] | None = None
) -> tuple[Any, Any]:
    """Inputs and outputs of a decoder, as onnxruntime-genai and optimum declare them."""
    ids = [_declared("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])]
    mask = [_declared("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"])]
    dims = cache or ["batch_size", KV_HEADS, past, WIDTH]
    caches, outputs = [], [_declared("logits", drawing.element, ["batch_size", "sequence_length", VOCAB])]
    for layer in range(layers):
        for part in ("key", "value"):
            caches.append(_declared(f"past_key_values.{layer}.{part}", drawing.element, dims))
            present = ["batch_size", KV_HEADS, f"present_{past}", WIDTH]
            outputs.append(_declared(f"present.{layer}.{part}", drawing.element, present))
    return [*ids, *mask, *caches], outputs


def gqa_model(
    weight: str = "f32", layers: int = 2, tied: bool = False, window: int = 0, level: int = 0
) -> onnx.ModelProto:
    """As onnxruntime-genai's builder makes it: GroupQueryAttention with its cache, rotary tables and fused norms.

    With a `window` caches are window-sized. `tied`: one table is embedding and, transposed, LM head.
    """
    d = Drawing(weight)
    d.node("ReduceSum", ["attention_mask", d.array("one_axis", np.array([1]))], "counted", keepdims=1)
    d.node("Sub", ["counted", d.array("one", np.array([1]))], "last")
    d.node("Cast", ["last"], "seqlens_k", to=TensorProto.INT32)
    d.node("Shape", ["attention_mask"], "mask_shape")
    d.node("Gather", ["mask_shape", d.array("second", np.array(1))], "total64", axis=0)
    d.node("Cast", ["total64"], "total", to=TensorProto.INT32)
    angles = np.arange(PLACES)[:, None] / 10000 ** (np.arange(0, WIDTH, 2) / WIDTH)
    tables = [d.array("cos", np.cos(angles).astype(d.kind)), d.array("sin", np.sin(angles).astype(d.kind))]
    d.array("table", (d.rng.standard_normal((VOCAB, HIDDEN)) / 4).astype(d.kind))
    skip = d.node("Gather", ["table", "input_ids"], "embedded")
    normed = d.node(
        "SimplifiedLayerNormalization", [skip, d.gain("gain.first")], "normed", axis=-1, epsilon=1e-5
    )
    for layer in range(layers):
        here = f"layer{layer}"
        widths = {"q": HEADS * WIDTH, "k": KV_HEADS * WIDTH, "v": KV_HEADS * WIDTH}
        heads = [d.linear(normed, f"{here}.{name}", width, HIDDEN, level) for name, width in widths.items()]
        names = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        more = {"local_window_size": window, "sliding_window_cache": 1} if window else {}
        d.node(
            "GroupQueryAttention",
            [*heads, *names, "seqlens_k", "total", *tables],
            [f"{here}.attended", *(f"present.{layer}.{part}" for part in ("key", "value"))],
            CONTRIB,
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            do_rotary=1,
            **more,
        )
        o = d.linear(f"{here}.attended", f"{here}.o", HIDDEN, HEADS * WIDTH, level)
        skip, normed = _skip_norm(d, skip, o, f"{here}.mlp")
        gate, up = (d.linear(normed, f"{here}.{name}", MLP, HIDDEN, level) for name in ("gate", "up"))
        d.node("Sigmoid", [gate], f"{here}.sigmoid")
        d.node("Mul", [gate, f"{here}.sigmoid"], f"{here}.silu")
        d.node("Mul", [f"{here}.silu", up], f"{here}.hidden")
        down = d.linear(f"{here}.hidden", f"{here}.down", HIDDEN, MLP, level)
        skip, normed = _skip_norm(d, skip, down, f"{here}.next")
    if tied:
        d.node("Transpose", ["table"], "head", perm=[1, 0])
        d.node("MatMul", [normed, "head"], "logits")
    else:
        d.linear(normed, "logits", VOCAB, HIDDEN, level)
    return d.model(*_ends(d, layers, "past_sliding_length" if window else "past_sequence_length"))


def _skip_norm(d: Drawing, x: str, y: str, name: str) -> tuple[str, str]:
    """The sum, and its norm."""
    outputs = [f"{name}.normed", "", "", f"{name}.sum"]
    d.node("SkipSimplifiedLayerNormalization", [x, y, d.gain(f"{name}.gain")], outputs, CONTRIB, epsilon=1e-5)
    return outputs[3], outputs[0]


def plain_model(weight: str = "f32", opset: int = 17) -> onnx.ModelProto:
    """One layer as optimum exports it: ONNX's own operators, and a cache that is joined with the new rows."""
    d = Drawing(weight)
    d.array("table", (d.rng.standard_normal((VOCAB, HIDDEN)) / 4).astype(d.kind))
    d.node("Gather", ["table", "input_ids"], "x")
    axes = d.array("axes", np.array([-1]))
    d.node("Pow", ["x", d.array("two", np.array(2, d.kind))], "squares")
    d.node("ReduceMean", ["squares"], "mean", axes=[-1]) if opset < 18 else d.node(
        "ReduceMean", ["squares", axes], "mean"
    )
    d.node("Add", ["mean", d.array("eps", np.array(1e-5, d.kind))], "shifted")
    d.node("Sqrt", ["shifted"], "root")
    d.node("Div", ["x", "root"], "unit")
    d.node("Mul", ["unit", d.gain("gain")], "normed")
    shape = d.array("heads", np.array([0, 0, -1, WIDTH]))
    for name, count in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
        d.linear("normed", f"{name}.flat", count * WIDTH, HIDDEN)
        d.node("Reshape", [f"{name}.flat", shape], f"{name}.heads")
        d.node("Transpose", [f"{name}.heads"], name, perm=[0, 2, 1, 3])
    for name, part in (("k", "key"), ("v", "value")):
        d.node("Concat", [f"past_key_values.0.{part}", name], f"present.0.{part}", axis=2)
    d.node("Transpose", ["present.0.key"], "keys", perm=[0, 1, 3, 2])
    d.node("MatMul", ["q", "keys"], "raw")
    d.node("Mul", ["raw", d.array("scale", np.array(WIDTH**-0.5, d.kind))], "scaled")
    d.node("Cast", ["attention_mask"], "mask", to=d.element)
    d.node("Unsqueeze", ["mask", d.array("mask_axes", np.array([1, 2]))], "mask4")
    d.node("Sub", [d.array("unit_number", np.array(1, d.kind)), "mask4"], "hidden_places")
    d.node("Mul", ["hidden_places", d.array("low", np.array(-6e4, d.kind))], "added")
    d.node("Add", ["scaled", "added"], "scores")
    d.node("Softmax", ["scores"], "weights", axis=-1)
    d.node("MatMul", ["weights", "present.0.value"], "heads_out")
    d.node("Transpose", ["heads_out"], "rows", perm=[0, 2, 1, 3])
    d.node("Reshape", ["rows", d.array("flat", np.array([0, 0, HEADS * WIDTH]))], "attended")
    d.node("Add", ["x", d.linear("attended", "o", HIDDEN, HEADS * WIDTH)], "y")
    d.linear("y", "logits", VOCAB, HIDDEN)
    return d.model(*_ends(d, 1), opset=opset)


def saved(model: onnx.ModelProto, path: Path, external: bool = False) -> Path:
    """The file, its arrays inside or in ``<name>.data`` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if external:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=128)
    else:
        onnx.save(model, path)
    return path
