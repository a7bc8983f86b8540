"""`membound compare --fleet`: by files and by names, as a table, Markdown and JSON, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fleet_rows import fleet_rows
from rows import case, write

from membound.bench import cli


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    write(Path("results/fleets/20261128T100000-fleet-1f3a.jsonl"), fleet_rows(slow={4: 0.9}))
    return tmp_path


def ran(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *arguments])
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


@pytest.mark.parametrize(
    "name", ["latest", "20261128", "results/fleets/20261128T100000-fleet-1f3a.jsonl", "results/fleets"]
)
def test_a_fleet_is_found_by_its_name_or_its_file(capsys, name):
    status, text, _ = ran(capsys, name, "--fleet")
    assert status == 0
    assert text.startswith("1 outlier of 12 devices.\nnode-04 cuda:0, rack r1: 9.5 % slower")


def test_json_and_markdown(capsys):
    status, text, _ = ran(capsys, "latest", "--fleet", "--json")
    assert status == 0
    assert [one["node"] for one in json.loads(text)["outliers"]] == ["node-04"]
    status, text, _ = ran(capsys, "latest", "--fleet", "--markdown")
    assert status == 0
    assert text.startswith("**1 outlier of 12 devices.**")


def test_runs_of_machines_without_names_are_a_device_each(capsys):
    for number in range(9):
        rows = [
            case(samples=[0.01 if number else 0.02], run_id=f"run-{number}", replicate=n) for n in range(3)
        ]
        write(Path(f"mine/run-{number}.jsonl"), rows)
    status, text, _ = ran(capsys, "mine", "--fleet")
    assert status == 0
    assert text.startswith("1 outlier of 9 devices.\nrun-0 cpu: 50.0 % slower in alpha:cpu linear")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["latest", "--fleet", "--by", "run"], "leave out --backends, --by and --force"),
        (["latest", "--fleet", "--force"], "leave out --backends, --by and --force"),
        (["nothing", "--fleet"], "no run 'nothing'"),
        (["latest", "--fleet", "--json", "--markdown"], "exclude each other"),
    ],
)
def test_bad_input_gets_a_line(capsys, arguments, words):
    status, _, error = ran(capsys, *arguments)
    assert status == 2
    assert words in " ".join(error.replace("│", " ").split())


def test_a_run_without_cases_is_refused(capsys):
    from report_rows import load_row

    write(Path("load.jsonl"), [load_row()])
    status, _, error = ran(capsys, "load.jsonl", "--fleet")
    assert status == 2
    assert "no rows of works or ceilings, so there are no devices" in " ".join(error.split())
