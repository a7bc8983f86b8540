"""Folders with experts whose matrices are quantised: their numbers, their bytes, their step, and what is refused."""

import numpy as np
import pytest
from float_bounds import STORED_BOUND
from quantised_experts import ROUTERS, write_experts, write_meant
from quantised_folders import MAKERS

from membound.backends.numba.cpu import NumbaCpu
from membound.errors import MemboundError
from membound.kernels.models import get_model
from membound.kernels.own_routes import own_routes
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.formats import dequantize
from membound.kernels.weights.tensor_files import TensorFiles
from membound.kernels.work import SpecError, parse

CASES = [
    ("deepseek_v3", "fp8_blocks"),
    ("qwen3_moe", "fp8_blocks"),
    ("qwen3_moe", "gptq"),
    ("qwen3_moe", "gptq_ordered"),
    ("mixtral", "gptq_8"),
    ("qwen3_moe", "awq"),
    ("mixtral", "awq"),
    ("qwen3_moe", "packed"),
    ("mixtral", "packed_ordered"),
    ("deepseek_v3", "packed_zeros"),
    ("qwen3_moe", "int8"),
    ("qwen2_moe", "gptq"),
    ("mixtral", "fp8_rows"),
]
FORMATS = {
    "fp8_blocks": "fp8b128",
    "gptq": "int4g32z",
    "gptq_ordered": "int4g32z",
    "gptq_8": "q8_0",
    "awq": "int4g32z",
    "packed": "int4g32",
    "packed_ordered": "int4g32",
    "packed_zeros": "int4g32z",
    "int8": "int8",
    "fp8_rows": "fp8g128",
}


def modules_of(family, index):
    """Names within a layer -> modules within it."""
    if family == "mixtral":
        experts = {"gate": "w1", "up": "w3", "down": "w2"}
        return {f"expert{e}.{name}": f"block_sparse_moe.experts.{e}.{part}" for e in range(4) for name, part in experts.items()}  # fmt: skip
    if index == {"qwen3_moe": 1, "deepseek_v3": 0}.get(family):
        return {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    found = {
        f"expert{e}.{name}": f"mlp.experts.{e}.{name}_proj" for e in (0, 5) for name in ("gate", "up", "down")
    }
    if family == "qwen2_moe":
        found |= {"shared.down": "mlp.shared_expert.down_proj", "k": "self_attn.k_proj"}
    if family == "deepseek_v3":
        found |= {"kv_down": "self_attn.kv_a_proj_with_mqa", "kv_up": "self_attn.kv_b_proj", "shared.up": "mlp.shared_experts.up_proj"}  # fmt: skip
    return found


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_numbers_are_those_of_an_independent_packer(tmp_path, family, kind):
    expected = write_experts(tmp_path, family, kind)
    source = Checkpoint(get_model(str(tmp_path)), "stored", seed=1)
    for index in range(2):
        matrices = source.layer(index).matrices
        for name, part in modules_of(family, index).items():
            assert matrices[name].format == FORMATS[kind]
            truth = expected[f"model.layers.{index}.{part}"]
            assert np.allclose(dequantize(matrices[name]), truth, rtol=1e-6, atol=0)
    source.check_numbers()


def experts_read(work, files, family):
    """Bytes of the tensors of the first two experts of each layer, which are as many as a row takes."""
    of = ROUTERS[family].replace("gate", "experts.")
    return sum(files.nbytes(name) for name in files.names() if f"{of}0." in name or f"{of}1." in name)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_bytes_are_those_of_the_tensors_that_a_step_reads(tmp_path, family, kind):
    write_experts(tmp_path, family, kind)
    work, files = parse(f"step:model={tmp_path},context=8,weight=stored"), TensorFiles(tmp_path)
    assert work.distinct == 2
    vectors = [
        name for name in files.names() if "norm" in name or "bias" in name or "shared_expert_gate" in name
    ]
    left = [name for name in files.names() if ".experts." not in name and "embed" not in name]
    counted = sum(files.nbytes(name) for name in left if name not in vectors)
    counted += sum(4 * int(np.prod(files.shape(name))) for name in vectors)
    counted += experts_read(work, files, family)
    assert work.traffic.weights_bytes + work.traffic.scales_bytes == counted
    idle = sum(files.nbytes(name) for name in files.names() if ".experts." in name)
    more = work.footprint_bytes - work.traffic.total_bytes
    assert more == idle - experts_read(work, files, family)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_folder_answers_as_the_numbers_that_it_means(tmp_path, family, kind):
    expected = write_experts(tmp_path / "stored", family, kind)
    write_meant(tmp_path / "meant", tmp_path / "stored", expected)
    found, routes = [], []
    for folder, weight in (("stored", "stored"), ("meant", "f32"), ("stored", "f32")):
        spec = f"step:model={tmp_path / folder},context=5,weight={weight},kv=f32"
        inputs = make_inputs(parse(spec), seed=3)
        found.append(compute(inputs, 0))
        routes.append([one.tolist() for one in own_routes(inputs)])
    assert relative_error(found[0], found[1]) < 1e-6
    assert relative_error(found[2], found[1]) < 1e-6
    assert routes[0] == routes[1] == routes[2]


def ran(spec):
    """(error of Numba's step, its work, the backend)"""
    work = parse(spec)
    inputs = make_inputs(work, seed=3)
    backend = NumbaCpu()
    backend.open("cpu", threads=2)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):  # the second finds what the first has written
        backend.launch(0)
    return relative_error(backend.output(), compute(inputs, 0)), work, backend


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind", "act", "kept"),
    [
        ("deepseek_v3", "fp8_blocks", "float", ()),
        ("qwen3_moe", "fp8_blocks", "float", ()),
        ("qwen3_moe", "gptq_ordered", "float", ()),
        ("qwen3_moe", "gptq_ordered", "int8", ()),
        ("mixtral", "awq", "float", ("self_attn",)),
        ("deepseek_v3", "packed_zeros", "float", ()),
    ],
)
def test_a_step_over_stored_experts(tmp_path, family, kind, act, kept):
    write_experts(tmp_path, family, kind, kept=kept)
    error, work, backend = ran(f"step:model={tmp_path},context=5,weight=stored,kv=f32,act={act}")
    assert error < (0.02 if act == "int8" else STORED_BOUND) < tolerance(work)
    assert backend.settings() == {"experts_read": 2, "routes": "own"}
    assert work.stored.formats == (("f16",) if kept else (FORMATS[kind],))
    assert work.stored.expert_formats == (FORMATS[kind],)


def refused(folder, text):
    with pytest.raises(MemboundError, match=text) as error:
        Checkpoint(parse(f"step:model={folder},weight=stored").shape, "stored", seed=1).check_numbers()
    assert "\n" not in str(error.value)


def put(module, suffix, change):
    """An edit that replaces a tensor of a module; None takes it away."""

    def edit(tensors):
        made = change(tensors.pop(f"{module}.{suffix}", None))
        if made is not None:
            tensors[f"{module}.{suffix}"] = made

    return edit


def with_value(at, value):
    def change(array):
        array = array.copy()
        array[at] = value
        return array

    return change


ONE = "model.layers.2.mlp.experts.3.down_proj"


@pytest.mark.parametrize(
    ("kind", "edit", "text"),
    [
        ("fp8_blocks", put(ONE, "weight_scale_inv", lambda a: None), r"down_proj\.weight is stored as F8_E4M3; supported: BF16"),
        ("fp8_blocks", put(ONE, "weight_scale_inv", lambda a: np.ones((2, 1), np.float32)), r"scale_inv has shape \[2, 1\]"),
        ("fp8_blocks", put(ONE, "weight_scale_inv", with_value((0, 0), np.inf)), r"weight_scale_inv holds a number that is not finite"),
        ("fp8_blocks", put(ONE, "weight", with_value((3, 4), 0x7F)), r"experts\.3\.down_proj: it holds NaN"),
        ("gptq", put(ONE, "qweight", lambda a: None), r"has no .*3\.down_proj\.qweight, and quantization_config .* stored so"),
        ("gptq_ordered", put(ONE, "g_idx", with_value(0, 7)), r"its g_idx does not say 32 columns for each of 4 groups"),
        ("gptq", put(ONE, "g_idx", lambda a: None), r"experts 0 and 3 of layer 2 are stored in different formats or sizes"),
        ("awq", put(ONE, "qzeros", lambda a: None), r"has no tensor .*3\.down_proj\.qzeros"),
        ("packed", put(ONE, "weight_shape", with_value(0, 64)), r"its weight_shape is \[64, 128\], its tensors say"),
        ("int8", put("model.layers.0.mlp.gate", "weight", lambda a: None), r"has no tensor model\.layers\.0\.mlp\.gate\.weight"),
        ("packed", put("model.layers.0.mlp.experts.6.up_proj", "weight_packed", lambda a: np.zeros((128, 16), np.int32)), r"experts\.6\.up_proj\.weight_packed is a tensor that is not supported"),
    ],
)  # fmt: skip
def test_experts_whose_tensors_do_not_go_with_each_other(tmp_path, kind, edit, text):
    write_experts(tmp_path, "qwen3_moe", kind, edit)
    refused(tmp_path, text)


def test_a_router_may_be_quantised_too(tmp_path):
    meant = {}

    def edit(tensors):
        for index in (0, 2):
            module = f"model.layers.{index}.mlp.gate"
            del tensors[f"{module}.weight"]
            made, meant[index] = MAKERS["awq"](np.random.default_rng(index), 8, 128)
            tensors.update({f"{module}.{suffix}": values for suffix, values in made.items()})

    write_experts(tmp_path, "qwen3_moe", "awq", edit, num_experts=8)
    router = Checkpoint(get_model(str(tmp_path)), "stored", seed=1).layer(2).matrices["router"]
    assert router.format == "f32"
    assert np.allclose(router.values, meant[2], rtol=1e-6, atol=0)


def test_orders_that_differ_between_gate_and_up_are_refused(tmp_path):
    def edit(tensors):
        name = "model.layers.0.mlp.experts.1.up_proj.g_idx"
        tensors[name] = tensors[name][::-1].copy()

    write_experts(tmp_path, "qwen3_moe", "gptq_ordered", edit)
    told = r"experts\.1\.gate_proj and .*experts\.1\.up_proj have the same input and their columns in orders that differ"
    with pytest.raises(SpecError, match=told):
        parse(f"step:model={tmp_path},context=5,weight=stored,kv=f32")
    parse(f"step:model={tmp_path},context=5,weight=int8,kv=f32")


@pytest.mark.slow
def test_a_step_over_several_formats(tmp_path):
    """Down of experts, and o of attention, in 16 bits beside int4 in columns of an order of their own."""
    write_experts(tmp_path, "mixtral", "packed_ordered", kept=("w2", "o_proj"))
    error, work, _ = ran(f"step:model={tmp_path},context=5,weight=stored,kv=f32")
    assert (work.stored.formats, work.stored.expert_formats) == (("int4g32", "f16"),) * 2
    assert error < STORED_BOUND


@pytest.mark.slow
def test_latent_attention_over_several_formats(tmp_path):
    """What goes up and the output in 16 bits, what goes down in int4 with zero points."""
    write_experts(tmp_path, "deepseek_v3", "packed_zeros", kept=("q_b_proj", "kv_a_proj", "o_proj"))
    error, work, _ = ran(f"step:model={tmp_path},context=5,weight=stored,kv=f32")
    assert set(work.stored.formats) == {"int4g32z", "f16"}
    assert error < STORED_BOUND


def test_orders_that_differ_below_one_input_are_refused(tmp_path):
    """A v in 16 bits has its columns in their places, q and k beside it have not."""
    write_experts(tmp_path, "mixtral", "packed_ordered", kept=("layers.1.self_attn.v_proj",))
    with pytest.raises(
        SpecError, match=r"q_proj and .*v_proj have the same input and their columns in orders"
    ):
        parse(f"step:model={tmp_path},context=5,weight=stored,kv=f32")


def test_formats_that_differ_are_named_where_they_are_not_multiplied(tmp_path):
    write_experts(tmp_path, "mixtral", "awq", kept=("w2",))
    work = parse(f"step:model={tmp_path},context=5,weight=stored")
    assert NumbaCpu().supports(work) is None
    assert work.stored.of_one_format() == "experts are stored in int4g32z, f16: the kernels take one format"
