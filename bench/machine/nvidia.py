"""NVIDIA's counters, read through nvidia-ml-py; never written.

>>> open_nvidia("0000:04:00.0").read().energy_j

Names and units are those of NVML's reference: MHz, mW, mJ, violation times in ns. For a counter that the
device or the driver does not offer (guests, consumer cards, old drivers) NVML raises; here it is None.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from membound.bench.machine.own_processes import others_among
from membound.bench.machine.reading import CountersUnavailableError, Reading

THROTTLES = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons for a device that is throttled. Left out: idle (0x1), clocks set by
the user (0x2), synchronised boost (0x10) and the display's setting (0x100)."""


class Nvidia:
    """One GPU; `library` is the module pynvml, initialised."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    def facts(self) -> dict[str, Any]:
        """Driver; ECC and MIG as on, off or None for unknown; power limit in W."""
        lib = self._library
        ecc = self._ask(lambda: lib.nvmlDeviceGetEccMode(self._handle)[0])
        mig = self._ask(lambda: lib.nvmlDeviceGetMigMode(self._handle)[0])
        limit_mw = self._ask(lambda: lib.nvmlDeviceGetEnforcedPowerLimit(self._handle))
        return {
            "counters": "NVML",
            "driver": self._ask(lib.nvmlSystemGetDriverVersion),
            "ecc": None if ecc is None else bool(ecc),
            "mig": None if mig is None else bool(mig),
            "power_limit_w": None if limit_mw is None else limit_mw / 1e3,
        }

    def read(self) -> Reading | None:
        """All counters of this moment."""
        lib, handle = self._library, self._handle
        core, memory = lib.NVML_CLOCK_SM, lib.NVML_CLOCK_MEM
        return Reading(
            wall_s=time.perf_counter(),
            clock_hz=self._scaled(1e6, lambda: lib.nvmlDeviceGetClockInfo(handle, core)),
            top_clock_hz=self._scaled(1e6, lambda: lib.nvmlDeviceGetMaxClockInfo(handle, core)),
            memory_clock_hz=self._scaled(1e6, lambda: lib.nvmlDeviceGetClockInfo(handle, memory)),
            top_memory_clock_hz=self._scaled(1e6, lambda: lib.nvmlDeviceGetMaxClockInfo(handle, memory)),
            throttle=self._throttle(),
            power_limited_s=self._violation(lib.NVML_PERF_POLICY_POWER),
            heat_limited_s=self._violation(lib.NVML_PERF_POLICY_THERMAL),
            power_w=self._scaled(1e-3, lambda: lib.nvmlDeviceGetPowerUsage(handle)),
            energy_j=self._scaled(1e-3, lambda: lib.nvmlDeviceGetTotalEnergyConsumption(handle)),
            temperature_c=self._ask(lambda: lib.nvmlDeviceGetTemperature(handle, lib.NVML_TEMPERATURE_GPU)),
            uncorrected_errors=self._ask(
                lambda: lib.nvmlDeviceGetTotalEccErrors(
                    handle, lib.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, lib.NVML_VOLATILE_ECC
                )
            ),
            others=self._others(),
        )

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer, or None if this device or driver does not give it."""
        try:
            return question()
        except nvml_errors(self._library):
            return None

    def _scaled(self, scale: float, question: Callable[[], Any]) -> float | None:
        value = self._ask(question)
        return None if value is None else scale * value

    def _throttle(self) -> tuple[str, ...] | None:
        bits = self._ask(lambda: self._library.nvmlDeviceGetCurrentClocksEventReasons(self._handle))
        return None if bits is None else tuple(name for bit, name in THROTTLES.items() if bits & bit)

    def _violation(self, policy: int) -> float | None:
        """The seconds so far in which that policy held the clocks down."""
        status = self._ask(lambda: self._library.nvmlDeviceGetViolationStatus(self._handle, policy))
        return None if status is None else status.violationTime / 1e9

    def _others(self) -> int | None:
        """The number of compute processes of others. This one uses the device, so the list cannot be empty; if it is, None."""
        found = self._ask(lambda: self._library.nvmlDeviceGetComputeRunningProcesses(self._handle))
        return others_among(tuple(one.pid for one in found)) if found else None


def nvml_errors(library: Any) -> tuple[type[Exception], ...]:
    """What pynvml raises: NVMLError for a status, and a class that is none of it where the library is older than a call."""
    return (library.NVMLError, library.NVMLLibraryMismatchError)


def open_nvidia(pci: str) -> Nvidia:
    """The GPU at that address. Raises CountersUnavailableError."""
    try:
        import pynvml
    except ModuleNotFoundError:
        raise CountersUnavailableError("pip install nvidia-ml-py") from None
    try:
        pynvml.nvmlInit()
        return Nvidia(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(pci))
    except nvml_errors(pynvml) as error:
        raise CountersUnavailableError(str(error)) from None
