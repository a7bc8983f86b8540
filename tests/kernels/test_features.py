"""What goes beyond Llama is named, so that a backend can refuse it before anything runs."""

from __future__ import annotations

import pytest
from beyond_llama import BEYOND

from membound.kernels import features
from membound.kernels.models import MODELS, PUBLISHED, get_model
from membound.kernels.work import Step


@pytest.mark.parametrize("name", BEYOND)
def test_each_difference_has_a_name(name: str) -> None:
    found = features.features(BEYOND[name].decoder, tokens=38)
    assert 1 <= len(found) <= 2
    assert set(found) <= features.EVERY


def test_llama_and_qwen_have_none_and_a_window_counts_where_it_hides_something() -> None:
    assert [name for name in MODELS if features.features(get_model(name).decoder, 1 << 20)] == []
    window = BEYOND["window"].decoder
    assert [features.features(window, tokens) for tokens in (9, 10)] == [(), ("sliding windows",)]


def test_what_is_missing_is_one_line() -> None:
    short, long = Step("gemma-3-1b", context=100), Step("gemma-3-1b", context=512)
    assert features.missing(long, features.EVERY) is None
    assert "sliding windows" not in (features.missing(short) or "")
    assert features.missing(long, features.EVERY - {features.WINDOWS, features.ROPES}) == (
        "gemma-3-1b asks for sliding windows, several RoPEs, which it lacks"
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_run_by_the_cpu_kernels(name: str) -> None:
    from membound.backends.numba.cpu import NumbaCpu

    assert NumbaCpu().supports(Step(name, context=9000)) is None
