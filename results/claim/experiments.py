"""The pre-registered experiments: what would prove the claim wrong, written down before anything is measured.

>>> register = load_experiments()
>>> register.version, register[1].name, register[1].thresholds["rise"]
(1, 'free compute', 0.05)
>>> print(register[1].falsified_if)     # its numbers are the thresholds, so text and rule cannot differ

The file is `experiments.toml`, beside this one. Every result names its version and hash.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from membound.errors import MemboundError

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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentsError(f"{path}: not TOML: {error}") from None
    for key, kind in (("version", int), ("claim", str), ("region", str), ("experiment", list)):
        if not isinstance(data.get(key), kind):
            raise ExperimentsError(f"{path}: {key} is missing or no {kind.__name__}")
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
    thresholds = entry["thresholds"]
    for key in REQUIRED_THRESHOLDS:
        if key not in thresholds:
            raise ExperimentsError(f"{name}: thresholds lack {key}")
    if not all(isinstance(value, int | float) for value in thresholds.values()):
        raise ExperimentsError(f"{name}: a threshold is no number")
    for table in ("arms", "factors"):
        if not entry[table] or not all(isinstance(text, str) for text in entry[table].values()):
            raise ExperimentsError(f"{name}: {table} must name at least one, each with a text")
    numbers = {key: float(value) for key, value in thresholds.items()}
    return Experiment(**(entry | {"thresholds": numbers} | _filled(name, entry, numbers)))


def _filled(name: str, entry: dict[str, Any], numbers: dict[str, float]) -> dict[str, str]:
    """The texts with their numbers filled in, in the order of TEXTS."""
    texts = {}
    for key in TEXTS:
        try:
            texts[key] = str(entry[key]).format_map(numbers)
        except (KeyError, ValueError) as error:
            raise ExperimentsError(f"{name}: {key} names {error}, which is no threshold") from None
    return texts
