"""What a soak finds in readings whose truth is known, and what it does not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from membound.results.soak.judgement import LEAST, findings, grows, passes_for_drift, untold
from membound.results.soak.reading import Pass, Reading

HELD = Reading(
    resident_bytes=200 << 20, descriptors=12, threads=3, processes=0, temporary_files=1, cache_files=40
)
CASES = [(backend, f"linear:n={n},k=64") for backend in ("a:cpu", "b:cpu") for n in (8, 16)]


def soaked(count=20, seed=1, **more):
    """Passes whose shares and memory move by chance alone; `more` are fields of Pass, functions of the pass's number."""
    rng = random.Random(seed)
    passes = []
    for number in range(count):
        reading = replace(HELD, resident_bytes=HELD.resident_bytes + rng.randrange(1 << 20))
        shares = {case: rng.gauss(0.9, 0.03) for case in CASES}
        one = Pass(f"run {number}", 40.0, 4, 4, 0, 0, shares, reading)
        passes.append(replace(one, **{name: value(one, number) for name, value in more.items()}))
    return passes


def held(**change):
    """Readings changed by the number of the pass."""
    return lambda one, number: replace(one.reading, **{name: value(number) for name, value in change.items()})


def kinds(passes):
    return [(one.kind, one.what) for one in findings(passes)]


def test_chance_alone_is_hardly_ever_a_finding():
    """By the rule at most 6 % of soaks: of 60, more than 9 would have a chance of one in a hundred."""
    found = sum(bool(findings(soaked(seed=seed))) for seed in range(60))
    assert found <= 9


@pytest.mark.parametrize("name", list(LEAST))
def test_whatever_grows_from_pass_to_pass_is_a_leak(name):
    step = 1 << 20 if name == "resident_bytes" else 1
    passes = soaked(reading=held(**{name: lambda number: 50 + step * number}))
    assert kinds(passes) == [("leak", name)]


def test_a_leak_is_told_with_both_ends():
    passes = soaked(22, reading=held(descriptors=lambda number: 12 + number))
    assert [one.text for one in findings(passes)] == ["open descriptors grew from 16 to 30 in 21 passes"]


def test_what_the_first_pass_fills_is_no_leak():
    passes = soaked(reading=held(cache_files=lambda number: 90 if number else 3))
    assert findings(passes) == []


def test_growth_of_a_few_megabytes_is_an_allocators():
    assert grows([1000.0 + number for number in range(20)], least=50) is False
    assert grows([1000.0 + number for number in range(20)], least=10) is True


def test_too_few_passes_tell_no_leak_and_say_so():
    passes = soaked(6, reading=held(descriptors=lambda number: 12 + number))
    assert findings(passes) == []
    assert untold(passes)[0] == "6 passes cannot tell a leak from chance: 7 or more can."
    assert kinds(soaked(7, reading=held(descriptors=lambda number: 12 + number))) == [("leak", "descriptors")]


def test_a_process_that_outlives_one_pass_is_found():
    passes = soaked(3, reading=held(processes=lambda number: 2 * (number == 1)))
    (found,) = findings(passes)
    assert found.text == "up to 2 processes were left after 1 of 3 passes"


def test_missing_doubled_and_failed_rows_are_told_apart():
    passes = soaked(
        3,
        stored=lambda one, number: 4 - (number == 1),
        twice=lambda one, number: int(number == 2),
        failed=lambda one, number: int(number == 0),
    )
    assert [(one.kind, one.text) for one in findings(passes)] == [
        ("lost", "1 of 12 rows are missing"),
        ("lost", "1 rows were stored twice"),
        ("failed", "1 of 12 cases failed"),
    ]


def test_a_share_that_falls_for_good_is_drift_of_that_case_alone():
    fallen = CASES[2]

    def shares(one, number):
        return {
            case: share * (0.7 if case == fallen and number >= 12 else 1)
            for case, share in one.shares.items()
        }

    (found,) = findings(soaked(24, shares=shares))
    assert (found.kind, found.what) == ("drift", f"{fallen[0]} {fallen[1]}")
    assert "from pass 13 on its share is 0.7" in found.text


def test_how_many_passes_a_drift_takes_follows_from_the_cases():
    """Of 8 passes 70 halves can be chosen, of 9 126, of 10 252: 2 of them must be rarer than 5 % over the cases."""
    assert [passes_for_drift(cases) for cases in (1, 2, 5, 20)] == [8, 9, 10, 12]
    assert untold(soaked(7)) == ["A drift of these shares takes 10 passes or more that count to be seen."]
    assert untold(soaked(10)) == []


def test_what_others_did_is_no_drift_and_how_often_they_did_is_said():
    """Half of a soak beside another program, which the turns of those passes show."""

    def shares(one, number):
        return {case: share * (0.5 if number >= 12 else 1) for case, share in one.shares.items()}

    def disturbed(one, number):
        return frozenset(CASES if number >= 12 else ())

    assert {one.kind for one in findings(soaked(24, shares=shares))} == {"drift"}
    passes = soaked(24, shares=shares, disturbed=disturbed)
    assert findings(passes) == []
    said = untold(passes)
    assert len(said) == len(CASES)
    assert said[0].endswith(": 12 of 24 passes were disturbed and do not count for its drift.")
    assert said[0].startswith("a:cpu, ")


def test_a_drift_is_told_by_the_number_of_its_pass_where_some_do_not_count():
    def shares(one, number):
        return {case: share * (0.7 if number >= 12 else 1) for case, share in one.shares.items()}

    passes = soaked(24, shares=shares, disturbed=lambda one, number: frozenset(CASES if number < 3 else ()))
    assert {one.text.partition("from ")[2][:10] for one in findings(passes)} == {"pass 13 on"}


def test_a_soak_that_was_disturbed_throughout_tells_no_drift():
    passes = soaked(20, disturbed=lambda one, number: frozenset(CASES))
    assert findings(passes) == []
    assert untold(passes)[-1] == "A drift of these shares takes 8 passes or more that count to be seen."
