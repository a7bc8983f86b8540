"""The engines of a load: one, or several that take turns, each with options and an interpreter of its own.

>>> engines = engines_of(["mine", "mine#2"], served, EngineOptions(), ["mine#2:n_batch=256"], [])
>>> [engine.name for engine in engines], [engine.options.options for engine in engines]
(['mine', 'mine#2'], [{}, {'n_batch': '256'}])

Servers of two contestants are started one after the other, in an order that is drawn anew for each round: what the machine
does in a quarter of an hour then hits both, and a ratio is of two processes that followed each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from membound.bench.planning.choice import LABEL
from membound.bench.serving.engine import Engine, EngineOptions, engine_of
from membound.bench.serving.schedule import LoadError
from membound.bench.serving.served import Served


def engines_of(
    names: Sequence[str],
    served: Served,
    shared: EngineOptions,
    options: Sequence[str],
    pythons: Sequence[str],
) -> tuple[Engine, ...]:
    """An engine for each of ``NAME`` and ``NAME#LABEL``. `shared` is what all have alike.

    `options` are ``NAME=VALUE`` for all, or ``ENGINE:NAME=VALUE`` for one; `pythons` are paths, or ``ENGINE=PATH``.
    Raises LoadError, UnknownEngine.
    """
    for name in names:
        base, mark, label = name.partition("#")
        if not base or (mark and not LABEL.fullmatch(label)):
            raise LoadError(
                f"--engine {name!r} is not NAME or NAME#LABEL, with a label of letters and digits"
            )
    if len({*names}) < len(names):
        raise LoadError(
            f"--engine names {', '.join(names)}: call one that comes twice {names[0]}#2, to tell them apart"
        )
    own = {name: parse_options(_of(name, names, options, ":")) for name in names}
    paths = {name: _of(name, names, pythons, "=") for name in names}
    return tuple(
        engine_of(name, served, replace(shared, python=[shared.python, *paths[name]][-1], options=own[name]))
        for name in names
    )


def _of(name: str, names: Sequence[str], texts: Sequence[str], mark: str) -> list[str]:
    """What is said to all contestants, then what is said to this one alone, without its name."""
    told = [text.partition(mark) for text in texts]
    of_all = ["".join(parts) for parts in told if parts[0] not in names]
    return of_all + [rest for start, _, rest in told if start == name]


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` each; a name alone is a flag. Raises LoadError."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        name = name.strip().removeprefix("--")
        if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise LoadError(
                f"--engine-option {text!r} is not NAME=VALUE or ENGINE:NAME=VALUE, with an ENGINE of --engine and a "
                "name of that engine's own options"
            )
        found[name] = value
    return found


def in_turn(engines: Sequence[Engine], seed: int, number: int) -> list[Engine]:
    """The order of a round: random, and the same for the same seed."""
    order = np.random.default_rng((seed, number)).permutation(len(engines))
    return [engines[i] for i in order]
