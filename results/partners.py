"""Why a case has no partner on the other side of a comparison: the one field in which the nearest one differs.

>>> [line["why"] for line in without_partner(left, right)]
['weight: int8 against bf16']

Each case is looked up by all of its fields but one, so that a hundred thousand of them take no time to speak of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from membound.spec_text import settings

COLUMNS = {
    "side": "A or B: where it is",
    "backend": "its backend",
    "work": "its work",
    "threads": "its CPU threads",
    "why": "the field in which the nearest case of the other side differs, and both values",
}
"""Columns of what has no partner."""
WITHOUT_PARTNER = "nothing on the other side is like it in all fields but one"
ABSENT = "not given"
FEWER, MORE = "<", ">"
"""No field has such a name."""

Case = tuple[str, str, int]
"""Backend, work, threads."""
Fields = tuple[tuple[str, str], ...]


def without_partner(left: Mapping[Any, Any], right: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    """A line for each case that only one side has. Keys are (backend, work, threads), or (work, threads)."""
    for side, own, other in (("A", left, right), ("B", right, left)):
        alone = [key for key in own if key not in other]
        near = _index(other) if alone else {}
        for key in alone:
            yield {
                "side": side,
                "backend": own[key][0].shared.backend,
                "work": key[-2],
                "threads": key[-1],
                "why": _why(_fields(key), near),
            }


def _fields(key: tuple[Any, ...]) -> Fields:
    """Every field by name, in the order in which a difference is looked for."""
    work, threads = key[-2], key[-1]
    kind = work.partition(":")[0]
    return (
        ("threads", str(threads)),
        *settings(work).items(),
        *((("backend", key[0]),) if len(key) == 3 else ()),
        ("kind of work", kind),
    )


def _index(keys: Mapping[Any, Any]) -> dict[tuple[str, Fields], str]:
    """By all fields but one: under that one's name its value, under FEWER what a case without it lacks. The first of several.

    Under MORE and all fields: a case that has one more is near.
    """
    found: dict[tuple[str, Fields], str] = {}
    for key in keys:
        fields = _fields(key)
        for name, value in fields:
            others = _others(fields, name)
            found.setdefault((name, others), value)
            found.setdefault((FEWER, others), f"{name}: {ABSENT} against {value}")
        found.setdefault((MORE, _others(fields, "")), "")
    return found


def _others(fields: Fields, name: str) -> Fields:
    return tuple(sorted(field for field in fields if field[0] != name))


def _why(fields: Fields, near: Mapping[tuple[str, Fields], str]) -> str:
    for name, value in fields:
        others = _others(fields, name)
        if (name, others) in near:
            return f"{name}: {value} against {near[name, others]}"
        if (MORE, others) in near:
            return f"{name}: {value} against {ABSENT}"
    return near.get((FEWER, _others(fields, "")), WITHOUT_PARTNER)
