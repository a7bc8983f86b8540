"""Shares of the ceilings, by numbers that can be done by hand: each turn against its own moment, medians over turns."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from rows import LINEAR, case

from membound.results.roofline import Limits
from membound.results.row import Row
from membound.results.shares import middle, shares_of
from membound.results.turns import StoredTurn

NO_LIMITS = Limits(None, None, None)
INT8 = "linear:n=4096,k=4096,m=1,weight=int8,act=int8"


def turn(time_s: float, before: dict[str, float], after: dict[str, float], **values: Any) -> StoredTurn:
    base: dict[str, Any] = {"round": 0, "at_s": 0.0, "launches": 1, "disturbance": 0.0}
    return StoredTurn(time_s=time_s, before=before, after=after, **(base | values))


def row(*turns: StoredTurn, **values: Any) -> Row:
    """100 MB and 1 GFLOP a launch."""
    return case(samples=(), turns=list(turns), **values)


def test_a_turn_is_held_against_the_ceilings_of_its_moment() -> None:
    """100 MB at 20 to 30 GB/s, a quarter of the way: 22.5 GB/s. Of 10 ms, 1 GFLOP at 1 TFLOP/s takes one."""
    one = turn(1e-2, {"read": 20e9, "tile_bf16": 1e12}, {"read": 30e9, "tile_bf16": 1e12}, between=0.25)
    found = shares_of(row(one), NO_LIMITS)
    assert found.mbu == pytest.approx(100e6 / 22.5e9 / 1e-2)
    assert found.mfu == pytest.approx(0.1)
    assert found.of_bound == found.mbu
    assert found.device_of_bound is None
    assert (found.read_bytes_per_s, found.compute_flops_per_s) == (pytest.approx(22.5e9), pytest.approx(1e12))
    assert (found.read_lowest_bytes_per_s, found.read_highest_bytes_per_s) == (20e9, 30e9)


def test_the_bound_is_the_longer_of_both_terms_turn_by_turn() -> None:
    """Bytes bind in two turns and FLOPs in the third: the share of the bound is none of the two."""
    reads = [10e9, 10e9, 100e9]
    turns = [turn(2e-2, {"read": r, "fma_f32": 1e11}, {"read": r, "fma_f32": 1e11}) for r in reads]
    turns.append(turn(2e-2, {"read": 100e9, "fma_f32": 5e10}, {"read": 100e9, "fma_f32": 5e10}))
    found = shares_of(row(*turns), NO_LIMITS)
    assert found.mbu == pytest.approx(np.median([0.5, 0.5, 0.05, 0.05]))
    assert found.mfu == pytest.approx(np.median([0.5, 0.5, 0.5, 1.0]))
    assert found.of_bound == pytest.approx(np.median([0.5, 0.5, 0.5, 1.0]))


def test_the_best_peak_of_the_arithmetic_counts_and_no_other() -> None:
    peaks = {"read": 1e10, "fma_f32": 1e11, "dot_bf16": 3e11, "tile_bf16": 2e11, "tile_int8": 9e12}
    one = turn(1e-2, peaks, peaks)
    assert shares_of(row(one, work=LINEAR), NO_LIMITS).compute_flops_per_s == pytest.approx(3e11)
    assert shares_of(row(one, work=INT8), NO_LIMITS).compute_flops_per_s == pytest.approx(9e12)


def test_a_peak_that_took_no_turns_is_that_of_the_run() -> None:
    """A GEMM of other minutes is faster than the multiply-adds of the moment; it never replaces the read ceiling."""
    one = turn(1e-2, {"read": 1e10, "fma_f32": 1e11}, {"read": 1e10, "fma_f32": 1e11})
    limits = Limits(99e9, 8e11, None, compute_by_name={"gemm_bf16": 8e11, "fma_f32": 9e11})
    found = shares_of(row(one), limits)
    assert found.compute_flops_per_s == pytest.approx(8e11), (
        "of the moment where it played, of the run where not"
    )
    assert found.read_bytes_per_s == pytest.approx(1e10)
    silent = shares_of(row(turn(1e-2, {}, {})), limits)
    assert silent.read_bytes_per_s is None
    assert silent.mbu is None
    assert silent.mfu == pytest.approx(1e9 / 9e11 / 1e-2)
    assert silent.of_bound == silent.mfu


def test_without_any_ceiling_nothing_is_said() -> None:
    found = shares_of(row(turn(1e-2, {}, {})), NO_LIMITS)
    assert {getattr(found, name) for name in found.__slots__} == {None}


def test_a_link_is_the_ceiling_of_what_streams_over_it() -> None:
    rates = {"read": 3e12, "host_to_device_pinned": 50e9}
    one = turn(4e-3, rates, rates)
    found = shares_of(row(one, memory_ceiling="host_to_device_pinned"), NO_LIMITS)
    assert found.read_bytes_per_s == pytest.approx(50e9)
    assert found.mbu == pytest.approx(0.5)
    assert found.read_highest_bytes_per_s == 50e9


def test_the_devices_own_clock_has_a_share_of_its_own() -> None:
    rates = {"read": 10e9}
    turns = [turn(2e-2, rates, rates, device_s=1.25e-2), turn(2e-2, rates, rates)]
    found = shares_of(row(*turns), NO_LIMITS)
    assert found.of_bound == pytest.approx(0.5)
    assert found.device_of_bound == pytest.approx(0.8)


def test_disturbed_turns_do_not_count_but_their_ceilings_were_seen() -> None:
    clean = [turn(1e-2, {"read": 20e9}, {"read": 20e9}) for _ in range(3)]
    dirty = turn(5e-2, {"read": 5e9}, {"read": 40e9}, disturbance=0.9)
    found = shares_of(row(*clean, dirty, dirty), NO_LIMITS)
    assert found.mbu == pytest.approx(0.5)
    assert (found.read_lowest_bytes_per_s, found.read_highest_bytes_per_s) == (5e9, 40e9)


def test_memory_that_doubles_between_turns_leaves_the_share_as_it_is() -> None:
    """A share of 0.8 is drawn with 1 % of noise while the bandwidth jumps; medians of raw times jump with it."""
    rng = np.random.default_rng()

    def played(rates: np.ndarray) -> Row:
        noise = rng.normal(0, 0.01, len(rates))
        times = 100e6 / (0.8 * rates * (1 + noise))
        return row(
            *(turn(float(t), {"read": r}, {"read": r}) for t, r in zip(times, rates.tolist(), strict=True))
        )

    slow, half = np.full(30, 40e9), np.where(np.arange(30) % 3, 80e9, 40e9)
    quiet, moving = played(slow), played(half)
    assert np.median(quiet.times_s) / np.median(moving.times_s) == pytest.approx(2, rel=0.05)
    assert shares_of(quiet, NO_LIMITS).mbu == pytest.approx(0.8, rel=0.01)
    assert shares_of(moving, NO_LIMITS).mbu == pytest.approx(0.8, rel=0.01)
    assert shares_of(moving, NO_LIMITS).read_lowest_bytes_per_s == 40e9


def test_memory_that_drifts_is_interpolated() -> None:
    """The ceiling falls from 40 to 20 GB/s over a hundred turns, each of which sees it only before and after."""
    moments = np.linspace(40e9, 20e9, 101)
    turns = []
    for before, after in pairwise(moments):
        between = float(np.random.default_rng().random())
        true = before + (after - before) * between
        turns.append(
            turn(
                float(100e6 / (0.6 * true)), {"read": float(before)}, {"read": float(after)}, between=between
            )
        )
    assert shares_of(row(*turns), NO_LIMITS).mbu == pytest.approx(0.6)


# Rows without turns


def test_rows_of_older_versions_are_held_against_the_ceilings_of_their_run() -> None:
    old = case(samples=[0.02, 0.01, 0.04], device_samples_s=[0.016])
    found = shares_of(old, Limits(10e9, 1e12, 1e-6, 8e9, {"fma_f32": 1e12}))
    assert (found.mbu, found.mfu, found.of_bound) == (
        pytest.approx(0.5),
        pytest.approx(0.05),
        pytest.approx(0.5),
    )
    assert found.device_of_bound == pytest.approx(0.01 / 0.016)
    assert (found.read_bytes_per_s, found.read_lowest_bytes_per_s, found.read_highest_bytes_per_s) == (
        10e9,
        8e9,
        10e9,
    )
    assert found.compute_flops_per_s == 1e12


@pytest.mark.parametrize(("read", "peak"), [(None, 1e12), (10e9, None), (None, None)])
def test_a_ceiling_that_is_missing_has_no_share(read: float | None, peak: float | None) -> None:
    found = shares_of(case(samples=[0.02]), Limits(read, peak, None))
    assert (found.mbu is None, found.mfu is None) == (read is None, peak is None)
    assert found.of_bound == (found.mbu or found.mfu)


def test_a_work_without_flops_has_no_share_of_them() -> None:
    one = turn(1e-2, {"read": 1e10, "fma_f32": 1e11}, {"read": 1e10, "fma_f32": 1e11})
    assert shares_of(replace(row(one), flops=0), NO_LIMITS).mfu == 0


def test_the_middle_of_what_is_there() -> None:
    assert middle([3.0, None, 1.0, None, 2.0]) == 2.0
    assert middle([1.0, 2.0]) == 1.5
    assert middle([None]) is None
    assert middle([]) is None
