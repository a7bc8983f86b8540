"""Steps of dense models with states by the CPU kernels, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from hybrid_models import DELTA, HYBRID, hybrid_models

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels.cpu.compile import set_threads
from membound.kernels.cpu.step.packed_hybrid import PackedHybrid
from membound.kernels.inputs import ModelInputs
from membound.kernels.recurrence import mix
from membound.kernels.reference import compute, linear, norm, relative_error
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("hybrid_models")
__all__ = ["hybrid_models"]


@pytest.mark.slow  # it compiles a whole step
def test_a_step_is_the_reference_and_so_is_the_state_behind_it() -> None:
    set_threads(2)
    inputs = make_inputs(parse("step:model=tiny-delta,batch=2,context=13,weight=f32,kv=f32"), seed=4)
    assert isinstance(inputs, ModelInputs)
    packed = PackedHybrid(inputs, threads=2)
    for _ in range(2):  # the second launch is the same step: it reads the state that the first one read
        packed.run()
    assert relative_error(packed.logits, compute(inputs, 0)) < 1e-5
    states, layer, decoder = packed.states, inputs.layer(0), inputs.model.decoder
    x = norm(decoder, layer, "attention_norm", inputs.x.astype(np.float64))

    def product(name: str, rows: np.ndarray) -> np.ndarray:
        return linear(rows, layer.matrices[name], "float")

    _, after = mix(x, DELTA, inputs.state(0), product, layer.vectors, decoder.eps)
    each = 2 * DELTA.state_numbers
    behind = states.matrices_after[:each].reshape(after.matrices.shape)
    assert relative_error(behind, after.matrices) < 1e-5
    tails = states.tails_after[: 2 * DELTA.tail_numbers].reshape(after.tail.shape)
    assert relative_error(tails, after.tail) < 1e-5
    assert np.array_equal(states.matrices[:each], inputs.state(0).matrices.reshape(-1))


def test_what_the_kernels_lack_is_named() -> None:
    backend = NumbaCpu()
    assert backend.supports(parse("step:model=tiny-delta")) is None
    assert backend.supports(parse("step:model=tiny-delta-moe")) == (
        "tiny-delta-moe asks for experts, which it lacks"
    )
    assert "gated DeltaNet" in (backend.supports(parse("prefill:model=tiny-delta")) or "")
    assert set(HYBRID) == {"tiny-delta", "tiny-delta-moe"}
