"""Every command that shows what files say, with hostile text in all of it, and on streams that are closed, full or ASCII."""

from __future__ import annotations

import csv
import html
import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fleet_rows import fleet_rows
from hostile_text import HEADING, HOSTILE, TAGS, rows_of
from observations import meta, seen
from report_rows import report_rows
from rows import write
from typer.main import get_command

from membound.bench import cli
from membound.bench.planning import coverage, inventory
from membound.bench.planning.coverage import Answers
from membound.bench.planning.measured import NEEDED
from membound.results.alternated import in_turn
from membound.results.pairs import SIDES
from membound.results.plain_text import visible

SHOWN = {
    "show": [
        "show a.jsonl",
        "show a.jsonl --ceilings",
        "show a.jsonl --markdown",
        "show a.jsonl --json",
        "show points.jsonl",
        "show tokens.jsonl --tokens",
    ],
    "compare": [
        *("compare a.jsonl b.jsonl --force", "compare a.jsonl b.jsonl --force --by device"),
        *(
            "compare a.jsonl b.jsonl --force --by backend --markdown",
            "compare points.jsonl points.jsonl --json",
        ),
        *(
            "compare fleet.jsonl --fleet",
            "compare fleet.jsonl --fleet --markdown",
            "compare fleet.jsonl --fleet --json",
        ),
    ],
    "report": [
        "report a.jsonl b.jsonl claims points.jsonl",
        "report a.jsonl claims points.jsonl --json",
        "report a.jsonl claims points.jsonl fleet.jsonl --html page.html",
        "report a.jsonl claims points.jsonl --markdown report.md",
    ],
    "import": ["import google.json --out imported", "import google.json a.jsonl --json --out imported"],
    "export": [f"export a.jsonl out.{name}" for name in ("csv", "md", "xml", "prom", "jsonl")],
    "list": ["list --out ."],
    "published": ["published .", "published . --json"],
    "claim-report": [
        *("claim-report claims", "claim-report claims --json", "claim-report claims --markdown claim.md"),
        "claim-report claims --html claim.html",
    ],
    "gate": [
        "gate --base turns.jsonl --head turns.jsonl",
        "gate --base turns.jsonl --head turns.jsonl --markdown -",
    ],
    "hardware": [
        "hardware --hardware devices.toml mine",
        "hardware --hardware devices.toml mine h100 --json",
        "hardware --here a.jsonl",
        "hardware --here a.jsonl --json",
    ],
    "predict": [
        "predict step:model=llama-3-8b --on mine --hardware devices.toml",
        "predict step:model=llama-3-8b --on mine --hardware devices.toml --json",
        "predict --validate --rows rows.csv",
        "predict --validate --rows rows.csv --json",
    ],
    "cost": [
        "cost step:model=llama-3-8b --on mine --hardware devices.toml --price 2",
        "cost step:model=llama-3-8b --on h100 --price 2 --from points.jsonl",
        "cost step:model=llama-3-8b --on h100 --price 2 --from points.jsonl --json",
    ],
    "plan": ["plan --model llama-3-8b --tokens-per-day 1e9 --on mine --hardware devices.toml --price 2"],
    "env": ["env list", "env list --json"],
    "coverage": ["coverage", "coverage --markdown", "coverage --json"],
}
"""Command lines by command."""
ELSEWHERE = {
    *(
        "run",
        "duel",
        "claim",
        "load",
        "noise",
        "soak",
        "fleet",
    ),  # measure, and show rows as `show` does
    *("null-server", "export-model", "cuda-build"),  # show no text that comes from outside
}
PAGES = (".html", ".md")
TOLD: list[Answers] = []
"""What backends say that they support."""


def files_of(text: str) -> None:
    """What the commands above read, in the current folder, with the text wherever a stranger can put one."""
    for name in "ab":
        write(Path(f"{name}.jsonl"), [replace(row, run_id=f"{name} {text}") for row in rows_of(text)])
    write(Path("fleet.jsonl"), fleet_rows(10, slow={4: 0.9}, names={4: text, 5: f"{text} 5"}, odd=text))
    points = [row for row in report_rows() if row.kind == "serving"]
    write(Path("points.jsonl"), [replace(row, device=text, run_id=text, command=text) for row in points])
    (timed,) = (row for row in rows_of(text) if row.backend == f"a{text}:cpu" and row.kind == "case")
    pairs = [
        in_turn(replace(timed, backend="a:cpu", reason=text), side, number)
        for number in range(8)
        for side in SIDES
    ]
    write(Path("turns.jsonl"), pairs)
    Path("claims").mkdir()
    about = meta(machine={"cpu": text}, claim_id=f"claim {text}")
    lines = [about, *(seen(1e-3, backend=f"a{text}:cpu", replicate=n, arm=text) for n in range(3))]
    lines.append(seen(None, status="crashed", reason=text, work=text))
    Path("claims/claim-x.jsonl").write_text("\n".join(line.to_json() for line in lines), encoding="utf-8")
    google = {"context": {"host_name": text, "executable": text}}
    google["benchmarks"] = [{"name": f"b{text}", "run_type": "iteration", "iterations": 1, "real_time": 1.0}
                            | {"cpu_time": 1.0, "time_unit": "ms", "label": text}]  # fmt: skip
    Path("google.json").write_text(json.dumps(google), encoding="utf-8")
    write(
        Path("tokens.jsonl"),
        [replace(timed, backend=f"{name} {text}:cpu", config={"greedy_tokens": [7]}) for name in "ab"],
    )
    good = {"id": text, "model": f"Llama-3-70B {text}", "params_b": "70.6", "weights": f"f16 {text}"}
    good |= {"batch_or_concurrency": "1", "input_tokens": text, "output_tokens": text, "hardware": "h100"}
    good |= {"n_devices": "2", "engine": text, "value": "16", "unit": "tok/s", "kind": text, "source": text}
    with open("rows.csv", "w", encoding="utf-8", errors="replace", newline="") as file:
        table = csv.DictWriter(file, NEEDED)
        table.writeheader()
        table.writerows([good | {"date": text}, good | {"hardware": text}, good | {"weights": text}])
    quoted = json.dumps(text.replace("\udc80", "?").replace("\x7f", "\x80"), ensure_ascii=False)
    device = f'[device.mine]\nname = {quoted}\nkind = "gpu"\nbandwidth_gb_per_s = 900\nmemory_gb = 48\nf16_tflops = 180\n'
    Path("devices.toml").write_text(device, encoding="utf-8")
    TOLD[:] = [
        Answers(
            f"a{text}:cpu",
            True,
            True,
            refused=dict.fromkeys([work.spec for work in coverage.all_works()][:3], text),
        ),
        Answers(f"b{text}:cpu", reason=text, remedy=text),
    ]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(inventory, "probe", lambda *_: [])  # what runtimes are here takes a minute to find
    monkeypatch.setattr(coverage, "gather", lambda *_: TOLD)
    return tmp_path


@cache
def lines() -> list[list[str]]:
    return [line.split() for several in SHOWN.values() for line in several]


def status_of(arguments: list[str]) -> Any:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code


def test_every_command_is_here_or_shows_nothing_from_outside() -> None:
    app: Any = get_command(cli.app)
    assert {*app.commands} == {*SHOWN, *ELSEWHERE}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize(
    "texts", [HOSTILE[:6], HOSTILE[6:8], HOSTILE[8:]], ids=["markup", "steering", "pages"]
)
def test_no_output_obeys_what_a_file_says(
    folder: Path, capsys: pytest.CaptureFixture[str], texts: list[str]
) -> None:
    files_of(" ".join(texts))
    for arguments in lines():
        status = status_of(arguments)
        out, err = capsys.readouterr()
        assert status in (0, 1, 2), (arguments, out, err)
        assert status != 2 or arguments[0] == "gate" or err.count("\n") == 1, (arguments, err)
        assert "Traceback" not in err, (arguments, err)
        for said in (out, err):
            assert visible(said) == said, (arguments, "something steers a terminal")
            said.encode()
            assert not any(line.lstrip().startswith(HEADING) for line in said.split("\n")), (arguments, said)
        if "--json" in arguments and status == 0:
            json.loads(out)
        if "--markdown" in arguments:
            assert not any(tag in out for tag in TAGS), arguments
    written = [path for path in folder.rglob("*") if path.suffix in PAGES]
    assert len(written) >= 5
    for path in written:
        page = path.read_text(encoding="utf-8")
        assert visible(page) == page, path
        if path.suffix == ".md":
            assert not any(tag in page for tag in TAGS), path
        else:
            assert not any(text in page for text in texts if html.escape(text) != text), path


def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w", encoding="utf-8"))  # noqa: SIM115


def ascii_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, errors in (("stdout", "strict"), ("stderr", "backslashreplace")):  # as Python opens them
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("arguments", lines(), ids=" ".join)
@pytest.mark.parametrize("stream", [closed, full, ascii_alone])
def test_a_stream_that_takes_no_text_is_one_line(
    capsys: pytest.CaptureFixture[str],
    stream: Callable[[pytest.MonkeyPatch], None],
    arguments: list[str],
) -> None:
    files_of("\u00e4\u4e2d")
    usual = status_of(arguments)
    quiet = not capsys.readouterr().out
    for path in Path().glob("out.*"):
        path.unlink()
    shutil.rmtree("imported", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        stream(patch)
        status = status_of(arguments)
        if stream is ascii_alone:
            shown = sys.stdout.buffer.getvalue() + sys.stderr.buffer.getvalue()  # type: ignore[attr-defined]
    if stream is ascii_alone:
        assert status == usual
        assert b"Traceback" not in shown
    else:
        err = capsys.readouterr().err
        assert status == (usual if quiet and stream is full else 2), err
        assert "Traceback" not in err
        assert err.count("membound: ") == (0 if quiet and stream is full and usual == 0 else 1), err
