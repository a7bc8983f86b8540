"""Cases as a report shows them: places, what is recent, what measures a case again, and what to doubt."""

from __future__ import annotations

from dataclasses import replace

from report_rows import report_rows
from rows import MACHINE, case, ceiling, failed, run_rows

from membound.results.report.answer import NO_SHARES, answers_of, fastest_of
from membound.results.report.cases import cases_of, described, latest, marked, places_of
from membound.results.report.ceilings import ceilings_of


def test_places_are_machines_with_threads_whatever_the_kernel():
    rows = [
        case(machine=MACHINE | {"kernel": "6.1"}),
        case(machine=MACHINE | {"kernel": "6.2"}),
        case(threads=1),
        case(machine=MACHINE | {"cores": 8}),
        case(machine={}, device="", run_id="foreign"),
        case(backend="x:cuda:0", device="Some GPU", accelerator={"memory_bytes": 1}),
    ]
    labels = sorted(place.label for place in places_of(rows).values())
    assert labels == [
        "Some GPU",
        "Test CPU, 1 thread",
        "Test CPU, 2 threads, machine 1",
        "Test CPU, 2 threads, machine 2",
        "machine not named: foreign",
    ]


def test_a_case_has_the_command_that_measures_it_again():
    rows = [case(work="step:model=out/a b,batch=1", replicate=n, seed=7) for n in range(3)]
    (one,) = cases_of(rows)
    assert one.command == (
        "membound run 'step:model=out/a b,batch=1' --backends alpha:cpu --threads 2 --replicates 3 --seed 7"
    )
    (foreign,) = cases_of([case(config={"format": "pytest-benchmark"})])
    assert foreign.command == ""
    assert described(foreign).endswith("measured by another tool")
    (gated,) = cases_of([case(backend="alpha:cpu#base")])
    assert "--backends alpha:cpu --threads" in gated.command


def test_hints_have_interval_validity_and_the_anchor():
    one = next(one for one in cases_of(report_rows()) if one.line["verdict"] == "memory")
    text = marked(one)
    assert text.startswith(f"#{one.key} alpha:cpu, step llama-3.2-1b")
    assert "95 % interval" in text
    assert "of the limit" in text
    assert "clean (3 processes)" in text
    assert described(one).endswith(one.command)


def test_the_last_run_of_a_work_is_what_counts():
    shown = cases_of(report_rows())
    assert [one.key for one in shown] == [f"c{n}" for n in range(1, len(shown) + 1)]
    assert sorted({one.line["run_id"] for one in latest(shown)}) == ["run-b", "run-c"]


def test_the_answer_says_who_how_near_and_what_bounds():
    rows = report_rows()
    first, second = answers_of(cases_of(rows), rows)
    assert (first.place.label, second.place.label) == ("Test CPU, 2 threads", "Other CPU, 2 threads")
    assert first.fastest == "alpha:cpu in 5 of 5 works, 2.00 times as fast as the next."
    assert first.near == "The fastest reach 79% of what this machine allows."
    assert (
        first.bound
        == "Memory bandwidth bounds 4; arithmetic bounds 1 (step llama-3.2-1b batch=64 context=1024 bf16 bf16)."
    )
    assert first.doubts[0] == "Failed: 2 crashed; the table of what has no time says why."
    assert first.doubts[1].startswith("5 of 10 cases were disturbed")
    assert {one.backend for one in first.winners} == {"alpha:cpu"}
    assert {one.backend for one in first.runners_up.values()} == {"beta:cpu"}


def test_what_cannot_be_known_is_said():
    rows = [
        case(error=None, tolerance=None),
        failed("wrong", "error 1", backend="beta:cpu"),
        ceiling("copy", 1.0, "bytes/s", status="error", reason="no"),
    ]
    (answer,) = answers_of(cases_of(rows), rows)
    assert answer.near == NO_SHARES
    assert any("Failed: 1 wrong" in doubt for doubt in answer.doubts)
    assert "A ceiling is missing: copy error: no." in answer.doubts
    assert "1 of 1 cases have no interval, for which it takes 3 processes." in answer.doubts
    assert "The output of 1 of 1 cases was not checked against the reference." in answer.doubts


def test_backends_of_other_runs_are_named_and_not_compared():
    early = [replace(row, backend="gamma:cpu", started_at="2026-01-01") for row in run_rows("run-0")[3:5]]
    rows = [*early, *(replace(row, started_at="2026-02-01") for row in run_rows("run-1"))]
    (answer,) = answers_of(cases_of(rows), rows)
    assert answer.doubts[-1] == "Only in other runs than the last of that work, so not compared: gamma:cpu."
    assert [one.backend for one in fastest_of(latest(cases_of(rows)))] == ["alpha:cpu"]


def test_ceilings_have_the_spread_of_their_turns():
    (first, *_) = ceilings_of(report_rows()).values()
    read = first["read"]
    assert (read.low, read.middle, read.high, read.count) == (1.6e10, 2e10, 2.2e10, 60)
    assert read.text == "20.0 GB/s (16.0 GB/s to 22.0 GB/s in 60 measurements)"
    assert "launch" not in first
