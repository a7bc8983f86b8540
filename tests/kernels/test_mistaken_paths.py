"""A path that is no model is refused with what to name in its place, wherever a model is named."""

import json
from pathlib import Path

import pytest
from checkpoints import CONFIG

from membound.kernels.model import ModelError
from membound.kernels.models import get_model
from membound.kernels.operations import SpecError
from membound.kernels.shapes import shape_of
from membound.kernels.weights.checkpoint import Checkpoint
from membound.kernels.work import parse

LLAMA = json.dumps(CONFIG | {"model_type": "llama"})


def put(*names, content=b"x"):
    def fill(folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    return fill


def adapter(folder):
    put("adapter_model.safetensors")(folder)
    named = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.2-1B"}
    (folder / "adapter_config.json").write_text(json.dumps(named))


def damaged_adapter(folder):
    put("adapter_config.json", content=b"{")(folder)


def hub(folder):
    put("snapshots/4e20de3/config.json", "refs/main", content=LLAMA.encode())(folder)


ADAPTER = r"; it is an adapter of meta-llama/Llama-3\.2-1B: merge it into that model"
FOLDERS = [
    (adapter, ADAPTER),
    (damaged_adapter, "; it is an adapter: merge it into that model"),
    (hub, r"; it is of Hugging Face's cache: name .*/snapshots/4e20de3$"),
    (put("m-q8_0.gguf"), r"; it has m-q8_0\.gguf: a GGUF file is named itself, model=.*/m-q8_0\.gguf$"),
    (
        put("model.onnx"),
        r"; it has model\.onnx: an ONNX file is a work of its own, onnx:file=.*/model\.onnx$",
    ),
    (put("a/config.json", "b/config.json"), r"; folders in it have one: .*/a, .*/b$"),
    (put(*(f"{n}/config.json" for n in range(9))), r"; folders in it have one: .*/0, .*/1, .*/2 and 6 more$"),
    (put("params.json", "consolidated.00.pth"), r"; it has params\.json, its maker's own"),
    (put("notes.txt"), r"(?<=config\.json)$"),
]


def one_line(refuse, text):
    with pytest.raises((ModelError, SpecError), match=text) as raised:
        refuse()
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(("fill", "says"), FOLDERS)
def test_a_folder_without_config_says_what_it_has(tmp_path, fill, says):
    fill(tmp_path)
    for refuse in (get_model, shape_of, lambda name: parse(f"step:model={name}")):
        one_line(lambda refuse=refuse: refuse(str(tmp_path)), f"has no config\\.json.*{says}")


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        (adapter, ADAPTER),
        (put("consolidated.00.pth"), r"; it has consolidated\.00\.pth, with names of its maker's"),
        (put("weights.pth"), r"; it has weights\.pth: save the model as safetensors$"),
        (
            put("pytorch_model-00001-of-00002.bin"),
            r"; it has pytorch_model-00001-of-00002\.bin: save the model as",
        ),
        (put("model.onnx"), r"; it has model\.onnx: an ONNX file is a work of its own"),
    ],
)
def test_a_folder_without_safetensors_says_what_it_has(tmp_path, fill, says):
    (tmp_path / "config.json").write_text(LLAMA)
    fill(tmp_path)
    one_line(lambda: Checkpoint(get_model(str(tmp_path)), "f32", 1), f"has no model\\.safetensors.*{says}")


def test_paths_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere/me")
    for name, says in (
        ("~/models/llama", r"a shell leaves ~ as it is within a word; write /somewhere/me/models/llama$"),
        (
            "meta-llama/Llama-3.2-1B",
            r"there is no folder or file 'meta-llama/Llama-3\.2-1B' here, and nothing is downloaded$",
        ),
        (r"C:\models\llama", "there is no folder or file .* here"),
        (f"{tmp_path}/gone", "there is no folder or file"),
        ("model.gguf", "there is no folder or file 'model.gguf' here"),
    ):
        for refuse in (get_model, shape_of, lambda name: parse(f"step:model={name}")):
            one_line(lambda refuse=refuse, name=name: refuse(name), says)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", LLAMA.encode(), r"is a file, .*: name its folder, "),
        ("model.safetensors", b"x", r"is a file, .*: name its folder, "),
        (
            "sha256-ab12",
            b"GGUF" + bytes(40),
            r"a file in GGUF whose name ends in \.gguf: link to it under such a name$",
        ),
        ("model.onnx", b"x", r"an ONNX file is a work of its own, onnx:file="),
    ],
)
def test_a_file_in_place_of_a_folder(tmp_path, name, content, says):
    put("config.json", content=LLAMA.encode())(tmp_path)
    put(name, content=content)(tmp_path)
    for refuse in (get_model, shape_of):
        one_line(lambda refuse=refuse: refuse(str(tmp_path / name)), says)
    one_line(
        lambda: get_model("/etc/hostname"),
        r"is a file, and a model is a folder with config\.json and safetensors, or",
    )


def test_links_as_hugging_faces_cache_has_them_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/4e20de3"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "ab12").write_text(LLAMA)
    (snapshot / "config.json").symlink_to(Path("../../blobs/ab12"))
    assert get_model(f"{snapshot}/").hidden == 128
