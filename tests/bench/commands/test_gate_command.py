"""`membound gate` and `membound noise` as they are typed: what goes together, what is refused, what is said and written."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from rows import case, write

from membound.bench.gate import session
from membound.bench.gate.source import Commands
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.worker import COUNTS, SLOWDOWN
from membound.results.pairs import BASE, HEAD

BENCHMARK = """
import json, random, sys
factor = float(sys.argv[1])
found = [
    {"name": name, "fullname": f"b.py::{name}",
     "stats": {"data": [factor * 0.01 * random.uniform(0.995, 1.005) for _ in range(5)], "iterations": 1}}
    for name in sys.argv[3:]
]
open(sys.argv[2], "w").write(json.dumps({"benchmarks": found, "machine_info": {}}))
"""


@pytest.fixture(autouse=True)
def folder(folder, monkeypatch):
    monkeypatch.setenv("MEMBOUND_CACHE_DIR", str(folder / "cache"))
    (folder / "bench.py").write_text(BENCHMARK)
    return folder


def command(factor, *names):
    """A benchmark of another project, which takes a hundredth of a second times that factor, it says."""
    return f"{sys.executable} bench.py {factor} {{out}} {' '.join(names or ('test_a',))}"


def gate(membound_, factor, *more, names=("test_a",)):
    return membound_(
        "gate",
        "--base-command",
        command(1, *names),
        "--head-command",
        command(factor, *names),
        "--pairs",
        6,
        *more,
    )


def test_two_commands_of_equal_speed_are_fine(membound_, folder):
    status, out, err = gate(membound_, 1)
    assert status == 0, err
    assert out.startswith("fine: none of 1 case is slower")
    assert "test_a:cpu custom" in out
    assert "[0/6]" in err
    assert len(list((folder / "results/gates").glob("*.jsonl"))) == 1


def test_a_slower_command_has_regressed_in_all_three_forms(membound_, folder):
    status, out, err = gate(membound_, 1.3, "--json", "--markdown", "verdict.md", names=("test_a", "test_b"))
    assert status == 1, err
    found = json.loads(out)
    assert (found["verdict"], found["rule"]) == ("regressed", {"effect": 0.03, "unseen": 0.25, "pairs": 6})
    assert [one["status"] for one in found["cases"]] == ["regressed"] * 2
    assert found["cases"][0]["first"]["ratio"] == pytest.approx(1.3, rel=0.02)
    assert found["cases"][0]["confirmation"]["pairs"] == 6
    assert found["cases"][0]["noise_learnt"] is False
    assert all(Path(path).is_file() for path in found["rows"])
    text = (folder / "verdict.md").read_text()
    assert text.startswith("### ❌ regressed: 2 of 2 cases\n")
    assert "| test_a:cpu custom" in text
    assert "slower, and again in fresh processes" in text
    assert [path.name for path in folder.glob("verdict*")] == ["verdict.md"]


def test_the_effect_that_is_asked_for_counts(membound_):
    assert gate(membound_, 1.3, "--effect", "50%")[0] == 2, "30 % slower cannot be excluded to be 25 % slower"
    assert gate(membound_, 1.3, "--effect", "50", "--unseen", "60%")[0] == 0


def test_markdown_goes_to_standard_output_alone(membound_):
    status, out, _ = gate(membound_, 1, "--markdown", "-")
    assert status == 0
    assert out.startswith("### ✅ fine")


def test_noise_of_a_command_is_learnt_and_used(membound_):
    status, out, err = membound_("noise", "--command", command(1), "--pairs", 6, "--json")
    assert status == 0, err
    (found,) = json.loads(out)
    assert (found["backend"], found["pairs"], found["runs"]) == ("test_a:cpu", 6, 1)
    assert 0.03 < found["detectable"] < 0.1
    status, out, _ = membound_("noise", "--command", command(1), "--pairs", 6)
    assert "test_a:cpu custom" in out.splitlines()[1]
    assert out.splitlines()[1].split()[-4] == "12", "pairs of both runs"
    status, out, _ = gate(membound_, 1, "--json")
    assert json.loads(out)["cases"][0]["noise_learnt"] is True


def test_commands_that_measure_different_things_cannot_be_told(membound_):
    arguments = ("--base-command", command(1, "test_a"), "--head-command", command(1, "test_b"), "--pairs", 6)
    status, out, _ = membound_("gate", *arguments)
    assert status == 2
    assert "the head has no such case" in " ".join(out.split())


REFUSED = {
    "nothing": ([], "name what to compare with: --base REF, --base-command COMMAND, or --selftest"),
    "half a command": (["--base-command", "true"], "--base-command and --head-command go together"),
    "commands and commits": (
        ["--base", "main", "--base-command", "true", "--head-command", "true"],
        "--base-command and --head-command go together",
    ),
    "commands and works": (
        ["linear:n=8,k=32", "--base-command", "true", "--head-command", "true"],
        "without --base, --head, works and backends",
    ),
    "no repository": (["--base", "main"], "is in no git repository"),
    "a file and a commit": (["--base", "rows.jsonl", "--head", "main"], "must both be row files"),
    "one file": (["--base", "rows.jsonl"], "must both be row files"),
    "files and works": (
        ["--base", "rows.jsonl", "--head", "rows.jsonl", "linear:n=8,k=32"],
        "leave those out",
    ),
    "files not in turn": (
        ["--base", "rows.jsonl", "--head", "rows.jsonl"],
        "the files hold no cases that say when",
    ),
    "an empty file": (["--base", "empty.jsonl", "--head", "empty.jsonl"], "hold no cases"),
    "a torn file": (["--base", "bad.jsonl", "--head", "rows.jsonl"], "bad.jsonl, line 1"),
    "selftest of something": (
        ["--selftest", "--base", "main"],
        "--selftest gates this membound against itself",
    ),
    "few pairs": (["--selftest", "--pairs", "5"], "5 must be from 6 to 1000"),
    "an effect in words": (["--selftest", "--effect", "some"], "'some' is not a percentage such as 5%"),
    "no effect": (["--selftest", "--effect", "0"], "0 must be from"),
    "not a number": (["--selftest", "--effect", "nan%"], "nan% must be from"),
    "a huge effect": (["--selftest", "--slowdown", "1e999"], "1e999 must be from"),
    "two outputs": (["--selftest", "--json", "--markdown", "-"], "exclude each other"),
    "markdown to a folder": (["--selftest", "--markdown", "."], ". is a folder; name a file"),
    "markdown to a pipe": (["--selftest", "--markdown", "pipe"], "pipe is no file; name one"),
    "markdown to nowhere": (
        ["--selftest", "--markdown", "none/v.md"],
        "there is no folder none to write into",
    ),
    "a bad work": (["--selftest", "linear:n=8"], "k"),
    "an unknown backend": (["--selftest", "-b", "nonesuch"], "unknown backend 'nonesuch'"),
    "no such program": (["--base-command", "/none", "--head-command", "/none"], "/none cannot be started"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_status_2(membound_, folder, arguments, words):
    write(folder / "rows.jsonl", [case()])
    (folder / "empty.jsonl").touch()
    os.mkfifo(folder / "pipe")
    (folder / "bad.jsonl").write_text("{}\n{}\n")
    status, out, err = membound_("gate", *arguments)
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("membound: ")
    assert words in last
    assert "Traceback" not in err


def test_noise_refuses_a_command_and_works(membound_):
    status, _, err = membound_("noise", "linear:n=8,k=32", "--command", "true")
    assert status == 2
    assert "leave out works and backends" in err


# Commits, and the test of itself


class Fake:
    """Turns without processes: a head whose interpreter slows it down is that much slower."""

    made: ClassVar[list[dict[str, str]]] = []

    def __init__(self, works, backends, pythons, options, progress):
        Fake.made.append(pythons)
        scripts = {
            side: Path(python).read_text(encoding="utf-8")
            for side, python in pythons.items()
            if "/bin/" not in python
        }
        self.scripts, self.works, self.rng = scripts, {"alpha:cpu": ("linear:n=8,k=32",)}, random.Random(1)
        slowed = scripts.get(HEAD, "").partition(f"{SLOWDOWN}=")[2].split()
        self.factor = 1 + float(slowed[0]) if slowed else 1.0

    @classmethod
    def of(cls, *arguments):
        return cls(*arguments)

    def measure(self, cases, pairs, stage):
        rows = [
            case(
                f"alpha:cpu#{side}",
                work="linear:n=8,k=32",
                replicate=100 * stage + number,
                machine=fingerprint(),
                samples=[(self.factor if side == HEAD else 1.0) * math.exp(self.rng.gauss(0, 0.005))],
            )
            for number in range(pairs)
            for side in (BASE, HEAD)
        ]
        return Path("rows.jsonl"), rows


@pytest.fixture
def fake_turns(monkeypatch):
    Fake.made = []
    monkeypatch.setattr(session, "Turns", Fake)
    return Fake.made


def test_the_gate_finds_the_slowdown_that_it_puts_in(membound_, fake_turns):
    status, out, _ = membound_("gate", "--selftest", "--slowdown", "20%")
    assert status == 0
    assert out.splitlines()[-1] == "selftest: found in 1 of 1 cases"
    assert membound_("gate", "--selftest", "--slowdown", "1%")[0] == 1
    assert not any(Path(python).exists() for made in fake_turns for python in made.values()), (
        "its interpreters go with it"
    )


def test_only_the_head_is_slowed_down(folder, monkeypatch, membound_):
    seen = {}

    class Reads(Fake):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            seen.update(self.scripts)

    monkeypatch.setattr(session, "Turns", Reads)
    membound_("gate", "--selftest")
    assert f"{SLOWDOWN}=0.1 " in seen[HEAD]
    assert SLOWDOWN not in seen[BASE]
    assert all(f"{COUNTS}=1" in text for text in seen.values())


def commits(folder, *, protocol):
    """A repository with a small membound that says which protocol it speaks."""
    files = {
        "pyproject.toml": '[project]\nname = "membound"\n',
        "src/membound/__init__.py": "",
        "src/membound/bench/worker.py": "",
        "src/membound/bench/protocol/messages.py": f"PROTOCOL = {protocol}\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for words in (["init", "-b", "main"], ["add", "src", "pyproject.toml"], ["commit", "-m", "one"]):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
            cwd=folder,
            check=True,
            capture_output=True,
        )


def test_two_commits_take_turns_in_their_own_interpreters(membound_, folder, fake_turns):
    commits(folder, protocol=session.PROTOCOL)
    (folder / "src/membound/__init__.py").write_text("changed = 1\n")
    status, out, err = membound_("gate", "--base", "main", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["base"].startswith("main (")
    assert found["head"].startswith("working tree (")
    (made,) = fake_turns
    assert made[BASE] != made[HEAD]
    assert "making an environment for main" in err


def test_commits_of_another_protocol_are_measured_by_their_own_harness(membound_, folder, monkeypatch):
    """And the verdict says so."""
    commits(folder, protocol=session.PROTOCOL + 1)
    asked = []

    def measure(self, cases, pairs, stage):
        asked.append(self.commands)
        return Fake([], [], {}, None, None).measure(cases, pairs, stage)

    monkeypatch.setattr(Commands, "measure", measure)
    status, out, err = membound_(
        "gate", "--base", "main", "--head", "main", "linear:n=8,k=32", "-b", "numpy:cpu", "--json"
    )
    assert status == 0, err
    (note,) = json.loads(out)["notes"]
    assert "speaks another protocol" in note
    words = asked[0][HEAD].words
    assert words[1:6] == ("-P", "-m", "membound", "run", "linear:n=8,k=32")
    assert words[-2:] == ("--backends", "numpy:cpu")


def test_noise_of_this_membound_is_stored(membound_, folder, monkeypatch):
    class Stores(Fake):
        def measure(self, cases, pairs, stage):
            _, rows = super().measure(cases, pairs, stage)
            return write(folder / "results/noise/a.jsonl", rows), rows

    monkeypatch.setattr(session, "Turns", Stores)
    status, out, _ = membound_("noise", "--pairs", 8)
    assert status == 0
    assert "alpha:cpu linear" in out
    assert out.splitlines()[-1] == f"rows: {folder}/results/noise/a.jsonl"


def test_noise_that_gave_no_pairs_says_so(membound_, folder, monkeypatch):
    class Disturbed(Fake):
        def measure(self, cases, pairs, stage):
            _, rows = super().measure(cases, pairs, stage)
            for row in rows:
                row.grade = "invalid"
            return write(folder / "results/noise/a.jsonl", rows), rows

    monkeypatch.setattr(session, "Turns", Disturbed)
    status, _, err = membound_("noise")
    assert status == 2
    assert "no case has 6 pairs that count: others disturbed this machine" in err.splitlines()[-1]
