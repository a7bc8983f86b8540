"""A decoder as torch.onnx exports it today, on ONNX Runtime and in the float64 walk."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from membound.backends.onnx_runtime.backend import OnnxRuntime
from membound.kernels.onnx_step import OnnxStep
from membound.kernels.reference import compute, relative_error
from membound.kernels.seeded import make_inputs


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_a_file_of_torch_is_counted_and_right(opset: int, tmp_path: Path) -> None:
    import torch_decoder as t

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own exporter
        path = t.exported(tmp_path / "torch.onnx", opset)
    work = OnnxStep(str(path), 2, 30)
    kv = t.KV_HEADS * t.WIDTH
    matrices = t.HIDDEN * (2 * t.HEADS * t.WIDTH + 2 * kv + 3 * t.MLP + t.VOCAB)
    vectors = 3 * t.HIDDEN + t.HEADS * t.WIDTH
    rows = 2 * t.HIDDEN
    turns = t.WIDTH // 2
    assert work.bill.weights_bytes in {
        4 * (matrices + vectors + rows),
        4 * (matrices + vectors + rows + turns),
    }
    assert work.bill.kv_read_bytes == 2 * 2 * 30 * kv * 4
    inputs = make_inputs(work, seed=2)
    backend = OnnxRuntime()
    backend.open("cpu", 1)
    backend.prepare(work, inputs)
    backend.launch(0)
    assert relative_error(backend.output(), compute(inputs, 0)) < 1e-5
    backend.close()
