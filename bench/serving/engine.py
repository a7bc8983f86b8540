"""The engine that a load starts: which interpreter runs it, how large it is made, what it says of itself.

>>> engine = engine_of("mine", Served(work), EngineOptions())
>>> with engine.serving(load, Path("results/runs/a-run.log")) as server: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from membound.backends.serving import ServedEngine, Settings, served_engine
from membound.bench.environments.build import recipe, states
from membound.bench.machine.fingerprint import default_threads
from membound.bench.serving.drawing import DRAWN_AT_ONCE, draw, without_end
from membound.bench.serving.launcher import READY_S, Launch, Server, launched
from membound.bench.serving.load import Load
from membound.bench.serving.schedule import LoadError
from membound.bench.serving.served import Served, check_formats

FACTS = (
    *(
        "device",
        "dtype",
        "cache_dtype",
        "block_size",
        "prefix_cache",
        "max_num_seqs",
        "max_num_batched_tokens",
    ),
    *("chunked_prefill", "max_model_len", "graphs", "threads", "versions"),
)
"""What decides an engine's speed; each is in every row, or said to be unknown."""
UNKNOWN = "unknown"
OPEN_SEQUENCES = 32
"""Requests at once that an engine is made for where nobody says how many there will be: an open loop."""
SHORTEST = 64
"""Tokens that any engine is made for: a first request is sent to try it."""
MOST_READY_S = 86400.0
ROOM = 1.5
"""Lengths of a closed loop are drawn as it goes: the longest of the first ones may be passed by so much."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the user says of it. `threads` 0: the physical cores but one, which is the client's. `sequences` 0: by the load."""

    python: str = ""
    threads: int = 0
    sequences: int = 0
    ready_s: float = READY_S
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.ready_s <= MOST_READY_S:
            raise LoadError(f"--ready {self.ready_s:g} must be above 0 and at most {MOST_READY_S:g} seconds")


@dataclass(frozen=True, slots=True)
class Engine:
    """One that can be started, with its model. `label` is what its rows call it: its name, or ``NAME#LABEL``."""

    kind: ServedEngine
    served: Served
    python: str
    options: EngineOptions
    label: str = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.label or self.kind.name

    def step_backend(self, facts: Mapping[str, Any]) -> str:
        """The backend and device that measure its steps alone on the device that its server told; '' where there is none."""
        return self.kind.step_backend.replace("{device}", str(facts.get("device", "")))

    @contextmanager
    def serving(
        self, load: Load, log: Path, on_told: Callable[[Mapping[str, Any]], None] = lambda facts: None
    ) -> Iterator[Server]:
        """Its server, ready, for that load; `on_told` gets its facts before it is. Raises LoadError."""
        settings = Settings(
            spec=self.served.work.spec,
            seed=self.served.seed,
            name=self.served.name,
            folder="",
            threads=self.options.threads or max(1, default_threads() - 1),
            longest=longest_of(load),
            sequences=self.options.sequences or max(load.users, default=OPEN_SEQUENCES),
            prefix_cache=load.shared_prefix > 0,
            options=dict(self.options.options),
        )
        launch = Launch(self.kind, self.python, settings, log, self.options.ready_s, self.name, on_told)
        with launched(launch) as server:
            yield server


def engine_of(label: str, served: Served, options: EngineOptions) -> Engine:
    """The engine of that name, or of ``NAME#LABEL``. Raises UnknownEngine, and LoadError where its environment is missing or broken."""
    name = label.partition("#")[0]
    kind = served_engine(name)
    check_formats(served, kind.formats)
    if options.python:
        return Engine(kind, served, options.python, options, label)
    (state,) = (one for one in states() if one.recipe.name == recipe(kind.environment).name)
    if not state.made or state.problem:
        why = state.problem or "it was not made"
        raise LoadError(
            f"there is no environment to run {name} in ({why}): {state.remedy}, or name a Python with --python"
        )
    return Engine(kind, served, str(state.recipe.python), options, label)


def longest_of(load: Load) -> int:
    """Tokens of the longest prompt and answer together that the load may ask for. Raises LoadError where it cannot be drawn."""
    longest = SHORTEST
    for point in load.points():
        arrivals = draw(load, point).arrivals
        several = arrivals or tuple(islice(without_end(load, point), DRAWN_AT_ONCE))
        most = max(one.prompt_tokens + one.output_tokens for one in several)
        fixed = arrivals or load.prompt.kind == load.output.kind == "fixed"
        longest = max(longest, most if fixed else int(ROOM * most))
    return longest + 1


def facts_of(told: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the speed of a server: as its program told it, else by its metrics, else unknown."""
    by_metrics = {name: settings[label] for name, label in _LABELS.items() if label in settings}
    return {name: told.get(name, by_metrics.get(name, UNKNOWN)) for name in FACTS}


_LABELS = {"block_size": "block_size", "prefix_cache": "enable_prefix_caching", "cache_dtype": "cache_dtype"}
"""Facts to the labels under which metrics have them."""


def placed(load: Load, server: Server) -> Load:
    """The load against that server."""
    return replace(load, endpoint=server.endpoint, model=server.name)
