"""One measurement of an experiment on the claim: one (experiment, backend, arm, dose) in one worker process.

>>> seen = Observation(1, "mine:cpu", "linear_f32", 0, {"k": 8.0}, "linear:…", 234_000_000, 1_900_000_000)
>>> Observation.from_json(seen.to_json()) == seen
True

A claim file (`file.py`) is a line of `ClaimMeta`, the ceilings as ordinary rows, and observations. What
could not be measured is an observation with a status and a reason; it is never missing. The observation has everything
that a rule needs, its ceilings too, so that a stored file is judged like a fresh one.
"""

# Schema history of claim files
#   1  first version
#   2  status skipped
#   3  turns, each with the ceilings of its own moment; the ceilings of an observation are their medians

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any, Self

import numpy as np

from membound.errors import MemboundError
from membound.results.fields import read_json, short, wrong_field, wrong_version
from membound.results.row import GRADES, STATUSES, wrong_entry
from membound.results.turns import SHORTEST_S, SLOWEST, StoredTurn

SCHEMA_VERSION = 3

SMALLEST = 1e-12
"""Of factors that are not 0: squares of smaller ones, and quotients by them, leave the range of numbers."""
SKIPPED = "skipped"
"""A status that rows do not have: nothing was measured, but nothing went wrong; the reason says why."""
NO_TIME = "no time left"
"""The reason if time ran out."""


class ObservationError(MemboundError, ValueError):
    """A line of a claim file cannot be read: malformed, or written by a newer membound."""


def read_object(cls: type[Any], line: str, kind: str) -> dict[str, Any]:
    """The fields of `cls` in a line of that kind. Raises ObservationError, with "not JSON" only if the text is cut off."""
    try:
        data = read_json(line)
    except ValueError as error:
        raise ObservationError(f"not JSON: {error}") from None
    if not isinstance(data, dict) or data.pop("kind", None) != kind:
        raise ObservationError(f"not a line of kind {kind}")
    if wrong := wrong_version(data, SCHEMA_VERSION, " of claim files") or wrong_field(cls, data):
        raise ObservationError(wrong)
    return data


@dataclass(frozen=True, slots=True)
class ClaimMeta:
    """What a whole claim file has in common: its first line."""

    claim_id: str
    experiments_version: int
    experiments_sha256: str
    machine: dict[str, Any]
    """The machine's fingerprint, as in rows."""
    threads: int
    seed: int
    started_at: str
    """UTC, ISO 8601."""
    command: str = ""
    rigor: str = ""
    only: list[int] = field(default_factory=list)
    """Experiments that were asked for; empty: all."""
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({"kind": "meta"} | asdict(self), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read one line. Raises ObservationError."""
        data = read_object(cls, line, "meta")
        if wrong := _wrong_machine(data["machine"]):
            raise ObservationError(wrong)
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Observation:
    """One arm at one dose on one backend in one worker process. Seconds, bytes and FLOPs are those of a launch."""

    experiment: int
    backend: str
    """Backend and device as in rows."""
    arm: str
    replicate: int
    """The process; observations of an experiment with the same backend and replicate are paired."""
    factors: dict[str, float | str]
    """The dose and whatever else was set or measured with it, by the names in experiments.toml."""
    work: str
    """Canonical spec of the work."""
    bytes: int
    flops: int
    """All FLOPs that were done, including the extra ones of a dose."""
    time_s: float | None = None
    """Median of `samples_s`; None without a time."""
    samples_s: list[float] = field(default_factory=list)
    """Seconds of the turns that count."""
    turns: list[StoredTurn] = field(default_factory=list)
    """All turns, as in rows; none in files of older versions."""
    validity: str = "unknown"
    """Grade of the replicate, as in rows."""
    validity_reasons: list[str] = field(default_factory=list)
    status: str = "ok"
    """As in rows, or SKIPPED."""
    reason: str = ""
    """Why the status is not ok."""
    threads: int = 0
    read_bytes_per_s: float | None = None
    """Measured read ceiling of the same device with this many threads, at the moments of the turns."""
    compute_flops_per_s: float | None = None
    """Measured peak of this arithmetic, likewise."""
    launch_s: float | None = None
    """Measured launch overhead of the backend."""
    started_at: str = ""
    telemetry: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.status not in (*STATUSES, SKIPPED):
            raise ObservationError(f"status {self.status!r} is none of {', '.join((*STATUSES, SKIPPED))}")
        if self.validity not in GRADES:
            raise ObservationError(f"validity {self.validity!r} is none of {', '.join(GRADES)}")
        if self.time_s is not None and not 0 < self.time_s < float("inf"):
            raise ObservationError(f"time_s {self.time_s} is no time")
        if (self.status == "ok") != (self.time_s is not None):
            raise ObservationError(f"status {self.status} with time_s {self.time_s}")
        if not all(self.samples_s):
            raise ObservationError("samples_s holds a time of 0 s")
        for name in ("read_bytes_per_s", "compute_flops_per_s", "launch_s"):
            if getattr(self, name) == 0:
                raise ObservationError(f"{name} is 0, which no ceiling is")

    @property
    def seconds(self) -> float:
        """The time of an observation that has one. Raises ObservationError otherwise."""
        if self.time_s is None:
            raise ObservationError(f"{self.work} has no time: {self.status} {self.reason}")
        return self.time_s

    def number(self, factor: str) -> float:
        """A factor as a number. Raises ObservationError, which names it."""
        value = self.factors.get(factor)
        if isinstance(value, str) or value is None:
            raise ObservationError(
                f"experiment {self.experiment}, arm {self.arm}: factor {factor} is {value!r}"
            )
        return float(value)

    def positive(self, factor: str) -> float:
        """A factor that is divided by, or whose logarithm counts. Raises ObservationError as `number` and on 0."""
        value = self.number(factor)
        if not value:
            raise ObservationError(
                f"experiment {self.experiment}, arm {self.arm}: factor {factor} is {value:g}"
            )
        return value

    def to_json(self) -> str:
        """One line of JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclass_fields(self)}
        fields["turns"] = [turn.as_json() for turn in self.turns]
        return json.dumps({"kind": "observation"} | fields, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read one line. Raises ObservationError on malformed text, an unknown field or a newer schema."""
        data = read_object(cls, line, "observation")
        try:
            data["turns"] = [StoredTurn.from_fields(turn) for turn in data.get("turns", [])]
        except ValueError as error:
            raise ObservationError(f"turns: {error}") from None
        one = cls(**data)
        if wrong := one._wrong_figure():
            raise ObservationError(wrong)
        return one

    def _wrong_figure(self) -> str:
        """What no measurement can have given, or ''; `fields` has seen to the types."""
        if self.status == "ok" and not self.samples_s:
            return "an observation that is ok has no samples"
        if self.status == "ok" and not self.bytes:
            return "an observation that is ok has moved no bytes"
        times = [time for time in (self.time_s, self.launch_s, *self.samples_s) if time is not None]
        if min(times, default=1.0) < SHORTEST_S:
            return f"a time of {min(times):g} s"
        small = [
            name
            for name, value in self.factors.items()
            if not isinstance(value, str) and 0 < value < SMALLEST
        ]
        if small:
            return f"factor {small[0]} is {self.factors[small[0]]:g}"
        rates = [rate for rate in (self.read_bytes_per_s, self.compute_flops_per_s) if rate is not None]
        return f"a ceiling of {min(rates):g}" if min(rates, default=1.0) < SLOWEST else ""


def _wrong_machine(machine: Mapping[str, Any]) -> str:
    """What a reader of the fingerprint could make nothing of, or ''."""
    sets = machine.get("isa") or []
    if not isinstance(sets, list):
        return f"isa={short(sets)} of machine is not a list"
    return wrong_entry("machine", machine)


def median_s(samples_s: list[float]) -> float:
    """The `time_s` of these samples: their median, in seconds."""
    return float(np.median(samples_s))
