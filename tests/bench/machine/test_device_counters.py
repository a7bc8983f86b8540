"""An accelerator's counters, from libraries that are faked: units, what is unknown, and what a grade makes of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fake_nvml import PCI, FakeNvml

from membound.backends.api import Accelerator
from membound.bench.machine import amd, nvidia
from membound.bench.machine.counters import Unreadable, device_delta, open_counters
from membound.bench.machine.reading import CountersUnavailableError, Reading
from membound.bench.machine.validity import DEVICE_LIMITED, grade

H100 = Accelerator(80 << 30, 50 << 20, 132, "9.0", PCI)
QUIET_CPU = {
    "wall_s": 2.0,
    "cpu_s": 1.99,
    "psi_cpu_some_fraction": 0.0,
    "psi_memory_some_fraction": 0.0,
    "steal_fraction": 0.0,
    "major_faults": 0,
    "run_queue_wait_s": 0.0,
}


def opened(monkeypatch: pytest.MonkeyPatch, **state: Any) -> tuple[FakeNvml, Any]:
    library = FakeNvml(**state)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library, open_counters(H100)


def test_every_function_that_is_called_is_one_of_nvidias() -> None:
    real = pytest.importorskip("pynvml")
    called = set(re.findall(r"\bnvml[A-Z]\w+|\bNVML_\w+", Path(nvidia.__file__).read_text(encoding="utf-8")))
    assert len(called) >= 15
    assert not [name for name in called if not hasattr(real, name)]
    assert not [name for name in called if not hasattr(FakeNvml(), name)]
    bits = {
        real.nvmlClocksEventReasonSwPowerCap,
        real.nvmlClocksEventReasonHwSlowdown,
        real.nvmlClocksEventReasonSwThermalSlowdown,
        real.nvmlClocksEventReasonHwThermalSlowdown,
        real.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    }
    assert set(nvidia.THROTTLES) == bits


def test_nvidias_counters_in_our_units(monkeypatch: pytest.MonkeyPatch) -> None:
    library, counters = opened(monkeypatch)
    before = counters.read()
    assert (before.clock_hz, before.top_clock_hz) == (1.9e9, 1.98e9)
    assert (before.memory_clock_hz, before.power_w, before.energy_j) == (2.6e9, 350.5, 1000.0)
    assert (before.throttle, before.power_limited_s, before.others) == ((), 5.0, 0)
    library.state |= {"energy": 1_250_000, "reasons": 0x4 | 0x40, "violations": {0: 5_500_000_000, 1: 0}}
    library.state |= {"processes": [SimpleNamespace(pid=2**30 + one) for one in range(3)], "errors": 2}
    after = counters.read()
    got = device_delta(Reading(**_fields(before, wall_s=10.0)), Reading(**_fields(after, wall_s=12.0)))
    assert got["device_energy_j"] == 250.0
    assert got["device_power_limited_fraction"] == 0.25
    assert got["device_heat_limited_fraction"] == 0.0
    assert got["device_clock_ratio"] == pytest.approx(1900 / 1980)
    assert got["device_throttle"] == "power cap, heat (hardware)"
    assert (got["device_other_processes"], got["device_uncorrected_errors"]) == (2, 2)
    facts = counters.facts()
    assert (facts["driver"], facts["ecc"], facts["mig"], facts["power_limit_w"]) == (
        "580.1",
        True,
        False,
        700.0,
    )


def _fields(reading: Reading, **changed: Any) -> dict[str, Any]:
    return {name: getattr(reading, name) for name in Reading.__slots__} | changed


@pytest.mark.parametrize(
    ("missing", "counter"),
    [
        ("energy", "device_energy_j"),
        ("reasons", "device_throttle"),
        ("clocks", "device_clock_ratio"),
        ("violations", "device_power_limited_fraction"),
        ("errors", "device_uncorrected_errors"),
        ("processes", "device_other_processes"),
        ("temperature", "device_temperature_c"),
    ],
)
def test_what_a_driver_does_not_tell_is_unknown(
    monkeypatch: pytest.MonkeyPatch, missing: str, counter: str
) -> None:
    _, counters = opened(monkeypatch, **{missing: None})
    got = device_delta(counters.read(), counters.read())
    assert got[counter] is None
    assert sum(value is None for value in got.values()) <= 4
    assert counters.facts()["ecc"] is True


def test_a_call_that_the_driver_is_too_old_for_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """pynvml then raises a class that is no NVMLError, as of _v3 of this call before driver 510."""
    library, counters = opened(monkeypatch)

    def mismatch(*_: Any) -> Any:
        raise library.NVMLLibraryMismatchError("Unversioned function called")

    for name in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMigMode"):
        monkeypatch.setattr(library, name, mismatch, raising=False)
    assert counters.read().others is None
    assert (counters.facts()["mig"], counters.facts()["ecc"]) == (None, True)
    monkeypatch.setattr(library, "nvmlDeviceGetHandleByPciBusId", mismatch)
    with pytest.raises(CountersUnavailableError, match="Unversioned function"):
        nvidia.open_nvidia("0000:04:00.0")


def test_pynvml_has_every_class_that_is_caught() -> None:
    import pynvml

    assert all(issubclass(one, Exception) for one in nvidia.nvml_errors(pynvml))
    assert not issubclass(pynvml.NVMLLibraryMismatchError, pynvml.NVMLError)


def test_an_empty_list_of_processes_hides_even_ours_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _, counters = opened(monkeypatch, processes=[])
    assert counters.read().others is None


def test_without_a_library_everything_is_unknown_and_the_reason_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    counters = open_counters(H100)
    assert counters.facts()["counters"].startswith("NVIDIA: pip install nvidia-ml-py; AMD: ")
    found, reasons = grade(QUIET_CPU | device_delta(counters.read(), counters.read()), 2)
    assert found == "unknown"
    assert "the device's clock cannot be read" in reasons
    assert isinstance(open_counters(Accelerator()), Unreadable)


def test_a_device_that_the_driver_does_not_know_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    with pytest.raises(CountersUnavailableError, match="Not Found"):
        nvidia.open_nvidia("0000:99:00.0")


def test_a_cpu_has_no_device_counters() -> None:
    counters = open_counters(None)
    assert counters.facts() == {}
    assert device_delta(counters.read(), counters.read()) == {}
    assert grade(QUIET_CPU, 2) == ("clean", [])


FINE = {
    "device_clock_ratio": 0.96,
    "device_memory_clock_ratio": 0.99,
    "device_throttle": "",
    "device_power_limited_fraction": 0.0,
    "device_heat_limited_fraction": 0.0,
    "device_uncorrected_errors": 0,
    "device_other_processes": 0,
}


@pytest.mark.parametrize(
    ("changed", "expected", "reason"),
    [
        ({}, "clean", None),
        ({"device_throttle": "power cap"}, "contended", "device throttled: power cap"),
        ({"device_throttle": "heat (hardware)"}, "invalid", "device throttled: heat (hardware)"),
        ({"device_power_limited_fraction": 0.9}, "contended", "power-limited time of the device 90.0% > 1%"),
        ({"device_clock_ratio": 0.7}, "invalid", "device clock at 70% of its highest < 75%"),
        ({"device_memory_clock_ratio": 0.5}, "invalid", "device memory clock at 50% of its highest < 75%"),
        ({"device_uncorrected_errors": 1}, "invalid", "1 uncorrected memory errors on the device"),
        ({"device_power_limited_fraction": 0.02}, "contended", "power-limited time of the device 2.0% > 1%"),
        ({"device_heat_limited_fraction": 0.4}, "invalid", "heat-limited time of the device 40.0% > 5%"),
        ({"device_other_processes": 1}, "contended", "1 other process on the device"),
        ({"device_uncorrected_errors": None}, "clean", None),
        ({"device_throttle": None}, "unknown", "what throttles the device cannot be read"),
    ],
)
def test_grades_of_a_device(changed: dict[str, Any], expected: str, reason: str | None) -> None:
    assert DEVICE_LIMITED == 0.01
    assert grade(QUIET_CPU | FINE | changed, 2) == (expected, [reason] if reason else [])


class FakeAmdSmi(ModuleType):
    """The calls of amdsmi that are made; "N/A" is how it says that it does not know."""

    class AmdSmiException(Exception):
        pass

    AmdSmiClkType = SimpleNamespace(GFX="gfx", MEM="mem")
    AmdSmiTemperatureType = SimpleNamespace(HOTSPOT="hotspot")
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT="current")

    def amdsmi_init(self) -> None: ...

    def amdsmi_get_processor_handle_from_bdf(self, pci: str) -> str:
        if pci != PCI:
            raise self.AmdSmiException("not\nfound")
        return "handle"

    def amdsmi_get_clock_info(self, handle: str, kind: str) -> dict[str, Any]:
        return {"clk": {"gfx": 2000, "mem": "N/A"}[kind], "max_clk": 2100}

    def amdsmi_get_power_info(self, handle: str) -> dict[str, Any]:
        return {"current_socket_power": 512, "power_limit": 750}

    def amdsmi_get_temp_metric(self, *_: Any) -> int:
        return 55

    def amdsmi_get_energy_count(self, handle: str) -> dict[str, Any]:
        return {"energy_accumulator": 2_000_000, "counter_resolution": 15.3}

    def amdsmi_get_violation_status(self, handle: str) -> dict[str, Any]:
        return {"active_ppt_pwr": True, "active_hbm_thrm": False, "active_vr_thrm": "N/A", "per_ppt_pwr": 3}

    def amdsmi_get_gpu_total_ecc_count(self, handle: str) -> dict[str, Any]:
        raise self.AmdSmiException("not supported")

    def amdsmi_get_gpu_process_list(self, handle: str) -> list[dict[str, Any]]:
        return [{"pid": one, "mem": 0} for one in (2**30, 2**30 + 1)]

    def amdsmi_get_gpu_driver_info(self, handle: str) -> dict[str, Any]:
        return {"driver_version": "6.8.5"}


def test_amds_counters_in_our_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "amdsmi", FakeAmdSmi("amdsmi"))
    counters = open_counters(H100)
    assert counters.facts() == {"counters": "AMD SMI", "driver": "6.8.5", "power_limit_w": 750.0}
    got = counters.read()
    assert got is not None
    assert (got.clock_hz, got.memory_clock_hz, got.top_memory_clock_hz) == (2e9, None, 2.1e9)
    assert (got.power_w, got.energy_j, got.temperature_c) == (512.0, pytest.approx(30.6), 55.0)
    assert (got.throttle, got.uncorrected_errors, got.others) == (("ppt_pwr",), None, 1)
    with pytest.raises(CountersUnavailableError, match=r"^not found$"):
        amd.open_amd("0000:99:00.0")
