"""How `.ci/gpu` shares out its time: each command has its part of $SECONDS_TOTAL, whatever that is; nothing is waited for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci/gpu"
SLACK_S = 40
"""More than the stages take here, of which none does anything."""
PYTHON = """#!/usr/bin/env bash
if [ "$1" = - ] && [[ ${2:-} == *devices.json ]]; then echo -n npu:0 >"$3"; fi
"""
TIMEOUT = """#!/usr/bin/env bash
[ "$1 $2 $3 $4" = "--signal INT --kill-after 10" ] || exit 9
shift 4
echo "$*" >>"$OUT/../limits"
shift
exec "$@"
"""
PARTS = {
    "membound list": 20 / 100 * 0.90,
    "python -": 20 / 100 * 0.50,
    "pytest -m gpu -k (ceiling": 22 / 80 * 0.95,
    "membound run": 34 / 58 * 0.95,
    "pytest -m gpu -k (not": 10 / 24 * 0.95,
    "membound run --replicates": 0.60,
    "membound claim": 0.95,
    "--benchmark-only": 0.95 / 2,
}
"""Of the whole, where no stage before has used anything: of the stage's share the command's; benchmarks have half a whole anew."""


@pytest.mark.parametrize(("total", "whole_suite"), [(899, False), (10_000, True)])
def test_every_command_has_its_part_of_the_time(tmp_path: Path, total: int, whole_suite: bool) -> None:
    for name, text in {"python": PYTHON, "timeout": TIMEOUT, "nvidia-smi": "#!/bin/sh\n"}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "OUT": str(tmp_path / "out"),
        "PYTHON": "python",
        "SECONDS_TOTAL": str(total),
        "BENCHMARKS": "1",
    }
    done = subprocess.run(
        ["bash", str(SCRIPT)], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert done.stderr == ""
    limits = (tmp_path / "limits").read_text().splitlines()
    assert len(limits) == len(PARTS), limits
    for line, (command, part) in zip(limits, PARTS.items(), strict=True):
        seconds, _, ran = line.partition(" ")
        assert command.partition(" --")[0] in ran
        assert part * (total - SLACK_S) - 2 <= int(seconds) <= part * total, line
    works, models = (line for line in limits if "membound run" in line)
    assert ("linear:" not in works) is whole_suite
    assert "step:" in models
