from pathlib import Path

import pytest

from membound.bench.machine.telemetry import Snapshot, delta, snapshot
from membound.bench.machine.validity import grade

QUIET = {
    "wall_s": 2.0,
    "cpu_s": 1.99,
    "psi_cpu_some_fraction": 0.049,
    "psi_memory_some_fraction": 0.0,
    "steal_fraction": 0.009,
    "major_faults": 0,
    "run_queue_wait_s": 0.01,
    "frequency_ratio": None,
}


def test_a_quiet_replicate_is_clean() -> None:
    assert grade(QUIET, 1) == ("clean", [])
    assert grade(QUIET | {"cpu_s": 0.1}, 2) == ("clean", []), "CPU time is judged for one thread only"


@pytest.mark.parametrize(
    ("changed", "threads", "expected", "reason"),
    [
        ({"psi_cpu_some_fraction": 0.06}, 2, "contended", "CPU pressure 6.0% > 5%"),
        ({"psi_cpu_some_fraction": 0.26}, 2, "invalid", "CPU pressure 26.0% > 25%"),
        ({"steal_fraction": 0.011}, 2, "contended", "stolen time 1.1% > 1%"),
        ({"steal_fraction": 0.2}, 2, "invalid", "stolen time 20.0% > 5%"),
        ({"cpu_s": 1.8}, 1, "contended", "idle time 10.0% > 5%"),
        ({"cpu_s": 1.0}, 1, "invalid", "idle time 50.0% > 25%"),
        ({"run_queue_wait_s": 0.3}, 2, "contended", "run-queue wait 7.5% > 5%"),
        ({"psi_memory_some_fraction": 0.02}, 2, "contended", "memory pressure 2.0% > 1%"),
        ({"major_faults": 3}, 2, "invalid", "3 page faults that went to disk"),
        ({"frequency_ratio": 0.7}, 2, "invalid", "clock at 70% of its base < 75%"),
    ],
)
def test_each_threshold(changed: dict[str, float], threads: int, expected: str, reason: str) -> None:
    assert grade(QUIET | changed, threads) == (expected, [reason])


@pytest.mark.parametrize(
    "name", ["psi_cpu_some_fraction", "steal_fraction", "major_faults", "run_queue_wait_s"]
)
def test_an_unreadable_counter_is_unknown_and_never_clean(name: str) -> None:
    found, reasons = grade(QUIET | {name: None}, 2)
    assert found == "unknown"
    assert len(reasons) == 1
    assert reasons[0].endswith("cannot be read")
    assert grade(QUIET | {name: None, "psi_memory_some_fraction": 0.5}, 2)[0] == "invalid"
    assert grade({}, 1)[0] == "unknown"


def fake_machine(folder: Path, psi_us: int, steal: int, wait_ns: int, khz: int) -> tuple[Path, Path]:
    proc, sys = folder / "proc", folder / "sys"
    for path, text in {
        proc / "loadavg": "1.50 0.7 0.5 1/100 4242\n",
        proc
        / "pressure/cpu": f"some avg10=0.00 avg60=0.00 avg300=0.00 total={psi_us}\nfull avg10=0 total=0\n",
        proc / "pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        proc / "stat": f"cpu  1000 0 100 {8900 - steal} 0 0 0 {steal} 500 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n",
        proc / "self/task/11/schedstat": f"123456 {wait_ns} 9\n",
        proc / "self/task/12/schedstat": f"5 {2 * wait_ns} 9\n",
        sys / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": f"{khz}\n",
        sys / "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": f"{khz + 200000}\n",
        sys / "devices/system/cpu/cpu0/cpufreq/base_frequency": "2000000\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc, sys


def test_counters_are_read_from_proc_and_sys(tmp_path: Path) -> None:
    got = snapshot(*fake_machine(tmp_path, psi_us=2_500_000, steal=30, wait_ns=40_000_000, khz=1_800_000))
    assert (got.load_1min, got.psi_cpu_s, got.psi_memory_s) == (1.5, 2.5, 7e-6)
    assert (got.steal_ticks, got.total_ticks) == (30, 10000), "guest time is part of user time"
    assert got.run_queue_s == {"11": 0.04, "12": 0.08}
    assert (got.frequency_hz, got.base_frequency_hz) == (1.9e9, 2e9)


def test_a_change_between_two_snapshots(tmp_path: Path) -> None:
    before = snapshot(*fake_machine(tmp_path, 1_000_000, 10, 0, 2_000_000))
    after = snapshot(*fake_machine(tmp_path, 1_300_000, 40, 50_000_000, 2_000_000))
    fields = {name: getattr(after, name) for name in Snapshot.__slots__}
    later = Snapshot(
        **(fields | {"wall_s": before.wall_s + 3.0, "total_ticks": 10600, "cpu_s": before.cpu_s + 2.5})
    )
    got = delta(before, later)
    assert got["psi_cpu_some_fraction"] == pytest.approx(0.1)
    assert got["steal_fraction"] == pytest.approx(30 / 600)
    assert got["run_queue_wait_s"] == pytest.approx(0.15)
    assert got["cpu_s"] == pytest.approx(2.5)
    assert got["frequency_ratio"] == pytest.approx(1.05)
    assert grade(got, 2)[0] == "contended"


def test_a_machine_that_tells_nothing_is_unknown(tmp_path: Path) -> None:
    before = snapshot(tmp_path, tmp_path)
    got = delta(before, snapshot(tmp_path, tmp_path))
    told = {name for name, value in got.items() if value is not None}
    assert told == {
        "wall_s",
        "cpu_s",
        "voluntary_switches",
        "involuntary_switches",
        "minor_faults",
        "major_faults",
    }
    assert grade(got, 2)[0] == "unknown"
    assert len(grade(got, 2)[1]) == 4


def test_this_machine_counts_forwards() -> None:
    before = snapshot()
    sum(range(200_000))
    got = delta(before, snapshot())
    assert got["wall_s"] is not None
    assert got["wall_s"] > 0
    assert all(value is None or value >= 0 for value in got.values())
