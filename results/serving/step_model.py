"""What a decode step of a served model moves and computes, as a row of a load stores it.

>>> StepModel(2.5e9, 3.6e6, 32768.0, 2.5e9, 131072.0).bytes_of(batch=4.0, context=160.0) / 4
633571520.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from membound.results.fields import is_amount


@dataclass(frozen=True, slots=True)
class StepModel:
    """A decode step's bytes and FLOPs as sums over the batch: those of the weights, of a sequence, of a token of its context."""

    weights_bytes: float
    sequence_bytes: float
    context_bytes: float
    sequence_flops: float
    context_flops: float

    def bytes_of(self, batch: float, context: float) -> float:
        """Of a step of this number of sequences."""
        return self.weights_bytes + batch * (self.sequence_bytes + context * self.context_bytes)

    def flops_of(self, batch: float, context: float) -> float:
        """The same of arithmetic."""
        return batch * (self.sequence_flops + context * self.context_flops)


def wrong_roofline(stored: Any) -> str:
    """What no figure could be made of in a row's `roofline`, or ''."""
    if not isinstance(stored, dict):
        return f"roofline={str(stored)[:80]!r} of config is no object"
    step, turns = stored.get("step", {}), stored.get("ceilings", [])
    for name in ("work", "step_backend"):
        if not isinstance(stored.get(name, ""), str):
            return f"{name}={str(stored[name])[:80]!r} of a point's roofline is no text"
    fields = StepModel.__dataclass_fields__
    if step and not (
        isinstance(step, dict)
        and {*step} == {*fields}
        and all(is_amount(value) and value >= 0 for value in step.values())
    ):
        return f"step={str(step)[:80]!r} of a point's roofline does not have the numbers {', '.join(fields)}"
    if not isinstance(turns, list) or not all(
        isinstance(one, dict) and all(is_amount(rate) and rate > 0 for rate in one.values()) for one in turns
    ):
        return f"ceilings={str(turns)[:80]!r} of a point's roofline are not rates above 0"
    return ""
