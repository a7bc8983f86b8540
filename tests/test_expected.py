"""What counts as right: logits by their error, tokens by how far they are from the best."""

from __future__ import annotations

from math import inf, log

import numpy as np
import pytest

from membound.backends.api import Tokens
from membound.bench.measure.check import LOGIT_SPREAD, error_of, first_tokens, token_error
from membound.kernels import reference
from membound.kernels.prompt import scores
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

STEP = "step:model=tiny,batch=2,context=24,weight=bf16,kv=bf16,cache=prompt"


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def greedy(inputs, count):
    """What an exact engine chooses, and the logarithms of its probabilities."""
    chosen = np.zeros((2, 0), np.int64)
    for _ in range(count):
        logits = scores(inputs, np.concatenate([chosen, np.zeros((2, 1), np.int64)], 1))
        chosen = np.concatenate([chosen, logits[:, -1:].argmax(-1)], 1)
    return chosen, np.take_along_axis(log_softmax(scores(inputs, chosen)), chosen[..., None], -1)[..., 0]


def test_the_error_of_tokens_is_what_their_logits_miss():
    logits = np.log(np.array([[[4.0, 2.0, 1.0, 1.0]]]))
    rms = float(np.sqrt(np.mean(logits**2)))
    assert token_error(Tokens(np.array([[0]])), logits) == 0
    assert token_error(Tokens(np.array([[1]])), logits) == pytest.approx(log(2) / rms / LOGIT_SPREAD)
    right = Tokens(np.array([[0]]), np.array([[log(0.5)]]))
    assert token_error(right, logits) == pytest.approx(0, abs=1e-12)
    off = Tokens(np.array([[0]]), np.array([[log(0.5) - 0.3]]))
    assert token_error(off, logits) == pytest.approx(0.3 / rms / LOGIT_SPREAD)
    for missing in (np.nan, -np.inf):
        assert token_error(Tokens(np.array([[0]]), np.array([[missing]])), logits) == inf


def test_an_exact_engine_is_right_and_each_mistake_of_another_shows():
    inputs = make_inputs(parse(STEP), int(np.random.default_rng().integers(1 << 31)))
    expected = reference.compute(inputs, 0)
    limit = reference.tolerance(inputs.work)
    chosen, logprobs = greedy(inputs, 5)
    assert np.array_equal(chosen[:, 0], expected.argmax(-1))
    assert error_of(Tokens(chosen, logprobs), inputs, expected) < 1e-9
    assert error_of(Tokens(chosen[:, :1], logprobs[:, :1]), inputs, expected) < 1e-9
    swapped = Tokens(chosen[::-1].copy(), logprobs[::-1].copy())  # the sequences in the wrong order
    assert error_of(swapped, inputs, expected) > limit
    late = Tokens(chosen[:, 1:], logprobs[:, 1:])  # the first token dropped
    assert error_of(late, inputs, expected) > limit
    other = chosen.copy()
    other[1, -1] = (other[1, -1] + 1) % 1000
    assert error_of(Tokens(other), inputs, expected) > limit
    assert error_of(Tokens(np.full((2, 1), 1000)), inputs, expected) == inf


def test_logits_are_held_against_the_reference_as_ever():
    inputs = make_inputs(parse(STEP), 1)
    expected = reference.compute(inputs, 0)
    assert error_of(expected.astype(np.float32), inputs, expected) < 1e-6
    assert error_of((1.5 * expected).astype(np.float32), inputs, expected) == pytest.approx(0.5)


def test_the_first_tokens_are_the_same_from_logits_and_from_tokens():
    logits = np.zeros((10, 30), np.float32)
    logits[np.arange(10), 3 * np.arange(10)] = 1
    assert first_tokens(logits) == [0, 3, 6, 9, 12, 15, 18, 21]
    assert first_tokens(Tokens(3 * np.arange(10)[:, None])) == [0, 3, 6, 9, 12, 15, 18, 21]
