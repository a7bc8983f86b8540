"""Steps of models with experts and latent attention choose the same first tokens on every backend that runs them."""

from __future__ import annotations

import numpy as np
import pytest
from routed_models import routed_models

from membound.backends.api import Backend
from membound.backends.numba.cpu import NumbaCpu
from membound.backends.onnx_runtime.backend import OnnxRuntime
from membound.backends.pytorch.backend import PyTorch
from membound.bench.measure.check import check_output, first_tokens
from membound.kernels.reference import compute
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = [pytest.mark.usefixtures("routed_models"), pytest.mark.slow]
__all__ = ["routed_models"]
BACKENDS: tuple[type[Backend], ...] = (NumbaCpu, PyTorch, OnnxRuntime)


@pytest.mark.parametrize("name", ["tiny-qwen", "tiny-gpt-oss", "tiny-deepseek"])
def test_first_tokens_are_equal(name: str) -> None:
    work = parse(f"step:model={name},batch=4,context=13,weight=int8,kv=f32,cache=prompt")
    inputs = make_inputs(work, seed=7)
    wanted = [int(token) for token in compute(inputs, 0).argmax(-1)]
    for make in BACKENDS:
        backend = make()
        backend.open("cpu", 2)
        assert backend.supports(work) is None
        backend.prepare(work, inputs)
        backend.launch(0)
        output = backend.output()
        _, tokens = check_output(output, inputs, 0)
        assert tokens == wanted, make.__name__
        assert isinstance(output, np.ndarray)
        assert first_tokens(output) == wanted
        assert backend.settings()["experts_read"] == work.distinct
        backend.close()
