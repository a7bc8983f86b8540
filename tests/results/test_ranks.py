"""What a row says of ranks that share a step, and what they were to take by it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console
from rows import case, run_rows

from membound.results.ranks import predicted_s, shared_by
from membound.results.row import EXCHANGED, Row
from membound.results.stats import records, summarize
from membound.results.views.table import run_view

STEP = "step:model=tiny,batch=1,context=1024,weight=bf16,kv=bf16,act=float,layers=2,cache=random"
RANKS: dict[str, Any] = {
    "count": 4,
    "threads": 1,
    "all_reduces": 4,
    "all_reduce_bytes": 8000,
    "gather_bytes": 3000,
    "link_bytes": 49000.0,
    "working_s": [0.010, 0.012, 0.011, 0.009],
    "exchanging_s": [0.002, 0.001, 0.001, 0.003],
    "link_latency_s": 1e-4,
    "link_bytes_per_s": 1e8,
    "link_measured": "at preparing",
}


def shared(**told: Any) -> Row:
    return case("gamma:cpu+tp4", STEP, samples=[0.0135], config={"ranks": RANKS | told})


def test_the_slowest_rank_and_the_exchanges_by_hand() -> None:
    """Four all-reduces of 1.5 · 8000 bytes and a gather of 3000 at 100 MB/s, each with a latency of 0.1 ms."""
    found = shared_by(shared())
    assert found is not None
    assert found.working_s == 0.012
    assert found.exchanging_s == pytest.approx(4 * (1e-4 + 1.2e-4) + 1e-4 + 3e-5)
    assert found.predicted_s == pytest.approx(0.01301)


def test_it_is_the_median_over_processes() -> None:
    rows = [shared(working_s=[seconds]) for seconds in (0.02, 0.01, 0.03)]
    assert predicted_s(rows) == pytest.approx(0.02101)
    assert predicted_s([case()]) is None


@pytest.mark.parametrize(
    "told",
    [
        {"count": 1},
        {"count": "two"},
        {"working_s": []},
        {"working_s": 0.01},
        {"working_s": [0.01, None]},
        {"link_bytes_per_s": 0},
        {"link_latency_s": -1.0},
        {"all_reduces": None},
    ],
)
def test_what_cannot_be_predicts_nothing(told: dict[str, Any]) -> None:
    assert shared_by(shared(**told)) is None
    assert shared_by(case(config={"ranks": 4})) is None


def test_it_stands_beside_the_measured_time() -> None:
    rows = [*run_rows(), shared()]
    (line,) = [x for x in records(summarize(rows)) if x["backend"] == "gamma:cpu+tp4"]
    assert (line["time_s"], line["predicted_s"]) == (0.0135, pytest.approx(0.01301))
    assert [x["predicted_s"] for x in records(summarize(rows)) if x["backend"] == "alpha:cpu"] == [None]
    console = Console(width=160)
    with console.capture() as shown:
        console.print(run_view(rows))
    assert "predicted 13.01 ms by ranks and link" in " ".join(shown.get().split())


def test_exchanged_bytes_are_kept_beside_the_parts_of_bytes() -> None:
    row = shared()
    row.traffic = {"weights_bytes": 100_000_000, EXCHANGED: 195_000}
    read = Row.from_json(row.to_json())
    assert read.traffic[EXCHANGED] == 195_000
    assert json.loads(row.to_json())["bytes"] == 100_000_000
