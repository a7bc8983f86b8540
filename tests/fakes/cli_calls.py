"""The command line as tests call it: two backends by name, what probing finds of them, a work.

>>> status, out, err = membound_("run", SPEC, "-b", HERE)           # a fixture of tests/bench/commands
"""

from __future__ import annotations

from typing import Any

from membound.backends import registry
from membound.bench.planning.probe import Found

HERE, ELSEWHERE = registry.names()[:2]
SPEC = "linear:n=64,k=64,m=1,weight=f32,act=float"
FIGURES = {
    *("backend", "device", "work", "status", "validity", "time_s", "time_ci_s", "bytes", "flops"),
    *("read_ceiling_bytes_per_s", "achieved_bytes_per_s", "mbu", "mfu", "roofline", "verdict", "error"),
}
"""Among the fields of each line of --json."""


def found(name: str, **values: Any) -> Found:
    """A device that is there, unless `values` say otherwise."""
    entry = registry.entry_for(name)
    return Found(name, entry, **({"available": True, "name": "Test CPU"} | values))
