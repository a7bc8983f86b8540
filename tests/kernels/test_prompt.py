"""A step behind a prompt is the end of that prompt; scores follow an engine's choices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from membound.kernels import reference
from membound.kernels.inputs import ModelInputs
from membound.kernels.prompt import held_caches, scores
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.generate import prompt_tokens
from membound.kernels.work import parse


def inputs_of(spec, seed=1, folder=None):
    made = make_inputs(parse(spec), seed, folder=folder)
    assert isinstance(made, ModelInputs)
    return made


def fresh_seed():
    return int(np.random.default_rng().integers(1 << 31))


@pytest.mark.parametrize(
    ("weight", "kv", "batch", "context"), [("f32", "f32", 1, 1), ("bf16", "bf16", 3, 17)]
)
def test_a_step_behind_a_prompt_is_the_prompt_with_one_token_more(weight, kv, batch, context):
    seed = fresh_seed()
    step = inputs_of(
        f"step:model=tiny,batch={batch},context={context},weight={weight},kv={kv},cache=prompt", seed
    )
    prompt = inputs_of(f"prefill:model=tiny,batch={batch},tokens={context + 1},weight={weight},kv={kv}", seed)
    expected = reference.compute(prompt, 0)
    np.testing.assert_allclose(reference.compute(step, 0), expected, rtol=0, atol=1e-12)
    assert np.array_equal(step.tokens, prompt.tokens)
    assert step.cache(1).k.shape == (batch, 2, context, 32)


def test_scores_begin_with_the_work_itself_and_follow_every_choice():
    step = inputs_of("step:model=tiny,batch=2,context=9,weight=f32,kv=f32,cache=prompt", fresh_seed())
    chosen = np.random.default_rng().integers(0, 1000, (2, 4))
    found = scores(step, chosen)
    assert found.shape == (2, 4, 1000)
    np.testing.assert_allclose(found[:, 0], reference.compute(step, 0), rtol=0, atol=1e-12)
    # the third choice was made behind the prompt, its last token and two choices: a longer prompt
    longer = inputs_of("prefill:model=tiny,batch=2,tokens=12,weight=f32,kv=f32", step.seed)
    tokens = np.concatenate([step.tokens, chosen[:, :2]], axis=1)
    longer = replace(longer, tokens=tokens, x=longer.source.embedding(tokens.reshape(-1)))
    np.testing.assert_allclose(found[:, 2], reference.compute(longer, 0), rtol=0, atol=1e-12)


def test_a_prompt_ends_with_one_choice():
    prompt = inputs_of("prefill:model=tiny,batch=2,tokens=5,weight=f32,kv=f32")
    expected = reference.compute(prompt, 0)
    assert np.array_equal(scores(prompt, np.array([[1], [2]])), expected[:, None])
    with pytest.raises(ValueError, match="one token a sequence, not 2"):
        scores(prompt, np.array([[1, 2], [3, 4]]))


@pytest.mark.parametrize("kv", ["f32", "bf16", "int8"])
def test_a_prompts_cache_is_kept_for_other_workers(tmp_path, monkeypatch, kv):
    spec = f"step:model=tiny,context=6,weight=f32,kv={kv},cache=prompt"
    first = held_caches(inputs_of(spec, 3, tmp_path))
    (kept,) = tmp_path.iterdir()
    monkeypatch.setattr("membound.kernels.prompt._compute", lambda inputs: pytest.fail("computed again"))
    again = held_caches(inputs_of(spec, 3, tmp_path))
    assert len(again) == len(first) == 2
    for one, other in zip(first, again, strict=True):
        assert one.format == other.format == kv
        for name in ("k", "v", "k_scales", "v_scales"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None and b is None) or np.array_equal(a, b)
    monkeypatch.undo()
    kept.write_bytes(kept.read_bytes()[:-40])  # as a power failure leaves it
    assert np.array_equal(held_caches(inputs_of(spec, 3, tmp_path))[1].k, first[1].k)
    assert len(list(tmp_path.iterdir())) == 1


def test_another_seed_or_length_has_another_cache(tmp_path):
    spec = "step:model=tiny,context=6,weight=f32,kv=f32,cache=prompt"
    caches = [
        held_caches(inputs_of(s, seed, tmp_path))[0].k
        for s, seed in ((spec, 3), (spec, 4), (spec.replace("=6", "=7"), 3))
    ]
    assert len(list(tmp_path.iterdir())) == 3
    assert not np.array_equal(caches[0], caches[1])
    assert caches[2].shape[2] == 7


def test_prompt_tokens_are_seeded_and_within_the_vocabulary():
    tokens = prompt_tokens(5, 3, 400, 7)
    assert tokens.shape == (3, 400)
    assert set(np.unique(tokens)) == set(range(7))
    assert np.array_equal(tokens, prompt_tokens(5, 3, 400, 7))
    assert not np.array_equal(tokens, prompt_tokens(6, 3, 400, 7))
