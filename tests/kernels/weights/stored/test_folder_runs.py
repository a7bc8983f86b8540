"""Steps and prompts over folders with quantised matrices on Numba, against the float64 reference."""

import json

import numpy as np
import pytest
from float_bounds import STORED_BOUND
from quantised_folders import write_folder

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

RUN = ["gptq_ordered", "packed_zeros", "fp8_blocks"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "act"), [*((kind, "float") for kind in RUN), ("gptq_ordered", "int8"), ("gptq_8", "int8")]
)
def test_a_step_over_stored_weights(tmp_path, kind, act):
    write_folder(tmp_path, kind)
    error, work = ran(f"step:model={tmp_path},context=5,batch=2,weight=stored,kv=f32,act={act}")
    assert error < (0.01 if act == "int8" else STORED_BOUND) < tolerance(work)


def ran(spec):
    """(error of Numba's output, its work)"""
    work = parse(spec)
    inputs = make_inputs(work, seed=3)
    backend = NumbaCpu()
    backend.open("cpu", threads=2)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):  # the second finds what the first has written
        backend.launch(0)
    return relative_error(backend.output(), compute(inputs, 0)), work


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "act"),
    [*((kind, "float") for kind in (*RUN, "awq", "packed_ordered", "int8")), ("gptq_ordered", "int8"), ("gptq_8", "int8")],
)  # fmt: skip
def test_a_prompt_over_stored_weights(tmp_path, kind, act):
    """Two sequences that end within a chunk, and columns in an order of their own."""
    write_folder(tmp_path, kind)
    error, work = ran(f"prefill:model={tmp_path},tokens=37,batch=2,weight=stored,kv=f32,act={act}")
    assert error < (0.02 if act == "int8" else STORED_BOUND) < tolerance(work)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gptq_ordered", "fp8_blocks"])
def test_a_prompt_over_stored_weights_beyond_llama(tmp_path, kind):
    write_folder(tmp_path, kind, model_type="mistral", sliding_window=7)
    error, _ = ran(f"prefill:model={tmp_path},tokens=37,batch=2,weight=stored,kv=f32")
    assert error < STORED_BOUND


@pytest.mark.slow
def test_a_step_behind_a_prompt_over_stored_weights(tmp_path):
    write_folder(tmp_path, "awq")
    error, _ = ran(f"step:model={tmp_path},context=9,batch=2,weight=stored,kv=f32,cache=prompt")
    assert error < STORED_BOUND


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", ["step:model={},context=5,batch=3,queries=2", "step:model={},context=5,batch=2", "prefill:model={},tokens=21,batch=3"]
)  # fmt: skip
def test_several_rows_over_floats_beside_groups(tmp_path, spec):
    """q and v of layers in 16 bits beside a k in int4, within one product, and down in both kinds."""
    kept = [
        "model.layers.0.mlp.down_proj",
        *(f"model.layers.{i}.self_attn.{n}_proj" for i in (0, 1) for n in "qv"),
    ]

    def floats(tensors):
        for module in kept:
            shape = (64 if "v_proj" in module else 128, 256 if "down" in module else 128)
            for name in [name for name in tensors if name.startswith(module)]:
                del tensors[name]
            rng = np.random.default_rng(len(module))
            tensors[f"{module}.weight"] = (rng.standard_normal(shape) / 16).astype(np.float16)

    write_folder(tmp_path, "awq", floats)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    fields["quantization_config"]["modules_to_not_convert"] = kept
    path.write_text(json.dumps(fields))
    error, work = ran(spec.format(tmp_path) + ",weight=stored,kv=f32")
    assert set(work.stored.formats) == {"f16", "int4g32z"}
    assert error < STORED_BOUND
