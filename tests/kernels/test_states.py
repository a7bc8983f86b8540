"""States that do not grow: token by token as all at once, what a step reads and writes of them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hybrid_models import DELTA, hybrid_models

from membound.kernels.inputs import ModelInputs
from membound.kernels.mixers import GatedDelta, Mamba2, state_bytes
from membound.kernels.prompt import held_caches, scores
from membound.kernels.recurrence import mix
from membound.kernels.reference import compute, relative_error
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.formats import KVCache
from membound.kernels.weights.states import State, empty_state, random_state
from membound.kernels.work import parse

pytestmark = pytest.mark.usefixtures("hybrid_models")
__all__ = ["hybrid_models"]
MAMBA = Mamba2(heads=6, head_dim=10, state_dim=14, groups=3, kernel=4, bias=True, least_step=0.3)


@pytest.mark.parametrize("mixer", [DELTA, MAMBA], ids=["delta", "mamba"])
def test_a_token_behind_others_is_the_last_of_all(mixer: GatedDelta | Mamba2) -> None:
    rng, hidden, tokens = np.random.default_rng(3), 32, 7
    vectors = {name: rng.standard_normal(width) / 2 for name, width in mixer.vector_widths(hidden).items()}
    matrices = {name: rng.standard_normal(shape) / 6 for name, shape in mixer.matrices(hidden).items()}
    x = rng.standard_normal((2, tokens, hidden))

    def run(part: np.ndarray, before: object) -> object:
        return mix(part.reshape(-1, hidden), mixer, before, lambda n, y: y @ matrices[n].T, vectors, 1e-6)

    whole, last = run(x, empty_state(mixer, 2))
    state = empty_state(mixer, 2)
    for start, end in ((0, 3), (3, 4), (4, 7)):
        y, state = run(x[:, start:end], state)
    assert relative_error(y.reshape(2, -1, hidden), whole.reshape(2, tokens, hidden)[:, 4:]) < 1e-12
    assert relative_error(state.matrices, last.matrices) < 1e-12
    assert relative_error(state.tail, last.tail) < 1e-12


def test_a_delta_by_hand() -> None:
    """One head of one column: the key has unit length, so that the state becomes what it kept, less its share of the miss."""
    mixer = GatedDelta(1, 1, 1, 1, kernel=2)
    vectors = {"conv": np.array([0, 1.0] * 3), "log_decay": np.zeros(1), "dt_bias": np.zeros(1)}
    vectors["state_norm"] = np.ones(1)
    made = {"q": 2.0, "k": 3.0, "v": 1.5, "z": 0.7, "b": 0.4, "a": -0.2}
    before = random_state(mixer, 1, stream=5)
    y, after = mix(
        np.ones((1, 1)), mixer, before, lambda n, x: x if n == "o" else np.array([[made[n]]]), vectors, 0.0
    )
    kept = before.matrices.item() * np.exp(-np.log1p(np.exp(-0.2)))
    value, share = 1.5 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(-0.4))
    assert after.matrices.item() == pytest.approx(kept + share * (value - kept), rel=1e-5)
    assert y.item() == pytest.approx(np.sign(after.matrices.item()) * 0.7 / (1 + np.exp(-0.7)))


def test_a_step_reads_and_writes_as_much_of_a_state_at_any_context() -> None:
    short, long = (parse(f"step:model=tiny-delta,batch=3,context={context}") for context in (100, 900))
    for step in (short, long):
        (state,) = (one for one in step.operations if one.name == "state")
        read, written = state_bytes(DELTA)
        assert (state.count, state.flops) == (3, 3 * DELTA.token_flops)
        assert (state.traffic.kv_read_bytes, state.traffic.kv_written_bytes) == (3 * read, 3 * written)
        (appended,) = (one for one in step.operations if one.name == "cache append")
        assert appended.count == 1
    token = 3 * 2 * 2 * 32 * 2  # three sequences, one layer with a cache
    assert long.traffic.total_bytes - short.traffic.total_bytes == 800 * token
    assert long.footprint_bytes - short.footprint_bytes == 800 * token


@pytest.mark.parametrize(
    ("name", "left"),
    [("tiny-delta", 6 * 24 * 20 + 2 * (2 * 48 + 120)), ("tiny-mamba", 6 * 20 * 24 + 3 * (120 + 96))],
)
def test_a_prompt_writes_the_states_that_it_leaves_behind(name: str, left: int) -> None:
    prompt, step = (
        [one for one in parse(f"{kind}:model={name},batch=2").operations if one.name == "state"]
        for kind in ("prefill", "step")
    )
    assert sum(one.count for one in prompt) == 3
    for state, token in zip(prompt, step, strict=True):
        assert state.traffic.total_bytes == state.traffic.kv_written_bytes == 2 * 4 * left
        assert (state.count, state.flops) == (token.count, 512 * token.flops)


def test_what_a_state_held_and_the_gate_of_attention_change_the_answer() -> None:
    inputs = make_inputs(parse("step:model=tiny-delta,context=5,weight=f32,kv=f32"), seed=2)
    again = make_inputs(parse("step:model=tiny-delta,context=5,weight=f32,kv=f32"), seed=2)
    assert np.array_equal(inputs.state(0).matrices, again.state(0).matrices)
    assert not np.array_equal(inputs.state(0).matrices, inputs.state(1).matrices)
    answer = compute(inputs, 0)
    assert np.array_equal(answer, compute(again, 0))
    emptied = make_inputs(parse("step:model=tiny-delta,context=5,weight=f32,kv=f32"), seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(emptied), "state", lambda self, index: empty_state(DELTA, 1))
        assert relative_error(compute(emptied, 0), answer) > 0.05


@pytest.mark.parametrize("name", ["tiny-delta", "tiny-mamba-moe", "tiny-granite-h"])
def test_a_step_behind_a_prompt_is_the_prompt_with_one_token_more(name: str) -> None:
    shape = f"model={name},batch=2,weight=f32,kv=f32"
    step = make_inputs(parse(f"step:{shape},context=6,cache=prompt"), seed=5)
    prompt = make_inputs(parse(f"prefill:{shape},tokens=7"), seed=5)
    assert isinstance(step, ModelInputs)
    assert isinstance(prompt, ModelInputs)
    assert step.tokens is not None
    if step.plan is None:
        assert np.array_equal(step.tokens, prompt.tokens)
    else:  # in each it is other rows whose experts are planned
        prompt = replace(prompt, tokens=step.tokens, x=step.embedded(step.tokens), source=step.source)
    assert relative_error(compute(step, 0), compute(prompt, 0)) < 1e-6
    first = scores(step, np.array([[3, 1], [4, 5]]))
    longer = np.concatenate([step.tokens, [[3], [4]]], 1)
    work = parse(f"prefill:{shape},tokens=8")
    prompt = replace(prompt, work=work, tokens=longer, x=prompt.embedded(longer))
    assert relative_error(first[:, 1], compute(prompt, 0)) < 1e-6


def test_states_behind_a_prompt_are_kept_for_other_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = parse("step:model=tiny-delta,context=6,weight=f32,kv=int8,cache=prompt")
    first = held_caches(make_inputs(work, 3, folder=tmp_path))
    monkeypatch.setattr("membound.kernels.prompt._compute", lambda inputs: pytest.fail("computed again"))
    inputs = make_inputs(work, 3, folder=tmp_path)
    again = held_caches(inputs)
    assert [type(one) for one in again] == [State, State, KVCache, State]
    for one, other in zip(first, again, strict=True):
        for name in ("k", "v_scales") if isinstance(one, KVCache) else ("tail", "matrices"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    assert inputs.state(3).matrices.dtype == np.float32
    with pytest.raises(AssertionError, match="layer 2 has no state"):
        inputs.state(2)
    with pytest.raises(AssertionError, match="layer 3 has a state"):
        inputs.cache(3)


def test_an_index_keeps_the_keys_of_a_prompt(tmp_path: Path) -> None:
    """A step behind a prompt says what the prompt with one token more says, and what is kept is read again."""
    for kv in ("f32", "int8"):
        work = parse(f"step:model=tiny-index-moe,batch=2,context=20,weight=f32,kv={kv},cache=prompt")
        inputs = make_inputs(work, 3, folder=tmp_path)
        assert isinstance(inputs, ModelInputs)
        assert inputs.tokens is not None
        whole = replace(
            inputs, work=parse(f"prefill:model=tiny-index-moe,batch=2,tokens=21,weight=f32,kv={kv}")
        )
        whole = replace(whole, x=inputs.embedded(inputs.tokens))
        expected = compute(whole, 0)
        assert relative_error(compute(inputs, 0), expected) < 1e-12
        assert relative_error(scores(inputs, np.array([[3, 7], [1, 2]]))[:, 0], expected) < 1e-12
        again = make_inputs(work, 3, folder=tmp_path)
        assert isinstance(again, ModelInputs)
        for index in (0, 1, 3):
            one, other = inputs.index_keys(index), again.index_keys(index)
            assert np.array_equal(one.k, other.k)
            assert (one.k_scales is None) == (other.k_scales is None) == (kv == "f32")
            assert one.k.shape == (2, 1, 20, 20)
        assert np.array_equal(inputs.cache(2).k, again.cache(2).k)
        with pytest.raises(AssertionError, match="layer 2 has no index of its own"):
            inputs.index_keys(2)


def test_tokens_behind_a_prompt_select_among_all() -> None:
    """Two tokens that an engine chose are scored as a prompt of all of them is."""
    inputs = make_inputs(parse("step:model=tiny-index,context=20,weight=f32,kv=f32,cache=prompt"), 5)
    assert isinstance(inputs, ModelInputs)
    assert inputs.tokens is not None
    chosen = np.array([[11, 7]])
    told = scores(inputs, chosen)
    tokens = np.concatenate([inputs.tokens, chosen[:, :1]], 1)
    whole = replace(inputs, work=parse("prefill:model=tiny-index,tokens=22,weight=f32,kv=f32"))
    assert relative_error(told[:, 1], compute(replace(whole, x=inputs.embedded(tokens)), 0)) < 1e-12
