"""Folders with quantised matrices: their numbers, their bytes, their step, and what is refused."""

import json

import numpy as np
import pytest
from checkpoints import CONFIG
from quantised_folders import CONFIGS, GROUP, MAKERS, compressed, packed, save, write_folder

from membound.backends.numba.cpu import NumbaCpu
from membound.errors import MemboundError
from membound.kernels.model import ModelError
from membound.kernels.models import get_model
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.formats import dequantize
from membound.kernels.weights.stored.compressed import Packed
from membound.kernels.weights.stored.facts import stored_facts
from membound.kernels.weights.stored.gptq import Gptq
from membound.kernels.weights.stored.quantization import scheme_of
from membound.kernels.weights.tensor_files import TensorFiles
from membound.kernels.work import SpecError, parse

FORMATS = {
    "gptq": "int4g32z",
    "gptq_ordered": "int4g32z",
    "gptq_v2": "int4g32z",
    "gptq_8": "q8_0",
    "awq": "int4g32z",
    "packed": "int4g32",
    "packed_zeros": "int4g32z",
    "packed_ordered": "int4g32",
    "int8": "int8",
    "fp8_rows": "fp8g128",
    "fp8_blocks": "fp8b128",
}
NAMES = {"q": "self_attn.q_proj", "down": "mlp.down_proj"}


@pytest.mark.parametrize("kind", MAKERS)
def test_numbers_are_those_of_an_independent_packer(tmp_path, kind):
    expected = write_folder(tmp_path, kind)
    source = Checkpoint(get_model(str(tmp_path)), "stored", seed=1)
    for index in range(2):
        matrices = source.layer(index).matrices
        assert {matrix.format for matrix in matrices.values()} == {FORMATS[kind]}
        for name, part in NAMES.items():
            truth = expected[f"model.layers.{index}.{part}"]
            assert np.allclose(dequantize(matrices[name]), truth, rtol=1e-6, atol=0)
    assert source.lm_head().format == "f16"
    source.check_numbers()


@pytest.mark.parametrize("kind", MAKERS)
def test_bytes_are_those_of_the_file(tmp_path, kind):
    write_folder(tmp_path, kind)
    work = parse(f"step:model={tmp_path},context=8,weight=stored")
    model, files = work.shape, TensorFiles(tmp_path)
    norms = [name for name in files.names() if "norm" in name]
    counted = sum(
        files.nbytes(name) for name in files.names() if name not in (*norms, "model.embed_tokens.weight")
    )
    traffic = work.traffic
    assert traffic.weights_bytes + traffic.scales_bytes == counted + 4 * (2 * model.layers + 1) * model.hidden


@pytest.mark.parametrize("kind", ["gptq_ordered", "packed_zeros"])
def test_another_format_is_made_of_what_is_stored(tmp_path, kind):
    expected = write_folder(tmp_path, kind)
    source = Checkpoint(get_model(str(tmp_path)), "f32", seed=1)
    found = source.layer(1).matrices["down"].values
    assert np.allclose(found, expected["model.layers.1.mlp.down_proj"], rtol=1e-6, atol=0)


def refused(folder, text):
    with pytest.raises(MemboundError, match=text) as error:
        Checkpoint(get_model(str(folder)), "stored", seed=1).check_numbers()
    assert "\n" not in str(error.value)
    with pytest.raises(MemboundError):
        Checkpoint(parse(f"step:model={folder},weight=stored").shape, "stored", 1).check_numbers()


def put(name, change):
    """An edit that replaces a tensor of the first layer's q."""

    def edit(tensors):
        key = f"model.layers.0.self_attn.q_proj.{name}"
        made = change(tensors.pop(key, None))
        if made is not None:
            tensors[key] = made

    return edit


def with_value(at, value):
    def change(array):
        array = array.copy()
        array[at] = value
        return array

    return change


@pytest.mark.parametrize(
    ("kind", "edit", "text"),
    [
        ("gptq", put("qweight", lambda a: a[1:]), r"q_proj\.qweight has shape \[15, 128\], config\.json says \[16, 128\]"),
        ("gptq", put("qweight", lambda a: None), r"has no .*q_proj\.qweight, and quantization_config .* says that .* is stored so"),
        ("gptq", put("scales", lambda a: None), r"has no tensor .*q_proj\.scales"),
        ("gptq", put("scales", lambda a: a.astype(np.int32)), r"q_proj\.scales is stored as I32; supported: F16, BF16, F32"),
        ("gptq", put("scales", with_value((0, 3), np.nan)), r"q_proj\.scales holds a number that is not finite"),
        ("gptq", put("scales", lambda a: a.astype(np.float32) / 3), r"q_proj: its scales are no float16 numbers"),
        ("gptq_ordered", put("g_idx", with_value(0, 7)), r"q_proj: its g_idx does not say 32 columns for each of 4 groups"),
        ("gptq_ordered", put("g_idx", with_value(0, -1)), r"q_proj: its g_idx does not say 32 columns"),
        ("gptq_ordered", put("g_idx", with_value(0, 2**31 - 1)), r"q_proj: its g_idx does not say 32 columns for each of 4 groups"),
        ("packed_ordered", put("weight_g_idx", with_value(0, 2**31 - 1)), r"q_proj: its weight_g_idx does not say 32 columns"),
        ("gptq_8", put("qzeros", with_value((0, 0), 0)), r"q_proj: its 8-bit numbers have zero points"),
        ("gptq", put("bias", lambda a: np.ones(128, np.float16)), r"q_proj\.bias is a bias that is not supported"),
        ("packed", put("weight_shape", with_value(0, 64)), r"q_proj: its weight_shape is \[64, 128\], its tensors say"),
        ("packed", put("weight_zero_point", lambda a: np.zeros((16, 4), np.int32)), r"weight_zero_point is a tensor that is not"),
        ("packed_ordered", put("weight_g_idx", with_value(0, 9)), r"its weight_g_idx does not say 32 columns"),
        ("fp8_rows", put("weight", with_value((0, 0), 0xFF)), r"q_proj: it holds NaN"),
        ("fp8_blocks", put("weight", with_value((0, 0), 0x7F)), r"q_proj: it holds NaN"),
        ("fp8_blocks", put("weight_scale_inv", lambda a: a[:, :0]), r"weight_scale_inv has shape \[1, 0\]"),
        ("int8", put("weight", lambda a: a.astype(np.float16)), r"q_proj\.weight is stored as F16; supported: I8"),
        ("awq", put("qzeros", lambda a: a.astype(np.float32)), r"q_proj\.qzeros is stored as F32; supported: I32"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_go_with_each_other(tmp_path, kind, edit, text):
    write_folder(tmp_path, kind, edit)
    refused(tmp_path, text)


def test_biases_of_zeros_are_left_out(tmp_path):
    write_folder(tmp_path, "gptq", put("bias", lambda a: np.zeros(128, np.float16)))
    Checkpoint(get_model(str(tmp_path)), "stored", seed=1).check_numbers()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"quant_method 'bitsandbytes' is not supported; its NF4 numbers"),
        ({"quant_method": "hqq"}, r"quant_method 'hqq' is not supported; supported: gptq, awq, compressed-tensors, fp8"),
        ({"quant_method": "mxfp4"}, r"quant_method 'mxfp4' is not supported; experts in MXFP4"),
        ({"quant_method": ["gptq"]}, r"quant_method \['gptq'\] is not supported"),
        (CONFIGS["gptq"] | {"bits": 3}, r"quantization_config has bits=3, which is not supported; supported: 4"),
        (CONFIGS["gptq"] | {"bits": "4"}, r"bits='4' must be a positive whole number"),
        (CONFIGS["gptq"] | {"checkpoint_format": "marlin"}, r"checkpoint_format='marlin'.*supported: gptq, gptq_v2"),
        (CONFIGS["gptq"] | {"dynamic": {"+:x": {"bits": 8}}}, r"dynamic=.*supported: one way for all matrices"),
        (CONFIGS["gptq"] | {"group_size": 48}, r"q_proj\.qzeros has shape \[4, 16\], config\.json says \[3, 16\]"),
        (CONFIGS["awq"] | {"version": "gemv"}, r"version='gemv'.*supported: gemm"),
        (CONFIGS["awq"] | {"modules_to_not_convert": ["mlp"]}, r"mlp\.gate_proj\.qweight, and .*mlp\.gate_proj is not stored so"),
        (CONFIGS["awq"] | {"modules_to_not_convert": "mlp"}, r"modules_to_not_convert='mlp' must be a list of names"),
        (CONFIGS["packed"] | {"kv_cache_scheme": {"num_bits": 8}}, r"kv_cache_scheme=.*supported: weights alone"),
        (CONFIGS["packed"] | {"format": "marlin-24"}, r"format='marlin-24'.*supported: pack-quantized"),
        (CONFIGS["packed"] | {"format": ["pack-quantized"]}, r"format=\['pack-quantized'\].*supported: pack-quantized"),
        (CONFIGS["packed"] | {"ignore": ["re:("]}, r"ignore has 're:\(', which is no pattern"),
        (CONFIGS["packed"] | {"ignore": ["re:(a+)+$"]}, r"ignore has 're:\(a\+\)\+\$', which could take for ever to match"),
        (CONFIGS["packed"] | {"ignore": ["re:" + ".*a?" * 9]}, r"a pattern may repeat at most 4 characters, and no groups"),
        (CONFIGS["packed"] | {"ignore": ["re:a{9999999999999}"]}, r"which is no pattern: the repetition number is too large"),
        (CONFIGS["packed"] | {"ignore": ["re:" + "(" * 5000]}, r"which is no pattern: "),
        (CONFIGS["packed"] | {"config_groups": {}}, r"config_groups=\{\}.*supported: one group"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, r"says NVFP4, which is not supported: 16 numbers"),
        (compressed("float-quantized", num_bits=4, type="float", group_size=16), r"says NVFP4, .*save the model as GPTQ"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, r"says NVFP4, which is not supported"),
        (CONFIGS["packed"] | {"config_groups": {str(i): {"targets": ["Linear"]} for i in range(9)}}, r"\['Linear'\]}, '1': .* …, which is not supported"),
        ("int4", r"quantization_config='int4' must be a JSON object"),
    ],
)  # fmt: skip
def test_settings_that_are_not_read(tmp_path, change, text):
    method = change["quant_method"] if isinstance(change, dict) else ""
    kind = {"awq": "awq", "compressed-tensors": "packed"}.get(str(method), "gptq")
    write_folder(tmp_path, kind)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": change}))
    refused(tmp_path, text)


def nested(folder, above=None, **within):
    """The folder's config.json as that of a model that sees, with its quantization_config in the part that writes text."""
    path = folder / "config.json"
    text = json.loads(path.read_text()) | within
    fields = {
        "model_type": "mistral3",
        "text_config": text | {"model_type": "mistral"},
        "vision_config": {"depth": 1},
    }
    path.write_text(json.dumps(fields | ({"quantization_config": above} if above else {})))
    return str(folder)


@pytest.mark.parametrize("above", [None, CONFIGS["awq"]])
def test_a_quantization_config_in_the_part_that_writes_text(tmp_path, above):
    expected = write_folder(tmp_path, "awq", sliding_window=None)
    model = get_model(nested(tmp_path, above))
    assert model.scheme is not None
    assert model.scheme.title.startswith("AWQ")
    found = dequantize(Checkpoint(model, "stored", seed=1).layer(1).matrices["down"])
    assert np.allclose(found, expected["model.layers.1.mlp.down_proj"], rtol=1e-6, atol=0)
    assert stored_facts(str(tmp_path)).title == model.scheme.title


def test_what_is_refused_in_the_part_that_writes_text(tmp_path):
    write_folder(tmp_path, "awq", sliding_window=None)
    config = (tmp_path / "config.json").read_text()
    with pytest.raises(ModelError, match=r"quant_method 'hqq' is not supported"):
        get_model(nested(tmp_path, quantization_config={"quant_method": "hqq"}))
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"differs from that of the part that writes text"):
        get_model(nested(tmp_path, CONFIGS["gptq"]))


def test_orders_that_differ_below_one_input(tmp_path):
    def edit(tensors):
        name = "model.layers.1.self_attn.k_proj.g_idx"
        tensors[name] = tensors[name][::-1].copy()

    write_folder(tmp_path, "gptq_ordered", edit)
    with pytest.raises(SpecError, match=r"layers\.1\.self_attn\.q_proj and .*v_proj have the same input"):
        parse(f"prefill:model={tmp_path},weight=stored")
    parse(f"prefill:model={tmp_path},weight=int8")


def test_a_module_that_is_ignored_is_float_and_says_so(tmp_path):
    def floats(tensors):
        key = "model.layers.0.self_attn.q_proj"
        for name in [name for name in tensors if name.startswith(key)]:
            del tensors[name]
        tensors[f"{key}.weight"] = np.ones((128, 128), np.float16)

    write_folder(tmp_path, "packed", floats)
    refused(tmp_path, r"has no .*q_proj\.weight_packed")
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    fields["quantization_config"]["ignore"] = ["lm_head", r"re:.*layers\.0\.self_attn\.q_proj$"]
    path.write_text(json.dumps(fields))
    work = parse(f"step:model={tmp_path},context=8,weight=stored")
    assert work.stored.formats == ("f16", "int4g32")
    assert NumbaCpu().supports(work) is None
    several = parse(f"step:model={tmp_path},context=8,batch=2,weight=stored")
    assert NumbaCpu().supports(several) is None


@pytest.mark.parametrize(
    "name", [r"re:.*layers\.\d+\.(self_attn|mlp)\..*", r"re:(?:visual|model)\.[a-z]+.*?_proj$", "lm(head"]
)
def test_patterns_as_they_are_written_are_taken(tmp_path, name):
    config = compressed("int-quantized", (name,), num_bits=8, type="int", symmetric=True, strategy="channel")
    scheme = scheme_of(tmp_path, {"quantization_config": config})
    assert scheme.covers(name) is False or scheme.covers("model.layers.0.mlp.up_proj") is False


@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_rows_that_do_not_fill_words_are_refused(tmp_path, kind):
    (tmp_path / "config.json").write_text(
        json.dumps({"quantization_config": CONFIGS[kind]} | CONFIG | {"model_type": "llama", "head_dim": 6})
    )
    tensors = {"model.layers.0.self_attn.k_proj.qweight": np.zeros((1, 1), np.int32)}
    for name, shape in (("embed_tokens", (70, 128)), ("norm", (128,)), ("lm_head", (70, 128))):
        tensors[f"{'' if name == 'lm_head' else 'model.'}{name}.weight"] = np.zeros(shape, np.float16)
    for module, n in (("q", 24), ("k", 12)):
        made, _ = MAKERS[kind](np.random.default_rng(1), 8 * -(-n // 8), 128)
        tensors |= {f"model.layers.0.self_attn.{module}_proj.{part}": values for part, values in made.items()}
    save(tensors, tmp_path / "model.safetensors")
    refused(tmp_path, r"self_attn\.k_proj: 12 rows are not supported: they are stored 8 to a word")


def test_zero_points_of_rows_that_do_not_fill_words_are_those_of_their_rows():
    made, expected = packed(np.random.default_rng(3), 16, 64, symmetric=False)
    cut = {name: values[:12] if len(values) == 16 else values for name, values in made.items()}
    scheme = Packed(GROUP, symmetric=False)
    arrays = cut | {
        "weight_shape": np.array([12, 64]),
        "weight_scale": cut["weight_scale"].astype(np.float32),
    }
    assert {name: part.shape for name, part in scheme.parts(12, 64).items()} == {
        name: values.shape for name, values in arrays.items()
    }
    assert np.allclose(dequantize(scheme.read(arrays, 12, 64)), expected[:12], rtol=1e-6, atol=0)


def test_groups_of_8_bits_must_fill_a_row(tmp_path):
    with pytest.raises(ModelError, match=r"groups of 128 in rows of 192 are not supported"):
        Gptq(bits=8, group=128).format(192)


FUSED = {"qkv_proj": (("q", 128), ("k", 64), ("v", 64)), "gate_up_proj": (("gate", 256), ("up", 256))}


@pytest.mark.parametrize("kind", ["packed_zeros", "packed_ordered", "gptq", "awq", "int8", "fp8_blocks"])
def test_matrices_that_share_a_tensor_are_taken_apart(tmp_path, kind):
    shapes = {"self_attn.qkv_proj": (256, 128), "self_attn.o_proj": (128, 128)}
    shapes |= {"mlp.gate_up_proj": (512, 128), "mlp.down_proj": (128, 256)}
    rng, tensors, meant = np.random.default_rng(4), {}, {}
    for name, shape in (("model.embed_tokens", (70, 128)), ("model.norm", (128,)), ("lm_head", (70, 128))):
        tensors[f"{name}.weight"] = rng.standard_normal(shape).astype(np.float16)
    for index in range(2):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{index}.{norm}.weight"] = np.ones(128, np.float16)
        for part, shape in shapes.items():
            made, meant[index, part.partition(".")[2]] = MAKERS[kind](rng, *shape)
            tensors |= {f"model.layers.{index}.{part}.{end}": values for end, values in made.items()}
    fields = CONFIG | {"model_type": "phi3", "quantization_config": CONFIGS[kind], "pad_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    save(tensors, tmp_path / "model.safetensors")
    work, files = parse(f"step:model={tmp_path},context=8,weight=stored"), TensorFiles(tmp_path)
    source = Checkpoint(work.shape, "stored", seed=1)
    source.check_numbers()
    for (index, part), truth in meant.items():
        at = 0
        for name, n in FUSED.get(part, ((part[0] if part == "o_proj" else "down", len(truth)),)):
            found = dequantize(source.layer(index).matrices[name])
            assert np.allclose(found, truth[at : at + n], rtol=1e-6, atol=0)
            at += n
    counted = sum(files.nbytes(name) for name in files.names() if "norm" not in name and "embed" not in name)
    assert work.traffic.weights_bytes + work.traffic.scales_bytes == counted + 4 * 5 * 128


def test_stored_is_for_folders(tmp_path):
    with pytest.raises(SpecError, match=r"weight=stored goes with a folder; tiny is built in"):
        parse("step:model=tiny,weight=stored")
    with pytest.raises(SpecError, match=r"weight='stored' is unknown"):
        parse("linear:n=8,k=32,weight=stored")
    write_folder(tmp_path, "fp8_blocks")
    with pytest.raises(SpecError, match=r"act=int8 goes with integer weights, and .* stores fp8b128"):
        parse(f"step:model={tmp_path},weight=stored,act=int8")


def test_a_folder_of_floats_may_be_taken_as_it_is(tmp_path):
    write_folder(tmp_path, "packed")
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match=r"it is stored quantised \(.*weight_packed\)"):
        Checkpoint(get_model(str(tmp_path)), "stored", seed=1)
