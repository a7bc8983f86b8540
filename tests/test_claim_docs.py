"""docs/claim.md says what the file of experiments says, and what the verdicts mean in the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from membound.results.claim.experiments import TEXTS, load_experiments
from membound.results.claim.finding import VERDICTS
from membound.results.claim.observation import ClaimMeta, Observation
from membound.results.report.markdown import CLAIMS, EXPERIMENTS, experiments_markdown, replaced

DOC = (Path(__file__).parent.parent / "docs/claim.md").read_text()
REGISTER = load_experiments()


def test_the_experiments_are_those_of_the_file():
    assert replaced(DOC, EXPERIMENTS, experiments_markdown(REGISTER)) == DOC, (
        "renew it: membound claim-report results/published --into docs/claim.md"
    )


def test_every_text_and_number_is_rendered():
    text = experiments_markdown(REGISTER)
    for experiment in REGISTER:
        assert all(getattr(experiment, key) in text for key in TEXTS)
        section = text.partition(f"### {experiment.id}. ")[2].partition("\n### ")[0]
        assert all(f"`{name}` {value:g}" in section for name, value in experiment.thresholds.items())
        assert all(f"`{name}`" in section for name in (*experiment.arms, *experiment.factors))


def test_the_region_and_the_verdicts_are_in_the_words_of_the_code():
    quoted = " ".join(line.removeprefix("> ") for line in DOC.splitlines() if line.startswith("> "))
    assert quoted == REGISTER.region
    table = dict(re.findall(r"^\| `([a-z ]+)` \| (.+) \|$", DOC, re.M))
    assert {name: table[name] for name in VERDICTS} == VERDICTS


def test_every_field_of_a_claim_file_is_documented():
    for kind, heading in ((Observation, "field of an observation"), (ClaimMeta, "field of `meta`")):
        section = DOC.partition(f"| {heading} |")[2].partition("\n\n")[0]
        named = set(re.findall(r"`(\w+)`", re.sub(r"\| [^|]* \|$", "|", section, flags=re.M)))
        assert named == {f.name for f in fields(kind)}


def test_the_claims_have_their_place():
    assert replaced(DOC, CLAIMS, "x") != DOC
