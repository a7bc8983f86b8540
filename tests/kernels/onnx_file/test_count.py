"""What a step of an exported decoder reads, by hand and by the walk through its operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_decoders
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_decoders import HIDDEN, KV_HEADS, MLP, PLACES, VOCAB, WIDTH

from membound.kernels.model import ModelError
from membound.kernels.onnx_file.count import Bill, bill_of, check_numbers
from membound.kernels.onnx_step import OnnxStep
from membound.kernels.work import SpecError, parse

CONTRIB = "com.microsoft"
Q, KV = 2 * WIDTH, KV_HEADS * WIDTH
MATRICES = HIDDEN * (Q + 2 * KV) + Q * HIDDEN + 3 * HIDDEN * MLP
"""Of a layer, in numbers."""
TABLES = 2 * (WIDTH // 2)
"""Numbers of one row of cosines and sines."""


def bill(model: onnx.ModelProto, folder: Path, batch: int = 1, context: int = 100) -> Bill:
    return bill_of(onnx_decoders.saved(model, folder / "model.onnx"), batch, context)


@pytest.mark.parametrize(("weight", "width"), [("f32", 4), ("f16", 2)])
def test_matrices_and_norms_are_read_whole_and_rows_of_tables(
    weight: str, width: int, tmp_path: Path
) -> None:
    found = bill(onnx_decoders.gqa_model(weight), tmp_path, batch=3)
    norms = (1 + 2 * 2) * HIDDEN
    rows = 3 * HIDDEN + TABLES
    assert found.weights_bytes == width * (2 * MATRICES + VOCAB * HIDDEN + norms + rows)
    assert found.scales_bytes == 0
    assert found.kv_read_bytes == 3 * 2 * 2 * KV * 100 * width
    assert found.kv_written_bytes == 3 * 2 * 2 * KV * width
    assert found.flops == 3 * (2 * (2 * MATRICES + VOCAB * HIDDEN) + 2 * 4 * Q * 101)
    assert (found.weight, found.kv, found.act, found.layers, found.vocab) == (
        weight,
        weight,
        "float",
        2,
        VOCAB,
    )
    assert found.float16_bytes == (width * (2 * MATRICES + VOCAB * HIDDEN) if weight == "f16" else 0)
    assert (found.copied_bytes, found.routed) == (0, False)


def test_packed_matrices_and_their_scales(tmp_path: Path) -> None:
    found = bill(onnx_decoders.gqa_model("int4", layers=1, level=4), tmp_path)
    numbers = MATRICES + VOCAB * HIDDEN
    assert found.weights_bytes == numbers // 2 + 4 * (3 * HIDDEN + HIDDEN + TABLES)
    assert found.scales_bytes == 4 * numbers // onnx_decoders.BLOCK
    assert found.flops == 2 * numbers + 4 * Q * 101
    assert (found.weight, found.act) == ("int4", "int8")
    exact = bill(onnx_decoders.gqa_model("int4", layers=1, level=1), tmp_path)
    assert exact.act == "float"


def test_a_tied_table_counts_once_as_the_head(tmp_path: Path) -> None:
    apart, tied = (bill(onnx_decoders.gqa_model(tied=tied), tmp_path / str(tied)) for tied in (False, True))
    assert apart.weights_bytes - tied.weights_bytes == 4 * HIDDEN
    assert tied.resident_bytes == apart.resident_bytes - 4 * VOCAB * HIDDEN


def test_a_window_sized_cache_holds_no_more_than_its_window(tmp_path: Path) -> None:
    found = bill(onnx_decoders.gqa_model(window=24), tmp_path, context=100)
    assert found.kv_read_bytes == 2 * 2 * KV * 24 * 4
    assert found.copied_bytes == 2 * found.kv_read_bytes
    assert found.flops == 2 * (2 * MATRICES + VOCAB * HIDDEN) + 2 * 4 * Q * 24
    short = bill_of(tmp_path / "model.onnx", 1, 10)
    assert short.kv_read_bytes == 2 * 2 * KV * 10 * 4


def test_a_cache_that_is_joined_with_new_rows_is_copied(tmp_path: Path) -> None:
    found = bill(onnx_decoders.plain_model(), tmp_path, batch=2, context=50)
    matrices = HIDDEN * (Q + 2 * KV) + Q * HIDDEN + HIDDEN * VOCAB
    assert found.weights_bytes == 4 * (matrices + HIDDEN + 2 * HIDDEN)
    assert found.kv_read_bytes == 2 * 2 * KV * 50 * 4
    assert found.copied_bytes == 2 * found.kv_read_bytes
    assert found.flops == 2 * (2 * matrices + 4 * Q * 51)


def with_nodes(
    nodes: list[onnx.NodeProto], arrays: dict[str, Any], model: onnx.ModelProto | None = None
) -> onnx.ModelProto:
    """The plain decoder with operators before its LM head, from `y` to `z`."""
    model = model or onnx_decoders.plain_model()
    head = next(node for node in model.graph.node if "logits" in node.output)
    head.input[0] = "z"
    place = list(model.graph.node).index(head)
    for node in reversed(nodes):
        model.graph.node.insert(place, node)
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in arrays.items())
    return model


def more_bytes(nodes: list[onnx.NodeProto], arrays: dict[str, Any], folder: Path) -> int:
    plain = bill(onnx_decoders.plain_model(), folder / "plain", batch=2)
    found = bill(with_nodes(nodes, arrays), folder / "more", batch=2)
    return found.weights_bytes + found.scales_bytes - plain.weights_bytes


SQUARE = np.ones((HIDDEN, HIDDEN), np.float32)


@pytest.mark.parametrize("through", ["Transpose", "Identity", "Cast", "Reshape", "Unsqueeze"])
def test_a_matrix_is_followed_through_what_only_moves_it(through: str, tmp_path: Path) -> None:
    inputs = {"Reshape": ["m", "shape"], "Unsqueeze": ["m", "axes_of_m"]}.get(through, ["m"])
    more = {"to": TensorProto.FLOAT} if through == "Cast" else {}
    arrays = {"m": SQUARE, "shape": np.array([HIDDEN, HIDDEN]), "axes_of_m": np.array([0])}
    nodes = [
        helper.make_node(through, inputs, ["moved"], **more),
        helper.make_node("MatMul", ["y", "moved"], ["z"]),
    ]
    assert more_bytes(nodes, arrays, tmp_path) == SQUARE.nbytes


def test_a_quantised_matrix_is_followed_to_what_is_stored(tmp_path: Path) -> None:
    arrays = {
        "m": np.ones((HIDDEN, HIDDEN), np.int8),
        "m.s": np.ones(HIDDEN, np.float32),
        "m.z": np.zeros(HIDDEN, np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["m", "m.s", "m.z"], ["wide"], axis=1),
        helper.make_node("MatMul", ["y", "wide"], ["z"]),
    ]
    assert more_bytes(nodes, arrays, tmp_path) == HIDDEN * HIDDEN + 4 * HIDDEN + HIDDEN


@pytest.mark.parametrize(("block", "act"), [(16, "int8"), (0, "float")])
def test_a_product_with_dequantised_blocks_of_four_bits_is_one_of_integers(
    block: int, act: str, tmp_path: Path
) -> None:
    """ONNX Runtime makes a MatMulNBits of accuracy level 4 of it; scales of columns it multiplies as floats."""
    model = with_nodes(
        [
            helper.make_node(
                "DequantizeLinear", ["m", "m.s"], ["wide"], axis=1 - bool(block), block_size=block
            ),
            helper.make_node("MatMul", ["y", "wide"], ["z"]),
        ],
        {"m.s": np.ones((HIDDEN // block, HIDDEN) if block else HIDDEN, np.float32)},
    )
    packed = bytes(HIDDEN * HIDDEN // 2)
    model.graph.initializer.append(helper.make_tensor("m", TensorProto.INT4, SQUARE.shape, packed, raw=True))
    assert bill(model, tmp_path).act == act


def test_operators_in_another_order_than_they_run_in_are_put_in_order(tmp_path: Path) -> None:
    """Converters to float16 put the casts of inputs behind all others, and runtimes take such files."""
    model = onnx_decoders.gqa_model()
    told = bill(model, tmp_path / "told")
    backwards = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(backwards)
    assert replace(bill(model, tmp_path / "backwards"), content="") == replace(told, content="")
    first = model.graph.node[0]
    first.input[0] = first.output[0]
    with pytest.raises(ModelError, match=r"'.*' is used before any operator makes it, and is no input$"):
        bill(model, tmp_path / "circle")


def test_a_gather_reads_the_distinct_rows_of_its_ids(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["extra", "two_of_them"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "first_axis"], ["row"], keepdims=0),
        helper.make_node("Add", ["y", "row"], ["z"]),
    ]
    arrays = {
        "extra": np.ones((9, HIDDEN), np.float32),
        "two_of_them": np.array([3, 3, 5]),
        "first_axis": np.array([0]),
    }
    assert more_bytes(nodes, arrays, tmp_path) == 2 * 4 * HIDDEN


def test_rows_of_a_table_in_blocks_count_with_their_scales(tmp_path: Path) -> None:
    block = 16
    arrays = {
        "packed": np.ones((VOCAB, HIDDEN // 2), np.uint8),
        "s": np.ones((VOCAB, HIDDEN // block), np.float32),
    }
    nodes = [
        helper.make_node(
            "GatherBlockQuantized",
            ["packed", "input_ids", "s"],
            ["rows"],
            domain=CONTRIB,
            bits=4,
            block_size=block,
            quantize_axis=1,
        ),
        helper.make_node("Add", ["y", "rows"], ["z"]),
    ]
    assert more_bytes(nodes, arrays, tmp_path) == 2 * (HIDDEN // 2 + 4 * HIDDEN // block)


def test_slices_of_a_matrix_add_up_to_all_of_it_at_most(tmp_path: Path) -> None:
    half = HIDDEN // 2
    arrays = {"m": SQUARE, **{f"at{i}": np.array([i * half]) for i in range(3)}, "second_axis": np.array([1])}
    nodes = [
        helper.make_node("Slice", ["m", "at0", "at1", "second_axis"], ["left"]),
        helper.make_node("Slice", ["m", "at1", "at2", "second_axis"], ["right"]),
        helper.make_node("Concat", ["left", "right"], ["both"], axis=1),
        helper.make_node("MatMul", ["y", "both"], ["z"]),
    ]
    assert more_bytes(nodes, arrays, tmp_path) == SQUARE.nbytes
    one_half = [nodes[0], helper.make_node("Concat", ["left", "left"], ["both"], axis=1), nodes[3]]
    assert more_bytes(one_half, arrays, tmp_path) == SQUARE.nbytes // 2


def test_the_branch_of_an_if_is_the_one_that_is_taken(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_empty_tensor_value_info(f"{name}.z")
        out.type.tensor_type.elem_type = TensorProto.FLOAT
        return helper.make_graph([helper.make_node("MatMul", ["y", name], [f"{name}.z"])], name, [], [out])

    arrays = {
        "long_m": SQUARE,
        "short_m": SQUARE[:, :HIDDEN].astype(np.float16),
        "limit": np.array(200),
        "place": np.array(1),
    }
    arrays["short_m"] = np.concatenate([SQUARE] * 1)
    nodes = [
        helper.make_node("Shape", ["attention_mask"], ["mask.shape"]),
        helper.make_node("Gather", ["mask.shape", "place"], ["length"]),
        helper.make_node("Greater", ["length", "limit"], ["is_long"]),
        helper.make_node(
            "If", ["is_long"], ["z"], then_branch=branch("long_m"), else_branch=branch("short_m")
        ),
    ]
    path = onnx_decoders.saved(with_nodes(nodes, arrays), tmp_path / "if.onnx")
    plain = bill(onnx_decoders.plain_model(), tmp_path)
    found = {context: bill_of(path, 1, context) for context in (100, 300)}
    assert all(one.weights_bytes - plain.weights_bytes == SQUARE.nbytes for one in found.values())
    assert all(one.resident_bytes - plain.resident_bytes >= 2 * SQUARE.nbytes for one in found.values())


def experts_model(experts: int = 6) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    arrays = {
        "router": rng.standard_normal((HIDDEN, experts)).astype(np.float32),
        "w1": rng.standard_normal((experts, 2 * HIDDEN, HIDDEN)).astype(np.float32) / 8,
        "w2": rng.standard_normal((experts, HIDDEN, HIDDEN)).astype(np.float32) / 8,
        "two_axes": np.array([-1, experts]),
    }
    more = {"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "normalize_routing_weights": 1}
    nodes = [
        helper.make_node("MatMul", ["y", "router"], ["choices"]),
        helper.make_node("Reshape", ["choices", "two_axes"], ["flat_choices"]),
        helper.make_node("MoE", ["y", "flat_choices", "w1", "", "w2"], ["z"], domain=CONTRIB, **more),
    ]
    return with_nodes(nodes, arrays)


def test_of_experts_those_that_the_router_chooses_are_read(tmp_path: Path) -> None:
    plain = bill(onnx_decoders.plain_model(), tmp_path / "plain", batch=1)
    found = bill(experts_model(), tmp_path / "moe", batch=1)
    one = 4 * 3 * HIDDEN * HIDDEN
    assert found.routed
    assert found.weights_bytes - plain.weights_bytes == 4 * HIDDEN * 6 + 2 * one
    many = bill_of(tmp_path / "moe" / "model.onnx", 32, 100)
    more = bill_of(tmp_path / "plain" / "model.onnx", 32, 100)
    assert many.weights_bytes - more.weights_bytes == 4 * HIDDEN * 6 + 6 * one


@pytest.mark.parametrize("model", [onnx_decoders.gqa_model, onnx_decoders.plain_model, experts_model])
def test_caches_whose_width_only_has_a_name_are_as_wide_as_the_new_rows(
    model: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    """onnxruntime-genai's builder writes kv_cache_dim, of mixtures of experts too."""
    named = model()
    for value in (*named.graph.input, *named.graph.output):
        if value.name.startswith(("past", "present")):
            value.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"
    told, found = bill(model(), tmp_path / "told"), bill(named, tmp_path / "named")
    assert replace(found, content="") == replace(told, content="")
    assert found.kv_read_bytes


def test_an_operator_whose_reading_cannot_be_counted_is_refused_by_name(tmp_path: Path) -> None:
    def refusal(nodes: list[onnx.NodeProto], arrays: dict[str, Any]) -> str:
        with pytest.raises(ModelError) as refused:
            bill(with_nodes(nodes, arrays), tmp_path)
        return str(refused.value)

    conv = [helper.make_node("Conv", ["y", "m"], ["z"])]
    assert "operators that are not supported" in refusal(conv, {"m": SQUARE})
    assert refusal(conv, {"m": SQUARE}).endswith("Conv")
    both = [
        helper.make_node("LSTM", ["y", "m", "m"], ["t"]),
        *[helper.make_node("BeamSearch", ["t"], ["z"], domain=CONTRIB)],
    ]
    assert refusal(both, {"m": SQUARE}).endswith("LSTM, com.microsoft.BeamSearch")
    elements = [
        helper.make_node("GatherElements", ["m", "ids"], ["r"]),
        helper.make_node("Add", ["y", "r"], ["z"]),
    ]
    told = refusal(elements, {"m": SQUARE, "ids": np.zeros((1, HIDDEN), np.int64)})
    assert "GatherElements reads the tensor 'm', and how many of its bytes cannot be counted" in told


def test_a_graph_that_does_not_fit_together_is_refused_in_one_line(tmp_path: Path) -> None:
    def refusal(nodes: list[onnx.NodeProto], arrays: dict[str, Any]) -> str:
        with pytest.raises(ModelError) as refused:
            bill(with_nodes(nodes, arrays), tmp_path)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert "a product of (1, 1, 32) and (3, 3)" in refusal(
        [helper.make_node("MatMul", ["y", "m"], ["z"])], {"m": np.ones((3, 3), np.float32)}
    )
    assert "'nobody' is used before any operator makes it" in refusal(
        [helper.make_node("Add", ["y", "nobody"], ["z"])], {}
    )
    assert "is asked for the shape" in refusal(
        [helper.make_node("Expand", ["y", "huge"], ["z"])], {"huge": np.array([1 << 40, 1, HIDDEN])}
    )
    assert "Add lacks input 1" in refusal([helper.make_node("Add", ["y"], ["z"])], {})


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    good = onnx_decoders.saved(onnx_decoders.gqa_model("int4"), tmp_path / "good.onnx", external=True)
    check_numbers(good)
    broken = SQUARE.copy()
    broken[3, 4] = np.nan
    nodes = [helper.make_node("MatMul", ["y", "m"], ["z"])]
    path = onnx_decoders.saved(with_nodes(nodes, {"m": broken}), tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match=r"the tensor 'm' holds NaN \(not a number\): the file is damaged"):
        check_numbers(path)


def test_a_work_says_what_the_file_is_and_is_held_to_it(tmp_path: Path) -> None:
    path = onnx_decoders.saved(onnx_decoders.gqa_model("int4", level=4), tmp_path / "a,b.onnx")
    work = parse(f'onnx:file="{path}",context=64')
    assert isinstance(work, OnnxStep)
    content = work.content
    assert work.spec == f'onnx:file="{path}",batch=1,context=64,weight=int4,kv=f32,act=int8,content={content}'
    assert parse(work.spec) == work
    assert work.traffic.kv_read_bytes == 2 * 2 * KV * 64 * 4
    assert work.resident_bytes > work.footprint_bytes - 4 * PLACES
    for wrong in ("weight=f32", "act=float", "kv=bf16", "content=0123456789ab"):
        with pytest.raises(SpecError, match=f"{wrong} was asked for, and .* has"):
            parse(f'onnx:file="{path}",context=64,{wrong}')
    with pytest.raises(SpecError, match=r"batch=1 times context=2147483648 must be at most 16777216"):
        parse(f'onnx:file="{path}",context={1 << 31}')
    with pytest.raises(SpecError, match='goes in quotes: file="'):
        parse(f"onnx:file={path},context=64")
    onnx_decoders.saved(onnx_decoders.gqa_model("int4", layers=1, level=4), path)
    with pytest.raises(SpecError, match="it changed since"):
        parse(work.spec)
