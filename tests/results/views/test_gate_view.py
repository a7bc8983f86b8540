"""What a gate says for people and programs: the answer first, each case's figures, strangers' texts as data."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from gate_worlds import World, named, paired
from rows import case

from membound.results.gate import Rule, Verdict, judge
from membound.results.noise import noise_of
from membound.results.pairs import BASE, HEAD, Case
from membound.results.views.console import PlainConsole
from membound.results.views.gate import (
    LEGEND,
    answer,
    gate_markdown,
    gate_record,
    gate_view,
    noise_records,
    noise_view,
)

RULE = Rule()


def shown(view, width=80):
    out = StringIO()
    PlainConsole(file=out, width=width).print(view)
    return out.getvalue()


def verdict(slowdowns, fresh=None, noise=None):
    first = World(random.Random(1), 0.01).pairs(slowdowns)
    again = World(random.Random(2), 0.01).pairs(fresh or {})
    judged = judge(first, again, noise or {}, RULE)
    return Verdict("main (0123456789)", "working tree", RULE, tuple(judged), (Path("rows.jsonl"),))


def test_a_fine_head_is_said_with_what_would_have_been_found():
    noise = {named("n=1"): noise_of(World(random.Random(3), 0.01).values())}
    found = verdict({"n=1": 0.0}, noise=noise)
    limit = found.judged[0].detectable
    assert (
        answer(found)
        == f"fine: none of 1 case is slower; a slowdown of {limit:.1%} would have been found in each"
    )
    text = shown(gate_view(found))
    assert text.splitlines()[0] == answer(found) or text.startswith("fine: none of 1 case is slower")
    assert f" {limit:.1%} " in text
    assert "~" not in text.partition("head/base:")[0]
    assert max(map(len, text.splitlines())) <= 80


def test_a_regression_has_both_stages():
    found = verdict({"n=1": 0.2, "n=2": 0.0}, {"n=1": 0.2})
    assert answer(found) == "regressed: 1 of 2 cases"
    text = gate_markdown(found)
    assert text.startswith("### ❌ regressed: 1 of 2 cases\n\nhead: working tree · base: main (0123456789)\n")
    (line,) = [line for line in text.splitlines() if line.startswith("| alpha:cpu linear n=1")]
    assert line.endswith(" regressed |")
    assert line.count("|") == 7
    assert "- **alpha:cpu linear n=1**: slower, and again in fresh processes" in text
    assert "in 12 fresh pairs" in text
    assert text.endswith(f"{LEGEND}\n")
    assert "%~ |" in line, "its noise was not learnt"


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        (["cannot tell", "fine"], "cannot tell: 1 of 2 cases"),
        (["regressed", "cannot tell"], "regressed: 1 of 2 cases; of 1 it cannot be told"),
        (["left out", "left out"], "cannot tell: nothing could be measured on both sides"),
        (["fine", "left out"], "fine: none of 1 case is slower"),
    ],
)
def test_the_answer_counts_the_cases(statuses, said):
    found = verdict({"n=1": 0.0, "n=2": 0.0})
    judged = tuple(replace(one, status=status) for one, status in zip(found.judged, statuses, strict=True))
    assert answer(replace(found, judged=judged)).startswith(said)


def test_what_strangers_wrote_is_data():
    case_ = Case("<script>:cpu", "custom:name=\x1b[2J](http://a)|b", 2)
    rows = {BASE: [case("x:cpu#base", bytes=1)], HEAD: [case("x:cpu#head", bytes=2)]}
    pairs = replace(paired("n=1", (0.0,) * 12, **rows), case=case_)
    judged = judge({case_: pairs}, {}, {}, RULE)
    found = Verdict("a\n## b", "<img>", RULE, tuple(judged), (), ("](note",))
    text = gate_markdown(found)
    assert "<script>" not in text
    assert "<img>" not in text
    assert "\x1b" not in text + shown(gate_view(found))
    assert "](" not in text
    assert "\n## b" not in text
    assert "bytes streamed: 1 at the base, 2 at the head" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| &lt;script&gt;")]
    assert line.replace("\\|", "").count("|") == 7


def test_the_record_is_json_with_every_figure():
    found = json.loads(json.dumps(gate_record(verdict({"n=1": 0.2}, {"n=1": 0.2})), allow_nan=False))
    assert (found["verdict"], found["base"], found["rows"]) == (
        "regressed",
        "main (0123456789)",
        ["rows.jsonl"],
    )
    (one,) = found["cases"]
    assert one["first"]["pairs"] == one["confirmation"]["pairs"] == 12
    assert one["first"]["p"] < 0.05
    assert one["effect"] == 0.03
    assert one["counts"] == []
    assert set(one["time_s"]) == {BASE, HEAD}


def test_noise_says_what_can_be_found():
    noise = {named("n=1"): noise_of(World(random.Random(3), 0.01).values(), runs=2)}
    (one,) = noise_records(noise, 12, 0.03)
    assert (one["pairs"], one["runs"], one["backend"]) == (12, 2, "alpha:cpu")
    assert one["detectable"] > one["effect"] == 0.03
    line = shown(noise_view(noise, 12, 0.03)).splitlines()[1]
    assert line.split()[-1] == f"{one['detectable']:.1%}"
    wild = {named("n=1"): noise_of((5.0, -5.0) * 3)}
    assert noise_records(wild, 6, 0.03)[0]["detectable"] is None
    assert shown(noise_view(wild, 6, 0.03)).splitlines()[1].split()[-1] == "nothing"
