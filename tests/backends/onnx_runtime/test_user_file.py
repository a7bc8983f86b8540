"""Users' own ONNX files on ONNX Runtime, against the float64 walk through their operators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_decoders
import pytest

from membound.backends import registry
from membound.backends.api import NO_FILES
from membound.backends.onnx_runtime import session
from membound.backends.onnx_runtime.backend import OnnxRuntime
from membound.errors import FallbackRefused, Unsupported
from membound.kernels.inputs import OnnxInputs
from membound.kernels.onnx_step import OnnxStep
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs

EXPORTED = sorted((Path(__file__).parent / "exported").glob("*.onnx"))


@pytest.fixture
def backend() -> Iterator[OnnxRuntime]:
    backend = OnnxRuntime()
    backend.open("cpu", 2)
    yield backend
    backend.close()


def error_of(backend: OnnxRuntime, work: OnnxStep, launches: int = 3) -> float:
    """Of the last of several launches, all of which have the same bits."""
    inputs = make_inputs(work, seed=3)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    found = []
    for _ in range(launches):
        backend.launch(0)
        backend.sync()
        found.append(backend.output())
    assert all((one == found[0]).all() for one in found)
    expected = compute(inputs, 0)
    assert expected.shape == found[0].shape == (work.batch, work.bill.vocab)
    error = relative_error(found[0], expected)
    assert error < tolerance(work)
    return error


def work_of(
    model: onnx.ModelProto, folder: Path, batch: int = 2, context: int = 40, external: bool = False
) -> OnnxStep:
    return OnnxStep(str(onnx_decoders.saved(model, folder / "model.onnx", external)), batch, context)


@pytest.mark.parametrize("external", [False, True])
def test_a_file_with_grouped_attention(backend: OnnxRuntime, external: bool, tmp_path: Path) -> None:
    work = work_of(onnx_decoders.gqa_model(), tmp_path, external=external)
    assert error_of(backend, work) < 1e-5
    assert backend.stored_bytes() is None
    assert backend.settings() == {"graph": "file"}


def test_a_file_that_joins_its_cache(backend: OnnxRuntime, tmp_path: Path) -> None:
    work = work_of(onnx_decoders.plain_model(), tmp_path)
    assert error_of(backend, work) < 1e-5
    traffic = work.traffic
    asked = traffic.weights_bytes + traffic.kv_read_bytes
    assert backend.stored_bytes() == asked + 2 * traffic.kv_read_bytes


@pytest.mark.parametrize(("context", "batch"), [(10, 1), (24, 2), (100, 2)])
def test_a_file_with_window_sized_caches_gives_the_same_step_again(
    backend: OnnxRuntime, context: int, batch: int, tmp_path: Path
) -> None:
    work = work_of(onnx_decoders.gqa_model(window=24), tmp_path, batch, context)
    assert error_of(backend, work) < 1e-5


def test_a_tied_file(backend: OnnxRuntime, tmp_path: Path) -> None:
    assert error_of(backend, work_of(onnx_decoders.gqa_model(tied=True), tmp_path)) < 1e-5


def test_matrices_of_float16_are_widened(backend: OnnxRuntime, tmp_path: Path) -> None:
    work = work_of(onnx_decoders.gqa_model("f16"), tmp_path)
    assert error_of(backend, work) < 2e-3
    traffic, bill = work.traffic, work.bill
    widened = bill.float16_bytes + 2 * traffic.kv_read_bytes
    assert backend.stored_bytes() == traffic.weights_bytes + traffic.kv_read_bytes + widened


def test_four_bits_with_activations_of_int8_and_without(backend: OnnxRuntime, tmp_path: Path) -> None:
    rounded = error_of(backend, work_of(onnx_decoders.gqa_model("int4", level=4), tmp_path))
    assert 1e-3 < rounded < 0.055 * 3**0.5
    exact = work_of(onnx_decoders.gqa_model("int4", level=1), tmp_path / "exact")
    assert error_of(backend, exact) < 1e-5


def test_the_reference_is_told_from_a_wrong_step(tmp_path: Path) -> None:
    inputs = make_inputs(work_of(onnx_decoders.gqa_model(), tmp_path), seed=3)
    assert isinstance(inputs, OnnxInputs)
    expected = compute(inputs, 0)
    other = compute(make_inputs(inputs.work, seed=4), 0)
    assert relative_error(other.astype(np.float32), expected) > 100 * tolerance(inputs.work)
    shorter = compute(make_inputs(OnnxStep(inputs.work.file, 2, 39), seed=3), 0)
    assert relative_error(shorter.astype(np.float32), expected) > 10 * tolerance(inputs.work)


@pytest.mark.parametrize("path", EXPORTED, ids=lambda path: path.stem)
def test_files_of_exporters(backend: OnnxRuntime, path: Path) -> None:
    """Made once by the exporters that are named in `exported/README.md`, with random weights."""
    for batch, context in ((1, 20), (2, 50)):
        work = OnnxStep(str(path), batch, context)
        if path.stem == "llama-int4":
            numbers = 2 * (32 * (32 + 2 * 16) + 32 * 32 + 3 * 32 * 64) + 96 * 32
            assert work.bill.weights_bytes == numbers // 2 + 4 * (5 * 32 + batch * 32 + 2 * 8)
            assert work.bill.scales_bytes == 4 * numbers // 32
            assert work.bill.kv_read_bytes == 2 * 2 * 16 * 4 * batch * context
        error = error_of(backend, work)
        assert work.act == "int8" or error < 1e-5


def test_files_of_exporters_are_there() -> None:
    assert "llama-int4" in [path.stem for path in EXPORTED]
    assert sum(path.stat().st_size for path in EXPORTED) < 100_000


def test_every_other_backend_refuses_a_file_by_name(tmp_path: Path) -> None:
    work = work_of(onnx_decoders.plain_model(), tmp_path)
    others = [entry for entry in registry.entries() if not entry.startswith("onnxruntime")]
    assert {"numba.cpu", "numba.cuda", "numpy", "torch", "vllm"} <= set(others)
    for entry in others:
        cls = registry.load(entry)
        if cls.__module__.startswith("membound."):
            assert cls().supports(work) == NO_FILES, entry


def test_what_reads_weights_may_not_fall_back_to_the_cpu(tmp_path: Path) -> None:
    path = onnx_decoders.saved(onnx_decoders.plain_model(), tmp_path / "m.onnx")
    options = session._options(1)
    options.add_session_config_entry(session.ASSIGNMENTS, "1")
    real = session._create(str(path), options, session.CPU, {})
    with pytest.raises(
        FallbackRefused, match="MineExecutionProvider would leave operators to the CPU: MatMul"
    ):
        session.refuse_fallback(real, "MineExecutionProvider")
    light = SimpleNamespace(ep_name=session.CPU, get_nodes=lambda: [SimpleNamespace(op_type="Shape")])
    session.refuse_fallback(SimpleNamespace(get_provider_graph_assignment_info=lambda: [light]), "Mine")


def test_a_file_that_onnx_runtime_refuses_is_unsupported(backend: OnnxRuntime, tmp_path: Path) -> None:
    model = onnx_decoders.plain_model()
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("unheard_of", 1))
    work = work_of(model, tmp_path)
    with pytest.raises(Unsupported, match="ONNX Runtime refuses the graph"):
        backend.prepare(work, make_inputs(work, seed=1))


def test_the_variant_that_exports_leaves_files_alone(tmp_path: Path) -> None:
    backend = OnnxRuntime()
    backend.open("cpu+export", 1)
    assert "is for whole models" in str(backend.supports(work_of(onnx_decoders.plain_model(), tmp_path)))
    backend.close()
