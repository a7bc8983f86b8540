"""Every handler of an operator in float64, against ONNX Runtime's own in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from membound.backends.onnx_runtime.session import runtime
from membound.kernels.model import ModelError
from membound.kernels.onnx_file.attention import resident
from membound.kernels.onnx_file.read import read
from membound.kernels.onnx_file.walk import OPERATORS, SAME, walk

CONTRIB = "com.microsoft"
RNG = np.random.default_rng(5)


def real(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def whole(*values: int) -> Any:
    return np.array(values, np.int64)


def model_of(
    node: onnx.NodeProto, feeds: dict[str, Any], stored: dict[str, Any], opset: int
) -> onnx.ModelProto:
    ins = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for k, v in feeds.items()
    ]
    outs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    arrays = [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()]
    graph = helper.make_graph([node], "one", ins, outs, arrays)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def both(
    folder: Path,
    op: str,
    inputs: list[Any],
    outputs: int = 1,
    domain: str = "",
    opset: int = 21,
    stored: tuple[int, ...] = (),
    **more: Any,
) -> tuple[list[Any], list[Any]]:
    """What ONNX Runtime gives, and what the walk gives: of the outputs that are not left out."""
    names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
    given = {name: value for name, value in zip(names, inputs, strict=True) if name}
    kept = {f"x{i}": given.pop(f"x{i}") for i in stored}
    gives = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, gives, domain=domain, name=op, **more)
    model = model_of(node, given, kept, opset)
    path = folder / "one.onnx"
    session = runtime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = session.run(None, given)
    for place, value in enumerate(theirs):  # the file declares what ONNX Runtime found
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        model.graph.output[place].CopyFrom(helper.make_tensor_value_info(gives[place], kind, value.shape))
    onnx.save(model, path)
    walked = walk(read(path), given, numbers=True)
    return theirs, [walked.outputs[name] for name in gives]


def compare(theirs: list[Any], ours: list[Any], atol: float = 2e-6) -> None:
    for one, two in zip(theirs, ours, strict=True):
        assert two.shape == one.shape
        if one.dtype.kind in "iub":
            np.testing.assert_array_equal(two, one)
        else:
            np.testing.assert_allclose(two, one, rtol=2e-5, atol=atol)


X = real(2, 3, 4)
SIMPLE: list[tuple[str, list[Any], dict[str, Any]]] = [
    *(
        (op, [X], {})
        for op in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Relu", "Round", "Sigmoid")
    ),
    *(
        (op, [X], {})
        for op in ("Sign", "Sin", "Softplus", "Tan", "Tanh", "LeakyRelu", "Reciprocal", "IsNaN", "IsInf")
    ),
    *((op, [np.abs(X) + 1], {}) for op in ("Log", "Sqrt")),
    *(
        (op, [X, real(3, 1)], {})
        for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Greater", "Less", "Sum", "Mean")
    ),
    *((op, [X, X], {}) for op in ("Equal", "GreaterOrEqual", "LessOrEqual")),
    ("Div", [whole(-7, 7, 8), whole(2, -2, 3)], {}),
    ("Mod", [whole(-7, 7, 8), whole(2, -2, 3)], {}),
    ("Mod", [X, np.abs(real(2, 3, 4)) + 1], {"fmod": 1}),
    ("Pow", [np.abs(X), np.array(2, np.float32)], {}),
    ("Pow", [whole(2, 3), whole(3, 2)], {}),
    ("And", [X > 0, X < 1], {}),
    ("Or", [X > 0, X < 1], {}),
    ("Xor", [X > 0, X < 1], {}),
    ("Not", [X > 0], {}),
    ("Where", [X > 0, X, real(4)], {}),
    ("Clip", [X, np.array(-0.5, np.float32), np.array(0.5, np.float32)], {}),
    ("CumSum", [X, np.array(1)], {}),
    ("CumSum", [X, np.array(2)], {"exclusive": 1, "reverse": 1}),
    ("Gelu", [X], {}),
    ("Gelu", [X], {"approximate": "tanh"}),
    ("Softmax", [X], {"axis": 1}),
    ("LogSoftmax", [X], {"axis": -1}),
    *((op, [X, whole(1)], {}) for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")),
    *((op, [X, whole(-1, 0)], {"keepdims": 0}) for op in ("ReduceL2", "ReduceSumSquare", "ReduceSum")),
    ("ReduceSum", [X], {"noop_with_empty_axes": 1}),
    ("ReduceSum", [X], {}),
    ("Reshape", [X, whole(0, -1)], {}),
    ("Reshape", [X, whole(4, 6)], {"allowzero": 1}),
    ("Squeeze", [real(1, 3, 1), whole(0)], {}),
    ("Squeeze", [real(1, 3, 1)], {}),
    ("Unsqueeze", [X, whole(0, -1)], {}),
    ("Flatten", [X], {"axis": 2}),
    ("Flatten", [X], {"axis": -1}),
    ("Shape", [X], {"start": 1, "end": -1}),
    ("Size", [X], {}),
    ("Concat", [X, real(2, 1, 4)], {"axis": 1}),
    ("Slice", [X, whole(-1, 1), whole(-100, 3), whole(1, 2), whole(-1, 1)], {}),
    ("Slice", [X, whole(0), whole(9)], {}),
    ("Expand", [real(3, 1), whole(2, 1, 4)], {}),
    ("Tile", [X, whole(1, 2, 3)], {}),
    ("Gather", [X, np.array([[0, -1]])], {"axis": 1}),
    ("GatherElements", [X, np.array([[[0, 1, 2, 0]], [[1, 0, 0, 2]]])], {"axis": 1}),
    ("GatherND", [X, np.array([[0, 1], [1, 2]])], {}),
    ("GatherND", [X, np.array([[[0], [2]], [[1], [1]]])], {"batch_dims": 1}),
    ("ScatterND", [X, np.array([[0, 1], [1, 2]]), real(2, 4)], {}),
    ("ScatterND", [X, np.array([[0, 1], [0, 1]]), real(2, 4)], {"reduction": "add"}),
    ("ScatterElements", [X, np.array([[[0, 1, 2, 0]]]), real(1, 1, 4)], {"axis": 1}),
    ("Cast", [X * 3], {"to": TensorProto.INT32}),
    ("Cast", [X], {"to": TensorProto.BOOL}),
    ("Cast", [whole(1, 2)], {"to": TensorProto.FLOAT}),
    ("CastLike", [X * 3, whole(1)], {}),
    ("Range", [np.array(2), np.array(9), np.array(3)], {}),
    ("Range", [np.array(1.0, np.float32), np.array(0.0, np.float32), np.array(-0.25, np.float32)], {}),
    ("Trilu", [X], {}),
    ("Trilu", [X, np.array(1)], {"upper": 0}),
    ("Pad", [X, whole(0, 1, 0, 0, 0, 2), np.array(3.0, np.float32)], {}),
    ("NonZero", [(X > 0).astype(np.int64)], {}),
    ("ArgMax", [X], {"axis": 1}),
    ("ArgMin", [X], {"axis": 2, "keepdims": 0}),
    ("OneHot", [whole(1, 0, 2), np.array(4), np.array([2.0, 5.0], np.float32)], {}),
    ("Transpose", [X], {"perm": [2, 0, 1]}),
    ("Transpose", [X], {}),
    ("Identity", [X], {}),
    ("ConstantOfShape", [whole(2, 3)], {}),
    ("MatMul", [X, real(4, 5)], {}),
    ("MatMul", [real(4), real(4)], {}),
    ("Gemm", [real(3, 2), real(5, 3), real(5)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Einsum", [X, real(5, 4)], {"equation": "bij,kj->bik"}),
    ("LayerNormalization", [X, real(4), real(4)], {}),
    ("LayerNormalization", [X, real(3, 4)], {"axis": 1}),
    ("LpNormalization", [X], {"axis": 1}),
    ("SimplifiedLayerNormalization", [X, real(4)], {"axis": -1, "epsilon": 1e-3}),
    ("DynamicQuantizeLinear", [X], {}),
    ("QuantizeLinear", [X, np.array(0.02, np.float32), np.array(100, np.uint8)], {}),
    (
        "DequantizeLinear",
        [np.arange(6, dtype=np.int8).reshape(2, 3), real(3), np.array([1, 2, 3], np.int8)],
        {"axis": 1},
    ),
]


@pytest.mark.parametrize(("op", "inputs", "more"), SIMPLE, ids=[one[0] for one in SIMPLE])
def test_an_operator_of_onnx(op: str, inputs: list[Any], more: dict[str, Any], tmp_path: Path) -> None:
    outputs = {"DynamicQuantizeLinear": 3}.get(op, 1)
    compare(*both(tmp_path, op, inputs, outputs, **more))


def test_outputs_of_several(tmp_path: Path) -> None:
    compare(*both(tmp_path, "Split", [X], 2, axis=2, num_outputs=2))
    compare(*both(tmp_path, "Split", [X, whole(1, 3)], 2, axis=2))
    compare(*both(tmp_path, "TopK", [X, whole(2)], 2))
    compare(*both(tmp_path, "TopK", [X, whole(1)], 2, axis=1, largest=0))


@pytest.mark.parametrize(
    ("op", "inputs", "more"),
    [
        ("RMSNormalization", [X, real(4)], {}),
        (
            "RotaryEmbedding",
            [real(2, 3, 16), real(9, 4), real(9, 4), np.array([[1, 2, 3], [0, 5, 8]])],
            {"num_heads": 2},
        ),
        ("RotaryEmbedding", [real(2, 2, 3, 8), real(2, 3, 4), real(2, 3, 4)], {"interleaved": 1}),
        ("Attention", [real(1, 4, 1, 8), real(1, 2, 5, 8), real(1, 2, 5, 8)], {"softcap": 3.0}),
        ("Attention", [real(2, 1, 16), real(2, 1, 8), real(2, 1, 8)], {"q_num_heads": 2, "kv_num_heads": 1}),
        ("Attention", [real(1, 2, 3, 8), real(1, 2, 3, 8), real(1, 2, 3, 8)], {"is_causal": 1, "scale": 0.2}),
        ("Attention", [real(1, 2, 3, 8), real(1, 2, 4, 8), real(1, 2, 4, 8), RNG.random((3, 4)) > 0.3], {}),
        ("Attention", [real(1, 2, 3, 8), real(1, 2, 4, 8), real(1, 2, 4, 8), real(1, 1, 3, 4)], {}),
    ],
)
def test_an_operator_of_opset_23(op: str, inputs: list[Any], more: dict[str, Any], tmp_path: Path) -> None:
    compare(*both(tmp_path, op, inputs, opset=23, **more))


def test_attention_of_opset_23_joins_past_and_new_rows(tmp_path: Path) -> None:
    q, k, v = real(2, 4, 1, 8), real(2, 2, 1, 8), real(2, 2, 1, 8)
    compare(*both(tmp_path, "Attention", [q, k, v, None, real(2, 2, 5, 8), real(2, 2, 5, 8)], 3, opset=23))


def test_a_row_is_scattered_into_a_cache_of_fixed_length(tmp_path: Path) -> None:
    inputs = [real(2, 1, 6, 4), real(2, 1, 1, 4), whole(2, 5)]
    compare(*both(tmp_path, "TensorScatter", inputs, opset=24, axis=2))


CONTRIBUTED: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("BiasGelu", [X, real(4)], {}),
    ("FastGelu", [X, real(4)], {}),
    ("QuickGelu", [X], {"alpha": 1.5}),
    ("FusedMatMul", [X, real(5, 4)], {"transB": 1, "alpha": 0.5}),
    ("RotaryEmbedding", [real(2, 3, 16), whole(4), real(9, 4), real(9, 4)], {"num_heads": 2}),
    (
        "RotaryEmbedding",
        [real(2, 2, 3, 8), np.array([[1, 2, 3], [0, 5, 8]]), real(9, 4), real(9, 4)],
        {"interleaved": 1},
    ),
    ("MultiHeadAttention", [real(2, 1, 16), real(2, 3, 16), real(2, 3, 16), real(48)], {"num_heads": 2}),
]


@pytest.mark.parametrize(("op", "inputs", "more"), CONTRIBUTED, ids=[one[0] for one in CONTRIBUTED])
def test_an_operator_of_onnx_runtime(
    op: str, inputs: list[Any], more: dict[str, Any], tmp_path: Path
) -> None:
    compare(*both(tmp_path, op, inputs, domain=CONTRIB, **more))


@pytest.mark.parametrize("op", ["SkipSimplifiedLayerNormalization", "SkipLayerNormalization"])
def test_a_norm_of_a_sum_gives_the_sum_too(op: str, tmp_path: Path) -> None:
    names = ["y0", "", "", "y3"]
    given = {"x0": X, "x1": real(2, 3, 4), "x2": real(4)}
    node = helper.make_node(op, list(given), names, domain=CONTRIB, epsilon=1e-3)
    model = model_of(node, given, {}, 21)
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in ("y0", "y3")]
    del model.graph.output[:]
    model.graph.output.extend(outs)
    onnx.save(model, tmp_path / "one.onnx")
    session = runtime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = walk(read(tmp_path / "one.onnx"), given, numbers=True).outputs
    compare(session.run(["y0", "y3"], given), [found["y0"], found["y3"]])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero", ["none", "packed", "float"])
def test_a_product_in_blocks(bits: int, zero: str, tmp_path: Path) -> None:
    if (bits, zero) == (8, "float"):
        pytest.skip("ONNX Runtime 1.31 has no kernel of 8 bits with real zero points")
    n, k, block = 6, 64, 16
    q = RNG.integers(0, 256, (n, k // block, block * bits // 8), np.uint8)
    points = {
        "none": None,
        "packed": RNG.integers(0, 256, (n, -(-k // block * bits // 8)), np.uint8),
        "float": (RNG.random((n, k // block)) * 3).astype(np.float32),
    }[zero]
    more = {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": 1}
    inputs = [real(2, 3, k), q, real(n, k // block), points]
    places = (1, 2) if points is None else (1, 2, 3)
    if points is None:
        inputs.pop()
    compare(*both(tmp_path, "MatMulNBits", inputs, domain=CONTRIB, stored=places, **more), atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero", [False, True])
def test_rows_of_a_table_in_blocks(bits: int, zero: bool, tmp_path: Path) -> None:
    rows, width, block = 7, 64, 16
    table = RNG.integers(0, 256, (rows, width * bits // 8), np.uint8)
    points = RNG.integers(0, 256, (rows, width // block * bits // 8), np.uint8)
    inputs = [table, np.array([[3, 0], [6, 3]]), real(rows, width // block), *([points] if zero else [])]
    more = {"bits": bits, "block_size": block, "quantize_axis": 1, "gather_axis": 0}
    places = (0, 2, 3) if zero else (0, 2)
    compare(*both(tmp_path, "GatherBlockQuantized", inputs, domain=CONTRIB, stored=places, **more))


@pytest.mark.parametrize("op", ["MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"])
def test_a_product_of_integers(op: str, tmp_path: Path) -> None:
    """Weights of seven bits: without VNNI, ONNX Runtime adds two products of eight in 16 bits, which saturate."""
    a, b = RNG.integers(0, 256, (3, 8), np.uint8), RNG.integers(-64, 64, (8, 5), np.int8)
    zeros = [np.array(7, np.uint8), np.array(3, np.int8)]
    inputs = {
        "MatMulInteger": [a, b, *zeros],
        "MatMulIntegerToFloat": [a, b, np.array(0.1, np.float32), real(5), *zeros, real(5)],
        "DynamicQuantizeMatMul": [real(3, 8), b, np.array([0.1], np.float32), zeros[1], real(5)],
    }[op]
    domain = "" if op == "MatMulInteger" else CONTRIB
    compare(*both(tmp_path, op, inputs, domain=domain), atol=1e-4)


def attend(tmp_path: Path, past: int, places: int, extra: dict[int, Any] | None = None, **more: Any) -> None:
    batch, heads, kv_heads, width = 2, 4, 2, 16
    q, k, v = (
        real(batch, 1, heads * width),
        real(batch, 1, kv_heads * width),
        real(batch, 1, kv_heads * width),
    )
    caches = [real(batch, kv_heads, places, width) for _ in "kv"]
    inputs: list[Any] = [q, k, v, *caches, np.full(batch, past, np.int32), np.array(past + 1, np.int32)]
    inputs += [None] * 9
    for place, value in (extra or {}).items():
        inputs[place] = value
    while inputs[-1] is None:
        inputs.pop()
    theirs, ours = both(
        tmp_path, "GroupQueryAttention", inputs, 3, CONTRIB, num_heads=heads, kv_num_heads=kv_heads, **more
    )
    compare(theirs[:1], ours[:1], 1e-5)
    kept = (
        past + 1
        if not more.get("sliding_window_cache")
        else resident(past + 1, more["local_window_size"], places)
    )
    for one, two in zip(theirs[1:], ours[1:], strict=True):
        assert one.shape == two.shape
        np.testing.assert_allclose(two[:, :, :kept], one[:, :, :kept], rtol=1e-5, atol=1e-6)


TABLES = {7: real(40, 8), 8: real(40, 8)}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"scale": 0.1, "softcap": 4.0},
        {"local_window_size": 5},
        {"smooth_softmax": 1},
    ],
)
def test_grouped_attention(more: dict[str, Any], tmp_path: Path) -> None:
    attend(tmp_path, 12, 12, **more)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_grouped_attention_turns_its_heads(interleaved: int, tmp_path: Path) -> None:
    attend(tmp_path, 12, 12, TABLES, do_rotary=1, rotary_interleaved=interleaved)


def test_grouped_attention_with_sinks(tmp_path: Path) -> None:
    attend(tmp_path, 12, 12, {11: real(4)})


@pytest.mark.parametrize(("past", "places"), [(3, 8), (8, 8), (20, 8), (20, 11)])
def test_grouped_attention_over_a_window_sized_cache(past: int, places: int, tmp_path: Path) -> None:
    attend(tmp_path, past, places, local_window_size=8, sliding_window_cache=1)


@pytest.mark.parametrize("normalised", [0, 1])
def test_a_mixture_of_experts(normalised: int, tmp_path: Path) -> None:
    inputs = [real(3, 16), real(3, 6), real(6, 16, 16), real(6, 16), real(6, 16, 8), real(6, 16)]
    more = {"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "normalize_routing_weights": normalised}
    compare(
        *both(
            tmp_path,
            "MoE",
            inputs,
            domain=CONTRIB,
            stored=(2, 3, 4, 5),
            activation_alpha=1.702,
            activation_beta=1.0,
            **more,
        ),
        atol=1e-4,
    )


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_mixture_of_quantised_experts(mixing: bool, zeros: bool, tmp_path: Path) -> None:
    e, h, w, block = 5, 64, 64, 32
    q1, q2 = (RNG.integers(0, 256, (e, n, k // 2), np.uint8) for n, k in ((2 * w, h), (h, w)))
    s1, s2 = ((RNG.random((e, n, k // block)) / 8).astype(np.float32) for n, k in ((2 * w, h), (h, w)))
    points = [
        RNG.integers(0, 256, (e, n, k // block // 2), np.uint8) if zeros else None
        for n, k in ((2 * w, h), (h, w))
    ]
    weights = np.abs(real(3, e)) if mixing else None
    inputs = [real(3, h), real(3, e), q1, s1, None, q2, s2, None, None, None, None, *points, None, weights]
    places = tuple(i for i in (2, 3, 5, 6, 11, 12) if inputs[i] is not None)
    while inputs[-1] is None:
        inputs.pop()
    more = {
        "k": 2,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "normalize_routing_weights": 1,
        "block_size": block,
    }
    compare(*both(tmp_path, "QMoE", inputs, domain=CONTRIB, stored=places, **more), atol=2e-3)


def test_every_operator_is_compared_with_one_of_a_runtime() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    fused = {"Dropout", "Swish"}  # the first is the identity, ONNX Runtime 1.31 has no kernel of the second
    missing = {name for name in (one.rpartition(".")[2] for one in OPERATORS) if f'"{name}"' not in source}
    assert missing <= fused
    assert set(SAME) <= set(OPERATORS) | {"GatherND"}


def test_what_a_handler_does_not_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="ScatterND with reduction=mul is not supported"):
        both(tmp_path, "ScatterND", [X, np.array([[0, 1]]), real(1, 4)], reduction="mul")
    with pytest.raises(ModelError, match="Pad with anything but a constant"):
        both(tmp_path, "Pad", [X, whole(0, 1, 0, 0, 0, 2)], mode="edge")
