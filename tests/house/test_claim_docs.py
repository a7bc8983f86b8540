"""docs/claim.md and docs/claims/ say what the experiments, the verdicts and the published claims say."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from membound.bench.claim.report import load_reports, write_into
from membound.results.claim.experiments import TEXTS, load_experiments
from membound.results.claim.finding import VERDICTS
from membound.results.claim.observation import ClaimMeta, Observation
from membound.results.report.markdown import experiments_markdown

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/claims"
DOC = (ROOT / "docs/claim.md").read_text()
REGISTER = load_experiments()


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_summary_and_the_pages_are_what_the_command_makes_of_the_published_claims(tmp_path):
    renew = "renew them: membound claim-report results/published --into docs/claim.md"
    (tmp_path / "claim.md").write_text(DOC)
    write_into(load_reports([ROOT / "results/published"]), tmp_path / "claim.md")
    assert (tmp_path / "claim.md").read_text() == DOC, renew
    assert files_of(tmp_path / "claims") == files_of(PAGES), renew
    for path in sorted(PAGES.glob("*.md")):
        assert (tmp_path / "claims" / path.name).read_text() == path.read_text(), f"{path.name}: {renew}"


def test_the_summary_leads_to_the_place_of_each_experiment():
    links = re.findall(r"\]\(claims/experiments\.md#([\w-]+)\)", DOC)
    headings = re.findall(r"^## (.*)$", (PAGES / "experiments.md").read_text(), re.M)
    assert links == [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
    assert len(links) == len(list(REGISTER))


def test_every_text_and_number_is_rendered():
    text = experiments_markdown(REGISTER)
    for experiment in REGISTER:
        assert all(getattr(experiment, key) in text for key in TEXTS)
        section = text.partition(f"## {experiment.id}. ")[2].partition("\n## ")[0]
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
