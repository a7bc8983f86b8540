"""A point of load as a row: it comes back, and one that cannot be is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from membound.results.row import Row, RowError
from membound.results.serving.request import Request

WHOLE = Request(1.0, 1.1, [1.2, 1.3], [1, 1], [0, 1], ended_s=1.4, prompt_tokens=5, counted_by="ids")
WINDOW = {"warm_s": 0.5, "end_s": 10.0}
LOST = Request(2.0, 2.0, ended_s=2.5, outcome="refused", reason="HTTP 429")


def row(**more: Any) -> Row:
    fields = {"requests": [WHOLE, LOST], "config": {"warm_s": 0.5, "end_s": 10.0, "rate": 0.2}} | more
    return Row("a-run", "serving", "url", "serving:model=m", "ok", **fields)


def test_a_point_comes_back_as_it_was() -> None:
    assert Row.from_json(row().to_json()) == row()
    stored = json.loads(row().to_json())["requests"]
    assert stored[1] == {
        "due_s": 2.0,
        "sent_s": 2.0,
        "ended_s": 2.5,
        "outcome": "refused",
        "reason": "HTTP 429",
    }


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"config": {}}, "window None to None"),
        ({"config": {"warm_s": 5.0, "end_s": 5.0}}, "window 5.0 to 5.0"),
        ({"config": {"warm_s": 5.0, "end_s": 9.0}}, "without a whole answer"),
        ({"requests": [LOST]}, "without a whole answer"),
        ({"config": WINDOW | {"search": True}}, "a point of a search has no rate"),
        ({"config": WINDOW | {"search": True, "rate": "two"}}, "rate='two' of config is not a number"),
        ({"config": WINDOW | {"users": [4]}}, r"users=\[4\] of config is not a number"),
        ({"config": WINDOW | {"trace": 10**400}}, "trace=1000.* of config is not a number"),
        ({"config": WINDOW | {"client": []}}, r"client='\[\]' of config is no object"),
        ({"config": WINDOW | {"client": {"null_server": 3}}}, "null_server='3' of a point's client"),
        ({"config": WINDOW | {"client": {"null_server": {"added_itl_p50_s": "x"}}}}, "that are no numbers"),
        ({"config": {"warm_s": 0.5, "end_s": 10.0, "server": {"mean_itl_s": "x"}}}, "no numbers"),
        ({"config": {"warm_s": 0.5, "end_s": 10.0, "server": 3}}, "no numbers"),
    ],
)
def test_a_point_without_window_or_answer_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(RowError, match=words):
        Row.from_json(row(**more).to_json())


def test_what_a_client_adds_may_be_below_nothing_or_not_known() -> None:
    client = {"null_server": {"added_itl_p50_s": -1e-5, "added_ttft_p50_s": None}}
    assert Row.from_json(row(config=WINDOW | {"client": client}).to_json()).config["client"] == client


def test_a_request_that_nobody_can_have_seen_is_refused() -> None:
    line = row().to_json().replace('"ended_s":1.4', '"ended_s":0.4')
    with pytest.raises(RowError, match="requests: a request due at 1 s: its times are out of order"):
        Row.from_json(line)
