"""What the harness and its workers say to each other: one dataclass for each message, one JSON object a line.

>>> line = encode(TakeTurn(contestant=0), number=7)
>>> decode(line, COMMANDS)
(TakeTurn(contestant=0, ...), 7)

A conversation: the harness sends a command with a number, the worker answers with any count of `Phase` and then
with one reply that carries the same number. Nothing else is ever sent, so that whatever else arrives shows a
backend that writes where it must not. Every field is checked against its annotation on arrival.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from membound.results.fields import fields_of, read_json, wrong_field

PROTOCOL = 4
"""Both sides must speak the same: an interpreter of its own may hold another membound."""
COMPILING = "compiling"
MOST_LINE = 4 << 20
"""Bytes of a line at most: an answer has a few thousand, and what is read from one may take 30 times as many."""


class ProtocolError(Exception):
    """A line that is no message, or not the one that was due."""


# Commands: from the harness


@dataclass(frozen=True, slots=True)
class Probe:
    """Open the `devices` of an entry point, or all that it lists, one after the other. Answer: Found."""

    entry: str
    devices: list[str]


@dataclass(frozen=True, slots=True)
class AskCoverage:
    """Which of these works each device of an entry point supports. Answer: Coverage."""

    entry: str
    works: list[str]


@dataclass(frozen=True, slots=True)
class MeasureMachine:
    """The machine's limits that do not take turns. Answer: Ceilings."""

    quick: bool


@dataclass(frozen=True, slots=True)
class OpenCeiling:
    """Make ready what takes turns as a ceiling of the processor: reads, and products of these formats. Answer: CeilingOpened."""

    products: list[str]


@dataclass(frozen=True, slots=True)
class OpenDeviceCeiling:
    """The same of an accelerator, through the limits of the backend that was opened. Answer: CeilingOpened.

    `variants`: names of limits to the variant of each that was best when all were measured.
    """

    variants: dict[str, str]


@dataclass(frozen=True, slots=True)
class TakeCeilingTurn:
    """A turn of each of these ceilings. Answer: CeilingTurned."""

    names: list[str]


@dataclass(frozen=True, slots=True)
class Open:
    """Open ``backend:device``. `seed` is that of all inputs. Answer: Opened, or Failed."""

    backend: str
    seed: int
    memory_bytes: int
    """What the input sets of one contestant may take."""
    reference_dir: str
    co_runner_cpus: list[int] = field(default_factory=list)
    """Where co-runners of an experiment may work."""


@dataclass(frozen=True, slots=True)
class MeasureBackend:
    """What the opened backend can do at most, launch overhead included. Answer: Ceilings."""

    quick: bool
    formats: list[str] = field(default_factory=list)
    """Of the square products to measure; all if none is named."""


@dataclass(frozen=True, slots=True)
class AskOffers:
    """Which arms of the experiments the opened backend can do; `asked` by experiment. Answer: Offers."""

    asked: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepare:
    """Prepare a work as that contestant, launch it once and check the output. Answer: Prepared, or Failed.

    `arms` is what an experiment asks for besides, on the same prepared work. launch_s: what a launch took in an earlier
    process, from which the launches of a burst follow; 0: to be measured. shared: a file of arrays that others, which
    prepare the same work, have made or want (`kernels.weights.array_file`); empty: inputs are made here.
    """

    contestant: int
    work: str
    arms: list[dict[str, Any]] = field(default_factory=list)
    launch_s: float = 0.0
    shared: str = ""


@dataclass(frozen=True, slots=True)
class TakeTurn:
    """A timed burst of that contestant. Answer: Turned, or Failed.

    passed_bytes: what other processes have moved through the caches since this worker's last turn.
    arm: which of those that were prepared. seconds: a queue of that length, by the device's clock; 0: an ordinary turn. hot: the same input set again and again.
    """

    contestant: int
    arm: int = 0
    passed_bytes: int = 0
    seconds: float = 0.0
    hot: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """Compare the last output with the reference. Answer: Checked, or Failed."""

    contestant: int


@dataclass(frozen=True, slots=True)
class Release:
    """Give back what a contestant holds. Answer: Done."""

    contestant: int


@dataclass(frozen=True, slots=True)
class Close:
    """Give everything back and end. Answer: Done."""


Command = (
    Probe
    | AskCoverage
    | MeasureMachine
    | OpenCeiling
    | OpenDeviceCeiling
    | TakeCeilingTurn
    | Open
    | MeasureBackend
    | AskOffers
    | Prepare
    | TakeTurn
    | Check
    | Release
    | Close
)


# Answers: from a worker


@dataclass(frozen=True, slots=True)
class Hello:
    """The worker has started."""

    python: str
    protocol: int


@dataclass(frozen=True, slots=True)
class Phase:
    """What the command at hand has come to; it also shows that the worker lives. `contestants` are those in it.

    `name` begins with COMPILING while a kernel is compiled.
    """

    name: str
    contestants: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """The devices of an entry point, as fields of `planning.probe.Found`."""

    devices: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What each device says of all works, as fields of `planning.coverage.Answers`."""

    answers: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured limits, as fields of `ceilings.ceiling.Ceiling`, and the counters beside them."""

    ceilings: list[dict[str, Any]]
    telemetry: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CeilingOpened:
    """Ceilings that take turns, and the unit of each."""

    units: dict[str, str]


@dataclass(frozen=True, slots=True)
class CeilingTurned:
    """Rates of a turn by the ceiling's name, in its unit, and the bytes that all of it moved."""

    rates: dict[str, float]
    clean: dict[str, bool]
    variants: dict[str, str]
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The device: fields of `backends.api.Device`, and the facts that its counters tell."""

    device: str
    versions: dict[str, str]
    accelerator: dict[str, Any]
    """Empty where works run on the CPU."""
    memory_ceiling: str


@dataclass(frozen=True, slots=True)
class Offers:
    """What the backend cannot do: experiment, name of the arms, reason."""

    refused: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A contestant whose first output is right. Times in seconds, `launches` of a burst."""

    slots: int
    working_set_bytes: int
    footprint_bytes: int
    resident_bytes: int
    """Memory that this contestant keeps in its process."""
    prepare_s: float
    """Without the time in which inputs were made."""
    first_s: float
    launch_s: float
    """The fastest of a few launches."""
    launches: int
    error: float
    tolerance: float
    stored_bytes: int | None
    exchanged_bytes: int = 0
    """What processes of the backend send each other a launch."""
    unshared: str = ""
    """Why this process made inputs that it was to share, if it did."""


@dataclass(frozen=True, slots=True)
class Turned:
    """A burst. Seconds are of a launch, by the worker's clock and, where it has one, by the device's own.

    retaken_s are those of attempts that were more disturbed; disturbance is the share of
    the burst in which its threads waited or others ran, None where the system does not tell. dispatch_s is what
    passed between the command's arrival and the first thing that the turn did. moved_bytes is all that went
    through the caches, warm-up included.
    """

    time_s: float
    launches: int
    device_s: float | None
    disturbance: float | None
    retaken_s: list[float]
    moved_bytes: int
    dispatch_s: float
    stolen: dict[str, float]
    """What a co-runner took in the burst, a second."""
    telemetry: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checked:
    """The last output is right, too; what the backend was set to, and the counters since the first turn."""

    error: float
    settings: dict[str, Any]
    telemetry: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The command could not be done: a row's status and its reason; `error` of a wrong output that is a number."""

    status: str
    reason: str
    error: float | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to report."""


Answer = (
    Hello
    | Phase
    | Found
    | Coverage
    | Ceilings
    | CeilingOpened
    | CeilingTurned
    | Opened
    | Offers
    | Prepared
    | Turned
    | Checked
    | Failed
    | Done
)

COMMANDS: Mapping[str, type[Any]] = {cls.__name__: cls for cls in Command.__args__}
ANSWERS: Mapping[str, type[Any]] = {cls.__name__: cls for cls in Answer.__args__}


def encode(message: Command | Answer, number: int) -> str:
    """One line without its end. Raises ValueError where a field is no JSON, as a NaN is not, or far too long."""
    fields = fields_of(message)
    if wrong := wrong_field(type(message), fields):
        raise ValueError(f"{type(message).__name__}: {wrong}")
    body = {"message": type(message).__name__, "number": number} | fields
    try:
        line = json.dumps(body, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{type(message).__name__}: {error}") from None
    if len(line) >= MOST_LINE:
        raise ValueError(f"{type(message).__name__} takes {len(line)} bytes, more than {MOST_LINE}")
    return line


def decode(line: str, known: Mapping[str, type[Any]]) -> tuple[Any, int]:
    """The message of a line and its number. Raises ProtocolError."""
    try:
        body = read_json(line)
    except ValueError as error:
        raise ProtocolError(f"{line.strip()[:200]!r} is no message: {error}") from None
    if not isinstance(body, dict) or not _is_headed(body, known):
        raise ProtocolError(f"{line.strip()[:200]!r} is no message")
    cls, number = known[body.pop("message")], body.pop("number")
    if wrong := wrong_field(cls, body):
        raise ProtocolError(f"{cls.__name__}: {wrong}")
    return cls(**body), number


def _is_headed(body: Mapping[str, Any], known: Mapping[str, type[Any]]) -> bool:
    """Whether it says which message it is, and its number."""
    name = body.get("message")
    return isinstance(name, str) and name in known and type(body.get("number")) is int
