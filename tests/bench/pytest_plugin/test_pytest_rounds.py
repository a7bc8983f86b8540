"""Rounds of `bandwidth_benchmark` on a clock of their own, and the devices that it may be given."""

from __future__ import annotations

from types import SimpleNamespace

import fake_workers
import numpy as np
import pytest
from rows import ceiling

from membound.backends.api import Accelerator, Device
from membound.bench.measure import cold_memory
from membound.bench.planning.plan import DUEL_ROUNDS
from membound.bench.protocol import messages as m
from membound.bench.pytest_plugin import between
from membound.bench.pytest_plugin import ceilings as ceiling_run
from membound.bench.pytest_plugin import fixture as bandwidth
from membound.kernels.work import parse

SPEC = "linear:n=32,k=64,m=2,weight=f32,act=float"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """A small cache; nobody sleeps, and warming up is one launch."""
    monkeypatch.setattr(cold_memory, "last_level_cache_bytes", lambda: 1 << 16)
    monkeypatch.setattr(between, "PAUSE_S", 0.0)
    monkeypatch.setattr(between, "WARM_S", 0.0)


@pytest.fixture
def playing(monkeypatch):
    """Workers that answer at once, where a session measures its ceilings."""
    return fake_workers.install(monkeypatch)


class Timed(SimpleNamespace):
    """What the fixture needs of pytest-benchmark: rounds that take as long as `seconds` says, by a clock of its own."""

    def __init__(self, seconds, clock):
        super().__init__(enabled=True, extra_info={}, has_error=False, seconds=iter(seconds), clock=clock)

    def pedantic(self, function, rounds, iterations, warmup_rounds, teardown):
        assert warmup_rounds == 1
        data = []
        for number in range(warmup_rounds + rounds):
            for _ in range(iterations):
                result = function()
            seconds = next(self.seconds)
            self.clock[0] += seconds * iterations
            data += [seconds] if number >= warmup_rounds else []
            teardown()
        self.stats = SimpleNamespace(iterations=iterations, stats=SimpleNamespace(data=data))
        return result


def options(name):
    return {"benchmark_min_rounds": 5}[name]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for what is added."""
    now = [1000.0]
    monkeypatch.setattr(between.time, "perf_counter", lambda: now[0])
    return now


class Playing:
    """Ceilings that take a second each and come out as they are told to."""

    def __init__(self, rates, clock):
        self.rates, self.clock, self.names = iter(rates), clock, ()

    def take_turn(self):
        self.clock[0] += 1.0
        return between.Moment(self.clock[0], {"read": next(self.rates)})


def timed_rounds(monkeypatch, clock, seconds, rates, disturbances=()):
    """A benchmark of 10 sets and its row; each call takes 0.5 ms while it is warmed up."""
    shares = iter(disturbances)
    monkeypatch.setattr(between.Watch, "disturbance", lambda self, time_s, alone=True: next(shares, 0.0))
    device = Device("cpu", "a processor", 1)
    limits = [ceiling("read", 1e9, "bytes/s", "cpu", run_id="r", threads=1)]
    table = bandwidth.Table("r", 1, "pytest", lambda _: (limits, Playing(rates, clock)), began=clock[0])
    used = []

    def call(number):
        used.append(number)
        clock[0] += 0.5e-3
        return number

    fixture = bandwidth.BandwidthBenchmark(
        Timed(seconds, clock), table, "test_it", SimpleNamespace(getoption=options)
    )
    fixture(call, [(i,) for i in range(10)], bytes=10**6, device=device)
    assert used == [i % 10 for i in range(len(used))]
    return table, fixture


def test_each_round_lies_between_two_turns_of_the_ceilings(monkeypatch, clock):
    seconds = [0.9e-3, *(1e-3 * (1 + i) for i in range(DUEL_ROUNDS))]
    rates = [1e9 * (10 + i) for i in range(DUEL_ROUNDS + 1)]
    shares = [0.5 if i == 3 else 0.0 for i in range(DUEL_ROUNDS)]
    table, fixture = timed_rounds(monkeypatch, clock, seconds, rates, shares)
    (row,) = table.cases
    assert row.samples_s == []
    assert row.launches == 4, "2 ms of calls that take half of one"
    assert [t.time_s for t in row.turns] == seconds[1:]
    assert [t.round for t in row.turns] == list(range(DUEL_ROUNDS))
    assert [t.before["read"] for t in row.turns] == rates[:-1]
    assert [t.after["read"] for t in row.turns] == rates[1:]
    assert [t.disturbance for t in row.turns] == shares
    assert all(0 <= t.between <= 1 and t.launches == 4 for t in row.turns)
    ats = [t.at_s for t in row.turns]
    assert ats == sorted(ats)
    assert (row.slots, row.working_set_bytes, len(row.warmup_s)) == (10, 10**7, 10)
    assert (row.grade, row.error) == ("clean", None)
    clean = [t for t in row.turns if t.clean]
    expected = np.median([1e6 / t.ceiling("read") / t.time_s for t in clean])
    assert fixture.benchmark.extra_info["mbu"] == pytest.approx(expected)


def test_a_burst_uses_no_input_set_twice(monkeypatch, clock):
    """A call that takes no time at all would fit thousands of times into two milliseconds."""
    monkeypatch.setattr(between, "WARM_S", 2e-3)
    seconds, rates = [1e-7] * (1 + DUEL_ROUNDS), [1e9] * (1 + DUEL_ROUNDS)
    monkeypatch.setattr(bandwidth, "BURST_S", 1.0)
    (row,) = timed_rounds(monkeypatch, clock, seconds, rates)[0].cases
    assert row.launches == 9


# Devices


def test_a_device_of_its_own_memory_brings_its_cache_and_ceilings(monkeypatch, clock):
    asked = []

    def ceilings(device):
        asked.append(device.id)
        playing = None if device.accelerator else Playing([1e9] * 99, clock)
        return [ceiling("read", 3e12, "bytes/s", device.id, run_id="r", threads=1)], playing

    table = bandwidth.Table("r", 1, "pytest", ceilings)
    device = Device(
        "some:cuda", "A GPU", 1, {"driver": "1"}, Accelerator(memory_bytes=10**9, cache_bytes=50_000)
    )
    config = SimpleNamespace(getoption=options)
    fixture = bandwidth.BandwidthBenchmark(Timed([1e-6] * 99, clock), table, "test_it", config)
    assert fixture.slots(10_000, device) == 21
    assert fixture.inputs(SPEC, device).slots == -(-4 * 50_000 // parse(SPEC).footprint_bytes) + 1

    def call(_):
        clock[0] += 1e-6

    fixture(call, [("a",)], bytes=10**6, device=device, label="mine")
    fixture(call, [("a",)], bytes=10**6, label="mine")
    assert asked == ["some:cuda", "cpu"]
    on_gpu, on_cpu = table.cases
    assert (on_gpu.backend, on_gpu.device, on_gpu.versions["driver"]) == ("mine:cuda", "A GPU", "1")
    assert on_gpu.accelerator["cache_bytes"] == 50_000
    assert (on_gpu.turns, len(on_gpu.samples_s)) == ([], DUEL_ROUNDS), "nothing plays between its rounds"
    assert (on_cpu.backend, on_cpu.accelerator, len(on_cpu.turns)) == ("mine:cpu", {}, DUEL_ROUNDS)


@pytest.mark.parametrize("fails", [False, True])
def test_the_ceilings_of_a_device_play_through_its_backend(playing, fails):
    device = Device("torch:npu:0", "an NPU", 1, {}, Accelerator(memory_bytes=10**9, cache_bytes=3000), "link")

    def acts(worker, command):
        if isinstance(command, m.MeasureBackend):
            found = fake_workers.ceiling("link", 5e10, "bytes/s", config={"variant": "sum"})
            return m.Failed("error", "RuntimeError: out of order") if fails else m.Ceilings([found], {})
        return None

    playing.acts = acts
    told = []
    measured = ceiling_run.SessionCeilings("a-run", 1, told.append)
    rows, process = measured.of(device)
    assert told == ["torch:npu:0"]
    (row,) = rows
    if fails:
        assert (row.work, row.status, row.reason, process) == (
            "ceilings",
            "error",
            "RuntimeError: out of order",
            None,
        )
        return
    assert (row.run_id, row.backend, row.work, row.value) == ("a-run", "torch:npu:0", "link", 5e10)
    assert set(process.take_turn().rates) == {"link"}
    assert playing.said(m.OpenDeviceCeiling) == [m.OpenDeviceCeiling({"link": "sum"})]
    (closing,) = measured.close()
    assert (closing.backend, closing.work, closing.config["turns"]) == ("torch:npu:0", "link", 1)
    assert not playing.alive
