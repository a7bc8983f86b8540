"""What is measured: the operations of a decode step, their shapes, formats, bytes and FLOPs.

A work is written as text, the same text on the command line, in result rows and in tests:

>>> work = parse("linear:n=4096,k=4096,m=1,weight=int8")
>>> work.flops, work.traffic.weights_bytes, work.traffic.scales_bytes
(33554432, 16777216, 16384)

Bytes and FLOPs follow from the work alone. A backend never reports its own, so every backend is held
against the same count. Single operations are defined in operations.py and routed_experts.py, whole steps and prompts in steps.py,
exported decoders in onnx_step.py.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from membound.kernels.models import MODELS
from membound.kernels.onnx_step import OnnxStep
from membound.kernels.operations import ACTS, DecodeAttention, LatentAttention, Linear, SpecError, Traffic
from membound.kernels.routed_experts import RoutedExperts
from membound.kernels.steps import Prefill, Step
from membound.kernels.weights.formats import FORMATS, KV_FORMATS
from membound.spec_text import pieces, quoted, unquoted

__all__ = [
    "ACTS",
    "FORMATS",
    "KINDS",
    "KV_FORMATS",
    "DecodeAttention",
    "LatentAttention",
    "Linear",
    "OnnxStep",
    "Prefill",
    "RoutedExperts",
    "SpecError",
    "Step",
    "Traffic",
    "Work",
    "held_bytes",
    "parse",
]

WHOLE = re.compile("-?[0-9]{1,40}")
"""More digits than any size has; a longer number is none."""

Work = Linear | DecodeAttention | LatentAttention | RoutedExperts | Step | Prefill | OnnxStep
KINDS: dict[str, type[Work]] = {
    w.kind: w for w in (Linear, DecodeAttention, LatentAttention, RoutedExperts, Step, Prefill, OnnxStep)
}


def parse(text: str) -> Work:
    """Turn a spec such as ``linear:n=4096,k=4096,m=1,weight=bf16`` into a work.

    Values may stand in quotes (`membound.spec_text`). Raises SpecError that names the wrong part and lists what is allowed.
    """
    work: Work = parse_as(text, KINDS)
    return work


def held_bytes(work: Work, slots: int) -> int:
    """Memory of that many input sets of a work, a model's one set; of experts also what no row takes."""
    if isinstance(work, RoutedExperts):
        return work.held_bytes(slots)
    if isinstance(work, OnnxStep):
        return work.resident_bytes
    return work.footprint_bytes * (1 if isinstance(work, Step | Prefill) else slots)


def parse_as(text: str, kinds: Mapping[str, type[Any]]) -> Any:
    """Turn a spec into an instance of the class that `kinds` has for its kind. Raises SpecError as `parse` does."""
    kind, _, rest = text.strip().partition(":")
    if kind not in kinds:
        raise SpecError(f"unknown work {kind!r}; allowed: {', '.join(kinds)} (as in linear:n=4096,k=4096)")
    cls = kinds[kind]
    known = {f.name: f for f in fields(cls) if f.init}
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in pieces(rest))):
        key, value = _pair(kind, part, values)
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise SpecError(
                f"{kind}: unknown key {key!r}{hint}; allowed: {', '.join(known)}{_quotes(part, values)}"
            )
        if key in values:
            raise SpecError(f"{kind}: {key} is given twice")
        values[key] = _whole(kind, key, value) if known[key].type == "int" else value
    missing = [f.name for f in known.values() if f.default is MISSING and f.name not in values]
    if missing:
        raise SpecError(f"{kind}: {', '.join(missing)} missing; keys: {', '.join(known)}")
    return cls(**values)


def _pair(kind: str, part: str, values: dict[str, Any]) -> tuple[str, str]:
    """The key and the value of one part. Raises SpecError."""
    key, equals, value = (s.strip() for s in part.partition("="))
    if not equals or not value:
        raise SpecError(f"{kind}: {part!r} is not key=value{_quotes(part, values)}")
    try:
        return key, unquoted(value)
    except ValueError as error:
        raise SpecError(f"{kind}: {key}={error}") from None


def _quotes(part: str, values: dict[str, Any]) -> str:
    """What to do if the odd part belongs to the name of a folder or a file."""
    for key, what in (("model", "folder"), ("file", "file")):
        if key in values and values[key] not in MODELS and not os.path.exists(values[key]):
            name = quoted(f"{values[key]},{part}")
            return f"; a {what} with a comma in its name goes in quotes: {key}={name}"
    return ""


def _whole(kind: str, key: str, value: str) -> int:
    if not WHOLE.fullmatch(value):  # int() would take 1_0, +5 and the digits of every script
        raise SpecError(f"{kind}: {key}={value[:60]!r} is not a whole number (no units, no fractions)")
    return int(value)
