"""Damage to inputs that keeps most of their structure: what a stranger, a bug or a disk might have made of a file.

>>> mutated(Random(1), {"batch": 4})
{'batch': 1e+300}

Values of JSON are changed along one path and never in place, so that seeds can be kept parsed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, -0.0, 0.5, 5e-324, 1e-300, 1e-12, 9.99e-13, 1e30, 1.1e30, 1e300, 1e308),
    *(2**31, 2**53 + 1, 2**63, 2**64, 10**18, 10**30, 10**400, -(10**18)),
)
TEXTS = (
    *(
        "",
        "x",
        " ",
        "\n",
        "\x1b[31mX\x1b[0m",
        "[red]x[/red]",
        "[/]",
        "<script>",
        "=1+1",
        "|",
        "`",
        "../..",
        "a" * 5000,
    ),
    *(
        "\ud800",
        "\u202e",
        "é",
        "日本",
        "٣",
        "NaN",
        "int8",
        "f32",
        "cpu",
        "read",
        "ok",
        "wrong",
        "ceiling",
        "case",
        "tiny",
    ),
    *(
        "step:batch=²",
        "step:model=tiny",
        "custom:name=",
        "linear:n=4096,k=4096",
        "linear:",
        "attention:kv=f32",
    ),
    *("bytes/s", "s", "FLOP/s", "a:b:c+d#e", "1" * 5000),
)
WHOLES: tuple[Any, ...] = (
    *(None, True, False, [], [None], [0], [1.0], [-1], ["x"], [[]], {}, {"a": 1}, {"a": None}, {"": ""}),
    *({"cpu": None}, {"cpu": 5}, [1e30] * 3, [1e-12]),
)
TOKENS = (
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-",
    b"[",
    b"{",
    b"\x00",
    b"\xff",
    b"\\ud800",
    b"\\u0000",
    b'"',
    b"9" * 5000,
)
FACTORS = (0, -1, 1e9, 1e-9, 1e30, 10**20, 2, 0.5)


def strange(rng: Random) -> Any:
    """A value of JSON that hardly any field is meant to hold."""
    kind = rng.randrange(10)
    if kind < 8:
        return rng.choice((NUMBERS, TEXTS, WHOLES)[kind % 3])
    if kind == 8:
        return rng.choice((1, -1)) * rng.random() * 10.0 ** rng.randrange(-320, 308)
    return "".join(chr(rng.randrange(1, 0x500)) for _ in range(rng.randrange(8)))


def mutated(rng: Random, value: Any) -> Any:
    """The value with one change somewhere in it."""
    if isinstance(value, dict) and value and rng.randrange(15):
        return _other_object(rng, value)
    if isinstance(value, list) and value and rng.randrange(5):
        return _other_list(rng, value)
    if isinstance(value, str) and value and rng.randrange(5) < 2:
        at = rng.randrange(len(value))
        return (
            value[:at]
            + rng.choice(("", *":=,+ \n\x00\x1b[]/|`<>&²9-", value[at:]))
            + value[at + rng.randrange(2) :]
        )
    if type(value) in (int, float) and rng.randrange(5) < 2:
        try:
            return value * rng.choice(FACTORS)
        except OverflowError:
            return value
    return strange(rng)


def _other_object(rng: Random, value: dict[str, Any]) -> dict[str, Any]:
    key, what = rng.choice(list(value)), rng.randrange(10)
    if what == 0:
        return {name: entry for name, entry in value.items() if name != key}
    if what == 1:
        return value | {str(strange(rng))[:40]: strange(rng)}
    return value | {key: mutated(rng, value[key])}


def _other_list(rng: Random, value: list[Any]) -> list[Any]:
    at, what = rng.randrange(len(value)), rng.randrange(10)
    if what == 0:
        return value[:at] + value[at + 1 :]
    if what == 1:
        return [*value[:at], strange(rng), *value[at:]]
    return [*value[:at], mutated(rng, value[at]), *value[at + 1 :]]


def damaged(rng: Random, content: bytes) -> bytes:
    """The bytes with one to three changes that know no structure."""
    for _ in range(rng.randrange(1, 4)):
        at, what = rng.randrange(len(content) + 1), rng.randrange(4)
        gone = rng.randrange(1, 20) if what == 0 else what == 1
        new = (b"", bytes((rng.randrange(256),)), rng.randbytes(rng.randrange(1, 6)), rng.choice(TOKENS))[
            what
        ]
        content = content[:at] + new + content[at + gone :]
    return content


@lru_cache(maxsize=512)
def parsed(content: bytes) -> Any:
    """What JSON says, or the text where it is none. Nobody changes it in place."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode(errors="replace")


ENCODER = json.JSONEncoder(separators=(",", ":"))


def as_bytes(value: Any) -> bytes:
    """The value as JSON; bytes that are no JSON where it cannot be said in it."""
    try:
        return ENCODER.encode(value).encode()
    except (ValueError, OverflowError, RecursionError):
        return b"?"


def other_json(rng: Random, content: bytes, times: Sequence[int] = (1, 1, 1, 2, 4)) -> bytes:
    """A document of JSON with a few changes: mostly of its values, now and then of its bytes."""
    if not rng.randrange(8):
        return damaged(rng, content)
    value = parsed(content)
    for _ in range(rng.choice(times)):
        value = mutated(rng, value)
    return as_bytes(value)


def other_lines(rng: Random, content: bytes) -> bytes:
    """A file of JSON lines with a few changes: of lines, of one field in many lines, of bytes."""
    if not rng.randrange(12):
        return damaged(rng, content)
    lines = content.split(b"\n")
    if not rng.randrange(3):
        return b"\n".join(_other_column(rng, lines))
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at = rng.randrange(len(lines))
        lines[at] = other_json(rng, lines[at], (1,)) if lines[at] else b""
    if not rng.randrange(10):
        rng.shuffle(lines)
    return b"\n".join(lines)


def _other_column(rng: Random, lines: list[bytes]) -> list[bytes]:
    """One field, or one entry of it, set to the same value in most lines that have it."""
    values = [parsed(line) for line in lines]
    objects = [value for value in values if isinstance(value, dict) and value]
    if not objects:
        return lines
    like = rng.choice(objects)
    name, new = rng.choice(list(like)), strange(rng)
    inner = rng.choice(list(like[name])) if isinstance(like[name], dict) and like[name] else None

    def changed(value: Any) -> Any:
        if not isinstance(value, dict) or name not in value or not rng.randrange(10):
            return value
        if inner is not None and isinstance(value[name], dict):
            return value | {name: value[name] | {inner: new}}
        return value | {name: new}

    return [as_bytes(changed(value)) if line else line for line, value in zip(lines, values, strict=True)]


def other_file(rng: Random, content: bytes) -> bytes:
    """A file of JSON, of JSON lines, or of other text with a few changes: of cells between commas in the last case."""
    if content[:1] in (b"{", b"["):
        return (other_json if b"\n{" not in content else other_lines)(rng, content)
    if not rng.randrange(4):
        return damaged(rng, content)
    cells = content.split(b",")
    for _ in range(rng.choice((1, 1, 2, 4))):
        cells[rng.randrange(len(cells))] = rng.choice(
            (b"", b"nan", b"-1", b"1e999", b"0", b"x", b"'", b"9" * 400, b"\n")
        )
    return b",".join(cells)
