"""Rows of two sides as pairs, and their counts; files that were made in turn; what noise is learnt from."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest
from rows import LINEAR, MACHINE, case, failed

from membound.results.alternated import alternated
from membound.results.counts import Change, changes, counted
from membound.results.noise import learnt, same_machine
from membound.results.pairs import BASE, HEAD, Case, NotPaired, both_sides, labelled, side_of
from membound.results.turns import StoredTurn

ALPHA = Case("alpha:cpu", LINEAR, 2)


def turns(*seconds):
    return [StoredTurn(index, 0.0, time_s, 1, disturbance=0.0) for index, time_s in enumerate(seconds)]


def pair(number, base, head, **values):
    """Two processes of a replicate, each with one time."""
    return [
        case(f"alpha:cpu#{side}", samples=[time_s], replicate=number, **values)
        for side, time_s in ((BASE, base), (HEAD, head))
    ]


@pytest.mark.parametrize("name", ["alpha:cpu", "alpha:cpu+x", "alpha:cpu#2", "alpha:gpu:1+y#a.b"])
@pytest.mark.parametrize("side", [BASE, HEAD])
def test_a_label_says_the_side_and_goes_again(name, side):
    label = labelled(name, side)
    assert label.count("#") == 1
    assert side_of(case(label)) == (name, side)
    assert side_of(case(name)) == (name, "")


def test_a_pair_is_the_ratio_of_two_processes_of_one_replicate():
    rows = [row for number, head in enumerate((0.011, 0.012)) for row in pair(number, 0.010, head)]
    found = both_sides(rows)
    assert list(found) == [ALPHA]
    assert [exp(value) for value in found[ALPHA].log_ratios] == pytest.approx([1.1, 1.2])
    assert found[ALPHA].time_s(BASE) == pytest.approx(0.010)
    assert found[ALPHA].time_s(HEAD) == pytest.approx(0.0115)


def test_turns_of_the_same_rounds_go_before_medians():
    """The machine was twice as slow in the second round, on both sides."""
    base, head = pair(0, 0.5, 0.5)
    base.turns, head.turns = turns(0.01, 0.02, 0.01), turns(0.011, 0.022, 0.03)
    (found,) = both_sides([base, head]).values()
    assert [exp(value) for value in found.log_ratios] == pytest.approx([1.1])


def test_an_invalid_process_puts_its_pair_aside():
    rows = pair(0, 0.01, 0.01) + [replace(row, grade="invalid") for row in pair(1, 0.01, 0.05)[:1]]
    rows += pair(1, 0.01, 0.05)[1:]
    (found,) = both_sides(rows).values()
    assert (len(found.log_ratios), found.aside) == (1, 1)


def test_processes_of_two_runs_are_no_pair():
    base, head = pair(0, 0.01, 0.02)
    (found,) = both_sides([base, replace(head, run_id="another")]).values()
    assert found.log_ratios == ()


def test_rows_without_sides_are_refused():
    with pytest.raises(NotPaired, match="the rows have no sides"):
        both_sides([case()])


def test_a_failure_is_told_with_how_often():
    rows = [failed("crashed", "SIGSEGV", backend="alpha:cpu#head", replicate=n) for n in range(2)]
    rows += pair(2, 0.01, 0.01)
    (found,) = both_sides(rows).values()
    assert found.failure(HEAD) == "crashed in 2 of 3 processes: SIGSEGV"
    assert found.failure(BASE) == ""


# Counts


def test_counts_come_from_whoever_tells_them():
    rows = pair(0, 0.01, 0.01)
    rows[0].config = {"graph_nodes": 10, "kernel_launches": 3, "allocated_bytes": 100}
    rows[1].config = {"graph_nodes": 12, "kernel_launches": 3, "allocated_bytes": 4000}
    (found,) = both_sides(rows).values()
    assert counted(found) == {
        "bytes streamed": (100_000_000, 100_000_000),
        "graph nodes": (10, 12),
        "kernel launches": (3, 3),
        "bytes allocated": (100, 4000),
    }
    assert changes(found) == [Change("graph nodes", 10, 12)]
    rows[1].config["allocated_bytes"] = 100 + 4096 + 1
    assert [change.name for change in changes(found)] == ["graph nodes", "bytes allocated"]


def test_what_one_side_does_not_count_is_not_compared():
    rows = pair(0, 0.01, 0.01)
    rows[1].config = {"graph_nodes": 12, "kernel_launches": "many", "allocated_bytes": 1}
    rows[0].config = {"graph_nodes": 10**400, "kernel_launches": 3, "allocated_bytes": True}
    (found,) = both_sides(rows).values()
    assert list(counted(found)) == ["bytes streamed"]


def test_bytes_as_stored_go_before_those_of_the_work():
    rows = pair(0, 0.01, 0.01)
    rows[1].stored_bytes = 150_000_000
    (found,) = both_sides(rows).values()
    assert changes(found) == [Change("bytes streamed", 100_000_000, 150_000_000)]


# Files


def processes(run, starts, time_s=0.01):
    return [
        case(run_id=run, replicate=number, started_at=f"2026-11-28T10:{at:02}:00+00:00", samples=[time_s])
        for number, at in enumerate(starts)
    ]


def test_files_made_in_turn_are_paired_by_time():
    rows = alternated(processes("a", (0, 3, 4)), processes("b", (1, 2, 5), 0.02))
    (found,) = both_sides(rows).values()
    assert found.case == ALPHA
    assert list(found.log_ratios) == pytest.approx([log(2)] * 3)


def test_their_rounds_are_not_those_of_each_other():
    base, head = processes("a", (0,)), processes("b", (1,))
    base[0].turns, head[0].turns = turns(0.01, 0.03, 0.03), turns(0.02, 0.02, 0.06)
    (found,) = both_sides(alternated(base, head)).values()
    assert [exp(value) for value in found.log_ratios] == pytest.approx([0.02 / 0.03])


def test_runs_one_after_the_other_are_refused():
    with pytest.raises(NotPaired, match=r"base \(3 processes\) and head \(3\) were not measured in turn"):
        alternated(processes("a", (0, 1, 2)), processes("b", (3, 4, 5)))


def test_rows_that_do_not_say_when_are_refused():
    with pytest.raises(NotPaired, match="hold no cases that say when"):
        alternated([case()], [case()])


def test_other_machines_are_refused():
    other = [replace(row, machine=MACHINE | {"cpu": "Another"}) for row in processes("b", (1,))]
    with pytest.raises(NotPaired, match="'Test CPU' and 'Another'"):
        alternated(processes("a", (0,)), other)


def test_a_file_of_the_gate_has_both_sides():
    rows = pair(0, 0.01, 0.02)
    assert alternated(rows, rows) == rows
    assert alternated(rows, []) == rows[:1]


# Noise


def test_noise_is_learnt_of_this_machine_over_all_runs():
    rows = [
        row
        for run in ("one", "two")
        for number in range(6)
        for row in pair(number, 0.01, 0.01 * (1.02 if number % 2 else 0.98), run_id=run)
    ]
    found = learnt(rows, MACHINE)[ALPHA]
    assert (found.pairs, found.runs) == (12, 2)
    assert found.spread == pytest.approx(0.04, abs=0.01)
    assert abs(found.mean) < 0.001
    assert found.effect(0.03) == found.spread
    assert found.effect(0.5) == 0.5
    assert found.detectable(12, 1, 0.03) > found.effect(0.03)
    assert learnt(rows, MACHINE | {"cpu": "Another"}) == {}
    assert learnt(rows[:10], MACHINE) == {}
    assert learnt([case()], MACHINE) == {}


def test_machines_are_told_apart_by_what_is_known():
    assert same_machine(MACHINE, dict(MACHINE) | {"memory_bytes": 1})
    assert not same_machine(MACHINE, MACHINE | {"cores": 4})
    assert not same_machine({}, {})
