"""Traces of real services as loads, read row by row and never whole.

>>> for one in read_trace(Path("conversation_trace.jsonl"), speed=1.0): ...
>>> one
Arrival(due_s=3.0, prompt_tokens=6955, output_tokens=52, blocks=(46, 47, ...))

Formats are recognised by their columns: Mooncake (FAST 2025: timestamp in ms, input_length, output_length, hash_ids of
512 tokens), BurstGPT (Timestamp in seconds, Request tokens, Response tokens), Azure's LLM traces of 2023 and 2024
(TIMESTAMP, ContextTokens, GeneratedTokens). The first row is due at 0.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from membound.bench.serving.schedule import LoadError

LONGEST_LINE = 1 << 20
"""Bytes of a row: the longest of Mooncake's, with a hash for each 512 tokens, have some kilobytes."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of a trace. Seconds from its first row."""

    due_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    """Numbers of its prompt's blocks: equal numbers are equal text, from the beginning on."""


Row = Mapping[str, Any]
Read = Callable[[Row], tuple[float, int, int, tuple[int, ...]]]


def read_trace(path: Path, speed: float = 1.0) -> Iterator[Arrival]:
    """Its requests in order, `speed` times as fast as they came. Rows without an answer (failed there) are passed by.

    Raises LoadError with file and line: a format that is none of these, times that go backwards, numbers that are none.
    """
    if not 0 < speed < 1e9:
        raise LoadError(f"speed={speed:g} of a trace must be above 0")
    first = last = None
    for number, (at, prompt, output, blocks) in _rows(path):
        first = at if first is None else first
        if last is not None and at < last:
            raise LoadError(
                f"{path}, line {number}: its time is before that of the row above; sort the trace"
            )
        last = at
        if output > 0:
            yield Arrival((at - first) / speed, prompt, output, blocks)


def _rows(path: Path) -> Iterator[tuple[int, tuple[float, int, int, tuple[int, ...]]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head = file.readline(LONGEST_LINE)
            lines = _numbered(chain([head], iter(lambda: file.readline(LONGEST_LINE), "")))
            yield from _json_rows(path, lines) if head.lstrip().startswith("{") else _csv_rows(path, lines)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LoadError(f"{path} is no text in UTF-8") from None


def _numbered(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    return enumerate(lines, 1)


def _json_rows(
    path: Path, lines: Iterator[tuple[int, str]]
) -> Iterator[tuple[int, tuple[float, int, int, tuple[int, ...]]]]:
    for number, line in lines:
        if line.strip():
            try:
                row = json.loads(line)
                yield number, _mooncake(row)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise _broken(path, number, "Mooncake's", error) from None


def _csv_rows(
    path: Path, lines: Iterator[tuple[int, str]]
) -> Iterator[tuple[int, tuple[float, int, int, tuple[int, ...]]]]:
    _, head = next(lines, (1, ""))
    try:
        columns = next(csv.reader([head]), [])
    except csv.Error:  # a carriage return within, or a name without end
        columns = []
    for name, needed, read in (
        ("BurstGPT's", {"Timestamp", "Request tokens", "Response tokens"}, _burst_gpt),
        ("Azure's", {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}, _azure),
    ):
        if needed <= {*columns}:
            for number, line in lines:
                if line.strip():
                    try:
                        fields = next(csv.reader([line]))
                        yield number, read(dict(zip(columns, fields, strict=True)))
                    except (ValueError, KeyError, OverflowError, csv.Error) as error:
                        raise _broken(path, number, name, error) from None
            return
    raise LoadError(
        f"{path} is no trace that is known: its columns are {', '.join(columns)[:80] or 'none'}; "
        "Mooncake's JSON lines, BurstGPT's and Azure's CSV are read"
    )


def _broken(path: Path, number: int, whose: str, error: Exception) -> LoadError:
    missing = f"no {error}" if isinstance(error, KeyError) else str(error)
    return LoadError(f"{path}, line {number} is no row of {whose} traces: {missing[:120]}")


def _mooncake(row: Row) -> tuple[float, int, int, tuple[int, ...]]:
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    blocks = tuple(_count(one) for one in row.get("hash_ids", ()))
    return _moment(row["timestamp"]) / 1e3, _count(row["input_length"]), _count(row["output_length"]), blocks


def _burst_gpt(row: Row) -> tuple[float, int, int, tuple[int, ...]]:
    return _moment(row["Timestamp"]), _count(row["Request tokens"]), _count(row["Response tokens"]), ()


def _azure(row: Row) -> tuple[float, int, int, tuple[int, ...]]:
    return _instant(row["TIMESTAMP"]), _count(row["ContextTokens"]), _count(row["GeneratedTokens"]), ()


def _instant(text: str) -> float:
    """Seconds of a date and time with seven digits of a second, of which `fromisoformat` takes six."""
    whole, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    at = datetime.fromisoformat(whole + rest[len(digits) :])
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return at.timestamp() + (float(f"0.{digits}") if dot and digits else 0.0)


def _moment(value: Any) -> float:
    at = float(value)
    if not 0 <= at < 1e15:
        raise ValueError(f"{value!r} is no time")
    return at


def _count(value: Any) -> int:
    count = int(value)
    if not 0 <= count < 1 << 40 or count != float(value):
        raise ValueError(f"{value!r} is no number of tokens")
    return count
