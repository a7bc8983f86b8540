"""ONNX graphs of one matrix and of one attention, made node by node; larger ones are composed of these.

>>> graph = Graph()
>>> graph.declare_input("x", (1, k)); graph.linear("x", "y", weight, act="int8"); graph.declare_output("y", (1, n))
>>> session_options.add_external_initializers(*graph.weights()); session_options, graph.serialize()

Weights stay out of the protobuf message (which is limited to 2 GB): the message names them, and the session gets the
arrays. Operators of the domain com.microsoft are ONNX Runtime's own:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md

Imports onnx; imported only in a worker.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from membound.kernels.inputs import AttentionInputs
from membound.kernels.weights.formats import F32, FORMATS, Weight, dequantize, in_kernel_format
from membound.kernels.weights.grouped import pack_int4
from membound.kernels.weights.transpose import transposed
from membound.kernels.work import DecodeAttention

Array = npt.NDArray[Any]
Kind = type[np.floating[Any]]

OPSET = 23  # the first with RMSNormalization; 24 makes the exporter take it apart again
CONTRIB = "com.microsoft"
IR_VERSION = 10  # what OPSET asks for
# Smaller arrays are part of the message, where ONNX Runtime can fold them into its plan.
EXTERNAL_BYTES = 1024
# MatMulNBits: 1 computes in float32, 4 quantises activations to int8 in blocks (ContribOperators.md).
ACCURACY_LEVEL = {"float": 1, "int8": 4}
CACHE_TYPES: dict[str, Kind] = {"f32": np.float32, "f16": np.float16}
"""Cache formats that GroupQueryAttention takes on CPUs as they are."""


class Graph:
    """Nodes, arrays, inputs and outputs of a model under construction.

    `extra_bytes` is what the weights take here beyond what their format asks for.
    """

    def __init__(self) -> None:
        self.extra_bytes = 0
        self._nodes: list[onnx.NodeProto] = []
        self._small: list[onnx.TensorProto] = []
        self._large: dict[str, Array] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def declare_input(self, name: str, shape: Sequence[int], kind: Kind = np.float32) -> None:
        """An input of fixed shape."""
        self._inputs.append(helper.make_tensor_value_info(name, _element(kind), shape))

    def declare_output(self, name: str, shape: Sequence[int], kind: Kind = np.float32) -> None:
        """An output of fixed shape."""
        self._outputs.append(helper.make_tensor_value_info(name, _element(kind), shape))

    def array(self, name: str, values: Array) -> str:
        """Add a constant and return its name. Large ones are kept out of the message."""
        if values.nbytes < EXTERNAL_BYTES:
            self._small.append(numpy_helper.from_array(values, name))
        else:
            self._large[name] = np.ascontiguousarray(values)
        return name

    def node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> None:
        """One operator; optional inputs that are missing at the end are left out."""
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        name = f"{op}:{outputs[0]}"
        self._nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))

    def copy_node(self, node: onnx.NodeProto) -> None:
        """An operator from another graph, its names already made unique."""
        self._nodes.append(node)

    def cast(self, x: str, y: str, kind: Kind) -> str:
        """y: x in another type; returns its name."""
        self.node("Cast", [x], [y], to=_element(kind))
        return y

    def linear(self, x: str, y: str, weight: Weight, act: str, bias: F32 | None = None) -> None:
        """y [m, n] = x [m, k] · Wᵀ + bias for one stored matrix.

        f32 is Gemm. f16, and int8 with float activations, are Gemm too, after being widened here: the CPU provider
        itself widens float16 when it loads it and has no float16 product. For int8 its MatMulNBits unpacks the
        matrix at each call, 4 to 10 times slower than Gemm on the widened one, and DequantizeLinear + MatMul
        silently becomes a kernel that quantises the activations. int8 with int8 activations is
        DynamicQuantizeLinear + MatMulInteger, fused by ONNX Runtime: at one row as fast as MatMulNBits
        with 8 bits, at 16 rows 3 to 4 times as fast (2048 x 2048, AVX-512 VNNI, 2 threads). Its activations
        have one scale and one zero point for all rows; its weights are unsigned where sums of signed ones saturate. int4 is MatMulNBits with the stored values as they
        are and the scales widened to float32, as the operator asks; so is q8_0 with int8 activations, its values plus 128.
        """
        weight = in_kernel_format(weight)
        if weight.format.startswith("int4") or (weight.format, act) == ("q8_0", "int8"):
            self._matmul_nbits(x, y, weight, act, bias)
        elif weight.format == "int8" and act == "int8":
            self._matmul_integer(x, y, weight, bias)
        else:
            w = self.array(f"{y}.w", dequantize(weight))
            c = [] if bias is None else [self.array(f"{y}.bias", bias)]
            self.node("Gemm", [x, w, *c], [y], transB=1)
            self._count(weight, 4 * weight.n * weight.k)

    def _matmul_nbits(self, x: str, y: str, weight: Weight, act: str, bias: F32 | None) -> None:
        if weight.scales is None:
            raise AssertionError("no weight.scales")
        group, bits = FORMATS[weight.format].group, FORMATS[weight.format].bits
        values = weight.values.view(np.uint8) ^ np.uint8(128) if bits == 8 else weight.values
        packed = self.array(f"{y}.w", values.reshape(weight.n, weight.k // group, -1))
        scales = self.array(f"{y}.scales", weight.scales.astype(np.float32))
        zeros = None if weight.zeros is None else _packed_zeros(weight.zeros.view(np.uint8))
        c = [] if zeros is None else [self.array(f"{y}.zeros", zeros)]
        if bias is not None:
            c = [*(c or [""]), "", self.array(f"{y}.bias", bias)]
        self.node(
            "MatMulNBits",
            [x, packed, scales, *c],
            [y],
            CONTRIB,
            K=weight.k,
            N=weight.n,
            bits=bits,
            block_size=group,
            accuracy_level=ACCURACY_LEVEL[act],
        )
        zero_bytes = 0 if zeros is None else zeros.nbytes
        self._count(weight, weight.values.nbytes + 2 * weight.scales.nbytes + zero_bytes)

    def _matmul_integer(self, x: str, y: str, weight: Weight, bias: F32 | None) -> None:
        if weight.scales is None:
            raise AssertionError("no weight.scales")
        unsigned = _int8_sums_saturate()
        w = [self.array(f"{y}.w", transposed(weight.values.view(np.int8), unsigned))]
        w_zero = [self.array(f"{y}.w_zero", np.array(128, np.uint8))] if unsigned else []
        scales = self.array(f"{y}.scales", weight.scales)
        quantized = [f"{y}.{part}" for part in ("xq", "x_scale", "x_zero")]
        self.node("DynamicQuantizeLinear", [x], quantized)
        self.node("MatMulInteger", [quantized[0], *w, quantized[2], *w_zero], [f"{y}.sum"])
        self.node("Cast", [f"{y}.sum"], [f"{y}.float"], to=onnx.TensorProto.FLOAT)
        self.node("Mul", [quantized[1], scales], [f"{y}.scale"])
        scaled = y if bias is None else f"{y}.scaled"
        self.node("Mul", [f"{y}.float", f"{y}.scale"], [scaled])
        if bias is not None:
            self.node("Add", [scaled, self.array(f"{y}.bias", bias)], [y])

    def _count(self, weight: Weight, stored_bytes: int) -> None:
        asked = sum(FORMATS[weight.format].matrix_bytes(weight.n, weight.k))
        self.extra_bytes += stored_bytes - asked

    @property
    def node_count(self) -> int:
        """Operators, as the runtime gets them."""
        return len(self._nodes)

    def weights(self) -> dict[str, Array]:
        """The arrays that the session must be given."""
        return self._large

    def serialize(self) -> bytes:
        """The model without its large arrays."""
        stubs = [_stub(name, values) for name, values in self._large.items()]
        graph = helper.make_graph(
            self._nodes, "membound", self._inputs, self._outputs, [*self._small, *stubs]
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        serialized: bytes = model.SerializeToString()
        return serialized


def _packed_zeros(zeros: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Zero points [n, groups] two a byte, the even group in the low half, each row in whole bytes."""
    even = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    return pack_int4(even)


def _int8_sums_saturate() -> bool:
    """Whether two products of an unsigned and a signed byte may be added in 16 bits: on x86.

    ONNX Runtime can make signed weights unsigned as it loads them (session.x64quantprecision), to the same
    graph, but a byte at a time: for a matrix of 14336 x 4096 that took 0.4 s, three times as long as packing it.
    """
    return platform.machine() in ("x86_64", "AMD64")


def _element(kind: Kind) -> int:
    """The number by which ONNX knows a NumPy type."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(kind))


def stack(weights: Sequence[Weight]) -> Weight:
    """Matrices that share their input as one, row on row."""
    first = weights[0]
    if len(weights) == 1:
        return first
    scales = [w.scales for w in weights if w.scales is not None]
    zeros = [w.zeros for w in weights if w.zeros is not None]
    return Weight(
        first.format,
        sum(w.n for w in weights),
        first.k,
        np.concatenate([w.values for w in weights]),
        np.concatenate(scales) if scales else None,
        np.concatenate(zeros) if zeros else None,
    )


def _stub(name: str, values: Array) -> onnx.TensorProto:
    """A tensor declared to be in a file that never exists; `add_external_initializers` replaces it."""
    stub = onnx.TensorProto()
    stub.name = name
    stub.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
    stub.dims.extend(values.shape)
    stub.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "membound"), ("offset", "0"), ("length", str(values.nbytes))):
        entry = stub.external_data.add()
        entry.key, entry.value = key, value
    return stub


def linear_graph(weight: Weight, act: str, m: int) -> Graph:
    """x [m, k] -> y [m, n]."""
    graph = Graph()
    graph.declare_input("x", (m, weight.k))
    graph.declare_output("y", (m, weight.n))
    graph.linear("x", "y", weight, act)
    return graph


def attention_graph(work: DecodeAttention) -> Graph:
    """q, k, v of one token or several [B, s, H·D] with the cache [B, Hkv, T, D] -> y [B, s, Hq·D].

    GroupQueryAttention puts k and v at the last s places of the cache and attends over all T tokens, causally. Over a float16
    cache it is in float16 altogether: with q in float32 ONNX Runtime would widen the whole cache at each call.
    q and y are float32 all the same, k, v and the cache in the cache's format.
    """
    graph, kind = Graph(), CACHE_TYPES[work.kv]
    q_dim, kv_dim = work.q_heads * work.head_dim, work.kv_heads * work.head_dim
    tokens = work.context + (work.queries if work.queries > 1 else 0)
    cache = (work.batch, work.kv_heads, tokens, work.head_dim)
    graph.declare_input("q", (work.batch, work.queries, q_dim))
    lengths = [
        graph.array("seqlens_k", np.full(work.batch, tokens - 1, np.int32)),
        graph.array("total", np.array(tokens, np.int32)),
    ]
    graph.declare_output("y", (work.batch, work.queries, q_dim))
    for name in "kv":
        graph.declare_input(name, (work.batch, work.queries, kv_dim), kind)
        graph.declare_input(f"past_{name}.0", cache, kind)
        graph.declare_output(f"present_{name}.0", cache, kind)
    half = kind is np.float16
    graph.node(
        "GroupQueryAttention",
        [graph.cast("q", "q16", kind) if half else "q", "k", "v", "past_k.0", "past_v.0", *lengths],
        ["y16" if half else "y", "present_k.0", "present_v.0"],
        CONTRIB,
        num_heads=work.q_heads,
        kv_num_heads=work.kv_heads,
    )
    if half:
        graph.cast("y16", "y", np.float32)
    return graph


def with_newest(
    work: DecodeAttention, inputs: AttentionInputs, slot: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """K and V of an input set; where several queries bring tokens of their own, with these behind."""
    cache = inputs.cache(slot)
    if work.queries == 1:
        return cache.k, cache.v
    k, v = inputs.new_tokens(slot)
    both = ((cache.k, k), (cache.v, v))
    first, second = (np.concatenate([old, new.astype(old.dtype)], axis=2) for old, new in both)
    return first, second
