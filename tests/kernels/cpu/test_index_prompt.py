"""Prompts of models whose attention sees selected tokens by the CPU kernels, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from hybrid_models import INDEXED, hybrid_models

from membound.backends.numba.cpu import NumbaCpu
from membound.kernels.cpu.compile import set_threads
from membound.kernels.cpu.step import packed_routed_prompt
from membound.kernels.cpu.step.packed_routed_prompt import PackedRoutedPrompt
from membound.kernels.inputs import ModelInputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

pytestmark = [pytest.mark.usefixtures("hybrid_models"), pytest.mark.slow]  # compile whole prompts
__all__ = ["hybrid_models"]


def run(spec: str, seed: int, threads: int = 2) -> tuple[float, ModelInputs, PackedRoutedPrompt]:
    set_threads(2)
    work = parse(spec)
    assert NumbaCpu().supports(work) is None
    inputs = make_inputs(work, seed)
    assert isinstance(inputs, ModelInputs)
    packed = PackedRoutedPrompt(inputs, threads)
    for _ in range(2):
        packed.run()
    return relative_error(packed.logits, compute(inputs, 0)), inputs, packed


def fresh() -> int:
    return int(np.random.default_rng().integers(1 << 31))


@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize(
    ("batch", "tokens", "most", "threads"),
    [(1, 40, 16, 2), (3, 23, 16, 3), (2, 10, 16, 1), (1, 9, 16, 2), (2, 70, 64, 2)],
)
def test_float32_is_the_reference(
    name: str, batch: int, tokens: int, most: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index selects 9, in the midst of a chunk: prompts are of several chunks, of one token more, and of no more tokens."""
    monkeypatch.setattr(packed_routed_prompt, "MOST_ROWS", most)
    seed = fresh()
    spec = f"prefill:model={name},batch={batch},tokens={tokens},weight=f32,kv=f32"
    error, inputs, packed = run(spec, seed, threads)
    assert error < 1e-5, seed
    first = (tokens - 1) // most * most
    for index in (0, 1, 3):
        found = packed.selection[index].reshape(-1, min(9, -(-tokens // most) * most))
        seen = inputs.seen(index)[-1]
        for place in range(max(first, 9), tokens):  # the last chunk of the last sequence
            own = np.flatnonzero(seen[place])
            assert np.array_equal(found[place - first], own), (seed, index, place)
    assert (packed.selection[2] == -1).all()


@pytest.mark.parametrize("formats", ["weight=bf16,kv=bf16", "weight=int8,act=int8,kv=int8"])
def test_other_formats_keep_the_tolerance(formats: str) -> None:
    """What is read is what the reference selects, whatever rounding makes of nearly equal scores."""
    spec, seed = f"prefill:model=dose-index,tokens=1100,{formats}", fresh()
    error, _, packed = run(spec, seed)
    assert error < tolerance(parse(spec)), seed
    assert packed.selection.min() >= 0
