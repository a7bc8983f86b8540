"""What is measured: the operations of a decode step, their shapes, formats, bytes and FLOPs.

A work is written as text, the same text on the command line, in result rows and in tests:

>>> work = parse("linear:n=4096,k=4096,m=1,weight=int8")
>>> work.flops, work.traffic.weights_bytes, work.traffic.scales_bytes
(33554432, 16777216, 16384)

Bytes and FLOPs follow from the work alone. A backend never reports its own, so every backend is held
against the same count. Single operations are defined in operations.py, whole steps and prompts in steps.py.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import MISSING, fields
from typing import Any

from membound.kernels.operations import ACTS, DecodeAttention, LatentAttention, Linear, SpecError, Traffic
from membound.kernels.steps import Prefill, Step
from membound.kernels.weights.formats import FORMATS, KV_FORMATS

__all__ = [
    "ACTS",
    "FORMATS",
    "KINDS",
    "KV_FORMATS",
    "DecodeAttention",
    "LatentAttention",
    "Linear",
    "Prefill",
    "SpecError",
    "Step",
    "Traffic",
    "Work",
    "parse",
]

WHOLE = re.compile("-?[0-9]{1,40}")
"""More digits than any size has; a longer number is none."""

Work = Linear | DecodeAttention | LatentAttention | Step | Prefill
KINDS: dict[str, type[Work]] = {w.kind: w for w in (Linear, DecodeAttention, LatentAttention, Step, Prefill)}


def parse(text: str) -> Work:
    """Turn a spec such as ``linear:n=4096,k=4096,m=1,weight=bf16`` into a work.

    Raises SpecError that names the wrong part and lists what is allowed.
    """
    kind, _, rest = text.strip().partition(":")
    if kind not in KINDS:
        raise SpecError(f"unknown work {kind!r}; allowed: {', '.join(KINDS)} (as in linear:n=4096,k=4096)")
    cls = KINDS[kind]
    known = {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = (s.strip() for s in part.partition("="))
        if not equals or not value:
            raise SpecError(f"{kind}: {part!r} is not key=value")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise SpecError(f"{kind}: unknown key {key!r}{hint}; allowed: {', '.join(known)}")
        if key in values:
            raise SpecError(f"{kind}: {key} is given twice")
        values[key] = _whole(kind, key, value) if known[key].type == "int" else value
    missing = [f.name for f in known.values() if f.default is MISSING and f.name not in values]
    if missing:
        raise SpecError(f"{kind}: {', '.join(missing)} missing; keys: {', '.join(known)}")
    return cls(**values)


def _whole(kind: str, key: str, value: str) -> int:
    if not WHOLE.fullmatch(value):  # int() would take 1_0, +5 and the digits of every script
        raise SpecError(f"{kind}: {key}={value[:60]!r} is not a whole number (no units, no fractions)")
    return int(value)
