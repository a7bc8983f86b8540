"""Reading ONNX files: what is refused, in one line, and that nothing outside the folder is looked at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_decoders
import pytest
from onnx import TensorProto, helper, numpy_helper

from membound.kernels.model import ModelError
from membound.kernels.onnx_file.read import read
from membound.kernels.onnx_step import EXAMPLE


def changed(path: Path, change: Any, external: bool = False) -> Path:
    model = onnx_decoders.plain_model()
    onnx_decoders.saved(model, path, external)
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_is_its_operators_tensors_inputs_and_outputs(tmp_path: Path) -> None:
    file = read(onnx_decoders.saved(onnx_decoders.gqa_model(layers=1), tmp_path / "m.onnx"))
    assert [one.name for one in file.graph.inputs][:2] == ["input_ids", "attention_mask"]
    assert file.graph.stored["cos"].dims == (256, 8)
    assert file.graph.stored["cos"].load()[1, 0] == np.float32(np.cos(1))
    assert file.graph.nodes[0].title == "ReduceSum"
    assert len(file.content) == 12
    assert file.data_files == ()


def test_numbers_beside_the_file_are_those_inside_it(tmp_path: Path) -> None:
    model = onnx_decoders.gqa_model("int4")
    inside = read(onnx_decoders.saved(model, tmp_path / "a.onnx"))
    beside = read(onnx_decoders.saved(model, tmp_path / "b.onnx", external=True))
    assert [path.name for path in beside.data_files] == ["b.onnx.data"]
    for name, one in inside.graph.stored.items():
        np.testing.assert_array_equal(beside.graph.stored[name].load(), one.load())


def test_content_changes_with_the_file_and_with_the_size_of_its_data(tmp_path: Path) -> None:
    path = onnx_decoders.saved(onnx_decoders.gqa_model(), tmp_path / "a.onnx", external=True)
    first = read(path).content
    with (tmp_path / "a.onnx.data").open("ab") as file:
        file.write(b"\0")
    second = read(path).content
    onnx_decoders.saved(onnx_decoders.gqa_model(layers=1), path, external=True)
    assert len({first, second, read(path).content}) == 3


@pytest.mark.parametrize(
    ("kind", "values", "found"),
    [
        (TensorProto.BFLOAT16, [0x3F80, 0xC000], [1.0, -2.0]),
        (TensorProto.FLOAT16, [0x3C00, 0xC000], [1.0, -2.0]),
        (TensorProto.BOOL, [1, 0], [True, False]),
        (TensorProto.INT8, [-3, 5], [-3, 5]),
        (TensorProto.INT4, [0x2F], [-1, 2]),
        (TensorProto.UINT4, [0x2F], [15, 2]),
        (TensorProto.FLOAT8E4M3FN, [0x38, 0xC0], [1.0, -2.0]),
    ],
)
def test_every_type_is_read_from_its_typed_field_and_from_raw_bytes(
    kind: int, values: list[int], found: Any, tmp_path: Path
) -> None:
    def change(model: onnx.ModelProto) -> None:
        typed = TensorProto(name="typed", data_type=kind, dims=[2])
        typed.int32_data.extend(values)
        width = {TensorProto.BFLOAT16: "<u2", TensorProto.FLOAT16: "<u2"}.get(kind, "u1")
        raw = TensorProto(name="raw", data_type=kind, dims=[2])
        raw.raw_data = (
            np.array([value % (1 << 8 * np.dtype(width).itemsize) for value in values])
            .astype(width)
            .tobytes()
        )
        model.graph.initializer.extend([typed, raw])

    stored = read(changed(tmp_path / "m.onnx", change)).graph.stored
    assert stored["typed"].load().tolist() == found
    assert stored["raw"].load().tolist() == found


def test_a_constant_is_a_tensor_of_the_file(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value_ints=[3, 4]))
        model.graph.node.insert(
            0, helper.make_node("Constant", [], ["d"], value=numpy_helper.from_array(np.ones(2)))
        )

    graph = read(changed(tmp_path / "m.onnx", change)).graph
    assert graph.stored["c"].load().tolist() == [3, 4]
    assert graph.stored["d"].load().tolist() == [1, 1]
    assert "Constant" not in {node.op for node in graph.nodes}


def versioned(model: onnx.ModelProto, opset: int) -> None:
    model.opset_import[0].version = opset


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m, "ir_version", 99), "has IR version 99, newer than onnx"),
        (lambda m: versioned(m, 99), "has operators of opset 99, newer than onnx"),
        (lambda m: versioned(m, 5), "has operators of opset 5; ONNX Runtime takes those from opset 7 on"),
    ],
)
def test_versions_that_nobody_here_knows_are_refused(change: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        read(changed(tmp_path / "m.onnx", change))


@pytest.mark.parametrize("opset", [7, onnx.defs.onnx_opset_version()])
def test_the_oldest_and_the_newest_version_are_read(opset: int, tmp_path: Path) -> None:
    assert read(changed(tmp_path / "m.onnx", lambda m: versioned(m, opset))).graph.nodes


def test_functions_of_the_file_are_written_out(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        twice = helper.make_node("Add", ["a", "a"], ["b"])
        model.functions.append(
            helper.make_function("mine", "Twice", ["a"], ["b"], [twice], [helper.make_opsetid("", 17)])
        )
        model.opset_import.append(helper.make_opsetid("mine", 1))
        model.graph.node.append(helper.make_node("Twice", ["logits"], ["again"], domain="mine"))

    nodes = read(changed(tmp_path / "m.onnx", change)).graph.nodes
    assert (nodes[-1].op, nodes[-1].inputs, nodes[-1].outputs) == ("Add", ("logits", "logits"), ("again",))


def external(model: onnx.ModelProto, **told: str) -> None:
    tensor = model.graph.initializer[0]
    del tensor.external_data[:]
    for key, value in told.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: m.graph.node.append(helper.make_node("Loop", ["", ""], ["x"])),
            "control flow that cannot be followed",
        ),
        (
            lambda m: m.graph.node.append(helper.make_node("Scan", ["x"], ["y"])),
            "the operator Scan: control flow",
        ),
        (
            lambda m: m.graph.node.append(helper.make_node("Own", ["x"], ["y"], domain="my.domain")),
            "custom operator my.domain.Own",
        ),
        (lambda m: m.graph.sparse_initializer.add(), "has sparse tensors"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "two tensors of the name 'table'"),
        (lambda m: m.graph.initializer.add(name="s", data_type=8), "'s' of type 8, which is not supported"),
        (lambda m: m.graph.initializer.add(name="c", data_type=14, dims=[1]), "'c' of type 14"),
        (lambda m: m.graph.initializer.add(name="n", data_type=1, dims=[-1]), "'n' with a negative size"),
        (
            lambda m: m.graph.initializer.add(name="e", data_type=1, dims=[3]),
            "'e' of [3] float with other than 12 bytes",
        ),
        (
            lambda m: m.graph.initializer.add(name="r", data_type=1, dims=[3], raw_data=b"1"),
            "'r' of [3] float with other",
        ),
        (lambda m: m.graph.ClearField("node"), "it has no operators"),
        (lambda m: m.graph.input.add(name="q").type.sequence_type.SetInParent(), "'q', which is no tensor"),
    ],
)
def test_what_cannot_be_walked_through_is_refused_by_name(change: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        read(changed(tmp_path / "m.onnx", change))
    assert said in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "m.onnx"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"location": "../m.onnx.data"}, "not inside its folder: copy it there"),
        ({"location": "/etc/hostname"}, "not inside its folder"),
        ({"location": "..\\m.onnx.data"}, "not inside its folder"),
        ({"location": "link"}, "not inside its folder"),
        ({"location": "a/../../x"}, "not inside its folder"),
        ({"location": "into/secret"}, "not inside its folder"),
        ({"location": ""}, "not inside its folder"),
        ({"location": "a\0b"}, "not inside its folder"),
        ({"location": "gone.data"}, "which is not beside it"),
        ({"location": "."}, "which is not beside it"),
        ({"location": "m.onnx.data", "offset": "-1"}, "offset '-1', which is no number"),
        ({"location": "m.onnx.data", "offset": "x"}, "offset 'x', which is no number"),
        ({"location": "m.onnx.data", "offset": "99999999"}, "of 6400 bytes at 99999999"),
        ({"location": "m.onnx.data", "length": "7"}, "which gives it 7"),
    ],
)
def test_data_is_only_taken_from_inside_the_folder(told: dict[str, str], said: str, tmp_path: Path) -> None:
    folder, secret = tmp_path / "model", tmp_path / "secret"
    secret.write_bytes(bytes(1 << 16))
    folder.mkdir()
    os.symlink(secret, folder / "link")
    os.symlink(tmp_path, folder / "into")
    path = changed(folder / "m.onnx", lambda model: external(model, **told), external=True)
    with pytest.raises(ModelError) as refused:
        read(path)
    assert said in str(refused.value)


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    path = onnx_decoders.saved(onnx_decoders.gqa_model(), tmp_path / "m.onnx", external=True)
    (tmp_path / "m.onnx.data").rename(tmp_path / "real")
    os.symlink("real", tmp_path / "m.onnx.data")
    assert read(path).graph.stored["table"].load().shape == (50, 32)


def test_files_that_are_no_onnx(tmp_path: Path) -> None:
    whole = onnx_decoders.saved(onnx_decoders.gqa_model(), tmp_path / "whole.onnx").read_bytes()
    cases = {
        "cut.onnx": (whole[: len(whole) // 2], "is cut short or no ONNX file"),
        "empty.onnx": (b"", "is no ONNX model"),
        "text.onnx": (b"<html>not here</html>", "no ONNX"),
        "pointer.onnx": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a Git LFS pointer",
        ),
    }
    for name, (content, said) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=said):
            read(tmp_path / name)
    with pytest.raises(ModelError, match=r"is a folder: name the \.onnx file"):
        read(tmp_path)
    with pytest.raises(ModelError, match="is no file that is there"):
        read(tmp_path / "gone.onnx")
    with pytest.raises(ModelError, match=r"a shell leaves ~ as it is within a word: write /.*/gone\.onnx$"):
        read(Path("~/gone.onnx"))
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match="is no file that is there"):
        read(tmp_path / "pipe.onnx")
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(ModelError, match="more than an ONNX file can hold: save its weights beside it"):
        read(tmp_path / "large.onnx")


def test_a_name_that_is_no_text_is_damage(tmp_path: Path) -> None:
    data = EXAMPLE.read_bytes().replace(b"MatMul", b"MatMu\xff", 1)
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="is damaged"):
        read(tmp_path / "model.onnx")
