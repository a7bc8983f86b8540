"""Engines that can be started as servers: entry points of the group ``membound.servers``, each a `ServedEngine`.

>>> engine = served_engine("mine")
>>> engine.program, engine.metrics.prefix
('mine_package.serve', 'mine:')

An engine's program runs in the engine's environment as ``python -m PROGRAM SETTINGS.json``: it writes the model's files,
starts the server on a loopback port, tells the port and what the engine was set to (`Settings.tell`), and serves until it is
ended. The key comes to it in the environment (KEY), never in its arguments.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from membound.errors import BackendUnavailable, MemboundError

GROUP = "membound.servers"
KEY = "MEMBOUND_SERVER_KEY"
"""The variable with the key that the server is to ask for."""


class UnknownEngine(MemboundError):
    """No engine of that name can be started as a server."""


@dataclass(frozen=True, slots=True)
class MetricNames:
    """How an engine's Prometheus text names what is read of it.

    `means`: figure -> (a counter of its sum, a counter of what it is over). `counts`: figure -> counter. `settings`: the
    gauge whose labels are settings, and which of them decide speed. Raises ValueError for what is none of that.
    """

    prefix: str
    means: Mapping[str, tuple[str, str]]
    counts: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[str, tuple[str, ...]] = ("", ())

    def __post_init__(self) -> None:
        _check(self, "prefix", _is_text(self.prefix) and bool(self.prefix))
        _check(self, "means", _is_table(self.means, lambda pair: _are_texts(pair) and len(pair) == 2))
        _check(self, "counts", _is_table(self.counts, _is_text))
        pair = self.settings if isinstance(self.settings, tuple) and len(self.settings) == 2 else (None, None)
        _check(self, "settings", _is_text(pair[0]) and _are_texts(pair[1]))


@dataclass(frozen=True, slots=True)
class ServedEngine:
    """How to start an engine as a server. `formats`: the formats that weights and cache may have, alike.

    `environment` names the lock of the environment it runs in; `step_backend` the backend that times its steps alone, with
    ``{device}`` for the device that the server told: ``mine:{device}+tokens``; '' where there is none. Raises ValueError.
    """

    name: str
    program: str
    environment: str
    metrics: MetricNames
    formats: tuple[str, ...]
    step_backend: str = ""
    ready_path: str = "/health"
    variables: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("name", "program", "environment", "step_backend", "ready_path"):
            _check(self, name, _is_text(getattr(self, name)))
        _check(self, "metrics", isinstance(self.metrics, MetricNames))
        _check(self, "formats", _are_texts(self.formats))
        _check(self, "variables", _is_table(self.variables, _is_text))
        _check(self, "unset", _are_texts(self.unset))


def _check(told: MetricNames | ServedEngine, name: str, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{type(told).__name__}: {name}={getattr(told, name)!r:.60} is of another type")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _are_texts(values: object) -> bool:
    return isinstance(values, tuple) and all(map(_is_text, values))


def _is_table(values: object, holds: Callable[[Any], bool]) -> bool:
    return isinstance(values, Mapping) and all(_is_text(name) and holds(one) for name, one in values.items())


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server is started with. `folder` is its scratch folder, `longest` the tokens of the longest prompt and answer.

    `options` are the engine's own, by its own names.
    """

    spec: str
    seed: int
    name: str
    folder: str
    threads: int
    longest: int
    sequences: int
    prefix_cache: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    def write(self) -> Path:
        """Write them into `folder`; the path that the program is given. Raises OSError."""
        path = Path(self.folder) / "settings.json"
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Those that were written."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    @property
    def told(self) -> Path:
        """The file in which the program tells its port and facts."""
        return Path(self.folder) / "told.json"

    def tell(self, port: int, facts: Mapping[str, Any]) -> None:
        """Say on which port the server will listen and what decides its speed; all at once, so that no half is read."""
        scratch = self.told.with_suffix(".partial")
        scratch.write_text(json.dumps({"port": port, "facts": dict(facts)}), encoding="utf-8")
        os.replace(scratch, self.told)


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def engine_names() -> tuple[str, ...]:
    """Engines that can be started, by name; nothing is imported."""
    return tuple(sorted(_entry_points()))


def served_engine(name: str) -> ServedEngine:
    """The engine of that name. Raises UnknownEngine that lists what there is, BackendUnavailable if it cannot be imported."""
    point = _entry_points().get(name)
    if point is None:
        known = ", ".join(engine_names()) or "none is registered; is membound installed?"
        raise UnknownEngine(f"no engine is called {name!r}; known: {known}")
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # the boundary around a stranger's module
        raise BackendUnavailable(
            f"{point.value} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, ServedEngine):
        raise BackendUnavailable(f"{point.value} is not a ServedEngine of membound.backends.serving")
    return found


def served_engines() -> Iterator[ServedEngine]:
    """All of them that can be imported."""
    for name in engine_names():
        with suppress(BackendUnavailable):
            yield served_engine(name)
