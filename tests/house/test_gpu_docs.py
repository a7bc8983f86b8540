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
from membound.kernels.cuda.machine import KB, machines
from membound.kernels.cuda.prediction import PRODUCT, SMOOTHNESS, START_S, cycles_of_product
from membound.kernels.work import Linear, parse
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


LARGE, SMALL = "linear:n=28672,k=8192,m=", "linear:n=4096,k=4096,m="
STEP = ("step:", "all of the step")
H100, H200 = "H100 SXM", "H200"


@pytest.mark.parametrize(
    ("machine", "work", "kernel", "column", "said"),
    [
        (H100, f"{LARGE}64,weight=int4g32", "tensor", "share", "int4g32 the share is {}:"),
        (H100, f"{LARGE}64,weight=int4g32", "tensor", "issue", ": {} issue cycles,"),
        (H100, f"{LARGE}64,weight=int4g32", "tensor", "L1", "{} wavefronts, and"),
        (H100, f"{LARGE}64,weight=int4g32", "tensor", "tensor", "and {} cycles of the tensor cores"),
        (H100, f"{LARGE}64,weight=int4g32", "tensor", "registers", "The kernel's {} registers"),
        (H100, f"{LARGE}64,weight=int4g32", "tensor", "KB in flight", "{} KB are in flight"),
        (H100, f"{LARGE}64,weight=int4g128", "tensor", "share", "int4g128 is little better ({})"),
        (H100, f"{LARGE}64,weight=int4g128", "tensor", "share", "| 0.50 of a copy | {} |"),
        (H100, f"{LARGE}16,weight=int4g32", "tensor", "issue", "| 71 | {} |"),
        (H100, f"{LARGE}1,weight=int4g128", "tensor", "share", "(121 MB) {}."),
        (H100, f"{LARGE}1,weight=int4g128", "tensor", "issue", "| 42 | {} |"),
        (H100, f"{LARGE}1,weight=int8", "tensor", "issue", "| 22 | {} |"),
        (H100, f"{LARGE}64,weight=bf16", "tensor", "L1", "| 50, 41 | {},"),
        (H100, f"{LARGE}64,weight=bf16", "tensor", "issue", ", {} | | linear int4g128, m = 64"),
        (H100, f"{SMALL}4,weight=bf16", "dot", "share", "(34 MB) has {},"),
        (H100, f"{SMALL}4,weight=bf16", "dot", "L1", "| 80, 52 | {} |"),
        (H100, f"{SMALL}1,weight=bf16", "dot", "L1", "| 38, 27 | {} |"),
        (H100, *STEP, "launches", "the {} launches are expected"),
        (H100, *STEP, "launches", "| 323 | {} |"),
        (H100, *STEP, "share", "are expected to leave {},"),
        (H200, *STEP, "share", "on an H200 {}."),
        (H200, *STEP, "share", "| 0.75 | {} |"),
    ],
)
def test_the_sentences_say_what_the_tables_say(
    machine: str, work: str, kernel: str, column: str, said: str
) -> None:
    figure = cell(machine, work, kernel, column)
    prose = re.sub(r"<!-- predicted -->.*?<!-- /predicted -->", "", PAGE.read_text(), flags=re.S)
    assert said.format(figure) in " ".join(prose.split())


def test_what_is_called_less_than_a_half_is_less() -> None:
    shares = [
        cell(H200, f"{LARGE}64,weight={weight}", "tensor", "share") for weight in ("int4g32", "int4g128")
    ]
    assert "on an H200 both are below a half" in " ".join(PAGE.read_text().split())
    assert all(float(share) < 0.5 for share in shares)


def test_what_fewer_instructions_could_gain_ends_where_the_tensor_cores_are_the_limit() -> None:
    work, machine = parse(f"{LARGE}64,weight=int4g32"), machines("9.0a")[0]
    assert isinstance(work, Linear)
    of_weights = work.m * 2 * KB  # multiply-adds for each KB of two weights a byte
    tensor = of_weights / PRODUCT * cycles_of_product(machine)
    assert cell(H100, f"{LARGE}64,weight=int4g32", "tensor", "tensor") == f"{tensor:.0f}"
    memory_s = (work.traffic.weights_bytes + work.traffic.scales_bytes) / machine.copy_bytes_per_s
    slower = (1 + (tensor / machine.cycles_per_kb) ** SMOOTHNESS) ** (1 / SMOOTHNESS)
    most = memory_s / (memory_s * slower + START_S)
    assert f"fewer instructions would, up to {most:.2f}," in " ".join(PAGE.read_text().split())


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(), MARKS, printed()))
