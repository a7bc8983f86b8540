"""ONNX Runtime on the CPU, against the float64 reference, and what it must refuse."""

from __future__ import annotations

import builtins
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from membound.backends.onnx_runtime import device as onnx_device
from membound.backends.onnx_runtime import graph as onnx_graph
from membound.backends.onnx_runtime import session as onnx_session
from membound.backends.onnx_runtime.backend import OnnxRuntime
from membound.backends.onnx_runtime.graph import Graph, linear_graph
from membound.backends.registry import create
from membound.errors import BackendUnavailable, FallbackRefused, Unsupported
from membound.kernels.inputs import AttentionInputs, Inputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.formats import quantize
from membound.kernels.work import Linear, Work, parse


@pytest.fixture
def backend() -> Iterator[OnnxRuntime]:
    backend = OnnxRuntime()
    backend.open("cpu", 2)
    yield backend
    backend.close()


def run(backend: OnnxRuntime, work: Work, seed: int, slots: int = 1) -> Inputs:
    """Prepare, and hold every slot's output, launched in reverse order, against the reference."""
    assert backend.supports(work) is None
    inputs = make_inputs(work, seed, slots)
    backend.prepare(work, inputs)
    for slot in reversed(range(inputs.slots)):
        backend.launch(slot)
        backend.sync()
        expected = compute(inputs, slot)
        assert backend.output().dtype == np.float32
        assert relative_error(backend.output(), expected) < tolerance(work)
    return inputs


@pytest.mark.parametrize(
    ("weight", "act"),
    [
        ("f32", "float"),
        ("f16", "float"),
        ("int8", "float"),
        ("int8", "int8"),
        ("int4g32", "float"),
        ("int4g32", "int8"),
        ("int4g128", "float"),
        ("int4g128", "int8"),
        ("int4g128z", "float"),
        ("int4g32z", "int8"),
        ("q8_0", "float"),
        ("q8_0", "int8"),
        ("q4_0", "float"),
    ],
)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 9, 128), (1, 33, 384), (3, 130, 256), (17, 7, 128)])
def test_linear_in_each_format(backend: OnnxRuntime, weight: str, act: str, m: int, n: int, k: int) -> None:
    run(backend, Linear(n, k, m, weight, act), seed=m * n, slots=3)


@pytest.mark.parametrize("weight", ["f32", "f16", "int8"])
def test_linear_with_odd_columns(backend: OnnxRuntime, weight: str) -> None:
    run(backend, Linear(19, 37, 2, weight), seed=4)


@pytest.mark.parametrize("weight", ["f32", "f16", "int8", "int4g32", "int4g128", "int4g128z", "q8_0", "q4_0"])
def test_float_activations_stay_float(backend: OnnxRuntime, weight: str) -> None:
    # Quantised activations would be 1000 times further off and still within the format's tolerance.
    work = Linear(64, 512, 2, weight)
    inputs = run(backend, work, seed=11)
    assert relative_error(backend.output(), compute(inputs, 0)) < 2e-6


def test_int8_extremes_do_not_saturate(backend: OnnxRuntime) -> None:
    work = Linear(4, 256, 1, "int8", "int8")
    inputs = make_inputs(work, 5)
    inputs.x[:] = 1
    weight = quantize(np.ones((4, 256), np.float32), "int8")
    session = onnx_session.create_session(
        linear_graph(weight, "int8", 1), onnx_session.CPU, index=0, threads=1
    )
    (y,) = session.run(None, {"x": inputs.x})
    np.testing.assert_allclose(y, np.full((1, 4), 256), rtol=1e-2)


def optimized(graph: Graph, file: Path) -> tuple[Any, Any]:
    """A session whose signed int8 weights ONNX Runtime makes unsigned, and the graph that it runs."""
    options = onnx_session._options(1)
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.optimized_model_filepath = str(file)
    arrays = graph.weights()
    values = [onnx_session.runtime().OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    session = onnx_session._create(graph.serialize(), options, onnx_session.CPU, {})
    return session, pytest.importorskip("onnx").load(file).graph


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ONNX Runtime does it on x86 alone")
@pytest.mark.parametrize("biased", [False, True])
def test_unsigned_weights_are_those_that_onnx_runtime_makes_of_signed_ones(
    biased: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng()
    x, bias = rng.standard_normal((3, 64), np.float32), rng.standard_normal(48, np.float32)
    weight = quantize(rng.standard_normal((48, 64), np.float32), "int8")
    ran, outputs = [], []
    for unsigned in (True, False):
        monkeypatch.setattr(onnx_graph, "_int8_sums_saturate", lambda unsigned=unsigned: unsigned)
        graph = Graph()
        graph.declare_input("x", (3, 64))
        graph.declare_output("y", (3, 48))
        graph.linear("x", "y", weight, "int8", bias if biased else None)
        session, fused = optimized(graph, tmp_path / f"{unsigned}.onnx")
        arrays = {a.name: onnx_graph.numpy_helper.to_array(a) for a in fused.initializer}
        (node,) = fused.node
        ran.append([node.op_type, *(arrays[name].tolist() for name in node.input if name in arrays)])
        outputs.append(session.run(None, {"x": x})[0])
    assert ran[0] == ran[1]
    assert ran[0][0] == "DynamicQuantizeMatMul"
    assert ran[0][1] == (weight.values.T.astype(int) + 128).tolist()
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize(
    ("weight", "act", "bytes_per_weight", "scales"),
    [
        ("f16", "float", 4, 0),
        ("int8", "float", 4, 0),
        ("int4g32", "int8", 0.5, 1 / 32),
        ("int4g128", "float", 0.5, 1 / 128),
    ],
)
def test_widened_weights_are_counted(
    backend: OnnxRuntime, weight: str, act: str, bytes_per_weight: float, scales: float
) -> None:
    run(backend, Linear(6, 256, 1, weight, act), seed=1, slots=2)
    assert backend.stored_bytes() == 6 * 256 * (bytes_per_weight + 4 * scales)


@pytest.mark.parametrize(("weight", "act"), [("f32", "float"), ("int8", "int8")])
def test_weights_stored_as_asked_need_no_word(backend: OnnxRuntime, weight: str, act: str) -> None:
    run(backend, Linear(6, 256, 1, "f16"), seed=1)
    run(backend, Linear(6, 256, 1, weight, act), seed=1)
    assert backend.stored_bytes() is None


@pytest.mark.parametrize(
    ("batch", "q_heads", "kv_heads", "head_dim", "context"),
    [(1, 4, 1, 64, 1), (3, 6, 2, 40, 37), (1, 8, 8, 32, 130), (2, 8, 2, 128, 257)],
)
def test_attention(
    backend: OnnxRuntime, batch: int, q_heads: int, kv_heads: int, head_dim: int, context: int
) -> None:
    work = parse(
        f"attention:batch={batch},q_heads={q_heads},kv_heads={kv_heads},"
        f"head_dim={head_dim},context={context},kv=f32"
    )
    inputs = run(backend, work, seed=context, slots=3)
    first = backend.output()
    for _ in range(3):
        backend.launch(0)
    np.testing.assert_array_equal(backend.output(), first)
    assert isinstance(inputs, AttentionInputs)


@pytest.mark.parametrize(
    ("batch", "q_heads", "kv_heads", "head_dim", "context"),
    [(1, 4, 1, 64, 1), (3, 6, 2, 40, 37), (1, 8, 8, 32, 130), (2, 8, 2, 128, 2049)],
)
def test_attention_over_a_float16_cache(
    backend: OnnxRuntime, batch: int, q_heads: int, kv_heads: int, head_dim: int, context: int
) -> None:
    heads = f"q_heads={q_heads},kv_heads={kv_heads},head_dim={head_dim}"
    work = parse(f"attention:batch={batch},{heads},context={context},kv=f16")
    run(backend, work, seed=context, slots=3)
    # Half is read as it is, and again from the float32 copy that the kernel makes of it.
    assert backend.stored_bytes() == 3 * work.traffic.kv_read_bytes


@pytest.mark.parametrize(("kv", "queries"), [("f32", 4), ("f16", 9)])
def test_several_queries(backend: OnnxRuntime, kv: str, queries: int) -> None:
    heads = "q_heads=6,kv_heads=2,head_dim=40,context=37"
    run(backend, parse(f"attention:{heads},kv={kv},queries={queries}"), seed=queries, slots=3)


def test_no_float16_cache_on_other_providers(backend: OnnxRuntime) -> None:
    backend._kind = "other"
    assert "CPU provider alone" in (backend.supports(parse("attention:context=8,kv=f16")) or "")
    assert backend.supports(parse("attention:context=8,kv=f32")) is None


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("linear:n=8,k=32,weight=bf16", "bfloat16 matmul"),
        ("attention:context=8,kv=bf16", "bfloat16 cache"),
        ("attention:context=8,kv=int8", "fixed scales"),
        ("step:model=tiny,weight=bf16,kv=f32", "bfloat16 matmul"),
        ("step:model=tiny,weight=int8,kv=bf16", "bfloat16 cache"),
        ("prefill:model=tiny,weight=int8,kv=int8", "fixed scales"),
        ("step:model=tiny,weight=int8,kv=fp8", "fp8 cache"),
        ("attention:context=8,kv=f32,page=16", "no paged attention"),
        ("attention:context=8,kv=f32,queries=2,batch=3", "several queries of one sequence, not of 3"),
        ("attention:context=8,head_dim=20,kv=f32", "heads of a multiple of 8, not 20"),
        ("mla:context=8,kv=f32", "no operator of latent attention"),
    ],
)
def test_unsupported_says_why(backend: OnnxRuntime, spec: str, reason: str) -> None:
    work = parse(spec)
    assert reason in (backend.supports(work) or "")
    with pytest.raises(Unsupported, match=reason):
        backend.prepare(work, make_inputs(work, 1))


def test_the_cpu_provider_lacks_what_is_said_to_be_unsupported() -> None:
    kind = onnx.TensorProto.BFLOAT16
    values = [onnx.helper.make_tensor_value_info(n, kind, [8, 8]) for n in "xwy"]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "bf16", values[:2], values[2:])
    opset = [onnx.helper.make_opsetid("", 23)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    with pytest.raises(Unsupported, match="MatMul"):
        onnx_session._create(model.SerializeToString(), onnx_session._options(1), onnx_session.CPU, {})


def test_export_without_the_exporter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_device, "find_spec", lambda name: None)
    assert OnnxRuntime.devices()[0] == "cpu"
    assert not [name for name in OnnxRuntime.devices() if "+" in name]
    with pytest.raises(BackendUnavailable, match="needs torch, onnxscript") as caught:
        OnnxRuntime().open("cpu+export", 1)
    assert caught.value.remedy == 'pip install "membound[onnx-export]"'
    backend = OnnxRuntime()
    backend.open("cpu", 1)
    assert backend.supports(parse("step:model=tiny,weight=int8,kv=f32")) is None


def test_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(BackendUnavailable, match="onnxruntime") as caught:
        OnnxRuntime().open("cpu", 1)
    assert caught.value.remedy == "pip install onnxruntime onnx"


@pytest.mark.parametrize("device", ["nonsense", "cpu+compile", "cpu+", "cpu:x", "azure"])
def test_unknown_device_is_unavailable(device: str) -> None:
    with pytest.raises(BackendUnavailable):
        OnnxRuntime().open(device, 1)


def test_absent_provider_names_its_package() -> None:
    backend = OnnxRuntime()
    if "openvino" in backend.devices():
        pytest.skip("this onnxruntime has OpenVINO")
    with pytest.raises(BackendUnavailable, match="it has: cpu") as caught:
        backend.open("openvino", 1)
    assert "onnxruntime-openvino" in caught.value.remedy


def test_a_provider_that_leaves_work_to_the_cpu_is_refused() -> None:
    if onnx_device.REMOTE not in onnx_session.runtime().get_available_providers():
        pytest.skip("this onnxruntime has no provider that refuses every operator")
    graph = linear_graph(quantize(np.ones((4, 8), np.float32), "f32"), "float", 1)
    with pytest.raises(FallbackRefused, match=r"would leave operators to the CPU: Gemm$"):
        onnx_session.create_session(graph, onnx_device.REMOTE, index=0, threads=1)


def test_openvino_is_told_its_threads_and_has_no_numbers() -> None:
    """It takes every core otherwise, whatever the session's threads are."""
    assert onnx_session.settings_of(onnx_session.OPENVINO, 0, 3) == {"num_of_threads": "3"}
    assert onnx_session.settings_of("CUDAExecutionProvider", 1, 3) == {"device_id": 1}
    assert onnx_session.settings_of(onnx_session.CPU, 0, 3) == {}
    with pytest.raises(
        BackendUnavailable, match="onnxruntime:openvino has no numbered devices: leave out :1"
    ):
        onnx_device.find("openvino:1")


def test_registered_and_described() -> None:
    backend = create("onnxruntime:cpu")
    device = backend.open("cpu", 2)
    assert device.id == "onnxruntime:cpu"
    assert device.threads == 2
    assert device.name
    assert set(device.versions) == {"onnxruntime", "onnx"}
    assert all(device.versions.values())
    assert backend.devices()[0] == "cpu"


def test_no_telemetry_is_started(tmp_path: Path) -> None:
    """As it starts, it writes the file of a session into the folder for temporary files."""
    programs: dict[str, set[str]] = {"import onnxruntime": {".ses"}}
    programs["from membound.backends.onnx_runtime.session import runtime; runtime()"] = set()
    for number, (program, files) in enumerate(programs.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        subprocess.run(
            [sys.executable, "-c", program], env=kept | {"TMPDIR": str(folder)}, check=True, timeout=120
        )
        assert {path.name for path in folder.iterdir()} <= files
