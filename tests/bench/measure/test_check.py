"""What counts as right: numbers by their error, tokens by how far they are from the best; whatever else is wrong."""

from __future__ import annotations

import stat
from functools import cache
from math import inf, log
from pathlib import Path

import numpy as np
import pytest

from membound.backends.api import Tokens
from membound.bench.measure.check import (
    LOGIT_SPREAD,
    cached_reference,
    check_output,
    error_of,
    first_tokens,
    token_error,
)
from membound.bench.measure.failures import WrongAnswerError
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


# Any output

ODD = parse("linear:n=37,k=53,m=3,weight=int8")
FAR = float(reference.tolerance(ODD))
SEED = int(np.random.default_rng().integers(1 << 31))


@cache
def odd_inputs():
    return make_inputs(ODD, SEED, slots=3)


@cache
def right():
    """What their second set gives; made by the first test that asks, as it needs compiled kernels."""
    return reference.compute(odd_inputs(), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_right_numbers_are_right_in_any_layout(dtype, order):
    error, tokens = check_output(right().astype(dtype, order=order), odd_inputs(), 1)
    assert 0 <= error < 1e-6
    assert tokens == []


def test_the_error_is_that_of_the_input_set_that_was_launched():
    assert check_output(right().astype(np.float32), odd_inputs(), 1)[0] < 1e-6
    with pytest.raises(WrongAnswerError, match="on input set 2 exceeds"):
        check_output(right().astype(np.float32), odd_inputs(), 2)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_an_error_within_the_tolerance_is_told(share):
    assert check_output(right() * (1 + share * FAR), odd_inputs(), 1)[0] == pytest.approx(share * FAR)


@pytest.mark.parametrize("share", [1.01, 3.0, 1e6])
def test_an_error_beyond_it_is_wrong_by_that_much(share):
    with pytest.raises(WrongAnswerError, match=f"exceeds {FAR:.2g}") as raised:
        check_output(right() * (1 + share * FAR), odd_inputs(), 1)
    assert raised.value.error == pytest.approx(share * FAR)


def test_one_wrong_value_of_many_is_wrong():
    y = right().astype(np.float32)
    y.flat[int(np.random.default_rng().integers(y.size))] += np.float32(1000)
    with pytest.raises(WrongAnswerError, match="exceeds"):
        check_output(y, odd_inputs(), 1)


def test_whatever_lay_in_memory_is_wrong_and_its_error_can_be_told():
    """Finite, and so far off that no row could hold the error."""
    y = np.full(right().shape, 3e38, np.float32)
    with pytest.raises(WrongAnswerError, match=r"error \d\.?\d*e\+3[5-9] on input set 1") as raised:
        check_output(y, odd_inputs(), 1)
    assert raised.value.error is None


def changed(value):
    y = right().astype(np.float32)
    y.flat[-1] = value
    return y


def hidden(y):
    return np.ma.masked_array(changed(1e9), mask=y.flat[-1] == y)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (lambda y: y.astype(np.complex64) + 1j, "an array of complex64"),
        (lambda y: y > 0, "an array of bool"),
        (lambda y: y.astype(object), "an array of object"),
        (lambda y: y.astype(str), "an array of <U"),
        (hidden, "a masked array of float32"),
        (lambda y: float(y.flat[0]), "of type float"),
        (lambda y: None, "of type NoneType"),
        (lambda y: y.tolist(), "of type list"),
        (lambda y: "right", "of type str"),
        (lambda y: memoryview(y.astype(np.float32)), "of type memoryview"),
        (lambda y: Tokens(np.zeros((3, 1), np.int64)), "of type Tokens"),
        (lambda y: np.float32(1.0), "of type float32"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) > 9 else "",
)
def test_what_is_no_array_of_numbers_is_wrong(output, says):
    told = output(right())
    with pytest.raises(WrongAnswerError, match=f"^output is {says}.*, not an array of float32$") as raised:
        check_output(told, odd_inputs(), 1)
    assert raised.value.error is None


@pytest.mark.parametrize(
    "output",
    [
        lambda y: y[:-1],
        lambda y: y.T,
        lambda y: y[None],
        lambda y: y.ravel(),
        lambda y: np.array(y.flat[0], np.float32),
        lambda y: np.zeros((0, 37), np.float32),
        lambda y: np.zeros((3, 0), np.float32),
    ],
    ids=["(2, 37)", "(37, 3)", "(1, 3, 37)", "(111,)", "()", "(0, 37)", "(3, 0)"],
)
def test_another_shape_is_wrong_though_it_could_be_broadcast(output):
    told = output(right().astype(np.float32))
    with pytest.raises(WrongAnswerError, match=r"output has shape \(.*\), the reference \(3, 37\)") as raised:
        check_output(told, odd_inputs(), 1)
    assert raised.value.error is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_wrong(value):
    with pytest.raises(WrongAnswerError, match="on input set 1 holds values that are not finite") as raised:
        check_output(changed(value), odd_inputs(), 1)
    assert raised.value.error is None


SHORT = parse("step:model=tiny,batch=2,context=4,layers=1,weight=f32,kv=f32,cache=prompt")
CHOSEN = np.array([[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (Tokens(None), "output is tokens that are of type NoneType"),
        (Tokens([[1], [2]]), "output is tokens that are of type list"),
        (Tokens(CHOSEN.astype(np.float64)), "output is tokens that are an array of float64"),
        (Tokens(CHOSEN[0]), r"output is tokens that are an array of int64, shape \(2,\)"),
        (Tokens(CHOSEN, CHOSEN), "output is tokens with probabilities that are an array of int64"),
        (Tokens(CHOSEN, np.zeros((2, 1))), r"probabilities that are an array of float64, shape \(2, 1\)"),
        (Tokens(CHOSEN, np.ma.zeros((2, 2))), "probabilities that are a masked array"),
        (Tokens(CHOSEN[:1]), r"output has shape \(1, 2\), the reference \(2, 2\)"),
        (Tokens(CHOSEN[:, :0]), r"output has shape \(2, 0\)"),
        (Tokens(-CHOSEN), "not finite"),
    ],
)
def test_tokens_that_cannot_be_are_wrong(tokens, says):
    with pytest.raises(WrongAnswerError, match=says):
        check_output(tokens, make_inputs(SHORT, 3), 0)


# The reference that workers share


def test_references_are_computed_once_for_all_workers(tmp_path, monkeypatch):
    folder = tmp_path / "made" / "here"
    assert np.array_equal(cached_reference(odd_inputs(), 1, folder), right())
    monkeypatch.setattr(reference, "compute", lambda *_: pytest.fail("computed again"))
    assert np.array_equal(cached_reference(odd_inputs(), 1, folder), right())
    assert [path.suffix for path in folder.iterdir()] == [".reference"]
    monkeypatch.undo()
    for other, slot in ((make_inputs(ODD, odd_inputs().seed + 1, slots=2), 1), (odd_inputs(), 0)):
        assert not np.array_equal(cached_reference(other, slot, folder), right())
    assert len(list(folder.iterdir())) == 3


def test_an_output_is_held_against_the_shared_reference(tmp_path, monkeypatch):
    check_output(right(), odd_inputs(), 1, tmp_path)
    monkeypatch.setattr(reference, "compute", lambda *_: pytest.fail("computed again"))
    assert check_output(right(), odd_inputs(), 1, tmp_path)[0] == 0


def damages(content):
    rng = np.random.default_rng()
    flipped = bytearray(content)
    flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
    yield from (b"", content[:1], content[:32], content[:40], content[:-1], bytes(len(content)))
    yield from (bytes(flipped), content + b"more", content[32:], b"\x93NUMPY" + content)


def test_a_damaged_reference_is_computed_again(tmp_path):
    cached_reference(odd_inputs(), 1, tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for damaged in damages(content):
        path.write_bytes(damaged)
        assert np.array_equal(cached_reference(odd_inputs(), 1, tmp_path), right())
        assert path.read_bytes() == content
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_reference_that_cannot_be_kept_is_a_reference(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    assert np.array_equal(cached_reference(odd_inputs(), 1, tmp_path / "file" / "below"), right())

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert np.array_equal(cached_reference(odd_inputs(), 1, tmp_path / "disk"), right())
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_reference_in_the_way_of_which_something_lies_is_a_reference(tmp_path):
    cached_reference(odd_inputs(), 1, tmp_path)
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.mkdir()
    assert np.array_equal(cached_reference(odd_inputs(), 1, tmp_path), right())
    assert stat.S_ISDIR(path.stat().st_mode)
    assert len(list(tmp_path.iterdir())) == 1


def test_one_output_near_zero_may_miss_by_what_its_terms_do() -> None:
    """Activations quantised with a zero point, as ONNX Runtime does: a right answer, 23 % off an output that is 3 % of
    what outputs of these inputs typically are."""
    inputs = make_inputs(parse("linear:n=1,k=7,weight=int8,act=int8"), 1)
    expected = reference.compute(inputs, 0)
    typical = reference.typical_size(inputs, 0)
    assert abs(expected.item()) < 0.05 * typical
    rounded = np.array([[-0.03442306]], np.float32)
    assert reference.relative_error(rounded, expected) > 0.2
    assert check_output(rounded, inputs, 0)[0] == pytest.approx(abs(rounded - expected).item() / typical)
    with pytest.raises(WrongAnswerError, match="exceeds"):
        check_output(expected + 0.04 * typical, inputs, 0)


def test_many_outputs_are_judged_by_their_own_size() -> None:
    inputs = make_inputs(parse("linear:n=64,k=7,weight=f32"), 1)
    expected = reference.compute(inputs, 0)
    off = expected * (1 + 5e-5)
    assert check_output(off, inputs, 0)[0] == pytest.approx(5e-5)
