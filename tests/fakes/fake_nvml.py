"""pynvml's calls on a GPU whose state a test sets."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

PCI = "0000:04:00.0"


class FakeNvml(ModuleType):
    """The calls of pynvml that are made, on a GPU whose state is `state`; a missing key is "not supported"."""

    class NVMLError(Exception):
        pass

    class NVMLLibraryMismatchError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 0, 1
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0

    def __init__(self, **state: Any) -> None:
        super().__init__("pynvml")
        self.state = {
            "clocks": {1: 1900, 2: 2600},
            "tops": {1: 1980, 2: 2619},
            "reasons": 0x1 | 0x2,
            "violations": {0: 5_000_000_000, 1: 0},
            "power": 350_500,
            "energy": 1_000_000,
            "temperature": 41,
            "errors": 0,
            "processes": [SimpleNamespace(pid=4711)],
            "driver": "580.1",
            "ecc": [1, 1],
            "mig": [0, 0],
            "limit": 700_000,
        } | state

    def _get(self, name: str) -> Any:
        if self.state.get(name) is None:
            raise self.NVMLError("Not Supported")
        return self.state[name]

    def nvmlInit(self) -> None:  # noqa: N802
        self._get("driver")

    def nvmlDeviceGetHandleByPciBusId(self, pci: str) -> str:  # noqa: N802
        if pci != PCI:
            raise self.NVMLError("Not Found")
        return "handle"

    def __getattr__(self, name: str) -> Any:
        plain = {
            "nvmlDeviceGetCurrentClocksEventReasons": "reasons",
            "nvmlDeviceGetPowerUsage": "power",
            "nvmlDeviceGetTotalEnergyConsumption": "energy",
            "nvmlDeviceGetTemperature": "temperature",
            "nvmlDeviceGetTotalEccErrors": "errors",
            "nvmlDeviceGetComputeRunningProcesses": "processes",
            "nvmlSystemGetDriverVersion": "driver",
            "nvmlDeviceGetEccMode": "ecc",
            "nvmlDeviceGetMigMode": "mig",
            "nvmlDeviceGetEnforcedPowerLimit": "limit",
        }
        if name in plain:
            return lambda *_: self._get(plain[name])
        keyed = {"nvmlDeviceGetClockInfo": "clocks", "nvmlDeviceGetMaxClockInfo": "tops"}
        if name in keyed:
            return lambda _, kind: self._get(keyed[name])[kind]
        if name == "nvmlDeviceGetViolationStatus":
            return lambda _, policy: SimpleNamespace(violationTime=self._get("violations")[policy])
        raise AttributeError(name)
