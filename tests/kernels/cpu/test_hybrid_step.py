"""Steps of models with states by the CPU kernels, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from hybrid_models import HYBRID, MAMBAS, hybrid_models

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels.cpu.compile import set_threads
from membound.kernels.cpu.step.packed_hybrid import PackedHybrid
from membound.kernels.inputs import ModelInputs
from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.recurrence import mix
from membound.kernels.reference import compute, linear, norm, relative_error
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("hybrid_models")
__all__ = ["hybrid_models"]


@pytest.mark.slow  # all but Granite's compile a whole step; theirs is the one before
@pytest.mark.parametrize(
    "name", ["tiny-delta-moe", "tiny-mamba", "tiny-granite-h", "tiny-mamba-moe", "tiny-granite-h-moe"]
)
def test_a_step_is_the_reference_and_so_is_the_state_behind_it(name: str) -> None:
    set_threads(2)
    inputs = make_inputs(parse(f"step:model={name},batch=2,context=13,weight=f32,kv=f32"), seed=4)
    assert isinstance(inputs, ModelInputs)
    packed = PackedHybrid(inputs, threads=2)
    for _ in range(2):  # the second launch is the same step: it reads the state that the first one read
        packed.run()
    assert relative_error(packed.logits, compute(inputs, 0)) < 1e-5
    states, layer, decoder = packed.states, inputs.layer(0), inputs.model.decoder
    x = norm(decoder, layer, "attention_norm", inputs.x.astype(np.float64))

    def product(name: str, rows: np.ndarray) -> np.ndarray:
        return linear(rows, layer.matrices[name], "float")

    mixer = decoder.layers[0].mixer
    assert isinstance(mixer, GatedDelta | Mamba2)
    _, after = mix(x, mixer, inputs.state(0), product, layer.vectors, decoder.eps)
    each = 2 * mixer.state_numbers
    behind = states.matrices_after[:each].reshape(after.matrices.shape)
    assert relative_error(behind, after.matrices) < 1e-5
    tails = states.tails_after[: 2 * mixer.tail_numbers].reshape(after.tail.shape)
    assert relative_error(tails, after.tail) < 1e-5
    assert np.array_equal(states.matrices[:each], inputs.state(0).matrices.reshape(-1))
    if decoder.experts:
        planned = [inputs.routes(i) for i, one in enumerate(decoder.layers) if i in _routed(inputs)]
        assert [sorted(map(sorted, ids)) for ids in packed.choice] == [
            sorted(map(sorted, ids)) for ids in planned
        ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-delta-moe", "tiny-granite-h"])
def test_a_step_behind_a_prompt_is_the_reference(name: str) -> None:
    set_threads(2)
    inputs = make_inputs(
        parse(f"step:model={name},batch=2,context=13,weight=f32,kv=f32,cache=prompt"), seed=4
    )
    assert isinstance(inputs, ModelInputs)
    packed = PackedHybrid(inputs, threads=2)
    for _ in range(2):
        packed.run()
    assert relative_error(packed.logits, compute(inputs, 0)) < 1e-5


def _routed(inputs: ModelInputs) -> list[int]:
    layers = inputs.model.decoder.layers
    return [index for index, layer in enumerate(layers) if not hasattr(layer.mlp, "width")]


def test_what_the_kernels_take() -> None:
    backend = NumbaCpu()
    for name in (*HYBRID, *MAMBAS):
        assert backend.supports(parse(f"step:model={name}")) is None
