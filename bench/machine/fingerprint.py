"""What this machine is: processor, caches, memory, kernel, and the packages that decide speed.

>>> fingerprint()["cpu"], last_level_cache_bytes()
('AMD EPYC 9654 96-Core Processor', 402653184)

Everything is read and nothing assumed: what cannot be read is None. The exception is the last-level cache, which the
protocol needs; the fingerprint says where its figure comes from.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from pathlib import Path
from typing import Any

import psutil

from membound.bench.machine.environment import recorded
from membound.bench.machine.proc import count, text_of
from membound.version import __version__

PROC = Path("/proc")
SYS = Path("/sys")

ASSUMED_CACHE_BYTES = 32 << 20
"""Used if the system describes no cache: the last-level cache of a common desktop processor. The row says so."""

HARNESS_PACKAGES = ("membound", "numpy", "numba", "llvmlite")
"""Packages that decide speed whatever the backend; each backend names its own besides."""

ISA_FLAGS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)
"""The instruction sets that decode kernels are written for, by their names in /proc/cpuinfo."""


def fingerprint(proc: Path = PROC, sys: Path = SYS) -> dict[str, Any]:
    """The machine as stored in every row: all sizes in bytes; None where the system does not say."""
    info = _cpuinfo(proc)
    flags = set((info.get("flags") or info.get("Features") or "").split())
    last_level, source = _last_level_cache(sys)
    cpus = sorted(os.sched_getaffinity(0))
    return {
        "cpu": info.get("model name") or info.get("Model") or platform.processor() or platform.machine(),
        "cpu_model": _cpu_model(info),
        "architecture": platform.machine(),
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "cpus": len(cpus),
        "cores": len(_cores(cpus, sys)),
        "l1_bytes": _level_bytes(sys, 1),
        "l2_bytes": _level_bytes(sys, 2),
        "l3_bytes": _level_bytes(sys, 3),
        "last_level_cache_bytes": last_level,
        "last_level_cache_source": source,
        "numa_nodes": len(list((sys / "devices/system/node").glob("node[0-9]*"))) or None,
        "memory_bytes": psutil.virtual_memory().total,
        "bios": _bios(sys),
        "kernel": platform.release(),
        "system": platform.system(),
        "hypervisor": "hypervisor" in flags if flags else None,
        "governor": text_of(sys / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "huge_pages": _chosen(text_of(sys / "kernel/mm/transparent_hugepage/enabled")),
        "python": platform.python_version(),
        "environment": recorded(os.environ),
    }


def last_level_cache_bytes(sys: Path = SYS) -> int:
    """The bytes of all last-level caches together, which rotating input sets must exceed."""
    return _last_level_cache(sys)[0]


def available_memory_bytes(proc: Path = PROC, sys: Path = SYS) -> int:
    """The bytes that this process may still allocate: the machine's free memory, or less if a cgroup limits it."""
    limits = [_cgroup_room(folder) for folder in _cgroups(proc, sys)]
    return min([psutil.virtual_memory().available, *(room for room in limits if room is not None)])


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those of the named distributions that are installed in this interpreter; membound's own in any case.

    A package that runs without being installed, as a fleet sends ours to its nodes, may have metadata without a version, or none.
    """
    found = {}
    for name in names:
        try:
            known = __version__ if name == "membound" else version(name)
        except PackageNotFoundError:
            continue
        if known:
            found[name] = known
    return found


def default_threads(proc: Path = PROC, sys: Path = SYS) -> int:
    """The physical cores that this process may use, or fewer if a cgroup's quota allows no more."""
    cores = len(_cores(sorted(os.sched_getaffinity(0)), sys))
    quotas = [_cgroup_cpus(folder) for folder in _cgroups(proc, sys)]
    return max(1, min([cores, *(q for q in quotas if q is not None)]))


def pick_cpus(threads: int, sys: Path = SYS) -> list[int]:
    """The CPUs for a worker with that many threads: first one of each physical core, then their siblings."""
    allowed = sorted(os.sched_getaffinity(0))
    first = _cores(allowed, sys)
    return [*first, *(cpu for cpu in allowed if cpu not in first)][:threads]


def _cores(cpus: list[int], sys: Path) -> list[int]:
    """The first CPU of each physical core among `cpus`."""
    seen: dict[str, int] = {}
    for cpu in cpus:
        topology = sys / f"devices/system/cpu/cpu{cpu}/topology"
        seen.setdefault(text_of(topology / "thread_siblings_list") or f"cpu{cpu}", cpu)
    return list(seen.values())


def _cpuinfo(proc: Path) -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo."""
    block = (text_of(proc / "cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_model(info: dict[str, str]) -> str | None:
    """Family, model and stepping, which distinguish processors of which a hypervisor gives only the maker's name."""
    names = {"family": "cpu family", "model": "model", "stepping": "stepping"}
    found = [f"{word} {info[key]}" for word, key in names.items() if key in info]
    return ", ".join(found) or None


def _last_level_cache(sys: Path) -> tuple[int, str]:
    for level in (3, 2):
        size = _level_bytes(sys, level)
        if size:
            return size, f"l{level}"
    return ASSUMED_CACHE_BYTES, "assumed"


def _level_bytes(sys: Path, level: int) -> int | None:
    """Bytes of all distinct data or unified caches of a level; None if none is described."""
    instances = {}
    for folder in (sys / "devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        if text_of(folder / "level") == str(level) and text_of(folder / "type") != "Instruction":
            shared = text_of(folder / "shared_cpu_list") or folder.parent.parent.name
            instances[shared] = _size(text_of(folder / "size"))
    return sum(instances.values()) or None


def _size(text: str | None) -> int:
    """Bytes of a size as the kernel writes it: 48K, 307200K, 32M."""
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?)", text or "")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]] if match else 0


def _cgroups(proc: Path, sys: Path) -> list[Path]:
    """Folders of this process's cgroup and its parents, in both versions of the hierarchy."""
    folders = []
    for line in (text_of(proc / "self/cgroup") or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) < 3:
            continue
        _, controllers, group = parts
        names = controllers.split(",")
        roots = ["", "unified"] if not controllers else [n for n in ("memory", "cpu") if n in names]
        for root in roots:
            base = sys / "fs/cgroup" / root
            inner = base / group.lstrip("/")
            folders += [p for p in (inner, *inner.parents) if p.is_relative_to(base)]
    return folders


def _cgroup_room(folder: Path) -> int | None:
    """The bytes left under a cgroup's memory limit; page cache that can be dropped counts as free."""
    for limit_name, usage_name in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, usage = (count(text_of(folder / name)) for name in (limit_name, usage_name))
        if limit is not None and usage is not None:
            stat = re.search(
                r"^(?:total_)?inactive_file ([0-9]{1,20})$", text_of(folder / "memory.stat") or "", re.M
            )
            return max(0, limit - usage + (int(stat[1]) if stat else 0))
    return None


def _cgroup_cpus(folder: Path) -> int | None:
    """The number of CPUs that a cgroup's quota allows, rounded up; None without one."""
    told, _, of = (text_of(folder / "cpu.max") or "").partition(" ")
    if not told:
        told, of = (text_of(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
    quota, period = count(told), count(of)
    return ceil(quota / period) if quota is not None and period else None


def _bios(sys: Path) -> str | None:
    """Vendor, version and date of the firmware."""
    told = (text_of(sys / f"class/dmi/id/bios_{name}") for name in ("vendor", "version", "date"))
    return " ".join(filter(None, told)) or None


def _chosen(text: str | None) -> str | None:
    """The choice in brackets, as in ``always [madvise] never``."""
    match = re.search(r"\[(\w+)\]", text or "")
    return match[1] if match else None
