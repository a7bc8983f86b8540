"""What is kept of a device's rows, and what is shown beside an outlier."""

from __future__ import annotations

import pytest
from fleet_rows import fleet_rows
from rows import MACHINE, case, ceiling, failed

from membound.results.fleet.device_run import Figure, device_runs, last_runs
from membound.results.fleet.differences import differences
from membound.results.fleet.drift import drift_of
from membound.results.fleet.outliers import compare_fleet
from membound.results.predict.catalogue import Catalogue

NOTHING = Catalogue({}, {})


def test_devices_are_told_apart_by_node_device_and_run():
    common = {"machine": MACHINE | {"node": "a", "rack": "r1"}}
    rows = [
        case("alpha:cuda:0", **common),
        case("alpha:cuda:1", **common),
        case("alpha:cpu", **common),
        case("beta:cpu+x", **common),
        case("alpha:cpu", machine=MACHINE | {"node": "b"}),
        case("alpha:cpu", run_id="run-b"),
    ]
    found = device_runs(rows)
    assert [one.name for one in found] == ["a cuda:0", "a cuda:1", "a cpu", "b cpu", "run-b cpu"]
    assert [one.rack for one in found] == ["r1", "r1", "r1", "", ""]
    assert len(found[2].rates) == 2
    assert found[0].make.device == "Test CPU"  # the device's own name
    assert found[2].make.device == "Test CPU, 2 cores"  # the machine's


def test_rates_are_of_processes_that_count():
    rows = [
        case(samples=[0.01, 0.02, 0.04], replicate=0),
        case(samples=[0.01], replicate=1, grade="invalid"),
        case(samples=[0.1], work="linear:n=8,k=32", bytes=0),
        case(samples=[0.1], work="linear:n=9,k=32"),
        failed("wrong", "error 2", work="linear:n=9,k=32"),
        failed("timeout", "silent for 300 s", work="linear:n=10,k=32"),
        ceiling("read", 9e9, "bytes/s", backend="cpu"),
        ceiling("read", 8e9, "bytes/s", backend="cpu", config={"turns": 3, "lowest": 1e9, "highest": 1e10}),
        ceiling("read_l2", 9e11, "bytes/s", backend="cpu"),
        ceiling("fma_f32", 9e11, "FLOP/s", backend="cpu"),
    ]
    (one,) = device_runs(rows)
    assert {(figure.work, figure.unit): rates for figure, rates in one.rates.items()} == {
        (rows[0].work, "bytes/s"): [5e9],
        ("linear:n=8,k=32", "1/s"): [10.0],
        ("read", "bytes/s"): [8e9],
    }
    assert dict(one.failures) == {"wrong: error 2": 1, "timeout: silent for 300 s": 1}
    assert Figure("cpu", "read", 2, "bytes/s") in one.rates


def test_the_last_run_with_figures_counts():
    rows = [
        case(started_at="2026-11-02T10:00:00+00:00", run_id="old", machine={"node": "a"}),
        failed("crashed", started_at="2026-11-03T10:00:00+00:00", run_id="new", machine={"node": "a"}),
    ]
    assert [one.run_id for one in last_runs(device_runs(rows))] == ["old"]


def test_what_differs_is_told_with_what_is_usual():
    runs = device_runs(fleet_rows(12, slow={4: 0.9}))
    (outlier,) = compare_fleet(runs, NOTHING).outliers
    told = {one.field: (one.value, one.usual, one.of) for one in outlier.differences}
    assert told == {
        "accelerator.ecc": ("on", "off", "11 of 12"),
        "device_throttle": ("heat", "none", "11 of 12"),
        "device_memory_clock_ratio": ("0.8", "1", "median of 12"),
    }  # and neither its serial number nor its rack


@pytest.mark.parametrize(
    ("name", "usual", "odd", "told"),
    [
        (
            "bios",
            "Maker 2.1 2026-01-02",
            "Maker 1.0 2024-05-06",
            ("Maker 1.0 2024-05-06", "Maker 2.1 2026-01-02"),
        ),
        ("kernel", "6.8", "6.5", ("6.5", "6.8")),
        ("huge_pages", "madvise", "never", ("never", "madvise")),
        ("numa_nodes", 2, 1, ("1", "2")),
        ("governor", "performance", "powersave", ("powersave", "performance")),
        ("hypervisor", False, True, ("on", "off")),
        ("memory_bytes", 512 << 30, 448 << 30, ("448 GiB", "512 GiB")),
        ("environment", {}, {"MALLOC_ARENA_MAX": "1"}, ("1", "not told")),
    ],
)
def test_what_a_machine_is_set_to_is_told(name, usual, odd, told):
    rows = fleet_rows(12)
    for row in rows:
        row.machine = row.machine | {name: odd if row.machine["node"] == "node-04" else usual}
    runs = last_runs(device_runs(rows))
    (slow,) = [one for one in runs if one.node == "node-04"]
    found = [
        one for one in differences(slow, [one for one in runs if one.rates]) if one.field.startswith(name)
    ]
    assert [(one.value, one.usual) for one in found] == [told]


@pytest.mark.parametrize(
    "name", ["frequency_hz", "device_clock_hz", "device_uncorrected_errors", "steal_fraction"]
)
def test_clocks_errors_and_steal_are_told(name):
    runs = [one for one in device_runs(fleet_rows(12)) if one.rates]
    for number, one in enumerate(runs):
        one.counters[name] = [100.0 + 0.1 * (number % 5)]
    runs[3].counters[name] = [160.0]
    assert [(one.field, one.value, one.usual) for one in differences(runs[3], runs)] == [(name, "160", "100")]


def test_a_counter_is_told_only_if_it_is_far_out():
    runs = device_runs(fleet_rows(20))
    for number, one in enumerate(runs):
        one.counters["steal_fraction"] = [0.001 * (number % 7)]
        one.counters["load_1min"] = [1.0]
    assert differences(runs[0], runs[:20]) == []
    runs[0].counters["steal_fraction"] = [0.2]
    runs[0].counters["load_1min"] = [1.005]  # 0.5 %: too little to explain anything
    assert [(one.field, one.value) for one in differences(runs[0], runs[:20])] == [("steal_fraction", "0.2")]


def test_drift_has_each_day_and_each_device():
    days = [f"2026-11-{day:02}" for day in range(1, 13)]
    rows = [
        row
        for day in days
        for row in fleet_rows(
            10, slow=dict.fromkeys(range(10), 0.9 if day > "2026-11-06" else 1.0), days=[day]
        )
    ]
    runs = device_runs(rows)
    (group,) = compare_fleet(runs, NOTHING).groups
    drift = drift_of(group, runs)
    assert [(one.day, one.devices) for one in drift.days] == [(day, 10) for day in days]
    assert all(one.low <= one.median <= one.high for one in drift.days)
    (change,) = drift.changes
    assert (change.at, round(change.ratio, 2)) == (6, 0.9)
    assert len(drift.devices["node-03", "cuda:0"]) == 12
