"""Limits on waits do not pass while the process is stopped."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fleets import node

from membound import deadline
from membound.backends.pytorch import ranks
from membound.backends.pytorch.ranks import Fetch, Ranks
from membound.bench.fleet import found
from membound.bench.fleet.order import Facts
from membound.deadline import STOPPED_S, Deadline
from membound.errors import ProcessSilent
from membound.version import __version__

FACTS = Facts("host", "boot-1", __version__, "3.11.7", {}, ())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time goes on by hand."""
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(deadline.time, "monotonic", lambda: made.now)
    return made


def test_a_limit_passes_while_the_process_looks_and_not_while_it_is_stopped(clock: SimpleNamespace) -> None:
    limit = Deadline(10.0)
    assert (limit.left(), limit.pause()) == (10.0, 1.0)
    for _ in range(4):
        clock.now += 1.0
        assert limit.left() > 0
    clock.now += 3600.0  # stopped for an hour
    assert limit.left() == 6.0 - STOPPED_S
    clock.now += 0.5
    assert (limit.left(), limit.pause()) == (0.5, 0.5)
    clock.now += 1.0
    assert (limit.left(), limit.pause()) == (-0.5, 0.0)


class Link:
    """A rank's pipe: it answers with `answer`, once it is ready."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def send(self, command: object) -> None: ...

    def recv(self) -> object:
        return self.answer

    def close(self) -> None: ...


@pytest.mark.parametrize("answers", [True, False])
def test_ranks_that_were_stopped_with_their_worker_are_not_silent(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """The worker waits, is stopped for an hour, looks again, and only then what a rank says arrives."""
    waits: list[float] = []

    def waited(links: list[Link], timeout: float) -> list[Link]:
        waits.append(timeout)
        clock.now += 3600.0 if len(waits) == 1 else timeout
        return links if answers and len(waits) > 2 else []

    monkeypatch.setattr(ranks, "wait", waited)
    some = Ranks(1, 1, first_s=20.0)
    some._links = [Link("logits")]  # type: ignore[list-item]
    if answers:
        assert some.ask(Fetch()) == ["logits"]
    else:
        with pytest.raises(ProcessSilent, match="rank 0 of 1 gave no answer"):
            some.ask(Fetch())
        assert sum(waits[1:]) == pytest.approx(20.0 - STOPPED_S)


def test_nodes_that_answer_while_a_fleet_is_stopped_are_not_left_out(clock: SimpleNamespace) -> None:
    one = node(1)

    def ready(references: list[str], timeout_s: float) -> list[str]:
        clock.now += 3600.0 if clock.now < 2000 else timeout_s
        return references if clock.now > 4610 else []

    cluster = SimpleNamespace(
        survey=lambda node, order: node.id, ready=ready, result=lambda reference: (FACTS, "")
    )
    facts, left_out = found.survey_all(cluster, [one], None)  # type: ignore[arg-type]
    assert (facts, left_out) == ({one.id: FACTS}, [])
