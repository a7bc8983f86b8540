"""Published claims, of older schemas, are judged as they were when they were published.

`published_findings.json` holds what the code of their time found: [experiment, backend, arm, verdict, processes,
disturbed, observations, figures as [value, low, high]] of every finding, and the cells of the map by bound and how.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from membound.bench.claim.map_grid import points_for
from membound.results.claim.experiments import load_experiments
from membound.results.claim.file import load_claim
from membound.results.claim.judge import judge_claim
from membound.results.claim.region import region_of

HERE = Path(__file__).parent
FOUND: dict[str, dict[str, Any]] = json.loads((HERE / "published_findings.json").read_text())
FILES = {path.name: path for path in (HERE.parents[2] / "results/published").rglob("claim-*.jsonl")}
SAME = 1e-9
"""Relative: sums of another processor's vectors differ in their last digits."""


@pytest.mark.parametrize("name", FOUND)
def test_every_finding_of_a_published_claim_is_what_it_was(name: str) -> None:
    claim = load_claim(FILES[name])
    assert {one.schema_version for one in claim.observations} <= {1, 2}
    assert not any(one.turns for one in claim.observations)
    findings = [one.to_dict() for one in judge_claim(claim.observations, load_experiments(), claim.meta.only)]
    keys = ("experiment", "backend", "arm", "verdict", "processes", "disturbed", "observations")
    assert [[one[key] for key in keys] for one in findings] == [one[:-1] for one in FOUND[name]["findings"]]
    for one, (*about, figures) in zip(findings, FOUND[name]["findings"], strict=True):
        assert len(one["figures"]) == len(figures), about
        for seen, wanted in zip(one["figures"], figures, strict=True):
            assert [seen["value"], seen["low"], seen["high"]] == [
                number if number is None else pytest.approx(number, SAME) for number in wanted
            ], (about, seen["name"])


@pytest.mark.parametrize("name", FOUND)
def test_the_map_of_a_published_claim_is_what_it_was(name: str) -> None:
    claim = load_claim(FILES[name])
    findings = judge_claim(claim.observations, load_experiments(), claim.meta.only)
    cells = region_of(claim, findings, points_for(claim))
    seen = Counter((cell.backend, cell.bound, cell.how) for cell in cells)
    assert seen == {(backend, bound, how): n for backend, bound, how, n in FOUND[name]["map"]}
