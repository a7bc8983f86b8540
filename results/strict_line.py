"""A line without a checksum, every field of it checked as `Row.from_json` does: by msgspec, twenty times as fast.

>>> read_strictly(line)
StrictLine(run_id='20261128T210353-intel-xeon-d8e2', kind='case', …)

What is read here is right, but for a key that stands twice, of which the last one counts. What is not may be right all the
same (a point of load, a text with half a surrogate): `Row.from_json` decides, and says what is wrong.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import lru_cache
from typing import Annotated, Any, Literal, get_type_hints

from msgspec import DecodeError, Meta, Raw, defstruct, field
from msgspec.json import Decoder

from membound.results.fields import LARGEST_WHOLE, read_json
from membound.results.row import (
    BATCH,
    BATCH_SIZE,
    GRADES,
    KINDS,
    SCHEMA_VERSION,
    STATUSES,
    Row,
    wrong_config,
    wrong_entry,
)
from membound.results.turns import SHORTEST_S, SLOWEST, StoredTurn

Count = Annotated[int, Meta(ge=0, le=LARGEST_WHOLE)]
Amount = Annotated[float, Meta(ge=0, le=float(2**62))]
"""msgspec makes a whole number a float, and so must not be given one that is too large for a whole one."""
Time = Annotated[float, Meta(ge=SHORTEST_S, le=float(2**62))]
Rate = Annotated[float, Meta(ge=SLOWEST, le=float(2**62))]
TYPES: dict[Any, Any] = {
    str: str,
    int: Count,
    int | None: Count | None,
    float: Amount,
    float | None: Amount | None,
    list[float]: list[Amount],
    list[str]: list[str],
    dict[str, Any]: dict[str, Any],
    dict[str, int]: dict[str, Count],
    dict[str, str]: dict[str, str],
    dict[str, float]: dict[str, Amount],
}
"""Of an annotation, as `fields.CHECKS` has them."""
OF_TURNS: dict[str, Any] = {
    "time_s": Time,
    "device_s": Time | None,
    "launches": Annotated[int, Meta(ge=1, le=LARGEST_WHOLE)],
    "between": Annotated[float, Meta(ge=0, le=1)],
    "before": dict[str, Rate],
    "after": dict[str, Rate],
}
OF_ROWS: dict[str, Any] = {
    "kind": Literal[KINDS],
    "status": Literal[STATUSES],
    "grade": Literal[GRADES],
    "schema_version": Annotated[int, Meta(ge=1, le=SCHEMA_VERSION)],
    "samples_s": list[Time],
    "hot_samples_s": list[Time],
    "device_samples_s": list[Time],
    "requests": list[Raw],
    # Rows share these, and what reads them makes them objects once for all that do.
    **dict.fromkeys(("accelerator", "config", "machine"), Raw),
}
OBJECTS_KEPT = 256


def _strict(stored: type[Any], special: dict[str, Any], required: tuple[str, ...] = ()) -> Any:
    """A struct with the fields of a stored dataclass, which msgspec checks."""
    hints = get_type_hints(stored)
    found: list[Any] = []
    for one in fields(stored):
        kind = special.get(one.name) or TYPES[hints[one.name]]
        if one.default_factory is not MISSING:
            default: Any = field(default_factory=(lambda: Raw(b"{}")) if kind is Raw else one.default_factory)
        else:
            default = one.default
        needed = one.name in required or default is MISSING
        found.append((one.name, kind) if needed else (one.name, kind, default))
    return defstruct(f"Strict{stored.__name__}", found, forbid_unknown_fields=True, kw_only=True, gc=False)


LINE: Decoder[Any] = Decoder(
    _strict(
        Row,
        OF_ROWS | {"turns": list[_strict(StoredTurn, OF_TURNS)]},  # type: ignore[misc]  # made at run time
        required=("schema_version",),
    )
)


def read_strictly(line: bytes) -> Any:
    """The fields of a row; objects that rows share as they stand in the line. Raises ValueError of one that may be wrong."""
    try:
        read = LINE.decode(line)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    batch = BATCH.match(read.work)
    if (
        read.kind == "serving"
        or read.requests
        or (batch and not BATCH_SIZE.fullmatch(batch[1]))
        or (read.status == "ok" and not _has_figure(read))
        or (read.kind == "ceiling" and wrong_config(_object(bytes(read.config))))
        or _wrong_object("config", bytes(read.config))
        or wrong_entry("telemetry", read.telemetry)
        or _wrong_object("accelerator", bytes(read.accelerator))
        or _wrong_object("machine", bytes(read.machine))
    ):
        raise ValueError("a row that has to be looked at")
    return read


def _has_figure(read: Any) -> bool:
    if read.kind == "ceiling":
        return (read.value or 0.0) >= SLOWEST
    return bool(read.samples_s or read.turns)


@lru_cache(OBJECTS_KEPT)
def _wrong_object(name: str, text: bytes) -> str:
    """What is wrong with the object of that name, or ''. Raises ValueError where it is none."""
    found = _object(text)
    return "" if name == "config" else wrong_entry(name, found)


def _object(text: bytes) -> dict[str, Any]:
    found = read_json(text.decode())
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found
