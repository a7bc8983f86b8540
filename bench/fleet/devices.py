"""The devices of a node by class, and the backends that work on one of them.

>>> classes(["mine:cpu", "other:cuda", "other:cuda+graph"], gpus=2)
('cpu', 'cuda:0', 'cuda:1')
>>> named_on("cuda:1", ["mine:cpu", "other:cuda", "other:cuda+graph"])
['other:cuda:1', 'other:cuda:1+graph']
"""

from __future__ import annotations

from collections.abc import Iterable

from membound.results.roofline import device_class

CPU = "cpu"


def classes(backends: Iterable[str], gpus: int) -> tuple[str, ...]:
    """Devices that these backends work on; of accelerators, of which a backend may list the first alone, as many as Ray counts."""
    found = dict.fromkeys(map(device_class, backends))
    for first in list(found):
        kind, _, index = first.partition(":")
        if kind != CPU and index == "0":
            found |= dict.fromkeys(f"{kind}:{number}" for number in range(max(gpus, 1)))
    return tuple(found)


def named_on(device: str, backends: Iterable[str]) -> list[str]:
    """The backends that work on a device, with its number in their names. A backend that lists the first one takes any."""
    kind, _, index = device.partition(":")
    found: dict[str, None] = {}
    for name in backends:
        where = device_class(name)
        if where == device or (kind != CPU and where == f"{kind}:0"):
            backend, _, rest = name.partition(":")
            _, plus, variants = rest.partition("+")
            found[f"{backend}:{kind}:{index}{plus}{variants}" if where != device else name] = None
    return list(found)
