"""What an interpreter of somebody else says of its devices is looked at before anything rests on it."""

from __future__ import annotations

from typing import Any

import pytest

from membound.bench.planning import coverage, probe
from membound.bench.protocol.messages import Coverage, Found

WHOLE = {"id": "alpha:cpu", "entry": "alpha", "available": True, "name": "a processor", "threads": 2}


def answering(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """Workers that say this and nothing else."""

    class Saying:
        def __init__(self, *_: Any) -> None: ...

        def __enter__(self) -> Saying:
            return self

        def __exit__(self, *_: object) -> None: ...

        def greet(self, limit_s: float) -> None: ...

        def ask(self, command: Any, limit_s: float) -> Any:
            return answer

        def close(self) -> None: ...

    for module in (probe, coverage):
        monkeypatch.setattr(module, "Worker", Saying)


def test_a_device_is_taken_and_what_only_others_know_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"memory_bytes": 10**9, "cache_bytes": None, "driver": "x"}
    answering(monkeypatch, Found([WHOLE | {"accelerator": sizes, "colour": "red"}]))
    (found,) = probe.probe(["alpha"], 1)
    assert (found.id, found.available, found.accelerator) == ("alpha:cpu", True, sizes)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "no field 'available'"),
        (WHOLE | {"id": 5}, "id=5 is not text"),
        (WHOLE | {"available": "yes"}, "available='yes' is not true or false"),
        (WHOLE | {"threads": -1}, "threads=-1 is not a whole number from 0"),
        (WHOLE | {"versions": {"a": 1}}, "versions={'a': 1} is not an object of texts"),
        (WHOLE | {"accelerator": [1]}, "accelerator=[1] is not an object, nor null"),
        (WHOLE | {"accelerator": {"memory_bytes": "all"}}, "memory_bytes='all'"),
        (WHOLE | {"accelerator": {"cache_bytes": -1}}, "cache_bytes=-1"),
    ],
)
def test_a_device_that_cannot_be_is_absent_with_what_was_told(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], said: str
) -> None:
    answering(monkeypatch, Found([told, WHOLE]))
    bad, good = probe.probe(["alpha"], 1)
    assert (bad.id, bad.available) == ("alpha", False)
    assert said in bad.reason
    assert good.available, "the others are there all the same"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "no field 'id'"),
        ({"id": "alpha:cpu", "refused": {"linear:": 5}}, "refused={'linear:': 5} is not an object of texts"),
        ({"id": "alpha:cpu", "opened": 1}, "opened=1 is not true or false"),
    ],
)
def test_answers_on_works_that_cannot_be_are_told(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], said: str
) -> None:
    answering(monkeypatch, Coverage([told, {"id": "alpha:npu", "opened": True, "asked": True}]))
    bad, good = coverage.gather(["alpha"], 1, {})
    assert (bad.id, bad.opened) == ("alpha", False)
    assert said in bad.reason
    assert (good.id, good.asked) == ("alpha:npu", True)
