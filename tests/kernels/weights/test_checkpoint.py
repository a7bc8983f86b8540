import json
from dataclasses import replace

import numpy as np
import pytest
from checkpoints import CONFIG, folder_of, save_bf16, tensors_of
from safetensors.numpy import save_file

from membound.bench import cli
from membound.bench.measure.check import cached_reference
from membound.bench.planning.plan import Options, make_plan
from membound.bench.planning.suites import PlanError
from membound.kernels.models import ModelError, get_model
from membound.kernels.prompt import key_of
from membound.kernels.reference import compute, relative_error
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.formats import FORMATS, dequantize, from_bf16, quantize, to_bf16
from membound.kernels.work import parse


@pytest.fixture
def folder(tmp_path):
    """Write a model folder; returns (model, its tensors)."""

    def write(family="llama", dtype="f32", edit=None, **config):
        text = json.dumps(CONFIG | {"model_type": family} | config)
        (tmp_path / "config.json").write_text(text)
        model = get_model(str(tmp_path))
        tensors = tensors_of(model)
        if edit:
            edit(tensors)
        path = tmp_path / "model.safetensors"
        if dtype == "bf16":
            save_bf16(tensors, path)
            tensors = {name: from_bf16(to_bf16(values)) for name, values in tensors.items()}
        else:
            tensors = {n: v.astype(np.float16) if dtype == "f16" else v for n, v in tensors.items()}
            save_file(tensors, path)
        return model, tensors

    return write


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_matrices_come_in_the_format_of_the_work(folder, dtype, fmt, monkeypatch):
    monkeypatch.setattr("membound.kernels.weights.checkpoint.CHUNK_ELEMENTS", 128 * 9)
    model, tensors = folder(dtype=dtype, hidden_size=256, num_attention_heads=8)
    layer = Checkpoint(model, fmt, 1).layer(1)
    assert list(layer.matrices) == list(model.layer_matrices)
    for name, block in (("q", "self_attn"), ("down", "mlp")):
        expected = quantize(tensors[f"model.layers.1.{block}.{name}_proj.weight"].astype(np.float32), fmt)
        found = layer.matrices[name]
        assert (found.format, found.n, found.k) == (fmt, *model.layer_matrices[name])
        assert np.array_equal(found.values, expected.values)
        assert found.values.dtype == expected.values.dtype
        assert (found.scales is None) == (expected.scales is None)
        if expected.scales is not None:
            assert np.array_equal(found.scales, expected.scales)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_vectors_and_tables(folder, dtype):
    model, tensors = folder(dtype=dtype)
    checkpoint = Checkpoint(model, "f32", 5)
    layer = checkpoint.layer(0)
    for found, name in (
        (layer.attention_norm, "model.layers.0.input_layernorm.weight"),
        (layer.mlp_norm, "model.layers.0.post_attention_layernorm.weight"),
        (checkpoint.final_norm(), "model.norm.weight"),
        (checkpoint.lm_head().values, "lm_head.weight"),
    ):
        assert found.dtype == np.float32
        assert np.array_equal(found, tensors[name])
    assert layer.q_norm is layer.k_bias is None
    rows = checkpoint.hidden_states(9)
    assert rows.shape == (9, 128)
    table = tensors["model.embed_tokens.weight"].astype(np.float32)
    assert all((row == table).all(1).any() for row in rows)
    assert np.array_equal(rows, Checkpoint(model, "int8", 5).hidden_states(9))
    assert not np.array_equal(rows, Checkpoint(model, "f32", 6).hidden_states(9))


def test_families(folder):
    model, tensors = folder("qwen2", tie_word_embeddings=True)
    checkpoint = Checkpoint(model, "bf16", 1)
    assert np.array_equal(checkpoint.layer(1).k_bias, tensors["model.layers.1.self_attn.k_proj.bias"])
    assert np.array_equal(checkpoint.layer(1).v_bias, tensors["model.layers.1.self_attn.v_proj.bias"])
    assert np.array_equal(checkpoint.lm_head().values, to_bf16(tensors["model.embed_tokens.weight"]))

    model, tensors = folder("qwen3")
    layer = Checkpoint(model, "bf16", 1).layer(0)
    assert np.array_equal(layer.q_norm, tensors["model.layers.0.self_attn.q_norm.weight"])
    assert np.array_equal(layer.k_norm, tensors["model.layers.0.self_attn.k_norm.weight"])
    assert layer.q_bias is None


def test_shards_hold_the_same_model(folder, tmp_path):
    model, tensors = folder()
    whole = Checkpoint(model, "int8", 1)
    expected = whole.layer(1).matrices["gate"].values
    del whole
    (tmp_path / "model.safetensors").unlink()
    names = list(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert np.array_equal(Checkpoint(model, "int8", 1).layer(1).matrices["gate"].values, expected)

    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"b\.safetensors cannot be read: No such file"):
        Checkpoint(model, "int8", 1)


def test_a_step_runs_on_real_weights(folder):
    model, tensors = folder("qwen3", dtype="bf16")
    inputs = make_inputs(parse(f"step:model={model.folder},context=4,batch=2,weight=f32,layers=1"), 1)
    y = compute(inputs, 0)
    assert y.shape == (2, 70)
    assert y.std() > 0
    rounded = make_inputs(parse(f"step:model={model.folder},context=4,batch=2,weight=int8,layers=1"), 1)
    assert 1e-4 < relative_error(compute(rounded, 0), y) < 0.05
    head = dequantize(inputs.lm_head())
    assert np.array_equal(head, tensors["lm_head.weight"])


def cut(name, rows):
    def edit(tensors):
        tensors[name] = tensors[name][:rows]

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: t.pop("model.norm.weight"), r"model\.safetensors has no tensor model\.norm\.weight"),
        (
            lambda t: t.pop("model.layers.1.mlp.up_proj.weight"),
            r"has no tensor model\.layers\.1\.mlp\.up_proj\.weight",
        ),
        (lambda t: t.pop("lm_head.weight"), r"has no tensor lm_head\.weight"),
        (
            cut("model.layers.0.self_attn.k_proj.weight", 63),
            r"k_proj\.weight has shape \[63, 128\], config\.json says \[64, 128\]",
        ),
        (
            lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": np.zeros(128, np.float32)}),
            r"model\.layers\.0\.self_attn\.o_proj\.bias is a bias that is not supported",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(128, np.int8)}),
            r"model\.norm\.weight is stored as I8; supported: BF16, F16, F32",
        ),
    ],
)
def test_a_wrong_tensor_is_named(folder, tmp_path, edit, says):
    model, _ = folder(edit=edit)
    with pytest.raises(ValueError, match=says) as caught:
        Checkpoint(model, "f32", 1)
    assert str(tmp_path / "model.safetensors") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fewer_layers_need_fewer_tensors(folder):
    model, _ = folder(edit=lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    assert Checkpoint(replace(model, layers=1), "f32", 1).layer(0).matrices["up"].n == 256


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_an_error(folder, tmp_path, keep):
    model, _ = folder()
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read: ") as caught:
        Checkpoint(model, "f32", 1)
    assert "\n" not in str(caught.value)


def test_folders_without_weights(folder, tmp_path):
    model, _ = folder()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors and no model\.safetensors\.index\.json"):
        Checkpoint(model, "f32", 1)
    index = tmp_path / "model.safetensors.index.json"
    for text, says in (
        ("{", "cannot be read"),
        ("{}", "has no weight_map"),
        ('{"weight_map": 3}', "cannot be read"),
        ("[]", "cannot be read"),
    ):
        index.write_text(text)
        with pytest.raises(ValueError, match=f"{index.name} {says}"):
            Checkpoint(model, "f32", 1)


# Before a worker starts


@pytest.mark.parametrize("kind", ["step", "prefill"])
@pytest.mark.parametrize("keep", [5, -1])
def test_a_plan_refuses_a_damaged_folder(folder, tmp_path, kind, keep):
    folder()
    spec = f"{kind}:model={tmp_path},weight=f32"
    assert make_plan(["numpy:cpu"], [spec], Options(), 10**10).total_cells == 3
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PlanError, match=r"model\.safetensors cannot be read: "):
        make_plan(["numpy:cpu"], [spec], Options(), 10**10)


@pytest.mark.parametrize("command", [["run", "-b", "numpy"], ["duel", "-b", "numpy"]], ids=["run", "duel"])
def test_a_command_refuses_a_folder_that_misses_a_tensor_in_one_line(folder, tmp_path, capsys, command):
    folder(edit=lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, f"step:model={tmp_path},weight=f32"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert err == f"membound: {tmp_path}/model.safetensors has no tensor model.norm.weight\n"


def test_a_plan_refuses_numbers_that_are_none_before_a_worker_starts(folder, tmp_path):
    def spoil(tensors):
        tensors["model.layers.1.mlp.down_proj.weight"][3, 3] = np.nan

    folder(edit=spoil)
    spec = f"step:model={tmp_path},weight=f32"
    assert make_plan(["numpy:cpu"], [f"{spec},layers=1"], Options(), 10**10).total_cells == 3
    with pytest.raises(PlanError, match=r"model\.safetensors: .*down_proj\.weight holds NaN"):
        make_plan(["numpy:cpu"], [spec], Options(), 10**10)


def test_a_link_to_nothing_beside_the_weights_does_not_matter(folder, tmp_path):
    model, _ = folder()
    inputs = make_inputs(parse(f"step:model={model.folder},context=4,weight=f32,layers=1"), 1)
    before = key_of(inputs)
    (tmp_path / "tokenizer.model").symlink_to("../../blobs/gone")
    (tmp_path / "adapter.safetensors").symlink_to("../../blobs/gone")
    assert key_of(inputs) == before
    assert cached_reference(inputs, 0, tmp_path / "cache").shape == (1, 70)


def test_an_export_of_a_damaged_folder_is_refused_in_one_line(folder, tmp_path, capsys):
    folder()
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SystemExit) as ended:
        cli.main(["export-model", f"step:model={tmp_path},weight=f32", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"membound: {tmp_path}/model.safetensors is a Git LFS pointer")


@pytest.mark.parametrize(
    ("inner", "head"),
    [("model.language_model.", "lm_head.weight"), ("language_model.model.", "language_model.lm_head.weight")],
)
def test_the_text_part_of_a_model_that_sees(tmp_path, inner, head):
    plain = folder_of(tmp_path / "plain", model_type="qwen3")
    tensors = tensors_of(get_model(plain))
    renamed = {
        head if name == "lm_head.weight" else inner + name.removeprefix("model."): values
        for name, values in tensors.items()
    }
    text = CONFIG | {"model_type": "qwen3_vl_text"}
    seen = tmp_path / "seen"
    seen.mkdir()
    config = {"model_type": "qwen3_vl", "text_config": text, "vision_config": {"depth": 1}}
    (seen / "config.json").write_text(json.dumps(config))
    extra = {
        "model.visual.blocks.0.weight": np.ones((2, 2), np.float32),
        "vision_tower.x": np.ones(3, np.float32),
    }
    save_file(renamed | extra, seen / "model.safetensors")
    one, other = (Checkpoint(get_model(str(folder)), "f32", seed=1) for folder in (plain, seen))
    for name, weight in one.layer(1).matrices.items():
        assert np.array_equal(weight.values, other.layer(1).matrices[name].values)
    assert np.array_equal(one.lm_head().values, other.lm_head().values)
    save_file(renamed | extra | {f"{inner}layers.0.x": extra["vision_tower.x"]}, seen / "model.safetensors")
    with pytest.raises(ModelError, match=r"layers\.0\.x is a tensor that is not supported"):
        Checkpoint(get_model(str(seen)), "f32", seed=1)
