"""The driver of a fleet against nodes that die, hang, fail, and come back: every case is accounted for once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from fleets import ASK, CASES, FLEET, World, assigned, collector, lined, node

from membound.bench.fleet.assignment import assignments
from membound.bench.fleet.fleet_error import FleetError
from membound.bench.fleet.fleet_file import FleetFile, find_fleet
from membound.bench.fleet.order import ALL
from membound.results.fleet.device_run import device_runs
from membound.results.store import load_rows


@pytest.fixture
def path(tmp_path):
    return tmp_path / f"{FLEET}.jsonl"


@pytest.fixture
def measured(path, monkeypatch):
    """Run a fleet to its end; (rows, collector)."""

    def run(world, suites, **more):
        with FleetFile(path, ASK) as file:
            for one in suites:
                file.note(one)
            driver = collector(monkeypatch, world, file, suites, **more)
            driver.run()
            file.is_whole = True
        return load_rows(path), driver

    return run


def once(rows):
    """How often each case of each run is there, if that is not once."""
    return {
        key: n
        for key, n in Counter((r.run_id, r.backend, r.replicate, r.work) for r in rows).items()
        if n != 1
    }


def test_every_node_hands_over_all_rows_and_forgets_them_then(path, measured):
    world, suites = World([node(n) for n in (1, 2, 3)]), assigned(3)
    rows, driver = measured(world, suites)
    assert len(rows) == 9
    assert once(rows) == {}
    assert [one.state for one in suites] == ["done"] * 3
    assert sorted(world.forgotten) == sorted(one.run_id for one in suites)
    assert world.running == set()
    assert {(r.machine["node"], r.machine["rack"]) for r in rows} == {
        ("host", "r1"),
        ("host#2", "r0"),
        ("host#3", "r1"),
    }
    assert driver.view.stored == 9
    assert not path.with_name(path.name + ".fleet").exists()


def test_nodes_of_one_machine_take_turns(measured):
    world = World([node(n) for n in (1, 2, 3)])
    measured(world, assigned(3, one_machine=True))
    assert world.most_running == 1
    assert [name for _, name in world.started] == ["host", "host#2", "host#3"]


def test_nodes_of_several_machines_do_not(measured):
    world = World([node(n) for n in (1, 2, 3)])
    measured(world, assigned(3))
    assert world.most_running == 3


def test_passes_follow_each_other_and_are_runs_of_their_own(measured):
    rows, _ = measured(World([node(1)]), assigned(1, passes=2))
    assert Counter(r.run_id for r in rows) == {f"{FLEET}.host.all.1": 3, f"{FLEET}.host.all.2": 3}


def test_a_process_that_dies_is_tried_again_where_it_was_and_no_row_is_there_twice(measured):
    def behave(one, suite):
        suite.dies_at = 2 if one.tries == 1 else -1

    world, suites = World([node(1)], behave), assigned(1)
    rows, driver = measured(world, suites)
    assert once(rows) == {}
    assert [r.work for r in rows] == [work for _, _, work in CASES]
    assert len(world.suites[suites[0].run_id].order.known) == 2
    assert "it is tried again there" in driver.view.notes[0]


def test_a_process_that_dies_again_and_again_is_given_up(measured):
    def behave(one, suite):
        suite.dies_at = 1

    suites = assigned(1)
    rows, _ = measured(World([node(1)], behave), suites)
    assert [r.status for r in rows] == ["ok", "crashed", "crashed"]
    assert rows[1].reason == "host: The actor is dead because its worker process has died."
    assert (suites[0].tries, suites[0].state, suites[0].failures) == (3, "failed", 2)


def test_a_node_that_dies_leaves_a_row_for_each_case(measured):
    world = World([node(1), node(2)])
    result = world.result

    def dying(reference):
        if reference[2].name == "host#2" and reference[1] == 1:
            world.died.add(reference[2].id)
        return result(reference)

    world.result = dying
    suites = assigned(2)
    rows, _ = measured(world, suites)
    assert once(rows) == {}
    assert [(r.status, r.machine["node"]) for r in rows if r.run_id == suites[1].run_id] == [
        ("ok", "host#2"),
        ("crashed", "host#2"),
        ("crashed", "host#2"),
    ]
    assert [one.state for one in suites] == ["done", "failed"]


def test_a_spare_node_is_measured_in_the_place_of_one_that_died(measured):
    world = World([node(1), node(2)])
    suites = assigned(1)
    world.behave = lambda one, suite: world.died.add(node(1).id) if one.node.name == "host" else None

    def instead(fresh):
        return assignments(FLEET, [fresh], {fresh.id: (ALL,)}, {fresh.id: fresh.id}, 1)

    rows, driver = measured(world, suites, replace=instead)
    assert once(rows) == {}
    assert Counter((r.machine["node"], r.status) for r in rows) == {
        ("host#2", "ok"): 3,
        ("host", "crashed"): 3,
    }
    assert driver.view.notes == ["host#2 is measured in the place of host, which died"]


def test_a_spare_node_that_cannot_take_part_is_asked_once(measured):
    world, asked = World([node(1), node(2)]), []
    world.behave = lambda one, suite: world.died.add(node(1).id)
    measured(world, assigned(1), replace=lambda fresh: asked.append(fresh.name) or [])
    assert asked == ["host#2"]


def test_a_node_that_hangs_is_given_up_with_what_it_was_at(measured):
    def behave(one, suite):
        suite.hangs_at = 1 if one.node.name == "host#2" else -1

    suites = assigned(2)
    rows, _ = measured(World([node(1), node(2)], behave), suites)
    assert once(rows) == {}
    late = [r for r in rows if r.status == "timeout"]
    assert len(late) == 2
    assert late[0].reason.startswith("host#2: no answer for 300 s; last seen at: at row 0")


def test_a_node_that_cannot_measure_says_why_for_each_case(measured):
    def behave(one, suite):
        suite.fails = "the cache folder is not yours" if one.node.name == "host#2" else ""

    rows, _ = measured(World([node(1), node(2)], behave), assigned(2))
    failed = [r for r in rows if r.status == "error"]
    assert [(r.backend, r.work) for r in failed] == [(backend, work) for backend, _, work in CASES]
    assert {r.reason for r in failed} == {"host#2: the cache folder is not yours"}


def test_where_no_node_ever_planned_rows_are_those_that_were_asked_for(measured):
    def behave(one, suite):
        suite.fails = "no backend"

    rows, _ = measured(World([node(1)], behave), assigned(1))
    assert [(r.backend, r.status) for r in rows] == [("any", "error")] * 3


def test_rows_of_another_run_are_refused(measured):
    def behave(one, suite):
        suite.rows[0] = lined("somebody-else", CASES[0])

    rows, _ = measured(World([node(1)], behave), assigned(1))
    assert {r.status for r in rows} == {"error"}
    assert "a row of somebody-else" in rows[0].reason


def test_a_row_that_changed_on_its_way_is_refused(measured):
    def behave(one, suite):
        suite.rows[1] = suite.rows[1].replace(b"Test CPU", b"Rest CPU")

    rows, _ = measured(World([node(1)], behave), assigned(1))
    assert [r.status for r in rows] == ["ok", "error", "error"]
    assert "checksum" in rows[1].reason


def test_a_cluster_without_room_is_refused_when_nothing_was_measured(path, monkeypatch):
    world = World([node(1)], busy={node(1).id})
    refused = pytest.raises(
        FleetError, match=r"no node becomes free: a suite needs all 4 processors .* and 0 are free"
    )
    with refused, FleetFile(path, ASK) as file:
        collector(monkeypatch, world, file, assigned(1)).run()
    assert world.running == set()
    assert list(path.parent.iterdir()) == []


def test_a_node_without_room_is_reported_when_others_were_measured(measured):
    world = World([node(1), node(2)], busy={node(2).id})
    rows, _ = measured(world, assigned(2))
    assert Counter(r.status for r in rows) == {"ok": 3, "unavailable": 3}
    assert rows[-1].reason.startswith(
        "host#2: its node did not become free, or nothing starts there: waits for 4 processors"
    )


def test_an_interrupt_ends_what_runs_and_the_rest_is_measured_later(path, monkeypatch):
    world = World([node(1), node(2)])
    result, seen = world.result, []

    def interrupting(reference):
        seen.append(reference)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return result(reference)

    world.result = interrupting
    suites = assigned(2)
    with FleetFile(path, ASK) as file:
        for one in suites:
            file.note(one)
        with pytest.raises(KeyboardInterrupt):
            collector(monkeypatch, world, file, suites).run()
    assert world.running == set()
    assert not path.exists()

    found, ask, again = find_fleet("latest", path.parent)
    assert (found, ask) == (path, ASK)
    assert sum(one.rows for one in again) == 2  # what had come with the last answers is asked for again
    for one in again:
        one.state = "waiting"
    with FleetFile(path, ask, resume=True) as file:
        collector(monkeypatch, World([node(1), node(2)]), file, again).run()
        file.is_whole = True
    rows = load_rows(path)
    assert len(rows) == 6
    assert once(rows) == {}


def test_together_suites_of_one_machine_run_at_once(path, monkeypatch):
    world, suites = World([node(1), node(2)]), assigned(2, one_machine=True)
    with FleetFile(path, ASK) as file:
        driver = replace(collector(monkeypatch, world, file, suites), ask=replace(ASK, together=True))
        driver.run()
        file.is_whole = True
    assert world.most_running == 2
    rows = load_rows(path)
    assert {(r.machine["node"], r.machine["beside"]) for r in rows} == {
        ("host", "host#2 all"),
        ("host#2", "host all"),
    }
    assert {one.make.beside for one in device_runs(rows)} == {"others"}


def test_devices_of_a_node_that_are_measured_together_share_it(path, monkeypatch):
    """Three of one node, and one of another machine, twice each: passes of a device are not beside each other."""
    one, other = node(1), node(2)
    devices = {one.id: ("cpu", "cuda:0", "cuda:1"), other.id: ("cpu",)}
    suites = assignments(FLEET, [one, other], devices, {n.id: n.id for n in (one, other)}, 2)
    world, shares = World([one, other]), {}
    start = world.start

    def started(suite, order, share):
        shares[suite.node.name, suite.device] = (share, suite.beside)
        assert order.beside == suite.beside
        start(suite, order, share)

    world.start = started
    with FleetFile(path, ASK) as file:
        replace(collector(monkeypatch, world, file, suites), ask=replace(ASK, together=True)).run()
    assert shares == {
        ("host", "cpu"): (3, "host cuda:0, host cuda:1"),
        ("host", "cuda:0"): (3, "host cpu, host cuda:1"),
        ("host", "cuda:1"): (3, "host cpu, host cuda:0"),
        ("host#2", "cpu"): (1, ""),
    }


def test_who_is_alone_on_its_machine_has_nobody_beside_it(path, monkeypatch):
    world, suites = World([node(1), node(2)]), assigned(2)
    with FleetFile(path, ASK) as file:
        replace(collector(monkeypatch, world, file, suites), ask=replace(ASK, together=True)).run()
        file.is_whole = True
    assert all("beside" not in row.machine for row in load_rows(path))
