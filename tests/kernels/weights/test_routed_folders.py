"""Folders of models with experts and with latent attention: read as they are published, against Transformers' stored answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from float_bounds import STORED_BOUND
from safetensors.numpy import load_file, save_file
from transformers_answers import CASES, dense, folder_of, holds_states, inputs_of, routed_folder

from membound.kernels.inputs import ModelInputs
from membound.kernels.models import ModelError, get_model
from membound.kernels.own_routes import own_routes
from membound.kernels.parts import Experts
from membound.kernels.reference import compute, relative_error
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.formats import dequantize
from membound.kernels.work import SpecError, parse

ROUTED = [case for case in CASES if not dense(case) and not holds_states(case)]
BOUND = 1e-6
"""As in test_forward.py."""


def by_kind(kind: str) -> dict[str, Any]:
    return next(case for case in ROUTED if case["config"]["model_type"] == kind)


def step_of(folder: str, case: dict[str, Any], weight: str = "f32") -> ModelInputs:
    context = len(case["tokens"]) - 1
    return inputs_of(f"step:model={folder},context={context},cache=prompt,weight={weight},kv=f32", case)


@pytest.mark.parametrize("case", ROUTED, ids=[case["config"]["model_type"] for case in ROUTED])
@pytest.mark.parametrize("write", [routed_folder, folder_of], ids=["published", "stacked"])
def test_a_folder_answers_as_in_transformers(case: dict[str, Any], write: Any, tmp_path: Path) -> None:
    inputs = step_of(write(case, tmp_path), case)
    assert relative_error(compute(inputs, 0)[0], np.array(case["logits"])) < BOUND


def test_a_step_reads_the_experts_that_one_row_takes(tmp_path: Path) -> None:
    folder = routed_folder(by_kind("qwen3_moe"), tmp_path)
    work = parse(f"step:model={folder},context=9,weight=bf16")
    assert work.distinct == 3
    experts = next(one for one in work.operations if one.name == "experts")
    assert experts.count == 4
    assert experts.traffic.weights_bytes == 3 * 3 * 32 * 48 * 2 + 8 * 48 * 4
    with pytest.raises(
        SpecError, match=r"which experts 2 rows take between them is known only once they have run"
    ):
        parse(f"step:model={folder},context=9,batch=2")
    with pytest.raises(SpecError, match=r"which experts 5 rows take between them"):
        parse(f"prefill:model={folder},tokens=5")
    stored = parse(f"step:model={folder},context=9,weight=stored")
    assert stored.traffic == parse(f"step:model={folder},context=9,weight=f32").traffic


def test_the_routes_are_those_of_the_folder_and_are_kept(tmp_path: Path) -> None:
    folder = routed_folder(by_kind("deepseek_v2"), tmp_path / "model")
    kept = tmp_path / "kept"
    inputs = make_inputs(parse(f"step:model={folder},context=9,weight=f32,kv=f32"), 3, folder=kept)
    assert isinstance(inputs, ModelInputs)
    found = own_routes(inputs)
    assert [routes.shape for routes in found] == [(1, 0), (1, 3), (1, 3), (1, 3)]
    assert [inputs.routes(index).tolist() for index in range(4)] == [routes.tolist() for routes in found]
    (path,) = kept.glob("routes-*.npz")
    stored = dict(np.load(path))
    np.savez(path.with_suffix(""), **{name: values[:, ::-1] for name, values in stored.items()})
    again = make_inputs(inputs.work, 3, folder=kept)
    assert isinstance(again, ModelInputs)
    assert again.routes(1).tolist() == found[1][:, ::-1].tolist()
    path.write_bytes(b"torn")
    torn = make_inputs(inputs.work, 3, folder=kept)
    assert isinstance(torn, ModelInputs)
    assert torn.routes(1).tolist() == found[1].tolist()


@pytest.mark.parametrize("kind", ["gpt_oss", "llama4_text", "mixtral"])
@pytest.mark.parametrize("weight", ["bf16", "int8", "f16"])
def test_experts_are_quantised_as_their_numbers_would_be(kind: str, weight: str, tmp_path: Path) -> None:
    from membound.kernels.weights.formats import dequantize, quantize

    model = get_model(routed_folder(by_kind(kind), tmp_path))
    index = next(i for i, layer in enumerate(model.decoder.layers) if isinstance(layer.mlp, Experts))
    plain = Checkpoint(model, "f32", seed=1).layer(index).matrices
    made = Checkpoint(model, weight, seed=1).layer(index).matrices
    for name in ("expert0.gate", "expert3.up", "expert7.down"):
        wanted = dequantize(quantize(dequantize(plain[name]), weight))
        assert made[name].format == weight
        assert np.array_equal(dequantize(made[name]), wanted)
    assert made["router"].format == "f32"
    assert np.array_equal(made["router"].values, plain["router"].values)


@pytest.mark.parametrize(
    ("kind", "drop", "says"),
    [
        ("qwen3_moe", "model.layers.1.mlp.experts.5.up_proj.weight", "has no tensor model.layers.1.mlp.experts.5.up_proj"),
        ("mixtral", "model.layers.0.block_sparse_moe.gate.weight", "has no tensor model.layers.0.block_sparse_moe.gate"),
        ("gpt_oss", "model.layers.0.mlp.experts.down_proj_bias", "has no tensor model.layers.0.mlp.experts.down_proj_bias"),
        ("deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias", "has no tensor model.layers.1.mlp.gate.e_sco"),
        ("deepseek_v2", "model.layers.0.self_attn.kv_a_layernorm.weight", "has no tensor model.layers.0.self_attn.kv_a"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(kind: str, drop: str, says: str, tmp_path: Path) -> None:
    folder = routed_folder(by_kind(kind), tmp_path, lambda tensors: tensors.pop(drop))
    with pytest.raises(ModelError, match=says):
        Checkpoint(get_model(folder), "f32", seed=1)


def test_a_tensor_of_another_shape_or_without_a_place_is_named(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"

    def transposed(tensors: dict[str, Any]) -> None:
        tensors[name] = np.ascontiguousarray(tensors[name].swapaxes(1, 2))

    folder = routed_folder(by_kind("gpt_oss"), tmp_path / "a", transposed)
    with pytest.raises(
        ModelError, match=r"gate_up_proj has shape \[8, 112, 48\], config.json says \[8, 48, 112\]"
    ):
        Checkpoint(get_model(folder), "f32", seed=1)
    more = {"model.layers.0.mlp.experts.8.up_proj.weight": np.zeros((32, 48), np.float32)}
    folder = routed_folder(by_kind("qwen3_moe"), tmp_path / "b", lambda tensors: tensors.update(more))
    with pytest.raises(ModelError, match=r"experts.8.up_proj.weight is a tensor that is not supported"):
        Checkpoint(get_model(folder), "f32", seed=1)


def test_numbers_of_experts_are_checked(tmp_path: Path) -> None:
    def damaged(tensors: dict[str, Any]) -> None:
        tensors["model.layers.0.mlp.experts.gate_up_proj"][7, 3, 5] = np.nan

    folder = routed_folder(by_kind("gpt_oss"), tmp_path, damaged)
    with pytest.raises(ModelError, match=r"experts.gate_up_proj holds NaN"):
        Checkpoint(get_model(folder), "f32", seed=1).check_numbers()


# MXFP4, as gpt-oss is published

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
OSS: dict[str, Any] = {
    **{"model_type": "gpt_oss", "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 61},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4},
    **{"num_experts_per_tok": 2, "sliding_window": 6, "tie_word_embeddings": False},
}  # fmt: skip
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}


def two_folders(path: Path) -> tuple[str, str]:
    """The same model with its experts in MXFP4, and with the numbers that they mean as float32."""
    packed, floats = path / "mxfp4", path / "floats"
    rng = np.random.default_rng(3)
    tensors: dict[str, Any] = {
        "model.norm.weight": np.ones(64),
        "lm_head.weight": rng.standard_normal((61, 64)),
    }
    tensors["model.embed_tokens.weight"] = rng.standard_normal((61, 64))
    blocks: dict[str, Any] = {}
    meant: dict[str, Any] = {}
    for layer in ("model.layers.0.", "model.layers.1."):
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{name}.weight"] = 1 + rng.standard_normal(64) / 8
        for name, n, k in (("q", 64, 64), ("k", 32, 64), ("v", 32, 64), ("o", 64, 64)):
            tensors[f"{layer}self_attn.{name}_proj.weight"] = rng.standard_normal((n, k)) / 8
            tensors[f"{layer}self_attn.{name}_proj.bias"] = rng.standard_normal(n) / 8
        tensors[f"{layer}self_attn.sinks"] = rng.standard_normal(4)
        tensors[f"{layer}mlp.router.weight"] = rng.standard_normal((4, 64)) / 8
        tensors[f"{layer}mlp.router.bias"] = rng.standard_normal(4) / 8
        for name, n, k in (("gate_up_proj", 64, 64), ("down_proj", 64, 32)):
            of = f"{layer}mlp.experts.{name}"
            nibbles = rng.integers(0, 16, (4, n, k // 32, 32))
            exponents = rng.integers(122, 126, (4, n, k // 32)).astype(np.uint8)
            blocks[f"{of}_blocks"] = (nibbles[..., 0::2] | nibbles[..., 1::2] << 4).astype(np.uint8)
            blocks[f"{of}_scales"] = exponents
            values = np.array(E2M1)[nibbles] * 2.0 ** (exponents.astype(int) - 127)[..., None]
            meant[of] = values.reshape(4, n, k).swapaxes(1, 2)
            tensors[f"{of}_bias"] = rng.standard_normal((4, n)) / 8
    ready = {name: np.ascontiguousarray(values, np.float32) for name, values in tensors.items()}
    for folder, config, more in (
        (packed, {"quantization_config": MXFP4}, blocks),
        (floats, {}, {name: np.ascontiguousarray(values, np.float32) for name, values in meant.items()}),
    ):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(OSS | config), "utf-8")
        save_file(ready | more, folder / "model.safetensors")
    return str(packed), str(floats)


def test_experts_in_mxfp4_are_the_numbers_that_they_mean(tmp_path: Path) -> None:
    sources = [Checkpoint(get_model(folder), "f32", seed=1) for folder in two_folders(tmp_path)]
    layers = [source.layer(1) for source in sources]
    for number in range(4):
        for name in ("gate", "up", "down"):
            one, other = (layer.matrices[f"expert{number}.{name}"].values for layer in layers)
            assert np.array_equal(one, other)
            assert np.abs(one).max() > 0
        assert np.array_equal(*(layer.vectors[f"expert{number}.up_bias"] for layer in layers))
    again = Checkpoint(get_model(str(tmp_path / "mxfp4")), "mxfp4", seed=1).layer(1).matrices["expert2.down"]
    assert np.array_equal(dequantize(again), layers[0].matrices["expert2.down"].values)


def test_a_folder_in_mxfp4_answers_as_its_floats(tmp_path: Path) -> None:
    found = []
    for folder in two_folders(tmp_path):
        inputs = make_inputs(parse(f"step:model={folder},context=9,cache=prompt,weight=f32,kv=f32"), 1)
        found.append(compute(inputs, 0))
    assert np.array_equal(found[0], found[1])


def test_another_quantisation_of_experts_is_refused(tmp_path: Path) -> None:
    folder = routed_folder(by_kind("deepseek_v3"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    for method, says in (
        ("mxfp4", "experts in MXFP4 are read of gpt_oss alone"),
        ("bitsandbytes", "its NF4"),
    ):
        (tmp_path / "config.json").write_text(
            json.dumps(config | {"quantization_config": {"quant_method": method}}), "utf-8"
        )
        with pytest.raises(ModelError, match=rf"quant_method '{method}' is not supported; {says}"):
            get_model(folder)


def test_experts_in_mxfp4_as_stored(tmp_path: Path) -> None:
    folder, meant = two_folders(tmp_path)
    work = parse(f"step:model={folder},context=9,weight=stored,kv=f32")
    assert work.stored is not None
    assert (work.stored.formats, work.stored.expert_formats) == (("f32",), ("mxfp4",))
    source, floats = Checkpoint(work.shape, "stored", seed=1), Checkpoint(get_model(meant), "f32", seed=1)
    for number in range(4):
        for name in ("gate", "up", "down"):
            one, other = (each.layer(1).matrices[f"expert{number}.{name}"] for each in (source, floats))
            assert one.format == "mxfp4"
            assert np.array_equal(dequantize(one), other.values)
    sizes = {name: array.nbytes for name, array in load_file(Path(folder) / "model.safetensors").items()}
    experts = sum(size // 2 for name, size in sizes.items() if ".experts." in name)  # two of four
    others = sum(s for name, s in sizes.items() if ".experts." not in name and "embed" not in name)
    assert work.traffic.weights_bytes + work.traffic.scales_bytes == experts + others
    assert np.array_equal(*(compute(make_inputs(parse(spec), 1), 0) for spec in (
        f"step:model={folder},context=9,weight=stored,kv=f32", f"step:model={meant},context=9,weight=f32,kv=f32"
    )))  # fmt: skip


@pytest.mark.parametrize(
    ("exponent", "code", "kept"), [(252, 7, True), (253, 5, True), (253, 6, False), (254, 3, True), (254, 12, False)]
)  # fmt: skip
def test_exponents_that_take_numbers_beyond_float32(
    tmp_path: Path, exponent: int, code: int, kept: bool
) -> None:
    """3 · 2¹²⁶ and 1.5 · 2¹²⁷ are float32 numbers, 4 · 2¹²⁶ and 2 · 2¹²⁷ are none."""
    folder, _ = two_folders(tmp_path)
    file = Path(folder) / "model.safetensors"
    tensors, name = load_file(file), "model.layers.1.mlp.experts.down_proj"
    tensors[f"{name}_scales"][2, 5, 0] = exponent
    tensors[f"{name}_blocks"][2, 5, 0] = code
    save_file(tensors, file)
    for weight in ("stored", "f32"):
        source = Checkpoint(get_model(folder), weight, seed=1)
        if kept:
            source.check_numbers()
            with np.errstate(over="raise"):
                held = dequantize(source.layer(1).matrices["expert2.down"])[5]
            assert held[0] == E2M1[code] * 2.0 ** (exponent - 127)
            assert abs(held[0]) < np.finfo(np.float32).max
        else:
            with pytest.raises(ModelError, match=rf"{name}_scales holds infinity"):
                source.check_numbers()


@pytest.mark.slow
@pytest.mark.parametrize("weight", ["stored", "mxfp4"])
def test_a_step_over_experts_in_mxfp4(weight: str, tmp_path: Path) -> None:
    from membound.backends.numba.cpu import NumbaCpu

    folder, _ = two_folders(tmp_path)
    work = parse(f"step:model={folder},context=9,weight={weight},kv=f32")
    inputs, backend = make_inputs(work, 1), NumbaCpu()
    backend.open("cpu", threads=2)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    backend.launch(0)
    assert relative_error(backend.output(), compute(inputs, 0)) < STORED_BOUND


def test_an_exponent_that_is_no_number_is_named(tmp_path: Path) -> None:
    folder, _ = two_folders(tmp_path)
    path = Path(folder) / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.experts.down_proj_scales"][3, 5, 0] = 255
    save_file(tensors, path)
    for weight in ("stored", "bf16"):
        with pytest.raises(ModelError, match=r"layers\.1\.mlp\.experts\.down_proj_scales holds NaN"):
            Checkpoint(get_model(folder), weight, seed=1).check_numbers()


def test_published_code_that_transformers_has_taken_in_is_no_reason(tmp_path: Path) -> None:
    case = by_kind("deepseek_v2")
    for name, error in (("modeling_deepseek.DeepseekV2ForCausalLM", ""), ("modeling_mine.Mine", "auto_map")):
        code = {"auto_map": {"AutoModelForCausalLM": name}, "architectures": ["DeepseekV2ForCausalLM"]}
        folder = routed_folder({**case, "config": case["config"] | code}, tmp_path)
        if error:
            with pytest.raises(ModelError, match=error):
                get_model(folder)
        else:
            assert get_model(folder).decoder.experts
