"""Outliers of fleets whose truth is known: how often a slow device is found, and how often one is where none is."""

from __future__ import annotations

import random
from functools import cache
from itertools import cycle, islice
from math import exp, log, sqrt
from pathlib import Path
from statistics import fmean

import pytest
from fleet_rows import MAKE, READ, WORKS, fleet

from membound.results import row as stored
from membound.results.fleet.device_run import DeviceRun, Figure
from membound.results.fleet.outliers import ALPHA, LEAST, compare_fleet
from membound.results.predict.catalogue import Catalogue, load_catalogue
from membound.results.processes import processes_of

NOTHING = Catalogue({}, {})
RUN = "intel-xeon-amx-2-cores/20261128T210353-intel-xeon-d8e2.jsonl"
"""The published run of which every process is clean: three of each of 9 works, on two to five backends."""
BETWEEN = 0.005
"""Standard deviation of the logarithms of devices. No published runs are of several machines of a kind: it is assumed."""
QUIET = {"between": 0.01, "within": 0.02}
"""The same of devices that nobody shares, and of their processes: assumed."""
BACKENDS = 3


@cache
def blocks() -> list[list[float]]:
    """How far the processes of the published run lie from the mean of their case, as logarithms of rates.

    Those of one work and replicate stand together, since they took turns and share what the machine did meanwhile.
    """
    cases: dict[tuple[str, str], dict[int, float]] = {}
    for one in processes_of(Path(stored.__file__).with_name("published") / RUN):
        if one.time_s:
            cases.setdefault((one.shared.backend, one.work), {})[one.replicate] = -log(one.time_s)
    found: dict[tuple[str, int], list[float]] = {}
    for (_, work), logs in cases.items():
        middle, wider = fmean(logs.values()), sqrt(len(logs) / (len(logs) - 1))
        for replicate, value in logs.items():
            found.setdefault((work, replicate), []).append((value - middle) * wider)
    return [list(islice(cycle(block), BACKENDS)) for block in found.values()]


def shared_fleet(count: int, seed: int, processes: int, slow: int = -1) -> list[DeviceRun]:
    """The default suite on devices whose processes are drawn from the published ones; one of them may be 7 % slow."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        own = rng.gauss(0.0, BETWEEN) + (log(0.93) if number == slow else 0.0)
        one = DeviceRun(f"node-{number // 8:03}", f"cuda:{number % 8}", f"fleet.{number}", make=MAKE)
        for work in range(9):
            drawn = [rng.choice(blocks()) for _ in range(processes)]
            for backend in range(BACKENDS):
                figure = Figure(f"b{backend}:cuda:0", f"linear:n={work + 1},k=32", 8, "bytes/s")
                one.rates[figure] = [4e12 * exp(own + block[backend]) for block in drawn]
        found.append(one)
    return found


def names_of(runs):
    return {one.run.name for one in compare_fleet(runs, NOTHING).outliers}


def called(count, seed, slow=None, **more):
    """Names of the outliers of a synthetic fleet of normal values."""
    return names_of(fleet(count, random.Random(seed), **(QUIET | more), slow=slow))


def place(number):
    return f"node-{number // 8:03} cuda:{number % 8}"


def test_the_published_processes_lie_as_far_apart_as_the_docs_say():
    deviations = [value for block in blocks() for value in block]
    assert len(blocks()) == 27
    assert round(100 * sqrt(fmean(value * value for value in deviations)), 1) == 6.8
    common = [fmean(block) for block in blocks()]
    assert round(100 * sqrt(fmean(value * value for value in common)), 1) == 5.8


@pytest.mark.slow
def test_one_of_64_shared_devices_that_is_7_percent_slow_is_found_95_times_of_100():
    """By five processes of each work; with three, as by default, it is about as often."""
    found = [names_of(shared_fleet(64, seed, 5, slow=seed % 64)) for seed in range(100)]
    assert sum(place(seed % 64) in names for seed, names in enumerate(found)) >= 95


@pytest.mark.slow
@pytest.mark.parametrize("processes", [3, 5])
def test_at_most_5_of_100_clean_shared_fleets_give_an_alarm(processes):
    assert sum(bool(names_of(shared_fleet(64, seed, processes))) for seed in range(100)) <= 5


def test_of_quiet_devices_three_works_and_a_ceiling_are_enough():
    seeds = range(100)
    assert sum(place(seed % 64) in called(64, seed, {seed % 64: 0.93}) for seed in seeds) >= 95
    assert sum(bool(called(64, seed)) for seed in seeds) <= 5


@pytest.mark.parametrize("count", [10, 20, 100, 1000])
def test_fleets_of_any_size_keep_to_the_rate_and_find_a_device_at_half_speed(count):
    seeds = range(10 if count == 1000 else 60)
    alarms = sum(bool(called(count, seed)) for seed in seeds)
    expected = ALPHA * len(seeds)
    assert alarms <= expected + 3 * sqrt(expected)
    assert all(called(count, seed, {3: 0.5}) == {place(3)} for seed in range(3))


def test_what_differs_by_less_than_3_percent_is_no_outlier_however_alike_the_others_are():
    quiet = {"between": 1e-4, "within": 1e-4}
    assert called(64, 1, {5: 1 - LEAST + 0.002}, **quiet) == set()
    assert called(64, 1, {5: 1 - LEAST - 0.002}, **quiet) == {place(5)}
    assert called(64, 1, {5: 1 + LEAST + 0.002}, **quiet) == {place(5)}


def test_a_device_slow_in_one_work_is_found_by_that_work():
    runs = fleet(64, random.Random(1), between=0.004, within=0.004)
    runs[9].rates[WORKS[1]] = [0.85 * rate for rate in runs[9].rates[WORKS[1]]]
    (one,) = compare_fleet(runs, NOTHING).outliers
    assert one.run is runs[9]
    assert one.deviations[-1].figure == WORKS[1]
    assert one.deviations[-1].share == pytest.approx(0.85, abs=0.02)


def test_ten_slow_devices_of_64_do_not_hide_each_other():
    slow = dict.fromkeys(range(10), 0.85)
    assert called(64, 2, slow, between=0.005, within=0.005) == set(map(place, slow))


def test_devices_of_another_make_are_told_apart_and_never_averaged():
    runs = fleet(40, random.Random(1), between=0.005, within=0.005)
    for number, change in enumerate(
        ({"device": "Other GPU"}, {"membound": "0.2.0"}, {"python": "3.11.9"}, {"isa": "avx2"})
    ):
        for one in runs[10 * number : 10 * number + 10]:
            one.make = MAKE._replace(**change)
            one.rates = {f: [r * (1 - 0.2 * number) for r in rates] for f, rates in one.rates.items()}
    found = compare_fleet(runs, NOTHING)
    assert found.outliers == ()
    assert [len(group.runs) for group in found.groups] == [10] * 4
    medians = [group.figures[1].median for group in found.groups]
    assert len({round(value / 4e12, 1) for value in medians}) == 4


def test_too_few_devices_of_a_make_are_compared_with_nobody():
    found = compare_fleet(fleet(7, random.Random(1), 0.01, 0.01, {0: 0.2}), NOTHING)
    assert (found.outliers, found.tests, found.groups[0].figures) == ((), 0, ())


def test_a_device_without_figures_is_listed_and_one_that_lacks_some_is_compared_by_the_others():
    runs = fleet(12, random.Random(1), 0.005, 0.005, {2: 0.7})
    del runs[2].rates[WORKS[0]]
    runs[4].rates.clear()
    found = compare_fleet(runs, NOTHING)
    assert [one.run.name for one in found.outliers] == [place(2)]
    assert None not in {one.figure for one in found.outliers[0].deviations}
    assert found.outliers[0].share == pytest.approx(0.7, abs=0.03)
    assert [one.name for one in found.without_figures] == [place(4)]


def test_only_the_last_run_of_a_device_counts():
    before = fleet(12, random.Random(1), 0.005, 0.005, {3: 0.5})
    after = fleet(12, random.Random(2), 0.005, 0.005)
    for runs, day in ((before, "2026-11-01"), (after, "2026-11-02")):
        for one in runs:
            one.started_at = f"{day}T10:00:00+00:00"
    assert compare_fleet([*after, *before], NOTHING).outliers == ()
    assert [one.run.name for one in compare_fleet(before, NOTHING).outliers] == [place(3)]


def test_the_median_is_set_against_what_the_catalogue_says():
    runs = fleet(12, random.Random(1), 0.005, 0.005)
    for one in runs:
        one.make = MAKE._replace(device="NVIDIA H200")
    (group,) = compare_fleet(runs, load_catalogue()).groups
    figures = {one.figure: one for one in group.figures}
    assert "H200" in group.catalogue
    paper = load_catalogue().find("h200").bandwidth_bytes_per_s
    assert figures[READ].of_catalogue == pytest.approx(figures[READ].median / paper)
    assert figures[None].of_catalogue is None
    assert figures[None].median is None


def test_figures_that_hardly_anybody_has_do_not_count_in_the_mean():
    rare = Figure("beta:cuda:0", "linear:n=8,k=32", 8, "1/s")
    runs = fleet(20, random.Random(1), 0.005, 0.005)
    for one in runs[:9]:
        one.rates[rare] = [5.0, 5.1, 5.2]
    (group,) = compare_fleet(runs, NOTHING).groups
    devices = {one.figure: one.devices for one in group.figures}
    assert (devices[None], devices[rare]) == (20, 9)


def test_the_least_difference_is_what_would_be_called_one():
    runs = fleet(64, random.Random(3), 0.01, 0.01)
    (group,) = compare_fleet(runs, NOTHING).groups
    mean = group.figures[0]
    assert mean.figure is None
    own = group.shares[runs[7].node, runs[7].device][None]
    for left, expected in ((1 - mean.least - 0.003, True), (1 - mean.least + 0.003, False)):
        assert (place(7) in names_of(fleet(64, random.Random(3), 0.01, 0.01, {7: left / own}))) is expected


def test_one_odd_process_of_three_is_no_odd_device():
    runs = fleet(64, random.Random(1), 0.002, 0.002, figures=(READ,))
    runs[5].rates[READ][1] *= 0.7
    assert compare_fleet(runs, NOTHING).outliers == ()
    runs[5].rates[READ] = [0.7 * rate for rate in fleet(64, random.Random(1), 0.002, 0.002)[5].rates[READ]]
    assert [one.run.name for one in compare_fleet(runs, NOTHING).outliers] == [place(5)]
