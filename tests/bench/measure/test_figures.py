"""What a backend says of itself: a value if it stands for one, an error that names the figure if it cannot be."""

from __future__ import annotations

import json
from collections import OrderedDict
from enum import Enum, IntEnum, StrEnum
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hostile_backends import DEVICES, ITSELF, LIES, Dtype

from membound.backends.api import Accelerator, Device, Limit
from membound.bench.measure.failures import FigureError, failure_of
from membound.bench.measure.figures import (
    device_fields,
    plain,
    rate_of,
    seconds_between,
    settings,
    stored_bytes,
)


class Level(IntEnum):
    HIGH = 3


class Mode(StrEnum):
    FAST = "fast"


class Kind(Enum):
    A = "a"


RNG = np.random.default_rng()
WHOLE, REAL = int(RNG.integers(1 << 40)), float(RNG.random())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((same, same) for same in (None, True, False, 0, -5, 10**40, 0.25, -0.0, 5e-324, "", "é", [], {})),
        (np.int64(WHOLE), WHOLE),
        (np.uint8(200), 200),
        (np.float64(REAL), REAL),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float16(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.arange(3), [0, 1, 2]),
        (np.array(REAL), REAL),
        (np.array([[1.5, nan]]), [[1.5, "nan"]]),
        (nan, "nan"),
        (inf, "inf"),
        (np.float32(-inf), "-inf"),
        (np.longdouble(1) / 3, str(np.longdouble(1) / 3)),
        (1j, "1j"),
        (np.complex64(1j), "1j"),
        ((1, (2, np.int8(3))), [1, [2, 3]]),
        (frozenset({7}), [7]),
        ({1: np.int64(2), None: {"a": (nan,)}}, {"1": 2, "None": {"a": ["nan"]}}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Path("/a/b"), "/a/b"),
        (Dtype(), "torch.bfloat16"),
        (Level.HIGH, 3),
        (Mode.FAST, "fast"),
        (Kind.A, "Kind.A"),
        (b"raw", "b'raw'"),
        ("file \udcff", "file \\udcff"),
        ({"\udcff": ["\udcff"]}, {"\\udcff": ["\\udcff"]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_stands_for_a_value_becomes_it(value: Any, expected: Any) -> None:
    got = plain(value)
    assert got == expected
    assert type(got) is type(expected)
    json.dumps(got, allow_nan=False).encode()


def test_what_contains_itself_is_an_error_of_its_own() -> None:
    with pytest.raises(RecursionError):
        plain(ITSELF)


def backend(**told: Any) -> Any:
    return SimpleNamespace(**{name: lambda *_, value=value: value for name, value in told.items()})


@pytest.mark.parametrize(
    ("told", "expected"),
    [(None, None), (0, 0), (WHOLE, WHOLE), (np.int64(WHOLE), WHOLE), (10**30, 10**30)],
    ids=lambda value: type(value).__name__,
)
def test_bytes_are_a_whole_number_or_none(told: Any, expected: int | None) -> None:
    got = stored_bytes(backend(stored_bytes=told))
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize("told", [-1, 10**31, 1.0, np.float32(5), nan, True, "5", [5], np.array([5])])
def test_bytes_that_cannot_be_are_an_error(told: Any) -> None:
    with pytest.raises(FigureError, match=r"^stored_bytes\(\) is .*, not a whole number from 0$"):
        stored_bytes(backend(stored_bytes=told))


def test_bytes_that_have_no_text_are_an_error_with_one() -> None:
    with pytest.raises(FigureError, match="is int that cannot be printed, not a whole number"):
        stored_bytes(backend(stored_bytes=10**5000))


def test_an_error_of_a_figure_is_an_error_of_the_work() -> None:
    with pytest.raises(FigureError) as raised:
        stored_bytes(backend(stored_bytes=-5))
    failure = failure_of(raised.value)
    assert (failure.status, failure.reason) == ("error", "stored_bytes() is -5, not a whole number from 0")


def test_settings_are_a_table_of_plain_values() -> None:
    for name in ("settings_numpy", "settings_nan", "settings_objects", "settings_surrogate"):
        told = LIES[name][1]
        assert settings(backend(settings=told)) == plain(told)
    assert settings(backend(settings={})) == {}


@pytest.mark.parametrize("told", [None, [("a", 1)], "a=1", 5])
def test_settings_that_are_no_table_are_an_error(told: Any) -> None:
    with pytest.raises(FigureError, match=r"^settings\(\) is .*, not a dict$"):
        settings(backend(settings=told))


@pytest.mark.parametrize(
    "told",
    [REAL, np.float32(0.5), np.float64(REAL), 3, np.int64(3), 1e-12, 1e30],
    ids=lambda value: type(value).__name__,
)
def test_seconds_are_a_number_above_nothing(told: Any) -> None:
    got = seconds_between(backend(elapsed_s=told), 1, 2)
    assert got == float(told)
    assert type(got) is float


@pytest.mark.parametrize("told", [0, 0.0, -1e-3, nan, inf, 1e-13, 1e31, None, "1", True, np.array([1.0]), 1j])
def test_seconds_that_no_clock_can_tell_are_an_error(told: Any) -> None:
    with pytest.raises(FigureError, match=r"^elapsed_s\(\) is .*, which no clock can tell$"):
        seconds_between(backend(elapsed_s=told), 1, 2)


def limit(amount: Any) -> Limit:
    return Limit("read", amount, "bytes/s", {}, lambda number: None, lambda: True)


@pytest.mark.parametrize(
    "amount", [1.0, WHOLE + 1, np.float32(8e9), np.int64(10**12)], ids=lambda value: type(value).__name__
)
def test_a_rate_is_the_amount_a_second(amount: Any) -> None:
    assert rate_of(limit(amount), 0.25) == 4 * float(amount)


@pytest.mark.parametrize("amount", [0, -1.0, nan, inf, 1e31, "1 GB", None, True])
def test_an_amount_that_no_device_moves_is_an_error(amount: Any) -> None:
    with pytest.raises(FigureError, match=r"^amount of read is .* in 0.25 s$"):
        rate_of(limit(amount), 0.25)


def test_a_device_is_told_in_plain_values() -> None:
    facts = Accelerator(np.int64(10**6), np.uint32(3000), 4, "9.0", "0000:01:00.0")  # type: ignore[arg-type]
    told = device_fields(Device("whatever", "a GPU", np.int32(2), {"rt": "1"}, facts, "link"))  # type: ignore[arg-type]
    assert told == {
        "name": "a GPU",
        "threads": 2,
        "versions": {"rt": "1"},
        "accelerator": {
            "memory_bytes": 10**6,
            "cache_bytes": 3000,
            "compute_units": 4,
            "capability": "9.0",
            "pci": "0000:01:00.0",
        },
        "memory_ceiling": "link",
    }
    assert json.loads(json.dumps(told)) == told
    assert device_fields(DEVICES[""])["accelerator"] is None
    assert device_fields(DEVICES["versions_number"])["versions"] == {"fake": "5", "6": "None"}
    assert device_fields(DEVICES["name_surrogate"])["name"] == "a \\udcff processor"


@pytest.mark.parametrize(
    ("device", "says"),
    [
        (None, "open() gave NoneType, not a Device"),
        ("cpu", "open() gave str, not a Device"),
        (DEVICES["name_none"], "Device.name is None, not text"),
        (DEVICES["versions_list"], "Device.versions is ['fake'], not a dict"),
        (DEVICES["ceiling_none"], "Device.memory_ceiling is None, not text"),
        (DEVICES["memory_negative"], "accelerator.memory_bytes is -1, not a whole number from 0"),
        (DEVICES["memory_float"], "accelerator.memory_bytes is 1.5, not a whole number from 0"),
        (Device("x", "y", -1), "Device.threads is -1, not a whole number from 0"),
    ],
)
def test_a_device_that_cannot_be_is_an_error(device: Any, says: str) -> None:
    with pytest.raises(FigureError) as raised:
        device_fields(device)
    assert str(raised.value) == says
