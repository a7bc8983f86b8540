"""Text from outside is data: on terminals, in Markdown, in JSON, in errors, whatever it holds."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile_text import HOSTILE, STEERING, TAGS, rows_of
from observations import meta, seen
from rich.console import Group
from rich.table import Table
from rich.text import Text
from rows import write

from membound.bench import cli
from membound.results.plain_text import COMMAND, as_markdown, in_one_line, printable, visible
from membound.results.views.console import PlainConsole

DROPPED = str.maketrans("", "", "\a\b\v\f\r")
"""What Rich leaves out of a text by itself."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capsys.readouterr()
    return ended.value.code, out + err


@pytest.mark.filterwarnings("ignore:.* are the same run:UserWarning")
@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "arguments",
    [
        ("show",),
        ("show", "--ceilings"),
        ("show", "--markdown"),
        ("show", "--json"),
        ("compare", "--force"),
        ("compare", "--force", "--markdown"),
        ("compare", "--force", "--json"),
    ],
)
def test_no_output_obeys_what_a_row_says(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, arguments: tuple[str, ...]
) -> None:
    paths = [str(write(folder / f"{name}.jsonl", rows_of(text))) for name in "ab"]
    command, *options = arguments
    status, out = called(capsys, command, *paths[: 1 + (command == "compare")], *options)
    assert status == 0, out
    assert visible(out) == out, "nothing steers a terminal"
    out.encode()
    if "--json" in options:
        json.loads(out)
    elif "--markdown" in options:
        assert not any(tag in out for tag in TAGS)
    else:
        assert not any(COMMAND.match(line.strip()) for line in out.split("\n"))
        shown = "".join(in_one_line(text.translate(DROPPED)).split())
        assert shown in "".join(out.split()).replace(r"\x3a:", "::").replace(r"\x23#", "##"), "it is shown"


@pytest.mark.parametrize("text", HOSTILE)
def test_errors_are_one_line_whatever_was_typed(capsys: pytest.CaptureFixture[str], text: str) -> None:
    for arguments in (("show", text), ("run", f"linear:n={text}"), ("compare", text, text), (text,)):
        status, out = called(capsys, *arguments)
        assert status == 2
        assert out.startswith("membound: ")
        assert out.count("\n") == 1
        assert visible(out) == out


def test_a_name_in_an_error_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    """Of several spaces one was left, and a tab became one."""
    assert called(capsys, "show", "two  spaces\tand a tab") == (
        2,
        "membound: no run 'two  spaces\\tand a tab': there are no runs in results/runs yet; `membound run` makes one\n",
    )
    status, out = called(capsys, "export", "a  b\tc", "x.csv", "--out", "d  e")
    assert (status, "there are no runs in d  e yet" in out) == (2, True)


def test_a_console_shows_text_and_keeps_its_own_control_of_the_terminal() -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, force_terminal=True, width=200, color_system=None)
    console.print(STEERING, style="bold")
    assert visible(STEERING.translate(DROPPED)) in file.getvalue()
    console.show_cursor(False)
    assert "\x1b[?25l" in file.getvalue()


def test_the_end_of_a_line_in_a_text_begins_no_line() -> None:
    """In a string, a title, a cell, and a styled cell, whose width is measured before it is rendered."""
    name = "a\nerror: b"
    table = Table("backend", name, box=None, title=name)
    table.add_row(name, "1")
    table.add_row(Text(name, style="bold"), Text.assemble("x", (name, "red")))
    console = PlainConsole(file=io.StringIO(), width=60, color_system=None)
    console.print(name)
    console.print(Group(Text("two\nlines", style="red"), table))
    shown = console.file.getvalue().split("\n")
    assert [line.strip() for line in shown if line.strip()] == [
        r"a\nerror: b",
        r"two\nlines",
        r"a\nerror: b",
        r"backend      a\nerror: b",
        r"a\nerror: b  1",
        r"a\nerror: b  xa\nerror: b",
    ]


def test_what_an_encoding_lacks_becomes_an_escape() -> None:
    assert visible("\u00e4\u2013", "ascii") == r"\xe4\u2013"
    assert visible("tab\tand\nline") == "tab\tand\nline"
    steering = "a\x1b[2Jb\x9bc\u202ed\re\ud800"
    assert visible(steering) == r"a\x1b[2Jb\x9bc\u202ed\re\ud800"
    assert as_markdown("a\n`b` | <c> & [d](e)") == "a &#96;b&#96; | &lt;c&gt; &amp; [d]&#40;e)"


@pytest.mark.parametrize(
    "text", ["::error::x", "::Warning file=a.py,line=1::", "##vso[task.x]y", "##[group]"]
)
def test_what_ci_systems_obey_is_escaped_wherever_a_line_may_be_broken(text: str) -> None:
    file = io.StringIO()
    PlainConsole(file=file, width=40).print(f"{'a' * 40}{text}")
    assert file.getvalue().startswith(f"{'a' * 40}\n\\x{ord(text[0]):x}")


def test_names_in_c_are_no_commands() -> None:
    for text in ("at::native::error", "std::vector::debugger", "::1", "## heading", "::error"):
        assert printable(text) == text


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_name_with_the_end_of_a_line_stays_in_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What follows it would stand alone: a CI system takes `::error::` at the start of a line for a command of its own."""
    assert in_one_line("a\n::error::b\x1b") == r"a\n::error::b\x1b"
    runs = folder / "new\n::error::line"
    runs.mkdir()
    path = write(runs / "a.jsonl", rows_of("x"))
    (runs / "pipe\n::error::.jsonl").symlink_to("nothing")
    for arguments in (
        ("export", str(path), str(runs / "a.csv")),
        ("import", str(path), "--out", str(runs / "imported"), "--json"),
        ("report", str(runs), "--html", str(runs / "a.html")),
    ):
        status, out = called(capsys, *arguments)
        assert status in (0, 2), out
        assert not any(line.startswith("::") for line in out.split("\n")), out
    assert r"new\n\x3a:error::line/pipe\n\x3a:error::.jsonl is passed by" in out
    assert rf"written: {folder}/new\n\x3a:error::line/a.html" in out


@pytest.mark.parametrize("options", [(), ("--markdown",), ("--json",), ("--ceilings",)])
def test_a_terminal_that_knows_ascii_alone_gets_escapes(folder: Path, options: tuple[str, ...]) -> None:
    path = write(folder / "a.jsonl", rows_of("\u00e4\u4e2d"))
    done = subprocess.run(
        [sys.executable, "-m", "membound", "show", str(path), *options],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u4e2d" in done.stdout


@pytest.mark.parametrize(("redirection", "words"), [(">/dev/full", "No space left"), (">&-", "is closed")])
def test_output_that_cannot_be_written_is_one_line(folder: Path, redirection: str, words: str) -> None:
    path = write(folder / "a.jsonl", rows_of("x"))
    command = f"exec {sys.executable} -m membound show {path} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("membound: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_reader_that_goes_away_ends_the_command_without_a_word(folder: Path) -> None:
    path = write(folder / "a.jsonl", [row for i in range(400) for row in rows_of(f"x{i}")])
    command = f"{sys.executable} -m membound show {path} --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    buffered = os.environ | {
        "PYTHONUNBUFFERED": ""
    }  # without a buffer Python overlooks that half was written
    done = subprocess.run(["bash", "-c", command], env=buffered, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "[")
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


@pytest.mark.slow
def test_files_are_utf8_in_a_locale_that_knows_ascii_alone(folder: Path) -> None:
    """Before, a page with one minus sign ended the command in a traceback."""
    (folder / "claim-x.jsonl").write_text(
        "\n".join(
            line.to_json() for line in (meta(machine={"cpu": "Pentium\N{REGISTERED SIGN}"}), seen(1e-3))
        ),
        encoding="utf-8",
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "membound", "claim-report", "claim-x.jsonl", "--markdown", "x.md"],
        env=os.environ | locale,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "written: x.md\n")
    assert re.search("[^\0-\x7f]", (folder / "x.md").read_text(encoding="utf-8"))
