"""Files that are not the weights they are called: each refused in one line with what it is and what to do."""

import json
import os

import numpy as np
import pytest
from checkpoints import folder_of, tensors_of
from safetensors.numpy import save_file

from membound.kernels.models import ModelError, get_model
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.weights.tensor_files import TensorFiles

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4f5e\nsize 2471645608\n"
SHARD, INDEX = "model-00001-of-00002.safetensors", "model.safetensors.index.json"


def index_of(path, file):
    """An index that places every tensor of the folder's model in `file`."""
    names = tensors_of(get_model(str(path)))
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, file)}))


def replaced(content):
    def damage(path):
        (path / "model.safetensors").write_bytes(content)

    return damage


def linked(path):
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to("../../blobs/gone")


def only(name):
    def damage(path):
        (path / "model.safetensors").rename(path / name)

    return damage


def stale_index(path):
    index_of(path, SHARD)


def index_alone(path):
    index_of(path, SHARD)
    (path / "model.safetensors").unlink()


def index_of_pipes(path):
    index_alone(path)
    os.mkfifo(path / SHARD)


def index_outside(path):
    index_of(path, "../weights.safetensors")


def two_sets(path):
    index_of(path, SHARD)
    save_file(tensors_of(get_model(str(path))), path / SHARD)


def pointer_index(path):
    (path / INDEX).write_text(POINTER)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            replaced(POINTER.encode()),
            r"model\.safetensors is a Git LFS pointer, not the file itself: fetch it with `git lfs",
        ),
        (pointer_index, r"index\.json is a Git LFS pointer"),
        (replaced(b""), r"cannot be read: with 0 bytes it was cut short"),
        (replaced(b"<!DOCTYPE html><html></html>"), "cannot be read: it is a web page, not safetensors"),
        (replaced(b"PK\x03\x04" + bytes(80)), r"cannot be read: it is a zip file, as PyTorch saves"),
        (replaced(b"GGUF" + bytes(80)), "cannot be read: it is a GGUF file"),
        (
            replaced((10).to_bytes(8, "little") + b"0123456789"),
            "cannot be read: it was cut short or is damaged",
        ),
        (
            linked,
            r"has no model\.safetensors .*: model\.safetensors is a link to nothing \(\.\./\.\./blobs/gone\)",
        ),
        (
            only("pytorch_model.bin"),
            r"has no model\.safetensors .*; it has pytorch_model\.bin: save the model as safetensors",
        ),
        (
            only("model-q4.gguf"),
            r"; it has model-q4\.gguf: a GGUF file is named itself, model=.*/model-q4\.gguf$",
        ),
        (
            only("consolidated.safetensors"),
            r"; it has consolidated\.safetensors, with names of its maker's: save the model by Transformers$",
        ),
        (
            only("model-00001-of-00002.safetensors"),
            rf"; it has model-00001-of-00002\.safetensors, a shard that no {INDEX} names: the download is incomplete$",
        ),
        (
            only("weights.safetensors"),
            r"; it has weights\.safetensors: call it model\.safetensors if that is the whole model$",
        ),
        (
            stale_index,
            rf"{INDEX} names {SHARD}, which is not there, and model\.safetensors lies beside it: .*remove it",
        ),
        (
            index_alone,
            rf"{SHARD} cannot be read: No such file, though {INDEX} names it: the download is incomplete",
        ),
        (index_of_pipes, rf"{SHARD} cannot be read: it is not a regular file"),
        (index_outside, r"names '\.\./weights\.safetensors', which is not within the folder"),
        (two_sets, rf"has two sets of weights, model\.safetensors and the shards of {INDEX}: remove one"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_no_checkpoint_is_named_with_the_remedy(tmp_path, damage, says):
    folder = folder_of(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=says) as raised:
        Checkpoint(get_model(folder), "f32", 1)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_index_that_names_what_no_file_is_called_is_stale(tmp_path):
    folder = folder_of(tmp_path)
    for name in ("x" * 300, "a\0b"):
        index_of(tmp_path, name)
        with pytest.raises(ModelError, match=r"which is not there, and .* lies beside it"):
            Checkpoint(get_model(folder), "f32", 1)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b'["model.norm.weight"]', "was cut short or is damaged"),
        (b'{"model.norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,[1]]}}', "is damaged"),
        (
            b'{"other":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            r"has no tensor model\.norm\.weight, though .*index\.json says",
        ),
    ],
)
def test_bytes_of_tensors_are_told_of_whole_files_alone(tmp_path, header, says):
    """An index is believed for names; a header is not before the whole file was checked."""
    folder_of(tmp_path)
    (tmp_path / SHARD).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": SHARD}}))
    files = TensorFiles(tmp_path)
    for read in (files.nbytes, files.mapped):
        with pytest.raises(ModelError, match=says):
            read("model.norm.weight")


def test_an_index_over_the_whole_file_is_fine(tmp_path):
    folder = folder_of(tmp_path)
    index_of(tmp_path, "model.safetensors")
    assert Checkpoint(get_model(folder), "f32", 1).final_norm().shape == (128,)


@pytest.mark.parametrize(
    ("rename", "says"),
    [
        (
            lambda name: name.replace("q_proj.weight", "q_proj.qweight"),
            r"has no tensor model\.layers\.0\.self_attn\.q_proj\.weight; it is stored quantised \(.*q_proj\.qweight\)",
        ),
        (
            lambda name: name.removeprefix("model."),
            r"has no tensor model\.embed_tokens\.weight; it has embed_tokens\.weight, as another kind of model names it",
        ),
        (
            lambda name: f"language_model.{name}",
            r"has no tensor model\.embed_tokens\.weight; it has language_model\.model\.embed_tokens\.weight, as another",
        ),
    ],
)
def test_tensors_under_other_names_are_said_to_be_so(tmp_path, rename, says):
    folder = folder_of(tmp_path, tie_word_embeddings=True)
    tensors = tensors_of(get_model(folder))
    save_file({rename(name): values for name, values in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=says):
        Checkpoint(get_model(folder), "f32", 1)


# Tied matrices


def test_a_tied_matrix_may_be_stored_under_the_name_of_the_head(tmp_path):
    """safetensors' save_model keeps one of two names of the same memory: the first by alphabet."""
    folder = folder_of(tmp_path / "a", tie_word_embeddings=True)
    tensors = tensors_of(get_model(folder))
    head = tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "a/model.safetensors")
    checkpoint = Checkpoint(get_model(folder), "f32", 1)
    checkpoint.check_numbers()
    assert np.array_equal(checkpoint.lm_head().values, head)
    assert np.array_equal(checkpoint.embedding(np.array([3])), head[3:4])


def test_a_head_that_differs_from_the_embedding_is_not_tied_to_it(tmp_path):
    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

    folder = folder_of(tmp_path, tie_word_embeddings=True, edit=add)
    Checkpoint(get_model(folder), "f32", 1).check_numbers()

    def change(tensors):
        add(tensors)
        tensors["lm_head.weight"][69, 127] += 1

    folder_of(tmp_path, tie_word_embeddings=True, edit=change)
    with pytest.raises(
        ModelError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight, .*config\.json ties"
    ):
        Checkpoint(get_model(folder), "f32", 1).check_numbers()


def test_a_missing_head_says_what_would_tie_it(tmp_path):
    folder = folder_of(tmp_path, drop=("lm_head.weight",))
    with pytest.raises(
        ModelError, match=r"has no tensor lm_head\.weight, and tie_word_embeddings is not true"
    ):
        Checkpoint(get_model(folder), "f32", 1)


# What belongs to layers that are not run


def test_tensors_of_later_layers_do_not_matter_and_others_are_named(tmp_path):
    def more(tensors):
        tensors["model.layers.1.self_attn.k_proj.bias"] = np.zeros(64, np.float32)
        tensors["model.layers.1.mlp.experts.0.weight"] = np.zeros((2, 2), np.float32)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(16, np.float32)

    model = get_model(folder_of(tmp_path, edit=more))
    Checkpoint(model.with_layers(1), "f32", 1).check_numbers()
    with pytest.raises(
        ModelError, match=r"model\.layers\.1\.[a-z_.0]+ is a (bias|tensor) that is not supported"
    ):
        Checkpoint(model, "f32", 1)


def test_a_norm_that_the_family_does_not_have_is_not_dropped(tmp_path):
    def norm(tensors):
        tensors["model.layers.0.self_attn.q_norm.weight"] = np.ones(32, np.float32)

    with pytest.raises(
        ModelError, match=r"layers\.0\.self_attn\.q_norm\.weight is a tensor that is not supported"
    ):
        Checkpoint(get_model(folder_of(tmp_path, edit=norm)), "f32", 1)


# Numbers


@pytest.mark.parametrize("dtype", [np.float32, np.float16, "bf16"], ids=str)
@pytest.mark.parametrize(("value", "says"), [(np.nan, r"NaN \(not a number\)"), (-np.inf, "infinity")])
def test_numbers_that_are_none_are_blamed_on_their_file(tmp_path, monkeypatch, dtype, value, says):
    monkeypatch.setattr("membound.kernels.weights.checkpoint.CHUNK_ELEMENTS", 128 * 9)
    name = "model.layers.1.mlp.up_proj.weight"

    def spoil(tensors):
        tensors[name][250, 3] = value

    folder = folder_of(tmp_path, edit=spoil, dtype=dtype)
    model = get_model(folder)
    Checkpoint(model.with_layers(1), "f32", 1).check_numbers()
    with pytest.raises(ModelError, match=rf"model\.safetensors: {name} holds {says}: the file is damaged"):
        Checkpoint(model, "f32", 1).check_numbers()


@pytest.mark.parametrize(
    ("fmt", "largest", "fits"),
    [
        *(("f32", 1e30, True), ("bf16", 1e30, True), ("int8", 1e30, True), ("f16", 65504.0, True)),
        *(("f16", 65505.0, False), ("int4g32", 524032.0, True), ("int4g32", 525000.0, False)),
    ],
)
def test_a_weight_must_fit_the_format_that_it_is_stored_in(tmp_path, fmt, largest, fits):
    def grow(tensors):
        tensors["model.layers.0.self_attn.q_proj.weight"][5, 5] = -largest

    checkpoint = Checkpoint(get_model(folder_of(tmp_path, edit=grow)), fmt, 1)
    if fits:
        checkpoint.check_numbers()
        scales = checkpoint.layer(0).matrices["q"].scales
        assert scales is None or np.isfinite(scales).all()
        return
    with pytest.raises(
        ModelError, match=rf"q_proj\.weight holds {largest:.6g}, which weight={fmt} cannot store"
    ):
        checkpoint.check_numbers()


def test_numbers_are_read_again_only_if_a_file_changed(tmp_path, monkeypatch):
    read = []
    largest = Checkpoint.__init__.__globals__["TensorFiles"].largest
    monkeypatch.setattr(
        "membound.kernels.weights.tensor_files.TensorFiles.largest",
        lambda self, name, rows: read.append(name) or largest(self, name, rows),
    )
    folder = folder_of(tmp_path)
    for _ in range(3):
        Checkpoint(get_model(folder), "f32", 1).check_numbers()
    once = len(read)
    assert once == len(tensors_of(get_model(folder)))
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    Checkpoint(get_model(folder), "f32", 1).check_numbers()
    assert len(read) == 2 * once


def test_a_name_that_no_file_can_hold_is_not_in_one(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / SHARD)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"\ud800": SHARD}}))
    with pytest.raises(ModelError, match=r"has no tensor \ud800, though .*index\.json says so"):
        TensorFiles(tmp_path).nbytes("\ud800")
