"""Steps and prompts of models with states in torch, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hybrid_models import DELTA, HYBRID, MAMBA, MAMBAS, hybrid_models

from membound.backends.pytorch.backend import PyTorch
from membound.backends.pytorch.mamba_layer import CachedMamba
from membound.backends.pytorch.state_layer import CachedDelta
from membound.backends.pytorch.state_prompt import CHUNK, PromptDelta, PromptMamba
from membound.backends.pytorch.support import unsupported
from membound.backends.pytorch.variants import Variants
from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.recurrence import mix
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.states import empty_state, random_state
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("hybrid_models")
__all__ = ["hybrid_models"]


def error_of(spec: str) -> float:
    work, backend = parse(spec), PyTorch()
    inputs = make_inputs(work, seed=4)
    backend.open("cpu", 1)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    for _ in range(2):  # the second launch is the same step: it reads the state that the first one read
        backend.launch(0)
    error = relative_error(backend.output(), compute(inputs, 0))
    backend.close()
    return error


@pytest.mark.parametrize("name", [*HYBRID, *MAMBAS])
@pytest.mark.parametrize("batch", [1, 3])
def test_float32_is_the_reference(name: str, batch: int) -> None:
    assert error_of(f"step:model={name},batch={batch},context=13,weight=f32,kv=f32") < 1e-5


@pytest.mark.parametrize("name", ["tiny-delta-moe", "tiny-mamba"])
def test_a_step_behind_a_prompt_is_the_reference(name: str) -> None:
    assert error_of(f"step:model={name},batch=2,context=13,weight=f32,kv=f32,cache=prompt") < 1e-5


@pytest.mark.parametrize("weight", ["bf16", "f16"])
def test_other_formats_keep_the_tolerance(weight: str) -> None:
    spec = f"step:model=tiny-delta,batch=2,context=13,weight={weight},kv={weight}"
    assert error_of(spec) < tolerance(parse(spec))


def test_the_state_behind_a_token_is_the_reference_and_the_one_before_stays() -> None:
    rng, hidden = np.random.default_rng(1), 96
    vectors = {
        "conv": rng.standard_normal(DELTA.channels * DELTA.kernel),
        "log_decay": rng.standard_normal(DELTA.value_heads) - 2,
        "dt_bias": rng.standard_normal(DELTA.value_heads),
        "state_norm": np.ones(DELTA.value_dim),
    }
    vectors = {name: values.astype(np.float32) for name, values in vectors.items()}
    matrices = {name: rng.standard_normal(shape) / 10 for name, shape in DELTA.matrices(hidden).items()}
    x, before = rng.standard_normal((3, hidden)), random_state(DELTA, 3, stream=9)
    _, after = mix(x, DELTA, before, lambda name, y: y @ matrices[name].T, vectors, 1e-6)
    layer = CachedDelta(DELTA, before, vectors)
    flat = np.concatenate([x @ matrices[name].T for name in ("q", "k", "v", "b", "a")], 1)
    layer(torch.from_numpy(flat.astype(np.float32)))
    assert relative_error(layer.state_after.numpy(), after.matrices) < 1e-6
    assert relative_error(layer.tail_after.numpy(), after.tail) < 1e-6
    assert np.array_equal(layer.state.numpy(), random_state(DELTA, 3, stream=9).matrices)


def test_the_state_of_mamba_behind_a_token_is_the_reference() -> None:
    rng, hidden = np.random.default_rng(2), 96
    vectors = {
        name: (rng.standard_normal(width) / 2).astype(np.float32)
        for name, width in MAMBA.vector_widths(hidden).items()
    }
    matrices = {name: rng.standard_normal(shape) / 10 for name, shape in MAMBA.matrices(hidden).items()}
    x, before = rng.standard_normal((3, hidden)), random_state(MAMBA, 3, stream=9)
    _, after = mix(x, MAMBA, before, lambda name, y: y @ matrices[name].T, vectors, 1e-6)
    layer = CachedMamba(MAMBA, before, vectors)
    flat = np.concatenate([x @ matrices[name].T for name in ("x", "b", "c", "dt")], 1)
    layer(torch.from_numpy(flat.astype(np.float32)))
    assert relative_error(layer.state_after.numpy(), after.matrices) < 1e-6
    assert relative_error(layer.tail_after.numpy(), after.tail) < 1e-6


@pytest.mark.parametrize("name", [*HYBRID, *MAMBAS])
@pytest.mark.parametrize("shape", ["batch=3,tokens=2", "batch=2,tokens=67"])
def test_a_prompt_in_float32_is_the_reference(name: str, shape: str) -> None:
    assert error_of(f"prefill:model={name},{shape},weight=f32,kv=f32") < 2e-5


@pytest.mark.parametrize(
    "shape",
    [
        "tiny-delta,batch=2,tokens=100,weight=bf16,kv=bf16",
        "tiny-mamba-moe,batch=2,tokens=21,weight=f16,kv=f16",
        "dose-mamba,tokens=9,weight=int8,kv=bf16",
    ],
)
def test_a_prompt_in_other_formats_keeps_the_tolerance(shape: str) -> None:
    assert error_of(f"prefill:model={shape}") < tolerance(parse(f"prefill:model={shape}"))


@pytest.mark.parametrize("tokens", [1, 2, CHUNK, CHUNK + 1, 3 * CHUNK - 5])
@pytest.mark.parametrize("mixer", [DELTA, MAMBA], ids=["delta", "mamba"])
def test_what_a_prompt_leaves_behind_is_the_reference(mixer: GatedDelta | Mamba2, tokens: int) -> None:
    """Chunk by chunk as token by token; decays are from next to none to nearly all."""
    rng, hidden = np.random.default_rng((tokens, 3)), 96
    widths = mixer.vector_widths(hidden)
    vectors = {name: (rng.standard_normal(n) * 1.5).astype(np.float32) for name, n in widths.items()}
    matrices = {name: rng.standard_normal(shape) / 8 for name, shape in mixer.matrices(hidden).items()}
    matrices["o"] = np.eye(matrices["o"].shape[1])
    x, empty = rng.standard_normal((3 * tokens, hidden)), empty_state(mixer, 3)
    _, after = mix(x, mixer, empty, lambda name, y: y @ matrices[name].T, vectors, 1e-6)
    delta = isinstance(mixer, GatedDelta)
    layer = (PromptDelta if delta else PromptMamba)(mixer, vectors, 3)
    into = ("q", "k", "v", "b", "a") if delta else ("x", "b", "c", "dt")
    flat = np.concatenate([x @ matrices[name].T for name in into], 1).astype(np.float32)
    answer = layer(torch.from_numpy(flat))
    assert relative_error(layer.state_after.numpy(), after.matrices) < 5e-6
    assert relative_error(layer.tail_after.numpy(), after.tail) < 1e-6
    shape = (len(x), mixer.value_heads, mixer.value_dim) if delta else (len(x), mixer.width)
    assert answer.shape == shape


def test_keys_that_are_all_alike_lose_no_digits() -> None:
    """Without decay each token corrects what all before it wrote: a system whose inverse, multiplied out, would cancel."""
    tokens = 2 * CHUNK
    vectors = {"conv": np.zeros(DELTA.channels * DELTA.kernel, np.float32).reshape(-1, DELTA.kernel)}
    vectors["conv"][:, -1] = 1
    vectors |= {"log_decay": np.full(DELTA.value_heads, -30, np.float32)}
    vectors |= {"dt_bias": np.zeros(DELTA.value_heads, np.float32), "state_norm": np.ones(DELTA.value_dim)}
    vectors["conv"] = vectors["conv"].ravel()
    rng = np.random.default_rng(7)
    made = {
        name: rng.standard_normal((tokens, n))
        for name, (n, _) in DELTA.matrices(96).items()
        if name not in "ok"
    }
    made["k"] = np.tile(rng.standard_normal(DELTA.key_heads * DELTA.key_dim), (tokens, 1))
    made["b"] = np.full((tokens, DELTA.value_heads), 8.0)  # nearly all of a miss is corrected
    x = np.zeros((tokens, 96))
    _, after = mix(
        x, DELTA, empty_state(DELTA, 1), lambda name, y: y if name == "o" else made[name], vectors, 1e-6
    )
    layer = PromptDelta(DELTA, vectors, 1)
    flat = np.concatenate([made[name] for name in ("q", "k", "v", "b", "a")], 1).astype(np.float32)
    layer(torch.from_numpy(flat))
    assert relative_error(layer.state_after.numpy(), after.matrices) < 1e-5


def test_a_prompt_with_states_is_not_compiled() -> None:
    """Its graph would grow with its chunks, hundreds of them in a long prompt."""
    for name, reason in (
        (
            "tiny-delta",
            "prompts with states run chunk by chunk as they are, without torch.compile and graphs",
        ),
        ("tiny", None),
    ):
        work = parse(f"prefill:model={name},tokens=8")
        assert unsupported(work, Variants(compiled=True), "cpu") == reason
