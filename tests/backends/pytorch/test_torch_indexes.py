"""Steps of models whose attention sees selected tokens, in torch, against the float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hybrid_models import INDEXED, hybrid_models

from membound.backends.pytorch.backend import PyTorch
from membound.backends.pytorch.latent_layer import IndexedLatent
from membound.kernels.inputs import ModelInputs
from membound.kernels.operations import SpecError
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("hybrid_models")
__all__ = ["hybrid_models"]


def run(spec: str) -> tuple[float, ModelInputs, Any]:
    work, backend = parse(spec), PyTorch()
    inputs = make_inputs(work, seed=4)
    assert isinstance(inputs, ModelInputs)
    backend.open("cpu", 1)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):  # the second launch is the same step
        backend.launch(0)
    error = relative_error(backend.output(), compute(inputs, 0))
    return error, inputs, backend


@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize(("batch", "context"), [(1, 40), (3, 23), (2, 5), (1, 8)])
def test_float32_is_the_reference(name: str, batch: int, context: int) -> None:
    error, inputs, backend = run(f"step:model={name},batch={batch},context={context},weight=f32,kv=f32")
    backend.close()
    assert error < 1e-5
    chosen = [inputs.selection(index) for index in range(4)]
    assert {one.shape for one in chosen} == {(batch, min(9, context + 1))}
    assert np.array_equal(chosen[1], chosen[2])
    assert all((np.diff(one) > 0).all() and one.max() <= context for one in chosen)


def test_its_own_choice_is_that_of_the_reference_in_float32() -> None:
    _, inputs, backend = run("step:model=tiny-index,batch=2,context=40,weight=f32,kv=f32")
    own = [one for one in backend._decoder.modules() if isinstance(one, IndexedLatent)]
    for index in (0, 1, 3):
        assert np.array_equal(np.sort(own[index].ids.numpy(), -1), inputs.selection(index))
    assert own[2].ids.numel() == 0
    backend.close()


@pytest.mark.parametrize("weight", ["bf16", "f16"])
def test_other_formats_keep_the_tolerance(weight: str) -> None:
    spec = f"step:model=tiny-index-moe,batch=2,context=40,weight={weight},kv={weight}"
    error, _, backend = run(spec)
    backend.close()
    assert error < tolerance(parse(spec))


def test_a_step_reads_every_key_and_the_rows_that_are_selected() -> None:
    short, long = (parse(f"step:model=tiny-index,batch=3,context={c},kv=bf16") for c in (100, 900))
    for step in (short, long):
        (index,) = (one for one in step.operations if one.name == "index")
        assert (index.count, index.flops) == (3, 3 * (step.context + 1) * 2 * 5 * 21)
        assert index.traffic.kv_read_bytes == 3 * step.context * 20 * 2
        assert index.traffic.kv_written_bytes == 3 * 20 * 2
        (attention,) = (one for one in step.operations if one.name == "attention to 8 tokens")
        assert (attention.count, attention.traffic.kv_read_bytes) == (4, 3 * 8 * 52 * 2)
    assert long.traffic.total_bytes - short.traffic.total_bytes == 3 * 3 * 800 * 20 * 2
    assert long.footprint_bytes - short.footprint_bytes == 3 * 800 * (3 * 20 + 4 * 52) * 2


def test_what_is_not_run_is_one_line() -> None:
    assert PyTorch().supports(parse("prefill:model=tiny-index,tokens=8")) == (
        "tiny-index asks for attention with an indexer, which it lacks"
    )
    with pytest.raises(SpecError, match=r"tiny-index has an index, whose keys are random: cache=random"):
        parse("step:model=tiny-index,context=5,cache=prompt")
