"""What published folders have that an exporter's own tests would not think of: nested settings, other spellings, layers beside."""

import json

import numpy as np
import pytest
from quantised_folders import CONFIGS, compressed, write_folder
from safetensors.numpy import save_file
from transformers_answers import CASES, numbers, routed_folder

from membound.kernels.models import get_model
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.formats import dequantize
from membound.kernels.weights.stored.awq import Awq
from membound.kernels.weights.stored.facts import stored_facts
from membound.kernels.weights.stored.fp8_blocks import Fp8Blocks
from membound.kernels.weights.stored.gptq import Gptq
from membound.kernels.weights.stored.quantization import scheme_of
from membound.kernels.work import parse


def case_of(kind):
    return next(one for one in CASES if one["config"]["model_type"] == kind)


def test_settings_of_the_part_that_writes_text_are_read(tmp_path):
    """Kimi K2.5: quantization_config within text_config, whose ignore list has names of that part."""
    found = {}

    def within(tensors):
        tensors |= {f"language_model.{name}": tensors.pop(name) for name in list(tensors)}
        for name in [name for name in tensors if name.endswith("weight_shape")]:
            tensors[name] = tensors[name].astype(np.int32)
        tensors["vision_tower.patch_embed.proj.weight"] = np.ones((8, 3, 2, 2), np.float16)
        found.update(tensors)

    expected = write_folder(tmp_path, "packed", within)
    path = tmp_path / "config.json"
    text = json.loads(path.read_text())
    path.write_text(
        json.dumps({"model_type": "kimi_k25", "text_config": text, "vision_config": {"depth": 2}})
    )
    work = parse(f"step:model={tmp_path},context=8,weight=stored")
    assert work.stored.formats == ("int4g32",)
    assert work.stored.head.format == "f16"
    checkpoint = Checkpoint(work.shape, "stored", 1)
    checkpoint.check_numbers()
    for name, module in (("q", "self_attn.q_proj"), ("down", "mlp.down_proj")):
        held = dequantize(checkpoint.layer(1).matrices[name])
        assert np.array_equal(held, expected[f"model.layers.1.{module}"].astype(np.float32))
    vectors = sum(2 * a.nbytes for n, a in found.items() if a.ndim == 1 and not n.endswith("weight_shape"))
    read = sum(
        a.nbytes
        for n, a in found.items()
        if (a.ndim > 1 or n.endswith("weight_shape")) and "vision" not in n and "embed_tokens" not in n
    )
    assert work.traffic.weights_bytes + work.traffic.scales_bytes == read + vectors


@pytest.mark.parametrize("fmt", ["e4m3", "float8_e4m3fn"])
def test_fp8_is_called_by_either_name(tmp_path, fmt):
    assert isinstance(
        scheme_of(tmp_path, {"quantization_config": CONFIGS["fp8_blocks"] | {"fmt": fmt}}), Fp8Blocks
    )


def test_a_name_that_is_kept_is_of_whole_parts():
    router, gate = "model.layers.1.mlp.gate", "model.layers.1.mlp.gate_proj"
    other = "model.layers.10.mlp.up_proj"
    for scheme, otherwise in ((Fp8Blocks(("mlp.gate", "layers.1")), None), (Awq(32, ("mlp.gate.",)), True)):
        assert scheme.covers(router) is False
        assert scheme.covers(other) is otherwise
    assert Fp8Blocks(("mlp.gate",)).covers(gate) is None
    assert Awq(32, ("mlp.gate",)).covers(gate) is None  # AutoAWQ itself kept what has a kept name as a piece
    for scheme in (Awq(32), Gptq(4, 32)):
        assert scheme.covers("language_model.lm_head") is False
        assert scheme.covers(gate)


def test_names_of_a_whole_model_are_ignored_as_they_stand(tmp_path):
    config = compressed(
        "int-quantized", ("language_model.lm_head",), num_bits=8, type="int", strategy="channel"
    )
    scheme = scheme_of(tmp_path, {"quantization_config": config})
    assert scheme.covers("language_model.lm_head") is False
    assert scheme.covers("lm_head")


def test_stacked_experts_may_lie_by_columns(tmp_path):
    """Qwen3-VL's published experts are [count, k, n]; those that Transformers 5 saves of its modules [count, n, k]."""
    case = case_of("qwen3_moe")
    tensors = numbers(case)
    stacked = [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]
    assert stacked
    answers = {}
    for order in ("rows", "columns"):
        folder = tmp_path / order
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(case["config"]))
        held = {
            name: np.ascontiguousarray(a.swapaxes(1, 2)) if order == "columns" and name in stacked else a
            for name, a in tensors.items()
        }
        save_file(held, folder / "model.safetensors")
        answers[order] = Checkpoint(get_model(str(folder)), "f32", 1)
    apart = Checkpoint(get_model(routed_folder(case, tmp_path / "apart")), "f32", 1)
    for index, layer in enumerate(
        answers["rows"].layer(i) for i in range(case["config"]["num_hidden_layers"])
    ):
        for name, matrix in layer.matrices.items():
            for other in (answers["columns"], apart):
                assert np.array_equal(dequantize(other.layer(index).matrices[name]), dequantize(matrix))


@pytest.mark.parametrize("before", ["mtp.", "model.mtp_layers.0."])
def test_layers_that_guess_ahead_are_left_out(tmp_path, before):
    """Qwen's and MiMo's names; DeepSeek's are numbered behind the last layer."""
    write_folder(
        tmp_path,
        "fp8_blocks",
        lambda t: t.update({f"{before}input_proj.weight": np.ones((4, 8), np.float32)}),
    )
    Checkpoint(get_model(str(tmp_path)), "stored", 1)
    facts = stored_facts(str(tmp_path))
    assert facts.beside_bytes == 4 * 8 * 4
    table = load_sizes(tmp_path)["model.embed_tokens.weight"]
    assert facts.streamed_bytes == facts.nbytes - facts.beside_bytes - table


def load_sizes(folder):
    header = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    told = json.loads(header[8 : 8 + length])
    return {
        name: one["data_offsets"][1] - one["data_offsets"][0]
        for name, one in told.items()
        if name != "__metadata__"
    }


def test_what_no_token_takes_is_told_apart(tmp_path):
    """A layer behind the last with tables of its own, as DeepSeek-V3 has, and what sees."""
    write_folder(tmp_path, "fp8_blocks")
    sizes = load_sizes(tmp_path)
    plain = stored_facts(str(tmp_path))
    assert plain.beside_bytes == 0
    assert plain.streamed_bytes == sum(sizes.values()) - sizes["model.embed_tokens.weight"]
    more = {
        "model.layers.2.embed_tokens.weight": np.ones((70, 128), np.float16),
        "model.layers.2.shared_head.head.weight": np.ones((70, 128), np.float16),
        "model.visual.blocks.0.attn.qkv.weight": np.ones((6, 2), np.float16),
        "multi_modal_projector.norm.weight": np.ones(5, np.float16),
    }
    write_folder(tmp_path, "fp8_blocks", lambda t: t.update(more))
    facts = stored_facts(str(tmp_path))
    assert facts.streamed_bytes == plain.streamed_bytes
    assert facts.beside_bytes == sum(a.nbytes for a in more.values()) == facts.nbytes - plain.nbytes
