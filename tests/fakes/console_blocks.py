"""The commands of the documents with what they print: ```console blocks, each ``$ membound …`` and its output.

    python tests/fakes/console_blocks.py docs/*.md README.md

runs them and writes what they print now.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```console\n(.*?)^```", re.M | re.S)


def commands(block: str) -> list[tuple[str, str]]:
    """(command after ``membound``, the output below it) of a block."""
    parts = re.split(r"^\$ membound (.*)\n", block, flags=re.M)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def printed(command: str) -> str:
    """What a command prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "membound", *shlex.split(command)], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def renewed(text: str) -> str:
    """A document with what its commands print now."""

    def block(found: re.Match[str]) -> str:
        parts = [f"$ membound {command}\n{printed(command)}" for command, _ in commands(found[1])]
        return "```console\n" + "\n".join(parts) + "```"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
