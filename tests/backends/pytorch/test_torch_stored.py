"""Steps of torch over matrices as folders store them: those formats that its operators take, ordered columns among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from quantised_experts import write_experts
from quantised_folders import write_folder

from membound.backends.pytorch.backend import PyTorch
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse


def opened(spec: str) -> tuple[Any, Any, PyTorch]:
    work, backend = parse(spec), PyTorch()
    backend.open("cpu", 2)
    return work, make_inputs(work, seed=3), backend


def check(spec: str) -> PyTorch:
    work, inputs, backend = opened(spec)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):
        backend.launch(0)
        assert relative_error(backend.output(), compute(inputs, 0)) < tolerance(work)
    return backend


@pytest.mark.parametrize("kind", ["packed", "packed_ordered", "int8"])
def test_dense_folders(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path, kind)
    check(f"step:model={tmp_path},context=5,batch=2,weight=stored,kv=f32")


@pytest.mark.parametrize(
    ("family", "kind", "kept"),
    [
        ("qwen3_moe", "packed", ()),
        ("mixtral", "packed_ordered", ()),
        ("deepseek_v3", "int8", ()),
        ("qwen3_moe", "packed", ("self_attn", "layers.1.mlp")),
    ],
)
def test_folders_with_experts(tmp_path: Path, family: str, kind: str, kept: tuple[str, ...]) -> None:
    write_experts(tmp_path, family, kind, kept=kept)
    backend = check(f"step:model={tmp_path},context=5,weight=stored,kv=f32")
    assert backend.settings()["routes"] == "own"


def test_what_torch_has_no_operator_for_is_named(tmp_path: Path) -> None:
    def reason(folder: Path, more: str = "") -> str | None:
        work, _, backend = opened(f"step:model={folder},context=5,weight=stored{more}")
        return backend.supports(work)

    write_experts(tmp_path / "fp8", "qwen3_moe", "fp8_blocks")
    assert reason(tmp_path / "fp8") == "torch has no matmul over fp8b128 weights"
    write_folder(tmp_path / "gptq", "gptq")
    assert reason(tmp_path / "gptq") == "torch has no matmul over int4g32z weights"
    write_folder(tmp_path / "int8", "int8")
    assert "less exact than f16 weights ask for" in str(reason(tmp_path / "int8"))
    assert reason(tmp_path / "int8", ",kv=f32") is None
    prompt = parse(f"prefill:model={tmp_path / 'int8'},tokens=4,weight=stored,kv=f32")
    assert PyTorch().supports(prompt) == "prompts take no weights as they are stored"
