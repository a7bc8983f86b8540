"""An exported model is the model: the same numbers through the folder as from the generator."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open

from membound.bench.cli import main
from membound.kernels import export, reference
from membound.kernels.export import ExportError, export_model
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse


def made(spec, seed=2):
    return make_inputs(parse(spec), seed)


@pytest.mark.parametrize(
    ("model", "weight", "kv"), [("tiny", "f32", "f32"), ("tiny", "bf16", "bf16"), ("tiny", "f16", "f16")]
)
@pytest.mark.parametrize("cache", ["prompt", "random"])
def test_the_folder_has_the_weights_of_the_spec(tmp_path, model, weight, kv, cache):
    spec = "step:model={},batch=2,context=5,weight={},kv={},layers=1,cache=prompt"
    inputs = made(spec.format(model, weight, kv).replace("cache=prompt", f"cache={cache}"))
    folder = tmp_path / "new" / "model"
    size = export_model(inputs, folder)
    there = made(spec.format(folder, weight, kv))
    for name, matrix in inputs.layer(0).matrices.items():
        assert np.array_equal(there.layer(0).matrices[name].values, matrix.values), name
    if cache == "prompt":
        assert np.array_equal(reference.compute(there, 0), reference.compute(inputs, 0))
    written = (folder / "model.safetensors").stat().st_size
    assert 0 < written - size < 4096
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "membound.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((folder / "membound.json").read_text()) == {"spec": inputs.work.spec, "seed": 2}


def test_an_untied_model_with_biases_has_all_its_tensors(tmp_path):
    inputs = made("prefill:model=tiny,tokens=4,weight=bf16,layers=2")
    shape = replace(inputs.model, tied=False, qkv_bias=True)
    inputs = replace(inputs, model=shape, source=replace(inputs.source, model=shape))
    export_model(inputs, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["tie_word_embeddings"]) == ("qwen2", False)
    there = made(f"prefill:model={tmp_path},tokens=4,weight=bf16")
    layer, expected = there.layer(1), inputs.layer(1)
    assert np.array_equal(layer.k_bias, expected.k_bias)
    assert np.array_equal(layer.mlp_norm, expected.mlp_norm)
    assert np.array_equal(there.lm_head().values, inputs.lm_head().values)
    assert not np.array_equal(there.lm_head().values, there.source.embedding_table().values)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert len(file.keys()) == 3 + 2 * (7 + 2 + 3)
        assert file.get_slice("lm_head.weight").get_dtype() == "BF16"
        assert file.get_slice("model.norm.weight").get_dtype() == "F32"


def test_the_rope_of_llama_3_goes_through_the_config(tmp_path):
    inputs = made("prefill:model=tiny,tokens=4,weight=f32,layers=1")
    scaled = replace(inputs.model, rope_theta=5e5, rope_scaling=(32.0, 1.0, 4.0, 8192.0))
    export_model(replace(inputs, model=scaled), tmp_path)
    shape = parse(f"prefill:model={tmp_path},tokens=4").shape
    assert (shape.rope_theta, shape.rope_scaling) == (scaled.rope_theta, scaled.rope_scaling)


def test_the_tokenizer_has_a_word_for_each_token(tmp_path):
    export_model(made("prefill:model=tiny,tokens=4,weight=f32,layers=1"), tmp_path)
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(1000))
    assert (vocabulary["</s>"], vocabulary["w999"]) == (2, 999)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("step:model=tiny,weight=int8", "weight=int8 has no plain form"),
        ("step:model=gpt-3-175b,weight=bf16,layers=1", "without a gate"),
    ],
)
def test_what_no_folder_can_hold_is_refused_before_anything_is_written(tmp_path, spec, message):
    work = parse(spec)
    inputs = replace(made("step:model=tiny,weight=bf16"), work=work, model=work.shape)
    with pytest.raises(ExportError, match=message):
        export_model(inputs, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    inputs = made("step:model=tiny,weight=f32,kv=f32")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ExportError, match="not an empty folder"):
            export_model(inputs, path)
    with pytest.raises(ExportError, match="cannot be made: Not a directory"):
        export_model(inputs, tmp_path / "thesis.txt" / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_disk_that_is_too_small_is_told_with_both_sizes(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5000))
    inputs = made("step:model=tiny,weight=f32,kv=f32")
    with pytest.raises(ExportError, match=r"takes \d{7} bytes, and the disk has 5000 left; layers=N"):
        export_model(inputs, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fails_leaves_no_model(tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.os, "replace", fail)
    with pytest.raises(ExportError, match="cannot be written: No space left on device"):
        export_model(made("step:model=tiny,weight=f32,kv=f32"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("linear:n=8,k=32", "has no model; name a step or a prefill"),
        ("step:model=tiny,weight=int8", "weight=int8 has no plain form"),
        ("step:model=tinny", "unknown model 'tinny'"),
        ("step:model=tiny,weight=f32", "is not an empty folder"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, capsys, spec, message):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(SystemExit) as ended:
        main(["export-model", spec, str(tmp_path)])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_writes_what_it_says(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["export-model", "step:model=tiny,weight=bf16,layers=1", str(tmp_path / "m"), "--seed", "9"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    size = int(out.removesuffix(" bytes of weights\n").rpartition(" ")[2])
    assert 0 < (tmp_path / "m" / "model.safetensors").stat().st_size - size < 4096
    assert json.loads((tmp_path / "m" / "membound.json").read_text())["seed"] == 9


def test_the_command_writes_json_where_it_is_asked_to(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["export-model", "step:model=tiny,weight=f32,layers=1", str(tmp_path / "m"), "--json"])
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert (ended.value.code, err, record["path"]) == (0, "", str(tmp_path / "m"))
    assert 0 < (tmp_path / "m" / "model.safetensors").stat().st_size - record["bytes"] < 4096
