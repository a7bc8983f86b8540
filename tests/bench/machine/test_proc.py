"""A /proc and a /sys that say what the kernel never says, as sandboxes do: nothing is known, and nothing fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from membound.bench.machine.fingerprint import available_memory_bytes, default_threads, fingerprint
from membound.bench.machine.proc import count, real
from membound.bench.machine.telemetry import delta, snapshot

NAMES = (
    *("proc/loadavg", "proc/stat", "proc/pressure/cpu", "proc/pressure/memory", "proc/cpuinfo"),
    *("proc/self/cgroup", "proc/self/task/1/schedstat", "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max"),
    *("sys/fs/cgroup/memory.current", "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
    *("sys/devices/system/cpu/cpu0/cache/index3/size", "sys/devices/system/cpu/cpu0/cache/index3/level"),
)
NONSENSE = {
    "empty": b"",
    "no text": b"\xe3\x28\xff\x00",
    "one word": b"m.X",
    "words": b"some avg10=0.00 total=\ncpu 1 2 7/8 4 5 6 7 8 9\n2$3 1 2",
    "digits": b"some total=" + b"9" * 5000 + b"\n3\n",
    "another script": "\u00b2 \u0663 \u00b2\n".encode(),
    "zeros": b"0 0 0\n",
}


@pytest.mark.parametrize("content", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_not_known(tmp_path: Path, content: bytes) -> None:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "proc/self/cgroup").write_bytes(content + b"\n0::/\n1:cpu,memory:/a\n")
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    found = delta(snapshot(proc, sys), snapshot(proc, sys))
    known = {"psi_cpu_some_fraction", "psi_memory_some_fraction", "steal_fraction", "frequency_ratio"}
    assert {found[name] for name in known} == {None}
    assert found["load_1min"] in (None, 0.0)
    assert fingerprint(proc, sys)["last_level_cache_source"] == "assumed"
    assert available_memory_bytes(proc, sys) > 0
    assert default_threads(proc, sys) >= 1


def test_numbers_are_those_that_the_kernel_writes() -> None:
    assert [count(text) for text in ("0", "12345", "", None, "-1", "1_0", "+5", "1.5")] == [
        *(0, 12345),
        *[None] * 6,
    ]
    assert [real(text) for text in ("0.42", "3", "1e5", "nan", ".5", "", None)] == [0.42, 3.0, *[None] * 5]
