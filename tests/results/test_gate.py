"""The rule of the gate on worlds whose truth is known: what it alarms at, what it finds, what it leaves open."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from gate_worlds import World, named, paired
from rows import case, failed

from membound.results.gate import Rule, exit_status, judge, suspects
from membound.results.noise import noise_of
from membound.results.pairs import BASE, HEAD

RULE = Rule()
CASES = ("a", "b", "c", "d")


def gate(world, slowdowns, noise):
    """A whole gate: both stages, as the harness does them."""
    first = world.pairs(slowdowns)
    suspected = suspects(first, noise, RULE)
    fresh = {one: pairs for one, pairs in world.pairs(slowdowns).items() if one in suspected}
    return judge(first, fresh, noise, RULE)


def statuses(judged):
    return [one.status for one in judged]


def rate(spread, slowdowns, known, count=170):
    """Of that many simulated gates, the share that ends with 1, with 2 and with 0."""
    world = World(random.Random(f"{spread} {slowdowns}"), spread)
    noise = {named(name): noise_of(world.values()) for name in CASES} if known else {}
    ends = [exit_status(gate(world, slowdowns, noise)) for _ in range(count)]
    return {status: ends.count(status) / count for status in (0, 1, 2)}


@pytest.mark.parametrize("spread", [0.003, 0.02, 0.08])
@pytest.mark.parametrize("known", [True, False])
def test_a_thousand_gates_of_nothing_do_not_alarm(spread, known):
    """170 for each noise, known and not: 1,020 in all, none of which may say regressed."""
    ends = rate(spread, dict.fromkeys(CASES, 0.0), known)
    assert ends[1] == 0.0
    assert ends[0] >= 0.99


@pytest.mark.parametrize("spread", [0.003, 0.02, 0.08])
def test_what_the_gate_calls_detectable_it_finds(spread):
    """Nine times of ten at least, with one pair in twenty off by far more than the noise that it was told of."""
    world = World(random.Random(5), spread)
    noise = {named(name): noise_of(world.values()) for name in CASES}
    by = noise[named("b")].detectable(RULE.pairs, len(CASES), RULE.effect)
    found = [gate(world, {"a": 0.0, "b": by, "c": 0.0, "d": 0.0}, noise) for _ in range(200)]
    assert sum(judged[1].status == "regressed" for judged in found) >= 0.9 * 200
    assert all(judged[0].status != "regressed" for judged in found)
    assert found[0][1].detectable == by


def test_every_case_slower_by_just_the_effect_is_hardly_ever_an_alarm():
    assert rate(0.02, dict.fromkeys(CASES, 0.03), known=True)[1] <= 0.02


def test_a_faster_head_is_called_faster():
    judged = gate(World(random.Random(1), 0.01), {"a": -0.2, "b": 0.0}, {})
    assert statuses(judged) == ["faster", "fine"]
    assert exit_status(judged) == 0


def test_a_suspicion_that_fresh_processes_do_not_share_is_no_regression():
    slow, even, between = (0.10,) * 11 + (0.11,), (0.0,) * 11 + (0.01,), (0.0, 0.09) * 6
    first, noise = {named("a"): paired("a", slow)}, {named("a"): noise_of((0.01, -0.01) * 6)}
    assert suspects(first, noise, RULE) == [named("a")]

    def again(values):
        fresh = {} if values is None else {named("a"): paired("a", values)}
        (one,) = judge(first, fresh, noise, RULE)
        return one.status, one.reason

    assert again(slow) == ("regressed", "slower, and again in fresh processes")
    assert again(even) == ("fine", "slower at first, but by +0.0% in fresh processes")
    assert again(between)[0] == "cannot tell"
    assert again(None) == (
        "cannot tell",
        "slower at first, and only 0 fresh pairs could be had to confirm it",
    )


def test_noise_that_was_learnt_raises_the_effect():
    """Pairs 6 % apart are what this machine does by itself, says its noise."""
    first = {named("a"): paired("a", (0.06,) * 11 + (0.07,))}
    noise = {named("a"): noise_of((0.2, -0.2) * 6)}
    assert suspects(first, {}, RULE) == [named("a")]
    assert suspects(first, noise, RULE) == []
    (one,) = judge(first, {}, noise, RULE)
    assert one.effect == pytest.approx(noise[named("a")].spread)
    assert one.learnt


def test_pairs_too_far_apart_do_not_pass_as_fine():
    judged = judge({named("a"): paired("a", (0.9, -0.9) * 6)}, {}, {}, RULE)
    assert statuses(judged) == ["cannot tell"]
    assert "it may be slower by up to" in judged[0].reason
    assert exit_status(judged) == 2


def test_too_few_pairs_say_why():
    few = paired("a", (0.0,) * 5)
    (one,) = judge({few.case: few}, {}, {}, RULE)
    assert (one.status, one.reason) == ("cannot tell", "only 5 pairs count, 6 are needed")
    few.aside = 7
    (one,) = judge({few.case: few}, {}, {}, RULE)
    assert one.reason == "only 5 pairs count; 7 had a disturbed process"


def broken(base, head):
    return {named("a"): paired("a", (), **{BASE: base, HEAD: head})}


OK, WRONG = case("alpha:cpu#base"), failed("wrong", "error 0.9")
ABSENT = failed("unsupported", "no int4")


def test_a_head_that_fails_has_regressed_if_it_fails_again():
    first = broken([OK], [WRONG, WRONG])
    assert suspects(first, {}, RULE) == [named("a")]
    (one,) = judge(first, broken([OK], [WRONG]), {}, RULE)
    assert one.status == "regressed"
    assert one.reason == "the head fails, and again in fresh processes: wrong: error 0.9"
    (one,) = judge(first, broken([OK], [OK]), {}, RULE)
    assert one.status == "cannot tell"
    assert "wrong in 2 of 2 processes" in one.reason.replace("(", "").replace(")", "")


@pytest.mark.parametrize(
    ("base", "head", "status", "words"),
    [
        ([WRONG], [OK], "cannot tell", "the base fails: wrong"),
        ([WRONG], [WRONG], "cannot tell", "the head too"),
        ([ABSENT], [ABSENT], "left out", "no int4"),
        ([], [OK], "cannot tell", "the base has no such case"),
        ([OK], [], "cannot tell", "the head has no such case"),
    ],
)
def test_what_one_side_lacks_cannot_be_judged(base, head, status, words):
    judged = judge(broken(base, head), {}, {}, RULE)
    assert judged[0].status == status
    assert words in judged[0].reason
    assert exit_status(judged) == 2


def test_a_count_needs_no_statistics():
    """Twice the bytes in the same time is a regression, fewer is said."""
    heavy = paired("a", (0.0,) * 12, **{BASE: [OK], HEAD: [case("alpha:cpu#head", bytes=2 * OK.bytes)]})
    (one,) = judge({heavy.case: heavy}, {}, {}, RULE)
    assert (one.status, one.reason) == (
        "regressed",
        "bytes streamed: 100,000,000 at the base, 200,000,000 at the head",
    )
    light = paired("a", (0.0,) * 12, **{BASE: [OK], HEAD: [case("alpha:cpu#head", bytes=OK.bytes // 2)]})
    (one,) = judge({light.case: light}, {}, {}, RULE)
    assert one.status == "fine"
    assert [(change.name, change.worse) for change in one.changes] == [("bytes streamed", False)]


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (["fine", "faster"], 0),
        (["fine", "left out"], 0),
        (["fine", "cannot tell"], 2),
        (["cannot tell", "regressed"], 1),
        (["left out"], 2),
        ([], 2),
    ],
)
def test_the_exit_status_is_that_of_the_worst(found, status):
    (one,) = judge({named("a"): paired("a", (0.0,) * 12)}, {}, {}, RULE)
    assert exit_status([replace(one, status=each) for each in found]) == status
