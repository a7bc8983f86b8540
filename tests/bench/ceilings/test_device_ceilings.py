"""Ceilings of an accelerator: the best limit of a name counts, wrong and failing ones are told, the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from membound.backends.api import Device, Limit
from membound.bench.ceilings import device as module
from membound.bench.ceilings.device import MOST_LAUNCHES, measure_device_ceilings

DEVICE = Device("fake:npu:0", "a fake", 2)
FIRST_WARMUP_S = module.FIRST_WARMUP_S


@pytest.fixture(autouse=True)
def no_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WARMUP_S", 0.0)


class Fake:
    """A device whose launches take `cost_s` of its own clock."""

    def __init__(self, limits: Any, has_clock: bool = True) -> None:
        self.offered, self.has_clock = limits, has_clock
        self.now_s, self.launched = 0.0, 0

    def limits(self, quick: bool) -> Iterator[Limit]:
        for limit in self.offered:
            if isinstance(limit, Exception):
                raise limit
            yield limit

    def limit(
        self, name: str, cost_s: float, right: bool = True, fails: bool = False, amount: Any = 8e9
    ) -> Limit:
        def launch(number: int) -> None:
            if fails and number:
                raise RuntimeError("out of memory\nsecond line")
            self.launched += 1
            self.now_s += cost_s

        return Limit(name, amount, "bytes/s", {"variant": f"{cost_s} s"}, launch, lambda: right)

    def sync(self) -> None: ...

    def mark(self) -> float | None:
        return self.now_s if self.has_clock else None

    def elapsed_s(self, start: float, end: float) -> float:
        return end - start


def measured(fake: Any, quick: bool = False) -> dict[str, Any]:
    return {c.name: c for c in measure_device_ceilings(fake, DEVICE, quick, lambda _: None)}


@pytest.mark.parametrize(("quick", "samples"), [(False, 11), (True, 5)])
def test_the_best_of_a_name_counts_and_is_described(quick: bool, samples: int) -> None:
    fake = Fake([])
    fake.offered = [fake.limit("read", 0.004), fake.limit("read", 0.002), fake.limit("read", 0.003)]
    (read,) = measured(fake, quick).values()
    assert read.value == pytest.approx(4e12)
    assert read.samples == pytest.approx([0.002] * samples)
    assert read.config == {"backend": "fake:npu:0", "threads": 2, "variant": "0.002 s"}
    assert fake.launched <= 1 + 3 * (1 + 2 + samples * MOST_LAUNCHES)


def test_the_first_limit_is_launched_until_the_clocks_are_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, launched = Fake([]), []
    monkeypatch.setattr(module, "FIRST_WARMUP_S", FIRST_WARMUP_S)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: fake.now_s))
    limits = [fake.limit(name, 0.004) for name in ("read", "copy", "triad")]
    for count in (1, 2, 3):
        fake.offered, fake.launched = limits[:count], 0
        measured(fake)
        launched.append(fake.launched)
    check, sizing, samples = 1, 2, 11
    assert (
        launched[0] == check + 75 + sizing + samples
    )  # 0.3 s of them: some tens of milliseconds are not enough
    assert [b - a for a, b in pairwise(launched)] == [check + sizing + samples] * 2


def test_a_wrong_or_failing_limit_has_no_value_and_the_others_go_on() -> None:
    fake = Fake([])
    fake.offered = [
        fake.limit("read", 0.001, right=False),
        fake.limit("copy", 0.001, fails=True),
        fake.limit("triad", 0.001),
        RuntimeError("no memory for the next"),
    ]
    found = measured(fake)
    assert [(c.name, c.status, c.value is None) for c in found.values()] == [
        ("read", "wrong", True),
        ("copy", "oom", True),
        ("triad", "ok", False),
        ("limits", "error", True),
    ]
    assert found["copy"].reason == "RuntimeError: out of memory"
    assert found["limits"].reason == "RuntimeError: no memory for the next"


def test_a_right_result_beats_a_wrong_one_of_the_same_name() -> None:
    fake = Fake([])
    fake.offered = [fake.limit("read", 0.001, right=False), fake.limit("read", 0.002)]
    assert measured(fake)["read"].status == "ok"
    fake.offered.reverse()
    assert measured(fake)["read"].status == "ok"


def test_a_device_without_a_clock_is_timed_by_ours() -> None:
    fake = Fake([], has_clock=False)
    fake.offered = [fake.limit("read", 0.002)]
    (read,) = measured(fake).values()
    assert all(0 < seconds < 1 for seconds in read.samples)


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), -1.0, 0, 1e40, "1 GB", None], ids=str)
def test_an_amount_that_cannot_be_hides_no_other_of_its_name(amount: Any) -> None:
    fake = Fake([])
    bad = fake.limit("read", 0.001, amount=amount)
    for offered in ([bad, fake.limit("read", 0.002)], [fake.limit("read", 0.002), bad]):
        fake.offered = offered
        (read,) = measured(fake).values()
        assert (read.status, read.value) == ("ok", pytest.approx(4e12))
    fake.offered = [bad]
    (read,) = measured(fake).values()
    assert (read.status, read.value) == ("error", None)
    assert read.reason.startswith("amount of read is ")


@pytest.mark.parametrize("told", [0.0, -1.0, float("nan"), None], ids=str)
def test_a_clock_that_tells_what_cannot_be_is_told(told: Any) -> None:
    fake = Fake([])
    fake.elapsed_s = lambda start, end: told  # type: ignore[method-assign]
    fake.offered = [fake.limit("read", 0.001)]
    (read,) = measured(fake).values()
    assert (read.status, read.reason) == ("error", f"elapsed_s() is {told!r}, which no clock can tell")


def test_any_class_of_error_is_that_of_its_limit_alone() -> None:
    class OddError(Exception):
        pass

    def raises() -> bool:
        raise OddError("no such comparison")

    fake = Fake([])
    fake.offered = [
        replace(fake.limit("read", 0.001), check=raises),
        replace(fake.limit("copy", 0.001), config=None),  # type: ignore[arg-type]
        fake.limit("triad", 0.001),
        OddError("no more"),
    ]
    assert {name: (c.status, c.reason) for name, c in measured(fake).items()} == {
        "read": ("error", "OddError: no such comparison"),
        "copy": ("error", "TypeError: 'NoneType' object is not iterable"),
        "triad": ("ok", ""),
        "limits": ("error", "OddError: no more"),
    }
