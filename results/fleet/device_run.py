"""One device of a fleet in one run: where it stands, what it is, how fast each of its processes was, what was read beside them.

>>> from membound.results.store import each_row
>>> runs = device_runs(each_row("results/runs"))
>>> runs[0].name, runs[0].make.device, runs[0].rates
('node-3 cuda:0', 'NVIDIA H200', {Figure(backend='cuda:0', work='read', threads=8, unit='bytes/s'): [4.1e12]})

Rows are read one at a time, and only this is kept of them: a device has hundreds of rows of kilobytes. A row that names no
node is of a machine of its own: one for each run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from membound.results.fields import is_amount
from membound.results.roofline import device_class
from membound.results.row import IN_TURN, Row

NODE, RACK = "node", "rack"
"""Entries of a row's `machine` that say where it was measured."""
BESIDE = "beside"
"""Entry that names what else was busy."""
BANDWIDTH = "bytes/s"
READS = ("read", "copy", "triad")
"""Bandwidths of memory; those of caches say nothing about it, and links are named by the rows that run into them."""
COUNTERS = (
    "frequency_ratio",
    "frequency_hz",
    "steal_fraction",
    "psi_cpu_some_fraction",
    "psi_memory_some_fraction",
    "run_queue_wait_s",
    "load_1min",
    "major_faults",
    "device_clock_hz",
    "device_memory_clock_hz",
    "device_clock_ratio",
    "device_memory_clock_ratio",
    "device_power_limited_fraction",
    "device_heat_limited_fraction",
    "device_power_w",
    "device_temperature_c",
    "device_uncorrected_errors",
    "device_other_processes",
)
"""Entries of `telemetry` that may explain a slow device. Totals of a run, such as page faults, follow its length."""
THROTTLE = "device_throttle"
NOT_TOLD = (NODE, RACK, "environment", "isa")
"""Entries of `machine` that are shown in other ways."""


class Make(NamedTuple):
    """What two devices must have alike to be compared: the hardware, the software that measured it, and company."""

    device: str
    """The hardware's own name; of a processor also its family, model and cores, since guests see a maker's name alone."""
    membound: str
    python: str
    isa: str
    """Instruction sets that kernels are written for, with spaces between them."""
    beside: str = ""
    """``others`` where other devices of its machine were busy, whichever they were; else ''."""


NO_MAKE = Make("", "", "", "")


class Figure(NamedTuple):
    """What was measured of several devices: a work on a backend, or a ceiling of a kind of device."""

    backend: str
    work: str
    threads: int
    unit: str
    """``bytes/s``, or ``1/s`` of works whose bytes nobody knows."""


@dataclass(slots=True)
class DeviceRun:
    """What is known of a device in a run. `node` is the run's name where its rows name none.

    `device` is its place within the node: ``cpu``, ``cuda:3``.
    """

    node: str
    device: str
    run_id: str
    rack: str = ""
    started_at: str = ""
    make: Make = NO_MAKE
    rates: dict[Figure, list[float]] = field(default_factory=dict)
    """Of each process that counts, the median of its times as a rate."""
    facts: dict[str, str] = field(default_factory=dict)
    """What does not change in a run, by names such as ``kernel`` and ``accelerator.ecc``."""
    counters: dict[str, list[float]] = field(default_factory=dict)
    """What does: readings beside each process, by the names of `telemetry`."""
    failures: Counter[str] = field(default_factory=Counter)
    """Statuses with the reasons of those of its cases that have no time."""

    @property
    def name(self) -> str:
        """``node device``."""
        return f"{self.node} {self.device}"


@dataclass(slots=True)
class _Process:
    """What becomes a rate if it counts."""

    status: str
    grade: str
    rate: float | None
    in_turn: bool = True
    """Whether a ceiling took turns: then its rate is a median, else the best of what was tried."""


def device_runs(rows: Iterable[Row]) -> list[DeviceRun]:
    """Every device in every run, in the order of their first rows."""
    found: dict[tuple[str, str, str], DeviceRun] = {}
    processes: dict[int, dict[Figure, list[_Process]]] = {}
    for row in rows:
        if row.kind not in ("case", "ceiling"):
            continue
        key = (node_of(row) or row.run_id, device_class(row.backend), row.run_id)
        if key not in found:
            found[key] = DeviceRun(*key)
        one = found[key]
        _learn(one, row)
        figure, process = _measured(row)
        if figure is not None:
            processes.setdefault(id(one), {}).setdefault(figure, []).append(process)
    for one in found.values():
        for figure, some in processes.get(id(one), {}).items():
            if rates := _that_count(some):
                one.rates[figure] = rates
    return list(found.values())


def node_of(row: Row) -> str:
    """The name of the node that a row was measured on; '' if it names none."""
    name = row.machine.get(NODE)
    return name if isinstance(name, str) else ""


def last_runs(runs: Iterable[DeviceRun]) -> list[DeviceRun]:
    """Of each device the last run in which it has a figure, or the last one of all."""
    chosen: dict[tuple[str, str], DeviceRun] = {}
    for one in sorted(runs, key=lambda some: (bool(some.rates), some.started_at)):
        chosen[one.node, one.device] = one
    return sorted(chosen.values(), key=lambda one: (one.node, one.device))


def _measured(row: Row) -> tuple[Figure | None, _Process]:
    times, rate, unit = row.times_s, None, BANDWIDTH
    if row.kind == "ceiling":
        if row.work not in (*READS, row.memory_ceiling) or row.unit != BANDWIDTH:
            return None, _Process("", "", None)
        process = _Process(row.status, row.grade, row.value, IN_TURN[0] in row.config)
        return Figure(device_class(row.backend), row.work, row.threads, unit), process
    if not row.bytes:
        unit = "1/s"
    if times:
        rate = (row.bytes or 1) / median(times)
    return Figure(row.backend, row.work, row.threads, unit), _Process(row.status, row.grade, rate)


def _that_count(processes: Sequence[_Process]) -> list[float]:
    """The rates of those that count, as `stats.usable` has it of rows; of a ceiling those that took turns, if any did."""
    if any(one.status == "wrong" for one in processes):
        return []
    ok = [one for one in processes if one.status == "ok" and one.rate]
    ok = [one for one in ok if one.in_turn] or ok
    good = [one for one in ok if one.grade != "invalid"] or ok
    return [one.rate for one in good if one.rate]


def _learn(one: DeviceRun, row: Row) -> None:
    """What the row says of its device. Ceilings name neither their device nor versions: those of a case count."""
    one.started_at = min(filter(None, (one.started_at, row.started_at)), default="")
    one.rack = one.rack or str(row.machine.get(RACK) or "")
    if row.kind == "case" and row.status != "ok":
        one.failures[f"{row.status}: {row.reason}" if row.reason else row.status] += 1
    made = _make(row)
    one.make = Make(*(known or new for known, new in zip(one.make, made, strict=True)))
    for name, value in _facts(row):
        one.facts.setdefault(name, value)
    for name in COUNTERS:
        read = row.telemetry.get(name)
        if isinstance(read, int | float) and is_amount(read):
            one.counters.setdefault(name, []).append(float(read))
    throttled = row.telemetry.get(THROTTLE)
    if isinstance(throttled, str):
        seen = {*filter(None, one.facts.get(THROTTLE, "").split(", ")), *filter(None, throttled.split(", "))}
        one.facts[THROTTLE] = ", ".join(sorted(seen))


def _make(row: Row) -> Make:
    machine = row.machine
    if device_class(row.backend) == "cpu":
        cores = machine.get("cores")
        parts = (machine.get("cpu"), machine.get("cpu_model"), f"{cores} cores" if cores else None)
        device = ", ".join(str(part) for part in parts if part)
    else:
        device = row.device
    isa = machine.get("isa")
    return Make(
        device,
        row.versions.get("membound", ""),
        str(machine.get("python") or ""),
        " ".join(map(str, isa)) if isinstance(isa, list) else "",
        "others" if machine.get(BESIDE) else "",
    )


def _facts(row: Row) -> Iterable[tuple[str, str]]:
    """Names and values, as texts: they are compared, and shown."""
    for name, value in row.machine.items():
        if name == "memory_bytes" and isinstance(value, int | float):
            yield name, f"{round(value / 2**30)} GiB"
        elif name not in NOT_TOLD and value is not None:
            yield name, _text(value)
    environment = row.machine.get("environment")
    for name, value in environment.items() if isinstance(environment, Mapping) else ():
        yield f"environment.{name}", _text(value)
    for name, value in row.accelerator.items():
        if value is not None:
            yield f"accelerator.{name}", _text(value)
    for name, value in row.versions.items():
        yield f"versions.{name}", value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
