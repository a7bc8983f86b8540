"""What a fleet leaves on the driver's disk, and what is read of it by the next driver."""

from __future__ import annotations

import json

import pytest
from fleets import ASK, CASES, FLEET, assigned, lined

from membound.bench.fleet.fleet_error import FleetError
from membound.bench.fleet.fleet_file import FleetFile, find_fleet, known_lines, rows_of
from membound.results.row import RowError
from membound.results.store import StoreError, load_rows


@pytest.fixture
def cut(tmp_path):
    """A fleet of two suites, cut short after three rows."""
    path, suites = tmp_path / f"{FLEET}.jsonl", assigned(2)
    with FleetFile(path, ASK) as file:
        for one in suites:
            file.note(one)
        file.keep((suites[0], rows_of(suites[0], [lined(suites[0].run_id, case) for case in CASES[:2]])))
        file.keep((suites[1], rows_of(suites[1], [lined(suites[1].run_id, CASES[0])])))
        suites[1].state, suites[1].doing = "failed", "its node died"
        file.note(suites[1])
    return path


def test_what_was_asked_and_how_far_it_came_is_read_back(cut):
    path, ask, suites = find_fleet(FLEET[:12], cut.parent)
    assert (path, ask) == (cut, ASK)
    assert [(one.state, one.rows, one.doing) for one in suites] == [
        ("waiting", 2, ""),
        ("failed", 1, "its node died"),
    ]
    assert suites[0].got == set(CASES[:2])
    assert suites[0].node.rack == "r1"


def test_the_lines_of_a_suite_are_those_of_its_rows_with_the_node(cut):
    _, _, suites = find_fleet("latest", cut.parent)
    lines = list(known_lines(cut, suites[0]))
    assert [json.loads(line)["work"] for line in lines] == [work for _, _, work in CASES[:2]]
    assert all(json.loads(line)["machine"]["node"] == "host" for line in lines)


def test_a_fleet_that_is_whole_is_an_ordinary_run(cut):
    path, ask, suites = find_fleet("latest", cut.parent)
    with FleetFile(path, ask, resume=True) as file:
        file.keep((suites[0], rows_of(suites[0], [lined(suites[0].run_id, CASES[2])])))
        file.is_whole = True
    assert sorted(one.name for one in cut.parent.iterdir()) == [cut.name]
    assert len(load_rows(cut)) == 4


def test_all_rows_of_a_batch_are_stored_or_none(cut):
    path, ask, suites = find_fleet("latest", cut.parent)
    with (
        FleetFile(path, ask, resume=True) as file,
        pytest.raises(RowError, match="host handed over what is no row"),
    ):
        file.keep((suites[0], rows_of(suites[0], [lined(suites[0].run_id, CASES[2]), b'{"run_id":'])))
    assert find_fleet("latest", cut.parent)[2][0].rows == 2


def test_a_torn_last_line_is_dropped(cut):
    partial = cut.with_name(cut.name + ".partial")
    partial.write_bytes(partial.read_bytes()[:-40])
    assert [one.rows for one in find_fleet("latest", cut.parent)[2]] == [2, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "cannot be read"),
        (lambda text: text.replace('"membound":"', '"membound":"9'), "was written by membound 9"),
        (lambda text: text.replace('"suite":"quick"', '"suite":3'), "suite=3 is not text"),
        (lambda text: text.replace('"cpus":4.0', '"cpus":"four"'), "cpus='four' is not"),
        (lambda text: text.replace('"device":"all",', ""), "no field 'device'"),
        (lambda text: text.replace('"state":"waiting"', '"state":"gone"'), "state='gone' is none of waiting"),
        (lambda text: text.replace('"passes":1', '"passes":1000000000000'), "passes=1000000000000 is more"),
        (lambda text: text.replace('"run_id":"', '"run_id":"../../'), "is of no suite of"),
        (lambda text: text.replace(f"{FLEET}.", f"{FLEET}./../"), "is of no suite of"),
        (lambda text: text.replace('"node":{', '"node":"x","cluster":{'), "node='x' is not an object"),
        (lambda text: text + "3\n", "no object"),
    ],
)
def test_notes_that_are_damaged_are_one_line(cut, change, message):
    notes = cut.with_name(cut.name + ".fleet")
    notes.write_text(change(notes.read_text()))
    with pytest.raises(FleetError, match=message):
        find_fleet("latest", cut.parent)


def test_a_name_that_fits_none_lists_what_there_is(cut):
    with pytest.raises(StoreError, match=f"'2025' names 0 of the fleets in .*: {FLEET}"):
        find_fleet("2025", cut.parent)


def test_no_fleet_at_all(tmp_path):
    with pytest.raises(StoreError, match="that were cut short: none"):
        find_fleet("latest", tmp_path)
