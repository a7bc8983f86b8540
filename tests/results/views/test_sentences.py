"""What a run came to, in sentences: who is fastest, how near the limit, how far the machine moved, what to do next."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rows import LINEAR, case, ceiling

from membound.results.stats import records, summarize
from membound.results.turns import StoredTurn
from membound.results.views.markdown import run_markdown
from membound.results.views.sentences import sentences, who_is_fastest

OTHER = "linear:n=8192,k=4096,m=1,weight=bf16,act=float"


def turns(scale: float, read: float = 11e9) -> list[StoredTurn]:
    """Rounds in which the bandwidth doubles, and the time with it."""
    beside = {"read": read, "fma_f32": 400e9}
    steady = StoredTurn(0, 1.0, 0.01 * scale, 1, before=beside, after=beside, disturbance=0.0)
    fast = {"read": 2 * read, "fma_f32": 400e9}
    quick = replace(steady, time_s=0.005 * scale, before=fast, after=fast)
    return [replace(one, round=i) for i, one in enumerate((steady, quick, steady, quick, steady))]


def run(scales: dict[str, float], work: str = LINEAR, processes: int = 3) -> list[object]:
    return [
        case(backend, work, (), turns=turns(scale * (1 + 0.001 * n)), replicate=n)
        for backend, scale in scales.items()
        for n in range(processes)
    ]


def said(rows: list[object]) -> list[str]:
    return list(sentences(records(summarize(rows))))  # type: ignore[arg-type]


def test_the_fastest_its_share_the_machine_and_what_next():
    rows = run({"alpha:cpu": 1.0, "beta:cpu": 2.0}) + run({"alpha:cpu": 1.5, "beta:cpu": 1.0}, OTHER)
    who, near, moved, then = said(rows)
    assert who == (
        "Fastest: alpha:cpu in 1 of 2 works (linear n=4096 k=4096 m=1 bf16), 2.00 times as fast as the next; "
        "beta:cpu in 1 (linear n=8192 k=4096 m=1 bf16), 1.50 times as fast as the next."
    )
    assert (
        near
        == "The fastest reach 91% of what this machine allows. Memory bandwidth bounds 2 (linear n=4096 k=4096 m=1 bf16, linear n=8192 k=4096 m=1 bf16)."
    )
    assert moved.startswith(
        "Read bandwidth moved between 11.0 GB/s and 22.0 GB/s: shares and ratios are of the same"
    )
    assert then.startswith("membound claim tests")


def test_a_tie_names_the_duel_that_decides_it():
    rows = run({"alpha:cpu": 1.0})
    for n, row in enumerate(run({"beta:cpu": 1.0})):
        row.turns = [replace(t, time_s=t.time_s * (1.01, 0.99, 1.0)[n]) for t in row.turns]  # type: ignore[attr-defined]
        rows.append(row)
    *_, then = said(rows)
    assert "too close to call" in then
    assert f"membound duel {LINEAR} -b " in then


def test_one_backend_one_process_and_nothing_at_all():
    alone = said(run({"alpha:cpu": 1.0}, processes=1))
    assert alone[0] == "Only alpha:cpu was measured: name more with --backends to compare."
    assert alone[-1].startswith("Fewer than 3 processes a case give no interval")
    assert said([]) == []


def test_without_ceilings_it_says_what_is_missing():
    bare = [
        case(backend, samples=(0.01,), replicate=n) for backend in ("alpha:cpu", "beta:cpu") for n in range(3)
    ]
    assert said(bare)[-1] == "Without ceilings there are no shares and no verdicts: leave out --no-ceilings."


def test_works_that_one_backend_each_ran_are_not_compared():
    both = run({"alpha:cpu": 1.0}) + run({"beta:cpu": 1.0}, OTHER)
    assert said(both)[0] == "No work was measured on two backends, so there is nothing to compare."


def test_benchmarks_of_others_get_no_advice_on_options_of_ours():
    foreign = [case(f"test_{name}:cpu", f"custom:name={name}", bytes=8, flops=0) for name in ("a", "b")]
    (only,) = said(foreign)
    assert only == "Without ceilings there are no shares and no verdicts: import the file with --ceilings."


@pytest.mark.parametrize("work", ["request:metric=request_latency", "custom:name=a"])
def test_what_holds_no_bytes_is_not_asked_for_ceilings(work):
    rows = [case("tool:unknown", work, bytes=0, flops=0, run_id=run) for run in ("a", "b")]
    assert said(rows)[-1] == (
        "The file does not say how many bytes were moved, so there are no shares and no verdicts."
    )
    lines = records(summarize(rows))
    assert (
        who_is_fastest(lines[:1], lines) == "Only tool:unknown was measured, so there is nothing to compare."
    )


def test_an_older_run_says_how_wrong_its_shares_may_be():
    rows = [case(), case("beta:cpu"), ceiling("read", 20e9, "bytes/s"), ceiling("read", 10e9, "bytes/s")]
    assert any("up to 2.00 times too low" in sentence for sentence in said(rows))


def test_who_leaves_something_running_is_named():
    rows = run({"alpha:cpu": 1.0, "beta:cpu": 2.0})
    for row in rows:
        if row.backend == "beta:cpu":
            row.turns = [replace(t, after={"read": 0.7 * t.before["read"]}) for t in row.turns]
    (told,) = (sentence for sentence in said(rows) if "right after" in sentence)
    assert told.startswith(
        "The ceiling was lower right after turns of beta:cpu (30%) than right before them:"
    )
    assert run_markdown(rows).count("ceiling 30% lower after it") == 1
