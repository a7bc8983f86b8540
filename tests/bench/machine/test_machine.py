import json
import os
from pathlib import Path

import psutil
import pytest

from membound.bench.machine import fingerprint as machine

GIB = 1 << 30


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def cache(sys: Path, cpu: int, index: int, level: int, kind: str, size: str, shared: str) -> None:
    folder = sys / f"devices/system/cpu/cpu{cpu}/cache/index{index}"
    for name, text in {"level": str(level), "type": kind, "size": size, "shared_cpu_list": shared}.items():
        write(folder / name, text)


def test_last_level_cache_adds_distinct_instances(tmp_path: Path) -> None:
    for cpu in range(4):
        cache(tmp_path, cpu, 0, 1, "Data", "48K", str(cpu))
        cache(tmp_path, cpu, 1, 1, "Instruction", "32K", str(cpu))
        cache(tmp_path, cpu, 2, 2, "Unified", "1M", str(cpu))
        cache(tmp_path, cpu, 3, 3, "Unified", "32768K", "0-1" if cpu < 2 else "2-3")
    assert machine.last_level_cache_bytes(tmp_path) == 64 << 20
    found = machine.fingerprint(tmp_path, tmp_path)
    assert (found["l1_bytes"], found["l2_bytes"], found["l3_bytes"]) == (4 * 48 << 10, 4 << 20, 64 << 20)
    assert found["last_level_cache_source"] == "l3"


def test_last_level_cache_falls_back_and_says_so(tmp_path: Path) -> None:
    assert machine.last_level_cache_bytes(tmp_path) == 32 << 20
    found = machine.fingerprint(tmp_path, tmp_path)
    assert (found["last_level_cache_source"], found["l2_bytes"], found["hypervisor"]) == (
        "assumed",
        None,
        None,
    )
    cache(tmp_path, 0, 2, 2, "Unified", "4M", "0-3")
    assert machine.last_level_cache_bytes(tmp_path) == 4 << 20
    assert machine.fingerprint(tmp_path, tmp_path)["last_level_cache_source"] == "l2"


def test_fingerprint_reads_processor_and_flags(tmp_path: Path) -> None:
    write(
        tmp_path / "cpuinfo",
        "cpu family : 25\nmodel : 17\nmodel name\t: AMD EPYC 9654\nstepping : 1\nflags\t: fpu avx2 fma hypervisor\n\nmodel name : other",
    )
    write(tmp_path / "kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
    write(tmp_path / "devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave")
    for node in (0, 1):
        (tmp_path / f"devices/system/node/node{node}").mkdir(parents=True)
    found = machine.fingerprint(tmp_path, tmp_path)
    assert (found["cpu"], found["isa"], found["hypervisor"]) == ("AMD EPYC 9654", ["fma", "avx2"], True)
    assert found["cpu_model"] == "family 25, model 17, stepping 1"
    assert (found["huge_pages"], found["governor"], found["numa_nodes"]) == ("madvise", "powersave", 2)


def test_fingerprint_of_this_machine_is_json() -> None:
    found = machine.fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert found["memory_bytes"] == psutil.virtual_memory().total
    assert 1 <= found["cores"] <= found["cpus"] == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("folder", "line", "files", "room"),
    [
        ("job", "0::/job", {"memory.max": 2 * GIB, "memory.current": GIB // 2}, 3 * GIB // 2),
        (
            "memory/job",
            "4:memory:/job",
            {"memory.limit_in_bytes": GIB, "memory.usage_in_bytes": 3 * GIB // 4},
            GIB // 4,
        ),
    ],
)
def test_available_memory_honours_cgroups(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    line: str,
    files: dict[str, int],
    room: int,
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 64 * GIB}))
    write(tmp_path / "self/cgroup", f"{line}/inner")
    assert machine.available_memory_bytes(tmp_path, tmp_path) == 64 * GIB
    base = tmp_path / "fs/cgroup" / folder
    for name, value in files.items():
        write(base / name, str(value))
    assert machine.available_memory_bytes(tmp_path, tmp_path) == room, "a parent's limit counts"
    write(base / "memory.stat", f"cache 1\ninactive_file {GIB // 8}")
    assert machine.available_memory_bytes(tmp_path, tmp_path) == room + GIB // 8
    write(base / "inner" / next(iter(files)), "max")
    assert machine.available_memory_bytes(tmp_path, tmp_path) == room + GIB // 8


def test_threads_are_cores_within_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 6, 7})
    for cpu, siblings in {0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7", 6: "2,6", 7: "3,7"}.items():
        write(tmp_path / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    assert machine.pick_cpus(4, tmp_path) == [0, 1, 2, 3]
    assert machine.pick_cpus(5, tmp_path) == [0, 1, 2, 3, 6]
    assert machine.default_threads(tmp_path, tmp_path) == 4
    write(tmp_path / "self/cgroup", "0::/")
    write(tmp_path / "fs/cgroup/cpu.max", "250000 100000")
    assert machine.default_threads(tmp_path, tmp_path) == 3
    write(tmp_path / "fs/cgroup/cpu.max", "max 100000")
    assert machine.default_threads(tmp_path, tmp_path) == 4


def test_versions_of_what_is_installed() -> None:
    import numpy

    assert machine.package_versions(["numpy", "no-such-package"]) == {"numpy": numpy.__version__}


def test_metadata_without_a_version_is_no_version_and_ours_is_known_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "version", lambda name: {"half-sent": None}[name])
    assert machine.package_versions(["half-sent", "membound"]) == {"membound": machine.__version__}
