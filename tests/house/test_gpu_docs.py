"""The predictions in docs/gpu.md are what the command there prints, and what its sentences say of them is in its tables.

After kernels have changed: `python tests/house/test_gpu_docs.py` writes the tables anew; the sentences are for a person to read again.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
from pathlib import Path

import pytest

from membound.bench.cli import main
from membound.results.report.markdown import replaced

PAGE = Path(__file__).parents[2] / "docs/gpu.md"
MARKS = "predicted"


def arguments() -> list[str]:
    """Those of the command on the page, as a shell expands them."""
    (command,) = re.findall(
        r"^```sh\n(membound cuda-build --report --markdown .*?)```", PAGE.read_text(), re.M | re.S
    )
    listed = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True, timeout=10
    )
    return listed.stdout.split()[1:]


def printed() -> str:
    """What the command prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main(arguments())
    assert ended.value.code == 0
    return out.getvalue().strip() + "\n"


def cell(machine: str, work: str, kernel: str, column: str) -> str:
    """Of the tables on the page: the first row of a work whose kernel begins so."""
    (table,) = re.findall(rf"^{machine}, a copy.*?\n\n(.*?)\n\n", PAGE.read_text(), re.M | re.S)
    head, _, *rows = ([c.strip() for c in line.strip("|").split("|")] for line in table.splitlines())
    of = ""
    for row in rows:
        of = row[0].strip("`") or of
        if of.startswith(work) and row[1].startswith(kernel):
            return row[head.index(column)]
    raise AssertionError(f"the page has no {kernel} of {work} on {machine}")


@pytest.mark.slow
@pytest.mark.cuda_compile
def test_the_tables_are_what_the_command_prints() -> None:
    text = PAGE.read_text()
    assert replaced(text, MARKS, printed()) == text, "python tests/house/test_gpu_docs.py writes them anew"


@pytest.mark.parametrize(
    ("machine", "work", "kernel", "column", "said"),
    [],
)
def test_the_sentences_say_what_the_tables_say(
    machine: str, work: str, kernel: str, column: str, said: str
) -> None:
    figure = cell(machine, work, kernel, column)
    prose = re.sub(r"<!-- predicted -->.*?<!-- /predicted -->", "", PAGE.read_text(), flags=re.S)
    assert said.format(figure) in " ".join(prose.split())


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(), MARKS, printed()))
