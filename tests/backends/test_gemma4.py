"""Steps and prompts of models with heads of two widths, from folders and by name, against the float64 reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers_answers import CASES, folder_of, has_wide_heads, inputs_of
from wide_models import wide_models

from membound.backends.api import Backend
from membound.backends.numba.cpu import NumbaCpu
from membound.backends.onnx_runtime.backend import OnnxRuntime
from membound.backends.pytorch.backend import PyTorch
from membound.kernels.inputs import ModelInputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import SpecError, parse

pytestmark = pytest.mark.usefixtures("wide_models")
__all__ = ["wide_models"]
FOLDERS = pytest.mark.parametrize(
    "case", [case for case in CASES if has_wide_heads(case)], ids=["dense", "experts"]
)


def ran(backend: Backend, inputs: ModelInputs) -> float:
    """The error of the second launch, which finds what the first has written."""
    backend.open("cpu", 2)
    assert backend.supports(inputs.work) is None
    backend.prepare(inputs.work, inputs)
    for _ in range(2):
        backend.launch(0)
    output, settings = backend.output(), backend.settings()
    backend.close()
    assert isinstance(output, np.ndarray)
    own = "own" if inputs.model.decoder.experts and inputs.plan is None else None
    assert settings.get("routes") == own
    return relative_error(output, compute(inputs, 0))


def error(backend: Backend, spec: str) -> tuple[float, float]:
    """And what a correct backend may have."""
    inputs = make_inputs(parse(spec), seed=4)
    assert isinstance(inputs, ModelInputs)
    return ran(backend, inputs), tolerance(inputs.work)


@FOLDERS
def test_a_step_behind_a_prompt_answers_as_in_transformers(case: dict[str, Any], tmp_path: Path) -> None:
    folder, count = folder_of(case, tmp_path), len(case["tokens"])
    spec = f"step:model={folder},context={count - 1},cache=prompt,weight=f32,kv=f32"
    inputs = inputs_of(spec, case)
    assert relative_error(compute(inputs, 0)[0], np.array(case["logits"])) < 1e-6


@FOLDERS
@pytest.mark.parametrize("backend", [PyTorch, pytest.param(NumbaCpu, marks=pytest.mark.slow)])
def test_a_step_of_a_folder(backend: type[Backend], case: dict[str, Any], tmp_path: Path) -> None:
    spec = f"step:model={folder_of(case, tmp_path)},context=9,weight=f32,kv=f32"
    assert error(backend(), spec)[0] < 2e-5


MOST = "weight=f32,kv=f32"


@pytest.mark.parametrize(
    "spec",
    [
        f"step:model=tiny-wide,batch=2,context=13,{MOST}",
        f"step:model=tiny-wide,batch=2,context=13,queries=3,{MOST}",
        f"step:model=tiny-wide-odd,batch=3,context=13,{MOST}",
        f"step:model=tiny-wide-moe,batch=2,context=13,{MOST}",
        f"step:model=tiny-one-width,context=13,{MOST}",
        f"prefill:model=tiny-wide,batch=2,tokens=21,{MOST}",
        f"prefill:model=tiny-wide-moe,batch=2,tokens=21,{MOST}",
    ],
)
def test_torch_is_the_reference(spec: str) -> None:
    assert error(PyTorch(), spec)[0] < 2e-5


@pytest.mark.slow  # each compiles a whole step
@pytest.mark.parametrize(
    "spec",
    [
        f"step:model=tiny-wide-moe,batch=2,context=13,{MOST}",
        f"step:model=tiny-wide,batch=2,context=13,{MOST}",
        "step:model=tiny-wide-512,context=13,weight=bf16,kv=bf16",
    ],
)
def test_numba_is_the_reference(spec: str) -> None:
    found, most = error(NumbaCpu(), spec)
    assert found < (2e-5 if spec.endswith(MOST) else most)


def test_bytes_and_flops_of_attention_go_by_each_layer_s_heads() -> None:
    work = parse("step:model=tiny-wide,batch=2,context=13,weight=f32,kv=f32")
    lines = {one.name: one for one in work.operations if "attention" in one.name}
    near, full = lines["attention to 8 tokens"], lines["attention"]
    assert (near.count, full.count) == (3, 1)
    assert near.traffic.kv_read_bytes == 2 * 8 * 2 * 3 * 32 * 4
    assert full.traffic.kv_read_bytes == 2 * 13 * 2 * 2 * 64 * 4
    assert (near.flops, full.flops) == (4 * 2 * 9 * 6 * 32, 4 * 2 * 14 * 6 * 64)
    appended = [(one.count, one.traffic.kv_written_bytes) for one in work.operations if "append" in one.name]
    assert appended == [(3, 2 * 2 * 3 * 32 * 4), (1, 2 * 2 * 2 * 64 * 4)]
    products = {one.name: one.count for one in work.operations}
    assert (products["q"], products["v"]) == (1, 3)


def test_others_name_what_they_lack() -> None:
    for spec in ("prefill:model=tiny-wide,tokens=13", "step:model=tiny-wide,queries=2"):
        assert "norms of values" in (NumbaCpu().supports(parse(spec)) or "")
    backend = OnnxRuntime()
    backend.open("cpu", 1)
    reason = backend.supports(parse(f"step:model=tiny-wide,context=13,{MOST}"))
    assert "norms of values" in (reason or "")


def test_models_with_embeddings_of_their_own_in_each_layer_are_refused(tmp_path: Path) -> None:
    case = next(case for case in CASES if has_wide_heads(case))
    fields = case["config"] | {"hidden_size_per_layer_input": 256}
    folder = folder_of(case | {"config": fields}, tmp_path)
    with pytest.raises(SpecError, match="hidden_size_per_layer_input=256 is not supported"):
        parse(f"step:model={folder}")


def test_fields_of_single_layers_say_the_same(tmp_path: Path) -> None:
    """Transformers 5.24 writes a folder's wider heads under the numbers of their layers."""
    case = next(case for case in CASES if has_wide_heads(case))
    fields = {n: v for n, v in case["config"].items() if "global" not in n}
    for name, config in (("published", case["config"]), ("saved", fields | {
        "per_layer_config": {"2": {"head_dim": 32, "num_key_value_heads": 1}}
    })):  # fmt: skip
        (tmp_path / name).mkdir()
        folder_of(case | {"config": config}, tmp_path / name)
    published, saved = (
        parse(f"step:model={tmp_path / n},context=9").shape.decoder.layers for n in ("published", "saved")
    )
    assert published == saved
    bad = fields | {"per_layer_config": {"2": {"window": 3}}}
    (tmp_path / "bad").mkdir()
    folder = folder_of(case | {"config": bad}, tmp_path / "bad")
    with pytest.raises(SpecError, match=r"per_layer_config=.* must be an object of layers"):
        parse(f"step:model={folder}")
