"""A load from its check to its rows, on a server whose times are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from servers import null_server

from membound.bench.serving.asked import check, numbers
from membound.bench.serving.endpoint import parse_url
from membound.bench.serving.lengths import parse_lengths
from membound.bench.serving.load import Load
from membound.bench.serving.null_server import Script
from membound.bench.serving.schedule import LoadError
from membound.bench.serving.session import prepare, run_load
from membound.results.row import Row
from membound.results.serving.slo import SloError
from membound.results.serving.table import point_of_row, point_records

pytest.importorskip("uvloop")

SECRET = "sk-planted-4711"
SHORT = {
    "seconds": 1.0,
    "warm_s": 0.2,
    "drain_s": 5.0,
    "prompt": parse_lengths("8"),
    "output": parse_lengths("4"),
}


def rows_of(url: str, **more: Any) -> list[Row]:
    kept: list[Row] = []
    load = Load(parse_url(url, SECRET), **(SHORT | more))
    assert run_load(prepare(load), "a-run", "membound load", kept.append) == kept
    return [Row.from_json(row.to_json()) for row in kept]


def test_each_point_is_a_row_whose_figures_are_the_servers() -> None:
    with null_server(Script(ttft_s=0.05, itl_s=0.01)) as url:
        rows = rows_of(url, rates=(20.0, 40.0), slo="ttft=2000,tpot=500")
    assert [row.config["rate"] for row in rows] == [20.0, 40.0]
    for row in rows:
        assert (row.kind, row.status, row.backend, row.device) == ("serving", "ok", "url", url)
        assert (row.config["warm_s"], row.config["end_s"]) == (0.2, 1.2)
        assert {one.outcome for one in row.requests} == {"ok"}
        point = point_of_row(row)
        assert point.seconds == 1.0
        assert 0.05 <= point.latency["ttft"].at[50] < 1.0
        assert point.output_tokens == 4 * point.ok
        assert point.goodput_share == 1.0
        assert SECRET not in row.to_json()


def test_a_window_is_as_long_as_asked_though_its_last_request_came_early() -> None:
    with null_server(Script(0.001, 0.001)) as url:
        (row,) = rows_of(url, rates=(3.0,), seconds=2.0, seed=5)
    assert row.config["end_s"] == pytest.approx(2.2)


def test_a_closed_loop_and_what_a_server_does_not_take() -> None:
    with null_server(Script(0.01, 0.002, fault="no-token-ids")) as url:
        (row,) = rows_of(url, users=(3,))
    assert row.config["dropped"] == ["return_token_ids"]
    assert {one.counted_by for one in row.requests} == {"usage"}
    assert len(row.requests) >= 6


def test_failures_are_rows_and_no_whole_answer_is_an_error() -> None:
    with null_server(Script(0.001, 0.001, fault="429", every=2)) as url:
        (row,) = rows_of(url, rates=(30.0,))
    assert row.status == "ok"
    assert {one.outcome for one in row.requests} == {"ok", "refused"}
    (record,) = point_records([row])
    assert record["outcomes"]["refused"] > 0
    failed = replace(row, requests=[one for one in row.requests if not one.ok], status="error", reason="none")
    assert point_records([Row.from_json(failed.to_json())])[0]["ttft_count"] == 0


def test_wrong_lengths_are_told_apart_whatever_the_distribution() -> None:
    with null_server(Script(0.001, 0.001, fault="short", every=3)) as url:
        (row,) = rows_of(url, rates=(30.0,), output=parse_lengths("uniform:4..8"))
    assert {one.outcome for one in row.requests} == {"ok", "short"}


def test_a_context_beyond_the_models_is_refused_before_anything_is_sent() -> None:
    with null_server(Script(0.001, 0.001)) as url, pytest.raises(LoadError, match="the model takes 1048576"):
        rows_of(url, rates=(1.0,), output=parse_lengths("2000000"), seconds=20.0)


@pytest.mark.parametrize(
    ("text", "whole"),
    [("0", False), ("-1", False), ("nan", False), ("1,,2", False), ("1.5", True), ("٣", True)],
)
def test_numbers_that_are_none(text: str, whole: bool) -> None:
    with pytest.raises(LoadError, match="above 0"):
        numbers("rate", text, whole)


def test_numbers() -> None:
    assert numbers("rate", "1,2.5,1") == (1.0, 2.5)
    assert numbers("rate", None) == ()
    with pytest.raises(LoadError, match="1001 points"):
        numbers("rate", ",".join(map(str, range(1, 1002))))


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"seconds": 0.0}, LoadError),
        ({"seconds": float("nan")}, LoadError),
        ({"warm_s": -1.0}, LoadError),
        ({"think_s": -1.0}, LoadError),
        ({"shared_prefix": -1}, LoadError),
        ({"slo": "p99=1"}, SloError),
    ],
)
def test_a_load_that_cannot_be(more: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        check(Load(parse_url("http://127.0.0.1"), **(SHORT | more)))
