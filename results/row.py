"""One measured case: a row. Everything a reader needs to judge a number stands in it.

Raw turns are stored; medians, intervals, MBU, MFU and verdicts are derived on load (`stats.py`), so
that a better statistic can be applied to an old measurement.

>>> row = Row.from_json(line)            # raises RowError on a newer schema or a malformed row
"""

# Schema history
#   1  first version
#   2  device_samples_s, timed_launches, accelerator, memory_ceiling; a row of version 1 has none of them
#   3  turns, each with the ceilings of its own moment; older rows have samples of minutes of their own instead
#   4  kind "serving" with the requests of a point of load

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any

from membound.errors import MemboundError
from membound.results.fields import (
    NUMBER,
    is_amount,
    read_json,
    short,
    wrong_field,
    wrong_version,
)
from membound.results.serving.request import Request
from membound.results.serving.step_model import wrong_roofline
from membound.results.turns import SHORTEST_S, SLOWEST, StoredTurn, usable_times

SCHEMA_VERSION = 4

SUMMARY = "samples"
"""A key of `config`: samples are not raw ones but a summary, and say only what they are."""

STATUSES = (
    "ok",
    "unsupported",  # the runtime cannot do this work; reason says why
    "unavailable",  # the runtime or the device is not there; reason says what would help
    "wrong",  # the output misses the reference; samples are kept but never summarised
    "crashed",  # the worker died; reason names the signal or the last words
    "timeout",  # the worker was stopped; reason gives the limit
    "oom",  # memory ran out and was caught
    "error",  # the runtime raised; reason is its message
)
EXCHANGED = "exchanged_bytes"
"""In `traffic`: what ranks send each other a launch, over links; no part of `bytes`."""
GRADES = ("clean", "contended", "invalid", "unknown")
KINDS = ("case", "ceiling", "serving")
IN_TURN = ("turns", "lowest", "highest")
"""What the config of a ceiling that took turns says of them."""
MEASURED = {
    "accelerator": ("cache_bytes",),
    "config": ("array_bytes", "arrays", "rotation_bytes", "threads", *IN_TURN),
    "machine": ("last_level_cache_bytes", "memory_bytes"),
    "telemetry": ("device_energy_j",),
}
"""Entries of free-form fields that figures are made from: numbers, or null where nothing could be read.

`config` is that of a ceiling; a case's holds what its runtime was set to, in any words.
"""
BATCH = re.compile("(?:step|onnx):(?:[^,]*,)*batch=([^,]*)")
"""A step's batch, from which the energy of a token follows."""
BATCH_SIZE = re.compile("[0-9]{1,18}")


class RowError(MemboundError, ValueError):
    """A row cannot be read: malformed, or written by a newer membound."""


@dataclass(slots=True)
class Row:
    """One case in one worker process. Times are seconds, bytes are bytes, rates are per second.

    kind is "case" for a work on a backend, "ceiling" for a measured limit of the device, "serving" for a point of load
    on a server.
    """

    run_id: str
    kind: str
    backend: str
    """Backend and device as asked for: ``torch:cpu+compile``; for a ceiling the device it limits."""
    work: str
    """Canonical spec of the work; for a ceiling its name: ``read``, ``copy``, ``fma_f32``, ``gemm_bf16`` …"""
    status: str
    reason: str = ""
    replicate: int = 0
    seed: int = 0
    threads: int = 0
    device: str = ""
    """The device's own name: a CPU or GPU model."""
    accelerator: dict[str, Any] = field(default_factory=dict)
    """A device with memory of its own: sizes, driver, modes and limits; empty where works run on the CPU."""
    memory_ceiling: str = "read"
    """The bandwidth ceiling that the bytes run into: ``read``, or a link's where weights stream over one."""
    started_at: str = ""
    """UTC, ISO 8601."""
    bytes: int = 0
    flops: int = 0
    traffic: dict[str, int] = field(default_factory=dict)
    """The parts of `bytes` by the names of `work.Traffic`; besides them EXCHANGED, where processes share the work."""
    stored_bytes: int | None = None
    """Bytes of weights and cache streamed a launch where the runtime stores them otherwise; None: as asked."""
    slots: int = 0
    working_set_bytes: int = 0
    """The fewest bytes that passed through the caches before a timed burst used a set again; of all sets where they rotate alone."""
    launches: int = 1
    """Launches behind each sample; samples are per launch."""
    prepare_s: float = 0.0
    first_s: float = 0.0
    """The first launch, cold in every sense."""
    warmup_s: list[float] = field(default_factory=list)
    samples_s: list[float] = field(default_factory=list)
    """Of rows without turns: ceilings, benchmarks under pytest, and cases of older versions."""
    turns: list[StoredTurn] = field(default_factory=list)
    """Timed bursts in turn with other contestants, each with the ceilings right before and after it."""
    requests: list[Request] = field(default_factory=list)
    """Of a point of load: every request, whatever became of it; `config` has the window (`warm_s`, `end_s`) and the load."""
    hot_samples_s: list[float] = field(default_factory=list)
    """The same input set again and again: a second figure, never the headline."""
    device_samples_s: list[float] = field(default_factory=list)
    """Seconds a launch by the device's own clock, launches queued without waiting; empty where it has none."""
    timed_launches: int = 0
    """All launches while the counters of `telemetry` ran: what energy is shared out over."""
    error: float | None = None
    """Root mean square error against the float64 reference over its root mean square; worst of all checks."""
    tolerance: float | None = None
    value: float | None = None
    """A ceiling's figure: bytes/s, FLOP/s or seconds by `unit`."""
    unit: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    """A ceiling's array sizes, streams, threads; a case's variant settings."""
    telemetry: dict[str, Any] = field(default_factory=dict)
    """Counters beside the replicate: see bench/machine/fingerprint.py."""
    grade: str = "unknown"
    grade_reasons: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    """The machine's fingerprint: CPU, caches, memory, kernel; see bench/machine/fingerprint.py."""
    versions: dict[str, str] = field(default_factory=dict)
    """Packages of the interpreter that measured."""
    command: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RowError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        if self.status not in STATUSES:
            raise RowError(f"status {self.status!r} is none of {', '.join(STATUSES)}")
        if self.grade not in GRADES:
            raise RowError(f"grade {self.grade!r} is none of {', '.join(GRADES)}")

    @property
    def times_s(self) -> list[float]:
        """Seconds a launch: of the turns that count, or the samples."""
        return usable_times(self.turns) if self.turns else self.samples_s

    def to_json(self) -> str:
        """One line of JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclass_fields(self)}
        fields["turns"] = [turn.as_json() for turn in self.turns]
        fields["requests"] = [one.as_json() for one in self.requests]
        return json.dumps(fields, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Row:
        """Read one line. Raises RowError on malformed text, a field that is not what it should be, a newer schema."""
        try:
            data = read_json(line)
        except ValueError as error:
            raise RowError(f"not JSON: {error}") from None
        if not isinstance(data, dict):
            raise RowError("not a row: no JSON object")
        if wrong := wrong_version(data, SCHEMA_VERSION):
            raise RowError(wrong)
        _migrate(data)
        if wrong := wrong_field(cls, data):
            raise RowError(f"not a row: {wrong}")
        try:
            data["turns"] = [StoredTurn.from_fields(turn) for turn in data.get("turns", [])]
        except ValueError as error:
            raise RowError(f"not a row: turns: {error}") from None
        try:
            data["requests"] = [Request.from_fields(one) for one in data.get("requests", [])]
        except ValueError as error:
            raise RowError(f"not a row: requests: {error}") from None
        row = cls(**data)
        if wrong := _wrong_figure(row):
            raise RowError(wrong)
        if row.status == "ok" and (missed := missed_reference(row.error, row.tolerance)):
            row.status, row.reason = (
                "wrong",
                missed,
            )  # whoever wrote it: what misses the reference has no time
        return row


def missed_reference(error: float | None, tolerance: float | None) -> str:
    """Why a row is wrong that says it is ok, or ''."""
    if error is None or not tolerance or error <= tolerance:
        return ""
    return f"error {error:.3g} above the tolerance of {tolerance:.3g}"


def _wrong_figure(row: Row) -> str:
    """What no measurement can have given, or ''."""
    for name in ("samples_s", "hot_samples_s", "device_samples_s"):
        if min(getattr(row, name), default=1.0) < SHORTEST_S:
            return f"{name} holds a time of {min(getattr(row, name)):g} s"
    if row.status == "ok" and row.kind == "case" and not row.samples_s and not row.turns:
        return "a case that is ok has neither turns nor samples"
    if row.status == "ok" and row.kind == "ceiling" and (row.value or 0.0) < SLOWEST:
        return f"a ceiling that is ok has the value {row.value}"
    if row.kind == "ceiling" and (wrong := wrong_config(row.config)):
        return wrong
    if row.kind == "serving" and (wrong := _wrong_load(row)):
        return wrong
    batch = BATCH.match(row.work)
    if batch and not BATCH_SIZE.fullmatch(batch[1]):
        return f"work {short(row.work)}: batch={short(batch[1])} is not a number"
    free = (name for name in MEASURED if name != "config")
    return next((wrong for name in free if (wrong := wrong_entry(name, getattr(row, name)))), "")


def wrong_entry(name: str, stored: Mapping[str, Any]) -> str:
    """What a reader could make no figure of in the free-form field of that name, or ''."""
    for entry in MEASURED[name]:
        if stored.get(entry) is not None and not is_amount(stored[entry]):
            return f"{entry}={short(stored[entry])} of {name} is not {NUMBER}"
    return ""


def wrong_config(config: Mapping[str, Any]) -> str:
    """What a reader of ceilings could make no figure of in a ceiling's config, or ''."""
    if not isinstance(config.get("work", ""), str):
        return f"work={short(config['work'])} of config is not text"
    for entry in MEASURED["config"]:
        if not is_amount(config.get(entry, 0)):
            return f"{entry}={short(config[entry])} of config is not {NUMBER}"
    told = [entry for entry in IN_TURN if entry in config]
    return (
        f"config has {', '.join(told)} but not all of {', '.join(IN_TURN)}"
        if 0 < len(told) < len(IN_TURN)
        else ""
    )


def _wrong_load(row: Row) -> str:
    """What is wrong with a point of load, or ''."""
    warm_s: Any = row.config.get("warm_s")
    end_s: Any = row.config.get("end_s")
    if not (is_amount(warm_s) and is_amount(end_s) and 0 <= warm_s < end_s):
        return f"a point of load has the window {warm_s!r} to {end_s!r}"
    slo = row.config.get("slo", "")
    if not isinstance(slo, str):
        return f"slo={slo!r} of config is not text"
    if row.config.get("search") and "rate" not in row.config:
        return "a point of a search has no rate"
    for name in ("rate", "users", "trace"):
        if not is_amount(row.config.get(name, 0)):
            return f"{name}={short(row.config[name])} of config is not {NUMBER}"
    server = row.config.get("server", {})
    if not isinstance(server, dict) or any(
        not is_amount(value) for name, value in server.items() if name != "settings" and value is not None
    ):
        return f"server={str(server)[:80]!r} of config has entries that are no numbers"
    if wrong := wrong_roofline(row.config.get("roofline", {})):
        return wrong
    for name in ("truth", "engine", "client"):
        if not isinstance(row.config.get(name, {}), dict):
            return f"{name}={str(row.config[name])[:80]!r} of config is no object"
    added = row.config.get("client", {}).get("null_server")
    if added is not None and not (isinstance(added, dict) and all(map(_is_figure, added.values()))):
        return f"null_server={str(added)[:80]!r} of a point's client has entries that are no numbers"
    if row.status == "ok" and not any(one.ok and warm_s <= one.due_s < end_s for one in row.requests):
        return "a point of load is ok without a whole answer in its window"
    return ""


def _is_figure(value: Any) -> bool:
    """Whether it is a number of either sign that arithmetic can take, or none was measured."""
    return value is None or is_amount(value) or (type(value) in (int, float) and is_amount(-value))


def _migrate(data: dict[str, Any]) -> None:
    """Bring an older row to this schema. Fields that versions 2 to 4 added have defaults that say "not there"."""
    data["schema_version"] = SCHEMA_VERSION
