"""The documents hold what the program has: commands, options, backends, models, fields, thresholds, files."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import shlex
import tomllib
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer

import membound
from membound.bench.cli import app
from membound.bench.machine.fingerprint import fingerprint
from membound.bench.machine.telemetry import delta, snapshot
from membound.bench.planning import plan
from membound.bench.planning.demands import PREDICTED
from membound.kernels.families import FAMILIES
from membound.kernels.family_arithmetic import ARITHMETIC
from membound.kernels.models import MODELS, PUBLISHED
from membound.kernels.work import ACTS, FORMATS, KINDS, KV_FORMATS, Traffic, parse, parse_as
from membound.results import compare, stats, verdict
from membound.results.row import GRADES, STATUSES, Row
from membound.results.serving import compare as points
from membound.results.serving import table
from membound.results.store import load_rows
from membound.results.views.console import PlainConsole
from membound.results.views.table import run_view

ROOT = Path(__file__).parents[2]
FOLDERS = ("kernels", "backends", "bench", "results")
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def leaves(commands: dict[str, Any]) -> dict[str, Any]:
    """Every command that does something, by its words: those of a group as ``env create``."""
    found: dict[str, Any] = {}
    for name, command in commands.items():
        inner = leaves(command.commands) if hasattr(command, "commands") else {}
        found |= {f"{name} {last}": leaf for last, leaf in inner.items()} or {name: command}
    return found


LEAVES = leaves(COMMANDS)

RUN = "pip install . && membound run"
TEST = 'pip install -c constraints.txt -e ".[test]" && pytest'


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def cells(text: str) -> dict[str, list[str]]:
    """Tables: the first cell's names in backticks to the other cells of that line."""
    found: dict[str, list[str]] = {}
    for line in re.findall(r"^\| (.*) \|$", text, re.M):
        first, *others = re.split(r" \| ", line)
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", first), others)
    return found


# Commands


def shell_lines() -> list[str]:
    texts = [
        *blocks(README, "sh"),
        *(line for text in DOCS.values() for line in re.findall(r"^ {4}(\S.*)$", text, re.M)),
    ]
    return [line for text in texts for line in text.splitlines() if line.strip()]


def test_the_two_commands_of_the_readme_are_what_ci_runs():
    assert RUN in shell_lines()
    assert TEST in shell_lines()
    script = (ROOT / ".ci/run").read_text()
    assert TEST.replace("install", "install --no-index --no-build-isolation", 1) in script
    assert "membound run --quick" in script
    assert (ROOT / "constraints.txt").is_file()


def membound_lines() -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for line in shell_lines() if "membound " in line]
    calls = [line[line.index("membound") + 1 :] for line in lines if "membound" in line]
    return [call for call in calls if call]


def test_documented_commands_are_found():
    assert {call[0] for call in membound_lines()} == set(COMMANDS)


@pytest.mark.parametrize("call", membound_lines(), ids=" ".join)
def test_a_documented_command_is_understood(call):
    """The parser takes every option; every spec is a work, of what is run here or of what is predicted."""
    command = COMMANDS[call[0]]
    context = command.make_context(call[0], list(call[1:]))
    works = context.params.get("works") or [context.params.get("work")]
    for spec in filter(None, works):
        if "/" not in spec:  # a folder that the reader has
            kinds = PREDICTED if call[0] in ("predict", "cost") else KINDS
            assert parse_as(spec, kinds).kind in KINDS


def test_every_command_and_option_has_help_and_is_documented():
    everything = README + "".join(DOCS.values())
    for name, command in (COMMANDS | LEAVES).items():
        assert command.help, name
        assert f"membound {name}" in everything, name
        for parameter in command.params:
            if parameter.name != "help":
                assert parameter.help, f"{name}: {parameter.name} has no help"


def test_every_command_has_the_options_that_the_readme_promises():
    assert "Every command has `--help`, `--json`, and `--debug`" in README
    assert {"env create", "env list", "run"} <= set(LEAVES)
    for name, command in LEAVES.items():
        assert {"--json", "--debug"} <= {option for p in command.params for option in p.opts}, name
    groups = [command for name, command in COMMANDS.items() if name not in LEAVES]
    assert all("--debug" in {option for p in group.params for option in p.opts} for group in groups)


def test_every_option_is_documented():
    everything = README + "".join(DOCS.values())
    options = {option for c in LEAVES.values() for p in c.params for option in p.opts if option[:2] == "--"}
    assert {"--backends", "--json"} <= options
    assert not {option for option in options if f"{option}" not in everything}


# Python


def test_the_examples_in_python_use_what_the_package_has():
    for block in blocks(README, "python"):
        tree = ast.parse(block)
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "membound"
        }
        assert used
        assert used <= set(membound.__all__)


def test_the_plugin_of_the_docs_is_the_one_that_is_tested():
    source, engine = blocks(DOCS["plugin.md"], "python")
    (project,) = blocks(DOCS["plugin.md"], "toml")
    assert source == (ROOT / "examples/plugin/membound_scipy.py").read_text()
    assert project == (ROOT / "examples/plugin/pyproject.toml").read_text()
    assert engine == (ROOT / "examples/llamacpp/membound_llamacpp.py").read_text()
    assert len(source.splitlines()) < 40
    assert len(engine.splitlines()) <= 40


@pytest.mark.parametrize("entry", sorted(PROJECT["entry-points"]["membound.backends"]))
def test_every_backend_is_documented(entry):
    assert f"`{entry}`" in DOCS["plugin.md"]
    assert entry.partition(".")[0] + ":" in README


@pytest.mark.parametrize("extra", ["torch", "onnx-export", "serving", "test"])
def test_extras_that_a_user_needs_are_named(extra):
    assert extra in PROJECT["optional-dependencies"]
    assert f"`{extra}`" in README or f"[{extra}]" in README


# Works


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_documented_with_its_shape(name):
    m = MODELS[name]
    shape = (m.layers, m.hidden, m.q_heads, m.kv_heads, m.head_dim, m.intermediate, m.vocab)
    assert cells(DOCS["works.md"])[name] == [*map(str, shape), f"{m.parameters / 1e9:.3g}"]


def test_published_models_that_are_run_are_named():
    text = DOCS["works.md"]
    assert [name for name in PUBLISHED if f"`{name}`" not in text] == []
    folders = text[text.index("is a model too, of model_type") :].partition(":\n")[0]
    run = [name for name in ARITHMETIC if FAMILIES[name].index is None]
    assert [name for name in run if name not in folders] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_documented_with_its_keys(kind, monkeypatch):
    monkeypatch.chdir(ROOT)  # the file of an example lies in the checkout
    text = DOCS["works.md"]
    section = re.search(rf"^### `{kind}`\n(.*?)(?=^##)", text, re.M | re.S)
    assert section
    example = re.search(rf"^ {{4}}({kind}:\S+)$", section[1], re.M)
    assert example
    assert parse(example[1]).kind == kind
    for field in (one for one in fields(KINDS[kind]) if one.init):
        assert f"`{field.name}`" in section[1] or (
            kind == "prefill" and "keys are those of `step`" in section[1]
        )


def test_formats_are_documented_with_their_bits():
    weights, _, caches = DOCS["works.md"].partition("| kv | bits |")
    for text, formats in ((weights, FORMATS), (caches, KV_FORMATS)):
        table = cells(text)
        assert {name: table[name][0] for name in formats} == {n: str(f.bits) for n, f in formats.items()}
    assert all(f"`{act}`" in DOCS["works.md"] for act in ACTS)


# Rows


def test_every_field_of_a_row_is_documented():
    section = DOCS["rows.md"].partition("## Fields of a row")[2].partition("### ")[0]
    assert set(cells(section)) == {f.name for f in fields(Row)}


@pytest.mark.parametrize("names", [STATUSES, [f.name for f in fields(Traffic)], [*fingerprint()]])
def test_names_inside_rows_are_documented(names):
    assert not [name for name in names if f"`{name}`" not in DOCS["rows.md"]]


def test_every_counter_is_documented():
    before = snapshot()
    assert not [name for name in delta(before, snapshot()) if f"`{name}`" not in DOCS["rows.md"]]


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("## The summary", stats.COLUMNS),
        ("## Comparisons\n", compare.COLUMNS),
        ("## Points of load", table.COLUMNS),
        ("## Comparisons of loads", points.COLUMNS),
    ],
    ids=["summary", "comparison", "points", "comparison of points"],
)
def test_every_column_is_documented_in_the_words_of_the_code(heading, columns):
    section = DOCS["rows.md"].partition(heading)[2].partition("\n## ")[0]
    assert {name: " | ".join(others) for name, others in cells(section).items()} == columns


# Measuring


@pytest.mark.parametrize("names", [GRADES, verdict.VERDICTS], ids=["grades", "verdicts"])
def test_every_judgement_is_explained(names):
    assert not [name for name in names if f"`{name}`" not in DOCS["measuring.md"]]
    assert not [name for name in verdict.VERDICTS if f"`{name}`" not in README]


def constants() -> list[tuple[str, str, str]]:
    return re.findall(
        r"`(\w+)\.(\w+)` = ([\d.]+\d|\d+)", " ".join((DOCS["measuring.md"] + DOCS["environments.md"]).split())
    )


def test_constants_are_found():
    assert len(constants()) >= 20


def modules(stem: str, name: str) -> list[str]:
    """Modules of that file name that have such a constant."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob(f"{stem}.py")]
    found = [path.relative_to(ROOT) for path in files if re.search(rf"^{name} = ", path.read_text(), re.M)]
    return [f"membound.{path.as_posix().removesuffix('.py').replace('/', '.')}" for path in found]


@pytest.mark.parametrize(("module", "name", "value"), constants())
def test_a_number_in_the_docs_is_that_of_the_code(module, name, value):
    (actual,) = {getattr(m, name) for m in map(importlib.import_module, modules(module, name))}
    assert float(value) == actual


@pytest.mark.parametrize(
    ("name", "replicates", "pace"),
    [
        ("--quick", 1, plan.QUICK_PACE),
        ("default", 3, plan.DEFAULT_PACE),
        ("--rigor high", plan.HIGH_REPLICATES, plan.HIGH_PACE),
    ],
)
def test_paces_are_those_of_the_code(name, replicates, pace):
    shown = f"`{name}`" if name.startswith("-") else name
    line = f"| {shown} | {replicates} | {pace.rounds} | {pace.seconds} | {pace.least} |"
    assert line in DOCS["measuring.md"]


# Files


def tree() -> dict[str, str]:
    """Paths of the README's file tree with their purposes, which may stand in the line below."""
    block = next(b for b in blocks(README, "text") if "kernels/" in b and "results/" in b)
    found, folder, open_ = {}, "", list[str]()
    for line in block.splitlines():
        names, _, purpose = line.strip().partition("  ")
        if line.startswith(" " * 8):
            names, purpose = "", line.strip()
        elif not line.startswith(" "):
            folder = names if names in {f"{f}/" for f in FOLDERS} else ""
        if names:
            inside = folder if line.startswith(" ") else ""
            open_ = [inside + name for name in names.split(", ")]
        found |= dict.fromkeys(open_, purpose.strip())
    return found


def test_the_file_tree_names_every_room():
    listed = tree()
    assert all((ROOT / name).exists() for name in listed), [n for n in listed if not (ROOT / n).exists()]
    assert all(listed.values()), [name for name, purpose in listed.items() if not purpose]
    rooms = {
        f"{path.parent.relative_to(ROOT).as_posix()}/"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    own = {name for name in rooms if not any(n.startswith(name) for n in listed if n != name)}
    assert own <= set(listed), sorted(own - set(listed))
    assert all(name in listed["docs/"] for name in DOCS)


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda p: p.name,
)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_names_of_the_package_can_be_imported():
    named = set(re.findall(r"`(membound(?:\.\w+)+)`", "\n".join((README, *DOCS.values()))))
    assert "membound.kernels.inputs.dequantize" in named
    for name in named:
        pkgutil.resolve_name(name)  # raises where there is no such thing


def test_the_changelog_keeps_its_format():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]$", text, re.M)
    kinds = set(re.findall(r"^### (\w+)$", text, re.M))
    assert kinds
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_output_in_the_readme_is_that_of_a_published_run():
    (block,) = re.findall(r"<!-- output -->\n```text\n(.*?)```\n<!-- /output -->", README, re.S)
    name = block.split()[1].rstrip(",")
    (path,) = (ROOT / "results/published").glob(f"*/{name}.jsonl")
    shown = StringIO()
    PlainConsole(file=shown, width=80).print(run_view(load_rows(path)))
    assert [line.rstrip() for line in shown.getvalue().splitlines()] == block.splitlines()
