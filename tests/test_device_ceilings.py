"""Ceilings of an accelerator: the best limit of a name counts, wrong and failing ones are told, the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from membound.backends.api import Device, Limit
from membound.bench.ceilings.device import MOST_LAUNCHES, measure_device_ceilings

DEVICE = Device("fake:npu:0", "a fake", 2)


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

    def limit(self, name: str, cost_s: float, right: bool = True, fails: bool = False) -> Limit:
        def launch(number: int) -> None:
            if fails and number:
                raise RuntimeError("out of memory\nsecond line")
            self.launched += 1
            self.now_s += cost_s

        return Limit(name, 8e9, "bytes/s", {"variant": f"{cost_s} s"}, launch, lambda: right)

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
    assert fake.launched <= 3 * (1 + 2 + samples * MOST_LAUNCHES)


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
        ("copy", "error", True),
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
