"""Which devices an entry point has, each opened to see whether it is there: what a worker does to probe.

>>> [found["id"] for found in try_devices("mine", [], threads=2) if found["available"]]
['mine:cpu']
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from membound.backends import registry
from membound.backends.api import Backend
from membound.bench.measure.closing import closed
from membound.bench.measure.failures import FigureError, one_line, said
from membound.bench.measure.figures import device_fields, device_names
from membound.errors import BackendUnavailable, MemboundError


def try_devices(entry: str, devices: Sequence[str], threads: int) -> list[dict[str, Any]]:
    """Fields of `planning.probe.Found` for the devices named, or every one that the entry point lists."""
    prefix = entry.partition(".")[0]
    try:
        cls = registry.load(entry)
        listed = list(devices) or device_names(cls)
    except BackendUnavailable as error:
        absent = {"available": False, "reason": said(error.reason), "remedy": said(error.remedy)}
        return [{"id": entry.replace(".", ":", 1), "entry": entry, **absent}]
    return [
        {"id": f"{prefix}:{device}", "entry": entry, **_try_device(cls, device, threads)} for device in listed
    ]


def _try_device(cls: type[Backend], device: str, threads: int) -> dict[str, Any]:
    try:
        backend = cls()
        try:
            found = device_fields(backend.open(device, threads))
        finally:
            closed(backend)
    except BackendUnavailable as error:
        return {"available": False, "reason": said(error.reason), "remedy": said(error.remedy)}
    except (MemboundError, FigureError) as error:
        return {"available": False, "reason": said(error), "remedy": ""}
    except Exception as error:  # the outermost boundary around a runtime's start-up
        return {"available": False, "reason": one_line(error), "remedy": ""}
    # A backend is known by the name it was asked for, whatever its `Device.id` says.
    return {"available": True, "reason": "", "remedy": ""} | found
