"""A measured limit, as every way of measuring one gives it.

>>> Ceiling("read", 2.1e10, "bytes/s", (0.0031, 0.0032), {"variant": "4 streams"}).status
'ok'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from membound.bench.measure.figures import plain
from membound.results.row import Row, RowError

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

    def as_told(self) -> dict[str, Any]:
        """Its fields as plain values. One that no row could hold becomes an error that says why.

        Limits and their descriptions are a backend's, which is not trusted: one bad figure must not cost the others.
        """
        fields = plain(asdict(self))
        about = {"run_id": "", "kind": "ceiling", "backend": "", "work": fields["name"]}
        figures = {name: fields[name] for name in ("value", "unit", "config", "status", "reason")}
        try:
            Row.from_json(Row(**about, **figures, samples_s=fields["samples"]).to_json())
        except RowError as error:
            bad = Ceiling(str(self.name), None, "", (), {}, "error", f"{self.name}: {error}")
            return plain(asdict(bad))  # type: ignore[no-any-return]
        return fields  # type: ignore[no-any-return]
