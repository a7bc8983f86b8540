"""Limits as a worker tells them, as rows: those that cannot be are errors, and spoil no file."""

from __future__ import annotations

from typing import Any

import pytest

from membound.bench.protocol.messages import Ceilings
from membound.bench.run.ceiling_rows import ceiling_rows
from membound.results.row import Row

WHOLE = {
    "name": "read",
    "value": 2e10,
    "unit": "bytes/s",
    "samples": [1e-3, 1.1e-3],
    "config": {"variant": "4 streams", "threads": 2},
    "status": "ok",
    "reason": "",
}


def told(*found: dict[str, Any], **telemetry: Any) -> list[Row]:
    return ceiling_rows(Ceilings(list(found), telemetry), "a-run", "cpu", 1, 2)


def test_a_limit_is_a_row() -> None:
    (row,) = told(WHOLE)
    assert (row.work, row.value, row.samples_s, row.replicate, row.threads) == (
        "read",
        2e10,
        [1e-3, 1.1e-3],
        1,
        2,
    )
    assert (row.status, row.config) == ("ok", WHOLE["config"])


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "KeyError"),
        (WHOLE | {"name": 5}, "work=5 is not text"),
        (WHOLE | {"status": "fine"}, "status 'fine' is none of"),
        (WHOLE | {"value": None}, "a ceiling that is ok has the value None"),
        (WHOLE | {"value": "fast"}, "value='fast' is not a number"),
        (WHOLE | {"value": 1e300}, "value=1e+300 is not a number"),
        (WHOLE | {"samples": 3}, "TypeError"),
        (WHOLE | {"samples": [0.0]}, "samples_s holds a time of 0 s"),
        (WHOLE | {"config": {"threads": "all"}}, "threads='all' of config is not a number"),
    ],
)
def test_a_limit_that_cannot_be_is_an_error_and_the_others_stay(found: dict[str, Any], said: str) -> None:
    bad, good = told(found, WHOLE)
    assert (bad.status, bad.value) == ("error", None)
    assert said in bad.reason
    assert good.status == "ok"
    for row in (bad, good):
        assert Row.from_json(row.to_json()) == row


def test_counters_of_another_type_are_an_error_too() -> None:
    (row,) = told(WHOLE, steal_fraction="much")
    assert (row.status, "TypeError" in row.reason) == ("error", True)
