"""What goes on after a turn: found where it is, and hardly ever where it is not."""

import numpy as np
import pytest

from membound.results.aftermath import FEWEST_TURNS, ceiling_fall
from membound.results.turns import StoredTurn


def turns(count, fall, seed, noise=0.15, **more):
    """Ceilings that move by `noise`, after each turn lower by `fall`."""
    rng = np.random.default_rng(seed)
    sides = 2e10 * np.exp(noise * rng.standard_normal((count, 2))) * (1.0, 1 - fall)
    return [
        StoredTurn(
            i, float(i), 1e-3, 1, before={"read": a}, after={"read": b}, **({"disturbance": 0.0} | more)
        )
        for i, (a, b) in enumerate(sides.tolist())
    ]


def test_a_fall_is_found_and_its_size_told():
    found = [ceiling_fall(turns(24, 0.3, seed), "read") for seed in range(200)]
    assert sum(one is not None for one in found) >= 195
    assert np.median([one for one in found if one]) == pytest.approx(0.3, abs=0.02)


def test_chance_is_hardly_ever_taken_for_one():
    assert sum(ceiling_fall(turns(24, 0.0, seed), "read") is not None for seed in range(2000)) <= 8


def test_a_fall_within_what_a_ceiling_is_known_to_is_none():
    assert ceiling_fall(turns(400, 0.03, 1, noise=0.01), "read") is None
    assert ceiling_fall(turns(400, -0.3, 1), "read") is None


def test_few_or_disturbed_turns_or_another_ceiling_tell_nothing():
    assert ceiling_fall(turns(FEWEST_TURNS - 1, 0.5, 1, noise=0.01), "read") is None
    assert ceiling_fall(turns(FEWEST_TURNS, 0.5, 1, noise=0.01), "read") == pytest.approx(0.5, abs=0.02)
    assert ceiling_fall(turns(50, 0.5, 1, disturbance=0.5), "read") is None
    assert ceiling_fall(turns(50, 0.5, 1), "h2d") is None
    assert ceiling_fall([StoredTurn(0, 0.0, 1e-3, 1)] * 50, "read") is None
