"""The workflows run commands that exist, put tables into the summary, and exit as the docs say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from benchmark_files import stored
from benchmark_files import write as write_json
from rows import case, ceiling, run_rows, write

from membound.bench.cli import app, main

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in FILES}
COMMANDS = typer.main.get_command(app).commands
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
DOC = (ROOT / "docs/ci.md").read_text()


def steps(workflow):
    return [step for job in WORKFLOWS[workflow]["jobs"].values() for step in job["steps"]]


def scripts():
    return [(name, step["run"]) for name in WORKFLOWS for step in steps(name) if "run" in step]


def script(name):
    (found,) = [step["run"] for step in steps("ci.yml") if step.get("name") == name]
    return found


def test_workflows_are_found():
    assert "ci.yml" in WORKFLOWS
    assert ("ci.yml", "bash .ci/run") in scripts()


@pytest.mark.parametrize(("name", "text"), scripts())
def test_a_step_is_sound_bash_and_its_commands_exist(name, text):
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=10)
    for line in text.splitlines():
        words = shlex.split(line.partition(" >> ")[0])
        if words and words[0].rpartition("/")[2] == "membound":
            COMMANDS[words[1]].make_context(words[1], words[2:])


def test_jobs_end():
    for workflow in WORKFLOWS.values():
        assert all(job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())


def test_actions_are_pinned_to_a_commit_and_say_its_tag():
    lines = [line for path in FILES for line in path.read_text().splitlines() if "uses:" in line]
    assert len(lines) == sum("uses" in step for name in WORKFLOWS for step in steps(name)) > 0
    assert all(re.fullmatch(r" +(- )?uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in lines)


def test_no_job_installs_what_has_no_hash():
    texts = [*(text for _, text in scripts()), *(step["run"] for step in ACTION["runs"]["steps"])]
    installs = [line for text in texts for line in text.splitlines() if "pip install" in line]
    fresh = ["pip install . && membound run --quick", 'pip install -c constraints.txt -e ".[test]" && pytest']
    assert installs
    assert all("--no-index" in line or "--require-hashes" in line or line in fresh for line in installs)


def test_a_base_without_locks_is_no_failure(tmp_path):
    """The first pull request after they came is against such a base."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    for arguments in (
        ["init", "-q", "-b", "main"],
        ["commit", "-q", "--allow-empty", "-m", "base"],
        ["update-ref", "refs/remotes/origin/main", "HEAD"],
    ):
        subprocess.run([*git, *arguments], check=True, timeout=60)
    name = "Measure the commit that the pull request is against, on the same machine"
    (tmp_path / "base-environment/bin").mkdir(parents=True)
    (tmp_path / "base-environment/bin/activate").touch()
    text = script(name).replace("python -m venv base-environment\n", "")
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]
    environment = os.environ | {
        "GITHUB_BASE_REF": "main",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    for part in (text, script("Comparison")):
        done = subprocess.run(
            [*command, part], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "the base has no locks" in done.stdout or part is not text


def test_the_benchmark_command_is_that_of_the_docs():
    command = "pytest tests/benchmarks --benchmark-only"
    assert script("Every kernel of every backend").startswith(command)
    assert command in (ROOT / "docs/pytest.md").read_text()
    assert "pytest --benchmark-only -m gpu" in (ROOT / "docs/pytest.md").read_text()
    assert "pytest --benchmark-only -m gpu" in (ROOT / ".ci/gpu").read_text()


def summary_of(step, folder):
    """Run a step as the runner does, in `folder`; returns what it adds to the summary."""
    summary = folder / "summary.md"
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {
        "GITHUB_STEP_SUMMARY": str(summary),
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script(step)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return summary.read_text()


def test_the_table_of_the_kernels_is_in_the_summary(tmp_path):
    row = case(samples=[0.011, 0.010, 0.012, 0.010, 0.030])
    write_json(tmp_path / "benchmarks.json", stored(row, [ceiling("read", 2e10, "bytes/s")]))
    text = summary_of("Table of the kernels", tmp_path)
    assert "| read | 20.0 GB/s through alpha:cpu, before the works |" in text
    assert re.search(r"^\| `alpha:cpu` \| 11 ms \| – \| 9\.1 \| 45% \|", text, re.M)


def test_the_table_of_the_commit_is_in_the_summary_of_every_event(tmp_path):
    write(tmp_path / "after/run-a.jsonl", run_rows("run-a"))
    text = summary_of("Table of this commit", tmp_path)
    assert text.startswith("### run-a\n")
    assert re.search(r"^\| `alpha:cpu` \| 10\.15 ms \|", text, re.M)
    (step,) = [step for step in steps("ci.yml") if step.get("name") == "Table of this commit"]
    assert step["if"] == "always()"


def test_the_comparison_is_in_the_summary(tmp_path):
    write(tmp_path / "before/run-a.jsonl", run_rows("run-a"))
    write(tmp_path / "after/run-b.jsonl", run_rows("run-b", scale=2.0))
    text = summary_of("Comparison", tmp_path)
    assert text.startswith("### A: `run-a` · B: `run-b`")
    assert re.search(
        r"\| alpha:cpu \| 10\.15 ms \| 20\.3 ms \| 2 \| [\d.]+–[\d.]+ \| slower by at least 95 % \|", text
    )


# The gate

FAKE = """#!/bin/sh
echo "$@" >>"$SAID"
while [ "$#" -gt 1 ]; do
    if [ "$1" = --markdown ] && [ "$CODE" != 130 ]; then echo "### verdict" >"$2"; fi
    shift
done
exit "$CODE"
"""
"""Stands in for membound: writes a verdict, unless it was interrupted, and ends as it is told."""


def gate_steps():
    """(name, script, step) of each step that gates: two jobs of the workflow, and the action."""
    jobs = WORKFLOWS["gate.yml"]["jobs"]
    found = [
        (job, step["run"], step) for job in jobs for step in jobs[job]["steps"] if step.get("name") == "Gate"
    ]
    (own,) = [step for step in ACTION["runs"]["steps"] if step.get("id") == "gate"]
    return [*found, ("action", own["run"], own)]


def gated(text, folder, code, **variables):
    """Run such a step with a membound that ends with `code`; returns its own status and what is in its files."""
    for path in ("bin/membound", "gate-environment/bin/membound", "membound/bin/membound"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(FAKE)
        (folder / path).chmod(0o700)
    files = {name: str(folder / name) for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "SAID")}
    values = {
        "CODE": str(code),
        "RUNNER_TEMP": str(folder),
        "WORKS": "linear:n=8,k=32",
        "BASE": "b",
        "HEAD": "h",
    }
    values |= {
        "PAIRS": "12",
        "EFFECT": "3%",
        "NOISE": "noise",
        "STRICT": "false",
        "HOME": str(folder),
    } | variables
    environment = os.environ | files | values | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    kept = {
        name: Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""
        for name, path in files.items()
    }
    return done, kept


@pytest.mark.parametrize(("name", "text", "step"), gate_steps(), ids=["cpu", "gpu", "action"])
@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (2, 0), (130, 130)])
def test_a_gate_fails_its_job_if_the_head_has_regressed(tmp_path, name, text, step, code, status):
    """One that cannot tell warns; the verdict goes into the summary whatever it is."""
    done, kept = gated(text, tmp_path, code)
    assert done.returncode == status, done.stderr
    assert ("::warning::the gate cannot tell" in done.stdout) == (code == 2)
    assert kept["GITHUB_STEP_SUMMARY"] == ("" if code == 130 else "### verdict\n")
    words = shlex.split(kept["SAID"])
    COMMANDS[words[0]].make_context(words[0], words[1:])
    if name == "action":
        said = {0: "fine", 1: "regressed", 2: "cannot tell"}.get(code)
        assert (f"status={said}\n" in kept["GITHUB_OUTPUT"]) == (said is not None)


def test_the_action_can_be_strict(tmp_path):
    (_, _, (_, text, _)) = gate_steps()
    assert gated(text, tmp_path, 2, STRICT="true")[0].returncode == 2


def test_the_action_learns_noise_once(tmp_path):
    (step,) = [step for step in ACTION["runs"]["steps"] if step.get("name") == "Learn what noise does here"]
    done, kept = gated(step["run"], tmp_path, 2)
    assert done.returncode == 0
    assert "::warning::noise could not be learnt" in done.stdout
    words = shlex.split(kept["SAID"])
    assert words[:3] == ["noise", "--command", "b"]
    COMMANDS["noise"].make_context("noise", words[1:])
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise/a.jsonl").touch()
    (tmp_path / "SAID").unlink()
    assert gated(step["run"], tmp_path, 0)[1]["SAID"] == ""


def test_the_action_passes_its_inputs_by_variables():
    """A command that stood in the script itself could be any script."""
    for step in ACTION["runs"]["steps"]:
        subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True, timeout=10)
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(ACTION["inputs"])
    (example,) = re.findall(r"^    - uses: OWNER.*?\n\n", DOC, re.M | re.S)
    assert set(re.findall(r"([\w-]+): ", example)) - {"uses"} <= set(ACTION["inputs"])


# Exit codes


def status_of(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code


@pytest.fixture
def files(tmp_path):
    write(tmp_path / "a.jsonl", run_rows("run-a"))
    write(tmp_path / "b.jsonl", run_rows("run-b", scale=3.0))
    other = [case(run_id="run-c", machine={"cpu": "Another CPU"})]
    write(tmp_path / "c.jsonl", other)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["show", "a.jsonl"], 0),
        (["show", "a.jsonl", "--markdown"], 0),
        (["show", "nothing"], 2),
        (["show", "a.jsonl", "--json", "--markdown"], 2),
        (["compare", "a.jsonl", "b.jsonl"], 0),
        (["compare", "a.jsonl", "b.jsonl", "--markdown", "--json"], 2),
        (["compare", "a.jsonl", "c.jsonl"], 2),
        (["run", "linear:n=8"], 2),
        (["duel", "linear:n=8,k=8", "-b", "nobody:cpu"], 2),
    ],
)
def test_commands_exit_as_documented(files, monkeypatch, capsys, arguments, status):
    monkeypatch.chdir(files)
    assert status_of(*arguments) == status
    out, err = capsys.readouterr()
    assert (err.count("\n"), out) == (1, "") if status else out


def test_every_code_is_in_the_docs():
    codes = re.findall(r"^\| `(\d+)` \|", DOC, re.M)
    assert codes == ["0", "1", "2", "4", "5", "130"]
