"""`membound fleet` and what it is given wrongly: one line, exit status 2, before any cluster is touched."""

from __future__ import annotations

import sys

import pytest

from membound.bench import cli


@pytest.fixture
def fleet(tmp_path, monkeypatch, capsys):
    """The command in a folder of its own, where there is no Ray; (status, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "ray", None)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["fleet", *arguments])
        return ended.value.code, capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Ray is not installed: pip install 'membound[ray]'"),
        (["--dry-run"], "Ray is not installed"),
        (["--suite", "slow"], "'slow' is none of quick, full"),
        (["--nodes", "-1"], "-1 must be from 0 to 1000000"),
        (["--repeat", "0"], "0 must be from 1 to 1000"),
        (["--wheel", "x.whl", "--installed"], "--wheel and --installed exclude each other"),
        (["--wheel", "x.whl"], "--wheel x.whl: there is no such file"),
        (["--environment", "odd"], "no environment is called 'odd'"),
        (["linear:n=8"], "linear"),
        (["--backends", "nmba"], "did you mean numba?"),
        (
            ["--resume", "latest"],
            "'latest' names 0 of the fleets in results/fleets that were cut short: none",
        ),
        (["--resume", "latest", "linear:n=8,k=32"], "leave out works, and options that say what to measure"),
        (["--out", ""], "it is empty; name a folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(fleet, arguments, message):
    status, err = fleet(*arguments)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert message in err


@pytest.mark.parametrize(
    "option",
    [
        *(
            "--suite full",
            "--nodes 2",
            "--every-device",
            "--together",
            "--repeat 2",
            "--replicates 1",
            "--threads 1",
        ),
        *(
            "--seed 2",
            "--no-ceilings",
            "--backends numba",
            "--python x=y",
            "--environment vllm",
            "--installed",
        ),
        "--dry-run",
    ],
)
def test_a_fleet_that_is_resumed_takes_no_option_that_it_would_not_heed(fleet, option):
    status, err = fleet("--resume", "latest", *option.split())
    assert (status, len(err.splitlines())) == (2, 1)
    assert "--resume finishes a fleet as it was asked for" in err


def test_a_folder_that_cannot_be_made_is_said_first(fleet, tmp_path):
    (tmp_path / "file").touch()
    status, err = fleet("--out", "file")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "results folder file cannot be made" in err
