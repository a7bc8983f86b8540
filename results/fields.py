"""Checks a line of JSON against the dataclass that it should become: every field known, present, and of its type.

>>> wrong_version({"schema_version": 1}, newest=2), wrong_field(Row, {"run_id": 5} | rest)
('', "run_id=5 is not text")

The check follows the annotations, so that a new field is checked as soon as it has one. JSON has no NaN, a count or a
time is never negative, and true is not a number. Both functions return what is wrong, or ''.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isinf
from typing import Any, get_args, get_origin, get_type_hints

Check = Callable[[Any], bool]

LARGEST = 1e30
"""No count of bytes, FLOPs or seconds comes near it, but JSON allows numbers whose quotients overflow."""
LARGEST_WHOLE = 2**63 - 1
"""Of numbers that need not be whole: NumPy keeps no larger one but as an object, which has no logarithm."""


def read_json(line: str) -> Any:
    """The content of the line. Raises ValueError on malformed text, NaN, 1e999, a key that stands twice, and deep nesting."""
    try:
        return _READER.decode(line)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} stands twice")
    return whole


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):  # it could be read, and never be written again
        raise ValueError(f"{text} is not a number of JSON")
    return value


_READER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_object)


def wrong_version(data: Mapping[str, Any], newest: int, what: str = "") -> str:
    """What is wrong with `schema_version`, or ''; `what` names the kind of file in the message."""
    version = data.get("schema_version")
    if version is None:
        return "no schema_version"
    if type(version) is not int or version < 1:
        return f"schema_version={short(version)} is not a whole number from 1"
    if version > newest:
        return (
            f"written by a newer membound (schema {short(version)}{what}, this one reads up to {newest}); "
            "upgrade membound to read it"
        )
    return ""


def wrong_field(cls: type[Any], data: Mapping[str, Any]) -> str:
    """The first field that is unknown, missing, or not what its annotation in `cls` says."""
    checks = _checks(cls)  # type: ignore[arg-type]  # mypy takes a class for unhashable
    for name, value in data.items():
        if name not in checks:
            return f"unknown field {name!r}"
        check, expected = checks[name]
        if not check(value):
            return f"{name}={short(value)} is not {expected}"
    missing = _required(cls) - data.keys()  # type: ignore[arg-type]  # as above
    return f"no field {min(missing)!r}" if missing else ""


def fields_of(one: Any) -> dict[str, Any]:
    """What the fields of a dataclass hold, for a line that is written at once: `dataclasses.asdict` copies each number of a list."""
    return {name: getattr(one, name) for name in _names(type(one))}  # type: ignore[arg-type]  # as in `wrong_field`


@cache
def _names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


def is_amount(value: Any) -> bool:
    """Whether it is a number from 0 that arithmetic of all kinds can take."""
    if type(value) is int:
        return 0 <= value <= LARGEST_WHOLE
    return type(value) is float and 0 <= value <= LARGEST


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _list_of(check: Check) -> Check:
    return lambda value: type(value) is list and all(map(check, value))


def _table_of(check: Check) -> Check:
    return lambda value: type(value) is dict and all(map(check, value.values()))


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


NUMBER, COUNT = "a number from 0", "a whole number from 0"
CHECKS: dict[Any, tuple[Check, str]] = {
    str: (_is_text, "text"),
    int: (_is_count, COUNT),
    int | None: (_or_null(_is_count), f"{COUNT}, nor null"),
    float | None: (_or_null(is_amount), f"{NUMBER}, nor null"),
    float: (is_amount, NUMBER),
    list[int]: (_list_of(_is_count), "a list of whole numbers from 0"),
    list[float]: (_list_of(is_amount), "a list of numbers from 0"),
    list[str]: (_list_of(_is_text), "a list of texts"),
    dict[str, Any]: (lambda value: type(value) is dict, "an object"),
    dict[str, Any] | None: (_or_null(lambda value: type(value) is dict), "an object, nor null"),
    dict[str, int]: (_table_of(_is_count), "an object of whole numbers from 0"),
    dict[str, str]: (_table_of(_is_text), "an object of texts"),
    dict[str, float]: (_table_of(is_amount), "an object of numbers from 0"),
    dict[str, bool]: (_table_of(_is_flag), "an object of true and false"),
    bool: (_is_flag, "true or false"),
    list[dict[str, Any]]: (_list_of(lambda value: type(value) is dict), "a list of objects"),
    dict[str, float | str]: (
        _table_of(lambda value: _is_text(value) or is_amount(value)),
        "an object of numbers and texts",
    ),
}
"""Every annotation that a stored dataclass may use, and the word for its values in messages."""


@cache
def _checks(cls: type[Any]) -> dict[str, tuple[Check, str]]:
    hints = get_type_hints(cls)
    return {f.name: _check(hints[f.name]) for f in fields(cls)}


def _check(hint: Any) -> tuple[Check, str]:
    """The check of an annotation; a list of another dataclass is a list of objects, which it reads itself."""
    nested = get_origin(hint) is list and is_dataclass(get_args(hint)[0])
    return CHECKS[list[dict[str, Any]]] if nested else CHECKS[hint]


@cache
def _required(cls: type[Any]) -> frozenset[str]:
    return frozenset(f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING)


def short(value: Any) -> str:
    """The value, shortened for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
