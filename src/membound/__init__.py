"""membound: how close does each backend of this machine come to the machine's own limit at LLM decoding?

>>> import membound
>>> table = membound.run(["linear:n=4096,k=4096,weight=int8"], quick=True)
>>> table[["backend", "time_s", "mbu", "verdict"]]

`run` measures, `load` reads stored runs, `compare` compares two of them; `load_points` and `compare_points` do so with
points of load on servers. All return pandas DataFrames.
Errors that a user can do something about are `MemboundError` and its children: `membound.errors` draws the tree.

Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from membound.version import __version__

if TYPE_CHECKING:
    from membound.backends.registry import UnknownBackend
    from membound.bench.api import compare, compare_points, load, load_points, run
    from membound.bench.planning.choice import OptionError
    from membound.bench.planning.suites import PlanError
    from membound.errors import BackendUnavailable, FallbackRefused, MemboundError, Unsupported
    from membound.kernels.operations import SpecError
    from membound.results.compare import CompareError
    from membound.results.row import RowError
    from membound.results.run_files import StoreError


__all__ = [
    "BackendUnavailable",
    "CompareError",
    "FallbackRefused",
    "MemboundError",
    "OptionError",
    "PlanError",
    "RowError",
    "SpecError",
    "StoreError",
    "UnknownBackend",
    "Unsupported",
    "__version__",
    "compare",
    "compare_points",
    "load",
    "load_points",
    "run",
]

_HOMES = {
    "BackendUnavailable": "errors",
    "CompareError": "results.compare",
    "FallbackRefused": "errors",
    "MemboundError": "errors",
    "OptionError": "bench.planning.choice",
    "PlanError": "bench.planning.suites",
    "RowError": "results.row",
    "SpecError": "kernels.operations",
    "StoreError": "results.run_files",
    "UnknownBackend": "backends.registry",
    "Unsupported": "errors",
    "compare": "bench.api",
    "compare_points": "bench.api",
    "load": "bench.api",
    "load_points": "bench.api",
    "run": "bench.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'membound' has no attribute {name!r}")
    return getattr(import_module(f"membound.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
