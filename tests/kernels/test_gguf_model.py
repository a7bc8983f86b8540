"""GGUF files as models: numbers, bytes, steps, and what is refused."""

import json
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from checkpoints import CONFIG, tensors_of
from float_bounds import STORED_BOUND
from gguf_files import (
    BF16,
    F16,
    F32,
    Q4_0,
    Q4_K,
    Q6_K,
    Q8_0,
    fields_of,
    floats,
    gguf,
    in_pairs,
    name_of,
    write_gguf,
)

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels.gguf_model import LLAMA3_ROPES
from membound.kernels.model import ModelError
from membound.kernels.models import get_model
from membound.kernels.reference import compute, relative_error, rope_frequencies
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.formats import dequantize, quantize
from membound.kernels.weights.ggml import blocks, widen_q4_k
from membound.kernels.work import SpecError, parse

TYPES = {"f32": F32, "f16": F16, "bf16": BF16, "q8_0": Q8_0, "q4_0": Q4_0}


@pytest.fixture
def file(tmp_path):
    """Write CONFIG's random model as a file; returns (its path, the float32 tensors by Hugging Face's names)."""

    def write(fmt="q8_0", architecture="llama", edit=None, **fields):
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": architecture}))
        made = tensors_of(get_model(str(folder)))
        tensors = {}
        for name, array in made.items():
            heads = {"q": 4, "k": 2}.get(name.partition("self_attn.")[2][:1], 0)
            moved = in_pairs(array, heads) if heads and array.ndim == 2 and architecture == "llama" else array
            if array.ndim == 1 or "embed" in name:
                tensors[name_of(name)] = floats(moved, F32)
            elif fmt in ("q8_0", "q4_0"):
                stored = quantize(moved, fmt)
                tensors[name_of(name)] = (
                    TYPES[fmt],
                    array.shape,
                    blocks(stored.values, stored.scales).tobytes(),
                )
            else:
                tensors[name_of(name)] = floats(moved, TYPES[fmt])
        if edit:
            edit(tensors)
        return write_gguf(tmp_path / "model.gguf", fields_of(architecture, **fields), tensors), made

    return write


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("fmt", TYPES)
def test_numbers_come_under_the_names_of_folders(file, fmt, architecture):
    path, tensors = file(fmt, architecture)
    source = Checkpoint(get_model(path), "stored", seed=1)
    source.check_numbers()
    for index in range(2):
        layer = source.layer(index)
        for name, part in (("q", "self_attn.q_proj"), ("k", "self_attn.k_proj"), ("down", "mlp.down_proj")):
            truth = tensors[f"model.layers.{index}.{part}.weight"]
            expected = (
                (truth.view(np.uint32) & 0xFFFF0000).view(np.float32)
                if fmt == "bf16"
                else dequantize(quantize(truth, fmt))
            )
            assert layer.matrices[name].format == fmt
            assert np.array_equal(dequantize(layer.matrices[name]), expected)
        assert np.array_equal(
            layer.mlp_norm, tensors[f"model.layers.{index}.post_attention_layernorm.weight"]
        )
        if architecture == "qwen2":
            assert np.array_equal(layer.k_bias, tensors[f"model.layers.{index}.self_attn.k_proj.bias"])
    assert np.array_equal(source.embedding(np.array([3])), tensors["model.embed_tokens.weight"][3:4])


def test_bytes_are_those_of_the_file(file):
    path, tensors = file("q4_0")
    work = parse(f"step:model={path},context=8,weight=stored")
    numbers = sum(a.size for name, a in tensors.items() if a.ndim == 2 and "embed" not in name)
    norms = 4 * sum(a.size for a in tensors.values() if a.ndim == 1)
    assert work.traffic.weights_bytes == numbers // 2 + norms
    assert work.traffic.scales_bytes == numbers // 32 * 2
    assert work.content == get_model(path).content != ""


@pytest.mark.slow
@pytest.mark.parametrize(("fmt", "act"), [("q8_0", "int8"), ("q4_0", "float")])
def test_a_step_over_a_file(file, fmt, act):
    path, _ = file(fmt)
    inputs = make_inputs(parse(f"step:model={path},context=5,weight=stored,kv=f32,act={act}"), seed=3)
    backend = NumbaCpu()
    backend.open("cpu", threads=2)
    backend.prepare(inputs.work, inputs)
    backend.launch(0)
    assert relative_error(backend.output(), compute(inputs, 0)) < (0.01 if act == "int8" else STORED_BOUND)


def super_blocks(kind, size):
    rows = np.random.default_rng(2).integers(0, 256, (128, size), np.uint8)
    rows[:, size - 2 if kind == Q6_K else slice(0, 0)] = 0
    for at in (208,) if kind == Q6_K else (0, 2):
        rows[:, at : at + 2] = np.float16([0.01]).view(np.uint8)
    return rows


def ran(spec):
    """Numba's error."""
    inputs = make_inputs(parse(spec), seed=3)
    backend = NumbaCpu()
    backend.open("cpu", threads=2)
    assert backend.supports(inputs.work) is None
    backend.prepare(inputs.work, inputs)
    for _ in range(2):
        backend.launch(0)
    return relative_error(backend.output(), compute(inputs, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        "step:model={},context=5",
        "step:model={},context=5,batch=3",
        "step:model={},context=5,batch=4,queries=3",
        "step:model={},context=5,batch=2,cache=prompt",
        "prefill:model={},tokens=19,batch=2",
    ],
)
def test_super_blocks_are_multiplied_beside_blocks(file, spec):
    """Down in Q6_K and Q4_K beside Q8_0, as Q4_K_M mixes them."""
    path, _ = file(
        "q8_0",
        edit=lambda tensors: tensors.update(
            {
                "blk.1.ffn_down.weight": (Q6_K, (128, 256), super_blocks(Q6_K, 210).tobytes()),
                "blk.0.ffn_down.weight": (Q4_K, (128, 256), super_blocks(Q4_K, 144).tobytes()),
            }
        ),
    )
    assert ran(spec.format(path) + ",weight=stored,kv=f32") < STORED_BOUND


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["step:model={},context=5,batch=3", "prefill:model={},tokens=19"])
def test_blocks_of_several_formats_take_integer_activations(file, spec):
    """v in Q4_0 beside q and k in Q8_0."""

    def edit(tensors):
        for index in range(2):
            _, shape, _ = tensors[f"blk.{index}.attn_v.weight"]
            values = np.random.default_rng(index).standard_normal(shape).astype(np.float32) / 16
            stored = quantize(values, "q4_0")
            tensors[f"blk.{index}.attn_v.weight"] = (
                Q4_0,
                shape,
                blocks(stored.values, stored.scales).tobytes(),
            )

    path, _ = file("q8_0", edit=edit)
    assert parse(f"step:model={path},weight=stored").stored.formats == ("q8_0", "q4_0")
    assert ran(spec.format(path) + ",weight=stored,kv=f32,act=int8") < 0.02


def test_super_blocks_are_read_and_multiplied_in_another_format(file):
    rows = super_blocks(Q4_K, 144)

    def edit(tensors):
        for index in range(2):
            tensors[f"blk.{index}.ffn_down.weight"] = Q4_K, (128, 256), rows.tobytes()

    path, _ = file("q8_0", edit=edit)
    found = Checkpoint(get_model(path), "f32", seed=1).layer(1).matrices["down"].values
    assert np.array_equal(found, widen_q4_k(rows))
    work = parse(f"step:model={path},context=5,weight=stored,kv=f32")
    assert (work.stored.formats, work.stored.layers[0]["down"].format) == (("q8_0", "q4_k"), "q4_k")
    assert (
        work.stored.layers[1]["down"].values_bytes + work.stored.layers[1]["down"].scales_bytes == rows.size
    )


def test_a_scaled_rope_is_recognised_by_its_factors(file):
    def edit(scaling):
        plain = get_model(file()[0])

        factors = rope_frequencies(plain) / rope_frequencies(replace(plain, rope_scaling=scaling))
        return lambda tensors: tensors.update({"rope_freqs.weight": floats(factors, F32)})

    assert get_model(file(edit=edit(LLAMA3_ROPES[1]))[0]).rope_scaling == LLAMA3_ROPES[1]
    with pytest.raises(ModelError, match=r"factors in rope_freqs\.weight are not those of Llama 3"):
        get_model(file(edit=edit((4.0, 1.0, 4.0, 64.0)))[0])


def damaged_scale(name, scale):
    """An edit that gives the first block of a tensor of Q8_0 another scale."""

    def edit(tensors):
        kind, shape, content = tensors[name]
        tensors[name] = kind, shape, np.float16([scale]).tobytes() + content[2:]

    return edit


@pytest.mark.parametrize(
    ("fields", "edit", "text"),
    [
        ({"expert_count": 8}, None, r"llama\.expert_used_count=None must be a positive whole number up to 8"),
        ({"expert_count": 8, "expert_used_count": 2}, None, r"has no tensor model\.layers\.0\.mlp\.gate\.weight"),
        ({"rope.scaling.type": "yarn"}, None, r"llama\.rope\.scaling\.type='yarn' is not supported"),
        ({"rope.dimension_count": 16}, None, r"rope\.dimension_count=16 is not supported; supported: 32"),
        ({"block_count": 1 << 31}, None, r"llama\.block_count=2147483648 must be a positive whole number up to 4096"),
        ({"attention.head_count": 1 << 20, "attention.key_length": 1 << 20}, None, r"heads of 1048576 make more than 2147483648 columns"),
        ({"embedding_length": 0}, None, r"llama\.embedding_length=0 must be a positive whole number"),
        ({"rope.freq_base": float("nan")}, None, r"rope\.freq_base=nan must be a positive number"),
        ({"feed_forward_length": 64}, None, r"gate_proj\.weight has shape \[256, 128\], the metadata say \[64, 128\]"),
        ({}, lambda t: t.pop("blk.1.attn_q.weight"), r"has no tensor model\.layers\.1\.self_attn\.q_proj\.weight"),
        ({}, lambda t: t.update({"blk.0.extra.weight": floats(np.ones(4), F32)}), r"model\.layers\.0\.extra\.weight is a tensor"),
        ({}, lambda t: t.update({"output.weight": (3, (70, 128), bytes(80 * 70))}), r"lm_head\.weight is stored as Q4_1"),
        ({}, lambda t: t.update({"token_embd.weight": floats(np.ones((0, 128)), F32)}), r"token_embd\.weight has 0 rows"),
        ({}, damaged_scale("output.weight", np.nan), r"model\.gguf: lm_head\.weight holds NaN"),
        ({}, damaged_scale("blk.1.ffn_up.weight", np.inf), r"model\.layers\.1\.mlp\.up_proj\.weight holds infinity"),
        ({}, lambda t: t.update({"output_norm.weight": floats(np.full(128, np.inf), F32)}), r"model\.norm\.weight holds infinity"),
    ],
)  # fmt: skip
def test_files_that_do_not_go_with_each_other(file, fields, edit, text):
    path, _ = file(edit=edit, **fields)
    with pytest.raises(ModelError, match=text) as error:
        Checkpoint(get_model(path), "stored", seed=1).check_numbers()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda b: b[:50], r"it ends within its header, with 50 bytes it was cut short"),
        (lambda b: b[:-40], r"lies beyond its end, with \d+ bytes it was cut short"),
        (lambda b: b"", r"it is empty"),
        (lambda b: b"<html>" + b, r"it is no GGUF file"),
        (lambda b: b"version https://git-lfs.github.com/spec/v1\n", r"is a Git LFS pointer"),
        (lambda b: b[:4] + struct.pack(">I", 3) + b[8:], r"GGUF version 50331648 is not supported"),
        (lambda b: b[:16] + struct.pack("<Q", 1 << 60) + b[24:], r"cannot be read: "),
        (lambda b: b.replace(b"llama", b"mamba", 1), r"architecture 'mamba' is not supported; supported: llama, qwen2, qwen3, qwen3moe"),
        (lambda b: gguf({"general.architecture": 3}, {}), r"general\.architecture=3 must be a text"),
        (lambda b: gguf({"split.no": 1, "split.count": 3}, {}), r"model\.gguf is part 2 of 3 of a model: join them with"),
        (lambda b: gguf({"general.architecture": "llama", "general.alignment": 0}, {}), r"general\.alignment=0 must be"),
    ],
)  # fmt: skip
def test_damaged_files(file, tmp_path, change, text):
    path, _ = file()
    content = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(change(content))
    with pytest.raises(ModelError, match=text) as error:
        get_model(path)
    assert "\n" not in str(error.value)
    with pytest.raises(SpecError, match=re.escape(str(tmp_path))):
        parse(f"step:model={path}")
