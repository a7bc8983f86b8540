"""The variants of a torch device, as they follow plus signs: ``cuda:0+compile+graph``, ``cpu+sdpa-gqa``.

>>> Variants.parse(["compile", "graph"], on_cpu=False)
Variants(form='grouped', compiled=True, graph=True, offload=False, loop=False)

compile   torch.compile of the same callables
graph     all kernels of a launch captured in a graph and replayed
offload   the layers of a step live in host memory and stream over the link
tpN       N processes share a step, each with a part of the weights (`ranks.py`)
loop      chosen experts one after the other, where the plain device has one grouped product
others    another form or kernel of decode attention than SDPA with grouped query heads, the fastest on CPUs
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from membound.backends.pytorch.device import compiler
from membound.errors import BackendUnavailable

FORMS = ("sdpa-gqa", "matmul")
"""Other ways to write decode attention."""
KERNELS = {
    "flash": "FLASH_ATTENTION",
    "cudnn": "CUDNN_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
    "math": "MATH",
}
"""SDPA's implementations by the names of torch.nn.attention.SDPBackend; the plain variant lets torch choose."""
NAMES = ("compile", "graph", "offload", "loop", *FORMS, *KERNELS)
SHARED = re.compile(r"tp([2-9]|[1-9][0-9]{1,2})")
"""``tp2``: two ranks share a step."""
ALONE = ("offload", "loop")
"""Variants that go with no other."""


@dataclass(frozen=True, slots=True)
class Variants:
    """What was asked for besides the device."""

    form: str = "grouped"
    compiled: bool = False
    graph: bool = False
    offload: bool = False
    loop: bool = False
    ranks: int = 1

    @classmethod
    def parse(cls, names: Sequence[str], on_cpu: bool) -> Variants:
        """From the words after the plus signs. Raises BackendUnavailable on what is unknown or not possible."""
        if any(SHARED.fullmatch(name) for name in names):
            return cls._shared(names)
        for name in names:
            if name not in NAMES:
                raise BackendUnavailable(f"unknown variant {name!r}; known: {', '.join(NAMES)}, tp2 and more")
        forms = [name for name in names if name in FORMS or name in KERNELS]
        together = len(forms) <= 1 and len(set(names)) == len(names)
        if not together or (len(names) > 1 and any(name in ALONE for name in names)):
            raise BackendUnavailable(f"variants {'+'.join(names)} do not go together")
        for name in ("graph", "offload"):
            if name in names and on_cpu:
                raise BackendUnavailable(f"the variant {name} is for accelerators, not for the CPU")
        if "compile" in names and not shutil.which(compiler()):
            raise BackendUnavailable(
                f"torch.compile needs a C++ compiler, and there is no {compiler()}",
                "apt-get install g++   # or name another one: export CXX=clang++",
            )
        words = (word in names for word in ("compile", "graph", "offload", "loop"))
        return cls(forms[0] if forms else "grouped", *words)

    @classmethod
    def _shared(cls, names: Sequence[str]) -> Variants:
        """A step that ranks share."""
        match = SHARED.fullmatch(names[0])
        if match is None or len(names) > 1:
            raise BackendUnavailable(f"variants {'+'.join(names)} do not go together")
        return cls(ranks=int(match[1]))

    def without_experts(self, on_cpu: bool) -> str | None:
        """Why layers with experts do not run so, or None."""
        if not on_cpu:
            return "layers with experts are built from torch's operators for CPUs"
        return "layers with experts run without torch.compile" if self.compiled else None

    @property
    def plain(self) -> bool:
        """Whether nothing was asked for besides the device."""
        return self == Variants()


def offered(base: str) -> list[str]:
    """The variants worth trying on a device unasked; SDPA's kernels are only tried by name."""
    words = [] if base == "cpu" else ["graph", "offload"]
    if shutil.which(compiler()):
        words += ["compile"] if base == "cpu" else ["compile", "compile+graph"]
    return [f"{base}+{word}" for word in words]


def graphs_compiled() -> int:
    """The graphs that torch.compile has made in this process so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
