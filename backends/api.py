"""The backend contract: everything that a plugin needs to import.

A backend turns a work (shapes and formats) and its inputs into launches. The harness does all timing,
checking and storing; a backend never measures itself and never reports bytes or FLOPs. The one rule:
**no silent fallback** — a device, dtype or provider that is not what was asked for is an error.

    class Mine(Backend):
        def open(self, device, threads): return Device("mine:cpu", "my processor")
        def supports(self, work): return None if work.kind == "linear" else "only linear"
        def prepare(self, work, inputs): self.w = [dequantize(inputs.weight(s)) for s in range(inputs.slots)]; ...
        def launch(self, slot): self.y = self.x @ self.w[slot].T
        def sync(self): pass
        def output(self): return self.y

Register it under the entry-point group ``membound.backends``: ``mine = "package.module:Mine"``.

Errors to raise are those of `membound.errors`: BackendUnavailable, Unsupported, FallbackRefused.
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from membound.errors import BackendUnavailable, FallbackRefused, MemboundError, Unsupported

if TYPE_CHECKING:
    from membound.kernels.inputs import Inputs
    from membound.kernels.work import Work

__all__ = [
    "NO_FILES",
    "Accelerator",
    "Backend",
    "BackendUnavailable",
    "CoRunner",
    "Device",
    "FallbackRefused",
    "Limit",
    "MemboundError",
    "Tokens",
    "Unsupported",
    "cpu_name",
]


NO_FILES = "it computes operations itself: an ONNX file runs on ONNX Runtime, --backends onnxruntime"
"""Why a backend refuses a user's own file, `OnnxStep`."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A device that has its own memory, as its runtime describes it; 0 and "" are what the runtime does not say.

    Rotating input sets must exceed `cache_bytes`; `pci` is the address (``0000:04:00.0``) by which the vendor's
    management library knows the device.
    """

    memory_bytes: int = 0
    cache_bytes: int = 0
    compute_units: int = 0
    capability: str = ""
    pci: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """An opened device. `id` is the name asked for, `name` what the hardware calls itself.

    `versions` holds the versions of the packages that decide speed; `threads` the number of CPU threads it will use.
    `accelerator` is None if the works run on the CPU. `memory_ceiling` names the bandwidth ceiling that bounds
    the bytes of a work here: ``read``, or that of a link if weights stream over one.
    """

    id: str
    name: str
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    accelerator: Accelerator | None = None
    memory_ceiling: str = "read"


@dataclass(frozen=True, slots=True)
class Limit:
    """One way to reach a ceiling of a device: `launch(number)` starts moving or computing `amount`.

    `number` counts up, so that windows can rotate; the harness calls `sync`, times with the device's clock
    and divides. `unit` is bytes/s or FLOP/s. `check` says, after `launch(0)`, whether the result is right.
    """

    name: str
    amount: float
    unit: str
    config: dict[str, Any]
    launch: Callable[[int], None]
    check: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens that an engine has chosen greedily since `prepare`, a column for each launch.

    chosen: int64 [batch, launches]; logprobs: the natural logarithm of each choice's probability as the
    engine computed it, float64 of the same shape, or None if it gives none.
    """

    chosen: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float64] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, launches), if it is what it should be."""
        return self.chosen.shape

    @property
    def launches(self) -> int:
        """The number of tokens that each sequence has got."""
        return int(self.chosen.shape[-1])


class CoRunner(Protocol):
    """Takes bandwidth or FLOPs from others while it works, and counts what it takes. Leaving its context ends it.

    Trades: ``bandwidth`` streams memory, ``fma`` multiplies in registers, ``idle`` takes up the same place and does neither.
    """

    def __enter__(self) -> CoRunner:
        """Get ready to work, without starting."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End for good."""
        ...

    def work(self, trade: str, duty: float = 1.0) -> None:
        """Do `trade` for a share `duty` of a core's time, or on that share of a device; returns once it has begun."""
        ...

    def rest(self) -> None:
        """Take nothing."""
        ...

    def taken(self) -> tuple[int, int]:
        """Bytes read and FLOPs done so far."""
        ...


class Backend(ABC):
    """One runtime on one device. There is an instance for each device; `prepare` may be called many times."""

    unopened: ClassVar[Sequence[str]] = ()
    """Devices, without variants, of which `supports` says the same before `open` as after, whatever machine it runs on."""

    @classmethod
    def devices(cls) -> Sequence[str]:
        """Device names (after the colon) worth trying here, variants included: ``["cpu", "cpu+compile"]``.

        Called in a worker process, so it may import the runtime. Raises BackendUnavailable.
        """
        return ["cpu"]

    @abstractmethod
    def open(self, device: str, threads: int) -> Device:
        """Take the device named after the colon (``cpu``, ``cuda:0``, ``cpu+compile``) with CPU `threads`.

        Raises BackendUnavailable with the reason and the command that would help.
        """

    @abstractmethod
    def supports(self, work: Work) -> str | None:
        """None if `prepare` should work, else the reason why not, in a few words."""

    @abstractmethod
    def prepare(self, work: Work, inputs: Inputs) -> None:
        """Untimed: copy or pack `inputs`, compile, capture. Replaces what was prepared before.

        Each of the `inputs.slots` input sets must have separate memory. Raises Unsupported.
        """

    @abstractmethod
    def launch(self, slot: int) -> None:
        """Start the work on input set `slot`; may return before it is done."""

    @abstractmethod
    def sync(self) -> None:
        """Block until all launched work is done."""

    @abstractmethod
    def output(self) -> npt.NDArray[np.float32] | Tokens:
        """The last launch's result as float32: y [m, n]; [batch, q_heads, head_dim]; logits [batch, vocab], of a step [batch·queries, vocab].

        An engine, which chooses tokens and continues from them, returns `Tokens`.
        """

    def add_arithmetic(self, work: Work, fmas: int) -> None:
        """Have the next `prepare` of `work` do `fmas` extra multiply-adds for each weight or cache element.

        Optional, an instrument of `membound claim`: the same bytes and the same output as without, but more
        arithmetic, independent of the loads. Called before `prepare`, with 0 for the same kernel without extra
        arithmetic. Raises Unsupported if there is no such kernel, as it does unless it is overridden.
        """
        raise Unsupported("no kernels with extra arithmetic")

    def co_runner(self) -> CoRunner:
        """A co-runner on the opened device that takes bandwidth or FLOPs from what `launch` starts.

        Optional, an instrument of `membound claim` for devices that have their own memory; the harness has those for
        the CPU. It is not started yet. Raises Unsupported if there is none, as it does unless it is overridden.
        """
        raise Unsupported("no co-runner for this device")

    def stored_bytes(self) -> int | None:
        """The bytes of weights and cache that one launch really streams, if the runtime stores them in another format.

        None means that it stores them as the work asks. A runtime that widens float16 to float32 says so here.
        """
        return None

    def exchanged_bytes(self) -> int:
        """The bytes that processes of this backend send each other a launch, over links and not through the device's memory."""
        return 0

    def helpers(self) -> Sequence[int]:
        """Numbers of other processes that do the work of a launch: their time counts as its own, and not as a disturbance."""
        return ()

    def mark(self) -> object | None:
        """A mark on the device's own clock, after everything launched so far; None if it has no such clock."""
        return None

    def elapsed_s(self, start: object, end: object) -> float:
        """Seconds between two marks by the device's clock, after a `sync` that has passed both."""
        raise NotImplementedError("a backend with marks says how far apart they are")

    def limits(self, quick: bool) -> Iterator[Limit]:
        """Ways to reach the ceilings of an accelerator, made one at a time: the memory of one is freed before the next."""
        yield from ()

    def settings(self) -> dict[str, Any]:
        """The settings that decide the runtime's speed; stored in the row's `config` after timing."""
        return {}

    def close(self) -> None:  # noqa: B027 - most runtimes have nothing to give back
        """Free memory and threads."""


def cpu_name() -> str:
    """The processor's name: the `Device.name` of a CPU."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
