"""What a report shows of measured cases: the figures of `stats.summarize` with their machine, run and command.

>>> shown = cases_of(rows)
>>> shown[0].place.label, shown[0].command
('AMD EPYC (avx512_bf16), 2 threads', 'membound run linear:n=64,k=64,m=1,weight=f32,act=float --backends …')
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from membound.results.compare import machine_of
from membound.results.frame import encodable
from membound.results.roofline import device_class
from membound.results.row import Row
from membound.results.stats import cases, records, summarize, usable
from membound.results.wording import duration, percent, short

UNNAMED = "machine not named"
ABSENT = ("unsupported", "unavailable")
DISTURBED = ("contended", "invalid")
SAME_MACHINE = (
    *("cpu", "cpu_model", "isa", "cores", "memory_bytes", "last_level_cache_bytes"),
    *("placement", "beside"),
)
"""What must be equal for two runs to stand under one heading. A new kernel is the same machine."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A device of a machine with a number of threads: where one set of ceilings holds."""

    label: str
    key: str
    """What distinguishes machines that are called alike."""


@dataclass(frozen=True, slots=True)
class ShownCase:
    """One case of one run. `line` has the columns of `stats.summarize`."""

    key: str
    """Its anchor in the page."""
    line: dict[str, Any]
    place: Place
    started_at: str
    command: str
    """What measures it again; '' where another tool measured it."""
    traffic: dict[str, int]
    versions: dict[str, str]

    @property
    def backend(self) -> str:
        """Backend and device."""
        return str(self.line["backend"])

    @property
    def work(self) -> str:
        """The spec."""
        return str(self.line["work"])

    @property
    def time_s(self) -> float | None:
        """Median over processes, seconds a launch; None without a time."""
        found: float | None = self.line["time_s"]
        return found

    @property
    def validity(self) -> str:
        """The worst grade of its processes."""
        return str(self.line["validity"])


def cases_of(rows: Sequence[Row]) -> list[ShownCase]:
    """Every case of these rows, runs in order of time."""
    begun: dict[str, str] = {}
    for row in rows:
        begun[row.run_id] = min(begun.get(row.run_id) or row.started_at, row.started_at or "~")
    places = places_of(rows)
    groups = list(cases(rows).values())
    lines = [line for run in by_run(rows) for line in records(summarize(run))]
    found = {(line["run_id"], line["backend"], line["work"]): line for line in lines}
    shown = [
        _shown(
            group,
            found[tuple(map(encodable, (group[0].run_id, group[0].backend, group[0].work)))],
            places,
            begun,
        )
        for group in groups
    ]
    shown.sort(key=lambda one: (one.started_at, one.line["run_id"]))
    return [_numbered(one, f"c{number}") for number, one in enumerate(shown, 1)]


def by_run(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each run, in the order of the first of each."""
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(row.run_id, []).append(row)
    return list(runs.values())


def _shown(
    group: list[Row], line: dict[str, Any], places: dict[str, Place], begun: dict[str, str]
) -> ShownCase:
    first = next((row for row in usable(group)), group[0])
    return ShownCase(
        key="",
        line=line,
        place=places[place_key(first)],
        started_at=begun[first.run_id].strip("~"),
        command=reproducing(first, len(group)),
        traffic=first.traffic,
        versions=first.versions,
    )


def _numbered(one: ShownCase, key: str) -> ShownCase:
    return ShownCase(key, one.line, one.place, one.started_at, one.command, one.traffic, one.versions)


def place_key(row: Row) -> str:
    """What the rows of one place share: the machine, the device and the threads."""
    machine = machine_of([row.machine])
    known = tuple((name, str(machine[name])) for name in SAME_MACHINE if machine.get(name))
    device = row.device if row.accelerator else ""
    if not known and not row.device:
        return repr((UNNAMED, row.run_id))
    return repr((known or row.device, device_class(row.backend) if device else "cpu", device, row.threads))


def places_of(rows: Iterable[Row]) -> dict[str, Place]:
    """Every place by its key. Places that would be called alike get a number."""
    names: dict[str, str] = {}
    for row in rows:
        key = place_key(row)
        if key not in names:
            names[key] = _label(row)
    found: dict[str, Place] = {}
    for key, name in names.items():
        alike = [other for other in names if names[other] == name]
        label = name if len(alike) == 1 else f"{name}, machine {alike.index(key) + 1}"
        found[key] = Place(label, key)
    return found


def _label(row: Row) -> str:
    threads = f", {row.threads} thread{'s' * (row.threads != 1)}" if row.threads else ""
    if row.accelerator and row.device:
        return row.device
    cpu = str(row.machine.get("cpu") or row.device)
    if not cpu:
        return f"{UNNAMED}: {row.run_id}"
    sets = row.machine.get("isa")
    newest = f" ({sets[-1]})" if isinstance(sets, list) and sets else ""
    where = f", {row.machine['placement']}" if row.machine.get("placement") else ""
    beside = f" beside {row.machine['beside']}" if row.machine.get("beside") else ""
    return f"{cpu}{newest}{threads}{where}{beside}"


def reproducing(row: Row, replicates: int) -> str:
    """The command that measures a case again; '' for what another tool measured."""
    if "format" in row.config:
        return ""
    words = ["membound", "run", row.work, "--backends", row.backend.partition("#")[0]]
    words += ["--threads", str(row.threads)] if row.threads else []
    return shlex.join([*words, "--replicates", str(replicates), "--seed", str(row.seed)])


def latest(shown: Iterable[ShownCase]) -> list[ShownCase]:
    """For each work of each place the cases of the last run that has a time of it, in the order of the works."""
    runs: dict[tuple[str, str], str] = {}
    timed = [one for one in shown if one.time_s is not None]
    for one in timed:
        runs[(one.place.key, one.work)] = one.line["run_id"]
    return [one for one in timed if runs[(one.place.key, one.work)] == one.line["run_id"]]


def interval_text(line: dict[str, Any], name: str) -> str:
    """The 95 % interval of ``time`` or ``of_bound``, or why there is none."""
    ci = line["time_ci_s"] if name == "time" else line["of_bound_ci"]
    if ci is None:
        return "no interval: it takes three processes"
    show = duration if name == "time" else percent
    return f"95 % interval {show(ci[0])} to {show(ci[1])}"


def validity_text(line: dict[str, Any]) -> str:
    """The grade, of how many processes, and what disturbed them."""
    of = f"{line['validity']} ({line['replicates']} process{'es' * (line['replicates'] != 1)})"
    return f"{of}: {line['validity_reasons']}" if line["validity_reasons"] else of


def marked(one: ShownCase) -> str:
    """The hint of a mark in a chart. The page makes a link to the row of the case of the key in front, which has the command."""
    line = one.line
    parts = [
        f"{one.backend}, {short(one.work)}",
        f"{duration(line['time_s'])}, {interval_text(line, 'time')}",
    ]
    if line["of_bound"] is not None:
        parts.append(f"{percent(line['of_bound'])} of the limit, {interval_text(line, 'of_bound')}")
    return f"#{one.key} " + "\n".join([*parts, validity_text(line)])


def described(one: ShownCase) -> str:
    """All that is to know of a case: its figures with intervals, its validity and its command, a line each."""
    told = marked(one).partition(" ")[2]
    return f"{told}\n{one.command or 'measured by another tool'}"
