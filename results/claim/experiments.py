"""The pre-registered experiments: what would prove the claim wrong, written down before anything is measured.

>>> register = load_experiments()
>>> register.version, register[1].name, register[1].thresholds["rise"]
(4, 'free compute', 0.05)
>>> print(register[1].falsified_if)     # its numbers are the thresholds, so text and rule cannot differ

The file is `experiments.toml`, beside this one. Every result names its version and hash.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from membound.errors import MemboundError
from membound.results.fields import is_amount

FILE = Path(__file__).with_name("experiments.toml")
TEXTS = (
    "hypothesis",
    "manipulated",
    "held",
    "measure",
    "falsified_if",
    "statistics",
    "sample_size",
)
"""The texts of an experiment, in the order in which they are shown."""
PLACE = re.compile(r"\{(\w+):(\.[0-9][f%])\}")
"""Where the number of a threshold goes into a text, and its format."""
REQUIRED_THRESHOLDS = ("processes", "doses")


class ExperimentsError(MemboundError, ValueError):
    """The file of experiments is malformed; the message names the experiment and the key."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment. Texts are sentences; thresholds are the numbers that its rule uses."""

    id: int
    name: str
    hypothesis: str
    manipulated: str
    held: str
    measure: str
    falsified_if: str
    statistics: str
    sample_size: str
    arms: Mapping[str, str]
    """The names of the arms and what runs in each; "any name" if the experiment only groups by them."""
    factors: Mapping[str, str]
    """The factors that each observation must have, among them its dose."""
    thresholds: Mapping[str, float]

    @property
    def processes(self) -> int:
        """The number of processes that a verdict needs."""
        return int(self.thresholds["processes"])

    @property
    def doses(self) -> int:
        """The number of different doses that a verdict needs."""
        return int(self.thresholds["doses"])


@dataclass(frozen=True, slots=True)
class Register:
    """All experiments of one version of the file."""

    version: int
    sha256: str
    """The hash of the file, hexadecimal."""
    claim: str
    region: str
    """The claim as it can be tested: the region in which it is said to hold."""
    experiments: tuple[Experiment, ...]

    def __getitem__(self, number: int) -> Experiment:
        """The experiment with that id. Raises KeyError, which lists the ids."""
        for experiment in self.experiments:
            if experiment.id == number:
                return experiment
        raise KeyError(f"no experiment {number}; there are {', '.join(str(e.id) for e in self)}")

    def __iter__(self) -> Iterator[Experiment]:
        return iter(self.experiments)


def load_experiments(path: Path = FILE) -> Register:
    """Read and check the file. Raises ExperimentsError, which says what is wrong with it."""
    content = path.read_bytes()
    try:
        data = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no TOMLDecodeError
        raise ExperimentsError(f"{path}: not TOML: {error}") from None
    for key, kind in (("version", int), ("claim", str), ("region", str), ("experiment", list)):
        if type(data.get(key)) is not kind:
            raise ExperimentsError(f"{path}: {key} is missing or no {kind.__name__}")
    if not all(isinstance(entry, dict) for entry in data["experiment"]):
        raise ExperimentsError(f"{path}: an experiment is no table")
    experiments = tuple(_experiment(entry) for entry in data["experiment"])
    numbers = [e.id for e in experiments]
    if numbers != list(range(1, len(numbers) + 1)):
        raise ExperimentsError(f"{path}: ids are {numbers}, not 1, 2, 3 …")
    return Register(
        data["version"], hashlib.sha256(content).hexdigest(), data["claim"], data["region"], experiments
    )


def _experiment(entry: dict[str, Any]) -> Experiment:
    name = f"experiment {entry.get('id')}"
    wanted = {field.name for field in fields(Experiment)}
    if set(entry) != wanted:
        raise ExperimentsError(f"{name}: {', '.join(sorted(set(entry) ^ wanted))} missing or unknown")
    _check_types(name, entry)
    thresholds = entry["thresholds"]
    for key in REQUIRED_THRESHOLDS:
        if thresholds.get(key, 0) < 1:
            raise ExperimentsError(f"{name}: thresholds lack {key}, or it is below 1")
    numbers = {key: float(value) for key, value in thresholds.items()}
    return Experiment(**(entry | {"thresholds": numbers} | _filled(name, entry, numbers)))


def _check_types(name: str, entry: dict[str, Any]) -> None:
    """Raises ExperimentsError on a value that is not of its field's type; TOML has dates, infinities and NaN, too."""
    if type(entry["id"]) is not int:
        raise ExperimentsError(f"{name}: id is no whole number")
    for key in ("name", *TEXTS):
        if not isinstance(entry[key], str):
            raise ExperimentsError(f"{name}: {key} is no text")
    for table in ("arms", "factors", "thresholds"):
        if not isinstance(entry[table], dict) or not entry[table]:
            raise ExperimentsError(f"{name}: {table} must be a table with at least one entry")
    for table in ("arms", "factors"):
        if not all(isinstance(text, str) for text in entry[table].values()):
            raise ExperimentsError(f"{name}: {table} must name at least one, each with a text")
    if not all(is_amount(value) for value in entry["thresholds"].values()):
        raise ExperimentsError(f"{name}: a threshold is no number from 0")


def _filled(name: str, entry: dict[str, Any], numbers: dict[str, float]) -> dict[str, str]:
    """The texts with their numbers filled in, in the order of TEXTS."""
    texts = {}
    for key in TEXTS:
        try:
            texts[key] = PLACE.sub(lambda found: format(numbers[found[1]], found[2]), entry[key])
        except KeyError as error:
            raise ExperimentsError(f"{name}: {key} names {error}, which is no threshold") from None
        if {"{", "}"} & {*texts[key]}:
            raise ExperimentsError(f"{name}: {key} has braces that are not of the form {{threshold:.0f}}")
    return texts
