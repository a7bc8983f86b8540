"""Tables of texts that UTF-8 cannot say."""

from __future__ import annotations

from dataclasses import replace

from report_rows import load_row
from rows import case, run_rows

from membound.results.compare import compare_backends
from membound.results.frame import encodable, frame
from membound.results.serving.compare import compare_points
from membound.results.serving.table import points
from membound.results.stats import records, summarize

HALF = "linear:\udcff"


def test_what_utf_8_cannot_say_becomes_an_escape_and_all_else_stays():
    assert [encodable(value) for value in ("é\udcff", 3, None, ["\udcff"])] == [
        "é\\udcff",
        3,
        None,
        ["\udcff"],
    ]
    table = frame([{"a": HALF, "b": 1}], ["a", "b", "c"])
    assert (list(table.columns), table["a"][0], table["b"][0]) == (["a", "b", "c"], "linear:\\udcff", 1)


def test_rows_of_such_names_are_summarised_and_compared():
    (line,) = records(summarize([case(work=HALF)]))
    assert line["work"] == "linear:\\udcff"
    rows = [*run_rows(), *(case(backend, HALF, run_id="run-a") for backend in ("alpha:cpu", "beta:cpu+x"))]
    works = [line["work"] for line in records(compare_backends(rows, "alpha:cpu", "beta:cpu+x").table)]
    assert "linear:\\udcff" in works


def test_points_of_load_of_such_names_are_listed_and_compared():
    loads = [replace(load_row(), device=HALF, work=f"load:{HALF}")]
    assert points(loads)["work"][0] == "load:linear:\\udcff"
    assert set(compare_points(loads, loads)["work"]) == {"load:linear:\\udcff"}
