"""Points of load on the roofline: batches, bytes, shares, parts of a token's time, the frontier and its bend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from load_points import STEP, WORK, request, row

from membound.results.row import Row, RowError
from membound.results.serving.decode import decoding_of
from membound.results.serving.roofline import frontier, knee_of, roofline_of
from membound.results.serving.table import COLUMNS, point_records
from membound.results.serving.window import Window
from membound.results.views.serving import knee_lines, roofline_lines


def test_a_batch_is_what_a_token_finds() -> None:
    """Two sequences together for 1 s and one alone for 1 s: of three sequence-seconds two are in twos."""
    both = [request(1.0, 0.2), request(1.0, 0.1)]
    found = decoding_of(both, Window(0.0, 10.0))
    assert found is not None
    assert found.batch == pytest.approx((2 * 2 * 1 + 1) / 3)
    assert found.context == pytest.approx(94 + 6)
    assert found.itl_s == pytest.approx(3.0 / 20)
    assert found.tokens == 20


def test_what_decodes_outside_the_window_is_cut_off() -> None:
    found = decoding_of([request(1.0, 0.2), request(2.5, 0.2)], Window(0.0, 2.5))
    assert found is not None
    assert found.batch == pytest.approx(1.0)


def test_lengths_that_are_not_told_and_answers_of_one_token() -> None:
    found = decoding_of([request(1.0, 0.1, prompt=0)], Window(0.0, 10.0))
    assert found is not None
    assert found.context is None
    assert decoding_of([request(1.0, 0.1, tokens=1)], Window(0.0, 10.0)) is None


def test_bytes_share_and_parts_of_a_token() -> None:
    found = roofline_of(row(2, 0.02))
    assert found is not None
    bytes_ = 1e6 + 2 * (1e3 + 100 * 100)
    assert found.bytes_per_token == pytest.approx(bytes_ / 2)
    assert found.read_bytes_per_s == 1e8  # the median of three turns
    assert found.bytes_s == pytest.approx(bytes_ / 1e8)
    assert found.flops_s == pytest.approx(4e6 / 1e9)
    assert found.mbu == pytest.approx(bytes_ / 1e8 / 0.02)
    assert found.split.pop("step") is None
    assert found.split == pytest.approx(
        {"bytes": bytes_ / 1e8, "engine": 0.018 - bytes_ / 1e8, "http": 0.0018, "client": 0.0002}
    )
    assert sum(part for part in found.split.values() if part) == pytest.approx(0.02)


def test_weights_that_stay_in_the_cache_are_told() -> None:
    small = row(2, 0.02)
    small.machine = {"last_level_cache_bytes": 32 << 20}
    assert "the weights fit the cache" in next(roofline_lines(small))
    small.machine = {"last_level_cache_bytes": 1 << 19}
    assert "the weights fit the cache" not in next(roofline_lines(small))


def test_what_was_not_measured_is_unknown() -> None:
    bare = roofline_of(row(2, 0.02, roofline={}, server={}, client={}))
    assert bare is not None
    assert (bare.bytes_per_token, bare.mbu, bare.bound_s) == (None, None, None)
    assert set(bare.split.values()) == {None}
    foreign = row(2, 0.02, roofline={"work": WORK, "step": STEP, "ceilings": []}, server={})
    found = roofline_of(foreign)
    assert found is not None
    assert found.bytes_per_token is not None
    assert found.mbu is None
    (told, parts) = roofline_lines(foreign)
    assert told.endswith("; MBU unknown")
    assert "unknown API server and HTTP" in parts


def test_the_frontier_is_what_no_point_beats_in_both() -> None:
    rows = [row(1, 0.010), row(2, 0.012), row(3, 0.040)]
    rows.append(row(2, 0.050))  # slower for all than the point of three
    assert [best for *_, best in frontier(rows)] == [True, True, True, False]
    records = point_records(rows)
    assert [one["frontier"] for one in records] == [True, True, True, False]
    assert set(COLUMNS) <= set(records[0])
    assert records[0]["itl_mean_s"] == pytest.approx(0.010)
    assert records[0]["decode_batch"] == pytest.approx(1.0)


def test_a_bend_is_found_where_the_batch_begins_to_cost() -> None:
    users = (1, 2, 4, 8, 16, 32)
    bend = knee_of([row(n, 0.01 * max(1.0, n / 8)) for n in users])
    assert bend is not None
    assert bend.measured == pytest.approx(8, rel=0.1)
    # by the ceilings: 1e6 bytes at 1e8 a second against 2e6 FLOPs a sequence at 1e9 a second
    assert bend.predicted is not None
    assert 2 < bend.predicted < 8
    flat = knee_of([row(n, 0.01) for n in users])
    assert flat is not None
    assert np.isinf(flat.measured)
    assert knee_of([row(n, 0.01) for n in users[:3]]) is None
    (line,) = knee_lines([row(n, 0.01) for n in users])
    assert line.startswith("a token takes longer from batch beyond these on")


@pytest.mark.parametrize(
    "stored",
    [
        [],
        {"step": {"weights_bytes": 1.0}},
        {"step": STEP | {"weights_bytes": -1.0}},
        {"ceilings": [{"read": 0.0}]},
    ],
)
def test_a_roofline_that_no_figure_can_be_made_of_is_refused(stored: Any) -> None:
    with pytest.raises(RowError, match="roofline"):
        Row.from_json(row(1, 0.01, roofline=stored).to_json())
