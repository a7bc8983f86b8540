"""AMD's counters, read through amdsmi, which comes with ROCm; never written.

>>> open_amd("0000:23:00.0").read().power_w

Units are those of AMD SMI's reference: MHz, W, degrees; energy is a count times its resolution in µJ. For what a
device does not offer, the library returns the text "N/A" or raises; here it is None.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from membound.bench.machine.own_processes import others_among
from membound.bench.machine.reading import CountersUnavailableError, Reading


class Amd:
    """One GPU; `library` is the module amdsmi, initialised."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    def facts(self) -> dict[str, Any]:
        """Driver, and the power limit in W."""
        lib, handle = self._library, self._handle
        return {
            "counters": "AMD SMI",
            "driver": self._ask(lambda: lib.amdsmi_get_gpu_driver_info(handle)["driver_version"]),
            "power_limit_w": self._number(lambda: lib.amdsmi_get_power_info(handle)["power_limit"], 1.0),
        }

    def read(self) -> Reading | None:
        """All counters of this moment."""
        lib, handle = self._library, self._handle
        heat = (lib.AmdSmiTemperatureType.HOTSPOT, lib.AmdSmiTemperatureMetric.CURRENT)
        return Reading(
            wall_s=time.perf_counter(),
            clock_hz=self._clock(lib.AmdSmiClkType.GFX, "clk"),
            top_clock_hz=self._clock(lib.AmdSmiClkType.GFX, "max_clk"),
            memory_clock_hz=self._clock(lib.AmdSmiClkType.MEM, "clk"),
            top_memory_clock_hz=self._clock(lib.AmdSmiClkType.MEM, "max_clk"),
            throttle=self._throttle(),
            power_w=self._number(lambda: lib.amdsmi_get_power_info(handle)["current_socket_power"], 1.0),
            energy_j=self._energy_j(),
            temperature_c=self._number(lambda: lib.amdsmi_get_temp_metric(handle, *heat), 1.0),
            uncorrected_errors=self._ask(
                lambda: int(lib.amdsmi_get_gpu_total_ecc_count(handle)["uncorrectable_count"])
            ),
            others=self._ask(
                lambda: others_among(tuple(one["pid"] for one in lib.amdsmi_get_gpu_process_list(handle)))
            ),
        )

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer, or None if this device or driver does not give it."""
        try:
            value = question()
        except (self._library.AmdSmiException, KeyError, TypeError, ValueError):
            return None
        return None if value == "N/A" else value

    def _number(self, question: Callable[[], Any], scale: float) -> float | None:
        value = self._ask(question)
        return scale * value if isinstance(value, int | float) else None

    def _clock(self, kind: Any, name: str) -> float | None:
        return self._number(lambda: self._library.amdsmi_get_clock_info(self._handle, kind)[name], 1e6)

    def _energy_j(self) -> float | None:
        count = self._ask(lambda: self._library.amdsmi_get_energy_count(self._handle))
        return None if count is None else 1e-6 * count["energy_accumulator"] * count["counter_resolution"]

    def _throttle(self) -> tuple[str, ...] | None:
        """What the violation status reports as active; None if the device has no such status."""
        status = self._ask(lambda: self._library.amdsmi_get_violation_status(self._handle))
        if status is None:
            return None
        active = {name: on for name, on in status.items() if name.startswith("active_") and on != "N/A"}
        known = [name.removeprefix("active_") for name, on in active.items() if on is True]
        return tuple(known) if active else None


def open_amd(pci: str) -> Amd:
    """The GPU at that address. Raises CountersUnavailableError."""
    try:
        import amdsmi
    except (ModuleNotFoundError, KeyError, OSError):  # the latter two: its library does not load
        raise CountersUnavailableError("amdsmi, which comes with ROCm, is not there") from None
    try:
        amdsmi.amdsmi_init()
        return Amd(amdsmi, amdsmi.amdsmi_get_processor_handle_from_bdf(pci))
    except amdsmi.AmdSmiException as error:
        raise CountersUnavailableError(" ".join(str(error).split())) from None
