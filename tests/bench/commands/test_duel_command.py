"""`membound duel`: a stored run of one work, with more rounds, and what is no duel."""

import json

import pytest
from cli_calls import HERE, SPEC, found

from membound.results.store import load_rows

pytestmark = pytest.mark.usefixtures("folder")

PAIR = f"{HERE}:cpu,{HERE}:cpu+x"


def test_a_duel_is_a_stored_run_of_one_work_with_its_ratios(membound_, devices, measuring, folder):
    options = ("--rounds", 6, "--replicates", 4, "--seed", 3, "--threads", 1, "--out", "duels")
    status, out, _ = membound_("duel", SPEC, "-b", PAIR, *options)
    assert status == 0
    (plan,) = measuring.plans
    assert (plan.seed, plan.threads, plan.replicates, plan.time_limit_s) == (3, 1, 4, None)
    (path,) = (folder / "duels").iterdir()
    assert f"rows: duels/{path.name}" in out
    rows = [row for row in load_rows(path) if row.kind == "case"]
    assert sorted((r.backend, r.replicate, len(r.turns)) for r in rows) == [
        (name, number, 6) for name in PAIR.split(",") for number in range(4)
    ]
    lines = [" ".join(line.split()) for line in out.splitlines()]
    header = next(line for line in lines if line.startswith("backend time"))
    assert header.startswith("backend time ×fastest interval of bound")
    for name in PAIR.split(","):
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert "10 ms 1.000" in line
        assert line.endswith("24/24")
    assert "1.000–1.000" in out
    assert membound_("show", path)[0] == 0
    assert membound_("compare", path, "--backends", *PAIR.split(","))[0] == 0


def test_a_duel_of_a_backend_with_itself(membound_, devices, measuring):
    twice = f"{HERE}:cpu,{HERE}:cpu#2"
    status, out, err = membound_("duel", SPEC, "-b", twice, "--json")
    assert status == 0
    assert f"backends: {HERE}:cpu, {HERE}:cpu#2" in err
    lines = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert [line["backend"] for line in lines] == twice.split(",")
    assert [(line["ratio_to_fastest"], line["replicates"]) for line in lines] == [(1.0, 3)] * 2
    assert {str(line["ratio_to_fastest_ci"]) for line in lines} == {"None", "[1.0, 1.0]"}, "None: the fastest"
    assert all(line["of_bound_ci"][0] <= line["of_bound"] <= line["of_bound_ci"][1] for line in lines)


@pytest.mark.parametrize("status", ["wrong", "crashed", "timeout", "oom", "error", "unavailable"])
def test_a_contestant_that_fails_or_is_absent_fails_a_duel(membound_, devices, measuring, status):
    measuring.statuses[f"{HERE}:cpu+x"] = status
    code, out, _ = membound_("duel", SPEC, "-b", PAIR)
    assert code == 1
    assert f"{HERE}:cpu+x {status}" in out
    assert f"{HERE}:cpu 10 ms" in " ".join(out.split())


@pytest.mark.parametrize(("other", "expected"), [("ok", 0), ("unsupported", 1)])
def test_who_cannot_do_the_work_fails_no_duel_unless_nobody_can(
    membound_, devices, measuring, other, expected
):
    measuring.statuses |= {f"{HERE}:cpu+x": "unsupported", f"{HERE}:cpu": other}
    status, out, _ = membound_("duel", SPEC, "-b", PAIR)
    assert status == expected
    assert f"{HERE}:cpu+x unsupported: because" in out


def test_a_duel_that_is_interrupted_keeps_its_turns(membound_, devices, measuring, folder):
    measuring.statuses[f"{HERE}:cpu+x"] = "interrupt"
    status, out, _ = membound_("duel", SPEC, "-b", PAIR)
    assert status == 130
    (path,) = (folder / "results/runs").iterdir()
    assert f"rows: results/runs/{path.name}" in out


def test_devices_with_memory_of_their_own_meet_in_a_duel(membound_, devices, measuring):
    names = [f"{HERE}:cuda:0", f"{HERE}:cuda:0+graph", f"{HERE}:cpu"]
    devices += [found(name, accelerator={"memory_bytes": 10**10, "cache_bytes": 10**6}) for name in names[:2]]
    status, out, _ = membound_("duel", SPEC, "-b", ",".join(names), "--json")
    assert status == 0
    assert {line["backend"]: line["turns"] for line in json.loads(out)} == dict.fromkeys(names, 45)


def test_duel_refuses(refused, devices, measuring):
    assert "Missing option '--backends'" in refused("duel", SPEC)
    assert "unknown backend 'nothere'" in refused("duel", SPEC, "-b", "nothere")
    assert "unknown work 'x'" in refused("duel", "x", "-b", HERE)
    assert "no such device; buy it" in refused("duel", SPEC, "-b", f"{HERE}:cpu+foo")
    assert "Invalid value for '--rounds'" in refused("duel", SPEC, "-b", HERE, "--rounds", 0)
    assert "threads=0" in refused("duel", SPEC, "-b", HERE, "--threads", 0)
    assert "is not backend:device#LABEL" in refused("duel", SPEC, "-b", f"{HERE}:cpu,{HERE}:cpu#")
    assert "is not backend:device#LABEL" in refused("duel", SPEC, "-b", f"{HERE}:cpu,{HERE}#2")
    twice = f"name it twice: {HERE}:cpu,{HERE}:cpu#2"
    for alone in (f"{HERE}:cpu", f"{HERE}:cpu,{HERE}:cpu", f"{HERE}:cpu#2"):
        assert twice in refused("duel", SPEC, "-b", alone)
    del devices[1:]
    assert f"this one has {HERE}:cpu alone" in refused("duel", SPEC, "-b", HERE)
    assert not measuring.plans
