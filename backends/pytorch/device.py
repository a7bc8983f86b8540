"""The devices of torch: which there are, what they are, and their clocks, streams and graphs, by torch.accelerator.

>>> device = check_device("npu")               # "npu:0"; raises BackendUnavailable that lists what there is
>>> describe(device).memory_bytes

torch is imported in the functions, so that `import_torch` reports its absence and importing this module never fails.
Nothing here knows a vendor: what only some vendors have is looked up by name and may be missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from membound.backends.api import Accelerator
from membound.errors import BackendUnavailable, Unsupported

if TYPE_CHECKING:
    import torch

CAPTURE_WARMUP = 3
"""Runs before a graph is captured: in the first ones libraries choose kernels and allocate workspaces."""


def import_torch() -> Any:
    """torch itself. Raises BackendUnavailable with the command that would help."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise BackendUnavailable(f"torch cannot be imported: {error}") from error
        raise BackendUnavailable("torch is not installed", 'pip install "membound[torch]"') from None
    except (ImportError, OSError) as error:
        raise BackendUnavailable(f"torch cannot be imported: {error}") from error
    return torch


def compiler() -> str:
    """The C++ compiler that torch.compile would call."""
    return os.environ.get("CXX", "g++")


def accelerator_kind() -> str | None:
    """The kind of accelerator that this torch can use here: "cuda", "npu", "xpu", …; None without one."""
    import torch

    if not torch.accelerator.is_available():
        return None
    current = torch.accelerator.current_accelerator()
    return None if current is None else current.type


def check_device(name: str) -> str:
    """The device as torch names it, with its index. Raises BackendUnavailable, which lists what there is."""
    import torch

    if name == "cpu":
        return name
    kind, _, index = name.partition(":")
    found = accelerator_kind()
    count = torch.accelerator.device_count() if found else 0
    here = ["cpu", *(f"{found}:{i}" for i in range(count))]
    device = f"{kind}:{index or 0}"
    if device not in here:
        raise BackendUnavailable(
            f"torch {torch.__version__} has no device {name!r} here; it has: {', '.join(here)}"
        )
    torch.accelerator.set_device_index(int(index or 0))
    return device


def accelerator_name(device: str) -> str:
    """The name of the hardware."""
    import torch

    return str(torch.get_device_module(device).get_device_name(device))


def describe(device: str) -> Accelerator:
    """Memory, cache and address of an accelerator; 0 or "" for what its properties do not have."""
    import torch

    properties = torch.get_device_module(device).get_device_properties(device)
    major, minor = (getattr(properties, name, None) for name in ("major", "minor"))
    bus = getattr(properties, "pci_bus_id", None)
    domain, slot = (getattr(properties, name, 0) for name in ("pci_domain_id", "pci_device_id"))
    return Accelerator(
        memory_bytes=int(getattr(properties, "total_memory", 0)),
        cache_bytes=int(getattr(properties, "L2_cache_size", 0)),
        compute_units=int(getattr(properties, "multi_processor_count", 0)),
        capability="" if major is None else f"{major}.{minor}",
        pci="" if bus is None else f"{domain:04x}:{bus:02x}:{slot:02x}.0",
    )


def has_operator(name: str, device: str) -> bool:
    """Whether this torch has a kernel of that aten operator for the device's kind."""
    import torch

    key = torch._C._dispatch_key_for_device(device.partition(":")[0])
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key))


def timed_event(device: str) -> torch.Event:
    """An event on the device's current stream, recorded now."""
    import torch

    event = torch.Event(device, enable_timing=True)
    event.record()
    return event


def new_event(device: str) -> torch.Event:
    """An event that orders streams."""
    import torch

    return torch.Event(device)


def new_stream(device: str) -> torch.Stream:
    """Another stream than the current one."""
    import torch

    return torch.Stream(device)


def capture(run: Callable[[], torch.Tensor], device: str) -> Callable[[], torch.Tensor]:
    """`run` as a graph: one replay starts all of its kernels. Every replay writes its output to the same memory.

    Raises Unsupported if the device has no graphs.
    """
    import torch

    graph = _graph_class(device)()
    stream = new_stream(device)
    stream.wait_stream(torch.accelerator.current_stream())
    with stream:
        for _ in range(CAPTURE_WARMUP):
            run()
        torch.accelerator.synchronize()
        graph.capture_begin()
        try:
            output = run()
        finally:
            graph.capture_end()
    torch.accelerator.synchronize()

    def replay() -> torch.Tensor:
        graph.replay()
        return output

    return replay


def _graph_class(device: str) -> Any:
    """torch.accelerator's graph since torch 2.12, before that the one of the device's module."""
    import torch

    if hasattr(torch.accelerator, "Graph"):
        return torch.accelerator.Graph
    module = torch.get_device_module(device)
    names = [name for name in dir(module) if name.endswith("Graph")]
    if not names:
        raise Unsupported(f"torch {torch.__version__} has no graphs on {device.partition(':')[0]}")
    return getattr(module, names[0])
