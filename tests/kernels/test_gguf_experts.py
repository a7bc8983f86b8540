"""GGUF files of models with experts, which lie stacked: numbers, bytes, steps, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from checkpoints import CONFIG
from float_bounds import STORED_BOUND
from gguf_files import (
    F32,
    Q4_0,
    Q4_K,
    Q6_K,
    Q8_0,
    fields_of,
    floats,
    in_pairs,
    name_of,
    random_blocks,
    write_gguf,
)

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels.gguf_header import read_header
from membound.kernels.model import ModelError
from membound.kernels.models import get_model
from membound.kernels.reference import compute, relative_error
from membound.kernels.seeded import make_inputs
from membound.kernels.weights import ggml
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.formats import dequantize, quantize
from membound.kernels.work import parse

COUNT, WIDTH, HIDDEN = 6, 256, 256
TYPES = {"q8_0": Q8_0, "q4_0": Q4_0, "q4_k": Q4_K, "q6_k": Q6_K}
COMMON = {
    "expert_count": COUNT,
    "expert_used_count": 2,
    "embedding_length": HIDDEN,
    "attention.key_length": 64,
}
FIELDS = {
    "qwen3moe": COMMON | {"expert_feed_forward_length": WIDTH},
    "llama": COMMON | {"feed_forward_length": WIDTH},
}


def q8_0(name):
    return "q8_0"


def q4_0(name):
    """As llama.cpp writes it: the LM head in Q6_K."""
    return "q6_k" if name == "lm_head.weight" else "q4_0"


def q4_k_m(name):
    """As llama.cpp writes it: the LM head and in some layers v and down in Q6_K."""
    mixed = name == "lm_head.weight" or (".0." in name and ("v_proj" in name or "down_proj" in name))
    return "q6_k" if mixed else "q4_k"


def shapes_of(architecture):
    """Tensors by Hugging Face's names, experts stacked."""
    h, q, kv = HIDDEN, 256, 128
    shapes = {"model.embed_tokens.weight": (70, h), "model.norm.weight": (h,), "lm_head.weight": (70, h)}
    for index in range(CONFIG["num_hidden_layers"]):
        of = f"model.layers.{index}."
        shapes |= {f"{of}input_layernorm.weight": (h,), f"{of}post_attention_layernorm.weight": (h,)}
        for name, shape in (("q", (q, h)), ("k", (kv, h)), ("v", (kv, h)), ("o", (h, q))):
            shapes[f"{of}self_attn.{name}_proj.weight"] = shape
        if architecture == "qwen3moe":
            shapes |= {f"{of}self_attn.{name}_norm.weight": (64,) for name in "qk"}
        shapes[f"{of}mlp.gate.weight"] = (COUNT, h)
        for name, shape in (("gate", (WIDTH, h)), ("up", (WIDTH, h)), ("down", (h, WIDTH))):
            shapes[f"{of}mlp.experts.{name}_proj.weight"] = (COUNT, *shape)
    return shapes


def stored(rng, fmt, shape, heads):
    """(the bytes of a random tensor, what they mean); rows of that many heads as the architecture "llama" has them."""
    n, k = int(np.prod(shape[:-1])), shape[-1]
    if fmt in ggml.WIDENED:
        rows = random_blocks(rng, TYPES[fmt], n, k)
        meant = ggml.WIDENED[fmt](rows)
    else:
        made = quantize(rng.standard_normal((n, k)).astype(np.float32) / np.float32(8), fmt)
        rows, meant = ggml.blocks(made.values, made.scales), dequantize(made)
    return (in_pairs(rows, heads) if heads else rows).tobytes(), meant.reshape(shape)


@pytest.fixture
def file(tmp_path):
    """Write a random model with experts as a file; returns (its path, float32 tensors by Hugging Face's names, as they are stored)."""

    def write(types=q8_0, architecture="qwen3moe", edit=None, **fields):
        rng, tensors, meant = np.random.default_rng(1), {}, {}
        for name, shape in shapes_of(architecture).items():
            if len(shape) == 1 or "embed" in name or "mlp.gate." in name:
                meant[name] = rng.standard_normal(shape).astype(np.float32) / np.float32(8)
                tensors[name_of(name)] = floats(meant[name], F32)
                continue
            heads = (
                {"q": 4, "k": 2}.get(name.partition("self_attn.")[2][:1], 0) if architecture == "llama" else 0
            )
            content, meant[name] = stored(rng, types(name), shape, heads)
            tensors[name_of(name)] = TYPES[types(name)], shape, content
        if edit:
            edit(tensors)
        own = FIELDS[architecture] | fields
        return write_gguf(tmp_path / "model.gguf", fields_of(architecture, **own), tensors), meant

    return write


@pytest.mark.parametrize("architecture", FIELDS)
@pytest.mark.parametrize("types", [q8_0, q4_0, q4_k_m])
def test_each_expert_is_its_part_of_what_is_stacked(file, types, architecture):
    path, meant = file(types, architecture)
    source = Checkpoint(get_model(path), "stored", seed=1)
    source.check_numbers()
    for index in range(2):
        matrices, of = source.layer(index).matrices, f"model.layers.{index}."
        for number in range(COUNT):
            for name in ("gate", "up", "down"):
                found, tensor = matrices[f"expert{number}.{name}"], f"{of}mlp.experts.{name}_proj.weight"
                assert found.format == types(tensor)
                assert np.array_equal(dequantize(found), meant[tensor][number])
        assert np.array_equal(dequantize(matrices["k"]), meant[f"{of}self_attn.k_proj.weight"])
        assert np.array_equal(matrices["router"].values, meant[f"{of}mlp.gate.weight"])


@pytest.mark.parametrize(("types", "architecture"), [(q4_0, "llama"), (q4_k_m, "qwen3moe")])
def test_bytes_are_those_of_the_experts_that_are_read(file, types, architecture):
    path, _ = file(types, architecture)
    work, header = parse(f"step:model={path},context=8,weight=stored"), read_header(Path(path))
    sizes = {name: entry.nbytes for name, entry in header.tensors.items() if name != "token_embd.weight"}
    counted = sum(size * 2 // COUNT if "_exps" in name else size for name, size in sizes.items())
    assert work.traffic.weights_bytes + work.traffic.scales_bytes == counted
    assert work.footprint_bytes - work.traffic.total_bytes == sum(
        size * 4 // COUNT for name, size in sizes.items() if "_exps" in name
    )
    assert work.distinct == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("types", "architecture", "act"),
    [
        (q8_0, "llama", "float"),
        (q4_0, "qwen3moe", "int8"),
        (q4_k_m, "qwen3moe", "float"),
        (q4_k_m, "llama", "float"),
        (q4_k_m, "llama", "int8"),
    ],
)
def test_a_step_over_a_file_with_experts(file, types, architecture, act):
    path, _ = file(types, architecture)
    inputs = make_inputs(parse(f"step:model={path},context=5,weight=stored,kv=f32,act={act}"), seed=3)
    backend = NumbaCpu()
    backend.open("cpu", threads=2)
    assert backend.supports(inputs.work) is None
    backend.prepare(inputs.work, inputs)
    backend.launch(0)
    assert relative_error(backend.output(), compute(inputs, 0)) < (0.02 if act == "int8" else STORED_BOUND)
    assert backend.settings() == {"experts_read": 2, "routes": "own"}


@pytest.mark.parametrize(
    ("fields", "edit", "text"),
    [
        ({"expert_used_count": 7}, None, r"expert_used_count=7 must be a positive whole number up to 6"),
        ({"expert_count": 1 << 20}, None, r"expert_count=1048576 must be a positive whole number up to 4096"),
        ({"expert_count": 8}, None, r"model\.gguf: model\.layers\.0\.mlp\.gate\.weight has shape \[6, 256\], the metadata say \[8, 256\]"),
        ({"expert_feed_forward_length": 32}, None, r"experts\.0\.gate_proj\.weight has shape \[256, 256\], the metadata say \[32, 256\]"),
        ({"expert_shared_count": 1}, None, r"qwen3moe\.expert_shared_count=1 is not supported"),
        ({"expert_gating_func": 2}, None, r"qwen3moe\.expert_gating_func=2 is not supported"),
        ({}, lambda t: t.pop("blk.1.ffn_down_exps.weight"), r"has no tensor model\.layers\.1\.mlp\.experts\.0\.down_proj"),
        ({}, lambda t: t.update({"blk.0.ffn_up_exps.weight": (F32, np.zeros((0, 64, 128), np.float32))}), r"has no tensor model\.layers\.0\.mlp\.experts\.0\.up"),
        ({}, lambda t: t.update({"blk.0.ffn_up_exps.weight": (10, (6, 256, 256), bytes(84 * 256 * 6))}), r"0\.up_proj\.weight is stored as Q2_K; supported: F32"),
        ({}, lambda t: t.update({"blk.0.ffn_up.weight": floats(np.ones((4, 32)), F32)}), r"layers\.0\.mlp\.up_proj\.weight is a tensor"),
    ],
)  # fmt: skip
def test_files_that_do_not_go_with_each_other(file, fields, edit, text):
    path, _ = file(edit=edit, **fields)
    with pytest.raises(ModelError, match=text) as error:
        Checkpoint(get_model(path), "stored", seed=1).check_numbers()
    assert "\n" not in str(error.value)
