"""Lengths of prompts and answers."""

from __future__ import annotations

import numpy as np
import pytest

from membound.bench.serving.lengths import parse_lengths
from membound.bench.serving.schedule import LoadError

RNG = np.random.default_rng()


def test_each_form_draws_what_it_says() -> None:
    assert {*parse_lengths("128").draw(9, RNG)} == {128}
    uniform = parse_lengths("uniform:3..5").draw(500, RNG)
    assert {*uniform.tolist()} == {3, 4, 5}
    normal = parse_lengths("normal:mean=500,sd=100").draw(4000, RNG)
    assert normal.mean() == pytest.approx(500, rel=0.03)
    assert normal.std() == pytest.approx(100, rel=0.1)
    log = parse_lengths("lognormal:median=400,sigma=0.5").draw(4000, RNG)
    assert np.median(log) == pytest.approx(400, rel=0.08)


def test_no_length_is_below_one() -> None:
    assert parse_lengths("normal:mean=2,sd=2").draw(2000, RNG).min() >= 1
    assert parse_lengths("lognormal:median=1,sigma=3").draw(2000, RNG).min() >= 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-5",
        "1.5",
        "many",
        "1e3",
        "uniform:5..3",
        "uniform:0..3",
        "normal:mean=5",
        "normal:mean=5,sd=9",
        "٣",
        "9" * 12,
    ],
)
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(LoadError, match="lengths"):
        parse_lengths(text)
