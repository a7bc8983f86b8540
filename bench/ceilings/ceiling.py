"""A measured limit, as every way of measuring one gives it.

>>> Ceiling("read", 2.1e10, "bytes/s", (0.0031, 0.0032), {"variant": "4 streams"}).status
'ok'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Tell = Callable[[str], None]
"""Called with what is being measured."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One limit. `samples` are seconds a call of the best pattern, which `config` describes.

    value = amount / median of the undisturbed samples, in `unit` (bytes/s, FLOP/s), or that median itself (s).
    A pattern with a wrong result has status "wrong", a reason and no value.
    """

    name: str
    value: float | None
    unit: str
    samples: tuple[float, ...]
    config: dict[str, Any]
    status: str = "ok"
    reason: str = ""
