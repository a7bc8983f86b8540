"""Which experiments are begun when minutes are short: preferred ones first, and only if their last process fits."""

from __future__ import annotations

from math import inf

import pytest

from membound.bench.claim.budget import PREFERENCE, RESERVE, CellClock, TimeBudget, named_pairs
from membound.results.claim.conclusion import DIRECT
from membound.results.claim.experiments import load_experiments
from membound.results.claim.judge import CONTROL


def budget(**costs_s: dict[int, float]) -> TimeBudget:
    """Three processes of each, eight of experiment 8; seconds by backend and experiment."""
    known = {(number, backend): s for backend, costs in costs_s.items() for number, s in costs.items()}
    return TimeBudget(lambda number: 8 if number == 8 else 3, known)


def test_the_control_comes_first_then_what_the_claim_says_then_its_edges() -> None:
    *first, experts = DIRECT  # whose kernels take the longest to compile
    assert (CONTROL, *first, 6, 7, 10, experts, 12, 13, 8, 9) == PREFERENCE
    assert sorted(PREFERENCE) == sorted(experiment.id for experiment in load_experiments())


@pytest.mark.parametrize(
    ("left_s", "done", "kept"),
    [
        (inf, 0, [5, 1, 6, 8]),
        (299.0, 0, [5, 1, 6, 8]),
        (298.0, 0, [5, 1, 6]),
        (218.0, 0, [5, 1]),
        (100.0, 0, [5, 6]),
        (98.0, 0, [5]),
        (145.0, 1, [5, 1]),
        (146.0, 1, [5, 1, 6]),
        (132.0, 2, [5, 1, 6]),
        (133.0, 2, [5, 1, 6, 8]),
        (0.0, 0, []),
        (-1.0, 3, []),
    ],
)
def test_what_fits_is_kept_and_a_cheaper_one_may_take_the_place_of_a_dearer(
    left_s: float, done: int, kept: list[int]
) -> None:
    seconds = {5: 20.0, 1: 40.0, 6: 13.0, 8: 10.0}
    pairs = [(number, "a") for number in (8, 6, 1, 5)]
    assert [number for number, _ in budget(a=seconds).affordable(pairs, left_s, done)] == kept


def test_other_backends_tell_what_an_experiment_will_take() -> None:
    known = budget(a={5: 10.0, 1: 30.0, 6: 8.0}, b={5: 20.0, 7: 3.0}, c={5: 30.0})
    assert known.estimate_s((5, "b")) == 20.0
    assert known.estimate_s((1, "b")) == pytest.approx(30.0 * 20.0 / 20.0)  # 5 took a and c 20 s on average
    assert known.estimate_s((6, "c")) == pytest.approx(8.0 * 30.0 / 15.0)
    assert known.estimate_s((1, "new")) == 30.0
    assert known.estimate_s((10, "b")) == pytest.approx(11.5)
    assert budget().estimate_s((5, "a")) == 0.0
    assert known.known([(1, "new"), (7, "c")])
    assert not known.known([(1, "new"), (10, "new")])


def test_what_has_begun_and_what_is_preferred_have_the_first_right_to_the_time() -> None:
    known = budget(a={5: 10.0, 1: 10.0, 6: 10.0})
    begun = [(5, "a")]  # 20 s to come
    waiting = [(6, "a"), (1, "a")]
    enough = 80.0 / (1 - RESERVE)
    assert known.admits((6, "a"), waiting, begun, enough + 1)
    assert not known.admits((6, "a"), waiting, begun, enough - 1)
    assert known.admits((1, "a"), waiting, begun, enough - 1)
    assert known.admits((6, "a"), [(6, "a")], begun, enough - 1)
    assert not known.admits((1, "a"), waiting, begun, 20.0)
    assert known.admits((1, "a"), waiting, begun, inf)


def test_a_note_names_pairs_by_backend() -> None:
    assert named_pairs([(6, "a"), (1, "b"), (3, "a")]) == "3, 6 on a; 1 on b"


def test_a_cell_costs_its_time_less_what_is_found_on_disk_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("membound.bench.claim.budget.time.perf_counter", lambda: now[0])
    clock = CellClock()
    now[0] = 50.0
    clock.start()
    for phase, seconds in (("opening", 1.0), ("compiling x", 100.0), ("checking", 20.0), ("", 7.0)):
        clock.enter(phase)
        now[0] += seconds
    assert clock.cost_s == 8.0
    clock.enter("checking")
    now[0] += 30.0
    assert clock.cost_s == 8.0
    assert clock.cost_s == 8.0
    clock.start()
    now[0] += 2.0
    assert clock.cost_s == 2.0
