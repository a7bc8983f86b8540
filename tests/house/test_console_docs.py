"""What the documents show of commands is what the commands print."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from console_blocks import BLOCK, commands

from membound.bench import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = [
    pytest.param(command, output, marks=[pytest.mark.slow] if "--validate" in command else [], id=command)
    for page in PAGES
    for block in BLOCK.findall(page.read_text())
    for command, output in commands(block)
]


def test_the_source_statements_are_answered_with_commands():
    told = " ".join(parameter.values[0] for parameter in SHOWN)
    assert all(f"{name} " in told for name in ("hardware", "predict", "cost", "plan"))
    assert len(SHOWN) >= 12


@pytest.mark.parametrize(("command", "output"), SHOWN)
def test_a_command_prints_what_its_page_shows(command, output, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(shlex.split(command))
    printed = capsys.readouterr().out
    assert done.value.code == 0
    assert printed.rstrip("\n").splitlines() == output.rstrip("\n").splitlines(), (
        "renew them: python tests/fakes/console_blocks.py docs/*.md README.md"
    )


@pytest.mark.slow
def test_the_chart_has_a_point_for_every_row():
    from membound.bench.planning.measured import measured_rows
    from membound.results.predict.catalogue import load_catalogue
    from membound.results.predict.record import Record
    from membound.results.report.prediction import prediction_chart, record_table

    record = Record.of(measured_rows(load_catalogue())[0])
    committed = (ROOT / "docs/prediction.svg").read_text()
    points = len(record_table(record))
    assert points == len(record.held_out)
    assert committed.count('aria-roledescription="point"') == points
    assert prediction_chart(record).count('aria-roledescription="point"') == points
